r"""Compare candidates for a second axis of the plane, beside the Gini coefficient.

The effective number over n almost mirrors the Gini coefficient, so the plane of both is nearly a
line. A second axis should say something that the first does not (r near 0, of single animals and
of changes), something that there is (a large share of the variance of Lorenz curves, which hold all
of what any such number can say), and something of the tissue rather than of the animal or of the
platform (intraclass correlation [1]_, correlation over platforms). The candidates:

* *effective_share*: effective number over n, the axis that there was.
* *effective_excess*: its difference from that of a lognormal of the same Gini coefficient
  (:func:`stages.measurement.metrics.lognormal_share`).
* *residual*: its difference from the least-squares line on the Gini coefficient, which depends on
  what else was measured.
* *top_share*: the share of the largest component (Berger and Parker's dominance [2]_).
* *hill_ratio_2*, *hill_ratio_inf*: Hill numbers of order 2 and infinity over that of order 1 [3]_.
* *tail_evenness*: Pielou's evenness of all components but the largest.
* *lorenz_asymmetry*: where the Lorenz curve has the slope 1; 1 where it is symmetric [4]_.

References
----------
.. [1] Shrout, P. E. and Fleiss, J. L. (1979). Intraclass correlations: uses in assessing rater
   reliability. Psychological Bulletin 86:420-428: ICC(1, 1).
.. [2] Berger, W. H. and Parker, F. L. (1970). Diversity of planktonic foraminifera in deep-sea
   sediments. Science 168:1345-1347.
.. [3] Hill, M. O. (1973). Diversity and evenness: a unifying notation and its consequences. Ecology
   54:427-432.
.. [4] Damgaard, C. and Weiner, J. (2000). Describing inequality in plant size or fecundity. Ecology
   81:1139-1142.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli, study, tables
from stages.base.settings import load
from stages.cells import counts
from stages.cells.tables.proportions import PROPORTIONS
from stages.inputs.tables import TWO_GROUPS
from stages.measurement import concentration, effects
from stages.measurement.metrics import lognormal_share
from stages.measurement.settings import System
from stages.plane.tables import AXES

Floats = NDArray[np.float64]

GRID = np.linspace(0.0, 1.0, 101)[1:-1]
"""Shares of the components at which Lorenz curves are read off."""
GINI = "gini_corrected"
CANDIDATES = (
    "effective_share",
    "effective_excess",
    "residual",
    "top_share",
    "hill_ratio_2",
    "hill_ratio_inf",
    "tail_evenness",
    "lorenz_asymmetry",
)


def asymmetry(weights: Floats) -> float:
    """Return the Lorenz asymmetry coefficient [4]_ of positive weights.

    Where weights equal the mean, the curve has the slope 1 on a segment, whose middle is taken.

    Examples
    --------
    >>> asymmetry(np.array([1.0, 3.0])), asymmetry(np.array([2.0, 2.0, 2.0]))
    (1.375, 1.0)
    """
    ordered, mean = np.sort(weights), weights.mean()
    held = np.concatenate([[0.0], np.cumsum(ordered)]) / ordered.sum()
    below, upto = np.searchsorted(ordered, [mean, mean * (1 + 1e-12)], "left")
    if upto > below:
        return float((below + upto) / 2 / len(ordered) + (held[below] + held[upto]) / 2)
    part = (mean - ordered[below - 1]) / (ordered[below] - ordered[below - 1])
    return float(
        (below + part) / len(ordered) + held[below] + part * ordered[below] / ordered.sum()
    )


def described(weights: Floats) -> dict[str, float]:
    """Return the Gini coefficient and the candidates of one vector of positive weights.

    nan where a candidate is not defined: a tail needs two components.
    """
    weights = np.sort(weights[weights > 0])
    first, second, last = np.asarray(concentration.hill_number(weights, [1.0, 2.0, np.inf]))
    share = float(first) / weights.size
    gini = np.asarray(concentration.gini(weights))
    return {
        GINI: float(concentration.gini_corrected(weights)),
        "effective_share": share,
        "effective_excess": share - float(lognormal_share(gini)),
        "top_share": float(1 / last),
        "hill_ratio_2": float(second / first),
        "hill_ratio_inf": float(last / first),
        "tail_evenness": float(concentration.evenness(weights[:-1])),
        "lorenz_asymmetry": asymmetry(weights),
    }


def samples(vectors: Iterable[tuple[Mapping[str, object], Floats]]) -> pd.DataFrame:
    """Return the candidates of vectors of weights, one row a vector, with what names it.

    Vectors of fewer than two components have neither inequality nor a curve, and are left out.
    """
    rows = [
        {**name, **described(weights), "curve": np.interp(GRID, *concentration.lorenz_curve(kept))}
        for name, weights in vectors
        if (kept := weights[weights > 0]).size > 1
    ]
    table = pd.DataFrame(rows)
    if len(table):
        x, y = table[GINI].to_numpy(float), table["effective_share"].to_numpy(float)
        table["residual"] = y - _fit(x[:, np.newaxis], y[:, np.newaxis])[:, 0]
    return table


def axes(cells: pd.DataFrame, others: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return what each candidate says beside the Gini coefficient (``AXES``).

    Parameters
    ----------
    cells
        From :func:`samples`, one row an animal of a tissue: `cohort`, `platform`, `tissue`,
        `group`.
    others
        The same of the states of other systems, by their names.
    """
    found = {"cells": cells, **others}
    rows = [
        {"system": system, "candidate": name, **_alone(table, name)}
        | (_of_cells(table, name) if system == "cells" else {})
        for system, table in found.items()
        if len(table)
        for name in CANDIDATES
    ]
    return pd.DataFrame(rows).reindex(columns=list(AXES.columns)) if rows else tables.empty(AXES)


