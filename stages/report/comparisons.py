"""Put tables of comparisons into rows that a template can loop over, and count what they show."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from stages.measurement.concentration import QUADRANTS
from stages.measurement.resampling import SIGNIFICANT
from stages.report import text
from stages.report.reading import Tables

ARM = ["cohort", "platform"]
TISSUE = [*ARM, "tissue"]

Row = dict[str, Any]


def records(table: pd.DataFrame) -> list[Row]:
    """Return the rows of a table, numbers as Python's own."""
    rows: list[Row] = table.to_dict("records")
    return rows


def spread(
    table: pd.DataFrame, keys: Sequence[str], column: str = "metric", *, sort: bool = True
) -> list[Row]:
    """Return one row a group of `keys`: its first, and each of its rows by the name in `column`.

    Examples
    --------
    >>> table = pd.DataFrame({"step": [1, 1], "metric": ["gini", "n"], "value": [0.5, 2.0]})
    >>> [row] = spread(table, ["step"])
    >>> row["step"], row["n"]["value"]
    (1, 2.0)
    """
    found = []
    for _, group in table.groupby(list(keys), sort=sort):
        rows = records(group)
        found.append(rows[0] | {str(row[column]): row for row in rows})
    return found


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows in the order in which figures show their arms, and tissues by name."""

    def place(row: "pd.Series[str]") -> tuple[object, ...]:
        ranks = [
            list(names).index(name) if name in names else len(names)
            for names, name in ((text.COHORTS, row["cohort"]), (text.PLATFORMS, row["platform"]))
        ]
        return (ranks[0], row["cohort"], ranks[1], row["platform"], row["tissue"].casefold())

    arms = table[TISSUE].drop_duplicates()
    ranked = sorted(arms.index, key=lambda index: place(arms.loc[index]))
    rank = {tuple(arms.loc[index]): number for number, index in enumerate(ranked)}
    keys = zip(*(table[name] for name in TISSUE), strict=True)
    return table.iloc[np.argsort([rank[key] for key in keys], kind="stable")]


def keyed(rows: Iterable[Row], keys: Sequence[str]) -> dict[tuple[Any, ...], Row]:
    """Return rows by the values of their keys."""
    return {tuple(row[key] for key in keys): row for row in rows}


def all_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of both metrics from all cells."""
    rows: pd.DataFrame = table[(table["cells"] == "all") & table["metric"].isin(text.CHANGES)]
    return rows


def directions(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a comparison, from all cells: the quadrant of both metrics."""
    rows: pd.DataFrame = table[(table["cells"] == "all") & (table["metric"] == "gini")]
    return rows


def of_tissue(table: pd.DataFrame, key: Sequence[str]) -> pd.DataFrame:
    """Return the rows of a cohort, platform and tissue."""
    rows: pd.DataFrame = table[(table[TISSUE] == list(key)).all(axis=1)]
    return rows


def over_types(found: Tables, key: Sequence[str]) -> Row:
    """Return the comparison of a tissue over annotated types, with their number; or nothing."""
    rows = spread(of_tissue(all_cells(found.contrast), key), TISSUE)
    kept = of_tissue(found.proportions, key)
    return rows[0] | {"n_types": int(kept["cell_type"].nunique())} if rows else {}


def excludes_zero(rows: pd.DataFrame) -> pd.Series:
    """Say of each row whether its interval leaves out zero."""
    return (rows["change_low"] > 0) | (rows["change_high"] < 0)


def ends(column: pd.Series) -> tuple[float, float]:
    """Return the smallest and the largest value."""
    return float(column.min()), float(column.max())


def compared(table: pd.DataFrame) -> Row:
    """Return the comparisons of a table and what is counted of them.

    Returns
    -------
    dict
        ``rows``, one a comparison from all cells, with each metric's row by its name and the same
        from equal numbers of cells as ``equal``; ``quadrants``, these rows by quadrant;
        ``n_intervals`` of both metrics, how many of them leave out zero (``n_exclude_zero``), and
        by metric how many have a q that is small (``n_significant``); ``n_same``, how many keep
        their quadrant with equal cells; ``p_smallest``, both ends of what tests could reach.
    """
    keys = [key for key in (*TISSUE, "cell_type", "resolution") if key in table]
    plane = all_cells(table)
    rows = spread(in_order(plane), keys, sort=False)
    rarefied = table[(table["cells"] == "rarefied") & table["metric"].isin(text.CHANGES)]
    equal = keyed(spread(rarefied, keys), keys)
    for key, row in keyed(rows, keys).items():
        row["equal"] = equal.get(key, {})
    small = plane[plane["rank_q"] < SIGNIFICANT]["metric"]
    return {
        "rows": rows,
        "quadrants": {name: [row for row in rows if row["quadrant"] == name] for name in QUADRANTS},
        "n_intervals": len(plane),
        "n_exclude_zero": int(excludes_zero(plane).sum()),
        "n_significant": {metric: int((small == metric).sum()) for metric in text.CHANGES},
        "n_same": sum(row["quadrant"] == row["equal"].get("quadrant") for row in rows),
        "p_smallest": ends(plane["rank_p_smallest"]),
    }
