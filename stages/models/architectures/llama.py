"""Llama and what is built like it: Mistral, Qwen2, Qwen3, and OLMo-2, which normalises behind.

RMSNorm, rotary positions on whole heads, keys and values shared by groups of queries, SwiGLU. A
sliding window is no other attention as long as the text fits into it, so it only shortens the
texts that are allowed.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.models.architectures.base import Architecture, attend, by_head, through


class Llama(Architecture):
    """Norms before attention and MLP; Qwen3 normalises each query and key too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._base: Any = cast("Any", model).base_model
        self.blocks = list(self._base.layers)
        config = self._base.config
        window, types = (getattr(config, name, None) for name in ("sliding_window", "layer_types"))
        if window and (types is None or "sliding_attention" in types):
            self.max_positions = min(self.max_positions, int(window))
        self._cached: dict[tuple[int, torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def embed(self, tokens: Tensor) -> Tensor:
        """Look the tokens up; positions enter in the attention."""
        return cast("Tensor", self._base.embed_tokens(tokens))

    def heads(self, block: nn.Module, hidden: Tensor, attended: Tensor | None = None) -> Tensor:
        """Attend over the normalised input."""
        del attended
        return self._attend(block, rms_norm(cast("Any", block).input_layernorm, hidden))

    def projection(self, block: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Return ``self_attn.o_proj``."""
        projection = cast("Any", block).self_attn.o_proj
        return projection.weight, projection.bias

    def finish(self, block: nn.Module, hidden: Tensor, attention: Tensor) -> Tensor:
        """Add the attention, then the MLP of the sum."""
        part: Any = block
        middle = hidden + attention
        return middle + _gated(part.mlp, rms_norm(part.post_attention_layernorm, middle))

    def normalise(self, hidden: Tensor) -> Tensor:
        """Apply the final norm."""
        return rms_norm(self._base.norm, hidden)

    def _attend(self, block: nn.Module, entering: Tensor) -> Tensor:
        own: Any = cast("Any", block).self_attn
        query, key = through(own.q_proj, entering), through(own.k_proj, entering)
        value = by_head(through(own.v_proj, entering), self.d_head)
        query, key = self._normed(own, query, "q_norm"), self._normed(own, key, "k_norm")
        cos, sin = self._angles(entering.shape[1], query)
        query, key = (each * cos + _half_turned(each) * sin for each in (query, key))
        return attend(query, key, value, causal=True, scale=own.scaling)

    def _normed(self, own: Any, joint: Tensor, name: str) -> Tensor:
        """Split into heads; a norm is over the numbers that its weight is for: a head's, or all."""
        norm = getattr(own, name, None)
        if norm is not None and norm.weight.numel() > self.d_head:
            return by_head(rms_norm(norm, joint), self.d_head)
        heads = by_head(joint, self.d_head)
        return heads if norm is None else rms_norm(norm, heads)

    def _angles(self, seq: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of each position and dimension, made once: (1, seq, d_head)."""
        key = (seq, like.dtype, like.device)
        if key not in self._cached:
            positions = torch.arange(seq, device=like.device)[None]
            cos, sin = self._base.rotary_emb(like, position_ids=positions)
            self._cached[key] = cos.to(like.dtype), sin.to(like.dtype)
        return self._cached[key]


class Olmo2(Llama):
    """Norms behind attention and MLP, and over all queries and all keys of a position."""

    def heads(self, block: nn.Module, hidden: Tensor, attended: Tensor | None = None) -> Tensor:
        """Attend over the input as it is."""
        del attended
        return self._attend(block, hidden)

    def finish(self, block: nn.Module, hidden: Tensor, attention: Tensor) -> Tensor:
        """Add the normalised attention, then the normalised MLP of the sum."""
        part: Any = block
        middle = hidden + rms_norm(part.post_attention_layernorm, attention)
        return middle + rms_norm(part.post_feedforward_layernorm, _gated(part.mlp, middle))


def rms_norm(norm: Any, values: Tensor) -> Tensor:
    """Apply a norm in the precision of its weight; the modules' own go down to float32."""
    weight = norm.weight
    wide = values.to(weight.dtype)
    return F.rms_norm(wide, weight.shape, weight, norm.variance_epsilon).to(values.dtype)


def _gated(mlp: Any, values: Tensor) -> Tensor:
    gate = mlp.act_fn(through(mlp.gate_proj, values))
    return through(mlp.down_proj, gate * through(mlp.up_proj, values))


def _half_turned(values: Tensor) -> Tensor:
    """Return each number's partner under rotation, with its sign."""
    first, second = values.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)
