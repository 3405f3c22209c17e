"""Compare two groups of samples, tissue by tissue: change, interval, exact tests and quadrant.

Original step 04: old minus young. The change is the difference of the medians over animals (the
published convention); in pairs (:mod:`stages.cells.design`), the median of the differences. Beside
its bootstrap interval stands the Hodges-Lehmann shift, whose rank interval holds its level exactly
even for four animals. p-values are adjusted over the tissues of one cohort and platform, metric by
metric. A direction is emphasised, in every figure and sentence, by one rule (:func:`emphasised`);
:mod:`stages.cells.calibration` states how often it errs.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stages.base import cli, tables
from stages.base.settings import load
from stages.cells import counts
from stages.cells.design import Design, Floats, Places, design, strata
from stages.cells.settings import Contrast
from stages.cells.tables.contrast import CONTRAST, NOT_COMPARED
from stages.cells.tables.metrics import METRICS
from stages.measurement import resampling
from stages.measurement.concentration import quadrant
from stages.measurement.resampling import SIGNIFICANT
from stages.measurement.streams import stream

PLANE = ["gini", "effective_number"]
BY_TISSUE = [*counts.TISSUE, "cells"]


def contrast(metrics: pd.DataFrame, settings: Contrast) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the comparison of every tissue and metric, and the tissues that could not be compared.

    Parameters
    ----------
    metrics
        ``METRICS``.
    settings
        Metrics, confidence, and the permutations.

    Returns
    -------
    contrast, not_compared
        ``CONTRAST`` and ``NOT_COMPARED``; either may be empty.
    """
    rows, skipped = [], []
    for key, tissue in metrics.groupby(counts.TISSUE, sort=True):
        found = design(tissue[tissue["cells"] == "all"].reset_index(drop=True))
        if min(found.n) < counts.MIN_ANIMALS:
            skipped.append([*key, *_sizes(tissue), _reason(tissue, found)])
            continue
        rng = stream(settings.seed, *key)
        for cells, samples in tissue.groupby("cells", sort=True):
            for metric in settings.metrics:
                if compared := compare(samples, metric, settings=settings, rng=rng):
                    names = dict(zip(counts.TISSUE, key, strict=True))
                    rows.append(names | {"cells": cells, "metric": metric} | compared)
    not_compared = pd.DataFrame(skipped, columns=list(NOT_COMPARED.columns))
    if not rows:
        return tables.empty(CONTRAST), not_compared
    table = pd.DataFrame(rows)
    family = table.groupby(["cohort", "platform", "cells", "metric"])["rank_p"]
    table["rank_q"] = family.transform(resampling.benjamini_hochberg)
    table["quadrant"] = quadrants(table)
    table["emphasised"] = emphasised(table)
    return table[list(CONTRAST.columns)], not_compared


def _sizes(samples: pd.DataFrame) -> tuple[int, int]:
    n = samples.drop_duplicates("animal")["group"].value_counts()
    return int(n.get("reference", 0)), int(n.get("compared", 0))


def _reason(samples: pd.DataFrame, found: Design) -> str:
    if found.paired or min(_sizes(samples)) >= counts.MIN_ANIMALS:
        return f"needs {counts.MIN_ANIMALS} complete pairs"
    return f"needs {counts.MIN_ANIMALS} animals in each group"


def compare(
    samples: pd.DataFrame, metric: str, *, settings: Contrast, rng: np.random.Generator
) -> dict[str, object]:
    """Compare both groups of the samples of one tissue in one metric.

    The result is empty if the metric is undefined for too many of them.
    """
    known = samples[samples[metric].notna()].reset_index(drop=True)
    found = design(known)
    if min(found.n) < counts.MIN_ANIMALS:
        return {}
    values = known[metric].to_numpy(float)
    reference, compared = found.split(values)
    level = settings.confidence
    change = found.bootstrap(values, confidence=level)
    if found.paired:
        differences = compared - reference
        shift = resampling.signed_shift_interval(differences, confidence=level)
        ranks = resampling.signed_rank(differences)
    else:
        shift = resampling.shift_interval(reference, compared, confidence=level)
        ranks = resampling.mann_whitney(reference, compared)
    return {
        "n_reference": reference.size,
        "n_compared": compared.size,
        "paired": found.paired,
        "reference_median": float(np.median(reference)),
        "compared_median": float(np.median(compared)),
        "change": change.estimate,
        "change_low": change.low,
        "change_high": change.high,
        "shift": shift.estimate,
        "shift_low": shift.low,
        "shift_high": shift.high,
        "shift_confidence": shift.confidence,
        "rank_statistic": ranks.statistic,
        "rank_p": ranks.p,
        "rank_p_smallest": ranks.p_smallest,
        **_within_blocks(values, strata(known, found), settings=settings, rng=rng),
    }


def _within_blocks(
    values: Floats,
    of: list[tuple[Places, Places]],
    *,
    settings: Contrast,
    rng: np.random.Generator,
) -> dict[str, object]:
    """Permute samples within pairs, or the sexes and blocks with both groups; nan without any."""
    reference, compared = [values[x] for x, _ in of], [values[y] for _, y in of]
    if not of:
        test = resampling.Test(math.nan, math.nan, math.nan, exact=True)
    else:
        test = resampling.stratified_permutation(
            reference, compared, max_permutations=settings.max_permutations, rng=rng
        )
    return {
        "within_block_p": test.p,
        "within_block_p_smallest": test.p_smallest,
        "within_block_n": sum(x.size + y.size for x, y in of),
        "within_block_exact": test.exact,
    }


def quadrants(table: pd.DataFrame, key: list[str] = BY_TISSUE) -> pd.Series:
    """Name the quadrant of the change of what agrees in `key` (:func:`quadrant`)."""
    plane = table[table["metric"].isin(PLANE)]
    change = plane.pivot_table(index=key, columns="metric", values="change", sort=False)
    named = pd.Series(quadrant(change["gini"], change["effective_number"]), index=change.index)
    return pd.Series(named.loc[pd.MultiIndex.from_frame(table[key])].to_numpy(), index=table.index)


def emphasised(table: pd.DataFrame, key: list[str] = BY_TISSUE) -> pd.Series:
    """Say of each tissue whether its direction is emphasised: the one rule for it.

    Of both metrics of the plane the interval of the change leaves out zero, and the exact p of the
    ranks (Mann-Whitney, or Wilcoxon in pairs) is at most ``SIGNIFICANT``. The interval alone is too
    short for few animals, and the test alone says nothing of the medians; where the sizes of the
    groups leave no p as small as that (3 against 3: 0.1 at least), no direction is emphasised.

    Parameters
    ----------
    table
        The columns of ``CONTRAST`` up to the p-values, of one or several tissues.
    key
        What agrees in these columns is one.
    """
    plane = table[table["metric"].isin(PLANE)]
    beyond = (plane["change_low"] > 0) | (plane["change_high"] < 0)
    beyond &= plane["rank_p"] <= SIGNIFICANT
    found = beyond.groupby([plane[name] for name in key]).sum() == len(PLANE)
    return pd.Series(found.loc[pd.MultiIndex.from_frame(table[key])].to_numpy(), index=table.index)


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    table, not_compared = contrast(tables.read(args.metrics, METRICS), settings.contrast)
    for row in not_compared.itertuples():
        cli.log.info("%s %s %s not compared: %s", row.cohort, row.platform, row.tissue, row.reason)
    tables.write(table, CONTRAST, args.out)
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
