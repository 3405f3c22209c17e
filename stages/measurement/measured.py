r"""Measure the effects of a system's components: one pass from effects to numbers.

For every metric and state: the value, its intervals, what noise alone would give, what exposure
alone would give, and the change from any state to any later one.

Two questions have two intervals. How well do these replicates fix the number? Replicates are
resampled, the same ones in all states. How far does it rest on the components that there are?
Components are resampled, the same ones in all states.

Absolute values make noise count: a component without effect adds :math:`|\hat\delta| > 0`, so the
sum is too high, and a Gini coefficient near that of noise. Resampled replicates carry the noise
twice, so the plain percentile interval moves away from the truth by as much as the estimate did.
The basic interval, its mirror image about the estimate, moves back by that much [1]_. The interval
given here as `replicates_*` is the hull of both. Over simulated effects (48 heads on 32 sequences
and 384 heads on 100, correlated and heavy-tailed), the nominal 95% hull held the true Gini and
effective number in 0.91 to 0.97 of cases while noise made up to a quarter of the sum of absolute
effects (`noise_share`), in 0.84 to 0.89 up to two fifths, and in 0.2 to 0.6 at three fifths, where
no interval should be believed; the true sum in 0.92 to 0.99 throughout. The percentile interval
held them in 0.38 to 0.80 at a quarter already.

References
----------
.. [1] Davison, A. C. and Hinkley, D. V. (1997). Bootstrap Methods and their Application. Cambridge
   University Press, section 5.2.
"""

import argparse
import importlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.base import cli, tables
from stages.base.errors import TableError
from stages.base.files import atomic_path
from stages.base.settings import load
from stages.measurement import effects, nulls, resampling
from stages.measurement.effects import Effects
from stages.measurement.metrics import (
    SUM,
    Metric,
    Size,
    bounds,
    measure,
    measure_resampled,
    measure_weighted,
)
from stages.measurement.settings import Measured, System
from stages.measurement.streams import stream
from stages.measurement.tables import CHANGES, MEASURED

Floats = NDArray[np.float64]

_ENDS = [
    f"{kind}_{end}"
    for kind in ("replicates", "percentile", "components")
    for end in ("low", "high")
]


@dataclass(frozen=True)
class Draws:
    """The metrics of one series: observed, and over resampled replicates and components."""

    values: Floats  # (n_states, n_metrics)
    replicates: Floats  # (n_states, n_draws, n_metrics)
    components: Floats  # (n_states, n_draws, n_metrics)


def resample(
    states: Sequence[Effects],
    metrics: Sequence[Metric],
    *,
    draws: int,
    rng: np.random.Generator,
    size: Size = np.abs,
) -> Draws:
    """Resample replicates, and separately components, jointly over the states of one series.

    `size` is what is measured of a mean effect.
    """
    n_replicates, n_components = states[0].values.shape
    weights = resampling.group_weights(n_replicates, draws, rng)
    chosen = rng.integers(n_components, size=(draws, n_components))
    means = [part.values.mean(axis=0) for part in states]
    replicates = np.stack(
        [measure_weighted(weights, part.values, metrics, size=size) for part in states]
    )
    if n_replicates < effects.MIN_REPLICATES:
        # One says nothing about others.
        replicates = np.full_like(replicates, np.nan)
    return Draws(
        values=np.stack([measure(size(mean), metrics) for mean in means]),
        replicates=replicates,
        components=np.stack(
            [measure_resampled(chosen, mean, metrics, size=size) for mean in means]
        ),
    )


def intervals(
    estimate: Floats, replicates: Floats, components: Floats, confidence: float
) -> Floats:
    """Return the ends of the three intervals, in the order of the tables' columns.

    Parameters
    ----------
    estimate : shape (...)
    replicates, components : shape (n_draws, ...)

    Returns
    -------
    array of shape (6, ...)
    """
    percentile = resampling.percentile_interval(replicates, confidence=confidence)
    over_components = resampling.percentile_interval(components, confidence=confidence)
    return np.stack([*hull(estimate, *percentile), *percentile, *over_components])


