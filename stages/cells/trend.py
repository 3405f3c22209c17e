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
from stages.cells.settings import Trend
from stages.cells.tables.metrics import METRICS
from stages.cells.tables.trend import TREND
from stages.measurement import resampling
from stages.measurement.streams import stream

Floats = NDArray[np.float64]

FOLLOWED = ("gini", "effective_number")


def trend(metrics: pd.DataFrame, settings: Trend) -> pd.DataFrame:
    """Return the trend of every tissue that has two young and two old animals (``TREND``).

    Parameters
    ----------
    metrics
        ``METRICS``.
    """
    rows = []
    for (*key, cells), samples in metrics.groupby([*counts.TISSUE, "cells"], sort=True):
        of_group = samples["age_group"].value_counts()
        if min(of_group.get("young", 0), of_group.get("old", 0)) < counts.MIN_ANIMALS:
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
    (2.5, True)
    """
    ages, of_age = np.unique(months, return_inverse=True)
    # Standardised ranks, whose products sum to Spearman's correlation whoever has which age.
    age_rank, rank = (_standard(stats.rankdata(x)) for x in (months, values))
    weights = [float(age_rank[of_age == i][0]) for i in range(ages.size)]
    groups = [rank[of_age == i] for i in range(ages.size)]

    def spearman(*groups: Floats, axis: int) -> Floats:
        sums = [w * group.sum(axis=axis) for w, group in zip(weights, groups, strict=True)]
        total: Floats = np.sum(sums, axis=0)
        return total

    test = stats.permutation_test(
        groups,
        spearman,
        vectorized=True,
        n_resamples=settings.max_permutations,
        rng=rng,
    )
    n_arrangements = math.factorial(months.size) // math.prod(
        math.factorial(group.size) for group in groups
    )
    slope = stats.theilslopes(values, months, alpha=settings.confidence)
    return {
        "n_animals": months.size,
        "n_ages": ages.size,
        "spearman": float(test.statistic),
        "p": float(test.pvalue),
        "exact": n_arrangements <= settings.max_permutations,
        "slope": float(slope.slope),
        "slope_low": float(slope.low_slope),
        "slope_high": float(slope.high_slope),
    }


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
