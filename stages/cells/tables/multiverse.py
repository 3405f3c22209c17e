"""Schemas of the directions under every choice of analysis."""

from stages.base.columns import count, number, schema, text
from stages.inputs.tables import TISSUE
from stages.measurement.concentration import QUADRANTS

PUBLISHED = "published"
"""The kind of the row that makes all published choices."""


OF_ANIMALS = ("reference", "compared", "sex", "min_cells")
OF_NUMBERS = ("cells", "gini", "number", "statistic")
KINDS = (*OF_ANIMALS, *OF_NUMBERS)
"""Choices that decide which animals are compared, and those that decide how."""


MULTIVERSE = schema(
    "multiverse",
    TISSUE
    | {
        "direction": text(isin=QUADRANTS),
        "n_choices": count(1),
        **{quadrant: number(0, 1) for quadrant in QUADRANTS},
        "n_single": count(),
        "n_turning": count(),
        "turns_with": text(nullable=True),
    },
    list(TISSUE),
)
"""One row an arm: the direction under the published choices, the share of all `n_choices` distinct
analyses with each direction, and which of the `n_single` analyses that depart from the published
one in a single choice turn it."""


MULTIVERSE_CHOICES = schema(
    "multiverse_choices",
    TISSUE
    | {
        "kind": text(isin=(PUBLISHED, *KINDS)),
        "choice": text(nullable=True),
        "n_reference": count(1),
        "n_compared": count(1),
        "d_gini": number(),
        "d_number": number(),
        "direction": text(isin=QUADRANTS),
        "same_share": number(0, 1),
    },
    [*TISSUE, "kind", "choice"],
)
"""The analyses that depart from the published one (first row of an arm) in a single choice.
`same_share`: of all analyses that make this choice, the share with the published direction."""
