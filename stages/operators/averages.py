"""Average what the heads of a model attend to, and read what their weights write, over a text."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.models.architectures.base import Architecture
from stages.models.attention import attended_by
from stages.models.text import Text
from stages.operators.maps import Maps
from stages.representations.arrays import EMBEDDING
from stages.representations.streams import streams, width_of


def maps_of(
    architecture: Architecture,
    text: Text,
    items: NDArray[np.int64],
    seen: NDArray[np.int32],
    names: list[str],
    *,
    inside: NDArray[np.bool_],
    device: torch.device,
    attention: bool,
) -> Maps:
    """Return the heads of a model as maps between items, averaged over a text.

    One pass over the text, whatever its length; memory is that of the maps.

    Parameters
    ----------
    text
        The reference, with nothing hidden.
    items, seen, names
        As in :class:`Maps`.
    inside
        Which positions may hold an item, (sequences, seq).
    attention
        Whether ``attn_mean`` is made; else only what the weights say.
    """
    n, n_layers, n_heads = len(items), architecture.n_layers, architecture.n_heads
    place = np.full(architecture.vocab_size, -1, dtype=np.int64)
    place[items] = np.arange(n)
    number = torch.from_numpy(np.where(inside, place[text.inputs.numpy()], -1))
    layers = list(range(EMBEDDING, n_layers - 1)) if attention else [EMBEDDING]
    sums = torch.zeros(n_layers if attention else 0, n_heads, n * n)
    met = torch.zeros(n * n)
    total = torch.zeros(n, width_of(architecture), dtype=torch.float64)
    times = torch.zeros(n, dtype=torch.float64)
    for batch in streams(architecture, text, layers, device=device):
        states = {layer: state.clone() for layer, state in batch.states.items()}
        at = number[batch.sequences, : states[EMBEDDING].shape[1]]
        kept = at >= 0
        total.index_add_(0, at[kept], states[EMBEDDING][kept.to(device)].double().cpu())
        times.index_add_(0, at[kept], torch.ones(int(kept.sum()), dtype=torch.float64))
        if not attention:
            continue
        attended = None if text.attended is None else text.attended[batch.sequences, : at.shape[1]]
        attended = None if attended is None else attended.to(device)
        pairs = [_pairs(row, n) for row in at]
        for each in pairs:
            met.index_add_(0, each, torch.ones(len(each)))
        for layer in range(n_layers):
            block = architecture.blocks[layer]
            weights = attended_by(architecture, block, states[layer - 1], attended).weights.cpu()
            for row, each, mask in zip(weights, pairs, kept, strict=True):
                sums[layer].index_add_(1, each, row[:, mask][:, :, mask].flatten(1))
    mean = total / times.clamp(min=1)[:, None]
    reads, writes = _ov(architecture, mean.float().to(device))
    centred = mean - mean.mean(dim=0)
    return Maps(
        items=items,
        names=names,
        seen=seen,
        embedding=centred.float().numpy(),
        reads=reads.numpy(),
        writes=writes.numpy(),
        attention=(sums / met.clamp(min=1)).view(n_layers, n_heads, n, n).half().numpy()
        if attention
        else None,
    )


def _pairs(row: Tensor, n: int) -> Tensor:
    """Return the flat index of every pair of the items of a sequence."""
    items = row[row >= 0]
    return (items[:, None] * n + items[None, :]).flatten()


def _ov(architecture: Architecture, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return what each head reads of an item, and the items along what it writes."""
    reads, writes = [], []
    centred = mean - mean.mean(dim=0)
    for block in architecture.blocks:
        values = attended_by(architecture, block, mean[:, None]).values[:, :, 0]
        reads.append((values - values.mean(dim=0)).transpose(0, 1))
        weight, _ = architecture.projection(block)
        by_head = weight.detach().reshape(len(weight), architecture.n_heads, -1)
        writes.append(torch.einsum("nw,whd->hnd", centred, by_head.to(centred.dtype)))
    return torch.stack(reads).cpu().contiguous(), torch.stack(writes).cpu().contiguous()
