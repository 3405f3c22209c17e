"""What was planted in the simulated cohorts beside what their clusters show.

The truth is computed from the tables of the simulation (``stages/inputs/demo``), so that no text
repeats them. Real inputs have none.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base.settings import Settings
from stages.cells.figures.clusters import NAMED
from stages.inputs.demo import model
from stages.measurement.concentration import effective_number, gini, quadrant
from stages.report import text
from stages.report.clusters.inputs import TISSUE, ClusterTables, at_shown, directions, over_types
from stages.report.clusters.restriction import fraction

NO_CHANGE = "none"

Floats = NDArray[np.float64]


def variables(found: ClusterTables, aging: pd.DataFrame, settings: Settings) -> dict[str, str]:
    """Return what was planted and found, as sentences; none for inputs that are not simulated.

    Parameters
    ----------
    found
        The tables on clusters.
    aging
        The change over annotated cell types.
    settings
        All settings.
    """
    if settings.atlas.source != "demo":
        return {}
    return {
        "kidney": _kidney(found.kidney, aging),
        "substates": _substates(found.substates, settings),
        "restriction": _restriction(found.caloric_restriction, settings),
    }


def change(young: Floats, old: Floats) -> dict[str, float]:
    """Return the change of both metrics between two mean compositions, shape (n_components,)."""
    return {
        "gini": float(gini(old) - gini(young)),
        "effective_number": float(effective_number(old) - effective_number(young)),
    }


def direction(young: Floats, old: Floats) -> str:
    """Return the quadrant between two mean compositions, or ``none`` if they are the same.

    Examples
    --------
    >>> direction(np.array([0.5, 0.5]), np.array([0.9, 0.1]))
    'crystallize'
    >>> direction(np.array([0.5, 0.5]), np.array([0.5, 0.5]))
    'none'
    """
    if np.array_equal(young, old):
        return NO_CHANGE
    found = change(young, old)
    return str(quadrant(found["gini"], found["effective_number"]))


def with_substates(tissue: str, of: model.Composition, drift: float) -> Floats:
    """Return the mean composition of a tissue over types and substates together.

    Parameters
    ----------
    tissue
        Its name.
    of
        Its mean composition over types.
    drift
        0 in youth, 1 in old age.

    Returns
    -------
    array of shape (n_substates of all types,)
    """
    parts = []
    for share, name in zip(of.mean(drift), of.cell_types, strict=True):
        young, old = model.substates(tissue, name)
        parts.append(share * ((1 - drift) * young + drift * old))
    return np.concatenate(parts)


def _composition(cohort: str, platform: str, tissue: str) -> model.Composition:
    return model.compositions(model.cohort(cohort, platform))[tissue]


def _kidney(kidney: pd.DataFrame, aging: pd.DataFrame) -> str:
    if kidney.empty:
        return ""
    turn, of_types, compared, finest, n = 0, 0, 0, 0, 0
    for key, rows in directions(kidney).groupby(TISSUE):
        tissue, of = key[2], _composition(*key)
        coarse = direction(of.young, of.old)
        fine = direction(with_substates(tissue, of, 0), with_substates(tissue, of, 1))
        n += 1
        turn += (coarse, fine) == ("crystallize", "disperse")
        found = over_types(aging, key)
        compared += bool(found)
        of_types += found == coarse
        finest += rows.sort_values("resolution")["quadrant"].iloc[-1] == fine
    name = text.tissue_name(tissue).lower()
    return (
        f"The mean composition of the {name} crystallizes over types and disperses over types and "
        f"substates together in {turn} of {text.plural(n, 'arm')}. The planted direction is found "
        f"over annotated types in {of_types} of {compared} and over the finest clusters in "
        f"{finest} of {n}."
    )


def _substates(substates: pd.DataFrame, settings: Settings) -> str:
    if substates.empty:
        return ""
    n, wrong = 0, []
    for row in directions(at_shown(substates, settings)).itertuples():
        made = direction(*model.substates(str(row.tissue), str(row.cell_type)))
        if made == NO_CHANGE:
            continue
        n += 1
        if made != row.quadrant:
            where = f"{text.arm(str(row.cohort), str(row.platform))}, {row.tissue}"
            wrong.append(f"{row.cell_type} ({text.tissue_name(where)})")
    tissue = settings.kidney.tissue
    named = [f"{word}s {text.DO[direction(*model.substates(tissue, word))]}" for word in NAMED]
    other = f"; another is found in {text.listed(wrong)}" if wrong else ""
    return (
        f"Within the types of the {text.tissue_name(tissue).lower()}, {text.listed(named)} in the "
        f"simulation. Of the types compared in any tissue, {n} have a planted direction, and "
        f"{n - len(wrong)} are found with it{other}."
    )


def _restriction(table: pd.DataFrame, settings: Settings) -> str:
    at = table[
        (table["resolution"] == settings.clusters.reference)
        & (table["cells"] == "all")
        & (table["libraries"] == "mean")
    ].set_index("metric")
    if at.empty:
        return ""
    cohort, platform, tissue = (str(at[name].iloc[0]) for name in TISSUE)
    of = _composition(cohort, platform, tissue)
    drifts = {animal.drift for animal in model.animals(model.cohort(cohort, platform))}
    (restricted,) = (drift for drift in drifts if 0 < drift < 1)
    young, between, old = (with_substates(tissue, of, drift) for drift in (0, restricted, 1))
    drift, rescue = change(young, old), change(between, old)
    parts = []
    for metric, name in (("gini", "Gini"), ("effective_number", "the effective number")):
        row, truth = at.loc[metric], rescue[metric] / drift[metric]
        # An empty interval holds nothing.
        holds = row["rescue_fraction_low"] <= truth <= row["rescue_fraction_high"]
        parts.append(
            f"{text.number(truth, 2)} of that of {name} (found: {fraction(row)}, whose interval "
            f"over cells {'holds' if holds else 'does not hold'} it)"
        )
    return (
        f"Restriction takes back {1 - restricted:g} of the drift of the mean composition, and "
        f"thereby {text.listed(parts)}."
    )
