"""Schemas of comparisons in many datasets, and of what they say together."""

from stages.base.columns import count, flag, number, schema, text
from stages.cells.tables.metrics import CELLS
from stages.measurement.concentration import QUADRANTS

OF_DATASET = ["dataset", "tissue", "cells", "metric"]

DATASETS = schema(
    "datasets",
    {
        "dataset": text(),
        "tissue": text(),
        "cells": text(isin=CELLS),
        "metric": text(),
        "n_reference": count(2),
        "n_compared": count(2),
        "paired": flag(),
        "reference_median": number(),
        "compared_median": number(),
        "change": number(),
        "change_low": number(),
        "change_high": number(),
        "spread": number(0),
        "rank_p": number(0, 1),
        "rank_q": number(0, 1),
        "exact": flag(),
    },
    OF_DATASET,
)
"""Compared minus reference in one tissue of one dataset. `change` is the difference of the medians
over donors, or in pairs the median of the differences; `spread` the standard deviation of donors
within their group (of pairs, that of the differences over the root of 2). `rank_q` is adjusted over
all tissues of all datasets. `exact`: interval and p were counted; in large groups they are those of
normal theory."""


DATASETS_NOT_COMPARED = schema(
    "datasets_not_compared",
    {"dataset": text(), "tissue": text(), "n_cells": count(), "reason": text()},
    ["dataset", "tissue"],
)
"""Tissues of datasets, or in `(all)` whole datasets, without a comparison."""


POOLED = schema(
    "pooled",
    {
        "tissue": text(),
        "cells": text(isin=CELLS),
        "metric": text(),
        "n_datasets": count(1),
        "n_reference": count(2),
        "n_compared": count(2),
        "change": number(),
        "change_low": number(),
        "change_high": number(),
        "p": number(0, 1),
        "q": number(0, 1),
        "tau2": number(0, nullable=True),
        "i2": number(0, 1, nullable=True),
        "heterogeneity_q": number(0, nullable=True),
        "heterogeneity_p": number(0, 1, nullable=True),
        "predicted_low": number(nullable=True),
        "predicted_high": number(nullable=True),
        "without": text(nullable=True),
        "without_low": number(nullable=True),
        "without_high": number(nullable=True),
        "without_p": number(0, 1, nullable=True),
        "quadrant": text(isin=QUADRANTS),
        "emphasised": flag(),
    },
    ["tissue", "cells", "metric"],
)
"""The mean change of a tissue over datasets, with its interval (of one dataset: its own, and no
heterogeneity). `tau2` is the variance of true changes between datasets, `i2` the share of the
spread that is no sampling, `predicted` where the change of one more dataset would lie. Leaving out
one dataset at a time (three at least), the mean lies from `without_low` to `without_high`, its
largest p is `without_p`, and `without` is the dataset that moves it most."""


SHRUNKEN = schema(
    "shrunken",
    {
        "dataset": text(),
        "tissue": text(),
        "cells": text(isin=CELLS),
        "metric": text(),
        "change": number(),
        "standard_error": number(0),
        "weight": number(0, 1),
        "shrunken": number(),
    },
    OF_DATASET,
)
"""What each dataset adds to the mean (`weight`, which sum to 1 in a tissue), and its change drawn
towards the mean as far as it is uncertain: the partially pooled one."""
