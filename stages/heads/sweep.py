"""Plan the ablations of one checkpoint as shards, do them in any order, and put them together.

A shard holds the losses of every sequence under one kind of perturbation of one layer. Its name
carries a sha256 of everything that decides its numbers, it appears whole or not at all, and it
lies outside what DVC tracks, so a run that was killed goes on where it stopped.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from stages.base.errors import AblationError
from stages.compute import shards
from stages.compute.shards import Shard, Store
from stages.heads import removals
from stages.heads.components import components
from stages.heads.removals import Component, Losses, Removal
from stages.heads.settings import Sweep
from stages.measurement.effects import Effects, State, write
from stages.models.interventions import AblationType
from stages.models.passes import ENGINE_VERSION, Passes

COMPANION_HEADS = (0, 3, 6, 9, 12, 15)
"""The heads of every layer that the companion study removed (Spiro 2026)."""


def plan(sweep: Sweep, *, n_layers: int, n_heads: int) -> list[Removal]:
    """List the tasks of a checkpoint, in the order of layers.

    Raises
    ------
    AblationError
        A head or layer that the model does not have is asked for.
    """
    by_layer = _chosen_heads(sweep, n_layers, n_heads)
    # Behind the last block: what the baseline pass ends with.
    tasks: list[Removal] = [removals.baseline(n_layers)]
    for name in sweep.perturbations:
        way = AblationType(name)
        drawn = sweep.resample.draws if way is AblationType.RESAMPLE else 0
        seeds = tuple(sweep.resample.seed + draw for draw in range(drawn)) or (0,)
        tasks += [removals.heads(layer, way, heads, seeds) for layer, heads in by_layer.items()]
        if sweep.attention:
            tasks += [removals.attention(layer, way, n_heads, seeds) for layer in range(n_layers)]
    if sweep.layers:
        tasks += [removals.block(layer) for layer in range(n_layers)]
    noise = sweep.noise
    numbered = [
        (index, draw, alpha)
        for index, (alpha, draw) in enumerate(
            (alpha, draw) for alpha in noise.alphas for draw in range(noise.draws)
        )
    ]
    for layer in range(n_layers):
        draws = tuple(
            (index, noise.seed + draw, alpha)
            for index, draw, alpha in numbered
            if draw % n_layers == layer
        )
        if draws:
            tasks.append(removals.noise(layer, draws))
    return sorted(tasks, key=lambda task: (task.layer, task.kind, task.condition))


def _chosen_heads(sweep: Sweep, n_layers: int, n_heads: int) -> dict[int, tuple[int, ...]]:
    match sweep.heads:
        case "all":
            pairs = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
        case "companion":
            pairs = [(layer, head) for layer in range(n_layers) for head in COMPANION_HEADS]
        case _:
            pairs = sorted(sweep.heads)
    for layer, head in pairs:
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            msg = (
                f"L{layer}H{head} does not exist: the model has {n_layers} layers of {n_heads} "
                f"heads, counted from 0. Change sweep.heads ({_shown(sweep.heads)})."
            )
            raise AblationError(msg)
    by_layer: dict[int, list[int]] = {}
    for layer, head in pairs:
        by_layer.setdefault(layer, []).append(head)
    return {layer: tuple(heads) for layer, heads in by_layer.items()}


def _shown(heads: object) -> str:
    return heads if isinstance(heads, str) else "a list"


@dataclass(frozen=True)
class Inputs:
    """What decides the numbers of a checkpoint, beside the task itself."""

    weights: str
    """sha256 over the weight files and ``config.json``."""
    tokens: str
    reference: str
    precision: str
    device: str
    """cpu or cuda: they round differently."""

    def key(self, task: Removal) -> str:
        """Return the sha256 that names the shard of `task`."""
        content = dataclasses.asdict(self) | {
            "task": repr(task),
            "engine": ENGINE_VERSION,
            "torch": torch.__version__,
        }
        if not task.needs_reference:
            content["reference"] = ""
        return shards.key_of(content)


@dataclass(frozen=True)
class Shards:
    """The finished work of one checkpoint, named by what decides it."""

    store: Store
    inputs: Inputs
    n_sequences: int

    def shard(self, task: Removal) -> Shard:
        """Return the shard of `task`."""
        return Shard(task.label, self.inputs.key(task), task)

    def read(self, task: Removal) -> Losses | None:
        """Return a shard's losses, (rows, sequences); none if it is not there or damaged.

        A damaged shard is named and removed; it is computed again.
        """

        def fault(arrays: shards.Arrays) -> str:
            losses, expected = arrays.get("losses"), (task.n_rows, self.n_sequences)
            if losses is not None and losses.shape == expected and losses.dtype == np.float64:
                return ""
            return f"it holds no losses of the shape {expected}"

        found = self.store.read(self.shard(task), fault=fault)
        return None if found is None else np.asarray(found["losses"], dtype=np.float64)

    def missing(self, tasks: Sequence[Removal]) -> list[Shard]:
        """Return the shards that are not there or are damaged."""
        return [self.shard(task) for task in tasks if self.read(task) is None]


def compute(task: Removal, passes: Passes) -> Losses:
    """Return the losses of a task: (rows, sequences).

    Raises
    ------
    AblationError
        Losses are nan or infinite where they should not be.
    """
    values = np.asarray(task.losses(passes).numpy(), dtype=np.float64)
    if not np.isfinite(values).all() and not task.may_overflow:
        msg = (
            f"{task.label} makes losses that are nan or infinite. "
            "Use sweep.precision float32, or leave this checkpoint out."
        )
        raise AblationError(msg)
    return values


def assemble(
    tasks: Sequence[Removal],
    read: Callable[[Removal], Losses | None],
    *,
    state: State,
    sequences: npt.NDArray[np.int64],
    size: Losses | None = None,
) -> list[Effects]:
    """Put finished shards together as effects, by kind and condition.

    Parameters
    ----------
    tasks, read
        All tasks of the checkpoint, and how to read the losses of one.
    state
        The checkpoint.
    sequences : (n_sequences,)
        Numbers of the sequences in the evaluated text.
    size : (n_layers, n_heads)
        How much each head writes, which alone could explain a large effect.
    """
    base = _finished(next(task for task in tasks if task.kind == "baseline"), read)[0]
    found: dict[tuple[str, str], dict[Component, Losses]] = {}
    for task in tasks:
        for component, losses in task.by_component(_finished(task, read)):
            found.setdefault((task.kind, task.condition), {})[component] = losses
    parts = []
    for (kind, condition), removed in sorted(found.items()):
        rows = sorted(removed, key=lambda row: (row[2], row[0], row[1]))
        known = components(kind, rows)
        if kind == "head" and size is not None:
            known["size"] = [size[layer, head] for layer, head, _ in rows]
        losses = np.stack([removed[row] for row in rows], axis=-1)  # (draw, sequence, component)
        parts.append(
            Effects(
                state=state,
                kind=kind,
                condition=condition,
                components=known,
                replicates=sequences,
                draws=losses - base[:, np.newaxis],
                baseline=base,
            )
        )
    return parts


def _finished(task: Removal, read: Callable[[Removal], Losses | None]) -> Losses:
    losses = read(task)
    if losses is None:
        msg = f"the shard {task.label} is missing. Run the sweep again."
        raise AblationError(msg)
    return losses


def write_effects(path: Path, parts: Sequence[Effects], *, provenance: dict[str, str]) -> None:
    """Write the effects of a checkpoint as Parquet, atomically.

    Raises
    ------
    AblationError
        The disk is full or the folder cannot be written to.
    """
    try:
        write(path, parts, provenance=provenance)
    except OSError as error:
        raise AblationError(shards.unwritten(path, error)) from None
