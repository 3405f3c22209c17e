"""Write the known truth of the simulated cohorts: the change of each tissue from young to old.

Two truths are told, because they differ. `change_of_mean_composition` is the metric of the old mean
composition less that of the young one. `change_of_medians` is what the pipeline estimates: the
difference of the medians, over animals, of the metric of each animal's own cells, here over very
many animals of the same ages, with as many cells as those of the cohort. The components are the
cell types present in a sample. Inputs that are not simulated have no known truth: their table is
empty.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.base import cli, settings, tables
from stages.cells.settings import Proportions
from stages.inputs.cells import age_group
from stages.inputs.demo import model
from stages.inputs.settings import DemoAtlas
from stages.inputs.tables import TRUTH
from stages.measurement.concentration import effective_number, gini

N_ANIMALS = 20_000
"""Simulated animals a group. The standard error of a median is then below 0.001 in Gini and 0.02 in
eff_N."""

SEED = 20260107
"""Of the truth alone: the cohorts' own seed does not move it."""

METRICS: dict[str, Callable[[Any], Any]] = {
    "gini": lambda counts: gini(counts, components="present"),
    "effective_number": effective_number,
}


def truth(atlas: DemoAtlas, rules: Proportions, *, n_animals: int = N_ANIMALS) -> pd.DataFrame:
    """Return the true changes of every simulated file that the pipeline reads cells from.

    Parameters
    ----------
    atlas
        The simulated files and what counts as young and old in each.
    rules
        Which samples count: too small ones and pooled labels are left out here as there.
    n_animals
        Animals a group, a multiple of the cohort's ages being best.

    Returns
    -------
    DataFrame
        A ``truth`` table.
    """
    files = {simulated.out: simulated for simulated in atlas.acquire.values()}
    rows = []
    for spec in atlas.cells.values():
        if spec.raw not in files:
            continue
        simulated = files[spec.raw]
        cohort = model.cohort(simulated.cohort, simulated.platform)
        for tissue, composition in model.compositions(cohort).items():
            if simulated.tissue not in {None, tissue}:
                continue
            generator = model.rng(SEED, f"{cohort.cohort}/{cohort.platform}/{tissue}")
            medians = {}
            for group in ("young", "old"):
                drifts = [
                    animal.drift
                    for animal in model.animals(cohort)
                    if age_group(animal.months, spec) == group
                    and animal.small_in != tissue
                    and not re.search(rules.pooled_pattern, animal.animal)
                ]
                counts = population(
                    cohort, composition, drifts, n_animals=n_animals, generator=generator
                )
                counts = counts[counts.sum(axis=1) >= rules.min_cells]
                medians[group] = {
                    metric: float(np.median(function(counts)))
                    for metric, function in METRICS.items()
                }
            for metric, function in METRICS.items():
                change_of_mean = function(composition.old) - function(composition.young)
                rows.append(
                    {
                        "cohort": spec.cohort,
                        "platform": spec.platform,
                        "tissue": tissue,
                        "metric": metric,
                        "change_of_mean_composition": float(change_of_mean),
                        "change_of_medians": medians["old"][metric] - medians["young"][metric],
                    }
                )
    return pd.DataFrame(rows, columns=list(TRUTH.columns))


def population(
    cohort: model.Cohort,
    composition: model.Composition,
    drifts: list[float],
    *,
    n_animals: int,
    generator: np.random.Generator,
) -> model.Integers:
    """Draw counts of annotated cells of very many animals, evenly spread over the drifts."""
    drift = np.resize(np.array(drifts), n_animals)
    cells = model.n_cells(cohort, composition, drift, generator)
    # Whether a cell is annotated does not depend on its type: thinning the number of cells is the
    # same.
    annotated = generator.binomial(cells, 1 - cohort.unannotated)
    return model.draw_counts(cohort, composition, drift, annotated, generator)


def _run(args: argparse.Namespace) -> None:
    chosen = settings.load(args.params)
    if chosen.atlas.source == "demo":
        table = truth(chosen.atlas, chosen.proportions)
    else:
        table = tables.empty(TRUTH)
    tables.write(table, TRUTH, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument(
        "--out", type=Path, required=True, help="the table of true changes to write"
    )
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
