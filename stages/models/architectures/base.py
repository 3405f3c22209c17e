"""What the passes must know of a family of transformers, and the operations that families share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import Any, ClassVar, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.base.errors import AblationError

BAND = 48
BANDED_UP_TO = 512


class Loss(Enum):
    """What a wrong prediction costs, by its unit; :mod:`stages.models.losses` says how much."""

    CROSS_ENTROPY = "nats"
    """Of a token: minus the natural logarithm of the share that the model gives it."""
    SQUARED_ERROR = "squared bins"
    """Of a value: the square of what is predicted less what is true."""


class Readable(Protocol):
    """What a model reads of a text."""

    @property
    def inputs(self) -> Tensor:
        """Token ids: (batch, seq)."""

    @property
    def values(self) -> Tensor | None:
        """The value beside each id, (batch, seq), for a model that reads one."""


class Architecture(ABC):
    """A transformer as a row of blocks with attention heads. Hidden states: (batch, seq, hidden).

    A block computes what its heads write, side by side; a projection mixes that into the
    attention's output; from its input and that output the block makes its own output. The
    operations are those of the model's own modules, on their weights. Tests hold every family to
    the full forward of ``transformers`` or, where that knows none, to one written by hand.

    Layers are counted from 0: layer l is block l, and the residual stream *behind* layer l is what
    leaves it (``hidden_states[l + 1]`` of ``transformers``, whose number 0 is the embedding; -1
    here).

    Parameters
    ----------
    model
        Of ``transformers`` or of :mod:`stages.models.scgpt`, in evaluation mode.

    Raises
    ------
    AblationError
        The config asks for a variant of the family that is not described.
    """

    loader: ClassVar[str] = "AutoModelForCausalLM"
    """The class of ``transformers`` that loads it; empty: none does."""
    causal: ClassVar[bool] = True
    """Whether a position sees only those before it; then each predicts the next token."""
    unused: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of weights that checkpoints of the family hold for other tasks."""
    loss: ClassVar[Loss] = Loss.CROSS_ENTROPY
    """What it is measured by."""
    mask_value: float | None = None
    """What hides a value from a model that reads one beside each id; none: it reads ids alone."""

    n_layers: int
    n_heads: int
    d_head: int
    vocab_size: int
    max_positions: int
    blocks: Sequence[nn.Module]
    additive: bool = False
    """Whether the attention's output is only added to a block's output (parallel residual)."""

    def __init__(self, model: nn.Module) -> None:
        config: Any = cast("Any", model).config
        self.n_layers = int(config.num_hidden_layers)
        self.n_heads = int(config.num_attention_heads)
        self.d_head = int(
            getattr(config, "head_dim", None) or int(config.hidden_size) // self.n_heads
        )
        self.vocab_size = int(config.vocab_size)
        self.max_positions = int(config.max_position_embeddings)
        self._unembedding: Any = cast("Any", model).get_output_embeddings()

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """Return the hidden state that enters the first block, from tokens (batch, seq)."""

    def enter(self, text: Readable) -> Tensor:
        """Return the hidden state that enters the first block, from all that the model reads."""
        return self.embed(text.inputs)

    @abstractmethod
    def heads(self, block: nn.Module, hidden: Tensor, attended: Tensor | None = None) -> Tensor:
        """Return what the heads write, before the projection: (batch, seq, n_heads * d_head).

        Parameters
        ----------
        block, hidden
            A block and what enters it.
        attended
            Which positions are no padding, (batch, seq); none: all. Padding stands on the right.
            A causal family needs no mask for it.
        """

    @abstractmethod
    def projection(self, block: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Return the weight (hidden, n_heads * d_head) that mixes the heads, and its bias."""

    @abstractmethod
    def finish(self, block: nn.Module, hidden: Tensor, attention: Tensor) -> Tensor:
        """Return the block's output from its input and the projection's output."""

    @abstractmethod
    def normalise(self, hidden: Tensor) -> Tensor:
        """Apply what stands between the last block and the unembedding."""

    def unembedding(self) -> tuple[Tensor, Tensor | None]:
        """Return the weight (vocabulary, hidden) that makes logits, and its bias.

        Of a model that predicts values: (1, hidden).
        """
        return self._unembedding.weight, self._unembedding.bias

    def project(self, block: nn.Module, heads: Tensor) -> Tensor:
        """Mix what the heads of `block` write into the attention's output, bias included."""
        weight, bias = self.projection(block)
        return linear(heads, weight, bias)

    def run(self, block: nn.Module, hidden: Tensor, attended: Tensor | None = None) -> Tensor:
        """Run a whole block from its input."""
        attention = self.project(block, self.heads(block, hidden, attended))
        return self.finish(block, hidden, attention)


def unsupported(config: Any, name: str, allowed: str) -> AblationError:
    """Return the error of a variant that a family does not describe."""
    msg = (
        f"config.json of this {config.model_type} model says {name} {getattr(config, name)!r}; "
        f"only {allowed} is described. Extend its family in stages/models/architectures."
    )
    return AblationError(msg)


def linear(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a linear map in the precision of its weight (out, in)."""
    return F.linear(values.to(weight.dtype), weight, bias)


def through(module: Any, values: Tensor) -> Tensor:
    """Apply an ``nn.Linear`` in the precision of its weight."""
    return linear(values, module.weight, module.bias)


def by_head(joint: Tensor, d_head: int) -> Tensor:
    """Split the last axis into heads: (batch, seq, n * d_head) -> (batch, n, seq, d_head)."""
    batch, seq, width = joint.shape
    return joint.reshape(batch, seq, width // d_head, d_head).transpose(1, 2)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    attended: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Mix the values that each position may see.

    On a CPU, ``scaled_dot_product_attention`` spends most of a short sequence's time on tiny
    products; bands of :data:`BAND` positions, each against the keys up to its own end, take a
    third less time at 128 positions and heads of 16. Elsewhere, and where gradients are wanted, it
    is the better one and is used.

    Parameters
    ----------
    query, key, value
        (batch, n_heads, seq, d_head); keys and values may have fewer heads, each for a group of
        queries that follow each other (grouped-query attention).
    causal
        Whether a position sees only itself and those before it.
    attended
        Which positions may be seen, (batch, seq); not for causal attention, where padding on the
        right is never seen.
    scale
        Of the products; none: 1 / sqrt(d_head).

    Returns
    -------
    Tensor
        (batch, seq, n_heads * d_head).
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    if causal:
        mixed = _causal(query, key, value, scale)
    else:
        seen = None if attended is None else attended[:, None, None, :]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale)
    return mixed.transpose(1, 2).flatten(2)


def _causal(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    batch, n_heads, seq, d_head = query.shape
    if torch.is_grad_enabled() or query.device.type != "cpu" or seq > BANDED_UP_TO:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    queries, keys, values = (part.reshape(-1, seq, d_head) for part in (query, key, value))
    keys = keys.transpose(1, 2)
    mixed = torch.empty_like(queries)
    factor = d_head**-0.5 if scale is None else scale
    for start in range(0, seq, BAND):
        stop = min(start + BAND, seq)
        hidden = torch.full((stop - start, stop), float("-inf"), dtype=query.dtype).triu_(start + 1)
        scores = torch.baddbmm(hidden, queries[:, start:stop], keys[:, :, :stop], alpha=factor)
        mixed[:, start:stop] = torch.bmm(scores.softmax(dim=-1), values[:, :stop])
    return mixed.view(batch, n_heads, seq, d_head)
