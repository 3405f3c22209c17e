"""Ask in which share of all defensible choices of analysis each direction holds.

A direction is the end of many choices that could as well have been made otherwise. This is the
multiverse [1]_ of one arm (a tissue of a cohort on a platform): every combination of

* who is young and old: each cut-off that the ages of its animals allow, and each age alone;
* sexes together, or one alone;
* how many cells an animal must have;
* all cells, or equal numbers of them (rarefied);
* the Gini coefficient over the types present, that corrected for their number, or over all types of
  the tissue (there the correction is a constant factor and turns nothing);
* the effective number of order 1 (plug-in, Miller-Madow, Chao-Shen), 0 or 2;
* medians or means over animals.

Combinations that compare the same animals count once. Choices are no sample of anything, and
neighbours among them are not independent: a share is a description, no probability.

References
----------
.. [1] Steegen, S., Tuerlinckx, F., Gelman, A. and Vanpaemel, W. (2016). Increasing transparency
   through a multiverse analysis. Perspectives on Psychological Science 11:702-712.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli, tables
from stages.base.settings import Settings, load
from stages.cells import counts
from stages.cells.design import Design, between
from stages.cells.metrics import measure, rarefied
from stages.cells.proportions import proportions
from stages.cells.settings import Rarefaction
from stages.cells.tables.metrics import CELLS
from stages.cells.tables.multiverse import (
    KINDS,
    MULTIVERSE,
    MULTIVERSE_CHOICES,
    OF_ANIMALS,
    OF_NUMBERS,
    PUBLISHED,
)
from stages.measurement import concentration
from stages.measurement.concentration import QUADRANTS, quadrant
from stages.measurement.streams import stream

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# The first of each is the published choice.
GINI = ("gini", "gini_corrected", "gini_tissue")
NUMBER = (
    "effective_number",
    "effective_number_miller_madow",
    "effective_number_chao_shen",
    "hill_0",
    "hill_2",
)
STATISTIC = ("median", "mean")
ALL = "all"


def multiverse(cells: pd.DataFrame, settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the directions of every arm that the published choices compare.

    Parameters
    ----------
    cells
        ``COUNTS``.

    Returns
    -------
    multiverse, choices
        ``MULTIVERSE`` and ``MULTIVERSE_CHOICES``, without rows where no arm can be compared.
    """
    thresholds = dict.fromkeys([settings.proportions.min_cells, *settings.multiverse.min_cells])
    by_threshold = {}
    for least in thresholds:
        rules = settings.proportions.model_copy(update={"min_cells": least})
        by_threshold[least] = dict(list(proportions(cells, rules)[0].groupby(counts.TISSUE)))
    rows, singles = [], []
    for key in by_threshold[settings.proportions.min_cells]:
        samples = {least: found[key] for least, found in by_threshold.items() if key in found}
        analyses = arm(samples, settings.metrics.rarefaction)
        if analyses.empty:
            continue
        names = dict(zip(counts.TISSUE, key, strict=True))
        single = departures(analyses)
        rows.append(names | summary(analyses, single))
        singles.append(single.assign(**names))
    if not rows:
        return tables.empty(MULTIVERSE), tables.empty(MULTIVERSE_CHOICES)
    choices = pd.concat(singles, ignore_index=True)
    return (
        pd.DataFrame(rows)[list(MULTIVERSE.columns)],
        choices[list(MULTIVERSE_CHOICES.columns)],
    )


