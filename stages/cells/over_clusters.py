"""Measure and compare samples whose components are clusters, by the functions for cell types.

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
from stages.base.settings import Settings
from stages.cells import clustering, contrast, counts, metrics
from stages.cells.design import design
from stages.cells.settings import Clusters, Contrast, Leiden, Metrics, Otherwise
from stages.cells.tables.clusters import ALL_TYPES, CLUSTER_CONTRAST, CLUSTER_METRICS
from stages.measurement import resampling
from stages.measurement.streams import stream

SAMPLE_KEY = [*counts.TISSUE, "animal"]
CLUSTERING = [*counts.TISSUE, "cell_type", "resolution"]


def graphs_of(
    settings: Settings,
    cohorts: Sequence[str],
    tissues: Sequence[str],
    otherwise: Otherwise = "all",
) -> list[str]:
    """Return the keys of the atlas' graphs of some cohorts and tissues, in its order.

    An atlas that has none of these cohorts is another study's: then its own are taken, as
    `otherwise` says. It may have none of them, and what rests on them is then empty; one line says
    so.

    Parameters
    ----------
    otherwise
        ``all`` graphs; those of the ``first tissue`` that has one; or those of ``later cohorts``
        whose tissue is one of the first cohort's.
    """
    graphs, files = settings.atlas.graphs, settings.atlas.cells
    of = {key: (files[graph.cells].cohort, graph.tissue) for key, graph in graphs.items()}
    if {file.cohort for file in files.values()} & set(cohorts):
        found = [
            key for key, (cohort, tissue) in of.items() if cohort in cohorts and tissue in tissues
        ]
    else:
        first = next(iter(of.values()), ("", ""))
        shared = {tissue for cohort, tissue in of.values() if cohort == first[0]}
        found = [
            key
            for key, (cohort, tissue) in of.items()
            if otherwise == "all"
            or (otherwise == "first tissue" and tissue == first[1])
            or (otherwise == "later cohorts" and cohort != first[0] and tissue in shared)
        ]
    if not found:
        cli.log.info(
            "no graph is of cohort %s and tissue %s; the atlas names %s",
            " or ".join(cohorts),
            " or ".join(tissues),
            ", ".join(f"{key} ({tissue})" for key, (_, tissue) in of.items()) or "none",
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
    scratch: Path,
    cell_type: str = ALL_TYPES,
) -> pd.DataFrame:
    """Cluster one graph at each resolution and measure its samples (``CLUSTER_METRICS``).

    Parameters
    ----------
    graph
        Of :func:`stages.cells.clustering.neighbours`; every resolution starts from it.
    scratch
        Folder of finished clusterings (:func:`stages.cells.clustering.leiden_each`).
    cell_type
        The type that all cells have, or ``ALL_TYPES``.
    """
    parts = []
    runs = [(resolution, leiden.seed) for resolution in resolutions]
    found = clustering.leiden_each(graph, runs, leiden, scratch=scratch)
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


def compare(table: pd.DataFrame, settings: Contrast, *, family: Sequence[str]) -> pd.DataFrame:
    """Compare both groups of samples, clustering by clustering (``CLUSTER_CONTRAST``).

    Each as :mod:`stages.cells.contrast` compares them over annotated types. One with fewer than two
    samples in a group is left out, and one line says so.

    Parameters
    ----------
    table
        ``CLUSTER_METRICS``.
    family
        p-values are adjusted (Benjamini-Hochberg) among the rows that agree in these columns.
    """
    rows = []
    clusterings = table.groupby(CLUSTERING, sort=True)
    for key, samples in clusterings:
        if not can_be_compared(samples):
            continue
        names = dict(zip(CLUSTERING, key, strict=True))
        rng = stream(settings.seed, *key)
        for cells, part in samples.groupby("cells", sort=True):
            n_clusters = part["n_clusters"].iloc[0]
            for metric in settings.metrics:
                if found := contrast.compare(part, metric, settings=settings, rng=rng):
                    known = {"n_clusters": n_clusters, "cells": cells, "metric": metric}
                    rows.append(names | known | found)
    if not rows:
        return tables.empty(CLUSTER_CONTRAST)
    compared = pd.DataFrame(rows)
    tests = compared.groupby([*family, "cells", "metric"])["rank_p"]
    compared["rank_q"] = tests.transform(resampling.benjamini_hochberg)
    key = [*CLUSTERING, "cells"]
    compared["quadrant"] = contrast.quadrants(compared, key)
    compared["emphasised"] = contrast.emphasised(compared, key)
    return compared[list(CLUSTER_CONTRAST.columns)]


def can_be_compared(samples: pd.DataFrame) -> bool:
    """Say whether a tissue has two samples of each group, or two pairs; one line says if not.

    Parameters
    ----------
    samples
        Rows of its samples or cells; the columns ``counts.SAMPLE``.
    """
    n, m = design(samples.drop_duplicates("animal").reset_index(drop=True)).n
    if min(n, m) < counts.MIN_ANIMALS:
        where = " ".join(map(str, samples.iloc[0][counts.TISSUE]))
        cli.log.info("%s not compared: %d and %d samples in its groups", where, n, m)
        return False
    return True


def rules(settings: Clusters) -> Metrics:
    """Return how clusters are measured, in the terms of :mod:`stages.cells.metrics`."""
    return Metrics(
        category_set=settings.category_set, fixed_categories=[], rarefaction=settings.equal_cells
    )
