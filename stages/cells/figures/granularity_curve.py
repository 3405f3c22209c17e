"""Draw the change of one tissue against granularity: from annotated types to ever finer clusters.

Original step 13, the symmetry test. One column a cohort and platform, with the Gini coefficient
above, the effective number below it and the number of clusters at the foot; where a curve crosses
zero the direction flips. Annotated cell types stand left of the logarithmic axis of resolutions.
"""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from stages.base.study import Groups, Study
from stages.cells.figures import clusters
from stages.cells.tables.clusters import CLUSTER_CONTRAST
from stages.cells.tables.contrast import CONTRAST
from stages.drawing import command, style

NAME = "kidney_symmetry"
"""Of its files, as the study published the figure."""

PANEL_MM = 38.0
COUNT_MM = 15.0
"""Height of the panel of the number of clusters."""
HEAD_MM = 10.0
GAP_MM = 3.5
AXIS_MM = 12.0
LINE_MM = 3.8
LEFT_MM, RIGHT_MM, BETWEEN_MM = 16.0, 2.5, 4.0
LABELS = {"gini": "Change of Gini", "effective_number": "Change of\neffective number"}
LABEL_MM = 5.0
"""From the left of the page to the middle of the labels."""
COARSE, BREAK, END = 0.16, 0.09, 0.05
"""How far left of the lowest resolution the cell types stand, and the line that parts them from it;
how far the axis runs on at both ends. As shares of the span of resolutions."""
BAND = "#ececec"
MARKS = 0.6
"""Size of the markers of a curve; that of the cell types is 1."""


@style.styled
def draw(contrast: pd.DataFrame, coarse: pd.DataFrame, *, about: Study) -> Figure:
    """Return one column a cohort and platform: both changes, and the number of clusters.

    Parameters
    ----------
    contrast
        ``CLUSTER_CONTRAST`` of one tissue at many resolutions. Without rows, the figure says so in
        words.
    coarse
        ``CONTRAST``: the change over annotated cell types. The rows of the same tissue, cohorts
        and platforms are drawn; where there are none, the curve stands alone.

    Raises
    ------
    FigureError
        The metrics were not compared.
    """
    if contrast.empty:
        return style.message(
            "The atlas has no graph of the tissue\nthat is followed over resolution."
        )
    rows = clusters.plane(contrast)
    types = clusters.over_types(coarse, rows)
    shown = style.arms(rows)
    several = rows["tissue"].nunique() > 1
    width = style.DOUBLE_MM if len(shown) > 1 else style.SINGLE_MM
    both = pd.concat([rows, types])
    handles = _handles(both)
    legend_columns = len(handles) if len(shown) > 1 else 2
    legend_mm = 1 + LINE_MM * math.ceil(len(handles) / legend_columns)
    heights = {**dict.fromkeys(LABELS, PANEL_MM), "n_clusters": COUNT_MM}
    body = sum(heights.values()) + GAP_MM * (len(heights) - 1)
    height = HEAD_MM + body + AXIS_MM + legend_mm + style.STRIP_MM
    figure, canvas = style.page(width, height)
    free = width - LEFT_MM - RIGHT_MM - BETWEEN_MM * (len(shown) - 1)
    each = free / len(shown)
    span = _Span(float(rows["resolution"].min()), float(rows["resolution"].max()))
    reaches = {metric: clusters.limits(both[both["metric"] == metric]) for metric in LABELS}
    reaches["n_clusters"] = (0.0, 1.1 * float(rows["n_clusters"].max()))
    for column, (which, tissue, here) in enumerate(shown):
        left, top = LEFT_MM + column * (each + BETWEEN_MM), HEAD_MM
        label = f"{which.label}, {style.name(tissue)}" if several else which.label
        _head(canvas, left, style.shorten(label, each / 1.15), here, about.groups(here))
        for panel, high in heights.items():
            axes = style.add_axes(figure, left=left, top=top, width=each, height=high)
            if panel == "n_clusters":
                _counts(axes, here)
            else:
                _curve(axes, here[here["metric"] == panel])
                of_types = style.of_series(types, which)
                mine = (of_types["tissue"] == tissue) & (of_types["metric"] == panel)
                _types(axes, of_types[mine], span)
            axes.set_ylim(reaches[panel])
            _frame(axes, span, first=column == 0, last=panel == "n_clusters")
            if column == 0:
                canvas.text(
                    LABEL_MM,
                    top + high / 2,
                    LABELS.get(panel, "Clusters"),
                    rotation=90,
                    ha="center",
                    va="center",
                    linespacing=1.1,
                )
            top += high + GAP_MM
    style.legend(
        figure,
        list(handles.values()),
        labels=list(handles),
        columns=legend_columns,
        handlelength=1.8,
        handler_map={tuple: HandlerTuple(ndivide=1)},
    )
    return figure


