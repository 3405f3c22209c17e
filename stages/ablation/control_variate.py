r"""Estimate the mean effect of every head from exact effects on a few sequences.

Exact effects :math:`y_i` are known for a random subset of :math:`m` of the :math:`N` sequences,
cheap features
:math:`x_i` (``stages.ablation.attribution``) for all of them. A regression fitted on one half of
the subset predicts the other half and all sequences; with predictions :math:`f(x_i)` that never saw
their own half,

.. math:: \hat\theta = \frac1N \sum_{i=1}^{N} f(x_i) + \frac1m \sum_{i \in S} (y_i - f(x_i)),

averaged over the two halves. The second term corrects whatever the regression gets wrong, so the
estimate is unbiased for any fit made on the other half; a good fit only makes it precise. Its
variance is that of the out-of-fold residuals, which holds the error of the fit too. Regression
estimators of this kind are standard in survey sampling [1]_; fitting on one half and correcting on
the other is cross-fitting [2]_.

References
----------
.. [1] Cochran, W. G. (1977). Sampling Techniques, chapter 7. Wiley.
.. [2] Chernozhukov, V. et al. (2018). Double/debiased machine learning for treatment and structural
   parameters. The Econometrics Journal 21:C1-C68.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.errors import AblationError

Floats = NDArray[np.float64]

# Fewer exact sequences cannot support a regression on four features in each half.
MIN_EXACT = 32
# Relative to the trace of the standardised features: keeps collinear ones apart, moves nothing
# else.
_RIDGE = 1e-3


@dataclass(frozen=True)
class Estimate:
    """Mean effects with their uncertainty; every array has one entry a head."""

    mean: Floats
    """Estimated mean effect over all sequences, nats per token."""
    se_subset: Floats
    """Standard error as an estimate of the exact mean over the same N sequences."""
    se: Floats
    """Standard error as an estimate of the mean over all text: also the N sequences are a
    sample."""
    r2: Floats
    """Out-of-fold share of the variance that the features explain; below 0 where they mislead."""
    fitted: NDArray[np.bool_]
    """Whether the regression was used; otherwise the plain mean of the subset."""


def estimate(
    exact: Floats,
    subset: NDArray[np.int64],
    columns: Floats,
    *,
    least_r2: float = 0.1,
    rng: np.random.Generator,
) -> Estimate:
    """Estimate the mean effect of every head.

    Parameters
    ----------
    exact : (m, n_heads)
        Exact effects of the sequences in `subset`.
    subset : (m,)
        Which of the N sequences these are: a simple random sample without replacement.
    columns : (N, n_heads, n_features)
        Features of every sequence; a head is regressed on its own.
    least_r2
        Heads whose out-of-fold R^2 is lower keep the plain mean.
    rng
        Splits the subset into two halves.

    Raises
    ------
    AblationError
        Too few exact sequences, or arrays that do not fit one another.
    """
    m, n = len(subset), len(columns)
    if m < MIN_EXACT:
        msg = (
            f"{m} exact sequences are too few for a control variate: at least {MIN_EXACT}. "
            "Raise sweep.exact_sequences, or take sweep.estimator exact."
        )
        raise AblationError(msg)
    if exact.shape != (m, columns.shape[1]) or m > n or len(np.unique(subset)) != m:
        msg = (
            f"exact effects of shape {exact.shape}, {m} chosen sequences and features of shape "
            f"{columns.shape} do not belong together"
        )
        raise AblationError(msg)
    design = _standardised(columns)
    order = rng.permutation(m)
    halves = (order[: m // 2], order[m // 2 :])

    residuals = np.empty_like(exact)
    parts, errors = [], []
    for here, there in (halves, halves[::-1]):
        weights = _fit(design[subset[there]], exact[there])  # (n_heads, 1 + n_features)
        predicted = np.einsum("nhk,hk->nh", design, weights)
        residuals[here] = exact[here] - predicted[subset[here]]
        parts.append(predicted.mean(axis=0) + residuals[here].mean(axis=0))
        errors.append(residuals[here].var(axis=0, ddof=1) / len(here) * (1 - len(here) / n))
    share = np.array([len(half) / m for half in halves])[:, np.newaxis]
    fitted_mean = (share * np.array(parts)).sum(axis=0)
    # Taken as independent: each half's residuals are, given the other's fit.
    fitted_error = (share**2 * np.array(errors)).sum(axis=0)

    total = exact.var(axis=0, ddof=1)
    plain_error = total / m * (1 - m / n)
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = np.where(total > 0, 1 - (residuals**2).mean(axis=0) / exact.var(axis=0), 0.0)
    fitted = r2 >= least_r2
    variance = np.where(fitted, fitted_error, plain_error)
    return Estimate(
        mean=np.where(fitted, fitted_mean, exact.mean(axis=0)),
        se_subset=np.sqrt(variance),
        se=np.sqrt(variance + total / n),
        r2=r2,
        fitted=fitted,
    )


def equivalent_sequences(found: Estimate, exact: Floats) -> Floats:
    """Return how many exact sequences alone would give each head the same standard error.

    For the mean over all text, without the finite-population term: total variance over that of the
    estimate. The gain of the control variate is this number over the exact sequences used.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted: Floats = exact.var(axis=0, ddof=1) / found.se_subset**2
    return wanted


def _standardised(columns: Floats) -> Floats:
    """Return the features with mean 0 and variance 1 over all sequences, and a leading 1."""
    centred = columns - columns.mean(axis=0)
    spread = centred.std(axis=0)
    scaled = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    return np.concatenate([np.ones((*scaled.shape[:2], 1)), scaled], axis=-1)


def _fit(design: Floats, exact: Floats) -> Floats:
    """Return ridge weights of each head: design (m, n_heads, k), exact (m, n_heads)."""
    m, _, k = design.shape
    gram = np.einsum("mhk,mhl->hkl", design, design)
    penalty = _RIDGE * m * np.eye(k)
    penalty[0, 0] = 0.0  # the mean is not shrunk
    right = np.einsum("mhk,mh->hk", design, exact)
    weights: Floats = np.linalg.solve(gram + penalty, right[..., np.newaxis])[..., 0]
    return weights
