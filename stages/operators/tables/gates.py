"""Schema of the gates that operators and their baselines are held against."""

from stages.base.columns import count, number, schema, text

SOURCES = ("expression", "embedding", "residual", "attn_mean", "ov_weight", "random")
ADAPTORS = ("ridge", "arccos")
RULERS = ("right", "wrong", "shuffled")
GATES = (
    "trustworthiness",
    "random",
    "donor",
    "branch",
    "within",
    "p",
    "p_kinds",
    "beyond_expression",
    "beyond_embedding",
    "beyond_untrained",
)

OPERATOR_GATES = schema(
    "operator_gates",
    {
        "source": text(isin=SOURCES),
        "name": text(),
        "state": text(nullable=True),
        "adaptor": text(isin=ADAPTORS),
        "ruler": text(isin=RULERS),
        "gate": text(isin=GATES),
        "dimensions": count(1),
        "value": number(),
        "low": number(nullable=True),
        "high": number(nullable=True),
        "threshold": number(nullable=True),
        "passed": number(0, 1, nullable=True),
        "n_anchors": count(2),
        "n_donors": count(2),
    },
    ["source", "name", "state", "adaptor", "ruler", "gate", "dimensions"],
)
"""`random`, `donor`, `branch`: Spearman correlation of distances in the adaptor's coordinates and
on the ruler, of anchors of one donor, over pairs of which one at least was held out, averaged over
donors; `within`: over pairs of a branch that were both held out with it. `low`, `high`: interval
over donors and, of `branch`, `within` and `beyond_*` in all dimensions, over branches too, since
donors see the same arrangement of a branch's kinds. `ruler`: the right one; the same with its kinds
renamed in all donors alike (`wrong`; mean over such, `low`, `high`: their quantiles); labels
shuffled within each donor (`shuffled`, likewise). `p`: of the donor holdout among shuffled labels;
`p_kinds`: of `within` among wrong rulers; `low`: the smallest p that so many allow. `beyond_*`: by
how much `within` exceeds that of raw expression, of the gene embedding of this state, of the same
in the untrained model; the gate is an interval above 0. `passed`: 1 or 0."""
