"""Remove sets of heads from one state of a model, and keep every set's losses as they come.

A set is removed by one intervention (:mod:`stages.models.interventions`); sets that begin alike
share the way to where they part. What is finished lies in shards, each named by a sha256 of all
that decides its numbers, so that a killed run goes on where it stopped.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stages.base.errors import AblationError
from stages.compute import shards
from stages.compute.run import kept
from stages.compute.shards import Arrays, Shard
from stages.inputs.material import Material
from stages.models.architectures import architecture_of
from stages.models.devices import matmul_precision
from stages.models.interventions import AblationType, Heads, Intervention
from stages.models.load import fingerprint, load_model
from stages.models.passes import ENGINE_VERSION, Passes
from stages.pairs.components import Head, Pair, head_name

Floats = NDArray[np.float64]


def without(heads: Sequence[Head], way: AblationType, seed: int = 0) -> Intervention:
    """Return the intervention that removes these heads together."""
    by_layer = itertools.groupby(sorted(heads), key=lambda head: head[0])
    return tuple(Heads(layer, tuple(head for _, head in of), way, seed) for layer, of in by_layer)


@dataclass(frozen=True)
class Removal:
    """Sets of heads, the work of one shard."""

    label: str
    way: AblationType
    sets: tuple[tuple[Head, ...], ...]
    seeds: tuple[int, ...] = (0,)
    """Draws of a random way."""

    @property
    def interventions(self) -> list[Intervention]:
        """What is done to the model: set by set, the draws of one after another."""
        return [without(heads, self.way, seed) for heads in self.sets for seed in self.seeds]

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of sets and draws."""
        return len(self.sets), len(self.seeds)


BASELINE = Removal("baseline", AblationType.ZERO, ((),))


def singles(
    n_layers: int, n_heads: int, way: AblationType, seeds: tuple[int, ...]
) -> tuple[list[Removal], list[Removal]]:
    """Return the removals of each head alone, and of all heads of a layer, both by layer."""
    alone, together = [], []
    for layer in range(n_layers):
        heads = tuple((layer, head) for head in range(n_heads))
        name = f"L{layer:02d}-{{}}-{way.value}"
        alone.append(Removal(name.format("head"), way, tuple((one,) for one in heads), seeds))
        together.append(Removal(name.format("attention"), way, (heads,), seeds))
    return alone, together


def joint(pairs: Sequence[Pair], way: AblationType, seeds: tuple[int, ...]) -> list[Removal]:
    """Return the removals of pairs, those of one first head a shard, in order."""
    by_first = itertools.groupby(pairs, key=lambda one: one[0])
    return [
        Removal(f"L{first[0]:02d}-pair-{head_name(first)}-{way.value}", way, tuple(of), seeds)
        for first, of in by_first
    ]


def cumulative(ordered: Sequence[Head], way: AblationType, seeds: tuple[int, ...]) -> Removal:
    """Return the removals of the first one, two, ... of some heads."""
    sets = tuple(tuple(sorted(ordered[: n + 1])) for n in range(len(ordered)))
    return Removal(f"cumulative-{way.value}", way, sets, seeds)


@dataclass(frozen=True)
class Job:
    """Everything a worker needs; sent to its process."""

    checkpoint: Path
    material: Material
    sequences: tuple[int, ...]
    decides: str
    """sha256 of what the files hold: a worker that keeps a model takes no other for it."""
    precision: str
    """A floating-point type of torch."""


@partial(kept, only_last=True)
def _opened(job: Job, device: str) -> Passes:
    model = load_model(job.checkpoint, device=device, dtype=getattr(torch, job.precision))
    architecture = architecture_of(model)
    return Passes(
        model,
        job.material.text(architecture, np.array(job.sequences, dtype=np.int64)),
        reference=job.material.reference(architecture),
    )


def removed(job: Job, removal: Removal, *, device: str) -> Arrays:
    """Return the losses of a removal: (sets, draws, sequences).

    Raises
    ------
    AblationError
        They are nan or infinite.
    """
    with matmul_precision("float32"):
        losses = _opened(job, device).run(removal.interventions).numpy()
    if not np.isfinite(losses).all():
        msg = (
            f"{removal.label} of {job.checkpoint.name} makes losses that are nan or "
            "infinite. Leave this state out."
        )
        raise AblationError(msg)
    return {"losses": losses.reshape(*removal.shape, len(job.sequences))}


class Losses:
    """Losses of one state without sets of heads: read where finished, else computed and kept.

    Parameters
    ----------
    checkpoint
        Folder of the state.
    material, sequences
        What the model reads, and which of it.
    folder
        Of the shards of this state; whoever works there holds its lock.
    precision
        Of the passes: ``float32`` or ``float64``.
    on
        Devices on which passes are computed.
    """

    def __init__(
        self,
        checkpoint: Path,
        material: Material,
        sequences: NDArray[np.int64],
        *,
        folder: Path,
        precision: str,
        on: Sequence[str],
    ) -> None:
        self._on = on
        self._store = shards.store(folder, raises=AblationError)
        self._decides = {
            "weights": fingerprint(checkpoint),
            "tokens": material.digest(sequences),
            "reference": material.reference_digest(),
            "device": torch.device(on[0]).type,
            "engine": ENGINE_VERSION,
            "precision": precision,
            "torch": torch.__version__,
        }
        decides = shards.key_of(self._decides)
        self._job = Job(checkpoint, material, tuple(sequences.tolist()), decides, precision)
        self._store.sweep_up()

    @property
    def provenance(self) -> dict[str, str]:
        """What the file of effects says of where they come from."""
        return {
            "weights_sha256": str(self._decides["weights"]),
            "tokens_sha256": self._job.material.source(),
            "device": str(self._decides["device"]),
            "precision": str(self._decides["precision"]),
            "torch": torch.__version__,
        }

    def of(self, removals: Sequence[Removal]) -> list[Floats]:
        """Return the losses of each removal: arrays (sets, draws, sequences).

        The order of layers is the cheap one: then all share one baseline pass.

        Raises
        ------
        AblationError
            Losses are nan or infinite; the disk is full.
        """

        def fault(shard: Shard, arrays: Arrays) -> str:
            losses, shape = arrays.get("losses"), (*shard.task.shape, len(self._job.sequences))
            if losses is not None and losses.shape == shape and losses.dtype == np.float64:
                return ""
            return f"it holds no losses of the shape {shape}"

        found = self._store.filled(
            [self._shard(removal) for removal in removals],
            partial(removed, self._job),
            on=self._on,
            label=self._job.checkpoint.name,
            fault=fault,
        )
        return [np.asarray(arrays["losses"], dtype=np.float64) for arrays in found]

    def _shard(self, removal: Removal) -> Shard:
        key = shards.key_of(self._decides | {"removal": repr(removal)})
        return Shard(removal.label, key, removal)
