"""What the heads of a block attend to, and the values that they mix, of any family.

The families write ``softmax(q k) v`` through one function of torch. A watcher of such calls sees
query, key and value of every head as the block itself makes them, rotary positions, norms and
groups of queries included, so that no family is described twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stages.base.errors import AblationError
from stages.models.architectures.base import Architecture


@dataclass(frozen=True)
class Attended:
    """What the heads of a block do with a batch."""

    weights: Tensor
    """Share of each seen position (last axis) in what each position is given, (batch, n_heads, seq,
    seq); rows sum to 1, padding is never seen."""
    values: Tensor
    """What is mixed, before the projection: (batch, n_heads, seq, d_head)."""


@dataclass
class _Watch(TorchFunctionMode):
    """Keeps the arguments of calls that mix values by attention."""

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Note a call, and make it."""
        del types
        if func is F.scaled_dot_product_attention:
            self.calls.append((args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def attended_by(
    architecture: Architecture, block: nn.Module, hidden: Tensor, seen: Tensor | None = None
) -> Attended:
    """Return what the heads of a block attend to and mix.

    Parameters
    ----------
    block, hidden
        A block and what enters it, (batch, seq, hidden).
    seen
        Which positions are no padding, (batch, seq); none: all.

    Raises
    ------
    AblationError
        The family attends in another way.
    """
    # With gradients wanted, causal families take torch's function too and not their own bands.
    with torch.inference_mode(mode=False), torch.enable_grad(), _Watch() as watch:
        architecture.heads(block, hidden.clone(), seen)
    if len(watch.calls) != 1:
        msg = (
            f"the heads of {type(block).__name__} attend in {len(watch.calls)} calls; one of "
            "scaled_dot_product_attention is described. Extend stages/models/attention.py."
        )
        raise AblationError(msg)
    (query, key, value), more = watch.calls[0]
    with torch.no_grad():
        scale = more.get("scale")
        scores = (
            query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        )
        mask = more.get("attn_mask")
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        if more.get("is_causal"):
            length = scores.shape[-1]
            later = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        return Attended(scores.softmax(dim=-1), value.detach())
