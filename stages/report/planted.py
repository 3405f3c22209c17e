"""What was planted in the simulated cohorts beside what their clusters show.

The truth is computed from the tables of the simulation (``stages/inputs/demo``), so that no text
repeats them. Real inputs have none.
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from stages.base.settings import Settings
from stages.cells.figures.clusters import NAMED
from stages.inputs.demo import model
from stages.measurement.concentration import effective_number, gini, quadrant
from stages.report import text
from stages.report.clusters import at_shown
from stages.report.comparisons import TISSUE, Row, directions, over_types, records
from stages.report.reading import Tables

NO_CHANGE = "none"

Floats = NDArray[np.float64]


def context(found: Tables, clusters: Row, settings: Settings) -> Row:
    """Return what was planted and found, by topic; nothing for inputs that are not simulated.

    Parameters
    ----------
    found
        The tables.
    clusters
        What :func:`stages.report.clusters.context` says of them.
    settings
        All settings.
    """
    if settings.atlas.source != "demo":
        return {"planted": {}}
    return {
        "planted": {
            "kidney": _kidney(found),
            "substates": _substates(found, settings),
            "restriction": _restriction(clusters["restriction"]),
        }
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


def _kidney(found: Tables) -> Row:
    """Count the arms whose direction turns as planted, and where it is found as planted."""
    counts = Counter({"n": 0})
    for key, rows in directions(found.kidney).groupby(TISSUE):
        of, types = _composition(*key), over_types(found, key)
        coarse = direction(of.young, of.old)
        fine = direction(*(with_substates(key[2], of, drift) for drift in (0, 1)))
        counts["n"] += 1
        counts["turn"] += (coarse, fine) == ("crystallize", "disperse")
        counts["compared"] += bool(types)
        counts["of_types"] += types.get("quadrant") == coarse
        counts["finest"] += rows.sort_values("resolution")["quadrant"].iloc[-1] == fine
    return dict(counts) if counts["n"] else {}


def _substates(found: Tables, settings: Settings) -> Row:
    rows = records(directions(at_shown(found.substates, settings)))
    made = [direction(*model.substates(row["tissue"], row["cell_type"])) for row in rows]
    planted = [(row, way) for row, way in zip(rows, made, strict=True) if way != NO_CHANGE]
    tissue = settings.kidney.tissue
    return (
        {
            "n": len(planted),
            "wrong": [row for row, way in planted if row["quadrant"] != way],
            "named": {word: direction(*model.substates(tissue, word)) for word in NAMED},
        }
        if rows
        else {}
    )


def _restriction(found: Row) -> Row:
    """Return how much of the drift of composition is taken back, and thereby of each metric."""
    if not found:
        return {}
    cohort, platform, tissue = (str(found["first"][name]) for name in TISSUE)
    of = _composition(cohort, platform, tissue)
    drifts = {animal.drift for animal in model.animals(model.cohort(cohort, platform))}
    (restricted,) = (drift for drift in drifts if 0 < drift < 1)
    young, between, old = (with_substates(tissue, of, drift) for drift in (0, restricted, 1))
    drift, rescue = change(young, old), change(between, old)
    made: Row = {"restored": 1 - restricted}
    for metric in text.CHANGES:
        row, truth = found[metric]["mean"], rescue[metric] / drift[metric]
        # An empty interval holds nothing.
        holds = row["rescue_fraction_low"] <= truth <= row["rescue_fraction_high"]
        made[metric] = {"truth": truth, "found": row, "holds": holds}
    return made
