r"""Answer for every kind of component whether it comes to matter in fewer parts as it matures.

The question was stated before any of this was computed: *does the effective number over N fall with
maturing, for every kind of component, beyond what its exposure alone would give?* Maturing is
training, of cells age. What is asked of a series is :math:`\log` of the ratio of the last state's
effective number over N to the first's; of what exposure leaves (effects over what a line on their
log exposure predicts, :func:`stages.measurement.nulls.by_exposure`) the same.

*The test.* Trainings that differ in their seed alone are what is independent: over three or more,
Student's interval of the mean change, and how many fall, with the sign test and the smallest p that
so many allow. Fewer say nothing of other trainings; then the interval is over replicates of the one
of this run, mirrored as in :mod:`stages.measurement.measured`. Of cells a tissue of a real arm
takes the place of a training; arms share tissues, and tissues animals, so that this interval is too
narrow if anything.

*Where it cannot be asked.* Where noise makes more than ``MOSTLY_NOISE`` of the sum of absolute
effects in the first or the last state, the concentration is that of noise, and the verdict says no
more. The same is then asked from the first state on that is not mostly noise, a start that was
chosen after the effects were seen.

Further trainings lie in ``<seeds>/<model>/seed<N>/measured/<system>.csv``
(:mod:`stages.plane.room_seeds`); those of another recipe are left out. Of heads of a language model
they stand in the table ``head_seeds``, which has the same estimator but no exposure.
"""

import argparse
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandera.pandas import DataFrameSchema
from scipy import stats

from stages.base import cli, study, tables
from stages.base.settings import Settings, load
from stages.cells import counts
from stages.cells.tables.proportions import PROPORTIONS
from stages.heads.components import CONDITIONS
from stages.heads.tables.seeds import HEAD_SEEDS
from stages.inputs.settings import MiniCellModel, MiniModel
from stages.inputs.tables import TWO_GROUPS
from stages.measurement import effects, nulls, resampling
from stages.measurement.concentration import lorenz_curve
from stages.measurement.effects import Effects
from stages.measurement.metrics import REGISTRY, measure
from stages.measurement.settings import Measured, System
from stages.measurement.streams import stream
from stages.measurement.tables import MEASURED, SERIES
from stages.plane.room_seeds import MEASURED as MEASURED_FOLDER
from stages.plane.room_seeds import room_seeds
from stages.plane.tables import LORENZ, MATURING, MATURING_ANSWERS, MOSTLY_NOISE, STARTS, TOLD

Floats = NDArray[np.float64]

KEY = list(SERIES)
SHARE = "effective_share"
WHAT = {"": SHARE, "left_": f"{SHARE}_exposure_removed"}
"""What the answer is of, by the beginning of its columns."""
MIN_TRAININGS = 3
"""Fewer have no interval over them here: of two it is Student's with one degree of freedom."""
GRID = np.linspace(0.0, 1.0, 101)
"""Shares of the components at which Lorenz curves are read off."""


def wide(measured: pd.DataFrame, *, seed: int | None, untrained: str | None) -> pd.DataFrame:
    """Return the rows of the one table (``MATURING``) of a system in one training.

    Parameters
    ----------
    measured
        ``MEASURED``.
    seed
        Of the training, if it was made here.
    untrained
        The state that has learnt nothing.
    """
    told = measured[measured["metric"].isin(TOLD)]
    facts = ["position", "n_components", "n_replicates", "noise_share", "exposure"]
    parts = ["value", "floor", "exposure_alone", "exposure_removed"]
    ends = ["replicates_low", "replicates_high", "floor_low", "floor_high"]
    rows = []
    for key, of in told.groupby([*KEY, "state"], sort=False, dropna=False):
        row = dict(zip([*KEY, "state"], key, strict=True)) | of.iloc[0][facts].to_dict()
        by_metric = of.set_index("metric")
        for metric in by_metric.index:
            values = by_metric.loc[metric]
            row |= {_column(metric, part): values[part] for part in parts}
            if metric == SHARE:
                row |= {_column(SHARE, end): values[end] for end in ends}
        rows.append(row | {"seed": seed, "trained": row["state"] != untrained})
    return pd.DataFrame(rows).reindex(columns=list(MATURING.columns))


def _column(metric: str, part: str) -> str:
    return metric if part == "value" else f"{metric}_{part.removeprefix('replicates_')}"


