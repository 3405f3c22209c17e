"""Schema of the mean effect of each removal."""

from stages.base.columns import count, number, optional_count, schema, text
from stages.heads.components import CONDITIONS, KINDS

_COMPONENT = {
    "step": count(),
    "unit": text(isin=KINDS),
    "perturbation": text(isin=CONDITIONS),
    "component": text(),
}


HEAD_IMPORTANCE = schema(
    "head_importance",
    _COMPONENT
    | {
        "layer": optional_count(),
        "head": optional_count(),
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
perturbation; a whole layer has no `head`, and noise neither `layer` nor `head`."""
