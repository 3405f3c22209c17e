"""Guess a hidden gene from how frequent genes are, and from which of them are seen already."""

import numpy as np
from numpy.typing import NDArray

from stages.inputs.encoders.encoded import Ids

Floats = NDArray[np.float64]

WINDOW = 8
"""Ranks to either side that are counted together."""
PSEUDO_COUNT = 0.5


def by_rank(ids: Ids, genes: NDArray[np.bool_]) -> Floats:
    """Return how often each gene stands at each place, of all genes there.

    Parameters
    ----------
    ids
        Encoded cells, (n_cells, width).
    genes
        Which ids are genes, (n_ids,).

    Returns
    -------
    ndarray
        (width, n_ids); 0 for ids that are none.
    """
    width, n_ids = ids.shape[1], len(genes)
    counts = np.zeros((width, n_ids))
    for place in range(width):
        counts[place] = np.bincount(ids[:, place], minlength=n_ids)
    sums = np.concatenate([np.zeros((1, n_ids)), np.cumsum(counts, axis=0)])
    places = np.arange(width)
    around = sums[np.minimum(places + WINDOW + 1, width)] - sums[np.maximum(places - WINDOW, 0)]
    around = np.where(genes, around + PSEUDO_COUNT, 0.0)
    return np.asarray(around / around.sum(axis=1, keepdims=True))


def losses(
    frequencies: Floats, seen: Ids, hidden: Ids, scored: NDArray[np.bool_], *, repeats: bool
) -> Floats:
    """Return the mean loss of each cell's hidden genes, in nats.

    Parameters
    ----------
    frequencies
        (width, n_ids), as :func:`by_rank`.
    seen, hidden
        What the model reads and what is to be predicted, (n_cells, width).
    scored
        Which places are hidden.
    repeats
        Whether a gene that is seen may stand there once more. It never does: a baseline that does
        not know this is too easy.
    """
    found = np.empty(len(seen))
    for cell, (read, true, asked) in enumerate(zip(seen, hidden, scored, strict=True)):
        shares = frequencies[asked]
        if not repeats:
            shares = shares.copy()
            shares[:, read[~asked]] = 0.0
        chosen = shares[np.arange(len(shares)), true[asked]] / shares.sum(axis=1)
        found[cell] = -np.log(chosen).mean()
    return found
