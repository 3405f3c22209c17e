"""What can be done to a model while it runs: to heads, a block, its weights, the residual stream.

An intervention is any number of changes, in one or several layers. All names count layers from 0,
and a change *of layer l* decides what leaves block l: noise on its weights, then what its heads
write, then whether the block writes at all, then the residual stream behind it.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from stages.base.errors import AblationError


class AblationType(Enum):
    """What a head writes instead of its own output, before the projection that mixes heads."""

    ZERO = "zero"
    """The head writes nothing; the projection's bias stays. The published protocol."""

    MEAN = "mean"
    """The head writes its average over the reference text, the same at every position."""

    MEAN_POSITIONAL = "mean_positional"
    """The head writes its average over the reference text at that position."""

    RESAMPLE = "resample"
    """The head writes what it writes at that position in a random sequence of the reference text,
    one sequence for each evaluated one, the same for all heads; several draws."""

    @property
    def needs_reference(self) -> bool:
        """Whether the reference text decides what is written."""
        return self is not AblationType.ZERO


@dataclass(frozen=True)
class Heads:
    """Heads of one layer write something else, together."""

    layer: int
    heads: tuple[int, ...]
    way: AblationType = AblationType.ZERO
    seed: int = 0
    """Draws the donors of RESAMPLE."""


@dataclass(frozen=True)
class Block:
    """The block writes nothing, biases included, so that it passes its input on.

    The companion zeroed every parameter of the block, which does the same. What leaves a post-norm
    block (BERT) is normalised already.
    """

    layer: int


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on every parameter of the block; see :func:`noised`."""

    layer: int
    alpha: float
    seed: int


@dataclass(frozen=True)
class Stream:
    """The residual stream is changed behind the block; layer -1: behind the embedding."""

    layer: int
    change: Callable[[Tensor], Tensor]
    """Takes and returns (sequences, seq, hidden); it must work on each sequence by itself, change
    nothing in place, and may be called by several threads at once."""


Change = Heads | Block | Noise | Stream
Intervention = tuple[Change, ...]
"""No change: the intact model."""


def single_heads(
    layer: int, heads: Sequence[int], way: AblationType = AblationType.ZERO, seed: int = 0
) -> list[Intervention]:
    """Return one intervention for each head of a layer, which takes it out alone."""
    return [(Heads(layer, (head,), way, seed),) for head in heads]


@dataclass(frozen=True, eq=False)
class Without:
    """A change of the stream: what it holds along a direction is taken out, or set to a mean.

    `direction` has length 1: (hidden,). `mean` is what is put in its place.
    """

    direction: Tensor
    mean: float = 0.0

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the stream without its part along the direction."""
        along = (hidden @ self.direction)[..., None]
        return hidden + (self.mean - along) * self.direction


@dataclass(frozen=True, eq=False)
class Plus:
    """A change of the stream: a vector is added at every position, (hidden,)."""

    vector: Tensor

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the stream with the vector."""
        return hidden + self.vector


def donors(n_sequences: int, n_reference: int, *, seed: int) -> Tensor:
    """Draw, with replacement, which reference sequence stands in for each evaluated one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(n_reference, (n_sequences,), generator=generator)


def reference_mean(heads: Tensor, kind: AblationType, attended: Tensor | None = None) -> Tensor:
    """Average what the heads write over the reference text, summed in float64.

    Parameters
    ----------
    heads
        What the heads of one block write in the reference text: (sequences, seq, n_heads * d_head).
    kind
        MEAN averages over sequences and positions, MEAN_POSITIONAL over sequences.
    attended
        Which positions are no padding, (sequences, seq); none: all. Where every sequence is padded
        the mean at a position is that over all positions.

    Returns
    -------
    Tensor
        (1, 1, n_heads * d_head) or (1, seq, n_heads * d_head), in the precision of `heads`.
    """
    if kind not in (AblationType.MEAN, AblationType.MEAN_POSITIONAL):
        msg = f"{kind.value} has no average; only mean and mean_positional have one."
        raise AblationError(msg)
    total = torch.zeros(1, *heads.shape[1:], dtype=torch.float64, device=heads.device)
    if attended is None:
        for sequence in heads:
            total += sequence
        total /= heads.shape[0]
        mean = total.mean(dim=1, keepdim=True)
    else:
        seen = attended.to(heads.device)
        for sequence, positions in zip(heads, seen, strict=True):
            total += sequence * positions[:, None]
        counts = seen.sum(dim=0)[None, :, None]
        mean = total.sum(dim=1, keepdim=True) / counts.sum()
        total = torch.where(counts > 0, total / counts.clamp(min=1), mean)
    return (mean if kind is AblationType.MEAN else total).to(heads.dtype)


def noised(block: nn.Module, *, alpha: float, seed: int) -> nn.Module:
    """Return a copy of `block` with Gaussian noise on every one of its parameters.

    W + alpha * std(W) * N(0, 1), tensor by tensor in the order of ``named_parameters``, one
    generator for all, as in the companion study (Spiro 2026). The numbers are drawn in float32 on
    the CPU, so that a seed means the same noise on every machine; the companion drew them on its
    GPU.
    """
    changed = copy.deepcopy(block)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in changed.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.add_(drawn.to(parameter) * (parameter.std() * alpha))
    return changed
