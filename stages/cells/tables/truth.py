"""Schemas of what is known of simulated cohorts. Both tables are empty for real inputs."""

from stages.base.columns import number, schema, text
from stages.inputs.tables import TISSUE
from stages.measurement.concentration import QUADRANTS

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
"""The change between the two mean compositions, and the difference of the medians over a very large
population of animals with as many cells as the simulated ones."""


COMPONENTS = ("types", "substates")
UNCHANGED = "none"
"""The direction where reference and compared are the same."""


PLANTED = schema(
    "planted",
    TISSUE
    | {
        "cell_type": text(),
        "components": text(isin=COMPONENTS),
        "metric": text(),
        "change": number(),
        "direction": text(isin=(*QUADRANTS, UNCHANGED)),
        "drift_taken_back": number(0, 1, nullable=True),
        "rescue_fraction": number(nullable=True),
    },
    ["cohort", "platform", "tissue", "cell_type", "components", "metric"],
)
"""What is planted in every tissue that is clustered: old minus young of the mean composition, over
the types or the substates of all cells together, or over the substates of one type. Where animals
are on caloric restriction, the share of the drift of their mean composition that it takes back, and
the share of the change of each metric that this is."""
