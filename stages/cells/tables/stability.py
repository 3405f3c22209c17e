"""Schemas of how often a direction holds."""

from stages.base.columns import count, flag, number, schema, text
from stages.inputs.tables import TISSUE
from stages.measurement.concentration import QUADRANTS

_RUN = TISSUE | {"resolution": number(0)}


STABILITY_RUNS = schema(
    "stability_runs",
    _RUN
    | {
        "subsample": count(),
        "seed": count(),
        "n_clusters": count(1),
        "clustering": count(),
        "gini_change": number(nullable=True),
        "effective_number_change": number(nullable=True),
        "quadrant": text(isin=QUADRANTS),
    },
    [*_RUN, "subsample", "seed"],
)
"""Compared minus reference in each run; subsample 0 has all cells. Runs of a tissue whose
clusterings are the same but for the names of the clusters share the number `clustering`."""


STABILITY = schema(
    "stability",
    _RUN
    | {
        "metric": text(),
        "n_runs": count(1),
        "n_clusterings": count(1),
        "change_median": number(),
        "change_lowest": number(),
        "change_highest": number(),
        "direction": count(-1),
        "same_direction_share": number(0, 1),
        "share_low": number(0, 1),
        "share_high": number(0, 1),
        "stable": flag(),
        "ari_median": number(-0.5, 1),
        "ari_lowest": number(-0.5, 1),
        "n_clusters_lowest": count(1),
        "n_clusters_highest": count(1),
    },
    [*_RUN, "metric"],
)
"""Which direction most of the different clusterings have, in what share of them, with the exact
interval of a share of as many independent ones, and how well the seeds' clusterings of all cells
agree (adjusted Rand index over pairs of seeds)."""
