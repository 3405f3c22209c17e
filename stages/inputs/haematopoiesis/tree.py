"""The lineage tree: sixteen kinds of cells from the haematopoietic stem cell to its leaves."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PARENTS: dict[str, str | None] = {
    "HSC": None,
    "MEP": "HSC",
    "Erythroid": "MEP",
    "Megakaryocyte": "MEP",
    "GMP": "HSC",
    "Monocyte": "GMP",
    "Macrophage": "Monocyte",
    "Neutrophil": "GMP",
    "CLP": "HSC",
    "Pro-B": "CLP",
    "B": "Pro-B",
    "Plasma": "B",
    "T": "CLP",
    "CD4 T": "T",
    "CD8 T": "T",
    "NK": "CLP",
}
"""Each kind and the one it comes from."""
NODES = tuple(PARENTS)


def ancestors(node: str) -> list[str]:
    """Return a kind and what it comes from, up to the stem cell.

    >>> ancestors("CD4 T")
    ['CD4 T', 'T', 'CLP', 'HSC']
    """
    found = [node]
    while (parent := PARENTS[found[-1]]) is not None:
        found.append(parent)
    return found


DEPTHS = {node: len(ancestors(node)) for node in NODES}
"""Kinds on the way from the stem cell, both ends counted."""


def branch(node: str) -> str:
    """Return which way a kind went at the stem cell; the stem cell went none.

    >>> branch("Macrophage"), branch("HSC")
    ('GMP', 'HSC')
    """
    return ancestors(node)[-2] if PARENTS[node] else node


def hops() -> npt.NDArray[np.int64]:
    """Return the steps on the tree between every two kinds, in the order of ``NODES``."""
    found = np.empty((len(NODES), len(NODES)), dtype=np.int64)
    for i, one in enumerate(NODES):
        for j, other in enumerate(NODES):
            ways = ancestors(one), ancestors(other)
            shared = len(set(ways[0]) & set(ways[1]))
            found[i, j] = len(ways[0]) + len(ways[1]) - 2 * shared
    return found


def pseudotime(node: npt.NDArray[np.int64], way: Floats) -> Floats:
    """Return how far cells have come from the stem cell, 0 to 1.

    Parameters
    ----------
    node
        Numbers of kinds in ``NODES``.
    way
        How far each has come from its parent to its kind, 0 to 1.
    """
    depths = np.array([DEPTHS[name] for name in NODES])
    return np.asarray((depths[node] - 1 + way) / depths.max())


def activities(node: npt.NDArray[np.int64], way: Floats) -> Floats:
    """Return how active the programme of each kind is in each cell: (cells, kinds).

    On the way from its parent a cell turns the programme of its kind on along a logistic curve and
    that of its parent down to 0.3; what came before keeps 0.3 of that.
    """
    on = 1 / (1 + np.exp(-8 * (way - 0.5)))
    found = np.zeros((len(node), len(NODES)))
    for number, name in enumerate(NODES):
        of = node == number
        for back, ancestor in enumerate(ancestors(name)):
            level = on[of] if back == 0 else (1 - 0.7 * on[of]) * 0.3 ** (back - 1)
            found[of, NODES.index(ancestor)] = level if name != "HSC" else 1.0
    return found