def joined(parts: Iterable[pd.DataFrame], schema: DataFrameSchema = MATURING) -> pd.DataFrame:
    """Return the rows of several tables as one, of which any may have none of a column."""
    rows = [row for part in parts for row in part.to_dict("records")]
    return pd.DataFrame(rows, columns=list(schema.columns)) if rows else tables.empty(schema)


def of_heads(trainings: pd.DataFrame, ours: pd.DataFrame, untrained: str | None) -> pd.DataFrame:
    """Return the rows of the one table of trainings that ``HEAD_SEEDS`` has, but for ours.

    Parameters
    ----------
    ours
        The rows of our training: what its series is called, and where its states stand.
    """
    seeds = ours["seed"].dropna()
    rows = trainings[
        (trainings["effects"] == "absolute")
        & (trainings["estimator"] == "plug_in")
        & trainings["seed"].notna()
        & ~trainings["seed"].isin(seeds)
    ]
    if rows.empty or seeds.empty:
        return tables.empty(MATURING)
    long = rows.assign(
        **ours.iloc[0][KEY].to_dict(),
        n_components=rows["n_heads"],
        n_replicates=rows["n_sequences"],
        **{f"replicates_{end}": rows[end] for end in ("low", "high")},
        noise_share=np.nan,
        exposure=None,
        exposure_alone=np.nan,
        exposure_removed=np.nan,
    )
    shares = long[long["metric"] == "effective_number"].assign(metric=SHARE)
    over_n = ["value", "replicates_low", "replicates_high", "floor", "floor_low", "floor_high"]
    shares[over_n] = shares[over_n].div(shares["n_heads"], axis=0)
    long = pd.concat([long, shares])
    found = [
        wide(of, seed=int(seed), untrained=untrained)
        for seed, of in long.groupby("seed", sort=False)
    ]
    return joined(found)


def further(
    folders: Mapping[tuple[str, int], Path], name: str, ours: pd.DataFrame, system: System
) -> pd.DataFrame:
    """Return the rows of the one table of a system in further trainings of its model.

    Parameters
    ----------
    folders
        Of further trainings, by model and seed.
    name
        Of the system.
    ours
        The rows of our training.
    """
    found = []
    for (model, seed), folder in folders.items():
        path = folder / MEASURED_FOLDER / f"{name}.csv"
        if model == system.group and seed not in set(ours["seed"]) and path.exists():
            table = tables.read(path, MEASURED)
            found.append(wide(table, seed=seed, untrained=system.untrained))
    return joined(found)


def shown(ours: pd.DataFrame, system: System) -> pd.Series:
    """Say of each row of a system whether its series is the one that text and figures show.

    The first of its kinds, or the last where it states none, as of layers; the way of removal that
    figures show; else the first condition that the plane is given.
    """
    kind = system.kinds[0] if system.kinds else None
    rows = ours if kind is None else ours[ours["series"] == kind]
    if system.drawn:
        rows = rows[rows["condition"].isin(system.drawn)]
    last = rows.drop_duplicates(KEY[2:])
    ways = [way for way in CONDITIONS if way in set(last["condition"])]
    condition = ways[0] if ways else last["condition"].iloc[0]
    series = last.loc[last["condition"] == condition, "series"].iloc[0]
    return (ours["series"] == series) & (ours["condition"] == condition)


def tested(values: Floats, confidence: float) -> dict[str, float | int]:
    """Return the mean of independent changes, Student's interval, and how many are negative.

    `p_sign` is the two-sided sign test of those that are not 0.

    Examples
    --------
    >>> found = tested(np.array([-0.5, -0.4, -0.6]), 0.95)
    >>> found["n_fall"], round(found["change"], 3), round(found["high"], 3), found["p_sign"]
    (3, -0.5, -0.252, 0.25)
    """
    known = values[np.isfinite(values)]
    fall, moved = int((known < 0).sum()), int((known != 0).sum())
    row: dict[str, float | int] = {"n": known.size, "n_fall": fall}
    row |= dict.fromkeys(("change", "low", "high", "p_sign"), math.nan)
    if known.size:
        row["change"] = float(known.mean())
    if moved:
        row["p_sign"] = float(stats.binomtest(fall, moved).pvalue)
    if known.size >= MIN_TRAININGS:
        half = float(stats.t.ppf((1 + confidence) / 2, known.size - 1))
        half *= float(known.std(ddof=1)) / math.sqrt(known.size)
        row |= {"low": row["change"] - half, "high": row["change"] + half}
    return row


