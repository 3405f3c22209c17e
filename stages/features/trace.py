"""Switch every feature off where it fires, and keep what that does to later features and the loss.

Of each autoencoder at the traced layer: the stream loses a feature's code times its direction, the
error of the reconstruction stays, what comes after runs again, and later autoencoders are read
where the feature fired. Beside the feature's own direction stand others of the same length, at the
same positions and with the same codes: a random one, that of another feature, and that of a feature
which fires as often. What they move, too, is no property of the feature.

Resumable: finished blocks of features lie in the scratch folder.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from stages.base import cli, tables
from stages.base.errors import FeatureError
from stages.base.files import only_one
from stages.base.settings import load
from stages.compute import shards
from stages.compute.run import a_process_each, kept, where_it_runs
from stages.compute.shards import Shard
from stages.features import autoencoder, heavy_tails, subject
from stages.features.autoencoders import (
    chosen_sequences,
    layers_of,
    name_of,
    source_layer,
)
from stages.features.edges import is_edge, tested
from stages.features.settings import Trace
from stages.features.subject import Files
from stages.features.tables.trace import DIRECTIONS, RULES, STATISTICS, TRACED, TRACING
from stages.features.tail import NOISE, Firing, Tail, along, sparse
from stages.measurement import effects, resampling
from stages.measurement.concentration import gini
from stages.measurement.effects import Effects, State
from stages.measurement.streams import stream
from stages.models.devices import devices, matmul_precision

Floats = NDArray[np.float64]
Row = dict[str, object]

VERSION = 3
"""Raised when a change makes other numbers, so that finished shards are not mixed with new ones."""
BLOCK = 48
"""Features in a shard."""


@dataclass(frozen=True)
class Bench:
    """What features of one autoencoder are traced with."""

    tail: Tail
    firing: Firing
    directions: Tensor
    """(width, n_features), of length 1 or as they are."""
    frequency: Floats
    """(n_features,)"""
    alive: NDArray[np.int64]
    """Features that fire often enough, ascending."""
    usual: dict[int, Floats]
    """By later layer, the mean code of a feature where it fires: (n_features,)."""
    params: Trace

    def n_sequences(self, feature: int) -> int:
        """Return in how many sequences a feature fires."""
        part = slice(int(self.firing.starts[feature]), int(self.firing.starts[feature + 1]))
        return len(np.unique(self.firing.sequence[part].cpu().numpy()))

    def mean_code(self, feature: int) -> float:
        """Return the mean code of a feature where it fires."""
        part = slice(int(self.firing.starts[feature]), int(self.firing.starts[feature + 1]))
        return float(self.firing.code[part].mean())


@kept
def bench(files: Files, seed: int) -> Bench:
    """Return what the features of the autoencoder of a seed are traced with."""
    settings = load(files.params)
    params: Trace = settings.trace
    of = files.subject()
    n_layers = of.architecture.n_layers
    source = source_layer(settings.autoencoders, n_layers)
    layers = layers_of(settings.autoencoders, n_layers)
    made = {
        layer: autoencoder.load(files.autoencoders / name_of(layer, seed)).to(of.device)
        for layer in layers
    }
    which = chosen_sequences(of, params.sequences, params.seed)
    sequences = of.sequences(of.measured, which)
    later = {layer: one for layer, one in made.items() if layer > source}
    with matmul_precision("float32"):
        tail = Tail(of, sequences, source, later, losses=True)
    return set_up(tail, made[source], params, settings.autoencoders.min_frequency)


def set_up(tail: Tail, made: autoencoder.Autoencoder, params: Trace, min_frequency: float) -> Bench:
    """Return what the features of an autoencoder of the tail's layer are traced with."""
    kept = tail.sequences.kept
    ids = tail.sequences.ids.to(tail.subject.device)
    with torch.inference_mode():
        firing = Firing.of(sparse(made, tail.states, ids), kept, made.n_features)
    frequency = np.asarray(firing.times().cpu() / int(kept.sum()), dtype=float)
    usual = {}
    for layer, later in tail.dictionaries.items():
        clean = Firing.of(tail.clean[layer], kept, later.n_features)
        total = torch.zeros(later.n_features, device=clean.code.device)
        number = torch.arange(later.n_features, device=total.device).repeat_interleave(
            clean.times()
        )
        total.index_add_(0, number, clean.code)
        usual[layer] = np.asarray((total / clean.times().clamp(min=1)).cpu(), dtype=float)
    alive = np.flatnonzero(frequency >= min_frequency)
    return Bench(tail, firing, made.decoder, frequency, alive, usual, params)


