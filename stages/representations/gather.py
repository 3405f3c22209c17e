"""What is kept of the residual stream of some sequences: rows, means of cells, sums of items."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stages.representations.streams import Batch

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[Any]


def positions(
    batches: Iterable[Batch], kept: Mask, layers: Sequence[int], width: int, dtype: str
) -> Rows:
    """Return the stream at every kept position, in the order of sequences and positions.

    Parameters
    ----------
    batches
        All sequences, in any order.
    kept
        Which positions: (n, seq).
    layers, width
        Which layers, and how wide the stream is.
    dtype
        What the rows are stored as.

    Returns
    -------
    Rows
        (layers, kept positions, width). What is too large for `dtype` is infinite.
    """
    sizes = kept.sum(axis=1)
    ends = np.cumsum(sizes)
    begins = ends - sizes
    rows = np.empty((len(layers), int(ends[-1]), width), dtype=dtype)
    for batch in batches:
        inside = _inside(kept, batch)
        target = np.concatenate([np.arange(begins[n], ends[n]) for n in batch.sequences.tolist()])
        for row, layer in zip(rows, layers, strict=True):
            state = batch.states[layer]
            found = state[inside.to(state.device)].to(getattr(torch, dtype)).cpu()
            row[target] = found.numpy()
    return rows


def means(batches: Iterable[Batch], kept: Mask, layers: Sequence[int], width: int) -> Rows:
    """Return the mean over the kept positions of each sequence: (layers, n, width), float64."""
    found = np.empty((len(layers), len(kept), width))
    for batch in batches:
        inside = _inside(kept, batch)
        for row, layer in zip(found, layers, strict=True):
            state = batch.states[layer]
            seen = inside.to(state.device)[..., None]
            total = state.double().masked_fill(~seen, 0.0).sum(dim=1) / seen.sum(dim=1)
            row[batch.sequences] = total.cpu().numpy()
    return found


def firsts(batches: Iterable[Batch], n: int, layers: Sequence[int], width: int) -> Rows:
    """Return the stream at the first position of each of `n` sequences: (layers, n, width)."""
    found = np.empty((len(layers), n, width))
    for batch in batches:
        for row, layer in zip(found, layers, strict=True):
            row[batch.sequences] = batch.states[layer][:, 0].double().cpu().numpy()
    return found


def add_items(
    batches: Iterable[Batch], kept: Mask, items: npt.NDArray[np.int64], sums: Rows, counts: Rows
) -> None:
    """Add the stream at every kept position to the sums of what stands there, in place.

    Parameters
    ----------
    batches
        All sequences, in any order.
    kept
        Which positions count: (n, seq).
    items
        Which item stands at each position, by its number in `sums`: (n, seq).
    sums
        (layers, items, width), float64.
    counts
        Positions by item: (items,).
    """
    for batch in batches:
        inside = _inside(kept, batch)
        at = torch.from_numpy(items)[batch.sequences, : inside.shape[1]][inside]
        numbers, inverse, times = np.unique(at.numpy(), return_inverse=True, return_counts=True)
        counts[numbers] += times
        place = torch.from_numpy(inverse)
        # Summed where the model is, over the few items of a batch, then added to those of all.
        for total, state in zip(sums, batch.states.values(), strict=True):
            found = state[inside.to(state.device)].double()
            part = found.new_zeros(len(numbers), found.shape[1])
            part.index_add_(0, place.to(found.device), found)
            total[numbers] += part.cpu().numpy()


def _inside(kept: Mask, batch: Batch) -> torch.Tensor:
    """Return which positions of a batch are kept: (batch, seq)."""
    seq = next(iter(batch.states.values())).shape[1]
    return torch.from_numpy(kept)[batch.sequences, :seq]
