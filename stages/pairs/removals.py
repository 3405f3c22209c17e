"""Remove sets of heads from one state of a model, and keep every set's losses as they come.

A set is removed by one intervention (:mod:`stages.models.interventions`); sets that begin alike
share the way to where they part. What is finished lies in shards, each named by a sha256 of all
that decides its numbers, so that a killed run goes on where it stopped.
"""

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from stages.base import shards
from stages.base.errors import AblationError
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


class Losses:
    """Losses of one state without sets of heads: read where finished, else computed and kept.

    The model is loaded when a loss is first missing, and let go at the end of a ``with``.

    Parameters
    ----------
    checkpoint
        Folder of the state.
    material, sequences
        What the model reads, and which of it.
    folder
        Of the shards of this state; whoever works there holds its lock.
    device
        Where passes are computed.
    """

    def __init__(
        self,
        checkpoint: Path,
        material: Material,
        sequences: NDArray[np.int64],
        *,
        folder: Path,
        device: str,
    ) -> None:
        self._checkpoint = checkpoint
        self._material = material
        self._sequences = sequences
        self._folder = folder
        self._device = device
        self._passes: Passes | None = None
        self._decides = {
            "weights": fingerprint(checkpoint),
            "tokens": material.digest(sequences),
            "reference": material.reference_digest(),
            "device": torch.device(device).type,
            "engine": ENGINE_VERSION,
            "torch": torch.__version__,
        }
        for left in folder.glob(".*.npz.*"):  # what a killed run left half-written
            shutil.rmtree(left, ignore_errors=True)

    @property
    def provenance(self) -> dict[str, str]:
        """What the file of effects says of where they come from."""
        return {
            "weights_sha256": str(self._decides["weights"]),
            "tokens_sha256": self._material.source(),
            "device": str(self._decides["device"]),
            "torch": torch.__version__,
        }

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let the model go."""
        self._passes = None

    def of(self, removals: Sequence[Removal]) -> list[Floats]:
        """Return the losses of each removal: arrays (sets, draws, sequences).

        The order of layers is the cheap one: then all share one baseline pass.

        Raises
        ------
        AblationError
            Losses are nan or infinite; the disk is full.
        """
        return [self._one(removal) for removal in tqdm(removals, desc=self._checkpoint.name)]

    def _one(self, removal: Removal) -> Floats:
        key = shards.key_of(self._decides | {"removal": repr(removal)})
        path = self._folder / f"{removal.label}-{key[:24]}.npz"
        shape = (*removal.shape, len(self._sequences))

        def fault(arrays: shards.Arrays) -> str:
            losses = arrays.get("losses")
            if losses is not None and losses.shape == shape and losses.dtype == np.float64:
                return ""
            return f"it holds no losses of the shape {shape}"

        if (found := shards.read(path, key, fault=fault)) is not None:
            return np.asarray(found["losses"], dtype=np.float64)
        if self._passes is None:
            self._passes = self._opened()
        with matmul_precision("float32"):
            losses = self._passes.run(removal.interventions).numpy().reshape(shape)
        if not np.isfinite(losses).all():
            msg = (
                f"{removal.label} of {self._checkpoint.name} makes losses that are nan or "
                "infinite. Leave this state out."
            )
            raise AblationError(msg)
        shards.write(path, key, {"losses": losses}, raises=AblationError)
        return losses

    def _opened(self) -> Passes:
        model = load_model(self._checkpoint, device=self._device)
        architecture = architecture_of(model)
        return Passes(
            model,
            self._material.text(architecture, self._sequences),
            reference=self._material.reference(architecture),
        )
