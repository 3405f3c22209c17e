"""Schema of the types in which no substates are looked for."""

from stages.base.columns import count, schema, text
from stages.inputs.tables import TISSUE

SUBSTATES_NOT_COMPARED = schema(
    "substates_not_compared",
    TISSUE
    | {
        "cell_type": text(),
        "n_cells": count(1),
        "n_reference": count(),
        "n_compared": count(),
        "reason": text(),
    },
    [*TISSUE, "cell_type"],
)
"""Cell types with too few cells or animals to look for substates in."""
