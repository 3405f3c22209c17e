r"""Say what the metrics of heads would be if no head had an effect.

A measured effect is a mean over a finite number of sequences. Were every true effect zero, the
measured ones would still differ: as draws from a normal distribution whose covariance is that of
the heads' per-sequence effects over n. Independent heads of equal standard error then have the
Gini coefficient of the half-normal distribution, :math:`\sqrt 2 - 1 = 0.4142`, and an effective
number near 0.79 n. A Gini near 0.4 to 0.5 therefore says nothing by itself; the sum of the absolute
effects, beside the sum that noise alone gives, does.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli, tables
from stages.base.settings import load
from stages.heads import effects
from stages.heads.measures import measure, measure_weighted
from stages.heads.settings import NoiseFloor
from stages.heads.tables.effects import PERTURBATIONS
from stages.heads.tables.trajectory import HEAD_METRICS, HEAD_NOISE_FLOOR
from stages.measurement import resampling

Floats = NDArray[np.float64]


def floor_draws(per_sequence: Floats, *, draws: int, rng: np.random.Generator) -> Floats:
    r"""Return draws of the metrics of heads without effect, of shape (draws, n_metrics).

    Each head's effects are centred at zero and the sequences resampled, all heads together, so that
    heads keep their correlation and their skewness. A resampled mean of n values has (n - 1) / n of
    the variance of the mean, which the factor :math:`\sqrt{n / (n - 1)}` makes good.

    Parameters
    ----------
    per_sequence : shape (n_sequences, n_heads)
    """
    n = len(per_sequence)
    centred = (per_sequence - per_sequence.mean(axis=0)) * math.sqrt(n / (n - 1))
    return measure_weighted(resampling.group_weights(n, draws, rng), centred)


def independent_draws(standard_error: Floats, *, draws: int, rng: np.random.Generator) -> Floats:
    """Return draws of the metrics of independent normal effects with these standard errors.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> floor = independent_draws(np.ones(400), draws=400, rng=rng)
    >>> bool(abs(floor[:, 0].mean() - (2**0.5 - 1)) < 0.003)
    True
    """
    normal = rng.normal(size=(draws, standard_error.size))
    return measure(normal * standard_error)


def noise_floor(parts: Sequence[effects.Effects], params: NoiseFloor) -> pd.DataFrame:
    """Return the floor of every metric at every step.

    `p` is the two-sided share of the floor's draws that lie as far out as the observed value,
    counting the observed one [1]_.

    Returns
    -------
    DataFrame
        ``HEAD_NOISE_FLOOR``.

    References
    ----------
    .. [1] Phipson, B. and Smyth, G. K. (2010). Permutation p-values should never be zero.
       Statistical Applications in Genetics and Molecular Biology 9:39.
    """
    rows = []
    for perturbation, steps in effects.heads(parts).items():
        for part in steps:
            per_sequence = part.per_sequence
            # The numbers of a step do not depend on which other steps there are.
            key = [params.seed, PERTURBATIONS.index(perturbation), part.step]
            rng = np.random.default_rng(key)
            floor = floor_draws(per_sequence, draws=params.draws, rng=rng)
            error = per_sequence.std(axis=0, ddof=1) / math.sqrt(part.n_sequences)
            alone = independent_draws(error, draws=params.draws, rng=rng)
            observed = measure(per_sequence.mean(axis=0))
            low, high = resampling.percentile_interval(floor, confidence=params.confidence)
            above = (1 + (floor >= observed).sum(axis=0)) / (params.draws + 1)
            below = (1 + (floor <= observed).sum(axis=0)) / (params.draws + 1)
            # A model without any effect has no concentration, and nothing to test.
            p = np.where(np.isnan(observed), np.nan, np.minimum(1, 2 * np.minimum(above, below)))
            middle, alone_middle = np.median(floor, axis=0), np.median(alone, axis=0)
            for i, metric in enumerate(HEAD_METRICS):
                rows.append(
                    {
                        "step": part.step,
                        "perturbation": perturbation,
                        "metric": metric,
                        "observed": observed[i],
                        "floor": middle[i],
                        "floor_low": low[i],
                        "floor_high": high[i],
                        "floor_independent": alone_middle[i],
                        "p": p[i],
                        "p_smallest": min(1.0, 2 / (params.draws + 1)),
                    }
                )
    return pd.DataFrame(rows)


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    parts = effects.read(args.effects, settings.model.checkpoints)
    tables.write(noise_floor(parts, settings.noise_floor), HEAD_NOISE_FLOOR, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--effects", type=Path, required=True, help="folder of step<N>.parquet")
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
