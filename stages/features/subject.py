"""The model whose features are looked for, what it reads, and the files that all of it is in."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.base import cli
from stages.base.errors import FeatureError
from stages.base.files import file_hash
from stages.base.settings import Settings, load
from stages.inputs.encoders import encoded, vocabulary
from stages.inputs.encoders.measured import chosen, held_out
from stages.inputs.material import Cells, Material, Tokens
from stages.measurement.streams import stream
from stages.models.architectures import architecture_of
from stages.models.architectures.base import Architecture
from stages.models.load import fingerprint, load_model
from stages.models.text import Text, read_tokens
from stages.representations import gather
from stages.representations.streams import streams, width_of

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Sequences:
    """Some sequences as a model reads them."""

    text: Text
    kept: Tensor
    """Positions that count, no padding and nothing special: (n, seq)."""

    def __len__(self) -> int:
        """Return their number."""
        return len(self.text)

    def __getitem__(self, which: slice | Tensor) -> "Sequences":
        """Return some of them."""
        return Sequences(self.text[which], self.kept[which])

    @property
    def ids(self) -> Tensor:
        """What the model reads at each position, its mask among it: (n, seq)."""
        return self.text.inputs


@dataclass(frozen=True)
class Subject:
    """A model in its last state, and sequences to learn from and to measure."""

    checkpoint: Path
    architecture: Architecture
    device: torch.device
    special: tuple[int, ...]
    """Ids that are no item."""
    learnt: Material
    """What autoencoders are trained on."""
    measured: Material
    """What they are judged on, and features are traced in."""
    rows: Rows
    """Of the measured sequences, the rows of the encoded cells; of a text, 0, 1, ..."""

    @property
    def state(self) -> str:
        """The name of the model's state."""
        return self.checkpoint.name

    def sequences(self, material: Material, which: Rows) -> Sequences:
        """Return some sequences of `material`; `which` ascends."""
        text = material.text(self.architecture, which)
        real = text.inputs if self.architecture.causal else text.targets
        kept = ~torch.isin(real, torch.tensor(self.special, dtype=real.dtype))
        if text.attended is not None:
            kept &= text.attended
        return Sequences(text, kept)

    def stream(
        self, of: Sequences, layers: Sequence[int], limit: int | None = None
    ) -> tuple[dict[int, NDArray[np.float32]], NDArray[np.int64]]:
        """Return the residual stream at the positions that count, and what is read there.

        Parameters
        ----------
        of
            Sequences.
        layers
            Behind which blocks.
        limit
            Only the first rows.

        Returns
        -------
        rows, ids
            By layer, (n_rows, width), float32; and (n_rows,).
        """
        kept = of.kept.numpy()
        batches = streams(self.architecture, of.text, layers, device=self.device)
        rows = gather.positions(batches, kept, layers, width_of(self.architecture), "float32")
        ids = of.ids.numpy()[kept][:limit]
        return {layer: rows[i][:limit] for i, layer in enumerate(layers)}, ids


@dataclass(frozen=True)
class Files:
    """What a process reads to work on features."""

    params: Path
    checkpoints: Path
    """Folder of the model's states."""
    sequences: Path
    """Encoded cells, or the tokens of a text."""
    autoencoders: Path
    """Folder of them."""
    device: str

    def on(self, device: str) -> "Files":
        """Return the same for another device; a processor works with one thread from here on."""
        if torch.device(device).type == "cpu":
            torch.set_num_threads(1)
        return replace(self, device=device)

    def subject(self, *, state: int = -1) -> Subject:
        """Return the model that the settings name, in one of its states, by its place.

        Raises
        ------
        FeatureError
            There is nothing to train on beside what is measured.
        """
        settings, device = load(self.params), torch.device(self.device)
        of = _of_cells if settings.features.of == "cellmodel" else _of_text
        return of(settings, self.checkpoints, self.sequences, device, state)

    def decide(self, of: Subject, which: Rows) -> dict[str, object]:
        """Return what decides the numbers of any shard: weights, text and device."""
        return {
            "weights": fingerprint(of.checkpoint),
            "torch": str(torch.__version__),
            "device": of.device.type,
            "text": of.measured.digest(which),
        }

    def made(self) -> dict[str, str]:
        """Return the sha256 of the weights of each autoencoder."""
        weights = sorted(self.autoencoders.glob("*/*.safetensors"))
        return {path.parent.name: file_hash(path) for path in weights}


def parser_of(doc: str | None, *, autoencoders: bool = True) -> argparse.ArgumentParser:
    """Return the parser of a stage that works on features."""
    parser = cli.parser(doc)
    cli.add_params(parser)
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of <state>/")
    parser.add_argument(
        "--sequences", type=Path, required=True, help="folder of encoded cells, or of tokens"
    )
    if autoencoders:
        parser.add_argument("--autoencoders", type=Path, required=True, help="folder of them")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:0")
    return parser


def files(args: argparse.Namespace, device: str) -> Files:
    """Return what the arguments of :func:`parser_of` name."""
    made = getattr(args, "autoencoders", Path())
    return Files(args.params, args.checkpoints, args.sequences, made, device)


def _of_text(
    settings: Settings, checkpoints: Path, folder: Path, device: torch.device, state: int
) -> Subject:
    checkpoint = checkpoints / settings.model.checkpoints[state]
    architecture = architecture_of(load_model(checkpoint, device=device))
    tokens = (folder / "tokens.npy", folder / "reference_tokens.npy")
    measured, learnt = (Tokens(path, None, checkpoint) for path in tokens)
    rows = np.arange(len(read_tokens(tokens[0], "evaluation")))
    return Subject(checkpoint, architecture, device, (), learnt, measured, rows)


def _of_cells(
    settings: Settings, checkpoints: Path, folder: Path, device: torch.device, state: int
) -> Subject:
    model = settings.cellmodel
    checkpoint = checkpoints / model.checkpoints[state]
    architecture = architecture_of(load_model(checkpoint, device=device))
    known = vocabulary.read(checkpoint)
    cells = encoded.read(folder).cells
    rows, others = chosen(cells, model.cells)
    # Where none are held out, all may be measured; those that are, are not trained on.
    free = ~held_out(cells, model.cells) if model.cells.held_out else np.ones(len(cells), bool)
    free[[*rows, *others]] = False
    spare = np.flatnonzero(free)
    if len(spare) == 0:
        msg = (
            "no encoded cell is left to train autoencoders on: all are measured or held out. "
            "Raise cellmodel.cells.n_encoded, or lower n_cells."
        )
        raise FeatureError(msg)
    # In random order, so that a limit takes from all donors alike.
    spare = stream(model.cells.seed, "autoencoders").permutation(spare)
    learnt, measured = (
        Cells(folder, checkpoint, tuple(which.tolist()), (), model.cells.seed)
        for which in (spare, rows)
    )
    special = tuple(sorted(known.special.values()))
    return Subject(checkpoint, architecture, device, special, learnt, measured, rows)


def item_means(rows: NDArray[np.float32], ids: Rows, n_ids: int) -> NDArray[np.float32]:
    """Return the mean of the rows at which each id stands, (n_ids, width); of all, if at none."""
    counts = np.bincount(ids, minlength=n_ids)
    sums = np.zeros((n_ids, rows.shape[1]))
    order = np.argsort(ids, kind="stable")
    starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
    sums[ids[order][starts]] = np.add.reduceat(rows[order].astype(float), starts, axis=0)
    means = np.where(
        counts[:, np.newaxis] > 0, sums / np.maximum(counts, 1)[:, np.newaxis], rows.mean(axis=0)
    )
    return means.astype(np.float32)
