"""Schemas of how effects are distributed."""

from stages.base.columns import count, number, schema, text
from stages.heads.components import CONDITIONS, KINDS

FAMILIES = ("normal", "laplace", "student_t", "gamma_tail", "gamma_tail_cut")


_COMPONENTS_AT_STEP = {
    "step": count(),
    "unit": text(isin=KINDS),
    "perturbation": text(isin=CONDITIONS),
}


HEAD_DISTRIBUTION = schema(
    "head_distribution",
    _COMPONENTS_AT_STEP
    | {
        "family": text(isin=FAMILIES),
        "n": count(1),
        "location_nats": number(nullable=True),
        "scale_nats": number(0),
        "shape": number(0, nullable=True),
        "shape_low": number(0, nullable=True),
        "shape_high": number(0, nullable=True),
        "log_likelihood": number(),
        "aic": number(nullable=True),
        "delta_aic": number(0, nullable=True),
    },
    [*_COMPONENTS_AT_STEP, "family"],
)
"""Maximum-likelihood fits to the effects of a step. `shape`: degrees of freedom of Student's t,
shape of the gamma tails; `delta_aic`: above the best of the three families of all effects."""


HEAD_GRANULARITY = schema(
    "head_granularity",
    _COMPONENTS_AT_STEP
    | {
        "n": count(1),
        "mean_delta_nats": number(),
        "mean_abs_delta_nats": number(0),
        "median_abs_delta_nats": number(0),
        "share_deleterious": number(0, 1),
        "loss_base": number(0),
    },
    list(_COMPONENTS_AT_STEP),
)
"""How much a removal of each size costs: distributed noise, heads, whole layers."""
