r"""Heads as maps between items, in both readings of the study, and what is made of them.

``attn_mean``: the share that item j has in what item i is given, averaged over all cells of the
reference in which both are read. ``ov_weight``: what item i, attended to, writes along item j:
:math:`E W_V W_O E^T` of E, the mean over the reference of what enters the first block where an item
stands, less its mean over items. The block's own norm in front of the values is applied to E, and
so folded in; biases fall out with the means; norms behind the block and all other blocks are left
out (the direct path). It is kept as its two factors, whose rank is that of the head.

The published operator is one of both (arXiv 2603.10261 calls it a value projection of 1,200 x
1,200, which a checkpoint of width 512 does not hold); neither is claimed to equal it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from stages.base.errors import RepresentationError
from stages.base.files import atomic_path
from stages.models.architectures.base import Architecture
from stages.models.attention import attended_by
from stages.models.text import Text
from stages.representations.arrays import EMBEDDING
from stages.representations.streams import streams, width_of

Floats = NDArray[np.float64]
Kind = Literal["attn_mean", "ov_weight"]
KINDS: tuple[Kind, ...] = get_args(Kind)
THIRDS = ("early", "middle", "late")


@dataclass(frozen=True)
class Maps:
    """The heads of a model in one state, as maps between n items."""

    items: NDArray[np.int64]
    """Their ids, ascending: (n,)."""
    names: list[str]
    """What they stand for."""
    seen: NDArray[np.int32]
    """Sequences of the reference that hold each: (n,)."""
    embedding: NDArray[np.float32]
    """E, less its mean: (n, hidden)."""
    reads: NDArray[np.float32]
    """E W_V of each head, less its mean: (n_layers, n_heads, n, d_head)."""
    writes: NDArray[np.float32]
    """E W_O^T of each head: (n_layers, n_heads, n, d_head)."""
    attention: NDArray[np.float16] | None = None
    """``attn_mean``, (n_layers, n_heads, n, n), 0 where two items never met; none: not made."""

    @property
    def heads(self) -> list[tuple[int, int]]:
        """All heads as layer and head."""
        n_layers, n_heads = self.reads.shape[:2]
        return [(layer, head) for layer in range(n_layers) for head in range(n_heads)]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The readings that there are."""
        return KINDS if self.attention is not None else ("ov_weight",)

    def thirds(self) -> list[NDArray[np.int64]]:
        """Return the layers that are early, middle and late."""
        return list(np.array_split(np.arange(self.reads.shape[0]), len(THIRDS)))

    def apply(self, x: Floats, kind: Kind, layer: int, head: int) -> Floats:
        """Return x A of one head: (rows, n) of (rows, n)."""
        if kind == "ov_weight":
            return np.asarray((x @ self.reads[layer, head]) @ self.writes[layer, head].T)
        if self.attention is None:
            msg = "the attention of this state was not averaged. Add it to operator_maps.attention."
            raise RepresentationError(msg)
        return np.asarray(x @ self.attention[layer, head].astype(np.float64))

    def pooled(self, x: Floats, kind: Kind) -> list[Floats]:
        """Return x A for the mean A over all heads of the early, the middle and the late layers."""
        n_heads = self.reads.shape[1]
        return [
            np.mean(
                [self.apply(x, kind, int(at), head) for at in third for head in range(n_heads)],
                axis=0,
            )
            if len(third)
            else np.zeros_like(x)
            for third in self.thirds()
        ]

    def n_bytes(self, kind: Kind) -> int:
        """Return what one head takes in float32, (n, n) or its two factors."""
        n, d_head = self.reads.shape[2:]
        return 4 * n * (n if kind == "attn_mean" else 2 * d_head)


def drift(pooled: Sequence[Floats]) -> Floats:
    """Return [x (A_e - A_m); x (A_m - A_l)] of the three pooled features, (rows, 2 n)."""
    early, middle, late = pooled
    return np.concatenate([early - middle, middle - late], axis=1)


def factors(left: Floats, right: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the singular value decomposition of ``left @ right.T`` without forming it.

    Parameters
    ----------
    left, right
        (n, r), (m, r)

    Returns
    -------
    u, sigma, v
        (n, r), descending (r,), (m, r); the largest entry of each column of u is positive.
    """
    q_left, r_left = np.linalg.qr(left.astype(float))
    q_right, r_right = np.linalg.qr(right.astype(float))
    inner_u, sigma, inner_v = np.linalg.svd(r_left @ r_right.T)
    u, v = q_left @ inner_u, q_right @ inner_v.T
    sign = np.sign(u[np.abs(u).argmax(axis=0), np.arange(u.shape[1])])
    return u * sign, sigma, v * sign


def chosen_items(
    ids: NDArray[np.int32], inside: NDArray[np.bool_], most: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the ids that the most sequences hold, ascending, and how many hold each.

    Parameters
    ----------
    ids, inside
        (n, seq), and which positions hold an item.
    most
        So many at most.
    """
    rows = np.broadcast_to(np.arange(len(ids))[:, np.newaxis], ids.shape)[inside]
    pairs = np.unique(np.stack([rows, ids[inside]]), axis=1)
    found, counts = np.unique(pairs[1], return_counts=True)
    # By frequency, equal ones by id.
    kept = np.sort(np.lexsort((found, -counts))[:most])
    return found[kept].astype(np.int64), counts[kept].astype(np.int32)


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


def write(path: Path, maps: Maps, statement: dict[str, str]) -> None:
    """Write maps as safetensors, atomically."""
    arrays = {
        "items": maps.items,
        "seen": maps.seen,
        "embedding": maps.embedding,
        "reads": maps.reads,
        "writes": maps.writes,
    }
    if maps.attention is not None:
        arrays["attention"] = maps.attention
    said = statement | {"names": json.dumps(maps.names, ensure_ascii=False)}
    with atomic_path(path) as temporary:
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary, said)


def read(path: Path) -> Maps:
    """Read maps.

    Raises
    ------
    RepresentationError
        The file is missing or none of maps.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            names = json.loads((file.metadata() or {})["names"])
        return Maps(names=list(names), **arrays)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"{path} holds no maps of heads ({reason}). Remove it and run dvc repro."
        raise RepresentationError(msg) from None