def resampled(first: Effects, last: Effects, params: Measured) -> dict[str, tuple[float, float]]:
    """Return the intervals over replicates of the log ratio of two states, raw and left.

    The same replicates stand in both states. nan where there is one replicate, or where more draws
    than the interval leaves out have no value.
    """
    ends = dict.fromkeys(WHAT, (math.nan, math.nan))
    if first.n_replicates < effects.MIN_REPLICATES:
        return ends
    rng = stream(params.seed, "maturing", first.kind, first.condition)
    weights = resampling.group_weights(first.n_replicates, params.draws, rng)
    both = [(one.values.mean(axis=0), np.abs(weights @ one.values)) for one in (first, last)]
    estimate = {"": _log_ratio([np.abs(mean) for mean, _ in both])}
    drawn = {"": _log_ratio([sizes for _, sizes in both])}
    at_first, at_last = first.exposure, last.exposure
    if at_first is not None and at_last is not None:
        exposed = list(zip(both, (at_first, at_last), strict=True))
        estimate["left_"] = _log_ratio(
            [nulls.by_exposure(mean, at)[1] for (mean, _), at in exposed]
        )
        drawn["left_"] = _log_ratio([nulls.by_exposure(sizes, at)[1] for (_, sizes), at in exposed])
    for what, draws in drawn.items():
        known = draws[np.isfinite(draws)]
        if len(known) < (1 + params.confidence) / 2 * len(draws) or not np.isfinite(estimate[what]):
            continue
        low, high = map(float, resampling.percentile_interval(known, confidence=params.confidence))
        # The hull with its mirror image: stages.measurement.measured says why.
        middle = float(estimate[what])
        ends[what] = (min(low, 2 * middle - high), max(high, 2 * middle - low))
    return ends


def _log_ratio(sizes: Sequence[Floats]) -> Floats:
    first, last = (measure(of, [REGISTRY[SHARE]])[..., 0] for of in sizes)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: Floats = np.log(last / first)
    return ratio


def verdict(row: Mapping[str, object]) -> str:
    """Return the answer of a row of ``MATURING_ANSWERS`` (one of ``VERDICTS``)."""
    low, high, left = (float(str(row[name])) for name in ("low", "high", "left_high"))
    if row["state_first"] == row["state_last"]:
        return "one state"
    if any(float(str(row[name])) > MOSTLY_NOISE for name in ("noise_first", "noise_last")):
        return "noise"
    if math.isnan(low):
        return "no interval"
    if low > 0 or high >= 0:
        return "rises" if low > 0 else "not told"
    if math.isnan(left):
        return "falls, exposure not tested"
    if left >= 0:
        return "falls, not beyond exposure"
    return "yes" if row["over"] == row["left_over"] else "falls, beyond exposure in one training"


def answers(
    rows: pd.DataFrame, states: Sequence[Effects], p_first: Mapping[str, float], params: Measured
) -> Iterator[dict[str, object]]:
    """Return the answer of one series, from its first state and, if that is noise, beyond noise.

    Parameters
    ----------
    rows
        ``MATURING`` of one series in all trainings, ours first.
    states
        Effects of our training, in order; the untrained state, if there is one, first.
    p_first
        By state: how often noise alone gives as much, in our training.
    """
    ours = rows[rows["seed"].eq(rows["seed"].iloc[0]) | rows["seed"].isna()].set_index("state")
    names = [part.state.name for part in states]
    quiet = [name for name in names if ours.loc[name, "noise_share"] <= MOSTLY_NOISE]
    starts = dict(zip(STARTS, [names[0], *quiet[:1]], strict=False))
    for start, first in starts.items():
        if start == STARTS[1] and first == names[0]:
            continue
        begun, ended = states[names.index(first)], states[-1]
        row: dict[str, object] = ours.iloc[0][KEY].to_dict() | {"start": start}
        row |= {"n_components": ours["n_components"].iloc[0], "p_first": p_first.get(first)}
        for end, part in (("first", begun), ("last", ended)):
            row[f"state_{end}"] = part.state.name
            row[f"share_{end}"] = ours.loc[part.state.name, SHARE]
            row[f"noise_{end}"] = ours.loc[part.state.name, "noise_share"]
        if first == names[-1]:
            changes = dict.fromkeys(WHAT, np.zeros(0))
            alone = dict.fromkeys(WHAT, (math.nan, math.nan))
        else:
            ends = (begun, ended)
            changes = {what: _changes(rows, column, ends) for what, column in WHAT.items()}
            alone = resampled(begun, ended, params)
        yield _answer(row, changes, alone, "trainings", params.confidence)


