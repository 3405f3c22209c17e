"""Schemas of the tables on clusters of cells."""

from stages.tables.cells import AGING, CELLS, METRICS, QUADRANTS, SAMPLE, SAMPLE_KEY, TISSUE
from stages.tables.columns import count, flag, number, schema, text

ALL_TYPES = "(all cells)"
"""The cell type of clusters of a whole tissue, which are not within one type."""

_METRICS = {name: column for name, column in METRICS.columns.items() if name not in SAMPLE}
_AGING = {name: column for name, column in AGING.columns.items() if name not in TISSUE}
_CLUSTERING = {"cell_type": text(), "resolution": number(0)}

GRAPHS = schema("graphs", {"graph": text()} | TISSUE, ["graph"])
"""The graphs of neighbours of an atlas."""

CLUSTER_METRICS = schema(
    "cluster_metrics",
    SAMPLE | _CLUSTERING | {"n_clusters": count(1)} | _METRICS,
    [*SAMPLE_KEY, *_CLUSTERING, "cells"],
)
"""The numbers of each sample when the components are the Leiden clusters of its tissue, or of one
cell type of it. `n_clusters`: of all samples together."""

CLUSTER_AGING = schema(
    "cluster_aging",
    TISSUE | _CLUSTERING | {"n_clusters": count(1)} | _AGING,
    [*TISSUE, *_CLUSTERING, "cells", "metric"],
)
"""Old minus young over clusters, as the ``aging`` table over annotated types."""

SUBSTATES_NOT_COMPARED = schema(
    "substates_not_compared",
    TISSUE
    | {
        "cell_type": text(),
        "n_cells": count(1),
        "n_young": count(),
        "n_old": count(),
        "reason": text(),
    },
    [*TISSUE, "cell_type"],
)
"""Cell types with too few cells or animals to look for substates in."""

_RUN = TISSUE | {"resolution": number(0)}

STABILITY_RUNS = schema(
    "stability_runs",
    _RUN
    | {
        "subsample": count(),
        "seed": count(),
        "n_clusters": count(1),
        "gini_change": number(nullable=True),
        "effective_number_change": number(nullable=True),
        "quadrant": text(isin=QUADRANTS),
    },
    [*_RUN, "subsample", "seed"],
)
"""Old minus young in each run; subsample 0 has all cells."""

STABILITY = schema(
    "stability",
    _RUN
    | {
        "metric": text(),
        "n_runs": count(1),
        "change_median": number(),
        "change_lowest": number(),
        "change_highest": number(),
        "direction": count(-1),
        "same_direction_share": number(0, 1),
        "stable": flag(),
        "ari_median": number(-0.5, 1),
        "ari_lowest": number(-0.5, 1),
        "n_clusters_lowest": count(1),
        "n_clusters_highest": count(1),
    },
    [*_RUN, "metric"],
)
"""Which direction most runs have and in what share of them, and how well the seeds' clusterings of
all cells agree (adjusted Rand index over pairs of seeds)."""

CONDITIONS = ("young", "old", "restricted")
"""Young; old, fed freely; old, on caloric restriction."""

OVER_LIBRARIES = ("mean", "pooled", "male", "female")
"""How the libraries of a condition become one number: mean of theirs, their cells in one sample, or
one sex by itself."""

STRATA = ("all", "within_sex", "male", "female")
CONTRASTS = ("drift", "rescue")

RESTRICTION_LIBRARIES = schema(
    "restriction_libraries",
    {"condition": text(isin=CONDITIONS)} | dict(CLUSTER_METRICS.columns),
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

CALORIC_RESTRICTION = schema(
    "caloric_restriction",
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
