"""Amplify features that follow an order, such as pseudotime, and see where early cells go.

Features are chosen by the rank correlation of their mean code with the order, on one half of the
measured donors; early cells of the other half are steered; what is read was fitted on the cells
that autoencoders learnt from. A dose of 2 doubles a feature's code where it fires. Beside them
stand other features, random directions, features of a shuffled order, and the way from early to
late cells itself.
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
from sklearn.linear_model import RidgeCV
from torch import Tensor

from stages.base import cli, tables
from stages.base.errors import FeatureError
from stages.base.files import file_hash
from stages.base.settings import Settings, load
from stages.compute import shards
from stages.compute.run import a_process_each, kept, where_it_runs
from stages.features import autoencoder, subject
from stages.features.autoencoder import Autoencoder
from stages.features.autoencoders import layers_of, name_of, source_layer
from stages.features.settings import Steer
from stages.features.subject import Files, Sequences, Subject
from stages.features.tables.steer import KINDS, READOUTS, STEERING
from stages.features.tail import Change, Firing, Tail, along, sparse
from stages.inputs.encoders import encoded
from stages.inputs.material import Cells
from stages.measurement import resampling
from stages.measurement.streams import stream
from stages.models.architectures.base import Loss, linear
from stages.models.devices import devices, matmul_precision
from stages.representations import gather
from stages.representations.streams import streams, width_of

Floats = NDArray[np.float64]
Row = dict[str, object]

VERSION = 1
"""Raised when a change makes other numbers, so that finished shards are not mixed with new ones."""

RIDGE = tuple(10.0 ** np.arange(-2, 5))
LATE = 1 / 3
"""Share of the cells at either end of the order that are early, and late."""


@dataclass(frozen=True)
class Readouts:
    """What is read of the last layer of a cell."""

    probe: Tensor
    """Weights on the mean state, (width,)."""
    way: Tensor
    """From early to late cells in the last layer, over its squared length: (width,)."""
    markers: Tensor
    """Ids of late markers, then as many of early ones: (2 m,); empty where values are predicted."""
    ceilings: Mapping[int, Tensor]
    """By layer, the way from early to late in the stream there, of length 1: (width,)."""


@dataclass(frozen=True)
class Ordered:
    """A model with cells of known order: which choose features, and which are steered."""

    subject: Subject
    choosing: Sequences
    order: Floats
    """Of the choosing cells."""
    steered: Sequences
    """Early cells of other donors."""
    readouts: Readouts


def halves(groups: NDArray[np.str_], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split cells by their groups (donors) in two; at random, where there is one group."""
    names = np.unique(groups)
    if len(names) < 2:
        order = stream(seed, "halves").permutation(len(groups))
        middle = len(groups) // 2
        return np.sort(order[:middle]), np.sort(order[middle:])
    first = np.isin(groups, names[: len(names) // 2])
    return np.flatnonzero(first), np.flatnonzero(~first)


def _means(of: Subject, sequences: Sequences, layers: Sequence[int]) -> dict[int, Floats]:
    """Return the mean stream of each cell by layer: (n, width) each."""
    batches = streams(of.architecture, sequences.text, layers, device=of.device)
    width = width_of(of.architecture)
    found = gather.means(batches, sequences.kept.numpy(), layers, width)
    return dict(zip(layers, found, strict=True))


def ends(order: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which cells are early and which late."""
    low, high = np.quantile(order, [LATE, 1 - LATE])
    return order <= low, order >= high


def fitted(
    model: Subject, learnt: Sequences, order: Floats, layers: Sequence[int], n_markers: int
) -> Readouts:
    """Fit what is read, on cells that autoencoders learnt from."""
    last = model.architecture.n_layers - 1
    means = _means(model, learnt, sorted({*layers, last}))
    early, late = ends(order)
    centred = means[last] - means[last].mean(axis=0)
    probe = RidgeCV(alphas=RIDGE).fit(centred, order)
    ways = {at: of[late].mean(axis=0) - of[early].mean(axis=0) for at, of in means.items()}
    way = ways[last] / np.square(ways[last]).sum()
    markers = np.empty(0, dtype=np.int64)
    if model.architecture.loss is Loss.CROSS_ENTROPY:
        present = np.zeros((len(learnt), model.architecture.vocab_size))
        rows = np.arange(len(learnt))[:, np.newaxis]
        items = np.where(learnt.kept.numpy(), learnt.text.targets.numpy(), 0)
        present[rows, items] = 1.0
        present[:, [0, *model.special]] = 0.0
        varies = np.flatnonzero(present.std(axis=0) > 0)
        ranks = stats.rankdata(order) - (len(order) + 1) / 2
        follows = ranks @ (present[:, varies] - present[:, varies].mean(axis=0))
        follows /= present[:, varies].std(axis=0)
        by = varies[np.argsort(follows, kind="stable")]
        m = min(n_markers, len(by) // 2)
        markers = np.concatenate([by[-m:], by[:m]])

    def tensor(values: Floats) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(model.device)

    return Readouts(
        tensor(probe.coef_),
        tensor(way),
        torch.from_numpy(markers).to(model.device),
        {at: tensor(ways[at] / np.linalg.norm(ways[at])) for at in layers},
    )


@kept
def _ordered(files: Files) -> tuple[Settings, Ordered]:
    """Return the cells of a process; only where they have an order."""
    settings = load(files.params)
    params: Steer = settings.steer
    of = files.subject()
    known = encoded.read(files.sequences).cells
    learnt_rows = np.asarray(of.learnt.rows) if isinstance(of.learnt, Cells) else of.rows
    place = known[params.order].to_numpy(float)
    groups = np.full(len(known), "")
    if params.groups in known:
        groups = known[params.groups].astype(str).to_numpy()
    choose, steer = halves(groups[of.rows], params.seed)
    early, _ = ends(place[of.rows[steer]])
    few = stream(params.seed, "early").permutation(np.flatnonzero(early))[: params.sequences]
    fit = np.arange(min(params.fitted, len(of.learnt)))
    with matmul_precision("float32"):
        readouts = fitted(
            of,
            of.sequences(of.learnt, fit),
            place[learnt_rows[fit]],
            steered_layers(settings, of.architecture.n_layers),
            params.markers,
        )
    made = Ordered(
        of,
        of.sequences(of.measured, choose),
        place[of.rows[choose]],
        of.sequences(of.measured, np.sort(steer[few])),
        readouts,
    )
    return settings, made


def steered_layers(settings: Settings, n_layers: int) -> tuple[int, ...]:
    """Return the layers whose features are steered: the traced one and the next with features."""
    source = source_layer(settings.autoencoders, n_layers)
    layers = layers_of(settings.autoencoders, n_layers)
    return tuple(layer for layer in layers if source <= layer < n_layers - 1)[:2]


def follows(
    of: Subject, choosing: Sequences, made: Autoencoder, layer: int, order: Floats
) -> tuple[Floats, Floats]:
    """Return the rank correlation of each feature's mean code with the order, and its frequency.

    A feature that never fires has none, and gives 0.
    """
    totals = np.zeros((len(choosing), made.n_features))
    fired = np.zeros(made.n_features)
    with torch.inference_mode():
        for batch in streams(of.architecture, choosing.text, (layer,), device=of.device):
            state = batch.states[layer]
            seq = state.shape[1]
            kept = choosing.kept[batch.sequences, :seq].to(of.device)
            ids = choosing.ids[batch.sequences, :seq].to(of.device)
            codes = made.encode(made.centred(state, ids)) * kept[..., None]
            totals[batch.sequences] = (codes.sum(dim=1) / kept.sum(dim=1, keepdim=True)).cpu()
            fired += (codes > 0).sum(dim=(0, 1)).cpu().numpy()
    varies = np.ptp(totals, axis=0) > 0
    rho = np.zeros(made.n_features)
    ranks = stats.rankdata(totals[:, varies], axis=0)
    rho[varies] = np.corrcoef(ranks.T, stats.rankdata(order))[-1, :-1]
    return rho, fired / int(choosing.kept.sum())


def _read(of: Subject, readouts: Readouts, hidden: Tensor, sequences: Sequences) -> Tensor:
    """Return what is read of the last layer of some cells: (b, readouts); nan where nothing is."""
    kept = sequences.kept.to(of.device)[..., None]
    mean = (hidden * kept).sum(dim=1) / kept.sum(dim=1)
    found = [mean @ readouts.probe, torch.full((len(hidden),), torch.nan), mean @ readouts.way]
    scored = sequences.text.scored
    if len(readouts.markers) and scored is not None:
        weight, bias = of.architecture.unembedding()
        on = scored.to(of.device)
        m = len(readouts.markers) // 2
        rows = of.architecture.normalise(hidden)[on]
        own = None if bias is None else bias[readouts.markers]
        logits = linear(rows, weight[readouts.markers], own)
        apart = logits[:, :m].mean(dim=1) - logits[:, m:].mean(dim=1)
        cell = torch.arange(len(hidden), device=of.device).repeat_interleave(on.sum(dim=1))
        total = torch.zeros(len(hidden), device=of.device).index_add_(0, cell, apart)
        found[1] = total / on.sum(dim=1)
    return torch.stack([one.cpu() for one in found], dim=1).double()


def readings(tail: Tail, readouts: Readouts, changes: Sequence[Change]) -> Floats:
    """Return what is read of the last layer under each change: (n_changes, readouts)."""
    last = tail.subject.architecture.n_layers - 1
    found: list[Tensor] = []

    def read(hidden: Tensor, part: slice) -> Tensor:
        numbers = torch.tensor([change.sequence for change in changes[part]])
        found.append(_read(tail.subject, readouts, hidden, tail.sequences[numbers]))
        return hidden

    tail.run(changes, each={last: read})
    return np.asarray(torch.cat(found))


def _intact(tail: Tail, readouts: Readouts) -> Floats:
    """Return what is read of the intact cells: (n, readouts)."""
    device = tail.states.device
    at = torch.zeros(1, dtype=torch.long, device=device)
    nothing = torch.zeros(1, tail.states.shape[-1], device=device)
    return readings(tail, readouts, [Change(n, at, nothing) for n in range(len(tail.sequences))])


@dataclass(frozen=True)
class Steered:
    """A feature, whose codes are amplified along a direction."""

    feature: int
    direction: Tensor
    sign: float
    """Of its correlation with the order."""


def chosen(rho: Floats, able: NDArray[np.int64], n: int) -> list[tuple[int, float]]:
    """Return the features that rise and that fall with the order most, with their signs."""
    by = able[np.argsort(rho[able], kind="stable")]
    n = min(n, len(by) // 2)
    return [(int(f), 1.0) for f in by[::-1][:n]] + [(int(f), -1.0) for f in by[:n]]


def sets(
    made: Autoencoder,
    rho: Floats,
    shuffled: Floats,
    able: NDArray[np.int64],
    ceiling: Tensor,
    params: Steer,
    rng: np.random.Generator,
) -> dict[str, list[Steered]]:
    """Return what is steered, by kind: features of the order, and what stands beside them.

    Parameters
    ----------
    rho, shuffled
        Correlation of each feature with the order, and with an order without meaning.
    able
        Features that fire in enough of the steered cells.
    ceiling
        The way from early to late, of length 1.
    """

    def own(feature: int) -> Tensor:
        return made.decoder[:, feature]

    best = chosen(rho, able, params.features)
    taken = {feature for feature, _ in best}
    others = rng.permutation(np.array([f for f in able.tolist() if f not in taken], dtype=int))
    found: dict[str, list[Steered]] = {kind: [] for kind in KINDS}
    for i, (feature, sign) in enumerate(best):
        found["feature"].append(Steered(feature, own(feature), sign))
        if i < len(others):
            other = int(others[i])
            found["random feature"].append(Steered(other, own(other), sign))
        drawn = torch.from_numpy(rng.normal(size=len(ceiling)).astype(np.float32)).to(ceiling)
        length = own(feature).norm()
        found["random direction"].append(Steered(feature, drawn / drawn.norm() * length, sign))
        found["ceiling"].append(Steered(feature, sign * ceiling * length, sign))
    found["shuffled order"] = [
        Steered(feature, own(feature), sign)
        for feature, sign in chosen(shuffled, able, params.features)
    ]
    return {kind: some for kind, some in found.items() if some}


def _shards(files: Files) -> list[shards.Shard]:
    """Return the autoencoders to be steered by, as shards named by what decides their rows."""
    settings, of = load(files.params), files.subject()
    decides = files.decide(of, np.arange(len(of.measured))) | {
        "autoencoders": files.made(),
        "version": VERSION,
        "learnt": of.learnt.source(),
        "cells": file_hash(files.sequences / encoded.CELLS_FILE),
        "steer": settings.steer.model_dump(),
        "min_frequency": settings.autoencoders.min_frequency,
    }
    return [
        shards.Shard(
            f"L{layer}-seed{seed}", shards.key_of(decides | {"of": [layer, seed]}), (layer, seed)
        )
        for layer in steered_layers(settings, of.architecture.n_layers)
        for seed in range(settings.autoencoders.seeds)
    ]


def _work(files: Files, task: tuple[int, int], *, device: str) -> shards.Arrays:
    """Steer the features of the autoencoder of a layer and a seed; columns of ``STEERING``."""
    layer, seed = task
    settings, cells = _ordered(files.on(device))
    params: Steer = settings.steer
    of = cells.subject
    made = autoencoder.load(files.autoencoders / name_of(layer, seed)).to(of.device)
    rng = stream(params.seed, "steer", layer, seed)
    with matmul_precision("float32"), torch.inference_mode():
        rho, often = follows(of, cells.choosing, made, layer, cells.order)
        shuffled, _ = follows(of, cells.choosing, made, layer, rng.permutation(cells.order))
        tail = Tail(of, cells.steered, layer, {}, losses=True)
        ids = cells.steered.ids.to(of.device)
        firing = Firing.of(sparse(made, tail.states, ids), cells.steered.kept, made.n_features)
        able = np.array(
            [
                f
                for f in np.flatnonzero(often >= settings.autoencoders.min_frequency).tolist()
                if sum(1 for _ in firing.by_sequence(f)) >= params.min_sequences
            ],
            dtype=int,
        )
        base = _intact(tail, cells.readouts)
        rows: list[Row] = []
        ceiling = cells.readouts.ceilings[layer]
        for kind, some in sets(made, rho, shuffled, able, ceiling, params, rng).items():
            for dose in params.doses:
                changes = [along(firing, one.feature, one.direction, dose - 1) for one in some]
                whole = [change for few in changes for change in few]
                moved = readings(tail, cells.readouts, whole)
                moved -= base[[change.sequence for change in whole]]
                cuts = np.cumsum([len(few) for few in changes])[:-1]
                each = np.array([part.mean(axis=0) for part in np.split(moved, cuts)])
                each *= np.array([one.sign for one in some])[:, np.newaxis]
                key = {"layer": layer, "seed": seed, "kind": kind, "dose": dose}
                key["n_sequences"] = len(whole) / len(some)
                rows += _summary(each, key, params)
    table = pd.DataFrame(rows, columns=list(STEERING.columns))
    return {column: np.asarray(table[column].tolist()) for column in table}


def _summary(each: Floats, key: Mapping[str, object], params: Steer) -> list[Row]:
    rows: list[Row] = []
    weights = resampling.group_weights(
        len(each), params.draws, stream(params.seed, "interval", str(key["kind"]))
    )
    for number, readout in enumerate(READOUTS):
        values = each[:, number]
        if np.isnan(values).any():
            continue
        low, high = resampling.percentile_interval(weights @ values, confidence=params.confidence)
        rows.append(
            dict(key)
            | {
                "readout": readout,
                "n_features": len(values),
                "shift": values.mean(),
                "low": low,
                "high": high,
                "positive": float((values > 0).mean()),
            }
        )
    return rows


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    on = where_it_runs(devices, args.device)
    files = subject.files(args, on[0])
    steered: list[pd.DataFrame] = []
    has_order = (
        settings.features.of == "cellmodel"
        and settings.steer.order in encoded.read(args.sequences).cells
    )
    if has_order:
        at = shards.store(args.scratch, raises=FeatureError)
        found = at.filled(_shards(files), partial(_work, files), on=a_process_each(on))
        steered = [pd.DataFrame(arrays) for arrays in found if len(arrays["layer"])]
    else:
        cli.log.info("what is read has no column %s: nothing is steered", settings.steer.order)
    whole = pd.concat(steered, ignore_index=True) if steered else tables.empty(STEERING)
    tables.write(whole, STEERING, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = subject.parser_of(__doc__)
    parser.add_argument("--scratch", type=Path, required=True, help="folder of finished shards")
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
