"""Draw the animals of the validation cohort at one resolution, and beside them the change.

Original step 10. On the left of a panel every animal of both groups, with their medians; on the
right their difference on an axis of its own, whose zero is the median of the reference.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stages.base.errors import FigureError
from stages.base.study import Groups, Study
from stages.cells.figures import clusters
from stages.cells.tables.clusters import CLUSTER_CONTRAST, CLUSTER_METRICS
from stages.drawing import command, style

NAME = "kimmel_validation"
"""Of its files, as the study published the figure."""

MAX_COLUMNS = 3
HEAD_MM = 13.0
"""Above the first row of a block of panels: the tissue, its animals and clusters, the test."""
LINE_MM = 3.8
PANEL_MM = 34.0
GAP_MM = 10.0
FOOT_MM = 7.0
SMALLEST_MM = 16.0
"""A panel is no lower, however many tissues there are."""
LEFT_MM, RIGHT_MM = 14.0, 15.5
"""Beside a panel: the numbers of its axes and their labels."""
# Where the groups and the changes stand in a panel.
PLACES = {"reference": 0.0, "compared": 1.0}
CHANGE, CHANGE_EQUAL, END = 1.95, 2.3, 2.65
HALF_MEDIAN = 0.27
SPREAD = 0.09
"""Between two animals of a group."""
LABELS = {"gini": "Gini coefficient", "effective_number": "Effective number\nof clusters"}


@style.styled
def draw(
    metrics: pd.DataFrame, contrast: pd.DataFrame, *, reference: float, about: Study
) -> Figure:
    """Return a column of two panels a tissue: Gini coefficient above, effective number below.

    Parameters
    ----------
    metrics
        ``CLUSTER_METRICS``; the animals as from all their cells.
    contrast
        ``CLUSTER_CONTRAST`` of the same clusters. Without rows, the figure says so in words.
    reference
        The resolution to show.

    Raises
    ------
    FigureError
        Nothing was compared at this resolution or in these metrics, or a comparison has no animals.
    """
    if contrast.empty:
        return style.message("The atlas has no graph of a tissue\nof the validation cohort.")
    compared = clusters.at_resolution(clusters.plane(contrast), reference)
    samples = metrics[(metrics["resolution"] == reference) & (metrics["cells"] == "all")]
    blocks, groups = style.arms(compared), about.groups(compared)
    several = len({which.label for which, _, _ in blocks}) > 1
    columns = min(MAX_COLUMNS, len(blocks))
    down = math.ceil(len(blocks) / columns)
    handles = _handles(compared, groups)
    legend_columns = len(handles) if columns > 1 else 2
    legend_mm = 5 + LINE_MM * math.ceil(len(handles) / legend_columns)
    room = (style.PAGE_MM - legend_mm - style.STRIP_MM) / down - HEAD_MM - GAP_MM - FOOT_MM
    panel = max(min(PANEL_MM, room / 2), SMALLEST_MM)
    block = HEAD_MM + 2 * panel + GAP_MM + FOOT_MM
    height = legend_mm + down * block + style.STRIP_MM
    width = style.DOUBLE_MM if columns > 1 else style.SINGLE_MM
    figure, canvas = style.page(width, height)
    each = width / columns
    for k, (which, tissue, changes) in enumerate(blocks):
        here = style.of_series(samples, which)
        here = here[here["tissue"] == tissue]
        if not set(PLACES) <= set(here["group"]):
            msg = (
                f"the cluster_metrics table has no animals of one group of {tissue} at "
                f"resolution {reference:g}, which cluster_contrast compares. "
                "Run dvc repro granularity."
            )
            raise FigureError(msg)
        left = k % columns * each + LEFT_MM
        top = k // columns * block + HEAD_MM
        label = style.name(tissue) + (f", {which.label}" if several else "")
        _head(canvas, left, top, style.shorten(label, (each - LEFT_MM) / 1.25), changes, groups)
        for row, metric in enumerate(clusters.METRICS):
            axes = style.add_axes(
                figure,
                left=left,
                top=top + row * (panel + GAP_MM),
                width=each - LEFT_MM - RIGHT_MM,
                height=panel,
            )
            change = changes[changes["metric"] == metric].set_index("cells")
            _panel(axes, here, change, metric, groups)
            middle = top + row * (panel + GAP_MM) + panel / 2
            if k % columns == 0:
                _upright(canvas, left - LEFT_MM + 3.2, middle, LABELS[metric])
            if (k + 1) % columns == 0 or k == len(blocks) - 1:
                _upright(canvas, left - LEFT_MM + each - 1.8, middle, style.change(groups))
    title = f"Leiden resolution {reference:g}"
    style.legend(figure, handles, columns=legend_columns, title=title)
    return figure


def _head(
    canvas: Axes, left: float, top: float, label: str, changes: pd.DataFrame, groups: Groups
) -> None:
    """Write the tissue, and under it how many animals and clusters it has."""
    first = changes.iloc[0]
    about = (
        f"{first['n_reference']} {groups.reference}, {first['n_compared']} {groups.compared}; "
        f"{first['n_clusters']} clusters"
    )
    canvas.text(left, top - 2.7 - 2 * LINE_MM, label, weight="bold", va="center")
    canvas.text(left, top - 2.7 - LINE_MM, about, va="center", color=style.QUIET)


def _upright(canvas: Axes, x: float, y: float, text: str) -> None:
    canvas.text(x, y, text, rotation=90, ha="center", va="center", linespacing=1.1)


def _panel(
    axes: Axes, animals: pd.DataFrame, change: pd.DataFrame, metric: str, groups: Groups
) -> None:
    every = change.loc["all"]
    zero, old = float(every["reference_median"]), float(every["compared_median"])
    for group, place in PLACES.items():
        of_group = animals[animals["group"] == group].sort_values(metric)
        middle = float(every[f"{group}_median"])
        _animals(axes, place, of_group, metric, style.COLOURS[group])
        axes.plot(
            [place - HALF_MEDIAN, place + HALF_MEDIAN],
            [middle, middle],
            color=style.COLOURS[group],
            linewidth=1.8,
            solid_capstyle="butt",
            zorder=3,
        )
        # To the axis of the change, whose zero is the median of the reference.
        axes.plot(
            [place + HALF_MEDIAN, END if group == "reference" else CHANGE],
            [middle, middle],
            color=style.QUIET,
            linewidth=0.5,
            dashes=(3, 2),
            zorder=1,
        )
    shown = {"all": (CHANGE, 1.2, 1.0, True), "rarefied": (CHANGE_EQUAL, 0.6, 0.4, False)}
    ends = [old]
    for cells, (place, width, scale, full) in shown.items():
        if cells not in change.index:
            continue
        moved = change.loc[cells].copy()
        moved[["change", "change_low", "change_high"]] += zero
        colour = "" if full else style.QUIET
        clusters.change(axes, place, moved, width=width, colour=colour, scale=scale, upright=True)
        ends += [float(moved["change_low"]), float(moved["change_high"])]
    _frame(axes, zero, [*ends, *animals[metric]], groups)
    axes.annotate(
        _test(every),
        xy=(0, 1),
        xycoords="axes fraction",
        xytext=(0, 4),
        textcoords="offset points",
        va="bottom",
        annotation_clip=False,
    )


def _test(row: pd.Series) -> str:
    """Return p with the smallest that so few animals can reach, and q."""
    least = f"\N{GREATER-THAN OR EQUAL TO} {row['rank_p_smallest']:.2g}"
    p, q = style.p_value(row["rank_p"]), style.p_value(row["rank_q"])
    return f"p {p} ({least}), q {q}"


def _animals(axes: Axes, place: float, animals: pd.DataFrame, metric: str, colour: str) -> None:
    """Draw the animals of a group, neighbours in value side by side."""
    step = min(SPREAD, 2 * HALF_MEDIAN / max(len(animals) - 1, 1))
    shift = [(k % 3 - 1) * step for k in range(len(animals))]
    axes.scatter(
        [place + by for by in shift],
        animals[metric],
        s=13,
        color=colour,
        edgecolors="white",
        linewidths=0.3,
        zorder=4,
    )


def _frame(axes: Axes, zero: float, values: Sequence[float], groups: Groups) -> None:
    """Set the limits of a panel and its two axes: values on the left, their change on the right."""
    low, high = min(values), max(values)
    room = clusters.ROOM * (high - low) or 0.05
    axes.set_ylim(low - room, high + room)
    axes.set_xlim(-0.5, END)
    axes.set_xticks([*PLACES.values(), (CHANGE + CHANGE_EQUAL) / 2], [*groups[:2], "change"])
    axes.yaxis.set_major_locator(style.ticks(4))
    right = axes.secondary_yaxis(
        "right",
        functions=(lambda value: np.subtract(value, zero), lambda change: np.add(change, zero)),
    )
    right.yaxis.set_major_locator(style.ticks(4))
    right.spines["right"].set_visible(True)


def _handles(compared: pd.DataFrame, groups: Groups) -> list[Line2D]:
    animals = [
        Line2D(
            [],
            [],
            color=style.COLOURS[group],
            marker="o",
            markersize=3.6,
            linewidth=1.8,
            label=f"{name}: animals, median",
        )
        for group, name in zip(PLACES, groups, strict=False)
    ]
    return [*animals, *style.direction_marks(compared["quadrant"]), clusters.equal_cells()]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"metrics": CLUSTER_METRICS, "contrast": CLUSTER_CONTRAST}
    numbers = {"reference": "the resolution that is shown"}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, numbers=numbers)


if __name__ == "__main__":
    raise SystemExit(main())
