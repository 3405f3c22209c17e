"""Switch sets of features off together, one a layer, and set that beside each of them alone.

A set fires together: at positions where all of its features do, each in its layer. They are taken
out one after another on the way up, each by the code that it then has. The published ratio divides
standardised effects, means over their standard deviations over cells: of a sum of independent
effects the deviation is not the sum of theirs, so that the ratio is below 1 where effects add up
exactly. Both are given; and so is the slope of the signed, raw effects, which is 1 there.

Resumable: what finished sets gave lies in the scratch folder.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.base import cli, tables
from stages.base.errors import FeatureError
from stages.base.files import only_one
from stages.base.settings import load
from stages.compute import shards
from stages.compute.run import a_process_each, kept, where_it_runs
from stages.compute.shards import Shard
from stages.features import autoencoder, subject
from stages.features.autoencoder import Autoencoder
from stages.features.autoencoders import chosen_sequences, layers_of, name_of
from stages.features.edges import consistency, is_edge, standardised
from stages.features.settings import Combine, Trace
from stages.features.subject import Files, Sequences, Subject
from stages.features.tables.combine import COMBINATIONS
from stages.features.tail import Change, Tail, sparse
from stages.measurement import resampling
from stages.measurement.streams import stream
from stages.models.devices import devices, matmul_precision
from stages.representations.streams import streams

Floats = NDArray[np.float64]
Row = dict[str, object]
Members = tuple[int, ...]
"""Which of a set's features are switched off, by their places in it."""

VERSION = 1
"""Raised when a change makes other numbers, so that finished shards are not mixed with new ones."""
ABOVE = 1.2
"""The published bound of superadditivity."""
MOST_POSITIONS = 4096
"""Positions among which sets are looked for."""


@dataclass(frozen=True)
class Set:
    """Features that fire together, one a layer, ascending."""

    layers: tuple[int, ...]
    features: tuple[int, ...]

    @property
    def name(self) -> str:
        """Return its name, as L0f12+L1f3."""
        pairs = zip(self.layers, self.features, strict=True)
        return "+".join(f"L{layer}f{feature}" for layer, feature in pairs)


def members(size: int) -> list[Members]:
    """Return which features of a set may be off: each, each two, ... all.

    >>> members(3)
    [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    """
    return [some for n in range(1, size + 1) for some in itertools.combinations(range(size), n)]


def spread_layers(layers: Sequence[int], size: int) -> tuple[int, ...]:
    """Return `size` of the layers before the last, spread evenly, or all if there are fewer.

    >>> spread_layers([0, 1, 2, 3], 3), spread_layers(list(range(9)), 3)
    ((0, 1, 2), (0, 4, 7))
    """
    before = list(layers[:-1])
    at = np.unique(np.linspace(0, len(before) - 1, min(size, len(before))).round().astype(int))
    return tuple(before[i] for i in at)


def firing_codes(
    of: Subject, sequences: Sequences, made: Mapping[int, Autoencoder], layers: Sequence[int]
) -> dict[int, Tensor]:
    """Return, by layer, which features fire at each position: (n, seq, k), -1 where none does."""
    shape = sequences.kept.shape
    found = {layer: torch.full((*shape, made[layer].k), -1) for layer in layers}
    with torch.inference_mode():
        for batch in streams(of.architecture, sequences.text, layers, device=of.device):
            seq = next(iter(batch.states.values())).shape[1]
            ids = sequences.ids[batch.sequences, :seq].to(of.device)
            kept = sequences.kept[batch.sequences, :seq]
            for layer in layers:
                codes = sparse(made[layer], batch.states[layer], ids)
                on = codes.features.masked_fill(codes.codes <= 0, -1).cpu()
                found[layer][batch.sequences, :seq] = on.masked_fill(~kept[..., None], -1)
    return found


