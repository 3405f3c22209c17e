"""Schema of our effects beside published ones."""

from stages.base.columns import count, number, schema, text

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