def _changes(rows: pd.DataFrame, column: str, ends: Sequence[Effects]) -> Floats:
    """Return the log ratio of two states in each training that has both."""
    # A training that was not made here has no seed. Ours stays the first.
    seeds = rows["seed"].astype("Float64").fillna(-1.0)
    table = rows.assign(seed=seeds).pivot(index="seed", columns="state", values=column)
    table = table.reindex(seeds.unique())
    first, last = (table[part.state.name].to_numpy(float) for part in ends)
    with np.errstate(invalid="ignore", divide="ignore"):
        changes: Floats = np.log(last / first)
    return changes[np.isfinite(changes)]


def _answer(
    row: dict[str, object],
    changes: Mapping[str, Floats],
    alone: Mapping[str, tuple[float, float]],
    over: str,
    confidence: float,
) -> dict[str, object]:
    """Return a row with its test and its verdict."""
    row["p_smallest"] = min(1.0, 2 * 0.5 ** len(changes[""])) if len(changes[""]) else math.nan
    for what in WHAT:
        found = tested(changes[what], confidence)
        row[f"{what}over"] = over if len(changes[what]) >= MIN_TRAININGS else None
        if found["n"] and found["n"] < MIN_TRAININGS:
            found |= dict(zip(("low", "high"), alone[what], strict=True))
            # Fewer trainings: the interval is of ours, and so is the change.
            found["change"] = float(changes[what][0])
            if not math.isnan(float(found["low"])):
                row[f"{what}over"] = "replicates"
        row |= {f"{what}{name}": value for name, value in found.items()}
    return row | {"verdict": verdict(row)}


def of_cells(
    table: pd.DataFrame, about: study.Study, confidence: float
) -> Iterator[dict[str, object]]:
    """Return the answer of cells, over the tissues of real arms (simulated where none is real).

    Parameters
    ----------
    table
        ``MATURING`` of the cells.
    """
    rows = table[table["condition"] == "all"]
    arm = rows["group"].astype("str").str.split(" ", n=1)
    rows = rows.assign(cohort=arm.str[0], platform=arm.str[1], tissue=rows["series"])
    real = about.real(rows)
    both = real.pivot(index=["group", "series"], columns="state", values=SHARE)
    both = both.reindex(columns=list(TWO_GROUPS)).dropna()
    if both.empty:
        return
    changes = np.log(both["compared"] / both["reference"]).to_numpy(float)
    row: dict[str, object] = dict(zip(KEY, ("cells", "all arms", "tissues", "all"), strict=True))
    row |= {"start": "first", "shown": True, "state_first": "reference", "state_last": "compared"}
    row |= {"share_first": both["reference"].median(), "share_last": both["compared"].median()}
    row |= dict.fromkeys(("noise_first", "noise_last", "p_first", "n_components"), math.nan)
    none = dict.fromkeys(WHAT, (math.nan, math.nan))
    yield _answer(row, {"": changes, "left_": np.zeros(0)}, none, "tissues", confidence)


def curve(weights: Floats) -> Floats:
    """Return the Lorenz curve of one vector at the shares of ``GRID``.

    Examples
    --------
    >>> curve(np.array([1.0, 3.0]))[[0, 50, 100]].tolist()
    [0.0, 0.25, 1.0]
    """
    return np.interp(GRID, *lorenz_curve(weights))


def curves_of_cells(proportions: pd.DataFrame, about: study.Study) -> dict[str, Floats]:
    """Return the median Lorenz curve over tissues of real arms, by group of animals."""
    rows = about.real(proportions[proportions["group"].isin(TWO_GROUPS)])
    found: dict[str, list[Floats]] = {}
    for (*_, group), of in rows.groupby([*counts.TISSUE, "group"], sort=True):
        each = [curve(n.to_numpy(float)) for _, n in of.groupby("animal")["n_cells"]]
        found.setdefault(str(group), []).append(np.median(each, axis=0))
    return {group: np.median(each, axis=0) for group, each in found.items()}


