"""What is common to figures of clusters: a change with its interval, directions, named types."""

from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from stages.base.errors import FigureError
from stages.drawing import style

TISSUE = ["cohort", "platform", "tissue"]
METRICS = {"gini": "Gini coefficient", "effective_number": "Effective number of clusters"}
ROOM = 0.06
"""Beside the outermost interval, as a share of the axis."""


def plane(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of both metrics of a ``CLUSTER_CONTRAST`` that is not empty.

    Raises
    ------
    FigureError
        It compares other metrics only.
    """
    rows = table[table["metric"].isin(METRICS)]
    if missing := sorted(set(METRICS) - set(rows["metric"])):
        msg = (
            f"the cluster_contrast table does not compare {' and '.join(missing)}. "
            "Add it to clusters.contrast.metrics."
        )
        raise FigureError(msg)
    return rows


def at_resolution(table: pd.DataFrame, resolution: float) -> pd.DataFrame:
    """Return the rows of one resolution.

    Raises
    ------
    FigureError
        There is none.
    """
    rows = table[table["resolution"] == resolution]
    if rows.empty:
        there = ", ".join(f"{value:g}" for value in sorted(set(table["resolution"]))) or "none"
        msg = (
            f"the cluster_contrast table has no resolution {resolution:g}: it has {there}. "
            "Change clusters.reference, or add it to the resolutions of this table's stage."
        )
        raise FigureError(msg)
    return rows


def over_types(coarse: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of both metrics of a ``CONTRAST`` whose tissues other rows have too."""
    return coarse[coarse["metric"].isin(METRICS)].merge(rows[TISSUE].drop_duplicates())


def change(
    axes: Axes,
    at: float,
    row: pd.Series,
    *,
    width: float,
    colour: str = "",
    line: style.LineStyle = "-",
    upright: bool = False,
    doubtful: bool = False,
    **looks: Any,
) -> None:
    """Draw a change with its interval, across or upright.

    It has the marker and, unless another is given, the colour of its direction; `looks` are those
    of :func:`stages.drawing.style.point`.
    """
    direction, value = str(row["quadrant"]), float(row["change"])
    shade = colour or style.COLOURS[direction]
    shade = style.pale(shade) if doubtful else shade
    ends, place = [row["change_low"], row["change_high"]], [at, at]
    axes.plot(
        *((place, ends) if upright else (ends, place)),
        color=shade,
        linewidth=width,
        linestyle=line,
        solid_capstyle="butt",
        zorder=3,
    )
    where = (at, value) if upright else (value, at)
    style.point(axes, *where, direction, colour=shade, **looks)


def equal_cells() -> Line2D:
    """Return for the legend how the change from equal numbers of cells is drawn."""
    return Line2D(
        [],
        [],
        color=style.QUIET,
        marker=style.MARKERS["crystallize"],
        markersize=2.2,
        linewidth=0.5,
        label="small: equal cells",
    )


def limits(table: pd.DataFrame, others: Iterable[str] = ()) -> tuple[float, float]:
    """Return an axis that holds zero, all intervals and the `others` of the columns."""
    values = table[["change_low", "change_high", "change", *others]]
    low, high = min(float(values.min().min()), 0.0), max(float(values.max().max()), 0.0)
    room = ROOM * (high - low) or 1.0
    return low - room, high + room


def rows_axes(axes: Axes, n_rows: int, *, ticks: int, label: str) -> None:
    """Give axes one row a change from the top, a line at zero, and ticks where there is a label."""
    axes.set_ylim(n_rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=style.QUIET, linewidth=0.6, zorder=2)
    axes.grid(axis="x")
    axes.xaxis.set_major_locator(style.ticks(ticks))
    axes.tick_params(labelbottom=bool(label), bottom=bool(label))
    axes.spines["bottom"].set_visible(bool(label))
    axes.set_xlabel(label)