def hull(estimate: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Return the hull of a percentile interval and of its mirror image about the estimate."""
    return np.minimum(low, 2 * estimate - high), np.maximum(high, 2 * estimate - low)


def measured(
    parts: Sequence[Effects], system: System, metrics: Sequence[Metric], params: Measured
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Measure every series of a system.

    Parameters
    ----------
    parts
        Effects of all states (:func:`stages.measurement.effects.read_states`).

    Returns
    -------
    measured, changes, draws
        ``MEASURED``, ``CHANGES`` (without rows where there is one state), and the bootstrap draws:
        `group`, `series`, `condition`, `state`, `sampling`, `draw`, and a column a metric.

    Raises
    ------
    TableError
        There is no component of the kinds that the settings ask for.
    """
    rows: list[dict[str, object]] = []
    moved: list[dict[str, object]] = []
    drawn: list[pd.DataFrame] = []
    found = effects.series(parts, system.kinds)
    if not found:
        msg = (
            f"the effects in {system.effects} hold no {' or '.join(system.kinds) or 'component'}. "
            "Run the stage that writes them, or change systems in conf/config.yaml."
        )
        raise TableError(msg)
    for (kind, condition), states in found.items():
        key = {
            "system": states[0].state.system,
            "group": system.group,
            "series": kind,
            "condition": condition,
        }
        rng = stream(params.seed, kind, condition)
        resampled = resample(states, metrics, draws=params.draws, rng=rng)
        rows += _values(states, resampled, key, system, metrics, params)
        moved += _changes(states, resampled, key, metrics, params)
        drawn += _draws(states, resampled, key, metrics)
    table = pd.DataFrame(rows, columns=list(MEASURED.columns))
    changes = pd.DataFrame(moved, columns=list(CHANGES.columns))
    return table, changes if moved else tables.empty(CHANGES), pd.concat(drawn, ignore_index=True)


def _values(
    states: Sequence[Effects],
    resampled: Draws,
    key: Mapping[str, object],
    system: System,
    metrics: Sequence[Metric],
    params: Measured,
) -> list[dict[str, object]]:
    n_components = len(states[0].components)
    least, most = bounds(metrics, n_components)
    blank = [
        resampled.values[i] for i, part in enumerate(states) if part.state.name == system.untrained
    ] or [np.full(len(metrics), np.nan)]
    rows = []
    for i, part in enumerate(states):
        values = resampled.values[i]
        ends = intervals(
            values, resampled.replicates[i], resampled.components[i], params.confidence
        )
        # What was mirrored is cut at what a metric can be.
        ends[:2] = np.clip(ends[:2], least, most)
        floor, noise = _floor(part, values, metrics, params)
        columns = {
            "value": values,
            **dict(zip(_ENDS, ends, strict=True)),
            **floor,
            **_exposed(part, metrics),
            "untrained": blank[0],
        }
        total = np.abs(part.values.mean(axis=0)).sum()
        of_state = dict(key) | {
            "state": part.state.name,
            "position": part.state.position,
            "noise_share": noise / total if total else np.nan,
            "exposure": part.state.exposure if part.exposure is not None else None,
            "n_components": n_components,
            "n_replicates": part.n_replicates,
            "baseline": np.nan if part.baseline is None else part.baseline.mean(),
        }
        rows += [
            of_state
            | {"metric": metric.name}
            | {name: column[m] for name, column in columns.items()}
            for m, metric in enumerate(metrics)
        ]
    return rows


def _floor(
    part: Effects, observed: Floats, metrics: Sequence[Metric], params: Measured
) -> tuple[dict[str, Floats], float]:
    """Return what noise alone would give, and its median sum of absolute effects.

    `p` is two-sided and counts the observed value among the draws: Phipson, B. and Smyth, G. K.
    (2010), Statistical Applications in Genetics and Molecular Biology 9:39. The numbers of a state
    do not depend on which other states there are.
    """
    if part.n_replicates < effects.MIN_REPLICATES:
        unknown = np.full(len(metrics), np.nan)
        names = ("floor", "floor_low", "floor_high", "floor_independent", "p", "p_smallest")
        return dict.fromkeys(names, unknown), math.nan
    rng = stream(params.seed, "floor", part.kind, part.condition, part.state.name)
    drawn = nulls.floor_draws(part.values, (*metrics, SUM), draws=params.draws, rng=rng)
    floor, noise = drawn[:, :-1], float(np.median(drawn[:, -1]))
    error = part.values.std(axis=0, ddof=1) / math.sqrt(part.n_replicates)
    error[nulls.without_noise(part.values)] = 0.0
    alone = nulls.independent_draws(error, metrics, draws=params.draws, rng=rng)
    low, high = resampling.percentile_interval(floor, confidence=params.confidence)
    above = (1 + (floor >= observed).sum(axis=0)) / (params.draws + 1)
    below = (1 + (floor <= observed).sum(axis=0)) / (params.draws + 1)
    # A system without any effect has no concentration, and nothing to test.
    p = np.where(np.isnan(observed), np.nan, np.minimum(1, 2 * np.minimum(above, below)))
    found = {
        "floor": np.median(floor, axis=0),
        "floor_low": low,
        "floor_high": high,
        "floor_independent": np.median(alone, axis=0),
        "p": p,
        "p_smallest": np.full(len(metrics), min(1.0, 2 / (params.draws + 1))),
    }
    return found, noise


def _exposed(part: Effects, metrics: Sequence[Metric]) -> dict[str, Floats]:
    names = ("exposure_alone", "exposure_removed")
    exposure = part.exposure
    if exposure is None:
        return dict.fromkeys(names, np.full(len(metrics), np.nan))
    found = nulls.by_exposure(part.values.mean(axis=0), exposure)
    if np.isnan(found[0]).any():
        return dict.fromkeys(names, np.full(len(metrics), np.nan))
    return {name: measure(one, metrics) for name, one in zip(names, found, strict=True)}


def _changes(
    states: Sequence[Effects],
    resampled: Draws,
    key: Mapping[str, object],
    metrics: Sequence[Metric],
    params: Measured,
) -> list[dict[str, object]]:
    rows = []
    for i, j in itertools.combinations(range(len(states)), 2):
        first, last = states[i], states[j]
        change = resampled.values[j] - resampled.values[i]
        ends = intervals(
            change,
            resampled.replicates[j] - resampled.replicates[i],
            resampled.components[j] - resampled.components[i],
            params.confidence,
        )
        rows += [
            dict(key)
            | {
                "metric": metric.name,
                "state_first": first.state.name,
                "state_last": last.state.name,
                "position_first": first.state.position,
                "position_last": last.state.position,
                "value_first": resampled.values[i, m],
                "value_last": resampled.values[j, m],
                "change": change[m],
                **dict(zip(_ENDS, ends[:, m], strict=True)),
                "n_components": len(first.components),
                "n_first": first.n_replicates,
                "n_last": last.n_replicates,
            }
            for m, metric in enumerate(metrics)
        ]
    return rows


def _draws(
    states: Sequence[Effects],
    resampled: Draws,
    key: Mapping[str, object],
    metrics: Sequence[Metric],
) -> list[pd.DataFrame]:
    names = [metric.name for metric in metrics]
    parts = []
    for i, part in enumerate(states):
        for sampling, over in (
            ("replicates", resampled.replicates[i]),
            ("components", resampled.components[i]),
        ):
            if sampling == "replicates" and part.n_replicates < effects.MIN_REPLICATES:
                continue
            table = pd.DataFrame(over, columns=names)
            table.insert(0, "draw", np.arange(len(over)))
            for name, value in (
                ("sampling", sampling),
                ("state", part.state.name),
                *((name, key[name]) for name in ("condition", "series", "group")),
            ):
                table.insert(0, name, value)
            parts.append(table)
    return parts


def write_draws(draws: pd.DataFrame, path: Path) -> None:
    """Write bootstrap draws as Parquet, atomically."""
    with atomic_path(path) as temporary:
        table = pa.Table.from_pandas(draws, preserve_index=False)
        pq.write_table(table.replace_schema_metadata(None), temporary, compression="zstd")


def metrics_of(room: str) -> Sequence[Metric]:
    """Return the metrics that a room is measured by: ``METRICS`` of its module ``metrics``."""
    module = importlib.import_module(f"stages.{room}.metrics")
    found: Sequence[Metric] = module.METRICS
    return found


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    system: System = settings.systems[args.system]
    parts = effects.read_states(system.effects, system.states)
    table, changes, draws = measured(parts, system, metrics_of(system.room), settings.measured)
    tables.write(table, MEASURED, args.out)
    tables.write(changes, CHANGES, args.changes)
    kept = draws["condition"].isin(system.drawn) if system.drawn else slice(None)
    write_draws(draws[kept], args.draws)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--system", required=True, help="a key of systems")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--changes", type=Path, required=True)
    parser.add_argument("--draws", type=Path, required=True, help="bootstrap draws (.parquet)")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