def _curves(states: Sequence[Effects], key: Mapping[str, object], system: System) -> pd.DataFrame:
    """Return the Lorenz curves (``LORENZ``) of a series in its untrained and its last state."""
    ends = {
        part.state.name: np.abs(part.values.mean(axis=0))
        for part in states
        if part.state.name == system.untrained or part is states[-1]
    }
    rows = [
        pd.DataFrame(dict(key) | {"state": name, "trained": name != system.untrained,
                                  "share": GRID, "held": curve(sizes)})
        for name, sizes in ends.items()
        if sizes.sum() > 0
    ]  # fmt: skip
    return pd.concat(rows, ignore_index=True) if rows else tables.empty(LORENZ)


def _seed(group: str, settings: Settings) -> int | None:
    """Return the seed of a model's training, if it was made here."""
    for model in (settings.model, settings.cellmodel):
        if isinstance(model, MiniModel | MiniCellModel) and model.name == group:
            return int(model.train.seed)
    return None


def _named(rows: list[dict[str, object]], components: Mapping[str, str]) -> pd.DataFrame:
    names = [components.get(str(row["system"]), row["system"]) for row in rows]
    return pd.DataFrame(rows).assign(components=names)


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    about, params = study.read(args.study), settings.measured
    trainings = None if args.trainings is None else tables.read(args.trainings, HEAD_SEEDS)
    folders = room_seeds(settings, args.seeds)
    every, asked, drawn = [], [], []
    for name in settings.plane.beside:
        table = tables.read(args.measured / f"{name}.csv", MEASURED)
        # The number of components is an animal's own.
        found = wide(table, seed=None, untrained=None).assign(n_components=pd.NA)
        every.append(found)
        asked += list(of_cells(found, about, params.confidence))
    for group, held in curves_of_cells(tables.read(args.proportions, PROPORTIONS), about).items():
        row: dict[str, object] = dict(
            zip(KEY, ("cells", "all arms", "tissues", "all"), strict=True)
        )
        row |= {"state": group, "trained": group == "compared"}
        drawn.append(pd.DataFrame(row | {"share": GRID, "held": held}))
    for name, system in settings.systems.items():
        table = tables.read(args.measured / f"{name}.csv", MEASURED)
        ours = wide(table, seed=_seed(system.group, settings), untrained=system.untrained)
        others = further(folders, name, ours, system)
        is_shown = shown(ours, system)
        if trainings is not None and name == settings.plane.references[0]:
            more = of_heads(trainings, ours[is_shown], system.untrained)
            others = joined([others, more[~more["seed"].isin(others["seed"])]])
        rows = joined([ours, others]).assign(system=name)
        every.append(rows)
        found_effects = effects.series(
            effects.read_states(system.effects, system.states), system.kinds
        )
        p = table[table["metric"] == SHARE].set_index([*KEY[2:], "state"])["p"]
        first = ours[is_shown].iloc[0]
        for (kind, condition), states in found_effects.items():
            states = sorted(states, key=lambda part: part.state.name != system.untrained)
            of = rows[(rows["series"] == kind) & (rows["condition"] == condition)]
            here = (kind, condition) == (first["series"], first["condition"])
            told = answers(of, states, p.loc[kind, condition].to_dict(), params)
            asked += [answer | {"shown": here} for answer in told]
            if here:
                drawn.append(_curves(states, of.iloc[0][KEY].to_dict(), system))
    for found, schema, path in (
        (every, MATURING, args.out),
        ([_named(asked, settings.plane.components)], MATURING_ANSWERS, args.answers),
        (drawn, LORENZ, args.lorenz),
    ):
        tables.write(joined(found, schema), schema, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--measured", type=Path, required=True, help="folder of one CSV a system")
    parser.add_argument("--proportions", type=Path, required=True)
    parser.add_argument("--study", type=Path, required=True, help="what the cells are")
    parser.add_argument("--seeds", type=Path, required=True, help="folder of further trainings")
    parser.add_argument("--trainings", type=Path, help="the table head_seeds")
    parser.add_argument("--out", type=Path, required=True, help="the one table")
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--lorenz", type=Path, required=True, help="Lorenz curves")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
