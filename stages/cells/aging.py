"""Compare old with young animals, tissue by tissue: change, interval, exact tests and quadrant.

Original step 04. The change is the difference of the medians over animals (the published
convention). Beside its bootstrap interval stands the Hodges-Lehmann shift, whose rank interval
holds its level exactly even for four animals. p-values are adjusted over the tissues of one cohort
and platform, metric by metric. A direction is emphasised, in every figure and sentence, by one
rule (:func:`emphasised`); :mod:`stages.cells.calibration` states how often it errs.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stages.base import cli, tables
from stages.base.errors import AtlasError
from stages.base.settings import load
from stages.cells import counts
from stages.cells.settings import Aging
from stages.cells.tables.aging import AGING, NOT_COMPARED
from stages.cells.tables.metrics import METRICS
from stages.measurement import resampling
from stages.measurement.concentration import quadrant
from stages.measurement.resampling import SIGNIFICANT
from stages.measurement.streams import stream

PLANE = ["gini", "effective_number"]


def aging(metrics: pd.DataFrame, settings: Aging) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the comparison of every tissue and metric, and the tissues that could not be compared.

    Parameters
    ----------
    metrics
        ``METRICS``.
    settings
        Metrics, confidence, and the permutations.

    Returns
    -------
    aging, not_compared
        ``AGING`` and ``NOT_COMPARED``.

    Raises
    ------
    AtlasError
        No tissue has two young and two old animals.
    """
    rows, skipped = [], []
    tissues = metrics.groupby(counts.TISSUE, sort=True)
    for key, tissue in tissues:
        groups = tissue.loc[tissue["cells"] == "all", "age_group"].value_counts()
        n_young, n_old = int(groups.get("young", 0)), int(groups.get("old", 0))
        if min(n_young, n_old) < counts.MIN_ANIMALS:
            reason = f"needs {counts.MIN_ANIMALS} young and {counts.MIN_ANIMALS} old animals"
            skipped.append([*key, n_young, n_old, reason])
            continue
        rng = stream(settings.seed, *key)
        for cells, samples in tissue.groupby("cells", sort=True):
            for metric in settings.metrics:
                found = compare(samples, metric, settings=settings, rng=rng)
                if found:
                    names = dict(zip(counts.TISSUE, key, strict=True))
                    rows.append(names | {"cells": cells, "metric": metric} | found)
    not_compared = pd.DataFrame(skipped, columns=list(NOT_COMPARED.columns))
    if not rows:
        where = "; ".join(f"{' '.join(r[:3])}: {r[3]} young, {r[4]} old" for r in skipped[:5])
        msg = (
            f"no tissue has {counts.MIN_ANIMALS} young and {counts.MIN_ANIMALS} old animals "
            f"({where}). "
            "Check young_max_months and old_min_months of the atlas, and the exclusions table."
        )
        raise AtlasError(msg)
    table = pd.DataFrame(rows)
    family = table.groupby(["cohort", "platform", "cells", "metric"])["mann_whitney_p"]
    table["mann_whitney_q"] = family.transform(resampling.benjamini_hochberg)
    table["quadrant"] = quadrants(table)
    table["emphasised"] = emphasised(table)
    return table[list(AGING.columns)], not_compared


def compare(
    samples: pd.DataFrame, metric: str, *, settings: Aging, rng: np.random.Generator
) -> dict[str, object]:
    """Compare the young and old samples of one tissue in one metric.

    The result is empty if the metric is undefined for too many of them.
    """
    known = samples[samples[metric].notna()]
    young = known.loc[known["age_group"] == "young", metric].to_numpy(float)
    old = known.loc[known["age_group"] == "old", metric].to_numpy(float)
    if min(young.size, old.size) < counts.MIN_ANIMALS:
        return {}
    change = resampling.bootstrap_median_change(young, old, confidence=settings.confidence)
    shift = resampling.shift_interval(young, old, confidence=settings.confidence)
    ranks = resampling.mann_whitney(young, old)
    return {
        "n_young": young.size,
        "n_old": old.size,
        "young_median": float(np.median(young)),
        "old_median": float(np.median(old)),
        "change": change.estimate,
        "change_low": change.low,
        "change_high": change.high,
        "shift": shift.estimate,
        "shift_low": shift.low,
        "shift_high": shift.high,
        "shift_confidence": shift.confidence,
        "mann_whitney_u": ranks.statistic,
        "mann_whitney_p": ranks.p,
        "mann_whitney_p_smallest": ranks.p_smallest,
        **_within_sex(known, metric, settings=settings, rng=rng),
    }


def _within_sex(
    samples: pd.DataFrame, metric: str, *, settings: Aging, rng: np.random.Generator
) -> dict[str, object]:
    """Permute age within the sexes that have both ages; nan where there is none."""
    young, old = [], []
    for _, same_sex in samples.groupby("sex", sort=True):
        x = same_sex.loc[same_sex["age_group"] == "young", metric].to_numpy(float)
        y = same_sex.loc[same_sex["age_group"] == "old", metric].to_numpy(float)
        if x.size and y.size:
            young.append(x)
            old.append(y)
    n = sum(x.size + y.size for x, y in zip(young, old, strict=True))
    if not young:
        test = resampling.Test(math.nan, math.nan, math.nan, exact=True)
    else:
        test = resampling.stratified_permutation(
            young, old, max_permutations=settings.max_permutations, rng=rng
        )
    return {
        "within_sex_p": test.p,
        "within_sex_p_smallest": test.p_smallest,
        "within_sex_n": n,
        "within_sex_exact": test.exact,
    }


def quadrants(table: pd.DataFrame) -> pd.Series:
    """Name the quadrant of each tissue's change (:func:`quadrant`)."""
    key = [*counts.TISSUE, "cells"]
    plane = table[table["metric"].isin(PLANE)]
    change = plane.pivot_table(index=key, columns="metric", values="change", sort=False)
    named = pd.Series(quadrant(change["gini"], change["effective_number"]), index=change.index)
    return pd.Series(named.loc[pd.MultiIndex.from_frame(table[key])].to_numpy(), index=table.index)


def emphasised(table: pd.DataFrame) -> pd.Series:
    """Say of each tissue whether its direction is emphasised: the one rule for it.

    Of both metrics of the plane the interval of the change of medians leaves out zero, and the
    exact Mann-Whitney p is at most ``SIGNIFICANT``. The interval alone is too short for few
    animals, and the test alone says nothing of the medians; where the sizes of the groups leave no
    p as small as that (3 against 3: 0.1 at least), no direction is emphasised.

    Parameters
    ----------
    table
        The columns of ``AGING`` up to the p-values, of one or several tissues.
    """
    key = [*counts.TISSUE, "cells"]
    plane = table[table["metric"].isin(PLANE)]
    beyond = (plane["change_low"] > 0) | (plane["change_high"] < 0)
    beyond &= plane["mann_whitney_p"] <= SIGNIFICANT
    found = beyond.groupby([plane[name] for name in key]).sum() == len(PLANE)
    return pd.Series(found.loc[pd.MultiIndex.from_frame(table[key])].to_numpy(), index=table.index)


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    table, not_compared = aging(tables.read(args.metrics, METRICS), settings.aging)
    for row in not_compared.itertuples():
        cli.log.info("%s %s %s not compared: %s", row.cohort, row.platform, row.tissue, row.reason)
    tables.write(table, AGING, args.out)
    tables.write(not_compared, NOT_COMPARED, args.not_compared)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--not-compared", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
