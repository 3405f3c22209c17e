"""Change the stream behind one block at some positions, and run what comes after, and only that.

A change concerns one sequence: where it adds what. A feature that does not fire in a sequence
changes nothing there, so nothing is run. Changes are run many in a batch, in the order given, from
the stream that the intact model left behind the block; what is read behind later blocks are the
codes of their autoencoders at the changed positions, less those of the intact model, and at the
end, if wanted, the loss of the sequence.

:class:`stages.models.passes.Passes` runs its changes on all sequences alike and does not tell a
change which sequence it works on; a feature's code depends on what is read at each position.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from stages.features.autoencoder import Autoencoder
from stages.features.subject import Sequences, Subject
from stages.models.losses import SequenceLoss
from stages.models.passes import CPU_POSITIONS, GPU_POSITIONS
from stages.models.positions import run_at

NOISE = 1e-5
"""Changes of a code below this share of its usual size are rounding and count as none."""


@dataclass(frozen=True)
class Change:
    """What is added to the stream of one sequence behind a block."""

    sequence: int
    positions: Tensor
    """(p,)"""
    added: Tensor
    """(p, width)"""


@dataclass(frozen=True)
class Sparse:
    """The largest codes of each position: (..., k) each; a code of 0 may stand anywhere."""

    codes: Tensor
    features: Tensor

    def __getitem__(self, which: tuple[Tensor | int, Tensor]) -> "Sparse":
        """Return some positions."""
        return Sparse(self.codes[which], self.features[which])


def sparse(autoencoder: Autoencoder, rows: Tensor, ids: Tensor) -> Sparse:
    """Return the largest codes of rows of the stream: (..., width) -> (..., k)."""
    inside = autoencoder.centred(rows, ids) - autoencoder.before
    before = torch.addmm(autoencoder.encoder_bias, inside.flatten(0, -2), autoencoder.encoder.T)
    largest, at = before.topk(autoencoder.k, dim=-1)
    shape = (*rows.shape[:-1], autoencoder.k)
    return Sparse(largest.clamp_(min=0).view(shape), at.view(shape))


def summed(of: Sparse, groups: Tensor, n_groups: int, n_features: int) -> Tensor:
    """Return the codes of positions summed by group: (p, k), (p,) -> (n_groups, n_features)."""
    total = of.codes.new_zeros(n_groups * n_features)
    at = groups[:, None] * n_features + of.features
    total.index_add_(0, at.flatten(), of.codes.flatten())
    return total.view(n_groups, n_features)


@dataclass
class Tail:
    """A model behind one block, with sequences whose intact streams and codes it keeps.

    Parameters
    ----------
    subject
        The model.
    sequences
        What it reads.
    layer
        Behind which block the stream is changed.
    dictionaries
        Autoencoders of later blocks, by layer.
    losses
        Whether the loss of each sequence is read, too.
    """

    subject: Subject
    sequences: Sequences
    layer: int
    dictionaries: Mapping[int, Autoencoder]
    losses: bool = False
    states: Tensor = field(init=False)
    """The intact stream behind the block: (n, seq, width)."""
    clean: dict[int, Sparse] = field(init=False)
    """Intact codes behind later blocks, (n, seq, k)."""
    loss: Tensor = field(init=False)
    """Of each intact sequence: (n,), float64; nan if it is not read."""
    last: int = field(init=False)

    def __post_init__(self) -> None:
        model = self.subject.architecture
        self.last = model.n_layers - 1 if self.losses else max(self.dictionaries)
        text = self.sequences.text
        states: list[Tensor] = []
        found: dict[int, list[Sparse]] = {layer: [] for layer in self.dictionaries}
        losses: list[Tensor] = []
        with torch.inference_mode():
            for part in self._parts(len(text)):
                hidden = model.enter(text[part].to(self.subject.device))
                attended = self._attended(torch.arange(part.start, part.stop))
                ids = self.sequences.ids[part].to(self.subject.device)
                for at in range(self.last + 1):
                    hidden = model.run(model.blocks[at], hidden, attended)
                    if at == self.layer:
                        states.append(hidden)
                    if at in self.dictionaries:
                        found[at].append(sparse(self.dictionaries[at], hidden, ids))
                if self.losses:
                    losses.append(self._losses(hidden, torch.arange(part.start, part.stop)))
        self.states = torch.cat(states)
        self.clean = {
            layer: Sparse(
                torch.cat([one.codes for one in of]), torch.cat([one.features for one in of])
            )
            for layer, of in found.items()
        }
        nothing = torch.full((len(text),), torch.nan, dtype=torch.float64)
        self.loss = torch.cat(losses) if self.losses else nothing

    @property
    def batch(self) -> int:
        """Sequences in one pass."""
        room = CPU_POSITIONS if self.subject.device.type == "cpu" else GPU_POSITIONS
        return max(1, room // self.sequences.text.n_positions)

    def _parts(self, n: int) -> Iterator[slice]:
        for start in range(0, n, self.batch):
            yield slice(start, min(start + self.batch, n))

    def _attended(self, numbers: Tensor) -> Tensor | None:
        attended = self.sequences.text.attended
        return None if attended is None else attended[numbers].to(self.subject.device)

    def _read(self, numbers: Tensor) -> Tensor:
        """Return where the last block is read, whatever is changed: (b, seq)."""
        text = self.sequences.text
        shape, device = (len(numbers), text.n_positions), self.subject.device
        if self.losses and text.scored is not None:
            return text.scored[numbers].to(device)
        return torch.full(shape, self.losses, device=device)

    def _losses(self, hidden: Tensor, numbers: Tensor) -> Tensor:
        text = self.sequences.text[numbers]
        observe = SequenceLoss(self.subject.architecture, text, self.subject.device)
        return observe(self.last, hidden[None], slice(None))[0].cpu()

    @torch.inference_mode()
    def run(
        self,
        changes: Sequence[Change],
        *,
        each: Mapping[int, Callable[[Tensor, slice], Tensor]] = MappingProxyType({}),
        states: Tensor | None = None,
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Run every change.

        Parameters
        ----------
        changes
            What is added where.
        each
            By later layer, called behind its block with the stream of some changes, (b, seq,
            width), and which they are; what it returns goes on: a change of that layer.
        states
            The stream behind the block, one for each change, (n_changes, seq, width); none: the
            intact one of its sequence.

        Returns
        -------
        moved, rise
            By layer, mean over the changed positions of codes less the intact ones,
            (n_changes, n_features); and the rise of the loss, (n_changes,), float64, or nan.
        """
        model = self.subject.architecture
        moved: dict[int, list[Tensor]] = {layer: [] for layer in self.dictionaries}
        rise: list[Tensor] = []
        for part in self._parts(len(changes)):
            some = changes[part]
            numbers = torch.tensor([change.sequence for change in some])
            groups = torch.cat(
                [torch.full_like(change.positions, i) for i, change in enumerate(some)]
            )
            at = torch.cat([change.positions for change in some])
            hidden = self.states[numbers] if states is None else states[part].clone()
            hidden[groups, at] += torch.cat([change.added for change in some])
            attended = self._attended(numbers)
            of = numbers[groups]
            ids = self.sequences.ids[of, at].to(self.subject.device)
            n_positions = torch.bincount(groups, minlength=len(some))[:, None]
            for layer in range(self.layer + 1, self.last + 1):
                if layer == self.last and layer not in each:
                    wanted = self._read(numbers)
                    wanted[groups, at] = True
                    hidden = run_at(model, model.blocks[layer], hidden, wanted, attended)
                else:
                    hidden = model.run(model.blocks[layer], hidden, attended)
                if layer in each:
                    hidden = each[layer](hidden, part)
                if layer in self.dictionaries:
                    dictionary = self.dictionaries[layer]
                    now = sparse(dictionary, hidden[groups, at], ids)
                    size = (len(some), dictionary.n_features)
                    change = summed(now, groups, *size)
                    change -= summed(self.clean[layer][of, at], groups, *size)
                    moved[layer].append(change / n_positions)
            if self.losses:
                rise.append(self._losses(hidden, numbers) - self.loss[numbers])
        found = {layer: torch.cat(of) for layer, of in moved.items()}
        nothing = torch.full((len(changes),), torch.nan, dtype=torch.float64)
        return found, torch.cat(rise) if rise else nothing


