"""The validation cohort: direction by tissue and resolution, and how stable it is."""

import pandas as pd

from stages.base.settings import Settings
from stages.measurement.resampling import SIGNIFICANT
from stages.report import text
from stages.report.clusters.inputs import (
    ARM,
    TISSUE,
    ClusterTables,
    all_cells,
    directions,
    excludes_zero,
    stable_both,
)
from stages.report.clusters.words import (
    along_resolutions,
    change_cells,
    how_stable,
    same_with_equal_cells,
)


def variables(found: ClusterTables, settings: Settings) -> dict[str, str]:
    """Return what the text says of the validation cohort; nothing without it."""
    if found.kimmel.empty:
        return {}
    rows = directions(found.kimmel)
    several = len(rows.drop_duplicates(ARM)) > 1

    def tissue(key: tuple[str, str, str]) -> str:
        name = text.tissue_name(key[2]).lower()
        return f"{name} ({text.arm(key[0], key[1])})" if several else name

    at = rows[rows["resolution"] == settings.clusters.reference]
    at_reference = {
        quadrant: [tissue((row.cohort, row.platform, row.tissue)) for row in part.itertuples()]
        for quadrant, part in at.groupby("quadrant")
    }
    along = [f"{tissue(key)} {along_resolutions(part)}" for key, part in rows.groupby(TISSUE)]
    plane = all_cells(found.kimmel)
    stability = found.stability.merge(rows[TISSUE].drop_duplicates())
    return {
        "at_reference": ", ".join(
            [
                f"{text.listed(names)} {(text.DOES if len(names) == 1 else text.DO)[quadrant]}"
                for quadrant, names in at_reference.items()
            ]
        ),
        "along": "; ".join(along),
        "animals": text.listed(
            sorted(
                {f"{row.n_young} young and {row.n_old} old animals" for row in rows.itertuples()}
            )
        ),
        "p_smallest": text.attainable_p(float(plane["mann_whitney_p_smallest"].min())),
        "n_significant": text.integer(int((plane["mann_whitney_q"] < SIGNIFICANT).sum())),
        "n_tests": text.integer(len(plane)),
        "n_intervals_exclude_zero": text.integer(int(excludes_zero(plane).sum())),
        "n_same_when_rarefied": same_with_equal_cells(found.kimmel),
    } | how_stable(stability, tissue)


def table(kimmel: pd.DataFrame, stability: pd.DataFrame) -> str:
    """Return the change of every tissue at every resolution, with its stability."""
    runs = stable_both(stability).set_index([*TISSUE, "resolution"])
    rows = []
    for key, part in all_cells(kimmel).groupby([*TISSUE, "resolution"]):
        by = part.set_index("metric")
        same, ari = text.DASH, text.DASH
        if key in runs.index:
            of = runs.loc[key]
            same = f"{of['n_same']} of {of['n_runs']}"
            ari = text.number(float(of["ari_median"]), 2)
        n_clusters = text.integer(int(by["n_clusters"].iloc[0]))
        name = text.tissue_name(key[2])
        rows.append([name, f"{key[3]:g}", n_clusters, *change_cells(by), same, ari])
    header = ["Tissue", "Resolution", "n", "ΔGini", "p", "ΔN~eff~", "p", "Direction", "Runs", "ARI"]
    return text.pipe_table(header, rows, align="lrrrrrrlrr")