def arm(samples: dict[int, pd.DataFrame], rarefaction: Rarefaction) -> pd.DataFrame:
    """Return every analysis of one arm; none if the published one cannot be made.

    Parameters
    ----------
    samples
        ``PROPORTIONS`` of the tissue by the least number of cells of an animal, the published
        number first.

    Returns
    -------
    DataFrame
        One row an analysis, the published one first: a column for each of ``KINDS``,
        ``n_reference``, ``n_compared``, ``d_gini``, ``d_number`` and ``direction``. ``animals``
        numbers what is compared: analyses with the same number and the same choices of
        ``OF_NUMBERS`` are one.
    """
    inner = pd.MultiIndex.from_product([CELLS, GINI, NUMBER, STATISTIC], names=OF_NUMBERS)
    shape = tuple(map(len, inner.levels))
    parts: list[pd.DataFrame] = []
    seen: dict[tuple[frozenset[str], ...], int] = {}
    for least, rows in samples.items():
        table = counts.matrix(rows)
        animals = table.samples["animal"].to_numpy(str)
        gini, number = measured(table, rarefaction)
        for labels, young, old in groups(table.samples):
            # What animals there are decides the types of the tissue and the depth of rarefaction.
            compared = (frozenset(animals), frozenset(animals[young]), frozenset(animals[old]))
            who = between(table.samples["block"], young, old)
            d_gini, d_number = (_changes(values, who) for values in (gini, number))
            part = pd.DataFrame(index=inner).reset_index()
            part["d_gini"] = np.broadcast_to(d_gini[:, :, np.newaxis], shape).ravel()
            part["d_number"] = np.broadcast_to(d_number[:, np.newaxis], shape).ravel()
            of_animals = dict(zip(OF_ANIMALS, (*labels, str(least)), strict=True))
            size = dict(zip(("n_reference", "n_compared"), who.n, strict=True))
            number_of = seen.setdefault(compared, len(seen))
            parts.append(part.assign(**of_animals, **size, animals=number_of))
    if not parts or tuple(parts[0].loc[0, ["reference", "compared", "sex"]]) != (
        PUBLISHED,
        PUBLISHED,
        ALL,
    ):
        return pd.DataFrame()
    # The corrected Gini coefficient of an animal with a single type is undefined.
    analyses = pd.concat(parts, ignore_index=True).dropna(subset=["d_gini", "d_number"])
    return analyses.assign(direction=quadrant(analyses["d_gini"], analyses["d_number"]))


def measured(table: counts.Matrix, rarefaction: Rarefaction) -> tuple[Floats, Floats]:
    """Return both numbers of every animal, however they are taken.

    Returns
    -------
    gini, number : arrays of shape (n_animals, len(CELLS), len(GINI) or len(NUMBER))
        Of the rarefied ones the mean over draws, to the smallest sample at most.
    """
    smallest = int(table.counts.sum(axis=1).min())
    depth = min(rarefaction.depth or smallest, smallest)
    where = [str(table.samples[name].iloc[0]) for name in counts.TISSUE]

    def both(components: concentration.Components) -> list[dict[str, Floats]]:
        # The same draws for both, and those of the metrics table.
        rng = stream(rarefaction.seed, *where)
        equal = rarefied(
            table.counts, depth=depth, draws=rarefaction.draws, components=components, rng=rng
        )
        return [measure(table.counts, components=components), equal]

    present, tissue = both("present"), both("all")
    number = [[values[name] for name in NUMBER] for values in present]
    gini = [
        [one["gini"], one["gini_corrected"], other["gini"]]
        for one, other in zip(present, tissue, strict=True)
    ]
    # (len(CELLS), n, n_animals)
    return np.moveaxis(np.array(gini), -1, 0), np.moveaxis(np.array(number), -1, 0)


def groups(samples: pd.DataFrame) -> list[tuple[tuple[str, str, str], Flags, Flags]]:
    """Return who can be compared with whom: choices of ages and sex, the young and the old.

    Both groups of each have two animals; if those of the published choices have, these come first.
    """
    sex = samples["sex"].to_numpy(str)
    sexes = {ALL: np.ones(len(sex), dtype=bool)} | {
        name: sex == name for name in sorted(samples["sex"].dropna().unique())
    }
    found = []
    for (young, of_young), (old, of_old), (name, of_sex) in itertools.product(
        ages(samples, "reference"), ages(samples, "compared"), sexes.items()
    ):
        one, other = of_young & of_sex, of_old & of_sex
        if min(between(samples["block"], one, other).n) >= counts.MIN_ANIMALS:
            found.append(((young, old, name), one, other))
    return found


