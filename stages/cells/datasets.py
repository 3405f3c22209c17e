"""Compare two groups of donors in every tissue of every dataset of one large table of cells.

The table (tens of millions of rows, as CZ CELLxGENE's Census) is read once, in pieces, into its
distinct rows. Each dataset is then counted, measured and compared by the functions of the other
stages, in a process of its own and as a shard: a killed run goes on from those that are finished.

A donor who stands in several datasets (the same name, age, sex and tissue) counts once, where most
of the donor's cells are: datasets that are pooled must be independent. Interval and p are exact up
to ``EXACT_UP_TO`` donors a group, and of normal theory beyond.
"""

import argparse
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli, tables
from stages.base.errors import AtlasError
from stages.base.settings import load
from stages.cells import counts
from stages.cells.design import Design, design
from stages.cells.metrics import metrics
from stages.cells.proportions import proportions
from stages.cells.settings import Metrics, Proportions
from stages.cells.tables.pooled import DATASETS, DATASETS_NOT_COMPARED
from stages.compute import shards
from stages.compute.run import run
from stages.inputs import ages, cells
from stages.inputs.obs import N_CELLS, count_obs
from stages.inputs.settings import Datasets
from stages.measurement import resampling

Floats = NDArray[np.float64]

ALL = "(all)"
EXACT_UP_TO = 20
NODES = 200
SHOWN = 3


@cache
def _nodes() -> tuple[Floats, Floats]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return (nodes + 1) / 2, weights / 2


@cache
def median_variance(n: int) -> float:
    """Return the variance of the median of `n` independent standard normal values.

    The median of odd n is one order statistic, whose quantile is a beta variable; of even n it is
    the mean of two, and the lower is the upper's beta times a power of a uniform [1]_. Gauss-
    Legendre over both.

    References
    ----------
    .. [1] David, H. A. and Nagaraja, H. N. (2003). Order Statistics, 3rd ed., section 2.5.

    Examples
    --------
    >>> [round(median_variance(n), 3) for n in (1, 2, 3, 4, 5)]
    [1.0, 0.5, 0.449, 0.298, 0.287]
    """
    from scipy import special

    p, w = _nodes()
    half = n // 2
    if n % 2:
        return float(w @ special.ndtri(special.betaincinv(half + 1, half + 1, p)) ** 2)
    upper = special.betaincinv(half + 1, half, p)
    lower = upper[:, np.newaxis] * p ** (1 / half)
    middle = (special.ndtri(upper)[:, np.newaxis] + special.ndtri(lower)) / 2
    return float(w @ middle**2 @ w)


def size_factor(n_reference: int, n_compared: int, *, paired: bool) -> float:
    """Return the variance of a change of medians in units of that of donors in a group."""
    if paired:
        return 2 * median_variance(n_reference)
    return median_variance(n_reference) + median_variance(n_compared)


def compare(samples: pd.DataFrame, metric: str, *, confidence: float) -> dict[str, object]:
    """Compare both groups of the donors of one tissue in one metric; empty if there are too few.

    Parameters
    ----------
    samples
        ``METRICS`` of one tissue, from all or from equal numbers of cells.
    """
    from scipy import stats

    known = samples[samples[metric].notna()].reset_index(drop=True)
    found = design(known)
    if min(found.n) < counts.MIN_ANIMALS:
        return {}
    values = known[metric].to_numpy(float)
    reference, compared = found.split(values)
    spread = _spread(reference, compared, found)
    exact = max(found.n) <= EXACT_UP_TO
    if exact:
        interval = found.bootstrap(values, confidence=confidence)
        change, low, high = interval.estimate, interval.low, interval.high
        test = (
            resampling.signed_rank(compared - reference)
            if found.paired
            else resampling.mann_whitney(reference, compared)
        )
        p = test.p
    else:
        change = float(found.change(values))
        error = spread * math.sqrt(size_factor(*found.n, paired=found.paired))
        reach = float(stats.norm.isf((1 - confidence) / 2)) * error
        low, high = change - reach, change + reach
        p = _normal_p(reference, compared, paired=found.paired)
    return {
        "n_reference": reference.size,
        "n_compared": compared.size,
        "paired": found.paired,
        "reference_median": float(np.median(reference)),
        "compared_median": float(np.median(compared)),
        "change": change,
        "change_low": low,
        "change_high": high,
        "spread": spread,
        "rank_p": p,
        "exact": exact,
    }


def _spread(reference: Floats, compared: Floats, found: Design) -> float:
    if found.paired:
        return float((compared - reference).std(ddof=1) / math.sqrt(2))
    squares = sum(float(((x - x.mean()) ** 2).sum()) for x in (reference, compared))
    return math.sqrt(squares / (reference.size + compared.size - 2))


