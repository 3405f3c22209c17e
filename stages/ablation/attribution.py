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

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from stages import cli, tables
from stages.ablation.architecture import Architecture, architecture_of, load_model
from stages.ablation.engine import check_tokens, matmul_precision
from stages.ablation.inputs import devices, read_tokens
from stages.errors import AblationError, TableError

Floats = NDArray[np.float64]

# Positions in one forward and backward pass: what the caches hold, and what fills a GPU.
CPU_POSITIONS, GPU_POSITIONS = 1024, 8192


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


def features(model: nn.Module, tokens: Tensor, *, batch_size: int, label: str = "") -> Features:
    """Compute the features of all heads for every sequence.

    Parameters
    ----------
    model
        A causal language model whose architecture is known, in evaluation mode.
    tokens : (n_sequences, seq)
        Token ids; every sequence has the same length.
    batch_size
        Sequences in one forward and backward pass.
    label
        Names the progress bar; without one there is none.

    Raises
    ------
    AblationError
        A gradient is not finite, or the tokens do not fit the model.
    """
    architecture = architecture_of(model)
    check_tokens(
        tokens,
        vocab_size=architecture.vocab_size,
        max_positions=architecture.max_positions,
        name="evaluation",
    )
    device = next(model.parameters()).device
    starts = tqdm(range(0, len(tokens), batch_size), desc=label, disable=not label)
    parts = [
        _batch(model, architecture, tokens[start : start + batch_size].to(device))
        for start in starts
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


def to_table(found: Features, step: int) -> pd.DataFrame:
    """Return ``tables.ATTRIBUTION`` of one checkpoint."""
    n, n_layers, n_heads = found.first_order.shape
    layer, head, sequence = (index.ravel() for index in np.indices((n_layers, n_heads, n)))

    def column(values: Floats) -> Floats:
        return np.moveaxis(values, 0, -1).ravel()

    return pd.DataFrame(
        {
            "step": step,
            "layer": layer,
            "head": head,
            "sequence": sequence,
            "loss_base": found.loss[sequence],
            "first_order_nats": column(found.first_order),
            "fisher": column(found.fisher),
            "size": column(found.size),
        }
    )


def read(path: Path, step: int) -> Features:
    """Read the features of one checkpoint.

    Raises
    ------
    TableError
        The file is missing, is of another step, or does not hold every head on every sequence.
    """
    table = tables.read_parquet(path, tables.ATTRIBUTION)
    if table.empty or (table["step"] != step).any():
        msg = f"{path} is not the attribution of step {step}. Run dvc repro attribution."
        raise TableError(msg)
    ordered = table.sort_values(["layer", "head", "sequence"], ignore_index=True)
    shape = tuple(int(ordered[name].max()) + 1 for name in ("layer", "head", "sequence"))
    if len(ordered) != np.prod(shape):
        msg = (
            f"{path} holds {len(ordered)} rows, not {shape[0]} layers x {shape[1]} heads x "
            f"{shape[2]} sequences. Run dvc repro attribution."
        )
        raise TableError(msg)

    def values(name: str) -> Floats:
        return np.moveaxis(ordered[name].to_numpy(float).reshape(shape), -1, 0)

    return Features(
        first_order=values("first_order_nats"),
        fisher=values("fisher"),
        size=values("size"),
        loss=values("loss_base")[:, 0, 0],
    )


def _run(args: argparse.Namespace) -> None:
    device = devices(args.device)[0]
    tokens = read_tokens(args.tokens, "evaluation")
    model = load_model(args.checkpoint, device=device)
    positions = CPU_POSITIONS if device == "cpu" else GPU_POSITIONS
    with matmul_precision("float32"):
        found = features(
            model,
            tokens,
            batch_size=max(1, positions // tokens.shape[1]),
            label=f"attribution of {args.checkpoint.name} on {device}",
        )
    tables.write_parquet(to_table(found, args.step), tables.ATTRIBUTION, args.out, metadata={})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    parser = cli.parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of one checkpoint")
    parser.add_argument("--step", type=int, required=True, help="its training step")
    parser.add_argument("--tokens", type=Path, required=True, help="the evaluated text (.npy)")
    parser.add_argument("--out", type=Path, required=True, help="attribution table (.parquet)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:0")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
