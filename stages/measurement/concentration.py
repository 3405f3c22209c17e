"""Measure how concentrated a whole is over its parts: the one idea of the study.

Two numbers say it, the Gini coefficient and the effective number of components (the Hill number of
order 1). Cells and heads both use this module, so that both are measured by the same code. Every
function takes non-negative weights along one axis (counts of cells by type, absolute effects of
heads) and works on any number of vectors at once.

Conventions shared by all functions:

* Components lie along `axis`; the result has the shape of the input without that axis. One vector
  gives a float.
* Logarithms are natural; entropies are in nats.
* A vector without components, or whose weights are all zero, has no concentration: the result is
  nan.
* nan, infinite or negative weights are a ``ValueError``, never a number.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Components = Literal["all", "present"]
Estimator = Literal["plugin", "miller_madow", "chao_shen"]
Floats = NDArray[np.float64]

QUADRANTS = ("crystallize", "disperse", "mixed")
"""Directions in the plane of both numbers; see :func:`quadrant`."""


def gini(x: ArrayLike, *, axis: int = -1, components: Components = "all") -> float | Floats:
    r"""Return the Gini coefficient of the weights.

    With the weights sorted upwards, :math:`x_1 \le \dots \le x_n`, and their sum :math:`s`,

    .. math:: G = \frac{n + 1 - 2 \sum_k c_k / s}{n}
              = \frac{\sum_{k<n} k (n - k) (x_{k+1} - x_k)}{n s},

    where :math:`c_k` are the cumulative sums [1]_. The second form is used: none of its terms is
    negative, so that nothing cancels and equal weights give exactly 0.

    Parameters
    ----------
    x
        Weights, at least 0.
    axis
        The axis along which the components lie.
    components
        ``"all"``: a weight of zero is a component. ``"present"``: only positive weights are, so
        that padding with zeros changes nothing. Padding does raise the Gini over all components.

    Returns
    -------
    float or array
        In [0, 1 - 1/n]: 0 when all are equal, 1 - 1/n when one component holds everything.

    References
    ----------
    .. [1] Gini, C. (1912). Variabilità e mutabilità. Bologna: Cuppini.

    Examples
    --------
    >>> gini([50, 30, 15, 5])
    0.375
    >>> gini([50, 30, 15, 5, 0, 0, 0, 0, 0, 0])
    0.75
    >>> gini([50, 30, 15, 5, 0, 0], components="present")
    0.375
    """
    weights = _weights(x, axis)
    ordered = np.sort(weights, axis=-1)
    n = _n_components(weights, components)[..., np.newaxis]
    # Zeros sort first. Where they are no components, the gaps up to the first present weight count
    # nothing.
    below = np.arange(1, weights.shape[-1], dtype=np.float64) - (weights.shape[-1] - n)
    gaps = np.diff(ordered, axis=-1) * np.maximum(below, 0) * (n - below)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _result(gaps.sum(axis=-1) / (n[..., 0] * ordered.sum(axis=-1)))


def gini_corrected(
    x: ArrayLike, *, axis: int = -1, components: Components = "all"
) -> float | Floats:
    """Return the Gini coefficient times n / (n - 1), whose maximum is 1 for every n [1]_.

    Vectors of different lengths share this scale: 384 heads and 15 cell types can be set side by
    side. A single component gives nan, since it can neither share nor keep.

    References
    ----------
    .. [1] Deltas, G. (2003). The small-sample bias of the Gini coefficient. Review of Economics and
       Statistics 85:226-234.

    Examples
    --------
    >>> gini_corrected([50, 30, 15, 5])
    0.5
    >>> gini_corrected([0, 0, 0, 7])
    1.0
    """
    weights = _weights(x, axis)
    n = _n_components(weights, components)
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = np.where(n > 1, n / (n - 1), np.nan)
    return _result(np.asarray(gini(weights, components=components)) * factor)


def hill_number(x: ArrayLike, order: ArrayLike, *, axis: int = -1) -> float | Floats:
    r"""Return the Hill number [1]_ of one or several orders.

    It says how many equal components would be as diverse:

    .. math:: N_q = \Big(\sum_i p_i^q\Big)^{1 / (1 - q)}, \quad
              N_1 = \exp\Big(-\sum_i p_i \ln p_i\Big), \quad
              N_\infty = 1 / \max_i p_i

    Order 0 counts the components that are present, order 1 is the exponential of Shannon's entropy
    and order 2 the inverse of Simpson's concentration. Components of zero weight change nothing at
    any order.

    Parameters
    ----------
    x
        Weights, at least 0.
    order
        One order, or a vector of them, each at least 0; may be ``inf``.
    axis
        The axis along which the components lie.

    Returns
    -------
    float or array
        In [1, n], not increasing in the order. With a vector of orders these lie along a new last
        axis.

    References
    ----------
    .. [1] Hill, M. O. (1973). Diversity and evenness: a unifying notation and its consequences.
       Ecology 54:427-432.

    Examples
    --------
    >>> hill_number([1, 2, 3, 4, 5], [0, 1, 2, float("inf")]).round(6).tolist()
    [5.0, 4.435988, 4.090909, 3.0]
    """
    orders = np.asarray(order, dtype=np.float64)
    if orders.ndim > 1 or np.isnan(orders).any() or (orders < 0).any():
        msg = (
            f"order {order!r} is not allowed: "
            "give one number or a vector of numbers, each at least 0"
        )
        raise ValueError(msg)
    weights = _weights(x, axis)
    # The limit is evaluated by its own formula; near it the general one loses all digits.
    values = [_hill(weights, float(q)) for q in np.atleast_1d(orders)]
    return _result(values[0]) if orders.ndim == 0 else np.stack(values, axis=-1)


def shannon_entropy(
    x: ArrayLike, *, axis: int = -1, estimator: Estimator = "plugin"
) -> float | Floats:
    r"""Return Shannon's entropy in nats, as observed or corrected for what a finite sample misses.

    Parameters
    ----------
    x
        Weights, at least 0. The corrected estimators need counts of individuals: whole numbers.
    axis
        The axis along which the components lie.
    estimator
        ``"plugin"``: :math:`-\sum p \ln p` of the observed shares; too low by about (S - 1) / 2N
        for N individuals of S types. ``"miller_madow"``: plus :math:`(S_\mathrm{observed} - 1) /
        2N` [1]_. ``"chao_shen"``: shares shrunk by the estimated coverage :math:`C = 1 - f_1 / N`
        (:math:`f_1` types seen once) and each type weighted by the inverse of its probability of
        being seen [2]_; where all individuals are singletons, :math:`f_1` is taken as N - 1, as its
        authors' software does, since a coverage of zero says nothing.

    References
    ----------
    .. [1] Miller, G. A. (1955). Note on the bias of information estimates. In Information Theory in
       Psychology II-B.
    .. [2] Chao, A. and Shen, T.-J. (2003). Nonparametric estimation of Shannon's index of diversity
       when there are unseen species in sample. Environmental and Ecological Statistics 10:429-443.

    Examples
    --------
    >>> round(shannon_entropy([10, 10]), 6)
    0.693147
    >>> round(shannon_entropy([10, 10], estimator="miller_madow"), 6)
    0.718147
    """
    weights = _weights(x, axis)
    match estimator:
        case "plugin":
            return _result(_entropy(weights))
        case "miller_madow":
            _require_counts(weights, estimator)
            total = weights.sum(axis=-1)
            with np.errstate(invalid="ignore", divide="ignore"):
                return _result(_entropy(weights) + ((weights > 0).sum(axis=-1) - 1) / (2 * total))
        case "chao_shen":
            _require_counts(weights, estimator)
            return _result(_chao_shen(weights))
    msg = f"estimator {estimator!r} is unknown: allowed are plugin, miller_madow, chao_shen"
    raise ValueError(msg)


def effective_number(
    x: ArrayLike, *, axis: int = -1, estimator: Estimator = "plugin"
) -> float | Floats:
    r"""Return the effective number of components, :math:`\exp(H)`: the Hill number of order 1 [1]_.

    Parameters
    ----------
    x
        Weights, at least 0. The corrected estimators need counts of individuals.
    axis
        The axis along which the components lie.
    estimator
        How the entropy is estimated; see :func:`shannon_entropy`.

    Returns
    -------
    float or array
        In [1, n] for the plug-in estimator: n when all are equal, 1 when one component holds
        everything. The corrected estimators may exceed the number of types that were seen: they
        count the unseen.

    References
    ----------
    .. [1] Jost, L. (2006). Entropy and diversity. Oikos 113:363-375.

    Examples
    --------
    >>> effective_number([5, 5, 5, 5])
    4.0
    >>> effective_number([7, 0, 0])
    1.0
    """
    return _result(np.exp(np.asarray(shannon_entropy(x, axis=axis, estimator=estimator))))


def evenness(x: ArrayLike, *, axis: int = -1) -> float | Floats:
    r"""Return Pielou's evenness :math:`J = H / \ln S` over the S components that are present [1]_.

    Returns
    -------
    float or array
        In [0, 1]: 1 when all present components are equal; nan for a single component.

    References
    ----------
    .. [1] Pielou, E. C. (1966). The measurement of diversity in different types of biological
       collections. Journal of Theoretical Biology 13:131-144.

    Examples
    --------
    >>> evenness([3, 3, 0])
    1.0
    """
    weights = _weights(x, axis)
    present = (weights > 0).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _result(np.where(present > 1, _entropy(weights) / np.log(present), np.nan))


def richness(x: ArrayLike, *, axis: int = -1) -> float | Floats:
    """Return how many components have a positive weight (the Hill number of order 0).

    Examples
    --------
    >>> richness([4, 0, 1])
    2.0
    """
    return _result(_hill(_weights(x, axis), 0.0))


def lorenz_curve(x: ArrayLike) -> tuple[Floats, Floats]:
    """Return the Lorenz curve of one vector.

    It is the share of the components against the share of the whole, both from 0 to 1. Twice the
    area between the curve and the diagonal is the Gini coefficient [1]_.

    References
    ----------
    .. [1] Lorenz, M. O. (1905). Methods of measuring the concentration of wealth. Publications of
       the American Statistical Association 9:209-219.

    Examples
    --------
    >>> share, held = lorenz_curve([1, 3])
    >>> held.tolist()
    [0.0, 0.25, 1.0]
    """
    weights = _weights(x, -1)
    if weights.ndim != 1:
        msg = f"a Lorenz curve needs one vector, got an array of shape {weights.shape}"
        raise ValueError(msg)
    cumulated = np.concatenate([[0.0], np.cumsum(np.sort(weights))])
    with np.errstate(invalid="ignore"):
        return np.linspace(0.0, 1.0, weights.size + 1), cumulated / cumulated[-1]


def quadrant(gini_change: ArrayLike, effective_number_change: ArrayLike) -> NDArray[np.str_]:
    """Name the direction of changes in the plane of both numbers.

    Crystallize: Gini up, effective number down. Disperse: Gini down, effective number up. Mixed:
    anything else, as where one of them is zero or nan.

    Parameters
    ----------
    gini_change, effective_number_change
        Of the same shape, which is that of the result.

    Examples
    --------
    >>> quadrant([0.1, -0.1, 0.1], [-1.0, 2.0, 0.0]).tolist()
    ['crystallize', 'disperse', 'mixed']
    """
    gini, number = np.asarray(gini_change), np.asarray(effective_number_change)
    return np.select(
        [(gini > 0) & (number < 0), (gini < 0) & (number > 0)], ["crystallize", "disperse"], "mixed"
    )


def _weights(x: ArrayLike, axis: int) -> Floats:
    """Return the weights as floats, components along the last axis, or say what is wrong."""
    weights = np.asarray(x, dtype=np.float64)
    if weights.ndim == 0:
        msg = f"weights must be a vector or an array, got the single number {weights}"
        raise ValueError(msg)
    if not np.isfinite(weights).all():
        bad = weights[~np.isfinite(weights)].flat[0]
        msg = (
            f"weights hold {bad}: only finite numbers of at least 0 are allowed; "
            "drop or repair the row"
        )
        raise ValueError(msg)
    if (weights < 0).any():
        msg = (
            f"weights hold {weights.min()}: only numbers of at least 0 are allowed; "
            "take absolute values or repair"
        )
        raise ValueError(msg)
    return np.moveaxis(weights, axis, -1)


def _n_components(weights: Floats, components: Components) -> Floats:
    match components:
        case "all":
            return np.full(weights.shape[:-1], float(weights.shape[-1]))
        case "present":
            present: Floats = (weights > 0).sum(axis=-1).astype(np.float64)
            return present
    msg = f"components {components!r} is unknown: allowed are all, present"
    raise ValueError(msg)


def _shares(weights: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: Floats = weights / weights.sum(axis=-1, keepdims=True)
    return shares


def _entropy(weights: Floats) -> Floats:
    shares = _shares(weights)
    # 0 ln 0 = 0. Adding 0.0 turns the -0.0 of a single component into 0.0.
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    entropy = -(shares * logs).sum(axis=-1) + 0.0
    return np.where(weights.sum(axis=-1) > 0, entropy, np.nan)


def _hill(weights: Floats, order: float) -> Floats:
    shares = _shares(weights)
    some = weights.sum(axis=-1) > 0
    if order == 1.0:
        return np.exp(_entropy(weights))
    if np.isinf(order):
        largest = shares.max(axis=-1, initial=0.0)
        return np.where(some, 1 / np.where(some, largest, 1.0), np.nan)
    powers = np.power(shares, order, out=np.zeros_like(shares), where=shares > 0)
    total = np.where(some, powers.sum(axis=-1), 1.0)
    return np.where(some, total ** (1 / (1 - order)), np.nan)


def _chao_shen(counts: Floats) -> Floats:
    n = counts.sum(axis=-1, keepdims=True)
    singletons = (counts == 1).sum(axis=-1, keepdims=True).astype(np.float64)
    singletons = np.where(singletons == n, n - 1, singletons)
    with np.errstate(invalid="ignore", divide="ignore"):
        covered = (1 - singletons / n) * counts / n
        seen = 1 - (1 - covered) ** n
        logs = np.log(covered, out=np.zeros_like(covered), where=covered > 0)
        terms = np.divide(covered * logs, seen, out=np.zeros_like(covered), where=covered > 0)
    entropy = -terms.sum(axis=-1) + 0.0
    return np.where(n[..., 0] > 0, entropy, np.nan)


def _require_counts(weights: Floats, estimator: str) -> None:
    if (weights != np.floor(weights)).any():
        bad = weights[weights != np.floor(weights)].flat[0]
        msg = (
            f"estimator {estimator} needs counts of individuals, got {bad}: "
            "give whole numbers, not shares"
        )
        raise ValueError(msg)


def _result(values: Floats) -> float | Floats:
    """Return a plain float for one vector, the array otherwise."""
    return float(values) if np.ndim(values) == 0 else values
