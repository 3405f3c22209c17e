"""Measure each sample: Gini, effective number and their relatives.

Original step 02. Each is taken from all cells of the sample and from equal numbers of cells, with
corrected estimators beside the plain ones, because the number of cells moves all of these: a deeper
sample shows more rare types.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli, tables
from stages.base.errors import SettingsError
from stages.base.settings import load
from stages.cells import counts
from stages.cells.settings import Metrics
from stages.cells.tables.metrics import METRICS
from stages.cells.tables.proportions import PROPORTIONS
from stages.measurement import concentration
from stages.measurement.streams import stream

Floats = NDArray[np.float64]


def metrics(proportions: pd.DataFrame, settings: Metrics) -> pd.DataFrame:
    """Return the metrics of every sample (``METRICS``).

    Parameters
    ----------
    proportions
        ``PROPORTIONS``.
    settings
        The category set and the rarefaction.

    Raises
    ------
    SettingsError
        The fixed categories leave out a type that has cells, or the depth of rarefaction is above a
        sample's cells.
    """
    parts = []
    tissues = proportions.groupby(counts.TISSUE, sort=True)
    for name, tissue in tissues:
        table = counts.matrix(tissue)
        matrix = _with_categories(table, settings)
        n_cells = matrix.sum(axis=1)
        depth = settings.rarefaction.depth or int(n_cells.min())
        if depth > n_cells.min():
            msg = (
                f"metrics.rarefaction.depth {depth} is above the {int(n_cells.min())} cells "
                f"of the smallest sample of {' '.join(map(str, name))}. "
                "Lower it, raise proportions.min_cells, or set it to null."
            )
            raise SettingsError(msg)
        components: concentration.Components = (
            "present" if settings.category_set == "present" else "all"
        )
        rng = stream(settings.rarefaction.seed, *name)
        everything = measure(matrix, components=components)
        equal = rarefied(
            matrix, depth=depth, draws=settings.rarefaction.draws, components=components, rng=rng
        )
        for cells, values, n in (
            ("all", everything, n_cells.astype(int)),
            ("rarefied", equal, np.full(len(matrix), depth)),
        ):
            parts.append(table.samples.assign(cells=cells, n_cells=n, **values))
    key = ["cohort", "platform", "tissue", "cells", "animal"]
    return pd.concat(parts, ignore_index=True).sort_values(key, ignore_index=True)


def measure(matrix: Floats, *, components: concentration.Components) -> dict[str, Floats]:
    """Return every metric of count vectors along the last axis, by the name of its column."""
    orders = concentration.hill_number(matrix, [0.0, 0.5, 1.0, 2.0])
    values = {
        "gini": concentration.gini(matrix, components=components),
        "gini_corrected": concentration.gini_corrected(matrix, components=components),
        "effective_number": concentration.effective_number(matrix),
        "effective_number_miller_madow": concentration.effective_number(
            matrix, estimator="miller_madow"
        ),
        "effective_number_chao_shen": concentration.effective_number(matrix, estimator="chao_shen"),
        "richness": concentration.richness(matrix),
        "evenness": concentration.evenness(matrix),
    }
    arrays = {name: np.asarray(value) for name, value in values.items()}
    profile = np.moveaxis(np.asarray(orders), -1, 0)
    return arrays | dict(zip(("hill_0", "hill_0_5", "hill_1", "hill_2"), profile, strict=True))


def rarefied(
    matrix: Floats,
    *,
    depth: int,
    draws: int,
    components: concentration.Components,
    rng: np.random.Generator,
) -> dict[str, Floats]:
    """Return the mean of every metric over `draws` subsamples of `depth` cells without replacement.

    Parameters
    ----------
    matrix : shape (n_samples, n_types)
        Counts; every sample holds at least `depth` cells.
    """
    means: dict[str, list[float]] = {}
    for row in matrix.astype(np.int64):
        # (draws, n_types)
        drawn = rng.multivariate_hypergeometric(row, depth, size=draws, method="marginals")
        for name, values in measure(drawn.astype(np.float64), components=components).items():
            means.setdefault(name, []).append(float(values.mean()))
    return {name: np.array(values) for name, values in means.items()}


def _with_categories(table: counts.Matrix, settings: Metrics) -> Floats:
    """Return the counts over the category set; only ``fixed`` differs from the types seen."""
    if settings.category_set != "fixed":
        return table.counts
    categories = settings.fixed_categories
    if unknown := sorted(set(table.types) - set(categories)):
        msg = (
            f"metrics.fixed_categories lacks {', '.join(unknown[:5])}, which have cells in "
            f"{table.samples['tissue'].iloc[0]}. "
            "Add them, or take the category set tissue or present."
        )
        raise SettingsError(msg)
    where = [categories.index(name) for name in table.types]
    matrix = np.zeros((len(table.counts), len(categories)))
    matrix[:, where] = table.counts
    return matrix


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    proportions = tables.read(args.proportions, PROPORTIONS)
    tables.write(metrics(proportions, settings.metrics), METRICS, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--proportions", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
