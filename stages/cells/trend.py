"""Follow both numbers over all ages: a trend test that uses the animals in between.

Young against old leaves out the animals between them, and which of them are old. Here every animal
of a tissue counts with its age: Spearman's rank correlation with age, put to the exact permutation
test (animals exchanged between ages), and the Theil-Sen slope [1]_. Where a tissue has two ages
only, this test is the Mann-Whitney test.

References
----------
.. [1] Sen, P. K. (1968). Estimates of the regression coefficient based on Kendall's tau. Journal of
   the American Statistical Association 63:1379-1389.
"""

import argparse
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from stages.base import cli, tables
from stages.base.settings import load
from stages.cells import counts
from stages.cells.design import design
from stages.cells.settings import Trend
from stages.cells.tables.metrics import METRICS
from stages.cells.tables.trend import TREND
from stages.measurement import resampling
from stages.measurement.streams import stream

Floats = NDArray[np.float64]

# Two correlations closer than this are one, summed in two orders.
_TIE = 1e-12
FOLLOWED = ("gini", "effective_number")


def trend(metrics: pd.DataFrame, settings: Trend) -> pd.DataFrame:
    """Return the trend of every tissue whose groups ages make, if both can be compared (``TREND``).

    Parameters
    ----------
    metrics
        ``METRICS``.
    """
    rows = []
    for (*key, cells), samples in metrics.groupby([*counts.TISSUE, "cells"], sort=True):
        n = design(samples.reset_index(drop=True)).n
        if samples["condition"].notna().any() or min(n) < counts.MIN_ANIMALS:
            continue
        names = dict(zip(counts.TISSUE, key, strict=True))
        for metric in FOLLOWED:
            rng = stream(settings.seed, *key, cells, metric)
            found = follow(
                samples["age_months"].to_numpy(float),
                samples[metric].to_numpy(float),
                settings=settings,
                rng=rng,
            )
            rows.append(names | {"cells": cells, "metric": metric} | found)
    if not rows:
        return tables.empty(TREND)
    table = pd.DataFrame(rows)
    family = table.groupby(["cohort", "platform", "cells", "metric"])["p"]
    table["q"] = family.transform(resampling.benjamini_hochberg)
    return table[list(TREND.columns)]


def follow(
    months: Floats, values: Floats, *, settings: Trend, rng: np.random.Generator
) -> dict[str, object]:
    """Return the trend of `values` with age.

    Parameters
    ----------
    months, values : shape (n_animals,)
        Of at least two ages.

    Examples
    --------
    >>> few = Trend(confidence=0.95, max_permutations=1000, seed=0)
    >>> rng = np.random.default_rng(0)
    >>> found = follow(np.array([1, 1, 2, 3.0]), np.array([1, 2, 4, 6.0]), settings=few, rng=rng)
    >>> found["slope"], found["exact"]
    (2.0, True)
    """
    by_age = np.argsort(months, kind="stable")
    ages, sizes = np.unique(months, return_counts=True)
    # Standardised ranks: their products sum to Spearman's correlation, whoever has which age.
    age_rank, rank = (_standard(stats.rankdata(x[by_age])) for x in (months, values))
    n_all = math.factorial(months.size) // math.prod(map(math.factorial, sizes.tolist()))
    exact = n_all <= settings.max_permutations
    if exact:
        order = arrangements(sizes.tolist())
    else:
        places = np.tile(np.arange(months.size), (settings.max_permutations, 1))
        order = rng.permuted(places, axis=1)
    observed = float(rank @ age_rank)
    reached = int((np.abs(rank[order] @ age_rank) >= abs(observed) - _TIE).sum())
    slope = stats.theilslopes(values, months, alpha=settings.confidence)
    return {
        "n_animals": months.size,
        "n_ages": ages.size,
        "spearman": round(observed, 12),
        "p": reached / n_all if exact else (reached + 1) / (len(order) + 1),
        "exact": exact,
        "slope": float(slope.slope),
        "slope_low": float(slope.low_slope),
        "slope_high": float(slope.high_slope),
    }


def arrangements(sizes: Sequence[int]) -> NDArray[np.int64]:
    """Return every way to share animals out over groups of these sizes.

    Returns
    -------
    array of shape (n_arrangements, sum of sizes)
        The animals of the first group, then those of the second, and so on.

    Examples
    --------
    >>> arrangements([1, 2]).tolist()
    [[0, 1, 2], [1, 0, 2], [2, 0, 1]]
    """
    placed = np.empty((1, 0), dtype=np.int64)
    free = np.arange(sum(sizes))[np.newaxis]
    for size in sizes:
        n = free.shape[1]
        taken = np.array(list(itertools.combinations(range(n), size)))
        left = np.array([np.setdiff1d(np.arange(n), some) for some in taken], dtype=np.int64)
        before = np.repeat(placed, len(taken), axis=0)
        placed = np.concatenate([before, free[:, taken].reshape(-1, size)], axis=1)
        free = free[:, left].reshape(len(placed), n - size)
    return placed


def _standard(ranks: Floats) -> Floats:
    centred = ranks - ranks.mean()
    scaled: Floats = centred / math.sqrt(float(centred @ centred))
    return scaled


def _run(args: argparse.Namespace) -> None:
    table = trend(tables.read(args.metrics, METRICS), load(args.params).trend)
    tables.write(table, TREND, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
