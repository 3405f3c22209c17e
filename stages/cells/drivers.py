r"""Share each tissue's change out over its cell types, so that the shares sum to the whole.

Original step 06. A metric :math:`M` of the composition changes from a reference (young) animal's
:math:`p(0)` to a compared (old) one's :math:`p(1)`. Along the straight line between them, which
never leaves the simplex, type :math:`i` is credited with

.. math:: c_i = (p_i(1) - p_i(0)) \int_0^1 \frac{\partial M}{\partial x_i}(p(t))\, dt,

where the derivative is that of :math:`M` as a function of counts, so that growth of one type is
shrinkage of all the others. This is the Aumann-Shapley value of the types [1]_: an
attribution that sums to the whole change, does not depend on the order of types and gives nothing
to a type that does not change. For the Gini coefficient the integral has a closed form (ranks
change only where two shares cross); for the effective number it is done by double-exponential
quadrature to about 1e-12.

Contributions are averaged over all pairs of one animal of each group (in a paired design, over its
pairs), so they sum to the difference of the group *means* of the metric. (Medians, which the
headline uses, cannot be shared out.) Under the category set ``present`` the Gini coefficient also
moves when a type appears or vanishes; that part has a row of its own, ``(number of types)``.

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
from stages.cells.design import Design, design
from stages.cells.settings import Drivers
from stages.cells.tables.drivers import DRIVERS, NUMBER_OF_TYPES
from stages.cells.tables.metrics import METRICS
from stages.cells.tables.proportions import PROPORTIONS
from stages.measurement import concentration, resampling
from stages.measurement.streams import stream

Floats = NDArray[np.float64]


def gini_contributions(reference: Floats, compared: Floats) -> Floats:
    r"""Return each type's part in the change of the Gini coefficient over a fixed set of types.

    With :math:`G = \frac{1}{2 n} \sum_{ij} |p_i - p_j|` for shares that sum to 1, the derivative is
    :math:`(2 r_i - n - 1) / n - G`, :math:`r_i` the (mid)rank of type i.

    Parameters
    ----------
    reference, compared : shape (..., n_types)
        Shares that sum to 1; leading axes broadcast.

    Returns
    -------
    array of shape (..., n_types)
        Sums along the last axis to gini(compared) - gini(reference).

    Examples
    --------
    The Gini rises from 0 to 0.3 because one type grew and, more so, because the other became rare:

    >>> gini_contributions(np.array([0.5, 0.5]), np.array([0.8, 0.2])).round(3).tolist()
    [0.105, 0.195]
    """
    n = reference.shape[-1]
    start = reference[..., :, np.newaxis] - reference[..., np.newaxis, :]
    end = compared[..., :, np.newaxis] - compared[..., np.newaxis, :]
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
    contributions: Floats = (compared - reference) * (
        (2 * mean_rank - n - 1) / n - mean_gini[..., np.newaxis]
    )
    return contributions


def effective_number_contributions(reference: Floats, compared: Floats) -> Floats:
    r"""Return each type's part in the change of the effective number.

    The derivative is :math:`N (-\ln p_i - H)`: growth of a type raises the effective number if the
    type is rarer than the geometric typical one, and lowers it if the type is already common.

    Parameters and shapes as in :func:`gini_contributions`; the result sums to the change of exp(H).
    """
    reference, compared = np.broadcast_arrays(reference, compared)
    total = np.zeros(reference.shape)
    for left, right, weight in zip(*_double_exponential(), strict=True):
        # `left` = t, `right` = 1 - t, each to full precision near its own end.
        shares = right * reference + left * compared
        logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        entropy = -(shares * logs).sum(axis=-1, keepdims=True)
        total += weight * np.exp(entropy) * (-logs - entropy)
    contributions: Floats = (compared - reference) * total
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
        found = design(table.samples)
        if min(found.n) < counts.MIN_ANIMALS:
            continue
        gini = measured.loc[key].loc[table.samples["animal"], "gini"].to_numpy(float)
        shared = _share_out(table.counts, found, gini, settings, rng=stream(settings.seed, *key))
        names = dict(zip(counts.TISSUE, key, strict=True))
        rows = {"cell_type": [*table.types, NUMBER_OF_TYPES]} | shared
        parts.append(pd.DataFrame(rows).assign(**names))
    if not parts:
        return tables.empty(DRIVERS)
    merged = pd.concat(parts, ignore_index=True)
    return merged[list(DRIVERS.columns)]


def _share_out(
    matrix: Floats,
    found: Design,
    gini: Floats,
    settings: Drivers,
    *,
    rng: np.random.Generator,
) -> dict[str, Floats]:
    """Return the columns of one tissue, types first and the number of types last."""
    shares = matrix / matrix.sum(axis=1, keepdims=True)
    # What the category set adds to the Gini over all types of the tissue; nothing unless it is
    # `present`.
    extra = gini - np.asarray(concentration.gini(matrix))
    logs = np.log(matrix + settings.pseudo_count)
    clr = logs - logs.mean(axis=1, keepdims=True)
    # (n_reference, n_compared, n_types), or (n_pairs, 1, n_types)
    before, after, left, right = (
        group[:, np.newaxis] if first or found.paired else group[np.newaxis]
        for values in (shares, extra[:, np.newaxis])
        for first, group in zip((True, False), found.split(values), strict=True)
    )
    by_gini = gini_contributions(before, after)
    by_number = effective_number_contributions(before, after)
    appeared = right - left
    by_gini = np.concatenate([by_gini, appeared], axis=-1)
    by_number = np.concatenate([by_number, np.zeros_like(appeared)], axis=-1)

    n_reference, n_compared = found.n
    of_reference = resampling.group_weights(n_reference, settings.draws, rng)
    of_compared = (
        of_reference if found.paired else resampling.group_weights(n_compared, settings.draws, rng)
    )
    across = np.ones((settings.draws, 1)) if found.paired else of_compared
    columns: dict[str, Floats] = {}
    for name, shared in (("gini", by_gini), ("effective_number", by_number)):
        draws = np.einsum("ry,yot,ro->rt", of_reference, shared, across, optimize=True)
        low, high = resampling.percentile_interval(draws, confidence=settings.confidence)
        columns[f"{name}_contribution"] = shared.mean(axis=(0, 1))
        columns[f"{name}_contribution_low"] = low
        columns[f"{name}_contribution_high"] = high

    of_shares, of_logs = found.split(shares), found.split(clr)
    draws = of_compared @ of_logs[1] - of_reference @ of_logs[0]
    low, high = resampling.percentile_interval(draws, confidence=settings.confidence)
    columns |= {
        "reference_proportion": _then_nan(of_shares[0].mean(axis=0)),
        "compared_proportion": _then_nan(of_shares[1].mean(axis=0)),
        "clr_change": _then_nan(of_logs[1].mean(axis=0) - of_logs[0].mean(axis=0)),
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
