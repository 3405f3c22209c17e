"""Ask how much of the drift of a tissue with age caloric restriction takes back.

Original step 12. The clusters are those of all libraries together, so that young, old and
restricted are measured over the same components. For each metric,

    drift = old - young,   rescue = old - restricted,   rescue fraction = rescue / drift:

0 where restriction does nothing, 1 where it brings youth back. Whether the published study averaged
the libraries of a condition or pooled their cells is not known; both are given, and each sex by
itself.

Two different things are said about how sure this is.

* Cells are resampled with replacement within each library (a bootstrap, the clusters held fixed).
  The interval and the probability of a rescue say how much hangs on the number of cells, and
  nothing about other animals. In studies simulated by the demo's model, the 95% interval of the
  rescue fraction of the effective number holds the truth in 95% of them if animals do not differ,
  but in 46% if they differ as the demo's do; and where restriction does nothing, the probability of
  a rescue is above 0.975 in 4% and in 26% of them.
* Whole libraries are exchanged between conditions, exactly. With two against two there are six
  arrangements, and no result whatever has a two-sided p below 1/3 (1/6 for one side); within sexes
  there are four, and none is below 1/2.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli, tables
from stages.base.errors import AtlasError
from stages.base.settings import Settings, load
from stages.cells import clustering, counts, metrics, over_clusters
from stages.cells.settings import Metrics, Restriction
from stages.cells.tables.clusters import ALL_TYPES
from stages.cells.tables.restriction import (
    CONDITIONS,
    RESTRICTION,
    RESTRICTION_LIBRARIES,
    RESTRICTION_TESTS,
)
from stages.measurement import concentration, resampling
from stages.measurement.streams import stream

Floats = NDArray[np.float64]

SEXES = ("male", "female")
METRICS = ("gini", "effective_number")
CONTRASTS = {"drift": ("young", "old"), "rescue": ("restricted", "old")}
"""What is taken from what: the first from the second."""

ALL_ARRANGEMENTS = math.comb(2 * len(SEXES), len(SEXES))
"""Ways to share out the libraries of two conditions: all of them are always counted."""


def in_order(samples: pd.DataFrame, condition: pd.Series) -> NDArray[np.int64]:
    """Return the rows of the libraries by condition and sex, shape (3, 2).

    Parameters
    ----------
    samples
        One row a library, with `animal` and `sex`.
    condition
        By library.

    Raises
    ------
    AtlasError
        A sex does not have exactly one library of a condition.
    """
    of = samples["animal"].map(condition)
    rows = np.zeros((len(CONDITIONS), len(SEXES)), dtype=np.int64)
    for i, name in enumerate(CONDITIONS):
        for j, sex in enumerate(SEXES):
            here = np.flatnonzero(((of == name) & (samples["sex"] == sex)).to_numpy())
            if here.size != 1:
                msg = (
                    f"there are {here.size} {sex} libraries of condition {name}: one is needed. "
                    "Run the stage that reads them: dvc repro libraries."
                )
                raise AtlasError(msg)
            rows[i, j] = here[0]
    return rows


def over_libraries(matrix: Floats, *, components: concentration.Components) -> dict[str, Floats]:
    """Return both metrics of each condition, libraries taken together in four ways.

    Parameters
    ----------
    matrix : shape (..., 3 conditions, 2 sexes, n_clusters)
        Cells by cluster.

    Returns
    -------
    dict of arrays of shape (..., 4, 3)
        By metric; mean over the libraries, their cells pooled, the male, the female.
    """
    cells = matrix.sum(axis=-2)
    both = {
        "gini": (
            concentration.gini(matrix, components=components),
            concentration.gini(cells, components=components),
        ),
        "effective_number": (
            concentration.effective_number(matrix),
            concentration.effective_number(cells),
        ),
    }
    found = {}
    for metric, (of_each, of_pooled) in both.items():
        each = np.asarray(of_each)
        ways = [each.mean(axis=-1), np.asarray(of_pooled), each[..., 0], each[..., 1]]
        found[metric] = np.stack(ways, axis=-2)
    return found


def resampled(matrix: Floats, *, n_cells: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """Draw cells of each library with replacement.

    Parameters
    ----------
    matrix : shape (3, 2, n_clusters)
        Cells by cluster of the libraries.
    n_cells : shape (3, 2)
        How many cells are drawn of each.

    Returns
    -------
    array of shape (draws, 3, 2, n_clusters)
    """
    shares = matrix / matrix.sum(axis=-1, keepdims=True)
    return rng.multinomial(n_cells.astype(np.int64), shares, size=(draws, *n_cells.shape)).astype(
        np.float64
    )


def subsampled(matrix: Floats, *, depth: int, draws: int, rng: np.random.Generator) -> Floats:
    """Draw `depth` cells of each library without replacement, shape (draws, 3, 2, n_clusters)."""
    flat = matrix.reshape(-1, matrix.shape[-1]).astype(np.int64)
    drawn = [
        rng.multivariate_hypergeometric(row, depth, size=draws, method="marginals") for row in flat
    ]
    return np.stack(drawn, axis=1).reshape(draws, *matrix.shape).astype(np.float64)


def rescue(values: Floats, draws: Floats, *, confidence: float) -> dict[str, float]:
    """Return drift, rescue and their ratio of one metric, with percentile intervals over cells.

    The ratio has no bounded interval where the drift may be zero (as by Fieller's theorem [1]_);
    it is nan there, and the probability of a rescue speaks for it.

    Parameters
    ----------
    values : shape (3,)
        The metric of the young, the old and the restricted.
    draws : shape (n_draws, 3)
        The same in each draw of cells.

    Returns
    -------
    dict
        The columns of ``RESTRICTION`` from `young` to `rescue_probability`: the share of
        the draws in which the restricted stand on the young side of the old.

    References
    ----------
    .. [1] Fieller, E. C. (1954). Some problems in interval estimation. Journal of the Royal
       Statistical Society B 16:175-185.

    Examples
    --------
    >>> found = rescue(np.array([0.5, 0.7, 0.6]), np.array([[0.5, 0.7, 0.6]]), confidence=0.95)
    >>> round(found["drift"], 3), round(found["rescue"], 3), round(found["rescue_fraction"], 3)
    (0.2, 0.1, 0.5)
    """
    found: dict[str, float] = {
        name: float(value) for name, value in zip(CONDITIONS, values, strict=True)
    }
    changes = {}
    for contrast, (first, second) in CONTRASTS.items():
        i, j = CONDITIONS.index(first), CONDITIONS.index(second)
        changes[contrast] = draws[:, j] - draws[:, i]
        low, high = resampling.percentile_interval(changes[contrast], confidence=confidence)
        found[contrast] = found[second] - found[first]
        found |= {f"{contrast}_low": float(low), f"{contrast}_high": float(high)}
    drift = found["drift"]
    found["rescue_fraction"] = found["rescue"] / drift if drift else math.nan
    ends = [math.nan, math.nan]
    if found["drift_low"] > 0 or found["drift_high"] < 0:
        moved = changes["drift"] != 0
        ratio = changes["rescue"][moved] / changes["drift"][moved]
        ends = [float(end) for end in resampling.percentile_interval(ratio, confidence=confidence)]
    found |= dict(zip(("rescue_fraction_low", "rescue_fraction_high"), ends, strict=True))
    towards_young = np.sign(changes["drift"]) * np.sign(changes["rescue"]) > 0
    return found | {"rescue_probability": float(towards_young.mean())}


def exchanged(values: Floats) -> list[dict[str, object]]:
    """Exchange whole libraries between two conditions, freely, within sexes, and in one sex alone.

    Parameters
    ----------
    values : shape (3 conditions, 2 sexes)
        One metric of the libraries.

    Returns
    -------
    list of dict
        The columns of ``RESTRICTION_TESTS`` from `contrast` on; p is exact and two-sided
        (:func:`stages.measurement.resampling.stratified_permutation`).
    """
    rows: list[dict[str, object]] = []
    for contrast, (first, second) in CONTRASTS.items():
        a, b = values[CONDITIONS.index(first)], values[CONDITIONS.index(second)]
        strata = {
            "all": ([a], [b]),
            "within_sex": ([a[:1], a[1:]], [b[:1], b[1:]]),
            "male": ([a[:1]], [b[:1]]),
            "female": ([a[1:]], [b[1:]]),
        }
        for name, (ours, theirs) in strata.items():
            n_first, n_second = sum(map(len, ours)), sum(map(len, theirs))
            test = resampling.stratified_permutation(
                ours,
                theirs,
                max_permutations=ALL_ARRANGEMENTS,
                # Never used, since nothing is drawn.
                rng=np.random.default_rng(0),
            )
            rows.append(
                {
                    "contrast": contrast,
                    "strata": name,
                    "n_first": n_first,
                    "n_second": n_second,
                    "difference": test.statistic,
                    "n_arrangements": math.prod(
                        math.comb(len(x) + len(y), len(y))
                        for x, y in zip(ours, theirs, strict=True)
                    ),
                    "p": test.p,
                    "p_smallest": test.p_smallest,
                }
            )
    return rows


def compare(
    table: pd.DataFrame,
    condition: pd.Series,
    *,
    rules: Metrics,
    settings: Restriction,
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Measure and compare the libraries over one clustering.

    Parameters
    ----------
    table
        ``PROPORTIONS``, clusters for types.
    condition
        By library.

    Returns
    -------
    libraries, rescue, tests
        The columns of ``RESTRICTION_LIBRARIES``, ``RESTRICTION`` and ``RESTRICTION_TESTS``
        that do not name the clustering.
    """
    measured = metrics.metrics(table, rules)
    of_libraries = counts.matrix(table)
    rows = in_order(of_libraries.samples, condition)
    # (3 conditions, 2 sexes, n_clusters)
    matrix = of_libraries.counts[rows]
    components: concentration.Components = "present" if rules.category_set == "present" else "all"
    n_cells = matrix.sum(axis=-1)
    depth = rules.rarefaction.depth or int(n_cells.min())
    equal = subsampled(matrix, depth=depth, draws=rules.rarefaction.draws, rng=rng)
    estimates = {
        "all": over_libraries(matrix, components=components),
        "rarefied": {
            metric: values.mean(axis=0)
            for metric, values in over_libraries(equal, components=components).items()
        },
    }
    sizes = {"all": n_cells, "rarefied": np.full_like(n_cells, depth)}
    compared, tested = [], []
    for cells, found in estimates.items():
        bootstrap = resampled(matrix, n_cells=sizes[cells], draws=settings.draws, rng=rng)
        draws = over_libraries(bootstrap, components=components)
        total = sizes[cells].sum(axis=0)
        of_each = {"mean": total.sum(), "pooled": total.sum(), "male": total[0], "female": total[1]}
        for metric in METRICS:
            known: dict[str, object] = {"cells": cells, "metric": metric}
            for way, (libraries, n) in enumerate(of_each.items()):
                compared.append(
                    known
                    | {
                        "libraries": libraries,
                        "n_libraries": 1 if libraries in SEXES else len(SEXES),
                        "n_cells": int(n),
                        "interval_resamples": "cells",
                    }
                    | rescue(
                        found[metric][way],
                        draws[metric][:, way],
                        confidence=settings.confidence,
                    )
                )
            # The last two ways are the libraries themselves: (2 sexes, 3 conditions).
            each = found[metric][2:].T
            tested += [known | row for row in exchanged(each)]
    return measured, pd.DataFrame(compared), pd.DataFrame(tested)


def restriction(
    graph: ad.AnnData, settings: Settings, *, scratch: Path
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Cluster all libraries together at each resolution, and compare them.

    Parameters
    ----------
    graph
        Of :mod:`stages.cells.libraries`.
    scratch
        Folder of finished clusterings.

    Returns
    -------
    libraries, rescue, tests
        ``RESTRICTION_LIBRARIES``, ``RESTRICTION``, ``RESTRICTION_TESTS``.

    Raises
    ------
    AtlasError
        A library is missing.
    """
    clusters, leiden = settings.clusters, settings.leiden
    if graph.obs["condition"].isna().any():
        msg = (
            "the graph does not say the condition of its libraries: it is no graph of libraries. "
            "Run the stage that writes it: dvc repro libraries."
        )
        raise AtlasError(msg)
    condition = graph.obs.groupby("animal")["condition"].first()
    rules = over_clusters.rules(clusters)
    parts = []
    runs = [(resolution, leiden.seed) for resolution in clusters.resolutions]
    clustered = clustering.leiden_each(graph, runs, leiden, scratch=scratch)
    for resolution, labels in zip(clusters.resolutions, clustered, strict=True):
        found = compare(
            over_clusters.clusters_as_types(graph.obs, labels),
            condition,
            rules=rules,
            settings=settings.restriction,
            rng=stream(settings.restriction.seed, resolution),
        )
        names = dict(graph.obs.iloc[0][counts.TISSUE]) | {
            "cell_type": ALL_TYPES,
            "resolution": float(resolution),
            "n_clusters": int(labels.max()) + 1,
        }
        parts.append([part.assign(**names) for part in found])
    schemas = (RESTRICTION_LIBRARIES, RESTRICTION, RESTRICTION_TESTS)
    libraries, compared, tested = (
        pd.concat(of_table, ignore_index=True)[list(schema.columns)]
        for of_table, schema in zip(zip(*parts, strict=True), schemas, strict=True)
    )
    return libraries, compared, tested


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    schemas = (RESTRICTION_LIBRARIES, RESTRICTION, RESTRICTION_TESTS)
    found = [
        restriction(
            clustering.read_graph(args.graphs / f"{key}.h5ad"), settings, scratch=args.scratch
        )
        for key in settings.atlas.libraries
    ]
    if not found:
        cli.log.info("the atlas names no libraries")
        found = [tuple(tables.empty(schema) for schema in schemas)]
    for parts, schema, path in zip(
        zip(*found, strict=True), schemas, (args.libraries, args.out, args.tests), strict=True
    ):
        tables.write(pd.concat(parts, ignore_index=True), schema, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--graphs", type=Path, required=True, help="the folder of the graphs")
    clustering.add_scratch(parser)
    parser.add_argument("--libraries", type=Path, required=True)
    parser.add_argument("--tests", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