def _normal_p(reference: Floats, compared: Floats, *, paired: bool) -> float:
    from scipy import stats

    if np.ptp(np.concatenate([reference, compared])) == 0:
        return 1.0
    if paired:
        return float(stats.wilcoxon(compared - reference, method="approx").pvalue)
    return float(stats.mannwhitneyu(compared, reference, method="asymptotic").pvalue)


class How(NamedTuple):
    """How a dataset is counted, measured and compared."""

    spec: Datasets
    rules: Proportions
    metrics: Metrics
    tested: list[str]
    """Columns of ``METRICS``."""
    confidence: float


def of_dataset(rows: pd.DataFrame, name: str, how: How) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Count, measure and compare one dataset.

    Parameters
    ----------
    rows
        Its distinct rows of cells.
    name
        Of the dataset.

    Returns
    -------
    comparisons, not_compared
        ``DATASETS`` without adjusted p, and ``DATASETS_NOT_COMPARED``. What is wrong with a dataset
        is its reason, and ends nothing.
    """
    n_cells = int(rows[N_CELLS].sum())
    spec = how.spec.model_copy(update={"cohort": name})
    try:
        counted = cells.count(rows, spec, name=name, atlas=how.spec.cohort)
        measured = metrics(proportions(counted, how.rules)[0], how.metrics)
    except AtlasError as error:
        return pd.DataFrame(), _not_compared([[name, ALL, n_cells, str(error)]])
    found, skipped = [], []
    sizes = counted.groupby("tissue")["n_cells"].sum()
    for tissue in sizes.index:
        here = measured[measured["tissue"] == tissue]
        if min(design(here[here["cells"] == "all"].reset_index(drop=True)).n) < counts.MIN_ANIMALS:
            why = f"needs {counts.MIN_ANIMALS} donors in each group"
            skipped.append([name, tissue, int(sizes[tissue]), why])
            continue
        for kind, samples in here.groupby("cells", sort=True):
            for metric in how.tested:
                if compared := compare(samples, metric, confidence=how.confidence):
                    keys = {"dataset": name, "tissue": tissue, "cells": kind, "metric": metric}
                    found.append(keys | compared)
    return pd.DataFrame(found), _not_compared(skipped)


def _not_compared(rows: list[list[object]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(DATASETS_NOT_COMPARED.columns))


def shard(
    store: shards.Store, rows: pd.DataFrame, name: str, how: How
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what :func:`of_dataset` gives, from its shard if there is one of the same inputs.

    A shard that is damaged or of other inputs is computed again.
    """
    columns = [column for column in rows.columns if column != N_CELLS]
    texts = rows.astype(dict.fromkeys(columns, object))
    rows = texts.sort_values(columns, ignore_index=True)
    decides = {
        "rows": hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest(),
        "how": repr(how),
        "name": name,
        "columns": [*DATASETS.columns, *DATASETS_NOT_COMPARED.columns],
    }
    label = hashlib.sha256(name.encode()).hexdigest()[:16]
    kept_as = shards.Shard(label, shards.key_of(decides), None)
    arrays = store.read(kept_as)
    if arrays is None:
        arrays = {
            f"{part} {column}": np.asarray(table[column].tolist())
            for part, table in enumerate(of_dataset(rows, name, how))
            for column in table.columns
        }
        store.write(kept_as, arrays)
    compared, skipped = (
        pd.DataFrame({label[2:]: of for label, of in arrays.items() if label[0] == part})
        for part in "01"
    )
    return compared, skipped


def kept(obs: pd.DataFrame, spec: Datasets, *, name: str, atlas: str) -> pd.DataFrame:
    """Return the rows of cells that `spec` asks for, of donors who count, with their dataset.

    Without an age that is understood, a cell belongs to no group; how many is said.

    Parameters
    ----------
    obs
        What :func:`stages.inputs.obs.count_obs` gives.

    Raises
    ------
    AtlasError
        No cell is left, or some are of no dataset.
    """
    where = f"conf/atlas/{atlas}.yaml: datasets.{name}"
    for column, value in spec.where.items():
        texts = cells.as_text(obs[column])
        if (texts != value).all():
            there = ", ".join(sorted(texts.dropna().unique())[:SHOWN])
            msg = (
                f"no cell of {spec.raw} that is left has {value!r} in column {column}; values "
                f"there are: {there or 'none'}. Change {where}.where."
            )
            raise AtlasError(msg)
        obs = obs[texts == value]
    columns = spec.columns
    if spec.groups.by_age and columns.age is not None:
        labels = cells.as_text(obs[columns.age])
        unknown = [
            label
            for label in sorted(labels.dropna().unique())
            if label not in spec.age_months and ages.parse(label, spec.age_unit) is None
        ]
        stated = labels.notna() & ~labels.isin(unknown)
        if not stated.all():
            lost = obs[~stated]
            cli.log.warning(
                "%s: %d of %d cells have no age that is understood and are left out (%s); add what "
                "is an age to %s.age_months",
                spec.raw,
                int(lost[N_CELLS].sum()),
                int(obs[N_CELLS].sum()),
                ", ".join(unknown[:SHOWN]) or "empty",
                where,
            )
            obs = obs[stated]
        if obs.empty:
            msg = (
                f"no cell of {spec.raw} has an age that is understood. "
                f"Add what is one to {where}.age_months."
            )
            raise AtlasError(msg)
    if columns.dataset is None:
        dataset = pd.Series(spec.cohort, obs.index, dtype=object)
    else:
        dataset = cells.as_text(obs[columns.dataset])
    if missing := int(obs.loc[dataset.isna(), N_CELLS].sum()):
        msg = (
            f"{missing} of {int(obs[N_CELLS].sum())} cells have no dataset in column "
            f"{columns.dataset} of {spec.raw}. Fill it in, or leave those cells out of the file."
        )
        raise AtlasError(msg)
    return _once(obs.assign(dataset=dataset), spec)


