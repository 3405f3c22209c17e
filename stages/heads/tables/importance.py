"""Schema of the mean effect of each removal."""

from stages.base.columns import count, number, optional_count, schema, text
from stages.heads.components import CONDITIONS, KINDS

HEAD_IMPORTANCE = schema(
    "head_importance",
    {
        "state": text(),
        "position": number(0),
        "unit": text(isin=KINDS),
        "perturbation": text(isin=CONDITIONS),
        "component": text(),
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
    ["state", "unit", "perturbation", "component"],
)
"""Mean effect of each removal, with its standard error over sequences and, for random
perturbations, over draws. `rank` 1 has the largest absolute effect of its state, unit and
perturbation; a whole layer has no `head`, and noise neither `layer` nor `head`."""
