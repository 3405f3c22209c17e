"""Schema of what the leading directions of a layer separate."""

from stages.base.columns import count, number, schema, text

FREQUENCY = "frequency"
STATISTICS = ("rho", "auroc", "same pole")

SEPARATION = schema(
    "separation",
    {
        "state": text(),
        "position": number(nullable=True),
        "layer": text(),
        "axis": count(1),
        "share": number(0, 1),
        "family": text(),
        "statistic": text(isin=STATISTICS),
        "set": text(nullable=True),
        "n_sets": count(),
        "n_items": count(1),
        "value": number(nullable=True),
        "beyond_frequency": number(nullable=True),
        "expected": number(nullable=True),
        "p": number(0, 1, nullable=True),
        "q": number(0, 1, nullable=True),
        "n_tests": count(1),
    },
    ["state", "layer", "axis", "family", "statistic"],
)
"""`axis`: a direction, from 1, with its `share` of the variance. `family` `frequency`, `statistic`
`rho`: absolute rank correlation with how often items were met. Of a family of sets: the `auroc` of
the `set` that lies farthest to one end (0.5: nowhere, 1: all at that end), against the others of
the family, and `beyond_frequency` where what log frequency explains of the axis is taken out; `same
pole`: share of the pairs of one set that lie both in the highest or both in the lowest items.
`expected`: its mean under permuted labels. `p`: permuted labels, the largest over the sets each
time (rho: of its distribution); `q`: adjusted over all `n_tests` of the table
(Benjamini-Hochberg)."""
