r"""First-order attribution of every head at once: what one forward and one backward pass can tell.

Removing head :math:`h` takes its contribution :math:`d_{h,t}` out of the output of its attention at
every position :math:`t`. To first order the loss of a sequence then changes by

.. math:: a_h = -\sum_t g_t \cdot d_{h,t},

where :math:`g_t` is the gradient of that loss with respect to the attention's output. One backward
pass gives
:math:`g` for all blocks, so all heads cost as much as two or three forward passes. By itself it is
a poor estimate late in training (heads interact with what follows), but a useful screen, and a good
control variate for the exact effects (``stages.ablation.control_variate``).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.ablation.architecture import Architecture, architecture_of
from stages.errors import AblationError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """Cheap facts about every sequence and head; arrays (sequence, layer, head)."""

    first_order: Floats
    """First-order effect of the removal on the sequence's loss, nats per token."""
    fisher: Floats
    """Sum over positions of the squared first-order terms, times the number of predicted tokens."""
    size: Floats
    """Mean over positions of the contribution's squared length over that of the centred
    residual."""
    loss: Floats
    """Baseline loss of each sequence, nats per token: shape (sequence,)."""

    def columns(self) -> Floats:
        """Return the features side by side: (sequence, layer, head, feature)."""
        loss = np.broadcast_to(self.loss[:, np.newaxis, np.newaxis], self.first_order.shape)
        return np.stack([self.first_order, self.fisher, self.size, loss], axis=-1)


def features(model: nn.Module, tokens: Tensor, *, batch_size: int) -> Features:
    """Compute the features of all heads for every sequence.

    Parameters
    ----------
    model
        A causal language model whose architecture is known, in evaluation mode.
    tokens : (n_sequences, seq)
        Token ids; every sequence has the same length.
    batch_size
        Sequences in one forward and backward pass.

    Raises
    ------
    AblationError
        A gradient is not finite.
    """
    architecture = architecture_of(model)
    parts = [
        _batch(model, architecture, tokens[start : start + batch_size])
        for start in range(0, len(tokens), batch_size)
    ]
    first_order, fisher, size, loss = (
        np.concatenate(columns) for columns in zip(*parts, strict=True)
    )
    if not np.isfinite(first_order).all():
        msg = (
            "the gradient of the loss is not finite, so no attribution can be made. "
            "Use float32 and check the checkpoint's weights."
        )
        raise AblationError(msg)
    return Features(first_order, fisher, size, loss)


def _batch(
    model: nn.Module, architecture: Architecture, tokens: Tensor
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the features of one batch, each (batch, layer, head), and the losses (batch,)."""
    inputs: list[Tensor] = []  # what each projection reads: (batch, seq, n_heads * d_head)
    outputs: list[Tensor] = []  # what it writes: (batch, seq, hidden)
    residuals: list[Tensor] = []  # what enters each block: (batch, seq, hidden)

    def keep_projection(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # Weights carry no gradient: the graph begins at the first projection's output.
        if not output.requires_grad:
            output.requires_grad_()
        inputs.append(args[0].detach())
        outputs.append(output)
        return output

    def keep_residual(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        residuals.append(args[0].detach())

    projections = [_projection(architecture, block) for block in architecture.blocks]
    hooks = [module.register_forward_hook(keep_projection) for module in projections]
    hooks += [block.register_forward_pre_hook(keep_residual) for block in architecture.blocks]
    try:
        with torch.enable_grad():
            logits = model(input_ids=tokens, use_cache=False).logits
            losses = _losses(logits, tokens)
            gradients = torch.autograd.grad(losses.sum(), outputs)
    finally:
        for hook in hooks:
            hook.remove()

    shape = (len(tokens), architecture.n_layers, architecture.n_heads)
    first_order, fisher, size = (np.empty(shape) for _ in range(3))
    heads = (architecture.n_heads, architecture.d_head)
    predicted = tokens.shape[1] - 1
    with torch.no_grad():
        for layer, module in enumerate(projections):
            weight: Tensor = module.weight  # type: ignore[assignment] # a Linear's weight
            written = _by_head(inputs[layer], heads)  # (batch, seq, n_heads, d_head)
            # g . d_h = (g W_h) . z_h: the contribution itself is never made.
            pulled = _by_head(gradients[layer] @ weight, heads)
            terms = -(pulled * written).sum(dim=-1).double()  # (batch, seq, n_heads)
            first_order[:, layer] = terms.sum(dim=1).numpy(force=True)
            fisher[:, layer] = (predicted * terms.square().sum(dim=1)).numpy(force=True)
            # |d_h|^2 = z_h' (W_h' W_h) z_h, with one small matrix a head.
            split = _by_head(weight, heads)  # (hidden, n_heads, d_head)
            gram = torch.einsum("nhd,nhe->hde", split, split)
            length = (torch.einsum("bthd,hde->bthe", written, gram) * written).sum(dim=-1)
            spread = residuals[layer].var(dim=-1, correction=0) * weight.shape[0]
            size[:, layer] = (length / spread[..., None]).double().mean(dim=1).numpy(force=True)
    return first_order, fisher, size, losses.detach().numpy(force=True)


def _by_head(values: Tensor, heads: tuple[int, int]) -> Tensor:
    """Split the last axis into (n_heads, d_head)."""
    return values.reshape(*values.shape[:-1], *heads)


def _losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the mean loss of each sequence over its predicted tokens, in double precision."""
    logits, targets = logits[:, :-1], tokens[:, 1:]
    each = nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return each.double().mean(dim=1)


def _projection(architecture: Architecture, block: nn.Module) -> nn.Module:
    """Return the module of `block` whose weight mixes its heads."""
    weight, _ = architecture.projection(block)
    for module in block.modules():
        if getattr(module, "weight", None) is weight:
            return module
    msg = "the architecture's projection is no module of its block; mend its adapter"
    raise AblationError(msg)
