"""What was planted in simulated cohorts beside what their clusters show; real ones have none."""

import pandas as pd

from stages.base.settings import Settings
from stages.cells.names import NAMED, is_named
from stages.cells.tables.clusters import ALL_TYPES
from stages.cells.tables.truth import UNCHANGED
from stages.report import text
from stages.report.clusters.inputs import TISSUE, ClusterTables, at_shown, directions, over_types
from stages.report.clusters.restriction import fraction


def variables(
    planted: pd.DataFrame, found: ClusterTables, aging: pd.DataFrame, settings: Settings
) -> dict[str, str]:
    """Return what was planted and found, as sentences; none for inputs that are not simulated.

    Parameters
    ----------
    planted
        ``PLANTED``.
    found
        The tables on clusters.
    aging
        The change over annotated cell types.
    settings
        All settings.
    """
    if planted.empty:
        return {}
    return {
        "kidney": _kidney(planted, found.kidney, aging),
        "substates": _substates(planted, found.substates, settings),
        "restriction": _restriction(planted, found.restriction, settings),
    }


def _planted(planted: pd.DataFrame, components: str) -> pd.Series:
    """Return the planted directions over `components`, by tissue and cell type."""
    rows = planted[(planted["components"] == components) & (planted["metric"] == "gini")]
    return rows.set_index([*TISSUE, "cell_type"])["direction"]


def _kidney(planted: pd.DataFrame, kidney: pd.DataFrame, aging: pd.DataFrame) -> str:
    if kidney.empty:
        return ""
    over = [_planted(planted, components) for components in ("types", "substates")]
    turn, of_types, compared, finest, n = 0, 0, 0, 0, 0
    for key, rows in directions(kidney).groupby(TISSUE):
        coarse, fine = (of[(*key, ALL_TYPES)] for of in over)
        n += 1
        turn += (coarse, fine) == ("crystallize", "disperse")
        found = over_types(aging, key)
        compared += bool(found)
        of_types += found == coarse
        finest += rows.sort_values("resolution")["quadrant"].iloc[-1] == fine
    name = text.tissue_name(key[2]).lower()
    return (
        f"The mean composition of the {name} crystallizes over types and disperses over types and "
        f"substates together in {turn} of {text.plural(n, 'arm')}. The planted direction is found "
        f"over annotated types in {of_types} of {compared} and over the finest clusters in "
        f"{finest} of {n}."
    )


def _substates(planted: pd.DataFrame, substates: pd.DataFrame, settings: Settings) -> str:
    if substates.empty:
        return ""
    made = _planted(planted, "substates")
    n, wrong = 0, []
    for row in directions(at_shown(substates, settings)).itertuples():
        truth = made.get((row.cohort, row.platform, row.tissue, row.cell_type), UNCHANGED)
        if truth == UNCHANGED:
            continue
        n += 1
        if truth != row.quadrant:
            where = f"{text.arm(str(row.cohort), str(row.platform))}, {row.tissue}"
            wrong.append(f"{row.cell_type} ({text.tissue_name(where)})")
    tissue = settings.granularity["curve"].tissues[0]
    ways = {
        word: text.DO[direction]
        for (*_, where, kind), direction in made[made != UNCHANGED].items()
        for word in NAMED
        if where == tissue and is_named(kind, (word,))
    }
    named = [f"{word}s {ways[word]}" for word in NAMED if word in ways]
    other = f"; another is found in {text.listed(wrong)}" if wrong else ""
    return (
        f"Within the types of the {text.tissue_name(tissue).lower()}, {text.listed(named)} in the "
        f"simulation. Of the types compared in any tissue, {n} have a planted direction, and "
        f"{n - len(wrong)} are found with it{other}."
    )


def _restriction(planted: pd.DataFrame, table: pd.DataFrame, settings: Settings) -> str:
    at = table[
        (table["resolution"] == settings.clusters.reference)
        & (table["cells"] == "all")
        & (table["libraries"] == "mean")
    ].set_index("metric")
    if at.empty:
        return ""
    made = planted.merge(at[TISSUE].drop_duplicates())
    made = made[(made["cell_type"] == ALL_TYPES) & (made["components"] == "substates")]
    truths = made.set_index("metric")
    parts = []
    for metric, name in (("gini", "Gini"), ("effective_number", "the effective number")):
        row, truth = at.loc[metric], float(truths.loc[metric, "rescue_fraction"])
        # An empty interval holds nothing.
        holds = row["rescue_fraction_low"] <= truth <= row["rescue_fraction_high"]
        parts.append(
            f"{text.number(truth, 2)} of that of {name} (found: {fraction(row)}, whose interval "
            f"over cells {'holds' if holds else 'does not hold'} it)"
        )
    return (
        f"Restriction takes back {made['drift_taken_back'].iloc[0]:g} of the drift of the mean "
        f"composition, and thereby {text.listed(parts)}."
    )
