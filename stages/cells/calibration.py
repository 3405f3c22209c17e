r"""Ask how often a change is called where there is none, and how often one that was planted.

The original lacks it. A simulated study is one tissue of as many young and old animals as a design
says. It varies as an arm of a real cohort does: an animal's composition is drawn from a Dirichlet
distribution around the mean of its age group, with the arm's own concentration, its number of cells
from those of the arm's animals, and its cells from its composition. The studies then pass through
the functions of the pipeline: :func:`stages.cells.metrics.measure`, the interval and test of
:mod:`stages.cells.contrast`, and its rule of emphasis.

Without a change both means are the arm's. With one the old keep it, and the young have its shares
to a power below 1, whose Gini coefficient is lower by what is planted: the tissue crystallizes. A
shift is left out for an arm that is not as concentrated as it.

The concentration :math:`c` comes from the excess :math:`\theta = 1 / (1 + c)` of the variance
between animals over that of drawing cells at random, by moments [1]_, within age groups:

.. math:: \theta = \frac{\sum_j (S_j - G_j)}{\sum_j (S_j + (n_c - 1) G_j)},

with the mean squares of type j between (:math:`S_j`) and within animals (:math:`G_j`), and the
cells an animal has on average, :math:`n_c`.

References
----------
.. [1] Weir, B. S. and Hill, W. G. (2002). Estimating F-statistics. Annual Review of Genetics
   36:721-750.
"""

import argparse
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq

from stages.base import cli, tables
from stages.base.settings import Settings, load
from stages.cells import contrast, counts, metrics
from stages.cells.settings import Calibration
from stages.cells.tables.calibration import ARMS, CALIBRATION, RULES
from stages.cells.tables.proportions import PROPORTIONS
from stages.inputs.tables import TWO_GROUPS
from stages.measurement import concentration, resampling
from stages.measurement.streams import stream

Floats = NDArray[np.float64]
Design = tuple[int, int]
Measured = Mapping[str, Floats]

LARGEST_CONCENTRATION = 1e9
"""Stands for an infinite one: animals then differ by less than any count of cells shows."""
POWERS = (2.0**-20, 1.0)


class Arm(NamedTuple):
    """How one arm varies."""

    cohort: str
    platform: str
    tissue: str
    design: Design
    shares: Floats  # (n_types,), each above 0
    concentration: float
    n_cells: NDArray[np.int64]  # (n_animals,)


def arms(proportions: pd.DataFrame, cohorts: Sequence[str]) -> list[Arm]:
    """Return the arms of some cohorts that can be compared.

    Parameters
    ----------
    proportions
        ``PROPORTIONS``; animals of neither age group do not count.
    """
    ends = proportions[proportions["group"].isin(TWO_GROUPS) & proportions["cohort"].isin(cohorts)]
    found = []
    for (cohort, platform, tissue), part in ends.groupby(counts.TISSUE, sort=True):
        table = counts.matrix(part)
        group = table.samples["group"].to_numpy()
        n_reference, n_compared = (int((group == name).sum()) for name in TWO_GROUPS)
        if min(n_reference, n_compared) < counts.MIN_ANIMALS:
            continue
        n_cells = table.counts.sum(axis=1)
        shares = table.counts / n_cells[:, np.newaxis]
        # Both ages weigh the same, however many animals they have.
        mean = np.mean([shares[group == name].mean(axis=0) for name in TWO_GROUPS], axis=0)
        spread = concentration_of([table.counts[group == name] for name in TWO_GROUPS])
        cells = n_cells.astype(np.int64)
        found.append(Arm(cohort, platform, tissue, (n_reference, n_compared), mean, spread, cells))
    return found


def concentration_of(groups: Sequence[Floats]) -> float:
    """Return the concentration of the Dirichlet distribution of animals within their groups.

    Parameters
    ----------
    groups : arrays of shape (n_animals, n_types)
        Counts of cells; at least two animals a group, at least two cells an animal.

    Returns
    -------
    float
        Above 0; infinite where animals are no more unlike than cells drawn at random.
    """
    between, within = np.zeros(groups[0].shape[1]), np.zeros(groups[0].shape[1])
    free, free_cells, size = 0, 0.0, 0.0
    for group in groups:
        n = group.sum(axis=1, keepdims=True)
        shares, pooled = group / n, group.sum(axis=0) / n.sum()
        between += (n * (shares - pooled) ** 2).sum(axis=0)
        within += (n * shares * (1 - shares)).sum(axis=0)
        free += len(group) - 1
        free_cells += float((n - 1).sum())
        size += float(n.sum() - (n**2).sum() / n.sum())
    s, g, n_c = between / free, within / free_cells, size / free
    theta = float((s - g).sum() / (s + (n_c - 1) * g).sum())
    return 1 / theta - 1 if theta > 0 else math.inf


def flatter(shares: Floats, by: float) -> Floats:
    """Return the shares to the power that lowers their Gini coefficient by `by`.

    Parameters
    ----------
    shares : shape (n_types,)
        Each above 0; their Gini coefficient is above `by`.

    Examples
    --------
    >>> flatter(np.array([0.6, 0.3, 0.1]), by=0.0).round(6).tolist()
    [0.6, 0.3, 0.1]
    """
    wanted = float(concentration.gini(shares)) - by

    def excess(power: float) -> float:
        return float(concentration.gini(shares**power)) - wanted

    power = 1.0 if by == 0 else brentq(excess, *POWERS, xtol=1e-14)
    found: Floats = shares**power / (shares**power).sum()
    return found


