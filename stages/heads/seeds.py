r"""Follow the heads' concentration along trainings that differ in their seed alone.

An interval over sequences says how well the text fixes the number of one training; one over seeds
what another training would give. It is Student's, :math:`\bar x \pm t_{K-1} s / \sqrt K` over K
trainings, of a value and of a change between two states.

Four numbers stand side by side, since the direction of a change rests on the choice: of all effects
by their absolute values or of the harmful ones alone (:math:`\max(\delta, 0)`), and as measured or
by independent halves of the sequences (:mod:`stages.measurement.halves`), so that noise does not
add. The change is given from every state to every later one: a first state of noise is a baseline
that decides the sign.

The model of ``make reproduce`` is one of the trainings; ``make seeds`` makes the others, which lie
in ``reports/seeds``. Those of another recipe are left out. A model that was not trained here stands
alone, without an interval over seeds.
"""

import argparse
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from stages.base import cli, tables
from stages.base.settings import Settings, load
from stages.heads.components import shown
from stages.heads.recipes import Trained, folder_of, same_recipe
from stages.heads.settings import Seeds
from stages.heads.tables.seeds import HEAD_BASELINES, HEAD_OVER_SEEDS, HEAD_SEEDS, METRICS
from stages.inputs.settings import MiniCellModel, MiniModel
from stages.measurement import effects, halves, measured, nulls, resampling
from stages.measurement.effects import Effects
from stages.measurement.metrics import REGISTRY, measure
from stages.measurement.settings import Measured
from stages.measurement.streams import stream

Floats = NDArray[np.float64]

OF = tuple(REGISTRY[name] for name in METRICS)
WHAT = ["effects", "estimator", "metric"]
TRAINED_ALIKE = "zero"
"""How ``make seeds`` removes heads."""


@dataclass(frozen=True)
class Along:
    """One number along one training."""

    what: tuple[str, str, str]
    """Of which effects, by which estimator, which metric."""
    values: Floats  # (n_states,)
    draws: Floats  # (n_states, n_draws), over resampled sequences
    floor: Floats  # (n_states, 3): median and ends of what noise alone would give
    found_again: Floats  # (n_states,)

    @property
    def peak(self) -> int:
        """Index of the most concentrated state; -1 where no state has a value."""
        if np.isnan(self.values).all():
            return -1
        sign = 1 if self.what[-1] == "gini" else -1
        return int(np.nanargmax(sign * self.values))


def along(states: Sequence[Effects], params: Measured, own: Seeds) -> list[Along]:
    """Return all numbers of one training.

    Those as measured, their draws and floors have the digits of ``measured`` for absolute effects.
    """
    found = []
    for name, side in halves.SIDES.items():
        rng = stream(params.seed, states[0].kind, states[0].condition)
        drawn = measured.resample(states, OF, draws=params.draws, rng=rng, size=side.size)
        floor = np.stack([_floor(part, side, params) for part in states])
        for m, metric in enumerate(METRICS):
            found.append(
                Along(
                    (name, "plug_in", metric),
                    drawn.values[:, m],
                    drawn.replicates[:, :, m],
                    floor[:, :, m],
                    np.full(len(states), np.nan),
                )
            )
        values, draws, again = _by_halves(states, side, own)
        none = np.full((len(states), 3), np.nan)
        found.append(Along((name, "split_half", "gini"), values, draws, none, again))
    return found


def _floor(part: Effects, side: halves.Side, params: Measured) -> Floats:
    """Return median, low and high of what noise alone would give, (3, n_metrics).

    Over the draws that have a value: in some no effect may be harmful.
    """
    if part.n_replicates < effects.MIN_REPLICATES:
        return np.full((3, len(OF)), np.nan)
    rng = stream(params.seed, "floor", part.kind, part.condition, part.state.name)
    drawn = nulls.floor_draws(part.values, OF, draws=params.draws, rng=rng, size=side.size)
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    if not len(drawn):
        return np.full((3, len(OF)), np.nan)
    ends = resampling.percentile_interval(drawn, confidence=params.confidence)
    return np.stack([np.median(drawn, axis=0), *ends])