def traceable(of: Bench) -> NDArray[np.int64]:
    """Return the alive features that fire in enough sequences, ascending.

    Raises
    ------
    FeatureError
        There are fewer than three.
    """
    enough = [f for f in of.alive.tolist() if of.n_sequences(f) >= of.params.min_sequences]
    if len(enough) < 3:
        msg = (
            f"{len(enough)} features fire in {of.params.min_sequences} sequences or more; three "
            "are needed. Trace more sequences (trace.sequences), or train longer."
        )
        raise FeatureError(msg)
    return np.array(enough)


@dataclass(frozen=True)
class Task:
    """Some features along some directions."""

    seed: int
    features: tuple[int, ...]
    nulls: tuple[int, ...]
    """Those of them whose direction is replaced, too."""


def plan(of: Bench, seed: int) -> list[Task]:
    """List what is traced of an autoencoder: of the first all, of others those with nulls."""
    features = traceable(of)
    rng = stream(of.params.seed, "nulls", seed)
    drawn = np.sort(rng.permutation(features)[: of.params.nulls])
    traced = features if seed == 0 else drawn
    return [
        Task(seed, tuple(some), tuple(f for f in some if f in set(drawn.tolist())))
        for some in (
            traced[start : start + BLOCK].tolist() for start in range(0, len(traced), BLOCK)
        )
    ]


def direction(of: Bench, feature: int, which: str, seed: int) -> Tensor:
    """Return the direction that is taken out in place of a feature's own: (width,).

    All have the length of the feature's own. ``matched`` is that of one of the ten other alive
    features whose frequencies are nearest.
    """
    own = of.directions[:, feature]
    if which == "feature":
        return own
    rng = stream(of.params.seed, which, seed, feature)
    if which == "random":
        drawn = torch.from_numpy(rng.normal(size=len(own)).astype(np.float32)).to(own.device)
    else:
        others = of.alive[of.alive != feature]
        if which == "matched":
            apart = np.abs(np.log(of.frequency[others] / of.frequency[feature]))
            others = others[np.argsort(apart, kind="stable")[:10]]
        drawn = of.directions[:, int(rng.choice(others))]
    replaced: Tensor = drawn / drawn.norm() * own.norm()
    return replaced


def traced(of: Bench, task: Task) -> shards.Arrays:
    """Trace some features.

    Returns
    -------
    Arrays
        ``feature`` and ``direction`` (by its place in DIRECTIONS) of each row; ``d``,
        ``consistency``, ``p`` and ``size`` (mean effect over the feature's mean code), (rows,
        targets); ``flipped``, (rows,); ``moved`` and ``rise``, (rows, sequences).
    """
    rows = [
        (feature, which)
        for feature in task.features
        for which in (DIRECTIONS if feature in task.nulls else DIRECTIONS[:1])
    ]
    changes = [
        along(of.firing, feature, direction(of, feature, which, task.seed))
        for feature, which in rows
    ]
    usual = np.concatenate([of.usual[layer] for layer in sorted(of.usual)])
    n = len(of.tail.sequences)
    kept: dict[str, list[object]] = {
        name: [] for name in ("d", "consistency", "p", "size", "flipped", "moved", "rise")
    }
    found, rise = of.tail.run([change for some in changes for change in some])
    effect = torch.cat([found[layer] for layer in sorted(found)], dim=1).double().cpu().numpy()
    effect[np.abs(effect) < NOISE * usual] = 0
    start = 0
    for (feature, which), some in zip(rows, changes, strict=True):
        part = slice(start, start + len(some))
        start += len(some)
        rng = stream(of.params.seed, "flips", task.seed, feature, which)
        test = tested(effect[part], of.params, rng)
        at = [change.sequence for change in some]
        moved, of_loss = np.zeros(n), np.zeros(n)
        moved[at] = (
            np.abs(effect[part]) > of.params.moved * np.where(usual > 0, usual, np.inf)
        ).sum(axis=1)
        of_loss[at] = rise[part].numpy()
        kept["d"].append(test.d.astype(np.float32))
        kept["consistency"].append(test.consistency.astype(np.float32))
        kept["p"].append(test.p.astype(np.float32))
        kept["size"].append((test.mean / of.mean_code(feature)).astype(np.float32))
        kept["flipped"].append(test.null_edges)
        kept["moved"].append(moved)
        kept["rise"].append(of_loss)
    return {
        "feature": np.array([feature for feature, _ in rows]),
        "direction": np.array([DIRECTIONS.index(which) for _, which in rows]),
        **{name: np.array(values) for name, values in kept.items()},
    }


def _work(files: Files, task: Task, *, device: str) -> shards.Arrays:
    """Return what a task gives."""
    with matmul_precision("float32"):
        return traced(bench(files.on(device), task.seed), task)