def together(firing: Mapping[int, Tensor], params: Combine, rng: np.random.Generator) -> list[Set]:
    """Draw sets of features that fire together in enough sequences; no feature is in two.

    Parameters
    ----------
    firing
        By layer, as of :func:`firing_codes`.
    """
    layers = tuple(sorted(firing))
    whole = np.stack([(firing[layer] >= 0).any(dim=-1).numpy() for layer in layers]).all(axis=0)
    sequence, position = np.nonzero(whole)
    if len(sequence) > MOST_POSITIONS:
        chosen = np.sort(rng.permutation(len(sequence))[:MOST_POSITIONS])
        sequence, position = sequence[chosen], position[chosen]
    bases = [int(firing[layer].max()) + 1 for layer in layers]
    codes, at = np.zeros((len(sequence), 1), dtype=np.int64), np.ones((len(sequence), 1), bool)
    for layer, base in zip(layers, bases, strict=True):
        here = firing[layer][sequence, position].numpy()
        codes = (codes[:, :, None] * base + here[:, None, :]).reshape(len(here), -1)
        at = (at[:, :, None] & (here >= 0)[:, None, :]).reshape(len(here), -1)
    rows = np.repeat(sequence, codes.shape[1])[at.ravel()]
    pairs = np.unique(np.stack([codes[at], rows]), axis=1)
    sets, times = np.unique(pairs[0], return_counts=True)
    found: list[Set] = []
    used: set[tuple[int, int]] = set()
    for code in rng.permutation(sets[times >= params.min_sequences]).tolist():
        rest, features = code, []
        for base in reversed(bases):
            rest, feature = divmod(rest, base)
            features.append(feature)
        one = Set(layers, tuple(reversed(features)))
        own = set(zip(one.layers, one.features, strict=True))
        if not own & used:
            found.append(one)
            used |= own
        if len(found) == params.sets:
            break
    return found


