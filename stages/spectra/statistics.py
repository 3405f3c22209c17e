"""Rank statistics under weights, permuted labels and covariates."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def weighted_auroc(order: NDArray[np.int64], member: Mask, weights: Floats) -> Floats:
    """Return the AUROC under several sets of weights, as a bootstrap gives them.

    Parameters
    ----------
    order
        The argsort of the values, which are taken to differ: (n,).
    member
        (n,)
    weights
        (n_draws, n)

    Returns
    -------
    ndarray
        (n_draws,)
    """
    sorted_weights, inside = weights[:, order], member[order]
    others = np.where(inside, 0.0, sorted_weights)
    below = np.cumsum(others, axis=1)
    members = np.where(inside, sorted_weights, 0.0)
    total = members.sum(axis=1) * below[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = (members * below).sum(axis=1) / total
    return found


def rank_correlation(x: Floats, y: Floats) -> tuple[float, float]:
    """Return the absolute rank correlation (Spearman) and its p; nan where either is constant.

    >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([5.0, 4.0, 4.0]))[0].__round__(3)
    0.866
    """
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan, np.nan
    found = stats.spearmanr(x, y)
    return abs(float(found.statistic)), float(found.pvalue)


def residual(values: Floats, explained_by: Floats) -> Floats:
    """Return what is left of the ranks of values when other columns' ranks are taken out.

    By least squares, with an intercept.

    Parameters
    ----------
    values
        (n,)
    explained_by
        (n, k)
    """
    ranks = stats.rankdata(np.column_stack([values, explained_by]), axis=0)
    centred = ranks - ranks.mean(axis=0)
    slopes, *_ = np.linalg.lstsq(centred[:, 1:], centred[:, 0], rcond=None)
    left: Floats = centred[:, 0] - centred[:, 1:] @ slopes
    return left


def permutation_p(observed: float, drawn: Floats) -> float:
    """Return the share of draws as far from their middle or farther, the observed one counted.

    The middle is the mean of the draws.
    """
    if np.isnan(observed):
        return np.nan
    middle = drawn.mean()
    # What is one number but for rounding is one.
    reached = np.abs(drawn - middle) >= abs(observed - middle) - 1e-12
    return float((1 + reached.sum()) / (1 + len(drawn)))


def shuffled_within(
    labels: Floats, group: NDArray[np.int64], draws: int, rng: np.random.Generator
) -> Floats:
    """Return labels that are permuted within groups: (n_draws, n)."""
    place = np.argsort(group, kind="stable")
    found = np.empty((draws, len(labels)))
    for drawn in found:
        keys = rng.random(len(labels))
        drawn[place] = labels[np.lexsort((keys, group))]
    return found
