"""Say what is put in the place of what a head writes, a layer does, or a block's weights hold."""

import copy
from enum import Enum

import torch
from torch import Tensor, nn

from stages.base.errors import AblationError

COMPANION_HEADS = (0, 3, 6, 9, 12, 15)
"""The heads of every layer that the companion study removed (Spiro 2026)."""


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


def donors(n_sequences: int, n_reference: int, *, generator: torch.Generator) -> Tensor:
    """Draw, with replacement, which reference sequence stands in for each evaluated one."""
    return torch.randint(n_reference, (n_sequences,), generator=generator)


def reference_mean(heads: Tensor, kind: AblationType) -> Tensor:
    """Average what the heads write over the reference text, summed in float64.

    Parameters
    ----------
    heads
        What the heads of one block write in the reference text: (sequences, seq, n_heads * d_head).
    kind
        MEAN averages over sequences and positions, MEAN_POSITIONAL over sequences.

    Returns
    -------
    Tensor
        (1, 1, n_heads * d_head) or (1, seq, n_heads * d_head), in the precision of `heads`.
    """
    dims = {AblationType.MEAN: (0, 1), AblationType.MEAN_POSITIONAL: (0,)}
    if kind not in dims:
        msg = f"{kind.value} has no average; only mean and mean_positional have one."
        raise AblationError(msg)
    total = torch.zeros(1, *heads.shape[1:], dtype=torch.float64, device=heads.device)
    for sequence in heads:
        total += sequence
    total /= heads.shape[0]
    if kind is AblationType.MEAN:
        total = total.mean(dim=1, keepdim=True)
    return total.to(heads.dtype)


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
