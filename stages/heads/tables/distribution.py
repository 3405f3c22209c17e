"""Schemas of how effects are distributed."""

from stages.base.columns import count, number, schema, text
from stages.heads.components import CONDITIONS, KINDS

FAMILIES = (
    "normal",
    "laplace",
    "student_t",
    "gamma",
    "lognormal",
    "gamma_tail",
    "gamma_tail_cut",
)


_COMPONENTS = {
    "unit": text(isin=KINDS),
    "perturbation": text(isin=CONDITIONS),
}


HEAD_DISTRIBUTION = schema(
    "head_distribution",
    {"state": text(), "position": number(0)}
    | _COMPONENTS
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
    ["state", *_COMPONENTS, "family"],
)
"""Maximum-likelihood fits to the effects in a state; gamma and lognormal, which start at zero, only
where every effect is positive. `shape`: degrees of freedom of Student's t, shape of gamma, standard
deviation of the logarithm; `delta_aic`: above the best of the families of all effects, of which the
tails are none."""


HEAD_GRANULARITY = schema(
    "head_granularity",
    {"state": text(), "position": number(0)}
    | _COMPONENTS
    | {
        "n": count(1),
        "mean_delta_nats": number(),
        "mean_abs_delta_nats": number(0),
        "median_abs_delta_nats": number(0),
        "share_deleterious": number(0, 1),
        "loss_base": number(0),
    },
    ["state", *_COMPONENTS],
)
"""How much a removal of each size costs: distributed noise, heads, whole layers."""
