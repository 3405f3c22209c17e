"""What is taken out of a model at one layer: its heads one by one, the whole block, noise.

A removal is the work of one shard of a sweep: rows of losses of every sequence, one for each
component and draw.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
from torch import Tensor

from stages.models.interventions import AblationType, Block, Heads, Intervention, Noise
from stages.models.passes import Passes

Losses = npt.NDArray[np.float64]
Component = tuple[int, int, int]
"""Layer, head and direction; see :func:`stages.heads.components.components`."""


@dataclass(frozen=True)
class Removal:
    """Interventions at one layer, after which the later blocks run anew."""

    layer: int
    kind: str
    """Of the components: of ``components.KINDS``; ``baseline`` for none."""
    condition: str
    """How they are removed: of ``components.CONDITIONS``; ``none`` where nothing is."""
    rows: tuple[tuple[Component | None, Intervention], ...]
    """Component by component, the draws of one after another."""

    @property
    def label(self) -> str:
        """A name for people."""
        return f"L{self.layer:02d}-{self.kind}-{self.condition}"

    @property
    def n_rows(self) -> int:
        """Rows of the losses."""
        return len(self.rows)

    @property
    def needs_reference(self) -> bool:
        """Whether another text decides the losses."""
        changes = [change for _, changes in self.rows for change in changes]
        return any(isinstance(one, Heads) and one.way.needs_reference for one in changes)

    @property
    def may_overflow(self) -> bool:
        """Whether losses that are not finite are what was asked for."""
        return self.kind == "noise"

    def cost(self, n_layers: int) -> int:
        """Return the work for one sequence, in blocks run; the unembedding counts as one."""
        return self.n_rows * max(1, n_layers - self.layer)

    def losses(self, passes: Passes) -> Tensor:
        """Return the losses, (n_rows, n_sequences)."""
        return passes.run([changes for _, changes in self.rows])

    def by_component(self, losses: Losses) -> Iterator[tuple[Component, Losses]]:
        """Give each component its rows of the losses, (n_draws, n_sequences)."""
        numbered = enumerate(component for component, _ in self.rows)
        for component, members in groupby(numbered, key=lambda pair: pair[1]):
            if component is not None:
                yield component, losses[[row for row, _ in members]]


def baseline(n_layers: int) -> Removal:
    """Return what the baseline pass ends with, behind the last block."""
    return Removal(n_layers, "baseline", "none", ((None, ()),))


def heads(layer: int, way: AblationType, which: Sequence[int], seeds: Sequence[int]) -> Removal:
    """Return the removal of each of some heads alone; a random way once for each seed."""
    rows = [
        ((layer, head, 0), (Heads(layer, (head,), way, seed),)) for head in which for seed in seeds
    ]
    return Removal(layer, "head", way.value, tuple(rows))


def attention(layer: int, way: AblationType, n_heads: int, seeds: Sequence[int]) -> Removal:
    """Return the removal of all heads of a layer together; a random way once for each seed."""
    every = tuple(range(n_heads))
    rows = [((layer, 0, 0), (Heads(layer, every, way, seed),)) for seed in seeds]
    return Removal(layer, "attention", way.value, tuple(rows))


def block(layer: int) -> Removal:
    """Return the removal of a whole block, which then passes its input on."""
    return Removal(layer, "layer", "zero", (((layer, 0, 0), (Block(layer),)),))


def noise(layer: int, directions: Sequence[tuple[int, int, float]]) -> Removal:
    """Return noise on the block's weights in several directions: number, seed and size of each."""
    rows = [
        ((layer, 0, number), (Noise(layer, alpha, seed),)) for number, seed, alpha in directions
    ]
    return Removal(layer, "noise", "gaussian", tuple(rows))
