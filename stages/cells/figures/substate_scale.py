"""Draw the change over annotated cell types beside the change over substates within each type.

Original step 09. One row a cell type, and above them the whole tissue, whose components are the
types: the two scales of one tissue. Cohorts and platforms share a row, told by their lines.
Podocytes and macrophages, the published cases, stand out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stages.base.study import Study
from stages.cells.figures import clusters
from stages.cells.names import is_named
from stages.cells.tables.clusters import CLUSTER_CONTRAST
from stages.cells.tables.contrast import CONTRAST
from stages.drawing import command, style

NAME = "substate_scale"

MAX_ROWS = 42
"""Of all tissues together, so that they fit on a page."""
MAX_TISSUES = 8
LABELS = {"gini": "Gini coefficient", "effective_number": "Effective number"}
WHOLE = "whole tissue, over cell types"
ROW_MM = 4.4
TISSUE_MM = 5.5
"""For the name of a tissue above its rows."""
HEAD_MM = 6.0
AXIS_MM = 10.0
LINE_MM = 3.8
ONE_LINE = 2
"""Up to so many cohorts and platforms, the legend has one line."""
MARGIN_MM = 1.5
NAMES_MM = (40.0, 78.0)
"""The least and the most room for names."""
COUNTS_MM, GAP_MM = 14.0, 5.0
"""For the numbers of substates, and between panels."""


@dataclass(frozen=True)
class Row:
    """One row: a cell type, or the whole tissue (`cell_type` is then empty)."""

    label: str
    cell_type: str
    changes: pd.DataFrame


@style.styled
def draw(
    substates: pd.DataFrame, coarse: pd.DataFrame, *, reference: float, about: Study
) -> Figure:
    """Return a block of rows a tissue: the whole over its types, then each type over its substates.

    Parameters
    ----------
    substates
        ``CLUSTER_CONTRAST`` of clusters within cell types. Without rows, the figure says so.
    coarse
        ``CONTRAST``: the change over annotated cell types, of these tissues and of others.
    reference
        The resolution of the substates to show.

    Raises
    ------
    FigureError
        Nothing was compared at this resolution or in these metrics.
    """
    if substates.empty:
        return style.message(
            "The atlas has no graph of a tissue\nin which substates are looked for."
        )
    fine = clusters.at_resolution(clusters.plane(substates), reference)
    tissues, change = style.tissues(fine), style.change(about.groups(fine))
    whole = clusters.over_types(coarse, fine)
    shown = style.series(fine)
    left_out = len(tissues) - len(tissues[:MAX_TISSUES])
    tissues = tissues[:MAX_TISSUES]
    blocks = {
        tissue: rows(
            fine[fine["tissue"] == tissue],
            whole[whole["tissue"] == tissue],
            MAX_ROWS // len(tissues),
        )
        for tissue in tissues
    }
    heights = {tissue: TISSUE_MM + len(found) * ROW_MM for tissue, found in blocks.items()}
    drawn = pd.concat([row.changes for found in blocks.values() for row in found])
    handles = _handles(shown, drawn)
    legend_rows = 1 if len(shown) <= ONE_LINE else 2
    legend_mm = 1 + LINE_MM * (legend_rows + bool(left_out))
    height = HEAD_MM + sum(heights.values()) + AXIS_MM + legend_mm + style.STRIP_MM
    figure, canvas = style.page(style.DOUBLE_MM, height)
    labels = [row.label for found in blocks.values() for row in found]
    widest = max(style.text_width_mm(label, weight="bold") for label in labels)
    counts_mm = MARGIN_MM + min(max(widest, NAMES_MM[0]), NAMES_MM[1]) + COUNTS_MM
    panel_mm = (style.DOUBLE_MM - MARGIN_MM - counts_mm - 2 * GAP_MM) / 2
    panels_mm = {
        metric: counts_mm + GAP_MM + k * (panel_mm + GAP_MM)
        for k, metric in enumerate(clusters.METRICS)
    }
    _head(canvas, reference, panels_mm)
    reaches = {
        metric: clusters.limits(drawn[drawn["metric"] == metric]) for metric in clusters.METRICS
    }
    top = HEAD_MM
    for tissue, found in blocks.items():
        here = [s for s in shown if len(style.of_series(fine[fine["tissue"] == tissue], s))]
        _names(canvas, top, tissue, found, here, counts_mm)
        for metric, left in panels_mm.items():
            axes = style.add_axes(
                figure,
                left=left,
                top=top + TISSUE_MM,
                width=panel_mm,
                height=heights[tissue] - TISSUE_MM,
            )
            label = change if tissue == tissues[-1] else ""
            clusters.rows_axes(axes, len(found), ticks=5, label=label)
            axes.set_xlim(reaches[metric])
            _panel(axes, found, metric, here)
        top += heights[tissue]
    if left_out:
        canvas.text(
            style.DOUBLE_MM / 2,
            height - style.STRIP_MM - LINE_MM * (legend_rows + 0.5),
            f"{len(tissues)} of {len(tissues) + left_out} tissues are shown",
            ha="center",
            va="center",
        )
    columns = math.ceil(len(handles) / legend_rows)
    style.legend(figure, handles, columns=columns, handlelength=1.8)
    return figure


def rows(fine: pd.DataFrame, whole: pd.DataFrame, most: int) -> list[Row]:
    """Return the rows of one tissue from top to bottom.

    The whole tissue, then the types from the largest increase of Gini to the largest decrease (mean
    over cohorts and platforms). Where there are more than `most` rows, the types that change least
    are left out, but never the published cases.
    """
    every = fine[(fine["metric"] == "gini") & (fine["cells"] == "all")]
    change = every.groupby("cell_type")["change"].mean()
    order = change.sort_values(ascending=False, kind="stable").index
    room = most - bool(len(whole))
    left_out = 0
    if len(order) > room:
        spare = change.abs().sort_values(ascending=False, kind="stable").index
        kept = [name for name in spare if is_named(str(name))]
        kept += [name for name in spare if name not in kept][: max(room - 1 - len(kept), 0)]
        left_out = len(order) - len(kept)
        order = order[order.isin(kept)]
    found = [Row(WHOLE, "", whole)] if len(whole) else []
    found += [Row(str(name), str(name), fine[fine["cell_type"] == name]) for name in order]
    if left_out:
        found.append(Row(f"({left_out} types that change less)", "", fine.iloc[:0]))
    return found


def _head(canvas: Axes, reference: float, panels_mm: dict[str, float]) -> None:
    middle = HEAD_MM - 2
    for metric, left in panels_mm.items():
        label = LABELS[metric]
        canvas.text(left, middle, label, weight="bold", va="center", size=style.TITLE_PT)
    resolution = f"Leiden resolution {reference:g}"
    canvas.text(MARGIN_MM, middle, resolution, va="center", color=style.QUIET)
    right = panels_mm["gini"] - GAP_MM
    canvas.text(right, middle, "Substates", ha="right", va="center", color=style.QUIET)


def _names(
    canvas: Axes,
    top: float,
    tissue: str,
    found: Sequence[Row],
    shown: Sequence[style.Series],
    right: float,
) -> None:
    """Write a tissue, its rows, and how many substates each has in each cohort and platform."""
    canvas.text(
        MARGIN_MM,
        top + TISSUE_MM / 2 + 0.5,
        style.name(tissue),
        weight="bold",
        va="center",
        size=style.TITLE_PT,
    )
    counts = [_counts(row, shown) for row in found]
    room = right - max(map(style.text_width_mm, counts)) - MARGIN_MM - 3
    labels = style.shorten_all([row.label for row in found], room)
    for k, (row, label, count) in enumerate(zip(found, labels, counts, strict=True)):
        middle = top + TISSUE_MM + (k + 0.5) * ROW_MM
        whole = row.label == WHOLE
        canvas.text(
            MARGIN_MM,
            middle,
            label,
            va="center",
            weight="bold" if whole or is_named(row.cell_type) else "normal",
            color=style.INK if row.cell_type or whole else style.QUIET,
        )
        canvas.text(right, middle, count, ha="right", va="center")


def _counts(row: Row, shown: Sequence[style.Series]) -> str:
    if not row.cell_type:
        return ""
    counts = [style.of_series(row.changes, which)["n_clusters"] for which in shown]
    return " | ".join(str(n.iloc[0]) if len(n) else "\N{EN DASH}" for n in counts)


def _panel(axes: Axes, found: Sequence[Row], metric: str, shown: Sequence[style.Series]) -> None:
    step = 0.6 / max(len(shown), 2)
    for k, row in enumerate(found):
        if row.label == WHOLE:
            axes.axhspan(k - 0.5, k + 0.5, color="#f1f1f1", linewidth=0, zorder=0)
        of_metric = row.changes[row.changes["metric"] == metric]
        for i, which in enumerate(shown):
            change = style.of_series(of_metric, which).set_index("cells")
            if "all" not in change.index:
                continue
            at = k + (i - (len(shown) - 1) / 2) * step
            _change(axes, at, change, which)


def _change(axes: Axes, at: float, change: pd.DataFrame, which: style.Series) -> None:
    """Draw a change; pale where equal numbers of cells give it the other sign."""
    every = change.loc["all"]
    same = "rarefied" not in change.index or bool(
        every["change"] * change.loc["rarefied", "change"] > 0
    )
    clusters.change(axes, at, every, width=0.9, line=which.line, doubtful=not same, scale=0.8)


def _handles(shown: Sequence[style.Series], drawn: pd.DataFrame) -> list[Line2D]:
    lines = [
        Line2D([], [], color=style.INK, linewidth=0.9, linestyle=which.line, label=which.label)
        for which in shown
    ]
    pale = style.pale_mark("pale: other sign with equal cells")
    return [*lines, *style.direction_marks(drawn["quadrant"]), pale]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"substates": CLUSTER_CONTRAST, "coarse": CONTRAST}
    numbers = {"reference": "the resolution of the substates"}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, numbers=numbers)


if __name__ == "__main__":
    raise SystemExit(main())
