"""Train sparse autoencoders on the residual stream, and say what they are worth.

One for each layer and seed, on what a share-hidden input leaves of cells (or text) that nothing is
traced on, less the mean of what is read at a position. Beside them, at the layer whose features are
traced, stand autoencoders of which a part never learnt (arXiv:2602.14111) and one of the model
before its training (arXiv:2501.17727); and all of these on rows made of planted directions, where
it can be said how many of those are found.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from stages.base import cli, tables
from stages.base.errors import FeatureError
from stages.base.files import atomic_folder, file_hash
from stages.base.settings import Settings, load
from stages.compute import shards
from stages.compute.run import a_process_each, kept, where_it_runs
from stages.features import autoencoder, subject
from stages.features.autoencoder import KINDS, Autoencoder, Kind
from stages.features.settings import Autoencoders, Training
from stages.features.subject import Files, Sequences, Subject
from stages.features.tables.autoencoders import AUTOENCODERS
from stages.measurement.streams import stream
from stages.models.devices import devices, matmul_precision
from stages.models.losses import SequenceLoss

Floats = NDArray[np.float32]
Row = dict[str, object]

VERSION = 1
"""Raised when a change makes other numbers, so that finished shards are not mixed with new ones."""

PLANTED_DIRECTIONS, PLANTED_WIDTH, PLANTED_ROWS = 96, 48, 32_768
PLANTED_FIRE = 4
"""Of the planted directions, in a row, on average."""
FOUND_COSINE = 0.9


def name_of(layer: int, seed: int) -> str:
    """Return the name of an autoencoder's folder.

    >>> name_of(1, 0)
    'L1_seed0'
    """
    return f"L{layer}_seed{seed}"


def source_layer(params: Autoencoders, n_layers: int) -> int:
    """Return the layer whose features are traced: that of the settings, or a third of the way."""
    layer = n_layers // 3 if params.source is None else params.source
    if not 0 <= layer < n_layers - 1:
        msg = (
            f"autoencoders.source is {layer}: a feature is traced from a layer before the last, "
            f"and the model has the layers 0 to {n_layers - 1}. Change it in conf/config.yaml."
        )
        raise FeatureError(msg)
    return layer


def layers_of(params: Autoencoders, n_layers: int) -> tuple[int, ...]:
    """Return the layers that get autoencoders, ascending: those of the settings, or all.

    Raises
    ------
    FeatureError
        One does not exist, or the traced layer or every later one is missing.
    """
    layers = tuple(range(n_layers)) if params.layers is None else tuple(sorted(params.layers))
    source = source_layer(params, n_layers)
    if layers[-1] >= n_layers or source not in layers or layers[-1] == source:
        msg = (
            f"autoencoders.layers names {', '.join(map(str, layers))}; the model has the layers 0 "
            f"to {n_layers - 1}, and the traced layer {source} and a later one must be among them. "
            "Change it in conf/config.yaml."
        )
        raise FeatureError(msg)
    return layers


def planted(seed: int) -> tuple[Floats, Floats]:
    """Draw rows that are sums of a few of many planted directions, more than there are dimensions.

    How often directions occur falls as the inverse of the square root of their rank; coefficients
    are exponential.

    Returns
    -------
    rows, directions
        (PLANTED_ROWS, PLANTED_WIDTH) and (PLANTED_WIDTH, PLANTED_DIRECTIONS), of length 1.
    """
    rng = stream(seed, "planted")
    directions = rng.normal(size=(PLANTED_WIDTH, PLANTED_DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    often = 1 / np.sqrt(1 + np.arange(PLANTED_DIRECTIONS))
    often *= PLANTED_FIRE / often.sum()
    on = rng.random((PLANTED_ROWS, PLANTED_DIRECTIONS)) < often
    codes = on * rng.exponential(size=on.shape)
    return (codes @ directions.T).astype(np.float32), directions.astype(np.float32)


def _of_planted(kind: Kind, params: Training) -> Row:
    rows, directions = planted(params.seed)
    size = params.model_copy(
        update={
            "features": 2 * PLANTED_DIRECTIONS,
            "k": min(params.k, 2 * PLANTED_FIRE),
            "batch": min(params.batch, 512),
            "epochs": max(params.epochs, 6),
        }
    )
    made = autoencoder.train(rows, size, seed=params.seed, kind=kind)
    whole = torch.from_numpy(rows)
    found = autoencoder.best_cosines(torch.from_numpy(directions), made.decoder)
    often = autoencoder.frequencies(made, whole)
    return {
        "on": "planted",
        "layer": 0,
        "kind": kind,
        "seed": 0,
        "n_features": size.features,
        "k": size.k,
        "n_rows": len(rows),
        "explained": autoencoder.explained(made, whole),
        "alive": int((often > 0).sum()),
        "dead": int((often == 0).sum()),
        "found": float((found >= FOUND_COSINE).mean()),
    }


@torch.inference_mode()
def spliced_losses(
    of: Subject, judged: Sequences, layer: int, made: Autoencoder
) -> tuple[float, float, float]:
    """Return the mean loss intact, with the reconstruction in the stream, and with no feature.

    What is not coded (padding, special tokens) stays as it is.
    """
    model, n_layers = of.architecture, of.architecture.n_layers
    observe = SequenceLoss(model, judged.text, of.device)
    found = []
    step = 16
    for first in range(0, len(judged), step):
        part = judged[first : first + step]
        text = part.text.to(of.device)
        hidden = model.enter(text)
        for at in range(layer + 1):
            hidden = model.run(model.blocks[at], hidden, text.attended)
        kept = part.kept.to(of.device)
        ids = part.ids.to(of.device)[kept]
        rows = made.centred(hidden[kept], ids)
        known = hidden[kept] - rows
        instead = (None, known + made.decode(made.encode(rows)), known + made.after)
        variants = []
        for rest in instead:
            state = hidden.clone()
            if rest is not None:
                state[kept] = rest
            variants.append(state)
        state = torch.cat(variants)
        attended = None if text.attended is None else text.attended.repeat(3, 1)
        for at in range(layer + 1, n_layers):
            state = model.run(model.blocks[at], state, attended)
        shape = (3, len(part), *state.shape[1:])
        found.append(observe(n_layers - 1, state.view(shape), slice(first, first + len(part))))
    intact, spliced, without = torch.cat(found, dim=1).mean(dim=1).tolist()
    return intact, spliced, without


def _centre(
    rows: dict[int, Floats], ids: NDArray[np.int64], params: Autoencoders, n_ids: int
) -> dict[int, Floats]:
    """Take from the rows of each layer, in place, the mean by what is read; return the means."""
    means = {}
    for layer, of_layer in rows.items():
        if params.mean == "token":
            means[layer] = subject.item_means(of_layer, ids, n_ids)
            of_layer -= means[layer][ids]
        else:
            one = of_layer.mean(axis=0, dtype=np.float64).astype(np.float32)
            means[layer] = np.broadcast_to(one, (n_ids, len(one))).copy()
            of_layer -= one
    return means


def harvested(
    of: Subject, layers: Sequence[int], params: Autoencoders, folder: Path, label: str
) -> dict[int, tuple[Path, Path]]:
    """Write centred rows of the stream, and the means taken from them; return the files by layer.

    Raises
    ------
    FeatureError
        There are fewer rows than a batch.
    """
    n, longest = len(of.learnt), 0
    wanted: list[int] = []
    # As many sequences as give the rows, and no more.
    for number in range(0, n, 64):
        chosen = np.arange(number, min(number + 64, n))
        longest += int(of.sequences(of.learnt, chosen).kept.sum())
        wanted += chosen.tolist()
        if longest >= params.positions:
            break
    learnt = of.sequences(of.learnt, np.array(wanted))
    rows, ids = of.stream(learnt, layers, params.positions)
    means = _centre(rows, ids, params, of.architecture.vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for layer, of_layer in rows.items():
        files[layer] = folder / f"{label}-L{layer}.npy", folder / f"{label}-means-L{layer}.npy"
        np.save(files[layer][0], of_layer)
        np.save(files[layer][1], means[layer])
    return files


def chosen_sequences(of: Subject, n: int, seed: int) -> NDArray[np.int64]:
    """Return numbers of `n` measured sequences (all, if there are fewer), ascending."""
    order = stream(seed, "sequences").permutation(len(of.measured))
    return np.sort(order[:n])


def _recovered(intact: float, spliced: float, without: float) -> float:
    """Return which share of what all features are worth a reconstruction keeps.

    Nothing where they are worth less than a hundredth of the loss.
    """
    worth = without - intact
    return (without - spliced) / worth if worth > 0.01 * abs(intact) else np.nan


def _judged(
    of: Subject, judged: Sequences, layer: int, made: Autoencoder, params: Autoencoders
) -> tuple[Row, NDArray[np.bool_]]:
    """Return a row of the table, and which features are alive."""
    rows, ids = of.stream(judged, (layer,))
    centred = made.centred(torch.from_numpy(rows[layer]), torch.from_numpy(ids))
    often = autoencoder.frequencies(made, centred)
    alive = often >= params.min_frequency
    intact, spliced, without = spliced_losses(of, judged, layer, made.to(of.device))
    row: Row = {
        "layer": layer,
        "n_features": made.n_features,
        "k": made.k,
        "n_rows": len(centred),
        "explained": autoencoder.explained(made, centred),
        "loss": intact,
        "loss_spliced": spliced,
        "loss_without": without,
        "recovered": _recovered(intact, spliced, without),
        "alive": int(alive.sum()),
        "dead": int((often == 0).sum()),
    }
    return row, alive


@dataclass(frozen=True)
class Job:
    """An autoencoder to be trained and judged, in any process."""

    rows: Path
    """Centred rows to learn from."""
    means: Path
    on: str
    layer: int
    kind: Kind
    seed: int


@kept
def _subject(files: Files, on: str) -> tuple[Settings, Subject, Sequences]:
    settings = load(files.params)
    of = files.subject(state=0 if on == "untrained model" else -1)
    asked = settings.autoencoders
    which = chosen_sequences(of, asked.judged, asked.training.seed)
    return settings, of, of.sequences(of.measured, which)


def _decides(files: Files, of: Subject, params: Autoencoders) -> dict[str, object]:
    """Return what decides all autoencoders of a subject: their weights, and what they are worth.

    Of the settings, `seeds`, `layers` and `source` decide which there are, and not what they are.
    """
    judged = chosen_sequences(of, params.judged, params.training.seed)
    settings = params.model_dump(include={"training", "min_frequency"})
    return files.decide(of, judged) | {"version": VERSION, "settings": settings}


def _shard(job: Job, decides: Mapping[str, object]) -> shards.Shard:
    decides = dict(decides) | {
        "rows": file_hash(job.rows),
        "means": file_hash(job.means),
        "job": [job.on, job.layer, job.kind, job.seed],
    }
    label = "-".join([*job.on.split(), f"L{job.layer}", job.kind, str(job.seed)])
    return shards.Shard(label, shards.key_of(decides), job)


def _made(files: Files, job: Job, *, device: str) -> shards.Arrays:
    """Train and judge one autoencoder: its tensors, `alive` and, as JSON, its `row`."""
    settings, of, judged = _subject(files.on(device), job.on)
    params: Autoencoders = settings.autoencoders
    drawn = int(stream(params.training.seed, "autoencoder", job.seed).integers(1 << 62))
    with matmul_precision("float32"):
        made = autoencoder.train(
            np.load(job.rows), params.training, seed=drawn, kind=job.kind, device=of.device
        )
        made = replace(made, means=torch.from_numpy(np.load(job.means)))
        row, alive = _judged(of, judged, job.layer, made, params)
    tensors = autoencoder.tensors_of(made.to(torch.device("cpu")))
    row = {"on": job.on, "kind": job.kind, "seed": job.seed} | row
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return arrays | {"alive": alive, "row": np.array(json.dumps(row))}


def _read(arrays: shards.Arrays) -> tuple[Autoencoder, Row, NDArray[np.bool_]]:
    """Return an autoencoder, its row and which of its features are alive."""
    row: dict[str, Any] = json.loads(str(arrays["row"]))
    tensors = {
        name: torch.from_numpy(of) for name, of in arrays.items() if name not in ("alive", "row")
    }
    return Autoencoder(**tensors, k=row["k"]), row, arrays["alive"]


def stabilities(
    made: Mapping[tuple[int, int], Autoencoder], alive: Mapping[tuple[int, int], NDArray[np.bool_]]
) -> dict[tuple[int, int], float]:
    """Return, by layer and seed, how alike alive features are to those of other seeds.

    The mean over features of the largest cosine with one of another seed, over other seeds.
    """
    living = {
        at: one.decoder[:, torch.from_numpy(np.flatnonzero(alive[at]))] for at, one in made.items()
    }
    found = {}
    for layer, seed in made:
        cosines = [
            autoencoder.best_cosines(living[layer, seed], of).mean()
            for (at, other), of in living.items()
            if at == layer and other != seed and of.shape[1] and living[layer, seed].shape[1]
        ]
        found[layer, seed] = float(np.mean(cosines)) if cosines else np.nan
    return found


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    params: Autoencoders = settings.autoencoders
    device = devices(args.device)[0]
    where = subject.files(args, device)
    of = where.subject()
    layers = layers_of(params, of.architecture.n_layers)
    source = source_layer(params, of.architecture.n_layers)
    decides = {"stream": _decides(where, of, params)}
    with matmul_precision("float32"):
        files = harvested(of, layers, params, args.scratch, "stream")
        jobs = [
            Job(*files[layer], "stream", layer, "trained", seed)
            for layer in layers
            for seed in range(params.seeds)
        ]
        jobs += [Job(*files[source], "stream", source, kind, 0) for kind in KINDS[1:]]
        states = settings.cellmodel if settings.features.of == "cellmodel" else settings.model
        if len(states.checkpoints) > 1:
            untrained = where.subject(state=0)
            decides["untrained model"] = _decides(where, untrained, params)
            files = harvested(untrained, (source,), params, args.scratch, "untrained")
            jobs.append(Job(*files[source], "untrained model", source, "trained", 0))
    on = a_process_each(where_it_runs(devices, args.device))
    at = shards.store(args.scratch, raises=FeatureError)
    every = [_shard(job, decides[job.on]) for job in jobs]
    finished = at.filled(every, partial(_made, where), on=on)
    found = [_read(arrays) for arrays in finished]
    kept = {
        (job.layer, job.seed): one
        for job, one in zip(jobs, found, strict=True)
        if job.on == "stream" and job.kind == "trained"
    }
    stable = stabilities(
        {at: one[0] for at, one in kept.items()}, {at: one[2] for at, one in kept.items()}
    )
    rows: list[Row] = [
        row
        | (
            {"stability": stable[job.layer, job.seed]}
            if kept.get((job.layer, job.seed)) is one
            else {}
        )
        for job, one in zip(jobs, found, strict=True)
        for row in [one[1]]
    ]
    rows += [_of_planted(kind, params.training) for kind in KINDS]
    table = pd.DataFrame(rows).reindex(columns=list(AUTOENCODERS.columns))
    with atomic_folder(args.out) as folder:
        for (layer, seed), (made, row, _) in kept.items():
            inside = folder / name_of(layer, seed)
            inside.mkdir()
            statement = {"layer": layer, "seed": seed, "state": of.state, "mean": params.mean}
            autoencoder.save(made, inside, statement | {"explained": row["explained"]})
    tables.write(table, AUTOENCODERS, args.table)
    shutil.rmtree(args.scratch)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = subject.parser_of(__doc__, autoencoders=False)
    parser.add_argument(
        "--scratch", type=Path, required=True, help="folder of rows and of finished shards, removed"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of L<layer>_seed<seed>/")
    parser.add_argument("--table", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
