"""State the medians of young and old animals as one measured system among others.

A tissue is a series with two states, its young and its old animals; the replicates are animals,
each measured over its own cell types (:mod:`stages.cells.metrics`). A state's value is the median
over its animals, with the interval of the exact bootstrap
(:func:`stages.measurement.resampling.median_distribution`). Beside it stand draws for what needs
both metrics of an animal together: resampled animals, and animals exchanged between the ages.
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
from stages.cells.settings import Medians
from stages.cells.tables.metrics import METRICS
from stages.measurement import resampling
from stages.measurement.measured import write_draws
from stages.measurement.metrics import lognormal_share
from stages.measurement.streams import stream
from stages.measurement.tables import CHANGES, MEASURED

Floats = NDArray[np.float64]

STATES = ("young", "old")
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
    """Measure every tissue that has two young and two old animals.

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
            young, old = (_of(samples, state, [metric])[:, 0] for state in STATES)
            if min(len(young), len(old)) < counts.MIN_ANIMALS:
                continue
            rows += [
                key | _value(state, metric, values, settings)
                for state, values in zip(STATES, (young, old), strict=True)
            ]
            changes.append(key | _change(metric, young, old, settings))
        drawn += _draws(samples, key, settings)
    return (
        pd.DataFrame(rows).reindex(columns=list(MEASURED.columns)),
        pd.DataFrame(changes).reindex(columns=list(CHANGES.columns)),
        pd.concat(drawn, ignore_index=True) if drawn else _no_draws(),
    )


def _of(samples: pd.DataFrame, state: str, metrics: Sequence[str]) -> Floats:
    """Return the metrics of the animals of an age that have them all, (n_animals, n_metrics)."""
    values = samples.loc[samples["age_group"] == state, list(metrics)].to_numpy(float)
    kept: Floats = values[np.isfinite(values).all(axis=1)]
    return kept


def _value(state: str, metric: str, values: Floats, settings: Medians) -> dict[str, object]:
    support, probability = resampling.median_distribution(values)
    tail = (1 - settings.confidence) / 2
    low = float(support[np.searchsorted(np.cumsum(probability), tail)])
    high = float(support[::-1][np.searchsorted(np.cumsum(probability[::-1]), tail)])
    return {
        "state": state,
        "metric": metric,
        "value": float(np.median(values)),
        **_ends(low, high),
        "n_components": 1,
        "n_replicates": len(values),
    }


def _change(metric: str, young: Floats, old: Floats, settings: Medians) -> dict[str, object]:
    change = resampling.bootstrap_median_change(young, old, confidence=settings.confidence)
    return {
        "metric": metric,
        "state_first": STATES[0],
        "state_last": STATES[1],
        "value_first": float(np.median(young)),
        "value_last": float(np.median(old)),
        "change": change.estimate,
        **_ends(change.low, change.high),
        "n_components": 1,
        "n_first": len(young),
        "n_last": len(old),
    }


def _ends(low: float, high: float) -> dict[str, object]:
    # Medians are of values as they are, so the plain bootstrap is the whole interval.
    return {
        f"{kind}_{end}": value
        for kind in ("replicates", "percentile")
        for end, value in (("low", low), ("high", high))
    }


def _draws(samples: pd.DataFrame, key: dict[str, object], settings: Medians) -> list[pd.DataFrame]:
    """Return draws of the medians of both ages: animals resampled, and exchanged between ages."""
    wide: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for metrics in TOGETHER:
        young, old = (_of(samples, state, metrics) for state in STATES)
        if min(len(young), len(old)) < counts.MIN_ANIMALS:
            continue
        rng = stream(settings.seed, *map(str, key.values()), *metrics)
        resampled = [_medians(animals, settings.draws, rng) for animals in (young, old)]
        for sampling, both in (
            ("replicates", resampled),
            ("permuted", permuted(young, old, settings, rng)),
        ):
            for state, found in zip(STATES, both, strict=True):
                table = pd.DataFrame(found, columns=list(metrics))
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


def _medians(animals: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """Return the medians of resampled animals, of shape (draws, n_metrics)."""
    chosen = rng.integers(len(animals), size=(draws, len(animals)))
    found: Floats = np.median(animals[chosen], axis=1)
    return found


def permuted(
    young: Floats, old: Floats, settings: Medians, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return the medians of both ages when animals are exchanged between them.

    Parameters
    ----------
    young, old : shape (n, n_metrics)

    Returns
    -------
    young, old : arrays of shape (n_arrangements, n_metrics)
        All arrangements if there are at most ``max_permutations``, else that many drawn ones.
    """
    pooled = np.concatenate([young, old])
    n, n_old = len(pooled), len(old)
    if math.comb(n, n_old) <= settings.max_permutations:
        order = np.array(
            [
                [*taken, *sorted(set(range(n)) - set(taken))]
                for taken in itertools.combinations(range(n), n_old)
            ]
        )
    else:
        order = rng.permuted(np.tile(np.arange(n), (settings.max_permutations, 1)), axis=1)
    of_old, of_young = (
        np.median(pooled[part], axis=1) for part in (order[:, :n_old], order[:, n_old:])
    )
    return of_young, of_old


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