def _joined(parts: Sequence[shards.Arrays]) -> shards.Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def called(arrays: shards.Arrays, params: Trace) -> dict[str, NDArray[np.int64]]:
    """Return how many edges each row has by every rule.

    All ask for the published one. The calibrated rule also asks for a p of flipped signs below the
    bound that the features' own directions have at a share of false discoveries of `max_q`; other
    directions are held to the same bound. The specific rule asks for a larger effect on the target,
    a unit of code, than any random direction has on it in the place of any feature (any other
    random direction, for one of them).
    """
    published = is_edge(arrays["d"].astype(float), arrays["consistency"].astype(float), params)
    own, random = arrays["direction"] == 0, np.flatnonzero(arrays["direction"] == 1)
    p = arrays["p"].astype(float)
    live = p[own][np.isfinite(p[own])]
    q = resampling.benjamini_hochberg(live) if len(live) else live
    bound = live[q <= params.max_q].max() if (q <= params.max_q).any() else -1.0
    calibrated = published & (np.nan_to_num(p, nan=1.0) <= bound)
    size = np.abs(arrays["size"].astype(float))
    # The largest of the random directions, and of all but the largest for that one itself.
    second, first = np.sort(size[random], axis=0)[-2:]
    limit = np.broadcast_to(first, size.shape).copy()
    limit[random] = np.where(size[random] == first, second, first)
    specific = published & (size > limit)
    return {
        "published": published.sum(axis=1),
        "calibrated": calibrated.sum(axis=1),
        "specific": specific.sum(axis=1),
    }


def tracing(
    arrays: shards.Arrays, edges: Mapping[str, NDArray[np.int64]], seed: int, params: Trace
) -> list[Row]:
    """Return how many edges each kind of direction has on average; rows of ``TRACING``."""
    rows: list[Row] = []
    kind, feature = arrays["direction"], arrays["feature"]
    own = {
        rule: dict(zip(feature[kind == 0].tolist(), of[kind == 0].tolist(), strict=True))
        for rule, of in edges.items()
    }
    for number, name in enumerate(DIRECTIONS):
        here = np.flatnonzero(kind == number)
        if not len(here):
            continue
        rng = stream(params.seed, "tracing", seed, name)
        weights = resampling.group_weights(len(here), params.draws, rng)
        for rule in RULES:
            found = edges[rule][here].astype(float)
            low, high = resampling.percentile_interval(
                weights @ found, confidence=params.confidence
            )
            row: Row = {
                "seed": seed,
                "direction": name,
                "rule": rule,
                "n_features": len(here),
                "edges": found.mean(),
                "low": low,
                "high": high,
                "flipped": float(arrays["flipped"][here].mean()),
                "gini": float(gini(found)) if found.any() else np.nan,
            }
            if number and found.any():
                of_own = np.array([own[rule][f] for f in feature[here].tolist()], dtype=float)
                with np.errstate(divide="ignore"):
                    drawn = (weights @ of_own) / (weights @ found)
                ends = resampling.percentile_interval(drawn, confidence=params.confidence)
                row["ratio"] = of_own.mean() / found.mean()
                row["ratio_low"], row["ratio_high"] = ends
            rows.append(row)
    return rows


def table_of(
    arrays: shards.Arrays, edges: Mapping[str, NDArray[np.int64]], of: Bench
) -> pd.DataFrame:
    """Return ``TRACED``: a row a feature of the first autoencoder."""
    kind, feature = arrays["direction"], arrays["feature"]
    own = np.flatnonzero(kind == 0)
    rise = arrays["rise"][own]
    rows = pd.DataFrame(
        {
            "feature": [f"f{f}" for f in feature[own]],
            "frequency": of.frequency[feature[own]],
            "n_sequences": [of.n_sequences(int(f)) for f in feature[own]],
            "edges": edges["published"][own],
            "calibrated": edges["calibrated"][own],
            "specific": edges["specific"][own],
            "flipped": arrays["flipped"][own],
            "moved": arrays["moved"][own].mean(axis=1),
            "damage": rise.mean(axis=1),
            "damage_se": rise.std(axis=1, ddof=1) / np.sqrt(rise.shape[1]),
        }
    )
    for number, name in enumerate(DIRECTIONS[1:], start=1):
        here = kind == number
        values = pd.Series(edges["published"][here], index=[f"f{f}" for f in feature[here]])
        rows[name] = values.reindex(rows["feature"]).to_numpy(float)
    return rows[list(TRACED.columns)]


