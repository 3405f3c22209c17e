"""Schemas of simulated studies: how animals vary, and how often each rule calls a change."""

from stages.base.columns import count, number, schema, text
from stages.inputs.tables import TISSUE

ARMS = schema(
    "calibration_arms",
    TISSUE
    | {
        "n_reference": count(2),
        "n_compared": count(2),
        "n_types": count(1),
        "gini": number(0, 1),
        "concentration": number(0),
    },
    ["cohort", "platform", "tissue"],
)
"""How one arm of a cohort varies: the Gini coefficient of its mean composition, and the
concentration of the Dirichlet distribution of its animals around the mean of their age group
(larger: more alike; infinite: no more unlike than cells drawn at random)."""


RULES = (
    "gini_interval",
    "effective_number_interval",
    "gini_ranks",
    "effective_number_ranks",
    "direction",
    "emphasised",
)


CALIBRATION = schema(
    "calibration",
    {
        "cohort": text(),
        "n_reference": count(2),
        "n_compared": count(2),
        "n_arms": count(),
        "rank_p_smallest": number(0, 1),
        "gini_shift": number(0, 1),
        "gini_change_median": number(),
        "effective_number_change_median": number(),
        "rule": text(isin=RULES),
        "n_studies": count(1),
        "n_called": count(),
        "rate": number(0, 1),
        "rate_low": number(0, 1),
        "rate_high": number(0, 1),
    },
    ["cohort", "n_reference", "n_compared", "gini_shift", "rule"],
)
"""In how many simulated studies each rule calls a change, with the exact interval of that rate.

`gini_shift` is planted in the mean composition (0: both groups are alike), the medians of the
changes are what the studies saw of it; `n_arms` of the cohort have groups of this size, which
without ties allow no p below `rank_p_smallest`. A rule
`*_interval` calls where the interval of the change of medians leaves out zero, `*_ranks` where the
exact Mann-Whitney p is small; `direction` where the quadrant is not mixed, and `emphasised` where
it is emphasised. Under a planted shift the last two count only if the direction is the planted
one."""
