"""BERT, and Geneformer with it: every position sees all others; some tokens are hidden and scored.

The residual stream between blocks is what leaves a layer norm (post-norm).
"""

from typing import Any, ClassVar, cast

from torch import Tensor, nn

from stages.models.architectures.base import Architecture, attend, by_head, through, unsupported


class Bert(Architecture):
    """One segment, absolute positions."""

    loader: ClassVar[str] = "AutoModelForMaskedLM"
    causal: ClassVar[bool] = False
    # Older files repeat what is tied and a buffer of positions (Geneformer: Theodoris et al. 2023).
    unused: ClassVar[tuple[str, ...]] = (
        "bert.pooler.",
        "cls.seq_relationship.",
        "cls.predictions.decoder.",
        "bert.embeddings.position_ids",
    )

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        whole: Any = model
        if whole.config.is_decoder:
            raise unsupported(whole.config, "is_decoder", "False")
        self._base: Any = whole.base_model
        self._head: Any = whole.cls.predictions.transform
        self.blocks = list(self._base.encoder.layer)

    def embed(self, tokens: Tensor) -> Tensor:
        """Look tokens and positions up, all of the first segment, and normalise their sum."""
        return cast("Tensor", self._base.embeddings(tokens))

    def heads(self, block: nn.Module, hidden: Tensor, attended: Tensor | None = None) -> Tensor:
        """Attend to all positions that are no padding."""
        own: Any = cast("Any", block).attention.self
        query, key, value = (
            by_head(through(part, hidden), self.d_head) for part in (own.query, own.key, own.value)
        )
        return attend(query, key, value, causal=False, attended=attended, scale=own.scaling)

    def projection(self, block: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Return ``attention.output.dense``."""
        dense = cast("Any", block).attention.output.dense
        return dense.weight, dense.bias

    def finish(self, block: nn.Module, hidden: Tensor, attention: Tensor) -> Tensor:
        """Normalise the sum with the attention, then that with the MLP's output."""
        part: Any = block
        middle = part.attention.output.LayerNorm(attention + hidden)
        inner = part.intermediate.intermediate_act_fn(through(part.intermediate.dense, middle))
        return cast("Tensor", part.output.LayerNorm(through(part.output.dense, inner) + middle))

    def normalise(self, hidden: Tensor) -> Tensor:
        """Apply the transform of the prediction head."""
        return cast("Tensor", self._head(hidden))
