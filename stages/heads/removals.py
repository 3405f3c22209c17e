"""What can be taken out of a model at one layer: its heads one by one, the whole block, noise.

A removal is the work of one shard of a sweep. It computes the losses of every sequence, a row for
each component and draw, and knows which rows belong to which component.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.models.engine import Engine
from stages.models.perturbation import AblationType

Losses = npt.NDArray[np.float64]
Component = tuple[int, int, int]
"""Layer, head and direction; see :func:`stages.heads.components.components`."""


@dataclass(frozen=True)
class Removal(ABC):
    """Something done at one layer, after which the later blocks run anew."""

    layer: int

    @property
    @abstractmethod
    def kind(self) -> str:
        """Of the components: of ``components.KINDS``; ``baseline`` for none."""

    @property
    @abstractmethod
    def condition(self) -> str:
        """How they are removed: of ``components.CONDITIONS``; ``none`` where nothing is."""

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """Rows of the losses."""

    @property
    def label(self) -> str:
        """A name for people."""
        return f"L{self.layer:02d}-{self.kind}-{self.condition}"

    @property
    def needs_reference(self) -> bool:
        """Whether another text decides the losses."""
        return False

    @property
    def may_overflow(self) -> bool:
        """Whether losses that are not finite are what was asked for."""
        return False

    def cost(self, n_layers: int) -> int:
        """Return the work for one sequence, in blocks run; the unembedding counts as one."""
        return self.n_rows * (n_layers - self.layer)

    @abstractmethod
    def losses(self, engine: Engine) -> Tensor:
        """Return the losses, (n_rows, n_sequences). Layers must come in ascending order."""

    @abstractmethod
    def by_component(self, losses: Losses) -> Iterator[tuple[Component, Losses]]:
        """Give each component its rows of the losses, (n_draws, n_sequences)."""


@dataclass(frozen=True)
class Baseline(Removal):
    """Nothing: what the baseline pass ends with, behind the last block."""

    kind = "baseline"
    condition = "none"
    n_rows = 1

    def cost(self, n_layers: int) -> int:
        """Return the work of the unembedding."""
        return n_layers - self.layer + 1

    def losses(self, engine: Engine) -> Tensor:
        """Return the intact model's losses."""
        return engine.baseline()[None]

    def by_component(self, losses: Losses) -> Iterator[tuple[Component, Losses]]:
        """Give nothing: no component was removed."""
        del losses
        yield from ()


@dataclass(frozen=True)
class Heads(Removal):
    """Each of some heads, alone; a random way of removal several times."""

    way: AblationType
    heads: tuple[int, ...]
    seeds: tuple[int, ...] = (0,)
    """One a draw."""

    kind = "head"

    @property
    def condition(self) -> str:
        """The way of removal."""
        return self.way.value

    @property
    def n_rows(self) -> int:
        """Rows: head by head, its draws one after another."""
        return len(self.heads) * len(self.seeds)

    @property
    def needs_reference(self) -> bool:
        """Whether another text decides what a head writes instead."""
        return self.way.needs_reference

    def losses(self, engine: Engine) -> Tensor:
        """Return the losses without each head."""
        drawn = [
            engine.without_heads(
                self.layer,
                self.heads,
                self.way,
                generator=torch.Generator().manual_seed(seed),
            )
            for seed in self.seeds
        ]
        return torch.stack(drawn, dim=1).flatten(0, 1)

    def by_component(self, losses: Losses) -> Iterator[tuple[Component, Losses]]:
        """Give each head its draws."""
        for head, drawn in zip(self.heads, np.split(losses, len(self.heads)), strict=True):
            yield (self.layer, head, 0), drawn


@dataclass(frozen=True)
class Block(Removal):
    """The whole block, which then passes its input on."""

    kind = "layer"
    condition = "zero"
    n_rows = 1

    def losses(self, engine: Engine) -> Tensor:
        """Return the losses without the block."""
        return engine.without_layer(self.layer)[None]

    def by_component(self, losses: Losses) -> Iterator[tuple[Component, Losses]]:
        """Give the block its row."""
        yield (self.layer, 0, 0), losses


@dataclass(frozen=True)
class Noise(Removal):
    """Gaussian noise on the block's weights, in several directions, each a component."""

    directions: tuple[tuple[int, int, float], ...]
    """Number, seed and size (alpha) of each."""

    kind = "noise"
    condition = "gaussian"
    may_overflow = True

    @property
    def n_rows(self) -> int:
        """Rows: one a direction."""
        return len(self.directions)

    def losses(self, engine: Engine) -> Tensor:
        """Return the losses under noise in each direction."""
        return torch.stack(
            [
                engine.with_noise(self.layer, alpha=alpha, seed=seed)
                for _, seed, alpha in self.directions
            ]
        )

    def by_component(self, losses: Losses) -> Iterator[tuple[Component, Losses]]:
        """Give each direction its row."""
        for (number, _, _), row in zip(self.directions, losses, strict=True):
            yield (self.layer, 0, number), row[np.newaxis]
