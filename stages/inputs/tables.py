"""Schemas of annotated cells, and the columns that name a sample."""

from stages.base.columns import count, number, schema, text

GROUPS = ("reference", "other", "compared")
TWO_GROUPS = ("reference", "compared")
"""Those that are compared; the others are shown."""


# The label of cells whose animal is not stated; the proportions stage leaves them out.
UNKNOWN_ANIMAL = "(unknown)"


SAMPLE_KEY = ["cohort", "platform", "tissue", "animal"]


SAMPLE = {
    "cohort": text(),
    "platform": text(),
    "tissue": text(),
    "animal": text(),
    "sex": text(nullable=True),
    "block": text(nullable=True),
    "age_months": number(0, nullable=True),
    "condition": text(nullable=True),
    "group": text(isin=GROUPS),
}
"""What is known of a sample. `block`: what it must share with another to be exchanged with it; of
an animal under several conditions that is the animal, and each condition is a sample of its own,
whose `animal` bears both names. `condition`: the label that decides the group, empty where ages
do."""


TISSUE = {"cohort": text(), "platform": text(), "tissue": text()}


COUNTS = schema(
    "counts",
    SAMPLE | {"cell_type": text(nullable=True), "n_cells": count(1)},
    [*SAMPLE_KEY, "cell_type"],
)
"""Annotated cells of every sample; an empty cell type counts the cells without an annotation."""
