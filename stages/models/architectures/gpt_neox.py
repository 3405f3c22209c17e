"""GPT-NeoX and Pythia, with parallel or sequential residual."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from stages.models.architectures.base import Architecture, attend, through


class GPTNeoX(Architecture):
    """Rotary positions on a part of each head; attention and MLP side by side or in a row."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        base: Any = cast("Any", model).base_model
        self._base = base
        self._cached: dict[
            tuple[int, torch.dtype, torch.device], tuple[Tensor, Tensor, Tensor, int]
        ] = {}
        self.blocks = list(base.layers)
        self.additive = bool(base.config.use_parallel_residual)

    def embed(self, tokens: Tensor) -> Tensor:
        """Look the tokens up; positions enter in the attention."""
        return cast("Tensor", self._base.embed_in(tokens))

    def heads(self, block: nn.Module, hidden: Tensor, attended: Tensor | None = None) -> Tensor:
        """Attend; query, key and value of one head lie next to each other in the projection."""
        del attended
        part: Any = block
        batch, seq, _ = hidden.shape
        normed = part.input_layernorm(hidden)
        qkv = self._rotate(through(part.attention.query_key_value, normed))
        qkv = qkv.view(batch, seq, self.n_heads, 3, self.d_head).permute(3, 0, 2, 1, 4)
        # (batch, n_heads, seq, d_head) each
        return attend(qkv[0], qkv[1], qkv[2], causal=True)

    def projection(self, block: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Return ``attention.dense``."""
        dense = cast("Any", block).attention.dense
        return dense.weight, dense.bias

    def finish(self, block: nn.Module, hidden: Tensor, attention: Tensor) -> Tensor:
        """Add the attention and the MLP of the input (parallel) or of the sum (sequential)."""
        part: Any = block
        middle = hidden if self.additive else attention + hidden
        inner = through(part.mlp.dense_h_to_4h, part.post_attention_layernorm(middle))
        inner = through(part.mlp.dense_4h_to_h, part.mlp.act(inner))
        if self.additive:
            inner = inner + attention
        return inner + middle

    def normalise(self, hidden: Tensor) -> Tensor:
        """Apply the final layer norm."""
        return cast("Tensor", self._base.final_layer_norm(hidden))

    def _rotate(self, qkv: Tensor) -> Tensor:
        """Rotate the first dimensions of queries and keys by position.

        Rotary vectors are short (4 of 16 numbers in a small head), so operations on them alone are
        mostly overhead. Whole rows are multiplied instead, by 1 where nothing turns, and each
        number's partner is reached by reading the same memory `half` numbers further on or back.
        """
        batch, seq, _ = qkv.shape
        cos, ahead, back, half = self._angles(seq, qkv)
        flat = qkv.view(batch, -1)
        turned = flat * cos
        turned[:, :-half].addcmul_(flat[:, half:], ahead)
        turned[:, half:].addcmul_(flat[:, :-half], back)
        return turned

    def _angles(self, seq: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
        """Return the factors of :meth:`_rotate` for all of a sequence, made once."""
        key = (seq, like.dtype, like.device)
        if key not in self._cached:
            positions = torch.arange(seq, device=like.device)[None]
            cos, sin = self._base.rotary_emb(like, position_ids=positions)
            half = cos.shape[-1] // 2
            # (seq, n_heads, query or key or value, d_head)
            shape = (seq, self.n_heads, 3, self.d_head)
            stay = like.new_ones(shape)
            ahead, back = like.new_zeros(shape), like.new_zeros(shape)
            stay[:, :, :2, : 2 * half] = cos[0, :, None, None]
            ahead[:, :, :2, :half] = -sin[0, :, None, None, :half]
            back[:, :, :2, half : 2 * half] = sin[0, :, None, None, half:]
            self._cached[key] = (
                stay.flatten(),
                ahead.flatten()[:-half].clone(),
                back.flatten()[half:].clone(),
                half,
            )
        return self._cached[key]
