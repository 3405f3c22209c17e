"""Schemas of the tables on cells and their composition."""

from stages.tables.columns import count, flag, number, schema, text

AGE_GROUPS = ("young", "middle", "old")
QUADRANTS = ("crystallize", "disperse", "mixed")
RULES = ("unannotated", "unknown_animal", "pooled_label", "too_few_cells")
CELLS = ("all", "rarefied")
# The row of a tissue's drivers that is no cell type: types that appeared or vanished.
NUMBER_OF_TYPES = "(number of types)"
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

TRUTH = schema(
    "truth",
    TISSUE
    | {
        "metric": text(),
        "change_of_mean_composition": number(),
        "change_of_medians": number(),
    },
    ["cohort", "platform", "tissue", "metric"],
)
"""Known truth of simulated cohorts: the change between the two mean compositions, and the
difference of the medians over a very large population of animals with as many cells as the
simulated ones. Empty for real inputs."""

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
    },
    ["cohort", "platform", "tissue", "cells", "metric"],
)
"""Old minus young. `change` is the difference of the medians with its exact-bootstrap interval;
`shift` the Hodges-Lehmann estimate with its exact rank interval (empty where the groups are too
small for one)."""

NOT_COMPARED = schema(
    "not_compared",
    TISSUE | {"n_young": count(), "n_old": count(), "reason": text()},
    ["cohort", "platform", "tissue"],
)
"""Tissues without enough animals in both groups."""

CONCORDANCE = schema(
    "concordance",
    {
        "tissue": text(),
        "metric": text(),
        "change_first": number(),
        "change_first_low": number(),
        "change_first_high": number(),
        "change_second": number(),
        "change_second_low": number(),
        "change_second_high": number(),
        "same_sign": flag(),
    },
    ["tissue", "metric"],
)
"""The change of each tissue on the two platforms, first and second as the settings name them."""

CONCORDANCE_SUMMARY = schema(
    "concordance_summary",
    {
        "metric": text(),
        "first": text(),
        "second": text(),
        "n_tissues": count(),
        "n_same_sign": count(),
        "same_sign_p": number(0, 1, nullable=True),
        "spearman": number(-1, 1, nullable=True),
        "spearman_p": number(0, 1, nullable=True),
        "spearman_p_smallest": number(0, 1, nullable=True),
        "spearman_exact": flag(),
    },
    ["metric"],
)
"""How far the two platforms agree over tissues, with permutation p-values."""

DRIVERS = schema(
    "drivers",
    TISSUE
    | {
        "cell_type": text(),
        "young_proportion": number(0, 1, nullable=True),
        "old_proportion": number(0, 1, nullable=True),
        "gini_contribution": number(),
        "gini_contribution_low": number(),
        "gini_contribution_high": number(),
        "effective_number_contribution": number(),
        "effective_number_contribution_low": number(),
        "effective_number_contribution_high": number(),
        "clr_change": number(nullable=True),
        "clr_change_low": number(nullable=True),
        "clr_change_high": number(nullable=True),
    },
    ["cohort", "platform", "tissue", "cell_type"],
)
"""Each cell type's share of the change of the group means; the contributions of a tissue sum to the
whole change."""

RECOVERY = schema(
    "recovery",
    TISSUE
    | {
        "metric": text(),
        "truth": number(),
        "change": number(),
        "change_low": number(),
        "change_high": number(),
        "covered": flag(),
        "same_sign": flag(),
    },
    ["cohort", "platform", "tissue", "metric"],
)
"""Known truth of simulated cohorts beside what the pipeline found. Empty for real inputs."""
