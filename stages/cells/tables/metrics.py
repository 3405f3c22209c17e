"""Schema of the numbers of each sample."""

from stages.base.columns import count, number, schema, text
from stages.inputs.tables import SAMPLE, SAMPLE_KEY

CELLS = ("all", "rarefied")


METRICS = schema(
    "metrics",
    SAMPLE
    | {
        "cells": text(isin=CELLS),
        "n_cells": count(1),
        "gini": number(0, 1),
        "gini_corrected": number(0, 1 + 1e-12, nullable=True),
        "effective_number": number(1 - 1e-12),
        "effective_number_miller_madow": number(1 - 1e-12),
        "effective_number_chao_shen": number(1 - 1e-12),
        "richness": number(1),
        "evenness": number(0, 1 + 1e-12, nullable=True),
        "hill_0": number(1),
        "hill_0_5": number(1 - 1e-12),
        "hill_1": number(1 - 1e-12),
        "hill_2": number(1 - 1e-12),
    },
    [*SAMPLE_KEY, "cells"],
)
"""The numbers of each sample, from all its cells and from equal numbers of cells (mean over the
draws)."""
