r"""Follow the concentration of the heads' effects along training, with intervals.

Two questions have two intervals. How well do these sequences fix the number? Sequences are
resampled, the same ones at all steps. How far does it rest on the heads that there are? Heads are
resampled, the same ones at all steps.

Absolute values make noise count: a head without effect adds :math:`|\hat\delta| > 0`, so the sum
is too high, and a Gini coefficient near that of noise. Resampled sequences carry the noise twice,
so the plain percentile interval moves away from the truth by as much as the estimate did. The
basic interval, its mirror image about the estimate, moves back by that much [1]_. The interval
given here as `sequences_*` is the hull of both. Over simulated effects (48 heads on 32 sequences
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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli, tables
from stages.base.errors import TableError
from stages.base.settings import load
from stages.heads import effects
from stages.heads.effects import Effects
from stages.heads.measures import measure, measure_resampled, measure_weighted
from stages.heads.settings import Trajectory
from stages.heads.tables.effects import PERTURBATIONS
from stages.heads.tables.trajectory import (
    HEAD_CHANGE,
    HEAD_METRICS,
    HEAD_NOISE_FLOOR,
    HEAD_TRAJECTORY,
)
from stages.measurement import resampling

Floats = NDArray[np.float64]

_SUM = "sum_abs_delta_nats"
_ENDS = [
    f"{kind}_{end}" for kind in ("sequences", "percentile", "heads") for end in ("low", "high")
]


@dataclass(frozen=True)
class Draws:
    """The metrics of one perturbation: observed, and over resampled sequences and heads."""

    values: Floats  # (n_steps, n_metrics)
    sequences: Floats  # (n_steps, n_draws, n_metrics)
    heads: Floats  # (n_steps, n_draws, n_metrics)


def resample(steps: Sequence[Effects], *, draws: int, rng: np.random.Generator) -> Draws:
    """Resample sequences, and separately heads, jointly over the steps of one perturbation."""
    n_sequences, n_heads = steps[0].per_sequence.shape
    weights = resampling.group_weights(n_sequences, draws, rng)
    chosen = rng.integers(n_heads, size=(draws, n_heads))
    means = [part.per_sequence.mean(axis=0) for part in steps]
    return Draws(
        values=np.stack([measure(mean) for mean in means]),
        sequences=np.stack([measure_weighted(weights, part.per_sequence) for part in steps]),
        heads=np.stack([measure_resampled(chosen, mean) for mean in means]),
    )


def intervals(estimate: Floats, sequences: Floats, heads: Floats, confidence: float) -> Floats:
    """Return the ends of the three intervals, in the order of the tables' columns.

    Parameters
    ----------
    estimate : shape (...)
    sequences, heads : shape (n_draws, ...)

    Returns
    -------
    array of shape (6, ...)
    """
    low, high = resampling.percentile_interval(sequences, confidence=confidence)
    basic_low, basic_high = 2 * estimate - high, 2 * estimate - low
    by_heads = resampling.percentile_interval(heads, confidence=confidence)
    return np.stack(
        [np.minimum(low, basic_low), np.maximum(high, basic_high), low, high, *by_heads]
    )


def _within_range(ends: Floats, n_heads: int) -> Floats:
    """Cut the mirrored ends at what a metric can be."""
    most = np.array([1 - 1 / n_heads, 1, n_heads, 1, np.inf])
    least = np.array([0, 0, 1, 1 / n_heads, 0])
    kept: Floats = ends.copy()
    kept[:2] = np.clip(ends[:2], least, most)
    return kept


def trajectory(
    parts: Sequence[Effects], noise_floor: pd.DataFrame, params: Trajectory
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the metrics of every step, and their change from the first step to the last.

    Parameters
    ----------
    parts
        Effects of all steps (:func:`stages.heads.effects.read`).
    noise_floor
        ``HEAD_NOISE_FLOOR`` of the same effects.

    Returns
    -------
    DataFrame, DataFrame
        ``HEAD_TRAJECTORY``, ``HEAD_CHANGE``; without rows where there is one step.

    Raises
    ------
    TableError
        The noise floor is not that of these effects.
    """
    floors = noise_floor.set_index(["step", "perturbation", "metric"])
    rows, changes = [], []
    for perturbation, steps in effects.heads(parts).items():
        rng = np.random.default_rng([params.seed, PERTURBATIONS.index(perturbation)])
        drawn = resample(steps, draws=params.draws, rng=rng)
        n_heads = len(steps[0].components)
        sizes = {"n_heads": n_heads, "n_sequences": steps[0].n_sequences}
        for i, part in enumerate(steps):
            values = drawn.values[i]
            ends = intervals(values, drawn.sequences[i], drawn.heads[i], params.confidence)
            ends = _within_range(ends, n_heads)
            of_step = {
                metric: _floor(floors, part, metric, float(value))
                for metric, value in zip(HEAD_METRICS, values, strict=True)
            }
            total = float(values[HEAD_METRICS.index(_SUM)])
            rest = sizes | {
                "noise_share": of_step[_SUM]["floor"] / total if total else np.nan,
                "loss_base": part.loss_base.mean(),
            }
            for m, metric in enumerate(HEAD_METRICS):
                key = {"step": part.step, "perturbation": perturbation, "metric": metric}
                interval = dict(zip(_ENDS, ends[:, m], strict=True))
                rows.append(key | {"value": values[m]} | interval | of_step[metric] | rest)
        if len(steps) > 1:
            change = drawn.values[-1] - drawn.values[0]
            moved = drawn.sequences[-1] - drawn.sequences[0]
            by_heads = drawn.heads[-1] - drawn.heads[0]
            ends = intervals(change, moved, by_heads, params.confidence)
            for m, metric in enumerate(HEAD_METRICS):
                changes.append(
                    {
                        "perturbation": perturbation,
                        "metric": metric,
                        "step_first": steps[0].step,
                        "step_last": steps[-1].step,
                        "value_first": drawn.values[0, m],
                        "value_last": drawn.values[-1, m],
                        "change": change[m],
                        **dict(zip(_ENDS, ends[:, m], strict=True)),
                        **sizes,
                    }
                )
    change_table = pd.DataFrame(changes) if changes else tables.empty(HEAD_CHANGE)
    return pd.DataFrame(rows)[list(HEAD_TRAJECTORY.columns)], change_table


def _floor(floors: pd.DataFrame, part: Effects, metric: str, value: float) -> dict[str, float]:
    key = (part.step, part.perturbation, metric)
    if key not in floors.index or not np.isclose(
        floors.loc[key, "observed"], value, rtol=1e-9, atol=0, equal_nan=True
    ):
        msg = (
            f"the noise floor is not that of these effects ({metric}, {part.name}). "
            "Run dvc repro noise_floor."
        )
        raise TableError(msg)
    return {name: float(floors.loc[key, name]) for name in ("floor", "floor_low", "floor_high")}


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    parts = effects.read(args.effects, settings.model.checkpoints)
    floor = tables.read(args.noise_floor, HEAD_NOISE_FLOOR)
    along, change = trajectory(parts, floor, settings.trajectory)
    tables.write(along, HEAD_TRAJECTORY, args.out)
    tables.write(change, HEAD_CHANGE, args.change)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--effects", type=Path, required=True, help="folder of step<N>.parquet")
    parser.add_argument("--noise-floor", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--change", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