def _rank_correlation(x: Floats, y: Floats, given: Floats | None = None) -> float:
    ranks = [stats.rankdata(of) for of in (x, y)]
    if given is not None:
        third = np.column_stack([np.ones(len(x)), stats.rankdata(given)])
        ranks = [of - third @ np.linalg.lstsq(third, of, rcond=None)[0] for of in ranks]
    if min(np.ptp(of) for of in ranks) < 1e-9:
        return np.nan
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def statistics(table: pd.DataFrame, params: Trace) -> pd.DataFrame:
    """Return ``STATISTICS`` of traced features."""
    rows: list[Row] = []
    columns = {name: table[name].to_numpy(float) for name in table if name != "feature"}
    asked: list[tuple[str, str, str | None]] = [
        ("edges", "frequency", None),
        ("edges", "damage", None),
        ("edges", "damage", "frequency"),
        *(("edges", name, None) for name in DIRECTIONS[1:]),
    ]
    for one, two, third in asked:
        names = [one, two] + ([third] if third else [])
        whole = np.isfinite(np.stack([columns[name] for name in names])).all(axis=0)
        values = [columns[name][whole] for name in names]
        if whole.sum() < 5:
            continue
        rng = stream(params.seed, "statistics", *names)
        drawn = [
            _rank_correlation(*(of[chosen] for of in values))
            for chosen in rng.integers(len(values[0]), size=(params.draws, len(values[0])))
        ]
        low, high = resampling.percentile_interval(
            np.array(drawn)[np.isfinite(drawn)], confidence=params.confidence
        )
        label = f"{one} and {two}" + (f" given {third}" if third else "")
        value = _rank_correlation(*values)
        rows.append(
            {"what": label, "value": value, "low": low, "high": high, "n": int(whole.sum())}
        )
    edges = columns["edges"]
    tail = heavy_tails.power_law(edges)
    if tail is not None:
        p = heavy_tails.fit_p(edges, tail, min(params.draws, 200), stream(params.seed, "tail"))
        rows.append({"what": "power law exponent", "value": tail.alpha, "p": p, "n": tail.n})
        for shape in ("lognormal", "exponential"):
            z, p = heavy_tails.against(edges, tail, shape)
            rows.append({"what": f"power law over {shape}", "value": z, "p": p, "n": tail.n})
    return pd.DataFrame(rows).reindex(columns=list(STATISTICS.columns))


def of_features(
    arrays: shards.Arrays, table: pd.DataFrame, of: Bench, state: State
) -> list[Effects]:
    """Return the effects of features: what each moves, and what each costs."""
    own = np.flatnonzero(arrays["direction"] == 0)
    components = table.set_index("feature")[["frequency"]].rename_axis("component")
    replicates = np.arange(len(of.tail.sequences))
    return [
        Effects(state, kind, "off", components, replicates, arrays[name][own].T[np.newaxis])
        for kind, name in (("degree", "moved"), ("damage", "rise"))
    ]


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    params: Trace = settings.trace
    on = where_it_runs(devices, args.device)
    files = subject.files(args, on[0])
    of = bench(files, 0).tail.subject
    decides = files.decide(of, chosen_sequences(of, params.sequences, params.seed)) | {
        "autoencoders": files.made(),
        "version": VERSION,
        "trace": params.model_dump(),
        "alive": settings.autoencoders.min_frequency,
    }
    seeds = range(min(params.seeds, settings.autoencoders.seeds))
    tasks = [task for seed in seeds for task in plan(bench(files, seed), seed)]
    every = [
        Shard(
            f"seed{task.seed}-{task.features[0]}",
            shards.key_of(decides | {"task": repr(task)}),
            task,
        )
        for task in tasks
    ]
    busy = f"another run works in {args.scratch}; waiting for it to end"
    with only_one(args.scratch / "lock", busy):
        at = shards.store(args.scratch, raises=FeatureError)
        found = at.filled(every, partial(_work, files), on=a_process_each(on))
    rows: list[Row] = []
    for seed in seeds:
        parts = [one for task, one in zip(tasks, found, strict=True) if task.seed == seed]
        arrays = _joined(parts)
        edges = called(arrays, params)
        rows += tracing(arrays, edges, seed, params)
        if seed == 0:
            first = bench(files, 0)
            table = table_of(arrays, edges, first)
            state = of.state
            chosen = settings.cellmodel if settings.features.of == "cellmodel" else settings.model
            unit = f"{of.architecture.loss.value} per item"
            parts_of = of_features(
                arrays,
                table,
                first,
                State("features", state, chosen.position(state), unit, "frequency"),
            )
            provenance = {
                "weights_sha256": str(decides["weights"]),
                "torch": str(torch.__version__),
            }
            effects.write(args.out / f"{state}.parquet", parts_of, provenance=provenance)
            tables.write(table, TRACED, args.tables / "traced.csv")
            tables.write(statistics(table, params), STATISTICS, args.tables / "statistics.csv")
    table = pd.DataFrame(rows).reindex(columns=list(TRACING.columns))
    tables.write(table, TRACING, args.tables / "tracing.csv")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = subject.parser_of(__doc__)
    parser.add_argument("--scratch", type=Path, required=True, help="folder of finished shards")
    parser.add_argument("--out", type=Path, required=True, help="folder of <state>.parquet")
    parser.add_argument("--tables", type=Path, required=True, help="folder of three tables")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
