"""Schemas of caloric restriction."""

from stages.base.columns import count, number, schema, text
from stages.cells.tables.clusters import CLUSTER_METRICS
from stages.cells.tables.metrics import CELLS

CONDITIONS = ("young", "old", "restricted")
"""Young; old, fed freely; old, on caloric restriction."""


OVER_LIBRARIES = ("mean", "pooled", "male", "female")
"""How the libraries of a condition become one number: mean of theirs, their cells in one sample, or
one sex by itself."""


STRATA = ("all", "within_sex", "male", "female")


CONTRASTS = ("drift", "rescue")


RESTRICTION_LIBRARIES = schema(
    "restriction_libraries",
    {"condition": text(isin=CONDITIONS)}
    | {name: column for name, column in CLUSTER_METRICS.columns.items() if name != "condition"},
    ["animal", "resolution", "cells"],
)
"""The numbers of each library over the clusters of all libraries together."""


_CLUSTERED = {
    "cohort": text(),
    "platform": text(),
    "tissue": text(),
    "resolution": number(0),
    "n_clusters": count(1),
    "cells": text(isin=CELLS),
    "metric": text(isin=("gini", "effective_number")),
}


_KEY = ["cohort", "platform", "tissue", "resolution", "cells", "metric"]


RESTRICTION = schema(
    "restriction",
    _CLUSTERED
    | {
        "libraries": text(isin=OVER_LIBRARIES),
        "n_libraries": count(1),
        "n_cells": count(1),
        "young": number(0),
        "old": number(0),
        "restricted": number(0),
        "drift": number(),
        "drift_low": number(),
        "drift_high": number(),
        "rescue": number(),
        "rescue_low": number(),
        "rescue_high": number(),
        "rescue_fraction": number(nullable=True),
        "rescue_fraction_low": number(nullable=True),
        "rescue_fraction_high": number(nullable=True),
        "rescue_probability": number(0, 1),
        "interval_resamples": text(isin=("cells",)),
    },
    [*_KEY, "libraries"],
)
"""Drift (old - young), rescue (old - restricted) and rescue over drift. `interval_resamples`: what
the intervals and `rescue_probability` are over: cells within libraries, never animals;
`n_libraries`: of each condition. An empty interval of the fraction: that of the drift holds
zero."""


RESTRICTION_TESTS = schema(
    "restriction_tests",
    _CLUSTERED
    | {
        "contrast": text(isin=CONTRASTS),
        "strata": text(isin=STRATA),
        "n_first": count(1),
        "n_second": count(1),
        "difference": number(),
        "n_arrangements": count(2),
        "p": number(0, 1),
        "p_smallest": number(0, 1),
    },
    [*_KEY, "contrast", "strata"],
)
"""Exact two-sided permutation tests over whole libraries, and the smallest p that so few of them
can reach. `strata`: libraries exchanged freely, within each sex, or those of one sex alone."""
