"""scGPT: genes with a value each; the value of some is hidden and scored (Cui et al. 2024).

The residual stream between blocks is what leaves a layer norm (post-norm). There are no positions:
the order of genes means nothing.
"""

from typing import Any, ClassVar, cast

from torch import Tensor, nn

from stages.base.errors import AblationError
from stages.models.architectures.base import Architecture, Loss, Readable


class ScGPT(Architecture):
    """A :class:`stages.models.scgpt.ScGPTModel`; every gene sees all others of its cell."""

    loader: ClassVar[str] = ""
    causal: ClassVar[bool] = False
    unused: ClassVar[tuple[str, ...]] = ("mvc_decoder.", "flag_encoder.", "cls_decoder.")
    loss: ClassVar[Loss] = Loss.SQUARED_ERROR

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        whole: Any = model
        self._model = whole
        self.mask_value = float(whole.config.mask_value)
        self.blocks = list(whole.transformer_encoder.layers)

    def embed(self, tokens: Tensor) -> Tensor:
        """Look genes up and normalise them: the part of what enters that no value decides."""
        return cast("Tensor", self._model.encoder(tokens))

    def enter(self, text: Readable) -> Tensor:
        """Add to each gene what its value is encoded as."""
        if text.values is None:
            msg = (
                "this model reads a value beside each gene, and the text has none. "
                "Make it with stages.models.text.cell_text, with values."
            )
            raise AblationError(msg)
        return cast("Tensor", self._model.enter(text.inputs, text.values))

    def heads(self, block: nn.Module, hidden: Tensor, attended: Tensor | None = None) -> Tensor:
        """Attend to all genes of the cell."""
        return cast("Tensor", cast("Any", block).self_attn(hidden, attended))

    def projection(self, block: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Return ``self_attn.out_proj``."""
        projection = cast("Any", block).self_attn.out_proj
        return projection.weight, projection.bias

    def finish(self, block: nn.Module, hidden: Tensor, attention: Tensor) -> Tensor:
        """Normalise the sum with the attention, then that with the MLP's output."""
        return cast("Tensor", cast("Any", block).finish(hidden, attention))

    def normalise(self, hidden: Tensor) -> Tensor:
        """Apply the decoder but for its last linear map, which makes one value of a position."""
        return cast("Tensor", self._model.decoder.inner(hidden))
