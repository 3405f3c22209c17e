"""The registry of metrics: what each is called, computes, can be, and is measured in.

A room lists those that its effects are measured by in a module ``metrics`` of its own, as
``METRICS``, and may define others there: a metric of one room is nothing that another runs for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from stages.measurement import concentration
from stages.measurement.concentration import Components

Floats = NDArray[np.float64]
Size = Callable[[Floats], Floats]
"""What is measured of signed effects: a number of at least 0 for each."""
# Bootstrap draws measured at a time: 200 x 384 components stay in the cache.
_CHUNK = 200


@dataclass(frozen=True)
class Metric:
    """A number of a vector of weights."""

    name: str
    """The column or key that holds it."""
    of: Callable[[Floats, Components], Floats]
    """From weights of shape (..., n), at least 0, and what counts as a component."""
    least: Callable[[int], float]
    """The smallest value that n components can have."""
    most: Callable[[int], float]
    """The largest."""
    unit: str
    """``1`` for a pure number, ``components``, or ``effect`` for that of the weights."""
    words: str
    """As a figure names it."""


def _plain(function: Callable[..., float | Floats], **more: object) -> Callable[..., Floats]:
    return lambda weights, _: np.asarray(function(weights, **more))


def _share(weights: Floats, components: Components) -> Floats:
    n = weights.shape[-1] if components == "all" else (weights > 0).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share: Floats = np.asarray(concentration.effective_number(weights)) / n
    return share


def lognormal_share(gini: Floats) -> Floats:
    r"""Return the effective number over the number of components of a lognormal of this Gini.

    A lognormal distribution has :math:`G = 2 \Phi(\sigma / \sqrt 2) - 1` and Theil's index
    :math:`T = \sigma^2 / 2` [1]_, and the effective number of n components is
    :math:`n e^{-T}`: hence :math:`\exp(-z^2)` at the normal quantile z of (1 + G) / 2.

    References
    ----------
    .. [1] Cowell, F. A. (2011). Measuring Inequality. Oxford University Press, appendix A.

    Examples
    --------
    >>> lognormal_share(np.array([0.0, 0.5, 1.0])).round(6).tolist()
    [1.0, 0.634488, 0.0]
    """
    share: Floats = np.exp(-(special.ndtri((1 + gini) / 2) ** 2))
    return share


def _excess(weights: Floats, components: Components) -> Floats:
    gini = np.asarray(concentration.gini(weights, components=components))
    return _share(weights, components) - lognormal_share(gini)


def _hill(order: float) -> Callable[..., Floats]:
    return _plain(concentration.hill_number, order=order)


REGISTRY = {
    metric.name: metric
    for metric in (
        Metric(
            "gini",
            lambda x, components: np.asarray(concentration.gini(x, components=components)),
            lambda _: 0.0,
            lambda n: 1 - 1 / n,
            "1",
            "Gini coefficient",
        ),
        Metric(
            "gini_corrected",
            lambda x, components: np.asarray(
                concentration.gini_corrected(x, components=components)
            ),
            lambda _: 0.0,
            lambda _: 1.0,
            "1",
            "Gini coefficient, corrected",
        ),
        Metric(
            "effective_number",
            _plain(concentration.effective_number),
            lambda _: 1.0,
            float,
            "components",
            "Effective number",
        ),
        Metric(
            "effective_share",
            _share,
            lambda n: 1 / n,
            lambda _: 1.0,
            "1",
            "Effective number / number",
        ),
        Metric(
            "effective_excess",
            _excess,
            lambda n: 1 / n - 1,
            lambda _: 1.0,
            "1",
            "Effective number / number, beyond a lognormal of the same Gini",
        ),
        Metric(
            "effective_number_miller_madow",
            _plain(concentration.effective_number, estimator="miller_madow"),
            lambda _: 1.0,
            lambda _: np.inf,
            "components",
            "Effective number (Miller-Madow)",
        ),
        Metric(
            "effective_number_chao_shen",
            _plain(concentration.effective_number, estimator="chao_shen"),
            lambda _: 1.0,
            lambda _: np.inf,
            "components",
            "Effective number (Chao-Shen)",
        ),
        Metric(
            "richness",
            _plain(concentration.richness),
            lambda _: 1.0,
            float,
            "components",
            "Number of components",
        ),
        Metric(
            "evenness",
            _plain(concentration.evenness),
            lambda _: 0.0,
            lambda _: 1.0,
            "1",
            "Evenness",
        ),
        *(
            Metric(
                f"hill_{order:g}".replace(".", "_"),
                _hill(order),
                lambda _: 1.0,
                float,
                "components",
                f"Hill number of order {order:g}",
            )
            for order in (0.0, 0.5, 1.0, 2.0)
        ),
        Metric(
            "sum_abs",
            lambda x, _: x.sum(axis=-1),
            lambda _: 0.0,
            lambda _: np.inf,
            "effect",
            "Sum of absolute effects",
        ),
    )
}
"""By name."""

SUM = REGISTRY["sum_abs"]
OF_EFFECTS = tuple(
    REGISTRY[name]
    for name in (
        "gini",
        "gini_corrected",
        "effective_number",
        "effective_share",
        "effective_excess",
        "sum_abs",
    )
)
"""What the effects of components are measured by, unless a room says otherwise."""


def measure(
    weights: Floats, metrics: Sequence[Metric] = OF_EFFECTS, *, components: Components = "all"
) -> Floats:
    """Return the metrics of vectors of weights along the last axis, in the order of `metrics`.

    Parameters
    ----------
    weights : shape (..., n)
        At least 0: counts, or absolute effects.
    components
        Whether a weight of zero is a component.

    Returns
    -------
    array of shape (..., n_metrics)
        Concentrations are nan where every weight is zero.

    Examples
    --------
    >>> measure(np.array([50.0, 30.0, 15.0, 5.0])).round(3).tolist()
    [0.375, 0.5, 3.133, 0.783, -0.004, 100.0]
    """
    return np.stack([metric.of(weights, components) for metric in metrics], axis=-1)


def measure_weighted(
    weights: Floats,
    effects: Floats,
    metrics: Sequence[Metric] = OF_EFFECTS,
    *,
    size: Size = np.abs,
) -> Floats:
    """Return the metrics of weighted mean effects, one row a draw.

    Parameters
    ----------
    weights : shape (n_draws, n_replicates)
        Bootstrap weights; see :func:`stages.measurement.resampling.group_weights`.
    effects : shape (n_replicates, n_components)
        Signed.
    size
        What is measured of a mean effect: its absolute value by default.
    """
    starts = range(0, len(weights), _CHUNK)
    return np.concatenate(
        [measure(size(weights[i : i + _CHUNK] @ effects), metrics) for i in starts]
    )


def measure_resampled(
    chosen: NDArray[np.int64],
    effects: Floats,
    metrics: Sequence[Metric] = OF_EFFECTS,
    *,
    size: Size = np.abs,
) -> Floats:
    """Return the metrics of resampled components, one row a draw.

    Parameters
    ----------
    chosen : shape (n_draws, n_components)
        Which components each draw takes.
    effects : shape (n_components,)
        Signed.
    size
        As of :func:`measure_weighted`.
    """
    starts = range(0, len(chosen), _CHUNK)
    return np.concatenate([measure(size(effects[chosen[i : i + _CHUNK]]), metrics) for i in starts])


def bounds(metrics: Sequence[Metric], n: int) -> tuple[Floats, Floats]:
    """Return the smallest and the largest value of each metric of `n` components."""
    least = np.array([metric.least(n) for metric in metrics])
    return least, np.array([metric.most(n) for metric in metrics])
