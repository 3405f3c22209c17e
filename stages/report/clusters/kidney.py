"""The kidney over granularity: which way it goes over types and over ever finer clusters."""

import pandas as pd

from stages.base.settings import Settings
from stages.report import text
from stages.report.clusters.inputs import (
    TISSUE,
    ClusterTables,
    all_cells,
    directions,
    excludes_zero,
    over_types,
)
from stages.report.clusters.words import (
    along_resolutions,
    change_cells,
    how_stable,
    number_range,
    same_with_equal_cells,
)


def variables(
    found: ClusterTables, aging: pd.DataFrame, proportions: pd.DataFrame, settings: Settings
) -> dict[str, str]:
    """Return what the text says of the kidney; nothing if no kidney was clustered."""
    if found.kidney.empty:
        return {}
    followed = settings.granularity["curve"].tissues
    tissue = text.listed([text.tissue_name(name).lower() for name in followed])
    of_arms: dict[str, list[str]] = {}
    along, same = [], []
    for key, rows in directions(found.kidney).groupby(TISSUE):
        arm = text.arm(key[0], key[1])
        if of_types := over_types(aging, key):
            n_types = _n_types(proportions, key)
            of_arms.setdefault(of_types, []).append(f"{arm} ({text.plural(n_types, 'type')})")
        n_clusters = number_range(rows["n_clusters"], 0)
        along.append(f"{arm} {along_resolutions(rows)} ({n_clusters} clusters)")
        distinct = len(rows.drop_duplicates(["n_clusters", "change"]))
        same.append(f"{distinct} in {arm}")
    by_direction = [f"{text.DOES[way]} in {text.listed(arms)}" for way, arms in of_arms.items()]
    stability = found.stability[found.stability["tissue"].isin(followed)]
    return {
        "tissue": tissue,
        "types_sentence": (
            f"Over annotated types it {text.listed(by_direction)}."
            if of_arms
            else f"Over annotated types the {tissue} was not compared."
        ),
        "along": "; ".join(along),
        "turn_sentence": _turns(found.kidney, aging),
        "distinct": text.listed(same),
        "n_same_when_rarefied": same_with_equal_cells(found.kidney),
    } | how_stable(stability, lambda key: text.arm(key[0], key[1]))


def _n_types(proportions: pd.DataFrame, key: tuple[str, str, str]) -> int:
    here = proportions[(proportions[TISSUE] == list(key)).all(axis=1)]
    return int(here["cell_type"].nunique())


def _turns(kidney: pd.DataFrame, aging: pd.DataFrame) -> str:
    """Say where the direction turns over clusters, and where only between types and clusters."""
    turning, sure, one_way = [], [], []
    for key, rows in all_cells(kidney).groupby(TISSUE):
        arm = text.arm(key[0], key[1])
        by = dict(iter(rows.groupby("quadrant")))
        if {"crystallize", "disperse"} <= set(by):
            turning.append(arm)
            if all(_some_sure(by[quadrant]) for quadrant in ("crystallize", "disperse")):
                sure.append(arm)
        elif len(by) == 1:
            one_way.append((arm, str(next(iter(by))), over_types(aging, key)))
    parts = []
    if turning:
        parts.append(f"Over clusters alone the direction turns in {text.listed(turning)}.")
        parts.append(
            "Clusterings of both directions whose intervals leave out zero, for both metrics, "
            f"are found in {text.listed(sure)}."
            if sure
            else "In no arm do the intervals of both metrics leave out zero on both sides of the "
            "turn."
        )
    else:
        parts.append("Over clusters alone the direction turns in no arm.")
    for arm, quadrant, of_types in one_way:
        if of_types and of_types != quadrant:
            parts.append(
                f"In {arm} clusters of every granularity {text.DO[quadrant]}: what turns there is "
                "the step from annotated types to clusters."
            )
    return " ".join(parts)


def _some_sure(rows: pd.DataFrame) -> bool:
    """Say whether at some resolution the intervals of both metrics leave out zero."""
    sure = excludes_zero(rows).groupby(rows["resolution"]).all()
    return bool(sure.any())


def table(
    kidney: pd.DataFrame, aging: pd.DataFrame, proportions: pd.DataFrame, settings: Settings
) -> str:
    """Return the types, the resolutions of all clusters and both ends of the curve."""
    rows = []
    ends = {kidney["resolution"].min(), kidney["resolution"].max()}
    shown = sorted({*settings.clusters.resolutions, *ends} & set(kidney["resolution"]))
    for key, part in all_cells(kidney).groupby(TISSUE):
        arm = text.arm(key[0], key[1])
        of_types = all_cells(aging)
        of_types = of_types[(of_types[TISSUE] == list(key)).all(axis=1)].set_index("metric")
        if len(of_types):
            n_types = text.integer(_n_types(proportions, key))
            rows.append([arm, "types", n_types, *change_cells(of_types)])
        last: list[str] = []
        for resolution in shown:
            of_clusters = part[part["resolution"] == resolution].set_index("metric")
            n_clusters = text.integer(int(of_clusters["n_clusters"].iloc[0]))
            cells = [n_clusters, *change_cells(of_clusters)]
            if cells == last:
                first = rows[-1][1].partition(text.DASH)[0]
                rows[-1][1] = f"{first}{text.DASH}{resolution:g}"
            else:
                rows.append([arm, f"{resolution:g}", *cells])
            last = cells
    header = ["Arm", "Granularity", "n", "ΔGini", "p", "ΔN~eff~", "p", "Direction"]
    return text.pipe_table(header, rows, align="lrrrrrrl")
