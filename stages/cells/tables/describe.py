"""Schemas of what the files of cells hold."""

from stages.base.columns import count, flag, schema, text
from stages.inputs.tables import AGE_GROUPS, SAMPLE, SAMPLE_KEY, TISSUE

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
        "age_group": text(isin=AGE_GROUPS),
        "n_female": count(),
        "n_male": count(),
        "n_unknown_sex": count(),
        "n_pooled": count(),
        "sex_confounded": flag(),
    },
    ["cohort", "platform", "tissue", "age_group"],
)
"""Animals by age group and sex; confounded: no sex has both a young and an old animal (pooled
labels left out)."""