def effects_of(
    tail: Tail, made: Mapping[int, Autoencoder], one: Set, firing: Mapping[int, Tensor]
) -> dict[Members, Floats]:
    """Switch the features of a set off, in every combination, where they fire together.

    Parameters
    ----------
    tail
        From the first layer of the set on, read at the last autoencoder.
    made
        Autoencoders by layer.

    Returns
    -------
    dict
        By which are off, the mean change of every target over these positions: (n_sequences,
        n_targets).
    """
    where = torch.stack(
        [
            (firing[layer] == feature).any(dim=-1)
            for layer, feature in zip(one.layers, one.features, strict=True)
        ]
    ).all(dim=0)
    numbers = where.any(dim=1).nonzero()[:, 0].tolist()
    device = tail.subject.device
    positions = [where[number].nonzero()[:, 0].to(device) for number in numbers]
    which = members(len(one.features))
    changes = []
    for some in which:
        for number, at in zip(numbers, positions, strict=True):
            rows = tail.states[number, at]
            ids = tail.sequences.ids[number].to(device)[at]
            added = torch.zeros_like(rows)
            if 0 in some:
                added = -_written(made[one.layers[0]], one.features[0], rows, ids)
            changes.append(Change(number, at, added))

    def off(place: int, hidden: Tensor, part: slice) -> Tensor:
        layer = one.layers[place]
        for i, index in enumerate(range(part.start, part.stop)):
            if place in which[index // len(numbers)]:
                change = changes[index]
                rows = hidden[i, change.positions]
                ids = tail.sequences.ids[change.sequence].to(device)[change.positions]
                written = _written(made[layer], one.features[place], rows, ids)
                hidden[i, change.positions] = rows - written
        return hidden

    later = {layer: partial(off, i) for i, layer in enumerate(one.layers) if i}
    moved, _ = tail.run(changes, each=later)
    last = moved[max(moved)].double().cpu().numpy()
    return {some: last[i * len(numbers) : (i + 1) * len(numbers)] for i, some in enumerate(which)}


def _written(made: Autoencoder, feature: int, rows: Tensor, ids: Tensor) -> Tensor:
    """Return what a feature adds to rows of the stream: its code along its direction."""
    codes = sparse(made, rows, ids)
    code = (codes.codes * (codes.features == feature)).sum(dim=-1, keepdim=True)
    return code * made.decoder[:, feature]


def targets(found: Mapping[Members, Floats], trace: Trace) -> NDArray[np.bool_]:
    """Return the targets that the published rule calls in one combination at least."""
    called = [is_edge(standardised(of), consistency(of), trace) for of in found.values()]
    return np.asarray(np.stack(called).any(axis=0))


def slope(y: Floats, x: Floats) -> float:
    """Return the slope of y on x through the origin; nan where x is 0."""
    total = float((x * x).sum())
    return float((x * y).sum() / total) if total > 1e-20 else np.nan


def ratios(joint: Floats, singles: Sequence[Floats]) -> Floats:
    """Return the published ratio of each target: |d of all| / sum of |d of each|.

    (n_sequences, n_targets) each; d is the mean over sequences in standard deviations.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.abs(standardised(joint)) / sum(
            np.abs(standardised(of)) for of in singles
        )
    return found[np.isfinite(found)]


def rows_of(one: Set, found: Mapping[Members, Floats], trace: Trace, params: Combine) -> list[Row]:
    """Return the rows of ``COMBINATIONS`` of a set: of all of it, and of the pairs in it."""
    kept = targets(found, trace)
    if not kept.any():
        return []
    of = {some: values[:, kept] for some, values in found.items()}
    n = len(next(iter(of.values())))
    weights = resampling.group_weights(n, params.draws, stream(params.seed, "combine", one.name))
    rows: list[Row] = []
    for order in range(2, len(one.features) + 1):
        which = [some for some in of if len(some) == order]
        joint = np.concatenate([of[some] for some in which], axis=1)
        singles = [
            np.concatenate([of[some[place],] for some in which], axis=1) for place in range(order)
        ]
        exact = np.add.reduce(singles)
        drawn = [slope(w @ joint, w @ exact) for w in weights]
        published, additive = ratios(joint, singles), ratios(exact, singles)
        low, high = resampling.percentile_interval(np.array(drawn), confidence=params.confidence)
        row: Row = {
            "set": one.name,
            "order": order,
            "n_sequences": n,
            "n_targets": int(kept.sum()),
            "raw": slope(joint.mean(axis=0), exact.mean(axis=0)),
            "low": low,
            "high": high,
            "published": float(np.median(published)) if len(published) else np.nan,
            "additive": float(np.median(additive)) if len(additive) else np.nan,
            "above": float((published > ABOVE).mean()) if len(published) else 0.0,
            "above_additive": float((additive > ABOVE).mean()) if len(additive) else 0.0,
        }
        if order == 3:
            third = joint - np.add.reduce([of[some] for some in of if len(some) == 2]) + exact
            drawn = [slope(w @ third, w @ exact) for w in weights]
            low, high = resampling.percentile_interval(
                np.array(drawn), confidence=params.confidence
            )
            row["interaction"] = slope(third.mean(axis=0), exact.mean(axis=0))
            row["interaction_low"], row["interaction_high"] = low, high
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Bench:
    """What sets are switched off with."""

    tail: Tail
    made: Mapping[int, Autoencoder]
    firing: Mapping[int, Tensor]
    """By layer of the sets (:func:`firing_codes`)."""
    which: NDArray[np.int64]
    """The sequences, among those that are measured."""


@kept
def bench(files: Files) -> Bench:
    """Return what the sets of the first autoencoder of each layer are switched off with."""
    settings = load(files.params)
    params: Combine = settings.combine
    of = files.subject()
    layers = layers_of(settings.autoencoders, of.architecture.n_layers)
    chosen = spread_layers(layers, 3)
    made = {
        layer: autoencoder.load(files.autoencoders / name_of(layer, 0)).to(of.device)
        for layer in (*chosen, layers[-1])
    }
    which = chosen_sequences(of, params.sequences, params.seed)
    sequences = of.sequences(of.measured, which)
    with matmul_precision("float32"):
        firing = firing_codes(of, sequences, made, chosen)
        tail = Tail(of, sequences, chosen[0], {layers[-1]: made[layers[-1]]})
    return Bench(tail, made, firing, which)


def _work(files: Files, one: Set, *, device: str) -> shards.Arrays:
    """Return what a set gives: (n_members, n_sequences, n_targets)."""
    of = bench(files.on(device))
    with matmul_precision("float32"):
        found = effects_of(of.tail, of.made, one, of.firing)
    return {"effects": np.stack([found[some] for some in members(len(one.features))])}


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    params: Combine = settings.combine
    on = where_it_runs(devices, args.device)
    files = subject.files(args, on[0])
    of = bench(files)
    decides = files.decide(of.tail.subject, of.which)
    decides |= {"autoencoders": files.made(), "version": VERSION}
    sets = together(of.firing, params, stream(params.seed, "sets"))
    every = [
        Shard(one.name.replace("+", "-"), shards.key_of(decides | {"set": one.name}), one)
        for one in sets
    ]
    with only_one(args.scratch / "lock", f"another run works in {args.scratch}; waiting for it"):
        at = shards.store(args.scratch, raises=FeatureError)
        found = at.filled(every, partial(_work, files), on=a_process_each(on))
    rows: list[Row] = []
    for one, arrays in zip(sets, found, strict=True):
        of_set = dict(zip(members(len(one.features)), arrays["effects"], strict=True))
        rows += rows_of(one, of_set, settings.trace, params)
    table = tables.empty(COMBINATIONS)
    if rows:
        table = pd.DataFrame(rows).reindex(columns=list(COMBINATIONS.columns))
    tables.write(table, COMBINATIONS, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = subject.parser_of(__doc__)
    parser.add_argument("--scratch", type=Path, required=True, help="folder of finished shards")
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
