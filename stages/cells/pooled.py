"""Pool the changes of many datasets, tissue by tissue: a random-effects meta-analysis.

Each dataset has a true change of its own; what is estimated is their mean and their variance tau2.
Two stages (first each dataset's own exact comparison, then their mean) rather than one mixed model
of all donors: the numbers pooled are those that every other table shows, a dataset's weight and
what leaving it out does can be seen, and no common scale of donors has to be fitted at a boundary.

* tau2 by Paule and Mandel [1]_ [2]_, which assumes no distribution. Solved here, since
  statsmodels 0.14 answers 0 where rounding takes its last step past the solution.
* The variance of donors within groups is the mean over the datasets of a tissue: of three donors it
  is so uncertain that weights by each dataset's own would be biased [3]_. The number of donors then
  decides the weight (:func:`stages.cells.datasets.size_factor`).
* Interval and p by Student's t with one degree fewer than datasets: the modified method of Knapp
  and Hartung [4]_, which with this tau2 leaves the standard error as it is.

References
----------
.. [1] Paule, R. C. and Mandel, J. (1982). Consensus values and weighting factors. Journal of
   Research of the National Bureau of Standards 87:377-385.
.. [2] Veroniki, A. A. et al. (2016). Methods to estimate the between-study variance and its
   uncertainty in meta-analysis. Research Synthesis Methods 7:55-79.
.. [3] Doncaster, C. P. and Spake, R. (2018). Correction for bias in meta-analysis of
   little-replicated studies. Methods in Ecology and Evolution 9:634-644.
.. [4] Roever, C., Knapp, G. and Friede, T. (2015). Hartung-Knapp-Sidik-Jonkman approach and its
   modification for random-effects meta-analysis with few studies. BMC Medical Research Methodology
   15:99.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli, tables
from stages.base.settings import load
from stages.cells.datasets import size_factor
from stages.cells.tables.pooled import DATASETS, POOLED, SHRUNKEN
from stages.measurement.concentration import quadrant
from stages.measurement.resampling import SIGNIFICANT, benjamini_hochberg

Floats = NDArray[np.float64]

KEY = ["tissue", "cells", "metric"]
PLANE = ["gini", "effective_number"]


@dataclass(frozen=True)
class Mean:
    """The mean of several changes, and how far they differ."""

    change: float
    error: float
    tau2: float
    q: float
    i2: float
    weights: Floats

    def p(self) -> float:
        """Return the two-sided p of no change."""
        from scipy import stats

        return float(2 * stats.t.sf(abs(self.change) / self.error, len(self.weights) - 1))

    def reach(self, confidence: float) -> float:
        """Return half the width of the interval."""
        return _t(confidence, len(self.weights) - 1) * self.error

    def predicted(self, confidence: float) -> float:
        """Return half the width of where the change of one more dataset lies [1]_.

        References
        ----------
        .. [1] Higgins, J. P. T., Thompson, S. G. and Spiegelhalter, D. J. (2009). A re-evaluation
           of random-effects meta-analysis. Journal of the Royal Statistical Society A 172:137-159.
        """
        k = len(self.weights)
        return _t(confidence, k - 2) * math.sqrt(self.tau2 + self.error**2) if k > 2 else math.nan


def _t(confidence: float, df: int) -> float:
    from scipy import stats

    return float(stats.t.isf((1 - confidence) / 2, df))


def mean(changes: Floats, variances: Floats) -> Mean:
    """Return the random-effects mean of at least two changes.

    Parameters
    ----------
    changes, variances : shape (n_datasets,)
        Variances are those of sampling, above 0.

    Examples
    --------
    >>> same = mean(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    >>> same.change, round(same.tau2, 6), round(same.i2, 6), same.weights.tolist()
    (2.0, 1.0, 0.5, [0.5, 0.5])
    """
    from scipy import optimize

    k = len(changes)

    def spread(tau2: float) -> tuple[float, Floats, float]:
        weights = 1 / (variances + tau2)
        middle = float(weights @ changes / weights.sum())
        return middle, weights, float(weights @ (changes - middle) ** 2)

    q = spread(0.0)[2]
    tau2 = 0.0
    if q > k - 1:
        # The equation falls with tau2; at the sample variance of the changes, it is at or below 0.
        top = float(changes.var(ddof=1)) * (1 + 1e-12)
        tau2 = optimize.brentq(lambda t: spread(t)[2] - (k - 1), 0.0, top, xtol=1e-14 * top)
    change, weights, _ = spread(tau2)
    total = float(weights.sum())
    i2 = max(1 - (k - 1) / q, 0.0) if q > 0 else 0.0
    return Mean(change, 1 / math.sqrt(total), tau2, q, i2, weights / total)


def sampling_variance(rows: pd.DataFrame) -> Floats:
    """Return the sampling variance of each change of one tissue.

    Donors vary alike in all its datasets of one design, by the mean of their variances, each with
    the weight of its degrees of freedom; how many there are is each dataset's own.
    """
    df = np.where(
        rows["paired"], rows["n_reference"] - 1, rows["n_reference"] + rows["n_compared"] - 2
    )
    squares = rows["spread"] ** 2 * df
    sums = pd.DataFrame({"squares": squares, "df": df}).groupby(rows["paired"]).transform("sum")
    sizes = zip(rows["n_reference"], rows["n_compared"], rows["paired"], strict=True)
    factors = np.array([size_factor(n, m, paired=paired) for n, m, paired in sizes])
    return np.asarray(sums["squares"] / sums["df"] * factors, dtype=np.float64)


def pooled(datasets: pd.DataFrame, *, confidence: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the mean change of every tissue and metric, and what each dataset adds to it.

    A tissue in one dataset has that one's own interval and p. One in which no donor differs from
    another has no weights, and is left out.

    Parameters
    ----------
    datasets
        ``DATASETS``.

    Returns
    -------
    pooled, shrunken
        ``POOLED`` and ``SHRUNKEN``.
    """
    rows, parts = [], []
    for key, group in datasets.groupby(KEY, sort=True):
        variances = sampling_variance(group)
        named = dict(zip(KEY, key, strict=True))
        if not (variances > 0).all():
            cli.log.info("%s is not pooled: no two donors of a group differ", " ".join(key))
            continue
        row, weights, shrunken = _of_tissue(group, variances, confidence)
        rows.append(named | row)
        part = group[["dataset", *KEY, "change"]]
        errors = np.sqrt(variances)
        parts.append(part.assign(standard_error=errors, weight=weights, shrunken=shrunken))
    if not rows:
        return tables.empty(POOLED), tables.empty(SHRUNKEN)
    table = pd.DataFrame(rows)
    table["q"] = table.groupby(["cells", "metric"])["p"].transform(benjamini_hochberg)
    table["quadrant"], table["emphasised"] = _directions(table)
    return table[list(POOLED.columns)], pd.concat(parts)[list(SHRUNKEN.columns)]


def _of_tissue(
    group: pd.DataFrame, variances: Floats, confidence: float
) -> tuple[dict[str, object], Floats, Floats]:
    changes = group["change"].to_numpy(float)
    n = {name: int(group[name].sum()) for name in ("n_reference", "n_compared")}
    row: dict[str, object] = {"n_datasets": len(group), **n}
    if len(group) == 1:
        own = group.iloc[0]
        ends = {name: own[name] for name in ("change", "change_low", "change_high")}
        without = dict.fromkeys(("tau2", "i2", "heterogeneity_q", "heterogeneity_p"), math.nan)
        without |= dict.fromkeys(("predicted_low", "predicted_high"), math.nan)
        return row | ends | {"p": own["rank_p"]} | without | _without(group, variances), *(
            np.ones(1),
            changes,
        )
    from scipy import stats

    found = mean(changes, variances)
    reach, predicted = found.reach(confidence), found.predicted(confidence)
    row |= {
        "change": found.change,
        "change_low": found.change - reach,
        "change_high": found.change + reach,
        "p": found.p(),
        "tau2": found.tau2,
        "i2": found.i2,
        "heterogeneity_q": found.q,
        "heterogeneity_p": float(stats.chi2.sf(found.q, len(group) - 1)),
        "predicted_low": found.change - predicted,
        "predicted_high": found.change + predicted,
    }
    own_share = found.tau2 / (found.tau2 + variances)
    shrunken = found.change + own_share * (changes - found.change)
    return row | _without(group, variances, found.change), found.weights, shrunken


def _without(group: pd.DataFrame, variances: Floats, change: float = math.nan) -> dict[str, object]:
    """Leave out one dataset at a time; nothing of fewer than three."""
    if len(group) < 3:
        lost = dict.fromkeys(("without_low", "without_high", "without_p"), math.nan)
        return {"without": None, **lost}
    changes = group["change"].to_numpy(float)
    others = ~np.eye(len(group), dtype=bool)
    found = [mean(changes[rest], variances[rest]) for rest in others]
    moved = np.array([one.change for one in found])
    return {
        "without": group["dataset"].iloc[int(np.argmax(np.abs(moved - change)))],
        "without_low": moved.min(),
        "without_high": moved.max(),
        "without_p": max(one.p() for one in found),
    }


def _directions(table: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Name the quadrant of each tissue, and say whether its direction is emphasised.

    It is where, of both metrics of the plane, the adjusted p is at most ``SIGNIFICANT``, and the p
    too without any one dataset.
    """
    key = ["tissue", "cells"]
    plane = table[table["metric"].isin(PLANE)]
    change = plane.pivot_table(index=key, columns="metric", values="change")
    change = change.reindex(columns=PLANE)
    named = pd.Series(quadrant(change["gini"], change["effective_number"]), index=change.index)
    beyond = (plane["q"] <= SIGNIFICANT) & (plane["without_p"] <= SIGNIFICANT)
    sure = beyond.groupby([plane[name] for name in key]).sum() == len(PLANE)
    places = pd.MultiIndex.from_frame(table[key])
    return (
        pd.Series(named.loc[places].to_numpy(), index=table.index),
        pd.Series(sure.loc[places].to_numpy(), index=table.index),
    )


def _run(args: argparse.Namespace) -> None:
    confidence = load(args.params).contrast.confidence
    table, shrunken = pooled(tables.read(args.datasets, DATASETS), confidence=confidence)
    tables.write(table, POOLED, args.out)
    tables.write(shrunken, SHRUNKEN, args.shrunken)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--datasets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shrunken", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
