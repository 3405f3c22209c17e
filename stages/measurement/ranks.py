r"""How well a number tells what is in a set from what is not.

The AUROC is the chance that a member has the larger number, ties counted half: with the ranks R of
all, :math:`(\sum_{members} R - n_1 (n_1 + 1) / 2) / (n_1 n_0)`, the Mann-Whitney statistic over its
largest value.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def auroc(values: Floats, member: Mask) -> float:
    """Return the AUROC of members against the others; nan where there are none of either.

    >>> auroc(np.array([1.0, 2.0, 3.0, 3.0]), np.array([False, False, True, False]))
    0.8333333333333334
    """
    return float(auroc_of_ranks(stats.rankdata(values), member[np.newaxis])[0])


def auroc_of_ranks(ranks: Floats, member: NDArray[np.bool_ | np.float64]) -> Floats:
    """Return the AUROC of several sets of members, (n_sets, ...), from the ranks of all, (n,).

    Several columns of ranks, (n, k), give (n_sets, k).
    """
    inside = member.astype(np.float64)
    n = inside.shape[-1]
    size = inside.sum(axis=-1)
    total = inside @ ranks
    size = size.reshape(size.shape + (1,) * (total.ndim - size.ndim))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = (total - size * (size + 1) / 2) / (size * (n - size))
    return found
