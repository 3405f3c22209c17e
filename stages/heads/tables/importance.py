"""Schema of the mean effect of each removal."""

from stages.base.columns import count, number, schema, text
from stages.heads.tables.effects import PERTURBATIONS, UNITS

_COMPONENT = {
    "step": count(),
    "unit": text(isin=UNITS),
    "perturbation": text(isin=PERTURBATIONS),
    "layer": count(-1),
    "head": count(-1),
    "draw": count(),
}


HEAD_IMPORTANCE = schema(
    "head_importance",
    _COMPONENT
    | {
        "delta_loss_nats": number(),
        "standard_error_nats": number(0, nullable=True),
        "standard_error_draws_nats": number(0, nullable=True),
        "n_sequences": count(1),
        "n_draws": count(1),
        "loss_base": number(0),
        "rank": count(1),
    },
    list(_COMPONENT),
)
"""Mean effect of each removal, with its standard error over sequences and, for random
perturbations, over draws. `rank` 1 has the largest absolute effect of its step, unit and
perturbation; `draw` numbers the directions of the distributed noise and is 0 elsewhere."""
