"""Schema of which known relations of genes a model holds, beside what needs none."""

from stages.base.columns import count, number, schema, text

STRUCTURES = schema(
    "structures",
    {
        "structure": text(),
        "statistic": text(isin=("auroc", "rho")),
        "source": text(isin=("model", "co-expression", "frequency")),
        "state": text(nullable=True),
        "layer": text(nullable=True),
        "value": number(nullable=True),
        "low": number(nullable=True),
        "high": number(nullable=True),
        "expected": number(nullable=True),
        "p": number(0, 1, nullable=True),
        "q": number(0, 1, nullable=True),
        "beyond": number(nullable=True),
        "beyond_low": number(nullable=True),
        "beyond_high": number(nullable=True),
        "n_positive": count(1),
        "n": count(2),
        "n_tests": count(1),
    },
    ["structure", "source", "state", "layer"],
)
"""`structure`: what is asked, of `n` pairs (or genes), `n_positive` of them in the relation;
`value`: the `auroc` of their similarity (0.5: chance), or its rank correlation `rho` with graded
strength. `source`: similarity as the cosine of two genes' vectors in a layer of a `state` of the
`model`, as `co-expression`, or as equal `frequency`. `low`, `high`: intervals over resampled genes.
`p`: permuted labels, whose mean gives what is `expected`; `q`: adjusted over all `n_tests`
(Benjamini-Hochberg). `beyond`: the value where what co-expression and the frequencies of both genes
explain of the similarity is taken out (of co-expression: frequencies alone)."""
