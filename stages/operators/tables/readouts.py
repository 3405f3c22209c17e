"""Schema of what is read off coordinates on the ruler, and of what making operators small costs."""

from stages.base.columns import count, number, schema, text

OPERATOR_READOUTS = schema(
    "operator_readouts",
    {
        "source": text(),
        "name": text(),
        "state": text(nullable=True),
        "through": text(isin=("ruler", "features")),
        "endpoint": text(),
        "value": number(),
        "low": number(),
        "high": number(),
        "loss": number(nullable=True),
        "p": number(0, 1, nullable=True),
        "q": number(0, 1, nullable=True),
        "n_parameters": count(),
        "n_bytes": count(),
        "n_donors": count(2),
    },
    ["source", "name", "state", "through", "endpoint"],
)
"""One row a candidate and endpoint. `through`: what probes read, coordinates on the ruler or the
features as they are. `endpoint`: ``depth`` (Spearman correlation with the cells'
place along their order), ``kind`` (balanced accuracy), or two kinds told from one another (area
under the curve), in cells of donors that were held out, averaged over donors; `low`, `high`:
interval over donors. `loss`: what the endpoint loses against the pooled operator of the same
kind, with the p of the signed-rank test over donors and q over all such rows (Benjamini-Hochberg).
`n_parameters`, `n_bytes` (float32): what has to be kept to make the features; the probes behind
them not counted."""
