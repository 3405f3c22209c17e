r"""First-order attribution of every head at once: what one forward and one backward pass can tell.

Removing head :math:`h` takes its contribution :math:`d_{h,t}` out of the output of its attention at
every position :math:`t`. To first order the loss of a sequence then changes by

.. math:: a_h = -\sum_t g_t \cdot d_{h,t},

where :math:`g_t` is the gradient of that loss with respect to the attention's output. One backward
pass gives
:math:`g` for all blocks, so all heads cost as much as two or three forward passes. By itself it is
a poor estimate late in training (heads interact with what follows), but a useful screen, and a good
control variate for the exact effects (``stages.heads.control_variate``).
"""

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from stages.base import cli, tables
from stages.base.errors import AblationError
from stages.heads.covariates import Features, to_table
from stages.heads.tables.attribution import ATTRIBUTION
from stages.models.architectures import architecture_of
from stages.models.architectures.base import Architecture, linear
from stages.models.devices import devices, matmul_precision
from stages.models.load import load_model
from stages.models.losses import logit_rows, row_slopes, targets_of
from stages.models.text import Text, check_text, read_tokens, text_of

Floats = NDArray[np.float64]

# Positions in one forward and backward pass: what the caches hold, and what fills a GPU.
CPU_POSITIONS, GPU_POSITIONS = 1024, 8192


def features(model: nn.Module, text: Text, *, batch_size: int, label: str = "") -> Features:
    """Compute the features of all heads for every sequence.

    Parameters
    ----------
    model
        Of a known family, in evaluation mode.
    text
        What it is measured on.
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
    check_text(text, architecture, "evaluation")
    device = next(model.parameters()).device
    parts = [slice(start, start + batch_size) for start in range(0, len(text), batch_size)]
    grams = [_gram(architecture, block) for block in architecture.blocks]
    # As in the engine: on a CPU every worker has one core and batches of its own.
    threads = torch.get_num_threads()
    workers = min(threads, len(parts)) if device.type == "cpu" else 1

    def run(part: slice) -> tuple[Floats, Floats, Floats, Floats]:
        if workers > 1:
            torch.set_num_threads(1)
        return _batch(architecture, grams, text[part].to(device))

    try:
        with ThreadPoolExecutor(workers) as pool:
            done = tqdm(pool.map(run, parts), total=len(parts), desc=label, disable=not label)
            columns = list(zip(*done, strict=True))
    finally:
        torch.set_num_threads(threads)
    first_order, fisher, size, loss = (np.concatenate(column) for column in columns)
    if not np.isfinite(first_order).all():
        msg = (
            "the gradient of the loss is not finite, so no attribution can be made. "
            "Use float32 and check the checkpoint's weights."
        )
        raise AblationError(msg)
    return Features(first_order, fisher, size, loss)


def _batch(
    architecture: Architecture, grams: list[Tensor], text: Text
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the features of one batch, each (batch, layer, head), and the losses (batch,)."""
    written: list[Tensor] = []  # what the heads write: (batch, seq, n_heads * d_head)
    outputs: list[Tensor] = []  # what their projection makes of it: (batch, seq, hidden)
    entering: list[Tensor] = []  # what enters each block: (batch, seq, hidden)
    with torch.enable_grad():
        hidden = architecture.enter(text)
        for block in architecture.blocks:
            heads = architecture.heads(block, hidden, text.attended)
            output = architecture.project(block, heads)
            # Weights carry no gradient: the graph begins at the first projection's output.
            if not output.requires_grad:
                output.requires_grad_()
            written.append(heads.detach())
            outputs.append(output)
            entering.append(hidden.detach())
            hidden = architecture.finish(block, hidden, output)
        normed = architecture.normalise(hidden)
        losses, slope = _losses(architecture, normed.detach(), text)
        gradients = torch.autograd.grad(normed, outputs, slope)

    split = (*text.inputs.shape, architecture.n_heads, architecture.d_head)
    shape = (len(text), architecture.n_layers, architecture.n_heads)
    first_order, fisher, size = (np.empty(shape) for _ in range(3))
    with torch.no_grad():
        n_scored = _counts(text.scored, text)[:, None]
        seen = None if text.attended is None else text.attended[..., None]
        for layer, block in enumerate(architecture.blocks):
            weight, _ = architecture.projection(block)
            each = written[layer].view(split)  # (batch, seq, n_heads, d_head)
            # g . d_h = (g W_h) . z_h: the contribution itself is never made.
            terms = -((gradients[layer] @ weight).view(split) * each).sum(dim=-1).double()
            first_order[:, layer] = terms.sum(dim=1).numpy(force=True)
            squares = terms.square().sum(dim=1) * n_scored
            fisher[:, layer] = squares.numpy(force=True)
            length = (torch.einsum("bthd,hde->bthe", each, grams[layer]) * each).sum(dim=-1)
            spread = entering[layer].var(dim=-1, correction=0) * weight.shape[0]
            share = (length / spread[..., None]).double()
            share = share if seen is None else share.masked_fill(~seen, 0.0)
            mean = share.sum(dim=1) / _counts(text.attended, text)[:, None]
            size[:, layer] = mean.numpy(force=True)
    return first_order, fisher, size, losses.numpy(force=True)


