"""Schema of what moves a tissue."""

from stages.base.columns import number, schema, text
from stages.inputs.tables import TISSUE

# The row of a tissue's drivers that is no cell type: types that appeared or vanished.
NUMBER_OF_TYPES = "(number of types)"


DRIVERS = schema(
    "drivers",
    TISSUE
    | {
        "cell_type": text(),
        "reference_proportion": number(0, 1, nullable=True),
        "compared_proportion": number(0, 1, nullable=True),
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