class _Span:
    """The axis of resolutions, and where cell types stand on it."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.decades = math.log10(high / low) or 1.0
        self.coarse, self.between = self.at(-COARSE), self.at(-BREAK)
        self.limits = self.at(-COARSE - END), self.at(1 + END)

    def at(self, share: float) -> float:
        """Return the place at a share of the way from the lowest resolution to the highest."""
        return float(self.low * 10 ** (share * self.decades))


def _head(canvas: Axes, left: float, label: str, rows: pd.DataFrame, groups: Groups) -> None:
    first = rows.iloc[0]
    animals = f"{first['n_reference']} {groups.reference}, {first['n_compared']} {groups.compared}"
    canvas.text(left, HEAD_MM - 2 - LINE_MM, label, weight="bold", va="center")
    canvas.text(left, HEAD_MM - 2, animals, va="center", color=style.QUIET)


def _curve(axes: Axes, rows: pd.DataFrame) -> None:
    every = rows[rows["cells"] == "all"].sort_values("resolution")
    equal = rows[rows["cells"] == "rarefied"].sort_values("resolution")
    x = every["resolution"]
    axes.fill_between(x, every["change_low"], every["change_high"], color=BAND, linewidth=0)
    axes.plot(x, every["change"], color=style.INK, linewidth=0.8, zorder=2)
    axes.plot(
        equal["resolution"],
        equal["change"],
        color=style.QUIET,
        linewidth=0.7,
        dashes=(2, 1.5),
        zorder=2,
    )
    for _, row in every.iterrows():
        style.point(axes, row["resolution"], row["change"], str(row["quadrant"]), scale=MARKS)
    axes.axhline(0, color=style.QUIET, linewidth=0.6, zorder=1)
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(style.ticks(5))


def _types(axes: Axes, rows: pd.DataFrame, span: _Span) -> None:
    axes.axvline(span.between, color=style.QUIET, linewidth=0.5, dashes=(1, 2), zorder=1)
    for _, row in rows[rows["cells"] == "all"].iterrows():
        clusters.change(axes, span.coarse, row, width=1.1, upright=True)


def _counts(axes: Axes, rows: pd.DataFrame) -> None:
    counts = rows.groupby("resolution")["n_clusters"].first()
    axes.plot(counts.index, counts, color=style.INK, linewidth=0.8, marker="o", markersize=2)
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(style.ticks(3, integer=True))


def _frame(axes: Axes, span: _Span, *, first: bool, last: bool) -> None:
    axes.set_xscale("log")
    axes.set_xlim(span.limits)
    axes.minorticks_off()
    low, high = math.ceil(math.log10(span.low)), math.floor(math.log10(span.high))
    ticks = [10.0**k for k in range(low, high + 1)] or [span.low]
    axes.set_xticks([span.coarse, *ticks], ["cell\ntypes", *(f"{tick:g}" for tick in ticks)])
    axes.tick_params(labelleft=first, labelbottom=last)
    if last:
        axes.set_xlabel("Leiden resolution", labelpad=1)


def _handles(rows: pd.DataFrame) -> dict[str, object]:
    """Return the legend: each label, with what stands beside it."""
    line = Line2D([], [], color=style.INK, linewidth=0.8)
    band = Patch(color=BAND, linewidth=0)
    equal = Line2D([], [], color=style.QUIET, linewidth=0.7, dashes=(2, 1.5))
    marks = {str(mark.get_label()): mark for mark in style.direction_marks(rows["quadrant"])}
    return {"clusters, interval": (band, line), "equal cells": equal} | marks


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"contrast": CLUSTER_CONTRAST, "coarse": CONTRAST}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs)


if __name__ == "__main__":
    raise SystemExit(main())
