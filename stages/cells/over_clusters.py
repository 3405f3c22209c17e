"""Measure and compare samples whose components are clusters, by the functions for cell types.

A sample is then a vector of cells by cluster, as it was one of cells by annotated type; the
numbers, tests and intervals are the same code. What is added is the granularity: the resolution,
and the cell type within which the clusters are.
"""

from collections.abc import Sequence

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli
from stages.base.errors import AtlasError
from stages.base.settings import Settings
from stages.cells import aging, clustering, counts, metrics
from stages.cells.settings import Aging, Clusters, Leiden, Metrics
from stages.cells.tables.clusters import ALL_TYPES, CLUSTER_AGING, CLUSTER_METRICS
from stages.measurement import resampling
from stages.measurement.streams import stream

SAMPLE_KEY = [*counts.TISSUE, "animal"]
CLUSTERING = [*counts.TISSUE, "cell_type", "resolution"]


def graphs_of(settings: Settings, cohorts: Sequence[str], tissues: Sequence[str]) -> list[str]:
    """Return the keys of the atlas' graphs of some cohorts and tissues, in its order.

    An atlas may have none of them, and what rests on them is then empty; one line says so.
    """
    graphs, files = settings.atlas.graphs, settings.atlas.cells
    found = [
        key
        for key, of in graphs.items()
        if of.tissue in tissues and files[of.cells].cohort in cohorts
    ]
    if not found:
        cli.log.info(
            "no graph is of cohort %s and tissue %s; the atlas names %s",
            " or ".join(cohorts),
            " or ".join(tissues),
            ", ".join(f"{key} ({of.tissue})" for key, of in graphs.items()) or "none",
        )
    return found


def clusters_as_types(obs: pd.DataFrame, labels: NDArray[np.int64]) -> pd.DataFrame:
    """Count the cells of each sample by cluster: ``PROPORTIONS``, clusters for types.

    Parameters
    ----------
    obs
        The columns ``counts.SAMPLE``, one row a cell.
    labels : shape (n_cells,)
        The cluster of each cell.
    """
    # The sex may be missing: the rest of the sample says it.
    who = obs[counts.SAMPLE].drop_duplicates(SAMPLE_KEY)
    cells = obs[SAMPLE_KEY].assign(cell_type=labels.astype(str), n_cells=1)
    counted = cells.groupby([*SAMPLE_KEY, "cell_type"], as_index=False)["n_cells"].sum()
    total = counted.groupby(SAMPLE_KEY)["n_cells"].transform("sum")
    counted["proportion"] = counted["n_cells"] / total
    table = counted.merge(who, on=SAMPLE_KEY, validate="many_to_one")
    return table[[*counts.SAMPLE, "cell_type", "n_cells", "proportion"]]


def measure(
    graph: ad.AnnData,
    resolutions: Sequence[float],
    *,
    leiden: Leiden,
    settings: Clusters,
    cell_type: str = ALL_TYPES,
) -> pd.DataFrame:
    """Cluster one graph at each resolution and measure its samples (``CLUSTER_METRICS``).

    Parameters
    ----------
    graph
        Of :func:`stages.cells.clustering.neighbours`; every resolution starts from it.
    cell_type
        The type that all cells have, or ``ALL_TYPES``.
    """
    parts = []
    runs = [(resolution, leiden.seed) for resolution in resolutions]
    found = clustering.leiden_each(graph, runs, leiden)
    for resolution, labels in zip(resolutions, found, strict=True):
        part = metrics.metrics(clusters_as_types(graph.obs, labels), rules(settings))
        parts.append(
            part.assign(
                cell_type=cell_type,
                resolution=float(resolution),
                n_clusters=int(labels.max()) + 1,
            )
        )
    return pd.concat(parts, ignore_index=True)[list(CLUSTER_METRICS.columns)]


def compare(table: pd.DataFrame, settings: Aging, *, family: Sequence[str]) -> pd.DataFrame:
    """Compare old with young samples, clustering by clustering (``CLUSTER_AGING``).

    The change is the difference of the medians over animals, with the exact bootstrap interval and
    the exact Mann-Whitney test of :mod:`stages.cells.aging`.

    Parameters
    ----------
    table
        ``CLUSTER_METRICS``.
    family
        p-values are adjusted (Benjamini-Hochberg) among the rows that agree in these columns.

    Raises
    ------
    AtlasError
        A clustering has fewer than two young or two old animals.
    """
    rows = []
    clusterings = table.groupby(CLUSTERING, sort=True)
    for key, samples in clusterings:
        require_animals(samples, str(key[2]))
        names = dict(zip(CLUSTERING, key, strict=True))
        rng = stream(settings.seed, *key)
        for cells, part in samples.groupby("cells", sort=True):
            n_clusters = part["n_clusters"].iloc[0]
            for metric in settings.metrics:
                if found := aging.compare(part, metric, settings=settings, rng=rng):
                    known = {"n_clusters": n_clusters, "cells": cells, "metric": metric}
                    rows.append(names | known | found)
    compared = pd.DataFrame(rows)
    tests = compared.groupby([*family, "cells", "metric"])["mann_whitney_p"]
    compared["mann_whitney_q"] = tests.transform(resampling.benjamini_hochberg)
    parts = [part for _, part in compared.groupby(CLUSTERING)]
    compared["quadrant"] = pd.concat([aging.quadrants(part) for part in parts])
    compared["emphasised"] = pd.concat([aging.emphasised(part) for part in parts])
    return compared[list(CLUSTER_AGING.columns)]


def require_animals(samples: pd.DataFrame, tissue: str) -> None:
    """Stop where there are not enough animals of both ages to compare."""
    of_animal = samples.drop_duplicates("animal")["age_group"].value_counts()
    n_young, n_old = int(of_animal.get("young", 0)), int(of_animal.get("old", 0))
    if min(n_young, n_old) < counts.MIN_ANIMALS:
        msg = (
            f"{tissue} has {n_young} young and {n_old} old animals: at least {counts.MIN_ANIMALS} "
            "and "
            f"{counts.MIN_ANIMALS} are needed. Check young_max_months and old_min_months of the "
            "atlas, or leave the tissue out of atlas.graphs."
        )
        raise AtlasError(msg)


def rules(settings: Clusters) -> Metrics:
    """Return how clusters are measured, in the terms of :mod:`stages.cells.metrics`."""
    return Metrics(
        category_set=settings.category_set, fixed_categories=[], rarefaction=settings.equal_cells
    )
