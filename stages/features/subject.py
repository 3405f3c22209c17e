"""The model whose features are looked for, what it reads, and what stands at each position."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.base.errors import FeatureError
from stages.base.settings import Settings
from stages.inputs.encoders import encoded, vocabulary
from stages.inputs.encoders.measured import chosen, held_out
from stages.inputs.material import Cells, Material, Tokens
from stages.measurement.streams import stream
from stages.models.architectures import architecture_of
from stages.models.architectures.base import Architecture
from stages.models.load import load_model
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


def of_settings(
    settings: Settings, checkpoints: Path, folder: Path, device: torch.device, *, state: int = -1
) -> Subject:
    """Return the model that the settings name.

    Parameters
    ----------
    checkpoints
        Folder of its states.
    folder
        Encoded cells, or the tokens of a text.
    state
        Which of its states, by its place.

    Raises
    ------
    FeatureError
        There is nothing to train on beside what is measured.
    """
    if settings.features.of == "cellmodel":
        return _of_cells(settings, checkpoints, folder, device, state)
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
