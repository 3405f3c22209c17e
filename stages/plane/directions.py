"""Measure directions in a plane: angles, and how they vary over bootstrap draws.

Angles are in degrees, counter-clockwise from the first axis. They have no beginning and no end, so
draws are compared with the estimate by the turn between both, in (-180, 180] [1]_.

References
----------
.. [1] Mardia, K. V. and Jupp, P. E. (2000). Directional Statistics. Wiley, chapters 2 and 12.
"""

import numpy as np
from numpy.typing import NDArray

from stages.measurement import resampling

Floats = NDArray[np.float64]


def direction(vectors: Floats) -> Floats:
    """Return the angle of each vector of shape (..., 2), in (-180, 180]; nan for a zero vector.

    Examples
    --------
    >>> direction(np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, 0.0]])).tolist()
    [0.0, 90.0, 180.0, nan]
    """
    angle = np.degrees(np.arctan2(vectors[..., 1], vectors[..., 0]))
    return np.where((vectors == 0).all(axis=-1), np.nan, wrap(angle))


def turn(start: Floats, end: Floats) -> Floats:
    """Return the turn from the direction of `start` to that of `end`, in (-180, 180].

    Both have the shape (..., 2). The turn is nan where either is a zero vector.

    Examples
    --------
    >>> float(turn(np.array([1.0, 0.0]), np.array([0.0, -2.0])))
    -90.0
    """
    return wrap(direction(end) - direction(start))


def wrap(angle: Floats) -> Floats:
    """Return the same angles in (-180, 180].

    Examples
    --------
    >>> wrap(np.array([190.0, -180.0, 360.0])).tolist()
    [-170.0, 180.0, 0.0]
    """
    wrapped: Floats = 180 - np.mod(180 - angle, 360)
    return wrapped


def interval(
    estimate: float, draws: Floats, *, confidence: float, mirrored: bool
) -> tuple[float, float]:
    """Return the interval of an angle from bootstrap draws of it.

    The percentiles of the turns from the estimate to the draws, added to the estimate: the ends may
    lie beyond 180 degrees, and never further than half a circle from the estimate.

    Parameters
    ----------
    draws : shape (n_draws,)
        Draws without a direction (nan) are left out; without any other, both ends are nan.
    mirrored
        Whether the interval is the hull of the percentile interval and its mirror image about the
        estimate (:mod:`stages.heads.trajectory` says why effects of heads need it).

    Examples
    --------
    >>> interval(179.0, np.array([178.0, 179.0, -180.0]), confidence=0.9, mirrored=False)
    (178.1, 179.9)
    """
    known = draws[np.isfinite(draws)]
    if not known.size or not np.isfinite(estimate):
        return np.nan, np.nan
    ends = resampling.percentile_interval(wrap(known - estimate), confidence=confidence)
    low, high = (float(np.round(end, 9)) for end in ends)
    if mirrored:
        low, high = min(low, -high), max(high, -low)
    return estimate + low, estimate + high


def unsigned(low: float, high: float) -> tuple[float, float]:
    """Return the interval of the size of a turn, in [0, 180], from the interval of the turn.

    Examples
    --------
    >>> unsigned(-20.0, 50.0), unsigned(-60.0, -40.0), unsigned(150.0, 200.0)
    ((0.0, 50.0), (40.0, 60.0), (150.0, 180.0))
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        return np.nan, np.nan
    ends = [abs(float(wrap(np.array(end)))) for end in (low, high)]
    holds_none = any(low <= full <= high for full in (-360, 0, 360))
    holds_half = any(low <= half <= high for half in (-180, 180))
    return 0.0 if holds_none else min(ends), 180.0 if holds_half else max(ends)