def _by_halves(
    states: Sequence[Effects], side: halves.Side, own: Seeds
) -> tuple[Floats, Floats, Floats]:
    """Return of each state the Gini coefficient, its draws, and which share of the sum is found."""
    first, every = states[0], [part.values for part in states]
    if first.n_replicates < halves.MIN_REPLICATES:
        none = np.full((len(states), own.draws), np.nan)
        return none[:, 0], none, none[:, 0]
    # The same halves and resamplings in every state: changes are paired.
    rng = stream(own.seed, first.kind, first.condition)
    halved = halves.halvings(first.n_replicates, times=own.halvings, draws=own.draws, rng=rng)
    found = [halves.split_half(values, side, halved) for values in every]
    drawn = [halves.resampled(values, side, halved).gini for values in every]
    whole = measure(side.size(np.stack(every).mean(axis=1)), [REGISTRY["sum_abs"]])[:, 0]
    total = np.array([one.total for one in found])
    with np.errstate(invalid="ignore", divide="ignore"):
        again: Floats = np.where(whole == 0, np.nan, total / whole)
    return np.array([one.gini for one in found]), np.stack(drawn), again


def seeds(
    trainings: Mapping[int | None, Sequence[Effects]], params: Measured, own: Seeds
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Measure every training, and all of them together.

    Parameters
    ----------
    trainings
        Effects of the heads in the same states, by seed; that of ``make reproduce`` first.

    Returns
    -------
    seeds, over_seeds, baselines
        ``HEAD_SEEDS``, ``HEAD_OVER_SEEDS`` and ``HEAD_BASELINES``; the last is without rows where
        there is one state.
    """
    found = {seed: along(states, params, own) for seed, states in trainings.items()}
    first = next(iter(trainings.values()))
    rows = [
        row
        for seed, states in trainings.items()
        for one in found[seed]
        for row in _values(seed, states, one, params.confidence)
    ]
    over, changes = [], []
    for k, leading in enumerate(next(iter(found.values()))):
        same = [numbers[k] for numbers in found.values()]
        values = np.stack([one.values for one in same])  # (n_trainings, n_states)
        peaks = [one.peak for one in same]
        what = dict(zip(WHAT, leading.what, strict=True))
        for i, part in enumerate(first):
            of_state = values[~np.isnan(values[:, i]), i]
            mean, low, high = student(of_state, params.confidence)
            over.append(
                what
                | {"state": part.state.name, "position": part.state.position}
                | {"n_seeds": of_state.size, "mean": mean, "low": low, "high": high}
                | {
                    "smallest": of_state.min() if of_state.size else np.nan,
                    "largest": of_state.max() if of_state.size else np.nan,
                    "n_peaks": peaks.count(i),
                }
            )
        changes += [what | row for row in _changes(first, leading, values, params.confidence)]
    baselines = pd.DataFrame(changes, columns=list(HEAD_BASELINES.columns))
    return (
        pd.DataFrame(rows, columns=list(HEAD_SEEDS.columns)),
        pd.DataFrame(over, columns=list(HEAD_OVER_SEEDS.columns)),
        baselines if changes else tables.empty(HEAD_BASELINES),
    )


def student(values: Floats, confidence: float) -> tuple[float, float, float]:
    """Return the mean and the ends of Student's interval; nan where too few values have them.

    Examples
    --------
    >>> [round(end, 4) for end in student(np.array([1.0, 2.0, 3.0]), 0.95)]
    [2.0, -0.4841, 4.4841]
    """
    if not values.size:
        return math.nan, math.nan, math.nan
    mean = float(values.mean())
    if values.size < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf((1 + confidence) / 2, values.size - 1))
    half *= float(values.std(ddof=1)) / math.sqrt(values.size)
    return mean, mean - half, mean + half


def interval(estimate: float, draws: Floats, confidence: float) -> tuple[float, float]:
    """Return the interval over sequences; nan where too many draws have no value."""
    if math.isnan(estimate) or np.isnan(draws).mean() > (1 - confidence) / 2:
        return math.nan, math.nan
    ends = resampling.percentile_interval(draws[~np.isnan(draws)], confidence=confidence)
    low, high = measured.hull(np.asarray(estimate), *ends)
    return float(low), float(high)


def _values(
    seed: int | None, states: Sequence[Effects], one: Along, confidence: float
) -> Iterator[dict[str, object]]:
    for i, part in enumerate(states):
        low, high = interval(one.values[i], one.draws[i], confidence)
        if one.what[1] == "plug_in":
            # What was mirrored is cut at what a metric can be.
            metric, n = REGISTRY[one.what[2]], len(part.components)
            low, high = max(low, metric.least(n)), min(high, metric.most(n))
        yield (
            {"seed": seed}
            | dict(zip(WHAT, one.what, strict=True))
            | {"state": part.state.name, "position": part.state.position}
            | {"value": one.values[i], "low": low, "high": high}
            | dict(zip(("floor", "floor_low", "floor_high"), one.floor[i], strict=True))
            | {"found_again": one.found_again[i], "is_peak": i == one.peak}
            | {"n_heads": len(part.components), "n_sequences": part.n_replicates}
        )


def _changes(
    states: Sequence[Effects], one: Along, values: Floats, confidence: float
) -> Iterator[dict[str, object]]:
    """Give every pair of states the change of the first training and that over all."""
    for i, j in itertools.combinations(range(len(states)), 2):
        change = values[:, j] - values[:, i]
        known = change[~np.isnan(change)]
        low, high = interval(change[0], one.draws[j] - one.draws[i], confidence)
        mean, mean_low, mean_high = student(known, confidence)
        yield {
            "state_first": states[i].state.name,
            "state_last": states[j].state.name,
            "position_first": states[i].state.position,
            "position_last": states[j].state.position,
            "change": change[0],
            "low": low,
            "high": high,
            "n_seeds": known.size,
            "mean": mean,
            "mean_low": mean_low,
            "mean_high": mean_high,
            "n_rise": int((known > 0).sum()),
        }


def asked(settings: Settings, of: Trained) -> Seeds:
    """Return what the settings ask of the trainings of a model."""
    found: Seeds = settings.seeds if of == "model" else settings.cell_seeds
    return found


def read_trainings(
    ours: Path, others: Path, settings: Settings, of: Trained = "model"
) -> dict[int | None, Sequence[Effects]]:
    """Read the heads' effects of a model and of the trainings that differ in their seed alone."""
    model = getattr(settings, of)
    states = effects.series(effects.read_states(ours, model.checkpoints), ["head"])
    way = shown(pd.Series([condition for _, condition in states]))
    seed = model.train.seed if isinstance(model, MiniModel | MiniCellModel) else None
    found: dict[int | None, Sequence[Effects]] = {seed: states[("head", way)]}
    if seed is None or way != TRAINED_ALIKE:
        return found
    for other in asked(settings, of).others:
        folder = folder_of(others, other)
        if other == seed:
            continue
        if not same_recipe(folder, settings, of):
            cli.log.info("%s is missing or of another recipe, and is left out: make seeds", folder)
            continue
        parts = effects.read_states(folder, model.checkpoints)
        found[other] = effects.series(parts, ["head"])[("head", way)]
    return found


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    trainings = read_trainings(args.effects, args.others, settings, args.of)
    each, over, baselines = seeds(trainings, settings.measured, asked(settings, args.of))
    tables.write(each, HEAD_SEEDS, args.out)
    tables.write(over, HEAD_OVER_SEEDS, args.over)
    tables.write(baselines, HEAD_BASELINES, args.baselines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument(
        "--of", choices=get_args(Trained), default="model", help="whose (default: %(default)s)"
    )
    parser.add_argument("--effects", type=Path, required=True, help="folder of <state>.parquet")
    parser.add_argument("--others", type=Path, required=True, help="folder of seed<N>/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--over", type=Path, required=True)
    parser.add_argument("--baselines", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
