"""Losses of positions and of sequences, without ever holding the table of all logits.

Which loss a model is measured by is said by its family
(:class:`~stages.models.architectures.base.Loss`); what it is, here and nowhere else.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.base.errors import AblationError
from stages.models.architectures.base import Architecture, Loss, linear
from stages.models.text import Text

# Bytes of logits made at once, on a CPU (third-level cache) and on an accelerator.
CPU_LOGITS = 4 << 20
GPU_LOGITS = 1 << 30
MIN_LOGIT_ROWS = 256


def logit_rows(weight: Tensor) -> int:
    """Return how many positions' logits are made at once with this unembedding."""
    budget = CPU_LOGITS if weight.device.type == "cpu" else GPU_LOGITS
    return max(MIN_LOGIT_ROWS, budget // (weight.shape[0] * weight.element_size()))


def targets_of(architecture: Architecture, text: Text) -> Tensor:
    """Return what is to be predicted at each position: token ids, or values.

    Raises
    ------
    AblationError
        The model predicts values and the text has none.
    """
    if architecture.loss is Loss.CROSS_ENTROPY:
        return text.targets
    if text.target_values is None:
        msg = (
            "this model predicts values, and the text has none. "
            "Make it with stages.models.text.cell_text, with values."
        )
        raise AblationError(msg)
    return text.target_values


def row_losses(kind: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return what each prediction costs: (rows,).

    Parameters
    ----------
    kind
        Which loss.
    outputs
        What is unembedded: logits (rows, vocabulary), or one value each, (rows, 1).
    targets
        Token ids, or values in bins: (rows,).
    """
    if kind is Loss.CROSS_ENTROPY:
        return F.cross_entropy(outputs, targets, reduction="none")
    return (outputs[:, 0] - targets).square()


def row_slopes(kind: Loss, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return what each prediction costs, (rows,), and the slope of that in `outputs`.

    The slope of a cross-entropy is the predicted distribution less the target; that of a squared
    error is twice the error. `outputs` are overwritten.
    """
    if kind is Loss.SQUARED_ERROR:
        losses = row_losses(kind, outputs, targets)
        return losses, outputs.sub_(targets[:, None]).mul_(2)
    true = targets[:, None]
    total = outputs.logsumexp(dim=-1, keepdim=True)
    losses = (total - outputs.gather(1, true))[:, 0]
    share = outputs.sub_(total).exp_()
    return losses, share.scatter_add_(1, true, share.new_full(true.shape, -1.0))


def token_losses(architecture: Architecture, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each target, in the family's unit, from the last block's output.

    Logits are made some rows at a time, so that at no time more than one small piece of the
    (positions, vocabulary) table exists.

    Parameters
    ----------
    architecture
        The model.
    hidden
        Output of the last block: (..., hidden).
    targets
        Token ids or values: (...).

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
        outputs = linear(rows[part], weight, bias)
        losses[part] = row_losses(architecture.loss, outputs, flat[part])
    return losses.view(targets.shape)


class SequenceLoss:
    """Observes the loss of each sequence: the mean over its scored positions."""

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
        targets = targets_of(self._architecture, text).to(self._device).expand(shape)
        if text.scored is None:
            flat = token_losses(self._architecture, hidden.flatten(0, 1), targets.flatten(0, 1))
            return flat.double().mean(dim=-1).view(shape[:2])
        scored = text.scored.to(self._device)
        every = scored.expand(shape)
        losses = torch.zeros(shape, dtype=torch.float64, device=self._device)
        losses[every] = token_losses(self._architecture, hidden[every], targets[every]).double()
        return losses.sum(dim=-1) / scored.sum(dim=-1)
