"""Schema of when heads begin to matter."""

from stages.base.columns import count, number, schema, text
from stages.heads.components import CONDITIONS

HEAD_CLASS_NAMES = ("born_critical", "emergent", "growing", "transient", "never_critical")


HEAD_CLASSES = schema(
    "head_classes",
    {
        "perturbation": text(isin=CONDITIONS),
        "layer": count(),
        "head": count(),
        "head_class": text(isin=HEAD_CLASS_NAMES),
        "n_critical_states": count(),
        "first_critical_state": text(nullable=True),
        "relative_first": number(),
        "relative_last": number(),
        "relative_largest": number(),
        "state_largest": text(),
    },
    ["perturbation", "layer", "head"],
)
"""The class of each head along training. `relative_*`: effect over the baseline loss, positive
where removal harms; empty `first_critical_state`: never critical."""