def _once(obs: pd.DataFrame, spec: Datasets) -> pd.DataFrame:
    """Leave a donor who stands in several datasets in the one with most of the donor's cells."""
    columns = spec.columns
    names = [columns.animal, columns.tissue, columns.age, columns.sex, columns.condition]
    key = [name for name in dict.fromkeys(names) if name is not None]
    of_donor = pd.DataFrame({name: pd.factorize(cells.as_text(obs[name]))[0] for name in key})
    donor = of_donor.groupby(key, sort=False).ngroup().to_numpy()
    totals = obs[N_CELLS].groupby([donor, obs["dataset"].to_numpy()]).sum().rename("n")
    ordered = totals.reset_index().sort_values(["level_0", "n", "level_1"], ascending=[1, 0, 1])
    home = ordered.drop_duplicates("level_0").set_index("level_0")["level_1"]
    several = ordered["level_0"].duplicated(keep=False)
    if several.any():
        first = int(ordered.loc[several, "level_0"].iloc[0])
        cli.log.warning(
            "%s: %d samples of donors stand in several datasets, the first of donor %s; each "
            "counts once, where most of the donor's cells are",
            spec.raw,
            ordered.loc[several, "level_0"].nunique(),
            obs.iloc[int(np.flatnonzero(donor == first)[0])][columns.animal],
        )
    return obs[obs["dataset"].to_numpy() == home.loc[donor].to_numpy()]


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    if args.collection not in settings.datasets:
        allowed = ", ".join(sorted(settings.datasets)) or "none"
        msg = (
            f"atlas {settings.atlas.name} has no datasets {args.collection!r}: it names {allowed}. "
            f"Add it to conf/atlas/{settings.atlas.name}.yaml: datasets."
        )
        raise AtlasError(msg)
    spec: Datasets = settings.datasets[args.collection]
    columns = cells.wanted_columns(spec)
    columns += [spec.columns.dataset] if spec.columns.dataset else []
    change = f"conf/atlas/{settings.atlas.name}.yaml: datasets.{args.collection}.columns"
    obs = count_obs(spec.raw, columns, change=change, modality=spec.modality)
    obs = kept(obs, spec, name=args.collection, atlas=settings.atlas.name)
    tested, confidence = settings.contrast.metrics, settings.contrast.confidence
    how = How(spec, settings.proportions, settings.metrics, tested, confidence)
    store, tasks = shards.store(args.scratch, raises=AtlasError), []
    for name, rows in obs.groupby("dataset", sort=True):
        # A worker is sent the texts of its own dataset, not those of all.
        used = {
            column: rows[column].cat.remove_unused_categories()
            for column in columns
            if isinstance(rows[column].dtype, pd.CategoricalDtype)
        }
        tasks.append((store, rows.drop(columns="dataset").assign(**used), str(name), how))
    del obs
    found = run(shard, tasks)
    compared = pd.concat([one for one, _ in found], ignore_index=True)
    skipped = pd.concat([other for _, other in found], ignore_index=True)
    if compared.empty:
        msg = (
            f"none of {len(tasks)} datasets of {spec.raw} can be compared; the first: "
            f"{skipped['reason'].iloc[0]}"
        )
        raise AtlasError(msg)
    family = compared.groupby(["cells", "metric"])["rank_p"]
    compared["rank_q"] = family.transform(resampling.benjamini_hochberg)
    cli.log.info(
        "%d datasets: %d tissues compared in %d of them, %d not",
        len(tasks),
        len(compared[["dataset", "tissue"]].drop_duplicates()),
        compared["dataset"].nunique(),
        len(skipped),
    )
    tables.write(compared[list(DATASETS.columns)], DATASETS, args.out)
    skipped = skipped if len(skipped) else tables.empty(DATASETS_NOT_COMPARED)
    tables.write(skipped, DATASETS_NOT_COMPARED, args.not_compared)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--collection", required=True, help="a key of atlas.datasets")
    parser.add_argument("--scratch", type=Path, required=True, help="folder of finished shards")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--not-compared", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