@dataclass(frozen=True)
class Firing:
    """Where features fire in some sequences, by feature."""

    sequence: Tensor
    position: Tensor
    code: Tensor
    starts: Tensor
    """Where each feature's entries begin; one more at the end: (n_features + 1,)."""

    @classmethod
    def of(cls, codes: Sparse, kept: Tensor, n_features: int) -> "Firing":
        """Return where codes (n, seq, k) are above 0 at positions that count, (n, seq)."""
        on = (codes.codes > 0) & kept.to(codes.codes.device)[..., None]
        sequence, position, rank = on.nonzero(as_tuple=True)
        feature = codes.features[sequence, position, rank]
        order = feature.argsort(stable=True)
        counts = torch.bincount(feature, minlength=n_features)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        code = codes.codes[sequence, position, rank]
        return cls(sequence[order], position[order], code[order], starts)

    def times(self) -> Tensor:
        """Return at how many positions each feature fires: (n_features,)."""
        return self.starts.diff()

    def by_sequence(self, feature: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield, of each sequence a feature fires in: its number, the positions, the codes."""
        part = slice(int(self.starts[feature]), int(self.starts[feature + 1]))
        at = self.sequence[part].cpu().numpy()
        starts = np.flatnonzero(np.diff(at, prepend=-1))
        numbers = at[starts]
        sizes = np.diff(starts, append=len(at)).tolist()
        positions = torch.split(self.position[part], sizes)
        codes = torch.split(self.code[part], sizes)
        yield from zip(numbers.tolist(), positions, codes, strict=True)


def along(firing: Firing, feature: int, direction: Tensor, by: float = -1.0) -> list[Change]:
    """Return the changes that add `by` times a feature's code along a direction, (width,).

    With the feature's own direction and -1 it is switched off, and the error of the reconstruction
    stays.
    """
    return [
        Change(number, positions, by * codes[:, None] * direction)
        for number, positions, codes in firing.by_sequence(feature)
    ]
