"""Schema of what other methods of the field say of the same tissues."""

from stages.base.columns import number, schema, text
from stages.inputs.tables import TISSUE

METHODS = ("gini", "effective_number", "clr_linear", "dirichlet_multinomial", "permanova")


COMPARATORS = schema(
    "comparators",
    TISSUE
    | {
        "method": text(isin=METHODS),
        "statistic": number(),
        "p": number(0, 1),
        "p_smallest": number(0, 1, nullable=True),
        "q": number(0, 1),
        "cell_type": text(nullable=True),
    },
    [*TISSUE, "method"],
)
"""What each method says. `gini` and `effective_number`: rank statistic and p of the ``contrast``
table; `clr_linear`: the largest |t| over types, whose `cell_type` it names, and Simes' p over
them; `dirichlet_multinomial`: likelihood ratio; `permanova`: pseudo-F. The p of the last two is by
permutation of animals. `p_smallest`: the smallest that a permutation of so few animals can give.
`q`: p adjusted over the tissues of a cohort and platform."""
