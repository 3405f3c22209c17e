"""Run a block where its output is wanted, and not where nobody reads it.

Every position is seen by those that are wanted, so that keys and values are made of all; queries,
what is done with them and all that follows are of the wanted ones alone. As in
:mod:`stages.models.attention`, this is done where a family hands them to torch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stages.models.architectures.base import Architecture


class _Asking(TorchFunctionMode):
    """Lets some positions alone ask: (batch, n)."""

    def __init__(self, at: Tensor) -> None:
        super().__init__()
        self._at = at

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Take their queries out of a call that mixes values by attention."""
        del types
        if func is F.scaled_dot_product_attention:
            query, *rest = args
            at = self._at[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
            args = (query.gather(2, at), *rest)
        return func(*args, **(kwargs or {}))


def run_at(
    architecture: Architecture,
    block: nn.Module,
    hidden: Tensor,
    wanted: Tensor | None,
    attended: Tensor | None = None,
) -> Tensor:
    """Return a block's output, (batch, seq, width), which is right where it is wanted.

    Elsewhere stands anything finite.

    Parameters
    ----------
    block, hidden
        A block and what enters it.
    wanted
        (batch, seq); none: everywhere.
    attended
        Which positions are no padding, (batch, seq); none: all.
    """
    if wanted is None:
        return architecture.run(block, hidden, attended)
    return states_at(architecture, block, hidden, wanted, attended)[-1]


def states_at(
    architecture: Architecture,
    block: nn.Module,
    hidden: Tensor,
    wanted: Tensor | None,
    attended: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a block's heads write, what their projection makes of it, and its output.

    Each (batch, seq, width), as :func:`run_at` says.
    """
    if (at := _first(wanted)) is None:
        heads = architecture.heads(block, hidden, attended)
        attention = architecture.project(block, heads)
        return heads, attention, architecture.finish(block, hidden, attention)
    if architecture.causal:
        heads = _rows(architecture.heads(block, hidden, attended), at)
    else:
        with _Asking(at):
            heads = architecture.heads(block, hidden, attended)
    attention = architecture.project(block, heads)
    rows = architecture.finish(block, _rows(hidden, at), attention)
    seq = hidden.shape[1]
    return _spread(heads, at, seq), _spread(attention, at, seq), _spread(rows, at, seq)


def finish_at(
    architecture: Architecture,
    block: nn.Module,
    hidden: Tensor,
    attention: Tensor,
    wanted: Tensor | None,
) -> Tensor:
    """Return a block's output as :func:`run_at` does, from its input and the heads' projection.

    Parameters
    ----------
    block, hidden, attention
        A block, what enters it and what its heads' projection makes: (batch, seq, width).
    wanted
        (batch, seq); none: everywhere.
    """
    if (at := _first(wanted)) is None:
        return architecture.finish(block, hidden, attention)
    rows = architecture.finish(block, _rows(hidden, at), _rows(attention, at))
    return _spread(rows, at, hidden.shape[1])


def _first(wanted: Tensor | None) -> Tensor | None:
    """Return where each sequence is wanted, (batch, n); none: everywhere.

    Sequences that want fewer are filled up with others of their positions.
    """
    if wanted is None or (n := int(wanted.sum(dim=1).max())) == wanted.shape[1]:
        return None
    return wanted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :n]


def _rows(values: Tensor, at: Tensor) -> Tensor:
    return values.gather(1, at[..., None].expand(-1, -1, values.shape[2]))


def _spread(rows: Tensor, at: Tensor, seq: int) -> Tensor:
    whole = rows.new_zeros(len(rows), seq, rows.shape[2])
    return whole.scatter_(1, at[..., None].expand_as(rows), rows)
