"""Schemas of annotated cells, and the columns that name a sample."""

from stages.base.columns import count, number, schema, text

AGE_GROUPS = ("young", "middle", "old")


# The label of cells whose animal is not stated; the proportions stage leaves them out.
UNKNOWN_ANIMAL = "(unknown)"


SAMPLE_KEY = ["cohort", "platform", "tissue", "animal"]


SAMPLE = {
    "cohort": text(),
    "platform": text(),
    "tissue": text(),
    "animal": text(),
    "sex": text(nullable=True),
    "age_months": number(0),
    "age_group": text(isin=AGE_GROUPS),
}


TISSUE = {"cohort": text(), "platform": text(), "tissue": text()}


COUNTS = schema(
    "counts",
    SAMPLE | {"cell_type": text(nullable=True), "n_cells": count(1)},
    [*SAMPLE_KEY, "cell_type"],
)
"""Annotated cells of every sample; an empty cell type counts the cells without an annotation."""
