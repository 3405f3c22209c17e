"""Schemas of the share of each cell type, and of what was left out."""

from stages.base.columns import count, number, schema, text
from stages.inputs.tables import SAMPLE, SAMPLE_KEY

RULES = ("unannotated", "unknown_animal", "pooled_label", "too_few_cells")


PROPORTIONS = schema(
    "proportions",
    SAMPLE | {"cell_type": text(), "n_cells": count(1), "proportion": number(0, 1)},
    [*SAMPLE_KEY, "cell_type"],
)
"""Share of each cell type in each sample; absent types have no row."""


EXCLUSIONS = schema(
    "exclusions",
    {
        "cohort": text(),
        "platform": text(),
        "tissue": text(),
        "animal": text(),
        "rule": text(isin=RULES),
        "n_cells": count(1),
        "detail": text(),
    },
    [*SAMPLE_KEY, "rule"],
)
"""Every cell that does not count, by the rule that left it out."""
