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
    wanted: Tensor,
    attended: Tensor | None = None,
) -> Tensor:
    """Return a block's output, (batch, seq, width), which is right where it is wanted.

    Elsewhere stands anything finite.

    Parameters
    ----------
    block, hidden
        A block and what enters it.
    wanted
        (batch, seq)
    attended
        Which positions are no padding, (batch, seq); none: all.
    """
    n = int(wanted.sum(dim=1).max())
    if n == wanted.shape[1]:
        return architecture.run(block, hidden, attended)
    # Sequences that want fewer are filled up with others of their positions.
    at = wanted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :n]
    if architecture.causal:
        heads = _rows(architecture.heads(block, hidden, attended), at)
    else:
        with _Asking(at):
            heads = architecture.heads(block, hidden, attended)
    rows = architecture.finish(block, _rows(hidden, at), architecture.project(block, heads))
    return hidden.scatter(1, at[..., None].expand_as(rows), rows)


def _rows(values: Tensor, at: Tensor) -> Tensor:
    return values.gather(1, at[..., None].expand(-1, -1, values.shape[2]))
