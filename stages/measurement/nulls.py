r"""Say what numbers would be if nothing were there, or only what is known already.

*Noise.* A measured effect is a mean over a finite number of replicates. Were every true effect
zero, the measured ones would still differ: as draws from a normal distribution whose covariance is
that of the effects over n. Independent components of equal standard error then have the Gini
coefficient of the half-normal distribution, :math:`\sqrt 2 - 1 = 0.4142`, and an effective number
near 0.79 n. A Gini near 0.4 to 0.5 therefore says nothing by itself; the sum of the absolute
effects, beside the sum that noise alone gives, does.

*Exposure.* A component may have a large effect only because there is much of it: a head that
writes much, a feature that fires often, a pair whose two parts matter each by itself. What the
exposure alone predicts, and what is left when it is taken out, are measured like the effects.

*Exchange of states.* Were the states exchangeable, a change between the first and the last would be
the difference of any two of them.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.measurement import resampling
from stages.measurement.metrics import OF_EFFECTS, Metric, Size, measure, measure_weighted

Floats = NDArray[np.float64]

ROUNDING = 1e-12
"""Of a number: what double precision may change of it in a sum of some thousands."""
MIN_FITTED = 3
"""Components of non-zero effect and exposure that the line of :func:`by_exposure` needs."""


def without_noise(effects: Floats) -> NDArray[np.bool_]:
    """Return of which components the replicates differ by rounding alone, (n_components,).

    Examples
    --------
    >>> without_noise(np.array([[0.1, 0.5], [0.1 + 1e-16, 0.25]])).tolist()
    [True, False]
    """
    none: NDArray[np.bool_] = np.ptp(effects, axis=0) <= ROUNDING * np.abs(effects).max(axis=0)
    return none


def floor_draws(
    effects: Floats,
    metrics: Sequence[Metric] = OF_EFFECTS,
    *,
    draws: int,
    rng: np.random.Generator,
    size: Size = np.abs,
) -> Floats:
    r"""Return draws of the metrics of components without effect, of shape (draws, n_metrics).

    Each component's effects are centred at zero and the replicates resampled, all components
    together, so that these keep their correlation and their skewness. A resampled mean of n values
    has (n - 1) / n of the variance of the mean, which the factor :math:`\sqrt{n / (n - 1)}` makes
    good. Where replicates differ by rounding alone there is no noise, and nan.

    Parameters
    ----------
    effects : shape (n_replicates, n_components)
        Of two replicates at least.
    size
        What is measured of a mean effect: its absolute value by default.
    """
    n = len(effects)
    centred = (effects - effects.mean(axis=0)) * math.sqrt(n / (n - 1))
    centred[:, without_noise(effects)] = 0.0
    weights = resampling.group_weights(n, draws, rng)
    return measure_weighted(weights, centred, metrics, size=size)


def independent_draws(
    standard_error: Floats,
    metrics: Sequence[Metric] = OF_EFFECTS,
    *,
    draws: int,
    rng: np.random.Generator,
) -> Floats:
    """Return draws of the metrics of independent normal effects with these standard errors.

    Where all are zero there is no noise, and nan.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> floor = independent_draws(np.ones(400), draws=400, rng=rng)
    >>> bool(abs(floor[:, 0].mean() - (2**0.5 - 1)) < 0.003)
    True
    """
    normal = rng.normal(size=(draws, standard_error.size))
    return measure(np.abs(normal * standard_error), metrics)


def by_exposure(effect: Floats, exposure: Floats) -> tuple[Floats, Floats]:
    """Return what exposure alone predicts of absolute effects, and what is left of these.

    A least-squares line of log absolute effect on log exposure, over the components where neither
    is zero; a prediction is its exponential, what is left the effect over its prediction. Where
    either is zero, prediction and rest are zero.

    Parameters
    ----------
    effect : shape (..., n_components)
        Each row has a line of its own.
    exposure : shape (n_components,)
        At least 0.

    Returns
    -------
    predicted, left : arrays of the shape of `effect`
        nan throughout where fewer than ``MIN_FITTED`` components can be fitted, or where all of
        these have one exposure.

    Examples
    --------
    >>> predicted, left = by_exposure(np.array([2.0, -4.0, 8.0]), np.array([1.0, 2.0, 4.0]))
    >>> predicted.round(9).tolist(), left.round(9).tolist()
    ([2.0, 4.0, 8.0], [1.0, 1.0, 1.0])
    """
    predicted, left = np.full(effect.shape, np.nan), np.full(effect.shape, np.nan)
    n = exposure.size
    if n < MIN_FITTED:
        return predicted, left
    size, line, rest = (values.reshape(-1, n) for values in (np.abs(effect), predicted, left))
    both = (size > 0) & (exposure > 0)
    # Rows that leave out the same components, together.
    packed = np.packbits(both, axis=1)
    _, at, which = np.unique(
        packed.view(f"V{packed.shape[1]}")[:, 0], return_index=True, return_inverse=True
    )
    for number, fitted in enumerate(both[at]):
        x = np.log(exposure[fitted])
        if fitted.sum() < MIN_FITTED or np.ptp(x) == 0:
            continue
        rows = np.flatnonzero(which == number)
        there = np.ix_(rows, fitted)
        y = np.log(size[there])
        x, middle = x - x.mean(), y.mean(axis=1, keepdims=True)
        slope = (x * (y - middle)).sum(axis=1, keepdims=True) / (x**2).sum()
        line[rows], rest[rows] = 0.0, 0.0
        line[there] = np.exp(middle + slope * x)
        rest[there] = size[there] / line[there]
    return predicted, left


def exchanged_states(values: Floats) -> Floats:
    """Return the differences of all ordered pairs of states, of shape (K (K - 1), ...).

    Parameters
    ----------
    values : shape (K, ...)
        One row a state.
    """
    pairs = np.array(list(itertools.permutations(range(len(values)), 2)))
    change: Floats = values[pairs[:, 0]] - values[pairs[:, 1]]
    return change