def ages(samples: pd.DataFrame, group: Literal["reference", "compared"]) -> list[tuple[str, Flags]]:
    """Return the ways to say who is young, or old, by the ages that animals have; none twice.

    Groups that conditions make have no other. After the published one stand the other cut-offs
    (young up to an age of a young animal, old from an age that is past youth), then single ages of
    the published group.

    Examples
    --------
    >>> animals = pd.DataFrame({"age_months": [1.0, 3.0, 18.0, 24.0]})
    >>> animals["group"] = ["reference", "reference", "other", "compared"]
    >>> animals["condition"] = None
    >>> [(name, who.tolist()) for name, who in ages(animals, "compared")]
    [('published', [False, False, False, True]), ('from 18', [False, False, True, True])]
    """
    months = samples["age_months"].to_numpy(float)
    inside = (samples["group"] == group).to_numpy()
    ways = {PUBLISHED: inside}
    if samples["condition"].notna().any():
        return list(ways.items())
    past = months[(samples["group"] != "reference").to_numpy()]
    if group == "reference":
        ways |= {f"up to {age:g}": months <= age for age in np.unique(months[inside])}
    else:
        ways |= {f"from {age:g}": months >= age for age in np.unique(past)}
    ways |= {f"only {age:g}": months == age for age in np.unique(months[inside])}
    first: dict[bytes, tuple[str, Flags]] = {}
    for name, who in ways.items():
        first.setdefault(who.tobytes(), (name, who))
    return list(first.values())


def departures(analyses: pd.DataFrame) -> pd.DataFrame:
    """Return the published analysis and those that depart from it in a single choice.

    Parameters
    ----------
    analyses
        What :func:`arm` returns, at least one row.

    Returns
    -------
    DataFrame
        ``MULTIVERSE_CHOICES`` but for the names of the arm.
    """
    kinds, published = list(KINDS), analyses.iloc[0]
    differs = analyses[kinds] != published[kinds]
    # Other words for the same animals are no other choice.
    real = differs[list(OF_NUMBERS)].any(axis=1) | (analyses["animals"] != published["animals"])
    single = analyses[(differs.sum(axis=1) == 1) & real]
    kind = differs.loc[single.index].idxmax(axis=1)
    rows = pd.concat([analyses.iloc[:1], single]).assign(kind=kind, choice=None)
    rows["kind"] = rows["kind"].fillna(PUBLISHED)
    same = analyses["direction"] == published["direction"]
    rows["same_share"] = same[distinct(analyses).index].mean()
    for at, name in kind.items():
        choice = rows.loc[at, name]
        made = distinct(analyses[analyses[name] == choice])
        rows.loc[at, ["choice", "same_share"]] = [choice, same[made.index].mean()]
    return rows.sort_values("kind", key=_place, kind="stable")


def distinct(analyses: pd.DataFrame) -> pd.DataFrame:
    """Return the analyses that compare different animals, or other numbers of them."""
    return analyses.drop_duplicates(["animals", *OF_NUMBERS])


def summary(analyses: pd.DataFrame, single: pd.DataFrame) -> dict[str, object]:
    """Return the row of ``MULTIVERSE`` of an arm, but for its names.

    Parameters
    ----------
    analyses
        What :func:`arm` returns.
    single
        What :func:`departures` returns.
    """
    directions = distinct(analyses)["direction"]
    direction = single["direction"].iloc[0]
    turning = single[single["direction"] != direction]
    said = "; ".join(f"{row.kind}: {row.choice}" for row in turning.itertuples())
    return {
        "direction": direction,
        "n_choices": len(directions),
        **{name: float((directions == name).mean()) for name in QUADRANTS},
        "n_single": len(single) - 1,
        "n_turning": len(turning),
        "turns_with": said or None,
    }


def _place(kinds: pd.Series) -> pd.Series:
    return kinds.map([PUBLISHED, *KINDS].index)


def _changes(values: Floats, who: Design) -> Floats:
    """Return compared minus reference, by each of ``STATISTIC`` along a new last axis."""
    young, old = who.split(values)
    return np.stack([who.change(values), old.mean(axis=0) - young.mean(axis=0)], axis=-1)


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    cells = counts.read_all(args.cells, list(settings.atlas.cells))
    table, choices = multiverse(cells, settings)
    tables.write(table, MULTIVERSE, args.out)
    tables.write(choices, MULTIVERSE_CHOICES, args.choices)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--cells", type=Path, required=True, help="folder of counts by file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--choices", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
