"""What was planted in simulated cohorts beside what their clusters show; real ones have none."""

from collections import Counter

import pandas as pd

from stages.base.settings import Settings
from stages.cells.names import NAMED, is_named
from stages.cells.tables.clusters import ALL_TYPES
from stages.cells.tables.truth import UNCHANGED
from stages.report import text
from stages.report.clusters import at_shown
from stages.report.comparisons import TISSUE, Row, directions, keyed, over_types, records
from stages.report.reading import Tables


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
    if found.planted.empty:
        return {}
    return {
        "kidney": _kidney(found),
        "substates": _substates(found, settings),
        "restriction": _restriction(found, clusters["restriction"]),
    }


def _planted(found: Tables, components: str) -> pd.Series:
    """Return the planted directions over `components`, by tissue and cell type."""
    planted = found.planted
    rows = planted[(planted["components"] == components) & (planted["metric"] == "gini")]
    return rows.set_index([*TISSUE, "cell_type"])["direction"]


def _kidney(found: Tables) -> Row:
    """Count the arms whose direction turns as planted, and where it is found as planted."""
    over = [_planted(found, components) for components in ("types", "substates")]
    counts = Counter({"n": 0})
    for key, rows in directions(found.kidney).groupby(TISSUE):
        # Real arms have nothing planted.
        if (*key, ALL_TYPES) not in over[0]:
            continue
        coarse, fine = (of[(*key, ALL_TYPES)] for of in over)
        types = over_types(found, key)
        counts["n"] += 1
        counts["turn"] += (coarse, fine) == ("crystallize", "disperse")
        counts["compared"] += bool(types)
        counts["of_types"] += types.get("quadrant") == coarse
        counts["finest"] += rows.sort_values("resolution")["quadrant"].iloc[-1] == fine
    return dict(counts) if counts["n"] else {}


def _substates(found: Tables, settings: Settings) -> Row:
    rows = keyed(records(directions(at_shown(found.substates, settings))), [*TISSUE, "cell_type"])
    if not rows:
        return {}
    made = _planted(found, "substates")
    changed = made[made != UNCHANGED].to_dict()
    planted = [(row, changed[key]) for key, row in rows.items() if key in changed]
    tissue = settings.granularity["curve"].tissues[0]
    named = {
        word: direction
        for (*_, where, kind), direction in changed.items()
        for word in NAMED
        if where == tissue and is_named(kind, (word,))
    }
    return {
        "n": len(planted),
        "wrong": [row for row, way in planted if row["quadrant"] != way],
        "named": {word: named[word] for word in NAMED if word in named},
    }


def _restriction(found: Tables, rescued: Row) -> Row:
    """Return how much of the drift of composition is taken back, and thereby of each metric."""
    if not rescued:
        return {}
    planted = found.planted
    here = (planted[TISSUE] == [rescued["first"][name] for name in TISSUE]).all(axis=1)
    here &= (planted["cell_type"] == ALL_TYPES) & (planted["components"] == "substates")
    truths = planted[here].set_index("metric")
    made: Row = {"restored": truths["drift_taken_back"].iloc[0]}
    for metric in text.CHANGES:
        row, truth = rescued[metric]["mean"], float(truths.loc[metric, "rescue_fraction"])
        # An empty interval holds nothing.
        holds = row["rescue_fraction_low"] <= truth <= row["rescue_fraction_high"]
        made[metric] = {"truth": truth, "found": row, "holds": holds}
    return made
