"""Whether the largest of some counts fall off as a power, beside other shapes.

A power law above the threshold that fits best is set beside a lognormal and an exponential on the
same values by the likelihood ratio of Vuong, and its fit beside those to data drawn from it [1]_.
Counts are taken as continuous, from half below the threshold on.

References
----------
.. [1] Clauset, A., Shalizi, C. R. and Newman, M. E. J. (2009). Power-law distributions in empirical
   data. SIAM Review 51:661-703.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Floats = NDArray[np.float64]

MIN_TAIL = 10
"""Fewer values fit anything."""
_THRESHOLDS = 60


@dataclass(frozen=True)
class Tail:
    """A power law above a threshold."""

    alpha: float
    """Exponent of the density."""
    least: float
    n: int
    distance: float
    """Kolmogorov-Smirnov, of the values above the threshold."""


def power_law(values: Floats) -> Tail | None:
    """Return the power law whose tail is nearest; none where too few values are above 0."""
    ordered = np.sort(values[values > 0])
    if len(ordered) < MIN_TAIL:
        return None
    candidates = np.unique(ordered[: len(ordered) - MIN_TAIL + 1])
    if len(candidates) > _THRESHOLDS:
        at = np.linspace(0, len(candidates) - 1, _THRESHOLDS).astype(int)
        candidates = candidates[at]
    best: Tail | None = None
    for least in candidates:
        tail = ordered[np.searchsorted(ordered, least) :]
        floor = least - 0.5
        total = np.log(tail / floor).sum()
        if floor <= 0 or total <= 0:
            continue
        alpha = 1 + len(tail) / total
        # Counts stand for the intervals around them.
        beyond = 1 - ((tail + 0.5) / floor) ** (1 - alpha)
        seen = np.searchsorted(tail, tail, side="right") / len(tail)
        distance = float(np.abs(seen - beyond).max())
        if best is None or distance < best.distance:
            best = Tail(float(alpha), float(least), len(tail), distance)
    return best


def fit_p(values: Floats, tail: Tail, draws: int, rng: np.random.Generator) -> float:
    """Return the share of data sets drawn from the fitted law that fit it worse.

    Values below the threshold are resampled, those above drawn from the law and rounded.
    """
    below = values[(values > 0) & (values < tail.least)]
    n = len(below) + tail.n
    worse = 0
    for _ in range(draws):
        above = rng.binomial(n, tail.n / n)
        drawn = (tail.least - 0.5) * (1 - rng.random(above)) ** (-1 / (tail.alpha - 1))
        rest = rng.choice(below, n - above) if len(below) else np.empty(0)
        found = power_law(np.concatenate([rest, np.rint(drawn)]))
        worse += found is not None and found.distance >= tail.distance
    return (1 + worse) / (1 + draws)


def against(values: Floats, tail: Tail, shape: str) -> tuple[float, float]:
    """Return Vuong's z and its two-sided p: above 0 where the power law fits better.

    Parameters
    ----------
    shape
        ``exponential`` or ``lognormal``, fitted to the values from the threshold on.
    """
    floor = tail.least - 0.5
    above = values[values >= tail.least]
    power = math.log((tail.alpha - 1) / floor) - tail.alpha * np.log(above / floor)
    if shape == "exponential":
        rate = 1 / (above - floor).mean()
        other = math.log(rate) - rate * (above - floor)
    else:
        other = _lognormal(above, floor)
    ratio = power - other
    spread = float(ratio.std())
    if spread == 0:
        return 0.0, 1.0
    z = float(ratio.sum() / (math.sqrt(len(ratio)) * spread))
    return z, float(special.erfc(abs(z) / math.sqrt(2)))


def _lognormal(above: Floats, floor: float) -> Floats:
    """Return log densities of the lognormal, cut off below `floor`, that fits best."""
    logs = np.log(above)

    def log_density(params: Floats) -> Floats:
        mu, sigma = params[0], math.exp(params[1])
        z = (logs - mu) / sigma
        beyond = special.log_ndtr((mu - math.log(floor)) / sigma)
        found: Floats = -0.5 * z**2 - logs - math.log(sigma * math.sqrt(2 * math.pi)) - beyond
        return found

    start = np.array([logs.mean(), math.log(logs.std() + 1e-3)])
    bounds = [(logs.min() - 20, logs.max() + 5), (-5.0, 4.0)]

    def cost(params: Floats) -> float:
        return -float(log_density(params).sum())

    best = optimize.minimize(cost, start, method="L-BFGS-B", bounds=bounds)
    return log_density(best.x)
