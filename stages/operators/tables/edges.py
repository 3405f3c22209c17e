"""Schema of what operators know of regulation within a programme."""

from stages.base.columns import count, number, schema, text

WAYS = ("factor to target", "target to factor", "both", "direction")

OPERATOR_EDGES = schema(
    "operator_edges",
    {
        "source": text(),
        "name": text(),
        "state": text(nullable=True),
        "way": text(isin=WAYS),
        "value": number(0, 1),
        "low": number(0, 1),
        "high": number(0, 1),
        "n_edges": count(1),
        "n_programmes": count(2),
    },
    ["source", "name", "state", "way"],
)
"""`value`: area under the curve by which the targets that a factor activates are told from other
genes of its own programme, averaged over factors and then over programmes; `low`, `high`: interval
over programmes. `way`: by the map from the factor to the gene, or back; `both` where the score has
no direction. `direction`: by the first less the second, which is off a half only if the map knows
which of two genes regulates the other beyond what it says of any factor and gene."""
