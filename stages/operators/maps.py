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
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stages.base.errors import RepresentationError
from stages.base.files import atomic_path

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

    def matrix(self, kind: Kind, layer: int, head: int) -> Floats:
        """Return A of one head: (n, n)."""
        if kind == "ov_weight":
            return np.asarray(self.reads[layer, head] @ self.writes[layer, head].T, dtype=float)
        if self.attention is None:
            msg = "attention was averaged in the first and the last state alone. Take one of these."
            raise RepresentationError(msg)
        return np.asarray(self.attention[layer, head], dtype=float)

    def pooled(self, kind: Kind) -> list[Floats]:
        """Return the mean A over all heads of the early, the middle and the late layers."""
        n_layers, n_heads = self.reads.shape[:2]
        found = []
        for third in np.array_split(np.arange(n_layers), len(THIRDS)):
            total = np.zeros((len(self.items), len(self.items)))
            for layer in third:
                for head in range(n_heads):
                    total += self.matrix(kind, int(layer), head)
            found.append(total / max(1, len(third) * n_heads))
        return found

    def n_bytes(self, kind: Kind) -> int:
        """Return what one head takes in float32, (n, n) or its two factors."""
        n, d_head = self.reads.shape[2:]
        return int(4 * n * (n if kind == "attn_mean" else 2 * d_head))


def drift(pooled: Sequence[Floats]) -> Floats:
    """Return [A_e - A_m, A_m - A_l] of the three pooled maps, (n, 2 n)."""
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
    # One entry: several are written in no fixed order.
    said = {"maps": json.dumps(statement | {"names": maps.names}, sort_keys=True)}
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
            arrays = {name: file.get_tensor(name) for name in file.keys()}
            names = json.loads((file.metadata() or {})["maps"])["names"]
        return Maps(names=list(names), **arrays)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"{path} holds no maps of heads ({reason}). Remove it and run dvc repro."
        raise RepresentationError(msg) from None
