"""Of which set a group has more than it would by chance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.measurement import resampling

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Nearest:
    """Of each group the set it has most of beyond chance, the first of equals: (n_groups,)."""

    at: Integers
    """Its place among the sets."""
    overlap: Integers
    """How many are in both."""
    size: Integers
    """Of the set."""
    p: Floats
    q: Floats
    """Adjusted after Benjamini and Hochberg over all groups and sets."""


def enrichment(chosen: Mask, sets: Mask) -> tuple[Integers, Floats]:
    """Return the overlap of each group with each set, and its p.

    The upper tail of the hypergeometric distribution: at least that many of a set in a group of
    that size that is drawn from all.

    Parameters
    ----------
    chosen
        (n_groups, n)
    sets
        (n, n_sets)

    Returns
    -------
    overlap, p
        (n_groups, n_sets) each.

    Examples
    --------
    >>> both = np.array([[True, True, False, False, False]])
    >>> overlap, p = enrichment(both, both.T)
    >>> overlap.tolist(), p.round(3).tolist()  # one of the ten ways to choose two of five
    ([[2]], [[0.1]])
    """
    from scipy import stats

    overlap = chosen.astype(np.int64) @ sets.astype(np.int64)
    drawn, size = chosen.sum(axis=1)[:, np.newaxis], sets.sum(axis=0)
    p: Floats = stats.hypergeom.sf(overlap - 1, len(sets), size, drawn)
    return overlap, p


def nearest(chosen: Mask, sets: Mask) -> Nearest:
    """Return of each group the set of which it has most beyond chance.

    Parameters
    ----------
    chosen, sets
        As of :func:`enrichment`.
    """
    overlap, p = enrichment(chosen, sets)
    q = resampling.benjamini_hochberg(p.ravel()).reshape(p.shape)
    at = p.argmin(axis=1)
    best = np.arange(len(p)), at
    return Nearest(at, overlap[best], sets.sum(axis=0)[at], p[best], q[best])
