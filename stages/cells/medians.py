"""State the medians of two groups of samples as one measured system among others.

A tissue is a series with two states, its reference samples (the young) and those that are compared
with them (the old); the replicates are animals, each measured over its own cell types
(:mod:`stages.cells.metrics`). A state's value is the median over its animals, with the interval of
the exact bootstrap (:func:`stages.measurement.resampling.median_distribution`). Beside it stand
draws for what needs both metrics of an animal together: resampled animals, and animals exchanged
between the groups; in pairs (:mod:`stages.cells.design`) both partners are drawn, and each pair is
exchanged within itself.
"""

import argparse
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli, tables
from stages.base.settings import load
from stages.cells import counts
from stages.cells.design import Design, design
from stages.cells.settings import Medians
from stages.cells.tables.metrics import METRICS
from stages.inputs.tables import TWO_GROUPS
from stages.measurement import resampling
from stages.measurement.measured import write_draws
from stages.measurement.metrics import lognormal_share
from stages.measurement.streams import stream
from stages.measurement.tables import CHANGES, MEASURED

Floats = NDArray[np.float64]

TOGETHER = (
    ("gini", "effective_number"),
    ("gini_corrected", "effective_share", "effective_excess"),
)
"""Metrics of one animal that are drawn together."""
MEASURED_BY = tuple(itertools.chain(*TOGETHER))


def effective_share(samples: pd.DataFrame) -> Floats:
    """Return the effective number over the number of components of each sample.

    The number of components n, whatever the category set, follows from the two Gini coefficients,
    whose ratio is n / (n - 1); where both are zero all components are equal, hence present, and n
    is the richness. With one component the corrected Gini is undefined, and so is the share.

    Parameters
    ----------
    samples
        Rows of ``METRICS``.
    """
    gini, corrected, number, n = (
        samples[name].to_numpy(float)
        for name in ("gini", "gini_corrected", "effective_number", "richness")
    )
    n = np.divide(corrected, corrected - gini, out=n.copy(), where=corrected > gini)
    return np.where(np.isnan(corrected), np.nan, number / n)


