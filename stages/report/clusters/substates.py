"""Substates within cell types, at the one resolution that the text shows."""

import pandas as pd

from stages.base.settings import Settings
from stages.cells.names import NAMED, is_named
from stages.measurement.concentration import QUADRANTS
from stages.measurement.resampling import SIGNIFICANT
from stages.report import text
from stages.report.clusters.inputs import (
    TISSUE,
    ClusterTables,
    all_cells,
    at_shown,
    directions,
    shown_resolution,
)
from stages.report.clusters.words import change, change_cells, p_equals, same_with_equal_cells


def variables(found: ClusterTables, settings: Settings) -> dict[str, str]:
    """Return what the text says of substates; nothing if no type was compared."""
    if found.substates.empty:
        return {}
    at = at_shown(found.substates, settings)
    rows, plane = directions(at), all_cells(at)
    others = directions(found.substates)
    others = others[others["resolution"] != shown_resolution(settings)]
    key = [*TISSUE, "cell_type"]
    both = others.merge(rows, on=key, suffixes=("", "_shown"))
    kept = int((both["quadrant"] == both["quadrant_shown"]).sum())
    significant = {
        metric: int((part["mann_whitney_q"] < SIGNIFICANT).sum())
        for metric, part in plane.groupby("metric")
    }
    elsewhere = text.listed([f"{value:g}" for value in sorted(set(others["resolution"]))])
    return (
        {
            f"n_{quadrant}": text.integer(int((rows["quadrant"] == quadrant).sum()))
            for quadrant in QUADRANTS
        }
        | {
            f"n_{metric}_significant": text.integer(significant.get(metric, 0))
            for metric in text.CHANGES
        }
        | {
            "n_compared": text.plural(len(rows), "comparison"),
            "n_not_compared": text.plural(len(found.substates_not_compared), "type"),
            "named_sentence": " ".join(_named(plane, word) for word in NAMED),
            "n_same_when_rarefied": same_with_equal_cells(at),
            "other_sentence": (
                f"{kept} of {len(both)} have the same direction at resolution {elsewhere}."
                if len(both)
                else ""
            ),
        }
    )


def _named(plane: pd.DataFrame, word: str) -> str:
    """Say what the substates of one of the published cell types do."""
    mine = plane[
        plane["cell_type"].map(lambda name: is_named(str(name)) and word in str(name).lower())
    ]
    if mine.empty:
        return f"{word.capitalize()}s could be compared nowhere."
    parts = []
    for (*tissue, _), rows in mine.groupby([*TISSUE, "cell_type"]):
        by = rows.set_index("metric")
        changes = "; ".join(
            f"{name} {change(by.loc[metric], metric)}, {p_equals(by.loc[metric, 'mann_whitney_p'])}"
            for metric, (name, _) in text.CHANGES.items()
        )
        where = f"{text.tissue_name(tissue[2]).lower()} ({text.arm(tissue[0], tissue[1])})"
        parts.append(f"{text.DO[str(rows['quadrant'].iloc[0])]} in {where}: {changes}")
    return f"{word.capitalize()}s {'; they '.join(parts)}."


def table(at: pd.DataFrame) -> str:
    """Return the change within every type, at one resolution."""
    rows = []
    for key, part in all_cells(at).groupby([*TISSUE, "cell_type"]):
        by = part.set_index("metric")
        first = by.iloc[0]
        # A line may break after the tissue only.
        arm = text.arm(key[0], key[1]).replace(" ", text.NBSP)
        rows.append(
            [
                f"{text.tissue_name(key[2])}, {arm}",
                str(key[3]),
                text.integer(int(first["n_clusters"])),
                f"{first['n_young']}, {first['n_old']}",
                *change_cells(by, p="mann_whitney_q"),
            ]
        )
    header = ["Tissue", "Cell type", "k", "n", "ΔGini", "q", "ΔN~eff~", "q", "Direction"]
    return text.pipe_table(header, rows, align="llrrrrrrl")
