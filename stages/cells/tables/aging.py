"""Schemas of old against young."""

from stages.base.columns import count, flag, number, schema, text
from stages.cells.tables.metrics import CELLS
from stages.inputs.tables import TISSUE
from stages.measurement.concentration import QUADRANTS

AGING = schema(
    "aging",
    TISSUE
    | {
        "cells": text(isin=CELLS),
        "metric": text(),
        "n_young": count(1),
        "n_old": count(1),
        "young_median": number(),
        "old_median": number(),
        "change": number(),
        "change_low": number(),
        "change_high": number(),
        "shift": number(),
        "shift_low": number(nullable=True),
        "shift_high": number(nullable=True),
        "shift_confidence": number(0, 1, nullable=True),
        "mann_whitney_u": number(0),
        "mann_whitney_p": number(0, 1),
        "mann_whitney_p_smallest": number(0, 1),
        "mann_whitney_q": number(0, 1),
        "within_sex_p": number(0, 1, nullable=True),
        "within_sex_p_smallest": number(0, 1, nullable=True),
        "within_sex_n": count(),
        "within_sex_exact": flag(),
        "quadrant": text(isin=QUADRANTS),
        "emphasised": flag(),
    },
    ["cohort", "platform", "tissue", "cells", "metric"],
)
"""Old minus young. `change` is the difference of the medians with its exact-bootstrap interval;
`shift` the Hodges-Lehmann estimate with its exact rank interval (empty where the groups are too
small for one). `emphasised` is of the direction: of both metrics of the plane the interval leaves
out zero and the exact p is small, which it can be only where `mann_whitney_p_smallest` is."""


NOT_COMPARED = schema(
    "not_compared",
    TISSUE | {"n_young": count(), "n_old": count(), "reason": text()},
    ["cohort", "platform", "tissue"],
)
"""Tissues without enough animals in both groups."""
