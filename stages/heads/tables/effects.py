"""Schema of what each removal costs on each sequence."""

from stages.base.columns import count, number, schema, text

UNITS = ("head", "layer", "noise")


PERTURBATIONS = ("zero", "mean", "mean_positional", "resample", "gaussian")


_COMPONENT = {
    "step": count(),
    "unit": text(isin=UNITS),
    "perturbation": text(isin=PERTURBATIONS),
    "layer": count(-1),
    "head": count(-1),
    "draw": count(),
}


EFFECTS_PER_SEQUENCE = schema(
    "effects",
    _COMPONENT
    | {
        "sequence": count(),
        "loss_base": number(),
        "loss_ablated": number(),
        "delta_loss_nats": number(),
    },
    [*_COMPONENT, "sequence"],
)
"""What each removal costs on each sequence, one Parquet file a checkpoint. `head` is -1 for layers;
`draw` counts the random draws of one head, or the directions of the distributed noise (whose layer
is -1)."""
