"""Describe the matrix of pairs: over how many directions it is spread, and into what it falls.

The matrix has a row and a column a head, the effects of pairs beyond the sum as entries and 0 on
its diagonal. Communities are those of the graph of absolute effects, by modularity: found by
Leiden, which mends the method of Louvain [1]_.

References
----------
.. [1] Traag, V. A., Waltman, L. and van Eck, N. J. (2019). From Louvain to Leiden: guaranteeing
   well-connected communities. Scientific Reports 9:5233.
"""

import igraph
import leidenalg
import numpy as np
from numpy.typing import NDArray

from stages.measurement.concentration import effective_number

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def matrix(effect: Floats, a: Indices, b: Indices, n: int) -> Floats:
    """Return the symmetric matrix (n, n) with the effect of pair i at a[i], b[i]."""
    made = np.zeros((n, n))
    made[a, b] = made[b, a] = effect
    return made


def effective_rank(symmetric: Floats) -> float:
    """Return the Hill number of order 1 of the squared singular values; nan of a zero matrix.

    Examples
    --------
    >>> round(effective_rank(np.diag([1.0, -1.0, 0.0])), 9)
    2.0
    """
    return float(effective_number(np.linalg.eigvalsh(symmetric) ** 2))


def communities(symmetric: Floats, seed: int) -> tuple[float, Indices]:
    """Return the modularity of the best partition found, and the community of each head.

    Communities are numbered by their size, the largest 0. Without any effect: nan, all 0.
    """
    n = len(symmetric)
    a, b = np.triu_indices(n, k=1)
    weights = np.abs(symmetric[a, b])
    if not weights.any():
        return float("nan"), np.zeros(n, dtype=np.int64)
    graph = igraph.Graph(n, list(zip(a.tolist(), b.tolist(), strict=True)))
    found = leidenalg.find_partition(
        graph,
        leidenalg.ModularityVertexPartition,
        weights=weights.tolist(),
        n_iterations=-1,
        seed=seed,
    )
    quality = graph.modularity(found.membership, weights=weights.tolist())
    return float(quality), np.asarray(found.membership, dtype=np.int64)
