"""Losses of tokens and of sequences, without ever holding the table of all logits."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.models.architectures.base import Architecture, linear
from stages.models.text import Text

# Bytes of logits made at once, on a CPU (third-level cache) and on an accelerator.
CPU_LOGITS = 4 << 20
GPU_LOGITS = 1 << 30
MIN_LOGIT_ROWS = 256


def logit_rows(weight: Tensor) -> int:
    """Return how many positions' logits are made at once with this unembedding."""
    budget = CPU_LOGITS if weight.device.type == "cpu" else GPU_LOGITS
    return max(MIN_LOGIT_ROWS, budget // (weight.shape[0] * weight.element_size()))


def token_losses(architecture: Architecture, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy in nats of each target, from the last block's output.

    Logits are made some rows at a time, so that at no time more than one small piece of the
    (positions, vocabulary) table exists.

    Parameters
    ----------
    architecture
        The model.
    hidden
        Output of the last block: (..., hidden).
    targets
        Token ids: (...).

    Returns
    -------
    Tensor
        (...), in the precision of the unembedding.
    """
    weight, bias = architecture.unembedding()
    rows = architecture.normalise(hidden).reshape(-1, hidden.shape[-1])
    flat = targets.reshape(-1)
    step = logit_rows(weight)
    losses = torch.empty(len(flat), dtype=weight.dtype, device=rows.device)
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        logits = linear(rows[part], weight, bias)
        losses[part] = F.cross_entropy(logits, flat[part], reduction="none")
    return losses.view(targets.shape)


class SequenceLoss:
    """Observes the loss of each sequence: the mean over its scored positions, in nats."""

    def __init__(self, architecture: Architecture, text: Text, device: torch.device) -> None:
        self.layers = (architecture.n_layers - 1,)
        self._architecture = architecture
        self._text = text
        self._device = device

    def __call__(self, layer: int, hidden: Tensor, sequences: slice) -> Tensor:
        """Return the losses, (n, sequences), float64."""
        del layer
        shape = hidden.shape[:3]  # (n, sequences, seq)
        text = self._text[sequences]
        targets = text.targets.to(self._device).expand(shape)
        if text.scored is None:
            flat = token_losses(self._architecture, hidden.flatten(0, 1), targets.flatten(0, 1))
            return flat.double().mean(dim=-1).view(shape[:2])
        scored = text.scored.to(self._device)
        every = scored.expand(shape)
        losses = torch.zeros(shape, dtype=torch.float64, device=self._device)
        losses[every] = token_losses(self._architecture, hidden[every], targets[every]).double()
        return losses.sum(dim=-1) / scored.sum(dim=-1)