def draw(
    arm: Arm, design: Design, *, shift: float, studies: int, rng: np.random.Generator
) -> list[Floats]:
    """Return counts of young and of old animals, each (studies, n_animals, n_types)."""
    size = min(arm.concentration, LARGEST_CONCENTRATION)
    drawn = []
    for n, mean in zip(design, (flatter(arm.shares, by=shift), arm.shares), strict=True):
        shares = rng.dirichlet(size * mean, size=(studies, n))
        n_cells = rng.choice(arm.n_cells, size=(studies, n))
        drawn.append(rng.multinomial(n_cells, shares).astype(np.float64))
    return drawn


def compare(young: Measured, old: Measured, *, confidence: float) -> pd.DataFrame:
    """Compare old with young animals in each study: the columns of ``CONTRAST`` that rules read.

    Parameters
    ----------
    young, old
        By metric, values of shape (studies, n_animals).

    Returns
    -------
    DataFrame
        A row a study and metric; its `tissue` is the number of the study.
    """
    rows = []
    for metric in contrast.PLANE:
        x, y = young[metric], old[metric]
        change, low, high = resampling.bootstrap_median_changes(x, y, confidence=confidence)
        _, p, _ = resampling.mann_whitneys(x, y)
        found = {"change": change, "change_low": low, "change_high": high, "rank_p": p}
        rows.append(pd.DataFrame({"tissue": np.arange(len(x)), "metric": metric} | found))
    named = {"cohort": "", "platform": "", "cells": "all"}
    table = pd.concat(rows, ignore_index=True).assign(**named)
    table["quadrant"] = contrast.quadrants(table)
    table["emphasised"] = contrast.emphasised(table)
    return table


def called(table: pd.DataFrame, *, planted: bool) -> dict[str, NDArray[np.bool_]]:
    """Return which studies each of ``RULES`` calls, from what :func:`compare` returns."""
    found = {}
    for metric, part in table.groupby("metric"):
        found[f"{metric}_interval"] = (part["change_low"] > 0) | (part["change_high"] < 0)
        found[f"{metric}_ranks"] = part["rank_p"] <= resampling.SIGNIFICANT
    gini = table[table["metric"] == "gini"]
    found["direction"] = gini["quadrant"].isin(
        ["crystallize"] if planted else ["crystallize", "disperse"]
    )
    found["emphasised"] = gini["emphasised"] & (found["direction"] if planted else True)
    return {rule: found[rule].to_numpy() for rule in RULES}


def simulate(of: Sequence[Arm], design: Design, shift: float, settings: Settings) -> pd.DataFrame:
    """Return what :func:`compare` finds in studies of one design, spread evenly over some arms."""
    rules: Calibration = settings.calibration
    components: concentration.Components = (
        "present" if settings.metrics.category_set == "present" else "all"
    )
    values: list[dict[str, list[Floats]]] = [
        {metric: [] for metric in contrast.PLANE} for _ in TWO_GROUPS
    ]
    for arm in of:
        drawn = draw(
            arm,
            design,
            shift=shift,
            studies=math.ceil(rules.studies / len(of)),
            rng=stream(rules.seed, *arm[:3], *design, shift),
        )
        for group, cells in zip(values, drawn, strict=True):
            measured = metrics.measure(cells, components=components)
            for metric, parts in group.items():
                parts.append(measured[metric])
    young, old = ({name: np.concatenate(parts) for name, parts in of.items()} for of in values)
    return compare(young, old, confidence=settings.contrast.confidence)


def calibration(settings: Settings, found: Sequence[Arm]) -> Iterator[dict[str, object]]:
    """Yield the rows of ``CALIBRATION``, over the designs asked for and those of the arms."""
    rules: Calibration = settings.calibration
    cohorts = dict.fromkeys(arm.cohort for arm in found)
    for cohort in cohorts:
        of_cohort = [arm for arm in found if arm.cohort == cohort]
        own = [arm.design for arm in of_cohort]
        designs = sorted({*rules.designs, *own})
        for design, shift in itertools.product(designs, (0.0, *rules.gini_shifts)):
            able = [arm for arm in of_cohort if concentration.gini(arm.shares) > shift]
            if not able:
                continue
            table = simulate(able, design, shift, settings)
            change = table.groupby("metric")["change"].median()
            known = {
                "cohort": cohort,
                "n_reference": design[0],
                "n_compared": design[1],
                "n_arms": own.count(design),
                "rank_p_smallest": 2 / math.comb(sum(design), design[0]),
                "gini_shift": shift,
                "gini_change_median": change["gini"],
                "effective_number_change_median": change["effective_number"],
            }
            for rule, calls in called(table, planted=shift > 0).items():
                n = int(calls.sum())
                rate = resampling.proportion_interval(
                    n, calls.size, confidence=settings.contrast.confidence
                )
                yield known | {
                    "rule": rule,
                    "n_studies": calls.size,
                    "n_called": n,
                    "rate": rate.estimate,
                    "rate_low": rate.low,
                    "rate_high": rate.high,
                }


def described(found: Sequence[Arm]) -> pd.DataFrame:
    """Return ``ARMS``."""
    rows = [
        [*arm[:3], *arm.design, len(arm.shares), concentration.gini(arm.shares), arm.concentration]
        for arm in found
    ]
    return pd.DataFrame(rows, columns=list(ARMS.columns))


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    proportions = tables.read(args.proportions, PROPORTIONS)
    found = arms(proportions, settings.calibration.cohorts)
    rows = pd.DataFrame(calibration(settings, found), columns=list(CALIBRATION.columns))
    tables.write(rows, CALIBRATION, args.out)
    tables.write(described(found), ARMS, args.arms)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--proportions", type=Path, required=True)
    parser.add_argument("--arms", type=Path, required=True, help="how the arms vary")
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
