r"""The intrinsic dimension of a cloud of points, by the distances of two neighbours (TwoNN).

Where the density hardly changes over two neighbours, the ratio :math:`\mu` of the second distance
to the first has the distribution :math:`F(\mu) = 1 - \mu^{-d}`, whatever the density is [1]_: the
dimension d is the slope through the origin of :math:`-\ln(1 - F)` on :math:`\ln \mu`.

References
----------
.. [1] Facco, E., d'Errico, M., Rodriguez, A. and Laio, A. (2017). Estimating the intrinsic
   dimension of datasets by a minimal neighborhood information. Scientific Reports 7:12140.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

Floats = NDArray[np.float64]

DISCARDED = 0.1
"""Share of the largest ratios that is left out, as in the source: those of the sparsest places."""
RESAMPLES = 200


class Dimension(NamedTuple):
    """An intrinsic dimension."""

    value: float
    error: float
    """Standard error: over resampled ratios."""


def two_nn(points: Floats, rng: np.random.Generator) -> Dimension:
    """Return the intrinsic dimension of points, (n, d).

    Points that repeat another exactly have no first distance; all copies but one are left out.
    nan where fewer than four differ.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> plane = rng.uniform(size=(4000, 2)) @ rng.normal(size=(2, 30))
    >>> bool(abs(two_nn(plane, rng).value - 2) < 0.1)
    True
    """
    distinct = np.unique(points, axis=0)
    if len(distinct) < 4:
        return Dimension(np.nan, np.nan)
    distances, _ = NearestNeighbors(n_neighbors=3).fit(distinct).kneighbors(distinct)
    # Points that differ by rounding alone have no first distance either.
    apart = distances[distances[:, 1] > 0]
    logs = np.log(apart[:, 2] / apart[:, 1])
    chosen = rng.integers(len(logs), size=(RESAMPLES, len(logs)))
    return Dimension(_slope(logs), float(np.std([_slope(logs[of]) for of in chosen], ddof=1)))


def _slope(logs: Floats) -> float:
    n = len(logs)
    kept = int(n * (1 - DISCARDED))
    x = np.sort(logs)[:kept]
    y = -np.log1p(-np.arange(1, kept + 1) / (n + 1))
    return float((x @ y) / (x @ x))