def _alone(table: pd.DataFrame, name: str) -> dict[str, object]:
    known = table[np.isfinite(table[name])]
    curves = np.stack(list(known["curve"]))
    gini, both = known[[GINI]].to_numpy(float), known[[GINI, name]].to_numpy(float)
    return {
        "n": len(known),
        "r": correlation(known[GINI], known[name]),
        "curves_gini": explained(gini, curves),
        "curves_both": explained(both, curves),
    }


def _of_cells(table: pd.DataFrame, name: str) -> dict[str, object]:
    medians = table.groupby([*counts.TISSUE, "group"])[[GINI, name]].median().unstack()
    n = table.groupby([*counts.TISSUE, "group"])[name].count().unstack()
    # A study may have animals of one group alone.
    both = pd.MultiIndex.from_product([[GINI, name], TWO_GROUPS])
    wide = medians.reindex(columns=both)
    moved = wide.xs("compared", axis=1, level=1) - wide.xs("reference", axis=1, level=1)
    moved = moved[(n >= counts.MIN_ANIMALS).all(axis=1)].dropna(how="all")
    platforms = medians[name].stack().unstack("platform").dropna()
    return {
        "r_change": correlation(moved[GINI], moved[name]),
        "n_changes": len(moved.dropna()),
        "intraclass": intraclass(table, name),
        "n_platforms": len(platforms),
        "r_platforms": correlation(platforms.iloc[:, 0], platforms.iloc[:, -1])
        if platforms.shape[1] > 1
        else np.nan,
    }


def correlation(x: "pd.Series[float]", y: "pd.Series[float]") -> float:
    """Return Pearson's correlation; nan where one of them does not vary or there are too few."""
    known = x.notna() & y.notna()
    if known.sum() < 3 or not np.ptp(x[known]) or not np.ptp(y[known]):
        return np.nan
    return float(np.corrcoef(x[known], y[known])[0, 1])


def explained(axes_: Floats, curves: Floats) -> float:
    """Return the share of the variance of curves that lies in their linear fit on some axes.

    It is nan where all curves are the same, as where there is one.

    Parameters
    ----------
    axes_ : shape (n, n_axes)
    curves : shape (n, n_points)
    """
    whole = ((curves - curves.mean(axis=0)) ** 2).sum()
    left = ((curves - _fit(axes_, curves)) ** 2).sum()
    return float(1 - left / whole) if whole else float("nan")


def _fit(x: Floats, y: Floats) -> Floats:
    design = np.column_stack([np.ones(len(x)), x])
    fitted: Floats = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return fitted


def intraclass(table: pd.DataFrame, name: str) -> float:
    """Return the intraclass correlation [1]_ of animals within an age group of a tissue.

    One-way, with groups of unequal sizes: the share of the variance that lies between the groups.
    """
    known = table[np.isfinite(table[name])]
    of = known.groupby([*counts.TISSUE, "group"])[name]
    size, n = of.size().to_numpy(float), len(known)
    if not 1 < len(size) < n:
        return np.nan
    between = (size * (of.mean() - known[name].mean()) ** 2).sum() / (len(size) - 1)
    within = ((known[name] - of.transform("mean")) ** 2).sum() / (n - len(size))
    typical = (n - (size**2).sum() / n) / (len(size) - 1)
    return float((between - within) / (between + (typical - 1) * within))


def _animals(proportions: pd.DataFrame, about: study.Study) -> pd.DataFrame:
    """Return young and old animals of real tissues; of all of them where none is real."""
    rows = about.real(proportions[proportions["group"].isin(TWO_GROUPS)])
    keys = [*counts.TISSUE, "group", "animal"]
    return samples(
        (dict(zip(keys, key, strict=True)), of["n_cells"].to_numpy(float))
        for key, of in rows.groupby(keys, sort=True)
    )


def _states(system: System) -> pd.DataFrame:
    """Return the states of the first kind and condition of a system."""
    found = effects.series(effects.read_states(system.effects, system.states), system.kinds)
    parts = next(iter(found.values()), [])
    return samples(({"state": part.state.name}, np.abs(part.values.mean(axis=0))) for part in parts)


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    cells = _animals(tables.read(args.proportions, PROPORTIONS), study.read(args.study))
    heads = {name: of for name, of in settings.systems.items() if of.room == "heads"}
    others = {name: _states(system) for name, system in heads.items()}
    tables.write(axes(cells, others), AXES, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--proportions", type=Path, required=True)
    parser.add_argument("--study", type=Path, required=True, help="what the cells are")
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
