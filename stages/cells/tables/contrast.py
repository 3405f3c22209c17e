"""Schemas of one group against another."""

from stages.base.columns import count, flag, number, schema, text
from stages.cells.tables.metrics import CELLS
from stages.inputs.tables import TISSUE
from stages.measurement.concentration import QUADRANTS

CONTRAST = schema(
    "contrast",
    TISSUE
    | {
        "cells": text(isin=CELLS),
        "metric": text(),
        "n_reference": count(1),
        "n_compared": count(1),
        "paired": flag(),
        "reference_median": number(),
        "compared_median": number(),
        "change": number(),
        "change_low": number(),
        "change_high": number(),
        "shift": number(),
        "shift_low": number(nullable=True),
        "shift_high": number(nullable=True),
        "shift_confidence": number(0, 1, nullable=True),
        "rank_statistic": number(0),
        "rank_p": number(0, 1),
        "rank_p_smallest": number(0, 1),
        "rank_q": number(0, 1),
        "within_block_p": number(0, 1, nullable=True),
        "within_block_p_smallest": number(0, 1, nullable=True),
        "within_block_n": count(),
        "within_block_exact": flag(),
        "quadrant": text(isin=QUADRANTS),
        "emphasised": flag(),
    },
    ["cohort", "platform", "tissue", "cells", "metric"],
)
"""Compared minus reference. `change` is the difference of the medians, or in pairs the median of
the differences, with its exact-bootstrap interval; `shift` the Hodges-Lehmann estimate with its
exact rank interval (empty where the groups are too small for one). `rank_statistic` is U of
Mann and Whitney, or in pairs Wilcoxon's sum of positive ranks; `within_block` exchanges samples
within pairs, or within sexes and blocks. `emphasised` is of the direction: of both metrics of the
plane the interval leaves out zero and the exact p is small, which it can be only where
`rank_p_smallest` is."""


NOT_COMPARED = schema(
    "not_compared",
    TISSUE | {"n_reference": count(), "n_compared": count(), "reason": text()},
    ["cohort", "platform", "tissue"],
)
"""Tissues without enough animals in both groups."""
