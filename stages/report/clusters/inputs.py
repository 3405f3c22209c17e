"""The tables about clusters, and what is looked up in them."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from stages.base.settings import Settings
from stages.report import text
from stages.report.reading import read_all

ARM = ["cohort", "platform"]
TISSUE = [*ARM, "tissue"]


class ClusterTables(NamedTuple):
    """The tables that the text on clusters rests on; each may be empty."""

    kidney: pd.DataFrame
    kimmel: pd.DataFrame
    stability: pd.DataFrame
    substates: pd.DataFrame
    substates_not_compared: pd.DataFrame
    restriction: pd.DataFrame
    restriction_tests: pd.DataFrame


def read_tables(folder: Path) -> ClusterTables:
    """Read and check all of them."""
    return ClusterTables(**read_all(ClusterTables._fields, folder))


def all_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of both metrics from all cells."""
    rows: pd.DataFrame = table[(table["cells"] == "all") & table["metric"].isin(text.CHANGES)]
    return rows


def directions(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a comparison, from all cells: the quadrant of both metrics."""
    rows: pd.DataFrame = table[(table["cells"] == "all") & (table["metric"] == "gini")]
    return rows


def at_shown(substates: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Return the substates at the one resolution that the text shows."""
    rows: pd.DataFrame = substates[substates["resolution"] == shown_resolution(settings)]
    return rows


def shown_resolution(settings: Settings) -> float:
    """Return the reference resolution, or the finest of the substates if they lack it."""
    resolutions: list[float] = settings.substates.resolutions
    reference: float = settings.clusters.reference
    return reference if reference in resolutions else resolutions[-1]


def over_types(aging: pd.DataFrame, key: tuple[str, str, str]) -> str:
    """Return the direction of a tissue over annotated types; empty if it was not compared."""
    rows = directions(aging)
    rows = rows[(rows[TISSUE] == list(key)).all(axis=1)]
    return str(rows["quadrant"].iloc[0]) if len(rows) else ""


def excludes_zero(rows: pd.DataFrame) -> pd.Series:
    """Say of each row whether its interval leaves out zero."""
    return (rows["change_low"] > 0) | (rows["change_high"] < 0)


def stable_both(stability: pd.DataFrame) -> pd.DataFrame:
    """Return one row a tissue and resolution: whether both metrics keep their direction.

    Returns
    -------
    DataFrame
        The tissue, `resolution`, `n_runs`, `n_same` (of the metric that keeps its direction less
        often), `stable` (both metrics are), `ari_median`, `ari_lowest`.
    """
    rows = stability.assign(
        n_same=(stability["same_direction_share"] * stability["n_runs"]).round().astype(int)
    )
    found = rows.groupby([*TISSUE, "resolution"], as_index=False, sort=True).agg(
        n_runs=("n_runs", "first"),
        n_same=("n_same", "min"),
        stable=("stable", "all"),
        ari_median=("ari_median", "first"),
        ari_lowest=("ari_lowest", "first"),
    )
    return found
