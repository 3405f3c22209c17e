"""Measure and compare samples whose components are clusters, by the functions of ``composition``.

A sample is then a vector of cells by cluster, as it was one of cells by annotated type; the
numbers, tests and intervals are the same code. What is added is the granularity: the resolution,
and the cell type within which the clusters are.
"""

from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli, tables
from stages.base.errors import AtlasError
from stages.base.settings import Settings
from stages.cells import aging, clustering, counts, metrics
from stages.cells.settings import Aging, Clusters, Leiden, Metrics
from stages.cells.tables.clusters import ALL_TYPES, CLUSTER_AGING, CLUSTER_METRICS
from stages.inputs.settings import Graph
from stages.measurement import resampling
from stages.measurement.streams import stream

SAMPLE_KEY = [*counts.TISSUE, "animal"]
CLUSTERING = [*counts.TISSUE, "cell_type", "resolution"]


def graphs_of(
    folder: Path, graphs: dict[str, Graph], cohorts: Sequence[str], tissues: Sequence[str]
) -> list[ad.AnnData]:
    """Read the graphs of some cohorts and tissues, in the order of the settings.

    None is of them in an atlas that has no such cohort; one line says so, and tables stay empty.

    Raises
    ------
    AtlasError
        A graph is missing.
    """
    found = []
    for key, of in graphs.items():
        if of.tissue not in tissues:
            continue
        graph = clustering.read_graph(folder / f"{key}.h5ad")
        if graph.obs["cohort"].iloc[0] in cohorts:
            found.append(graph)
    if not found:
        there = ", ".join(f"{key} ({of.tissue})" for key, of in graphs.items()) or "none"
        cli.log.info(
            "no graph is of cohort %s and tissue %s; the atlas names %s",
            " or ".join(cohorts),
            " or ".join(tissues),
            there,
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
    for resolution in resolutions:
        labels = clustering.leiden(graph, resolution, leiden.seed, leiden)
        part = metrics.metrics(clusters_as_types(graph.obs, labels), rules(settings))
        parts.append(
            part.assign(
                cell_type=cell_type,
                resolution=float(resolution),
                n_clusters=int(labels.max()) + 1,
            )
        )
    return pd.concat(parts, ignore_index=True)[list(CLUSTER_METRICS.columns)]


def measure_all(
    graphs: Sequence[ad.AnnData],
    resolutions: Sequence[float],
    *,
    leiden: Leiden,
    settings: Clusters,
) -> pd.DataFrame:
    """Measure several tissues at the same resolutions (:func:`measure`)."""
    if not graphs:
        return tables.empty(CLUSTER_METRICS)
    parts = [measure(graph, resolutions, leiden=leiden, settings=settings) for graph in graphs]
    return pd.concat(parts, ignore_index=True)


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
    if table.empty:
        return tables.empty(CLUSTER_AGING)
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
    parts = [aging.quadrants(part) for _, part in compared.groupby(CLUSTERING)]
    compared["quadrant"] = pd.concat(parts)
    return compared[list(CLUSTER_AGING.columns)]


def over_resolutions(
    folder: Path,
    settings: Settings,
    *,
    cohorts: Sequence[str],
    tissues: Sequence[str],
    resolutions: Sequence[float],
    family: Sequence[str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure and compare some cohorts and tissues at each resolution.

    Parameters
    ----------
    folder
        Of the graphs of neighbours.
    cohorts, tissues
        Which of the atlas' graphs; see :func:`graphs_of`.
    family
        See :func:`compare`.

    Returns
    -------
    metrics, comparison
        ``CLUSTER_METRICS`` and ``CLUSTER_AGING``, without rows where there is no such graph.
    """
    graphs = graphs_of(folder, settings.atlas.graphs, cohorts, tissues)
    clusters = settings.clusters
    measured = measure_all(graphs, resolutions, leiden=settings.leiden, settings=clusters)
    return measured, compare(measured, clusters.comparison, family=family)


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
