"""Schema of how far a wrong reconstruction of animals could move a change."""

from stages.base.columns import count, number, schema, text
from stages.inputs.tables import TISSUE

RECONSTRUCTION = schema(
    "reconstruction",
    TISSUE
    | {
        "fault": text(),
        "n": count(1),
        "d_gini_min": number(),
        "d_gini_median": number(),
        "d_gini_max": number(),
        "d_number_min": number(),
        "d_number_median": number(),
        "d_number_max": number(),
        "keeps_direction": number(0, 1),
    },
    [*TISSUE, "fault"],
)
"""Of every arm whose animals are reconstructed: old minus young of both numbers over all `n` single
faults of a kind, and the share of them that keeps the direction of the animals as they stand
(`none`)."""
