r"""Share each tissue's change out over its cell types, so that the shares sum to the whole.

Original step 06. A metric :math:`M` of the composition changes from a young animal's :math:`p(0)`
to an old one's :math:`p(1)`. Along the straight line between them, which never leaves the simplex,
type :math:`i` is credited with

.. math:: c_i = (p_i(1) - p_i(0)) \int_0^1 \frac{\partial M}{\partial x_i}(p(t))\, dt,

where the derivative is that of :math:`M` as a function of counts, so that growth of one type is
shrinkage of all the others. This is the Aumann-Shapley value of the types [1]_: an
attribution that sums to the whole change, does not depend on the order of types and gives nothing
to a type that does not change. For the Gini coefficient the integral has a closed form (ranks
change only where two shares cross); for the effective number it is done by double-exponential
quadrature to about 1e-12.

Contributions are averaged over all pairs of a young and an old animal, so they sum to the
difference of the group *means* of the metric. (Medians, which the headline uses, cannot be shared
out.) Under the category set ``present`` the Gini coefficient also moves when a type appears or
vanishes; that part has a row of its own, ``(number of types)``.

Beside them stands the change of each type's centred log-ratio [2]_, which says how a type moved
relative to the others whatever its abundance.

References
----------
.. [1] Aumann, R. J. and Shapley, L. S. (1974). Values of Non-Atomic Games. Princeton University
   Press.
.. [2] Aitchison, J. (1982). The statistical analysis of compositional data. Journal of the Royal
   Statistical Society B 44:139-177.
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
from stages.cells import counts
from stages.cells.settings import Drivers
from stages.cells.tables.drivers import DRIVERS, NUMBER_OF_TYPES
from stages.cells.tables.metrics import METRICS
from stages.cells.tables.proportions import PROPORTIONS
from stages.measurement import concentration, resampling
from stages.measurement.streams import stream

Floats = NDArray[np.float64]


def gini_contributions(young: Floats, old: Floats) -> Floats:
    r"""Return each type's part in the change of the Gini coefficient over a fixed set of types.

    With :math:`G = \frac{1}{2 n} \sum_{ij} |p_i - p_j|` for shares that sum to 1, the derivative is
    :math:`(2 r_i - n - 1) / n - G`, :math:`r_i` the (mid)rank of type i.

    Parameters
    ----------
    young, old : shape (..., n_types)
        Shares that sum to 1; leading axes broadcast.

    Returns
    -------
    array of shape (..., n_types)
        Sums along the last axis to gini(old) - gini(young).

    Examples
    --------
    The Gini rises from 0 to 0.3 because one type grew and, more so, because the other became rare:

    >>> gini_contributions(np.array([0.5, 0.5]), np.array([0.8, 0.2])).round(3).tolist()
    [0.105, 0.195]
    """
    n = young.shape[-1]
    start = young[..., :, np.newaxis] - young[..., np.newaxis, :]
    end = old[..., :, np.newaxis] - old[..., np.newaxis, :]
    crosses = start * end < 0
    span = np.abs(start) + np.abs(end)
    positive = np.maximum(start, 0) + np.maximum(end, 0)
    # Share of the way on which type i stands above type j; ties all the way count one half.
    above = np.divide(positive, span, out=np.full_like(span, 0.5), where=span > 0)
    mean_rank = 0.5 + above.sum(axis=-1)
    # Mean over the way of |p_i - p_j|: a straight line, folded where it crosses zero.
    folded = np.divide(start**2 + end**2, 2 * span, out=np.zeros_like(span), where=span > 0)
    distance = np.where(crosses, folded, span / 2)
    mean_gini = distance.sum(axis=(-2, -1)) / (2 * n)
    contributions: Floats = (old - young) * (
        (2 * mean_rank - n - 1) / n - mean_gini[..., np.newaxis]
    )
    return contributions


def effective_number_contributions(young: Floats, old: Floats) -> Floats:
    r"""Return each type's part in the change of the effective number.

    The derivative is :math:`N (-\ln p_i - H)`: growth of a type raises the effective number if the
    type is rarer than the geometric typical one, and lowers it if the type is already common.

    Parameters and shapes as in :func:`gini_contributions`; the result sums to the change of exp(H).
    """
    young, old = np.broadcast_arrays(young, old)
    total = np.zeros(young.shape)
    for left, right, weight in zip(*_double_exponential(), strict=True):
        # `left` = t, `right` = 1 - t, each to full precision near its own end.
        shares = right * young + left * old
        logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        entropy = -(shares * logs).sum(axis=-1, keepdims=True)
        total += weight * np.exp(entropy) * (-logs - entropy)
    contributions: Floats = (old - young) * total
    return contributions


def _double_exponential() -> tuple[Floats, Floats, Floats]:
    """Return t, 1 - t and the weights of the tanh-sinh rule on [0, 1].

    The rule tolerates the logarithm at both ends.
    """
    step = 0.0625
    x = np.arange(-56, 57) * step
    argument = np.pi / 2 * np.sinh(x)
    t, complement = 1 / (1 + np.exp(-2 * argument)), 1 / (1 + np.exp(2 * argument))
    weights = step * np.pi * np.cosh(x) * t * complement
    return t, complement, weights


def drivers(metrics: pd.DataFrame, proportions: pd.DataFrame, settings: Drivers) -> pd.DataFrame:
    """Return the contributions of the types of every tissue that was compared (``DRIVERS``).

    Parameters
    ----------
    metrics
        ``METRICS``; its Gini and effective number are what is shared out.
    proportions
        ``PROPORTIONS``.
    settings
        Bootstrap draws over animals, their confidence, and the pseudo-count of the log-ratio.
    """
    measured = metrics[metrics["cells"] == "all"].set_index(
        ["cohort", "platform", "tissue", "animal"]
    )
    parts = []
    tissues = proportions.groupby(counts.TISSUE, sort=True)
    for key, tissue in tissues:
        table = counts.matrix(tissue)
        groups = table.samples["age_group"].to_numpy()
        young, old = groups == "young", groups == "old"
        if min(young.sum(), old.sum()) < counts.MIN_ANIMALS:
            continue
        gini = measured.loc[key].loc[table.samples["animal"], "gini"].to_numpy(float)
        shared = _share_out(
            table.counts, young, old, gini, settings, rng=stream(settings.seed, *key)
        )
        names = dict(zip(counts.TISSUE, key, strict=True))
        rows = {"cell_type": [*table.types, NUMBER_OF_TYPES]} | shared
        parts.append(pd.DataFrame(rows).assign(**names))
    merged = pd.concat(parts, ignore_index=True)
    return merged[list(DRIVERS.columns)]


def _share_out(
    matrix: Floats,
    young: NDArray[np.bool_],
    old: NDArray[np.bool_],
    gini: Floats,
    settings: Drivers,
    *,
    rng: np.random.Generator,
) -> dict[str, Floats]:
    """Return the columns of one tissue, types first and the number of types last."""
    shares = matrix / matrix.sum(axis=1, keepdims=True)
    # (n_young, n_old, n_types)
    before, after = shares[young][:, np.newaxis], shares[old][np.newaxis]
    by_gini = gini_contributions(before, after)
    by_number = effective_number_contributions(before, after)
    # What the category set adds to the Gini over all types of the tissue; nothing unless it is
    # `present`.
    extra = gini - np.asarray(concentration.gini(matrix))
    appeared = (extra[old][np.newaxis] - extra[young][:, np.newaxis])[..., np.newaxis]
    by_gini = np.concatenate([by_gini, appeared], axis=-1)
    by_number = np.concatenate([by_number, np.zeros_like(appeared)], axis=-1)

    young_weights = resampling.group_weights(int(young.sum()), settings.draws, rng)
    old_weights = resampling.group_weights(int(old.sum()), settings.draws, rng)
    columns: dict[str, Floats] = {}
    for name, shared in (("gini", by_gini), ("effective_number", by_number)):
        draws = np.einsum("ry,yot,ro->rt", young_weights, shared, old_weights, optimize=True)
        low, high = resampling.percentile_interval(draws, confidence=settings.confidence)
        columns[f"{name}_contribution"] = shared.mean(axis=(0, 1))
        columns[f"{name}_contribution_low"] = low
        columns[f"{name}_contribution_high"] = high

    logs = np.log(matrix + settings.pseudo_count)
    clr = logs - logs.mean(axis=1, keepdims=True)
    draws = old_weights @ clr[old] - young_weights @ clr[young]
    low, high = resampling.percentile_interval(draws, confidence=settings.confidence)
    columns |= {
        "young_proportion": _then_nan(shares[young].mean(axis=0)),
        "old_proportion": _then_nan(shares[old].mean(axis=0)),
        "clr_change": _then_nan(clr[old].mean(axis=0) - clr[young].mean(axis=0)),
        "clr_change_low": _then_nan(low),
        "clr_change_high": _then_nan(high),
    }
    return columns


def _then_nan(values: Floats) -> Floats:
    """Append nan: the number of types has no share of its own."""
    return np.append(values, math.nan)


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    table = drivers(
        tables.read(args.metrics, METRICS),
        tables.read(args.proportions, PROPORTIONS),
        settings.drivers,
    )
    tables.write(table, DRIVERS, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--proportions", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
