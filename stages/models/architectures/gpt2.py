"""GPT-2: learned positions, sequential residual, weights stored as (in, out) (``Conv1D``)."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from stages.models.architectures.base import Architecture, attend, by_head, linear, unsupported


class GPT2(Architecture):
    """Heads of layer l may be scaled by 1 / (l + 1)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._base: Any = cast("Any", model).base_model
        if self._base.config.add_cross_attention:
            raise unsupported(self._base.config, "add_cross_attention", "False")
        self.blocks = list(self._base.h)

    def embed(self, tokens: Tensor) -> Tensor:
        """Look tokens and positions up."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return cast("Tensor", self._base.wte(tokens) + self._base.wpe(positions))

    def heads(self, block: nn.Module, hidden: Tensor, attended: Tensor | None = None) -> Tensor:
        """Attend; all queries come first in the joint projection, then all keys, all values."""
        del attended
        part: Any = block
        joint = _through(part.attn.c_attn, part.ln_1(hidden))
        query, key, value = (by_head(each, self.d_head) for each in joint.chunk(3, dim=-1))
        return attend(query, key, value, causal=True, scale=part.attn.scaling)

    def projection(self, block: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Return ``attn.c_proj``."""
        projection = cast("Any", block).attn.c_proj
        return projection.weight.T, projection.bias

    def finish(self, block: nn.Module, hidden: Tensor, attention: Tensor) -> Tensor:
        """Add the attention, then the MLP of the sum."""
        part: Any = block
        middle = attention + hidden
        inner = part.mlp.act(_through(part.mlp.c_fc, part.ln_2(middle)))
        return middle + _through(part.mlp.c_proj, inner)

    def normalise(self, hidden: Tensor) -> Tensor:
        """Apply the final layer norm."""
        return cast("Tensor", self._base.ln_f(hidden))


def _through(module: Any, values: Tensor) -> Tensor:
    return linear(values, module.weight.T, module.bias)
