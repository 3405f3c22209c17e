"""Schemas of first-order attribution and of what is made of it."""

from stages.base.columns import count, number, schema, text
from stages.heads.components import CONDITIONS, KINDS

ATTRIBUTION = schema(
    "attribution",
    {
        "state": text(),
        "layer": count(),
        "head": count(),
        "sequence": count(),
        "loss_base": number(),
        "first_order_nats": number(),
        "fisher": number(0),
        "size": number(0),
    },
    ["state", "layer", "head", "sequence"],
)
"""Cheap facts about every head and sequence from one forward and backward pass: the first-order
effect of a removal, the sum over positions of its squared terms, and the head's size in the
residual stream. One Parquet file a checkpoint."""


_COMPONENTS = {
    "unit": text(isin=KINDS),
    "perturbation": text(isin=CONDITIONS),
}


HEAD_CONTROL_VARIATE = schema(
    "head_control_variate",
    {"state": text(), "position": number(0)}
    | _COMPONENTS
    | {
        "n_removals": count(1),
        "n_fitted": count(),
        "n_sequences": count(2),
        "n_exact": count(2),
        "n_certain": count(),
        "r2_median": number(None, 1),
        "r2_smallest": number(None, 1),
        "equivalent_sequences": number(0, nullable=True),
    },
    ["state", *_COMPONENTS],
)
"""How well the effects of most sequences were predicted from those of `n_exact`: out-of-fold R^2
over the removals, and the median number of exact sequences with the same standard error. Empty
where every effect is exact."""


HEAD_SCREEN = schema(
    "head_screen",
    {
        "state": text(),
        "position": number(0),
        "perturbation": text(isin=CONDITIONS),
        "n_heads": count(2),
        "n_sequences": count(2),
        "spearman": number(-1, 1, nullable=True),
        "spearman_low": number(-1, 1, nullable=True),
        "spearman_high": number(-1, 1, nullable=True),
        "spearman_abs": number(-1, 1, nullable=True),
        "spearman_abs_low": number(-1, 1, nullable=True),
        "spearman_abs_high": number(-1, 1, nullable=True),
        "n_top": count(1),
        "n_top_shared": count(),
        "gini": number(0, 1, nullable=True),
        "gini_first_order": number(0, 1, nullable=True),
        "sum_abs_delta_nats": number(0),
        "sum_abs_first_order_nats": number(0),
        "r2_median": number(0, 1, nullable=True),
    },
    ["state", "perturbation"],
)
"""First-order attribution beside the effects of removal: rank correlation over heads with its
interval over sequences, how many of the heads with the largest effects it names, both
concentrations, and the median over heads of the squared correlation over sequences."""
