"""Schemas of published effects, and of ours beside them."""

from stages.base.columns import count, number, schema, text

COMPANION_HEADS = schema(
    "companion_heads",
    {
        "checkpoint": count(),
        "layer": count(),
        "head": count(),
        "loss_base": number(0),
        "loss_ablated": number(0),
    },
    ["checkpoint", "layer", "head"],
)
"""The companion's mean losses in nats per token, of the intact model and with one head set to zero,
at each training step."""

COMPANION_AGREEMENT = schema(
    "companion_agreement",
    {
        "state": text(),
        "position": number(0),
        "n_heads": count(2),
        "spearman": number(-1, 1, nullable=True),
        "spearman_abs": number(-1, 1, nullable=True),
        "largest_difference_nats": number(0),
        "largest_layer": count(),
        "largest_head": count(),
        "gini": number(0, 1, nullable=True),
        "gini_companion": number(0, 1, nullable=True),
        "gini_difference": number(-1, 1, nullable=True),
        "effective_number": number(0, nullable=True),
        "effective_number_companion": number(0, nullable=True),
        "effective_number_difference": number(nullable=True),
        "loss_base": number(0),
        "loss_base_companion": number(0),
    },
    ["state"],
)
"""Our effects beside those of the companion study, over the heads that both have. Empty where there
is nothing to compare with."""