def _counts(which: Tensor | None, text: Text) -> Tensor:
    """Return how many positions of each sequence are marked; all of them if nothing is."""
    if which is None:
        return torch.full((len(text),), text.n_positions, device=text.inputs.device)
    return which.sum(dim=1)


def _gram(architecture: Architecture, block: nn.Module) -> Tensor:
    """Return W_h' W_h of each head, since |d_h|^2 = z_h' (W_h' W_h) z_h: (n_heads, d, d)."""
    weight, _ = architecture.projection(block)
    by_head = weight.reshape(-1, architecture.n_heads, architecture.d_head)
    return torch.einsum("nhd,nhe->hde", by_head, by_head)


@torch.no_grad()
def _losses(architecture: Architecture, normed: Tensor, text: Text) -> tuple[Tensor, Tensor]:
    """Return the mean loss of each sequence, and its slope in what is unembedded.

    The slope of a loss in the logits is known (:func:`~stages.models.losses.row_slopes`), so that
    logits are made some rows at a time and none is kept.

    Returns
    -------
    Tensor, Tensor
        (batch,) in double precision, and (batch, seq, hidden).
    """
    weight, bias = architecture.unembedding()
    targets = targets_of(architecture, text)
    scored = torch.ones_like(targets, dtype=torch.bool) if text.scored is None else text.scored
    rows, flat = normed[scored], targets[scored]
    losses = torch.empty(len(flat), dtype=rows.dtype, device=rows.device)
    slopes = torch.empty_like(rows)
    step = logit_rows(weight)
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        outputs = linear(rows[part], weight, bias)
        losses[part], slope = row_slopes(architecture.loss, outputs, flat[part])
        slopes[part] = slope @ weight
    counts = _counts(text.scored, text)[:, None]
    each = torch.zeros(scored.shape, dtype=torch.float64, device=rows.device)
    each[scored] = losses.double()
    whole = torch.zeros_like(normed)
    whole[scored] = slopes
    return each.sum(dim=1) / counts[:, 0], whole / counts[..., None]


def _run(args: argparse.Namespace) -> None:
    device = devices(args.device)[0]
    tokens = read_tokens(args.tokens, "evaluation")
    model = load_model(args.checkpoint, device=device)
    text = text_of(tokens, architecture_of(model), args.checkpoint)
    positions = CPU_POSITIONS if device == "cpu" else GPU_POSITIONS
    with matmul_precision("float32"):
        found = features(
            model,
            text,
            batch_size=max(1, positions // tokens.shape[1]),
            label=f"attribution of {args.checkpoint.name} on {device}",
        )
    tables.write_parquet(to_table(found, args.state), ATTRIBUTION, args.out, metadata={})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    parser = cli.parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of one checkpoint")
    parser.add_argument("--state", required=True, help="its name")
    parser.add_argument("--tokens", type=Path, required=True, help="the evaluated text (.npy)")
    parser.add_argument("--out", type=Path, required=True, help="attribution table (.parquet)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:0")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
