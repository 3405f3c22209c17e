"""Schema of the trend over all ages."""

from stages.base.columns import count, flag, number, schema, text
from stages.cells.tables.metrics import CELLS
from stages.inputs.tables import TISSUE

TREND = schema(
    "trend",
    TISSUE
    | {
        "cells": text(isin=CELLS),
        "metric": text(),
        "n_animals": count(1),
        "n_ages": count(2),
        "spearman": number(-1, 1),
        "p": number(0, 1),
        "exact": flag(),
        "q": number(0, 1),
        "slope": number(),
        "slope_low": number(nullable=True),
        "slope_high": number(nullable=True),
    },
    [*TISSUE, "cells", "metric"],
)
"""Rank correlation of each number with age over all animals, with its permutation p, and the
Theil-Sen slope per month with its interval. `q`: p adjusted over the tissues of a cohort and
platform."""
