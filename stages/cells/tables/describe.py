"""Schemas of what the files of cells hold."""

from stages.base.columns import count, flag, schema, text
from stages.inputs.tables import GROUPS, SAMPLE, SAMPLE_KEY, TISSUE

SAMPLES = schema(
    "samples",
    SAMPLE | {"n_cells": count(1), "n_unannotated": count(), "n_types": count(), "pooled": flag()},
    SAMPLE_KEY,
)
"""What each file holds: one row a sample (an animal's cells of one tissue)."""


CONFOUNDING = schema(
    "confounding",
    TISSUE
    | {
        "group": text(isin=GROUPS),
        "n_female": count(),
        "n_male": count(),
        "n_unknown_sex": count(),
        "n_pooled": count(),
        "sex_confounded": flag(),
    },
    ["cohort", "platform", "tissue", "group"],
)
"""Samples by group and sex; confounded: no sex is in both groups (pooled labels left out)."""
