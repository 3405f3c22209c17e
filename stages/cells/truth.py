"""Write what is known of the simulated cohorts: how each tissue changes, and what was planted.

Two truths are told of a tissue's change over annotated types, because they differ.
`change_of_mean_composition` is the metric of the old mean composition less that of the young one.
`change_of_medians` is what the pipeline estimates: the difference of the medians, over animals, of
the metric of each animal's own cells, here over very many animals of the same ages, with as many
cells as those of the cohort. The components are the cell types present in a sample.

What is planted is told of the mean compositions of the tissues that are clustered: the direction
over types and over substates, within each type, and what caloric restriction takes back.

Inputs that are not simulated have no known truth: their tables are empty.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.base import cli, settings, tables
from stages.cells.settings import Proportions
from stages.cells.tables.clusters import ALL_TYPES
from stages.cells.tables.truth import PLANTED, TRUTH, UNCHANGED
from stages.inputs.demo import model
from stages.inputs.groups import group_of
from stages.inputs.settings import CellsFile, DemoAtlas, Graph, Libraries
from stages.inputs.tables import TWO_GROUPS
from stages.measurement.concentration import effective_number, gini, quadrant

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
            for group in TWO_GROUPS:
                drifts = [
                    animal.drift
                    for animal in model.animals(cohort)
                    if group_of(spec.groups, animal.months, None) == group
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
                        "change_of_medians": medians["compared"][metric]
                        - medians["reference"][metric],
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


def planted(atlas: DemoAtlas) -> pd.DataFrame:
    """Return ``PLANTED``: what the simulated mean compositions of the clustered tissues hold."""
    files = {simulated.out: simulated for simulated in atlas.acquire.values()}
    clustered: list[tuple[CellsFile | Libraries, Graph | Libraries]]
    clustered = [(atlas.cells[of.cells], of) for of in atlas.graphs.values()]
    clustered += [(of, of) for of in atlas.libraries.values()]
    rows = []
    for arm, of in clustered:
        if of.raw not in files:
            continue
        cohort = model.cohort(files[of.raw].cohort, files[of.raw].platform)
        drifts = [animal.drift for animal in model.animals(cohort)]
        # The young are at 0, the old at 1; of the libraries, no other animals are in between.
        restricted = {drift for drift in drifts if 0 < drift < 1} if arm is of else set()
        found = _planted_in(of.tissue, model.compositions(cohort)[of.tissue], *restricted)
        known = {"cohort": arm.cohort, "platform": arm.platform, "tissue": of.tissue}
        rows += [known | row for row in found]
    return pd.DataFrame(rows, columns=list(PLANTED.columns))


def _planted_in(
    tissue: str, composition: model.Composition, restricted: float | None = None
) -> Iterator[dict[str, object]]:
    """Yield the rows of ``PLANTED`` of a tissue; `restricted`: the drift of the restricted."""
    ways: dict[str, Callable[[float], model.Floats]] = {
        "types": composition.mean,
        "substates": partial(with_substates, tissue, composition),
    }
    for components, at in ways.items():
        young, old = at(0), at(1)
        for row in _changes(young, old):
            if restricted is not None:
                metric = METRICS[row["metric"]]
                row["drift_taken_back"] = 1 - restricted
                row["rescue_fraction"] = (metric(old) - metric(at(restricted))) / row["change"]
            yield {"cell_type": ALL_TYPES, "components": components} | row
    for cell_type in composition.cell_types:
        for row in _changes(*model.substates(tissue, cell_type)):
            yield {"cell_type": cell_type, "components": "substates"} | row


def _changes(young: model.Floats, old: model.Floats) -> list[dict[str, Any]]:
    """Return the change of each metric between two mean compositions, and their direction.

    Examples
    --------
    >>> [row["direction"] for row in _changes(np.array([0.5, 0.5]), np.array([0.9, 0.1]))]
    ['crystallize', 'crystallize']
    >>> _changes(np.array([0.5, 0.5]), np.array([0.5, 0.5]))[0]
    {'metric': 'gini', 'change': 0.0, 'direction': 'none'}
    """
    changes = {metric: float(of(old) - of(young)) for metric, of in METRICS.items()}
    direction = UNCHANGED if np.array_equal(young, old) else str(quadrant(*changes.values()))
    return [
        {"metric": metric, "change": change, "direction": direction}
        for metric, change in changes.items()
    ]


def with_substates(tissue: str, composition: model.Composition, drift: float) -> model.Floats:
    """Return the mean composition of a tissue over types and substates together.

    Parameters
    ----------
    tissue
        Its name.
    composition
        Its mean composition over types.
    drift
        0 in youth, 1 in old age.

    Returns
    -------
    array of shape (n_substates of all types,)
    """
    parts = []
    for share, name in zip(composition.mean(drift), composition.cell_types, strict=True):
        young, old = model.substates(tissue, name)
        parts.append(share * ((1 - drift) * young + drift * old))
    return np.concatenate(parts)


def _run(args: argparse.Namespace) -> None:
    chosen = settings.load(args.params)
    known, made = tables.empty(TRUTH), tables.empty(PLANTED)
    if chosen.atlas.source == "demo":
        known, made = truth(chosen.atlas, chosen.proportions), planted(chosen.atlas)
    tables.write(known, TRUTH, args.out)
    tables.write(made, PLANTED, args.planted)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--out", type=Path, required=True, help="the table of true changes")
    parser.add_argument("--planted", type=Path, required=True, help="the table of what was planted")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
