r"""Fit the distribution of the effects in each state, and set the sizes of removal side by side.

Families are fitted to all effects by maximum likelihood and compared by Akaike's criterion [1]_,
:math:`2 k - 2 \ln L` with k parameters: normal (2), Laplace (2) and Student's t (3), and where all
effects are positive also gamma and lognormal (2 each), from which no other effect could come: only
fits to the same data are compared. A gamma distribution is also fitted to the harmful tail, the
effects above zero, and to the cut tail, those above a share of the loss, as the companion study
does; its shape says how the tail begins: below 1 it is crowded at zero, at 1 it is exponential.
Intervals of the shape come from resampled components.

The fits describe measured effects, which hold noise: in a state where noise makes most of them, so
does the fit.

References
----------
.. [1] Akaike, H. (1974). A new look at the statistical model identification. IEEE Transactions on
   Automatic Control 19:716-723.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, special, stats

from stages.base import cli, tables
from stages.base.settings import load
from stages.heads.settings import Distribution
from stages.heads.tables.distribution import HEAD_DISTRIBUTION, HEAD_GRANULARITY
from stages.heads.tables.importance import HEAD_IMPORTANCE
from stages.measurement import resampling
from stages.measurement.streams import stream

Floats = NDArray[np.float64]

MIN_COMPONENTS = 5
"""Fewer effects than this are not fitted."""
# Degrees of freedom between which Student's t is sought: below, a spike at one value has no bound;
# above, the family is the normal one to 3 digits of its log-likelihood.
_FREEDOM = (0.3, 1e4)
_NEWTON_STEPS = 12


class Fit(NamedTuple):
    """One family at its most likely parameters."""

    family: str
    location: float
    scale: float
    shape: float
    log_likelihood: float
    n_parameters: int


def fit_normal(x: Floats) -> Fit:
    """Return the normal distribution with the mean and the (biased) variance of `x`."""
    location, scale = float(x.mean()), float(x.std())
    likelihood = float(stats.norm.logpdf(x, location, scale).sum())
    return Fit("normal", location, scale, math.nan, likelihood, 2)


def fit_laplace(x: Floats) -> Fit:
    """Return the Laplace distribution about the median with the mean absolute deviation."""
    location = float(np.median(x))
    scale = float(np.abs(x - location).mean())
    likelihood = float(stats.laplace.logpdf(x, location, scale).sum())
    return Fit("laplace", location, scale, math.nan, likelihood, 2)


def fit_student_t(x: Floats) -> Fit:
    """Return Student's t with free location, scale and degrees of freedom.

    The likelihood can have several maxima: the search starts from three degrees of freedom, at the
    median and a robust scale, in units of that scale (raw effects of 1e-4 nats would end it before
    it began).
    """
    middle = float(np.median(x))
    unit = float(np.median(np.abs(x - middle))) or float(np.abs(x - middle).mean())
    z = (x - middle) / unit

    def loss(parameters: Floats) -> float:
        return -_t_log_likelihood(z, *(float(part) for part in parameters))

    reach = float(np.abs(z).max())
    bounds = [(-reach, reach), (-10.0, math.log(reach) + 1), tuple(np.log(_FREEDOM))]
    starts = [np.array([0.0, 0.0, math.log(freedom)]) for freedom in (0.7, 3.0, 50.0)]
    # A simplex calls no linear algebra: on such small problems the threads of BLAS take ten times
    # the time of the work whenever the cores are busy.
    found = [
        optimize.minimize(
            loss,
            x0,
            method="Nelder-Mead",
            bounds=bounds,
            options={"xatol": 1e-7, "fatol": 1e-9, "maxiter": 2000},
        )
        for x0 in starts
    ]
    best = min(found, key=lambda result: float(result.fun))
    location, log_scale, log_freedom = (float(value) for value in best.x)
    return Fit(
        "student_t",
        middle + unit * location,
        unit * math.exp(log_scale),
        math.exp(log_freedom),
        -float(best.fun) - x.size * math.log(unit),
        3,
    )


def fit_gamma(x: Floats) -> Fit:
    """Return the gamma distribution that starts at zero; `x` is positive."""
    shape = float(gamma_shape(x))
    scale = float(x.mean()) / shape
    likelihood = float(stats.gamma.logpdf(x, shape, scale=scale).sum())
    return Fit("gamma", math.nan, scale, shape, likelihood, 2)


def fit_lognormal(x: Floats) -> Fit:
    """Return the lognormal distribution that starts at zero; `x` is positive.

    Its scale is the median, its shape the standard deviation of the logarithm.
    """
    log = np.log(x)
    shape, scale = float(log.std()), math.exp(log.mean())
    likelihood = float(stats.lognorm.logpdf(x, shape, scale=scale).sum())
    return Fit("lognormal", math.nan, scale, shape, likelihood, 2)


def _t_log_likelihood(z: Floats, location: float, log_scale: float, log_freedom: float) -> float:
    freedom, scale = math.exp(log_freedom), math.exp(log_scale)
    # betaln stays exact where the difference of two large gammaln would not.
    constant = -float(special.betaln(freedom / 2, 0.5)) - 0.5 * log_freedom - log_scale
    tail = np.log1p(((z - location) / scale) ** 2 / freedom)
    return z.size * constant - (freedom + 1) / 2 * float(tail.sum())


def gamma_shape(x: Floats, weights: Floats | None = None) -> Floats:
    r"""Return the most likely shape of a gamma distribution that starts at zero.

    It solves :math:`\ln k - \psi(k) = \ln \bar x - \overline{\ln x}` by Newton's method from
    Minka's start [1]_.

    Parameters
    ----------
    x : shape (n,)
        Positive numbers.
    weights : shape (..., n)
        How often each counts; once by default.

    Returns
    -------
    array of shape (...)
        nan where fewer than two different values count.

    References
    ----------
    .. [1] Minka, T. P. (2002). Estimating a gamma distribution. Microsoft Research.

    Examples
    --------
    >>> round(float(gamma_shape(np.array([1.0, 2.0, 4.0]))), 4)
    3.4012
    """
    counted = np.ones(x.shape) if weights is None else weights
    total = counted.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (counted * x).sum(axis=-1) / total
        gap = np.log(mean) - (counted * np.log(x)).sum(axis=-1) / total
        # Equal values have no gap but rounding, and an infinite shape.
        gap = np.where(gap > 1e-12, gap, np.nan)
        shape = (3 - gap + np.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap)
        for _ in range(_NEWTON_STEPS):
            slope = 1 / shape - special.polygamma(1, shape)
            # Newton in 1 / shape, where the equation is nearly straight.
            value = np.log(shape) - special.digamma(shape) - gap
            shape = 1 / (1 / shape + value / (shape**2 * slope))
    return np.asarray(shape, dtype=np.float64)


def _gamma_row(
    family: str, effects: Floats, least: float, params: Distribution, rng: np.random.Generator
) -> dict[str, object] | None:
    tail = effects[effects > least]
    if tail.size < MIN_COMPONENTS or np.ptp(tail) == 0:
        return None
    shape = float(gamma_shape(tail))
    scale = float(tail.mean()) / shape
    # Resampling all components also resamples how many of them lie in the tail.
    weights = resampling.group_weights(effects.size, params.draws, rng)[:, effects > least]
    # A draw without two different effects in the tail has no shape.
    drawn = gamma_shape(tail, weights)
    low, high = resampling.percentile_interval(
        drawn[~np.isnan(drawn)], confidence=params.confidence
    )
    likelihood = float(stats.gamma.logpdf(tail, shape, scale=scale).sum())
    return {
        "family": family,
        "n": tail.size,
        "location_nats": math.nan,
        "scale_nats": scale,
        "shape": shape,
        "shape_low": low,
        "shape_high": high,
        "log_likelihood": likelihood,
        "aic": math.nan,
        "delta_aic": math.nan,
    }


def fits(effects: Floats) -> list[Fit]:
    """Return the families fitted to all effects; none for too few or equal effects."""
    if effects.size < MIN_COMPONENTS or np.unique(effects).size < 3:
        return []
    positive = [fit_gamma, fit_lognormal] if effects.min() > 0 else []
    return [fit(effects) for fit in (fit_normal, fit_laplace, fit_student_t, *positive)]


def _family_rows(effects: Floats) -> list[dict[str, object]]:
    found = fits(effects)
    criteria = [2 * fit.n_parameters - 2 * fit.log_likelihood for fit in found]
    return [
        {
            "family": fit.family,
            "n": effects.size,
            "location_nats": fit.location,
            "scale_nats": fit.scale,
            "shape": fit.shape,
            "shape_low": math.nan,
            "shape_high": math.nan,
            "log_likelihood": fit.log_likelihood,
            "aic": aic,
            "delta_aic": aic - min(criteria),
        }
        for fit, aic in zip(found, criteria, strict=True)
    ]


_GROUP = ["position", "state", "unit", "perturbation"]


def distribution(importance: pd.DataFrame, params: Distribution) -> pd.DataFrame:
    """Return the fits of every state, unit and perturbation.

    Parameters
    ----------
    importance
        ``HEAD_IMPORTANCE``.

    Returns
    -------
    DataFrame
        ``HEAD_DISTRIBUTION``; groups of fewer than five effects are left out.
    """
    rows = []
    for key, group in importance.groupby(_GROUP, sort=True):
        effects = group["delta_loss_nats"].to_numpy(float)
        # A stream of its own: the interval of one state does not depend on which others there are.
        _, state, unit, perturbation = key
        rng = stream(params.seed, state, unit, perturbation)
        cut = params.tail_min_relative * float(group["loss_base"].iloc[0])
        tails = [
            _gamma_row("gamma_tail", effects, 0.0, params, rng),
            _gamma_row("gamma_tail_cut", effects, cut, params, rng),
        ]
        found = [row for row in (*_family_rows(effects), *tails) if row is not None]
        rows += [dict(zip(_GROUP, key, strict=True)) | row for row in found]
    return pd.DataFrame(rows, columns=list(HEAD_DISTRIBUTION.columns))


def granularity(importance: pd.DataFrame) -> pd.DataFrame:
    """Return the mean absolute effect of each size of removal, and how many of them harm.

    Parameters
    ----------
    importance
        ``HEAD_IMPORTANCE``.

    Returns
    -------
    DataFrame
        ``HEAD_GRANULARITY``: a row for each unit that was measured.
    """
    rows = []
    for key, group in importance.groupby(_GROUP, sort=True):
        effects = group["delta_loss_nats"]
        rows.append(
            dict(zip(_GROUP, key, strict=True))
            | {
                "n": len(group),
                "mean_delta_nats": effects.mean(),
                "mean_abs_delta_nats": effects.abs().mean(),
                "median_abs_delta_nats": effects.abs().median(),
                "share_deleterious": (effects > 0).mean(),
                "loss_base": group["loss_base"].iloc[0],
            }
        )
    return pd.DataFrame(rows, columns=list(HEAD_GRANULARITY.columns))


def _run(args: argparse.Namespace) -> None:
    importance = tables.read(args.importance, HEAD_IMPORTANCE)
    fitted = distribution(importance, load(args.params).distribution)
    tables.write(fitted, HEAD_DISTRIBUTION, args.out)
    tables.write(granularity(importance), HEAD_GRANULARITY, args.granularity)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--importance", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--granularity", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