def medians(
    metrics: pd.DataFrame, settings: Medians
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Measure every tissue that has two samples in each group, or two pairs.

    Parameters
    ----------
    metrics
        ``METRICS``.

    Returns
    -------
    measured, changes, draws
        As :func:`stages.measurement.measured.measured` returns them.
    """
    rows, changes, drawn = [], [], []
    share = effective_share(metrics)
    excess = share - lognormal_share(metrics["gini"].to_numpy(float))
    known = metrics.assign(effective_share=share, effective_excess=excess)
    for (*tissue, cells), samples in known.groupby([*counts.TISSUE, "cells"], sort=True):
        key = {
            "system": "cells",
            "group": f"{tissue[0]} {tissue[1]}",
            "series": tissue[2],
            "condition": cells,
        }
        for metric in MEASURED_BY:
            values, found = _of(samples, [metric])
            if min(found.n) < counts.MIN_ANIMALS:
                continue
            rows += [
                key | _value(state, metric, of_state, settings)
                for state, of_state in zip(TWO_GROUPS, found.split(values[:, 0]), strict=True)
            ]
            changes.append(key | _change(metric, values[:, 0], found, settings))
        drawn += _draws(samples, key, settings)
    return (
        pd.DataFrame(rows).reindex(columns=list(MEASURED.columns)),
        pd.DataFrame(changes).reindex(columns=list(CHANGES.columns)),
        pd.concat(drawn, ignore_index=True) if drawn else _no_draws(),
    )


def _of(samples: pd.DataFrame, metrics: Sequence[str]) -> tuple[Floats, Design]:
    """Return the metrics of the samples that have them all, (n_samples, n_metrics), and the design.

    Of the samples of both groups only.
    """
    values = samples[list(metrics)].to_numpy(float)
    kept = np.isfinite(values).all(axis=1)
    return values[kept], design(samples[kept].reset_index(drop=True))


def _value(state: str, metric: str, values: Floats, settings: Medians) -> dict[str, object]:
    median = resampling.bootstrap_median(values, confidence=settings.confidence)
    return {
        "state": state,
        "metric": metric,
        "value": median.estimate,
        **_ends(median.low, median.high),
        "n_components": 1,
        "n_replicates": len(values),
    }


def _change(metric: str, values: Floats, found: Design, settings: Medians) -> dict[str, object]:
    reference, compared = found.split(values)
    change = found.bootstrap(values, confidence=settings.confidence)
    return {
        "metric": metric,
        "state_first": TWO_GROUPS[0],
        "state_last": TWO_GROUPS[1],
        "value_first": float(np.median(reference)),
        "value_last": float(np.median(compared)),
        "change": change.estimate,
        **_ends(change.low, change.high),
        "n_components": 1,
        "n_first": len(reference),
        "n_last": len(compared),
    }


def _ends(low: float, high: float) -> dict[str, object]:
    # Medians are of values as they are, so the plain bootstrap is the whole interval.
    return {
        f"{kind}_{end}": value
        for kind in ("replicates", "percentile")
        for end, value in (("low", low), ("high", high))
    }


def _draws(samples: pd.DataFrame, key: dict[str, object], settings: Medians) -> list[pd.DataFrame]:
    """Return draws of the medians of both groups: samples resampled, and exchanged between them."""
    wide: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for metrics in TOGETHER:
        values, found = _of(samples, metrics)
        if min(found.n) < counts.MIN_ANIMALS:
            continue
        rng = stream(settings.seed, *map(str, key.values()), *metrics)
        for sampling, both in (
            ("replicates", resampled(values, found, settings, rng)),
            ("permuted", permuted(values, found, settings, rng)),
        ):
            for state, of_state in zip(TWO_GROUPS, both, strict=True):
                table = pd.DataFrame(of_state, columns=list(metrics))
                wide.setdefault((sampling, state), []).append(table)
    parts = []
    for (sampling, state), tables_ in wide.items():
        table = pd.concat(tables_, axis=1).reindex(columns=list(MEASURED_BY))
        facts = {**{name: key[name] for name in ("group", "series", "condition")}, "state": state}
        facts |= {"sampling": sampling, "draw": np.arange(len(table))}
        parts.append(pd.concat([pd.DataFrame(facts, index=table.index), table], axis=1))
    return parts


def _no_draws() -> pd.DataFrame:
    names = ("group", "series", "condition", "state", "sampling")
    empty = {name: pd.Series(dtype=str) for name in names} | {"draw": pd.Series(dtype=int)}
    return pd.DataFrame(empty | {name: pd.Series(dtype=float) for name in MEASURED_BY})


def resampled(
    values: Floats, found: Design, settings: Medians, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return the medians of both groups over resampled samples, or pairs of them.

    In pairs the second is the first plus the median of the changes, so that their difference is the
    change that is reported.

    Parameters
    ----------
    values : shape (n_samples, n_metrics)

    Returns
    -------
    reference, compared : arrays of shape (draws, n_metrics)
    """
    reference, compared = found.split(values)

    def chosen(n: int) -> NDArray[np.int64]:
        return rng.integers(n, size=(settings.draws, n))

    of_reference = chosen(len(reference))
    first: Floats = np.median(reference[of_reference], axis=1)
    if found.paired:
        return first, first + np.median((compared - reference)[of_reference], axis=1)
    return first, np.median(compared[chosen(len(compared))], axis=1)


def permuted(
    values: Floats, found: Design, settings: Medians, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return the medians of both groups when samples are exchanged between them, or within pairs.

    Parameters
    ----------
    values : shape (n_samples, n_metrics)

    Returns
    -------
    reference, compared : arrays of shape (n_arrangements, n_metrics)
        All arrangements if there are at most ``max_permutations``, else that many drawn ones.
    """
    reference, compared = found.split(values)
    if found.paired:
        n = len(reference)
        signs = (
            np.array(list(itertools.product([1, -1], repeat=n)))
            if 2**n <= settings.max_permutations
            else rng.choice([1, -1], size=(settings.max_permutations, n))
        )
        changes = signs[:, :, np.newaxis] * (compared - reference)
        swapped = np.where(signs[:, :, np.newaxis] > 0, reference, compared)
        first = np.median(swapped, axis=1)
        return first, first + np.median(changes, axis=1)
    pooled = np.concatenate([reference, compared])
    n, n_compared = len(pooled), len(compared)
    if math.comb(n, n_compared) <= settings.max_permutations:
        order = np.array(
            [
                [*taken, *sorted(set(range(n)) - set(taken))]
                for taken in itertools.combinations(range(n), n_compared)
            ]
        )
    else:
        order = rng.permuted(np.tile(np.arange(n), (settings.max_permutations, 1)), axis=1)
    of_compared, of_reference = (
        np.median(pooled[part], axis=1) for part in (order[:, :n_compared], order[:, n_compared:])
    )
    return of_reference, of_compared


def _run(args: argparse.Namespace) -> None:
    table, changes, draws = medians(tables.read(args.metrics, METRICS), load(args.params).medians)
    tables.write(table, MEASURED, args.out)
    tables.write(changes, CHANGES, args.changes)
    write_draws(draws, args.draws)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--changes", type=Path, required=True)
    parser.add_argument("--draws", type=Path, required=True, help="bootstrap draws (.parquet)")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
