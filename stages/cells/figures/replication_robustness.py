"""Draw which way each tissue of the validation cohort moves at each resolution, and how stably.

Original step 11. One row a tissue and resolution. Points are pale where the direction does not hold
when seeds and cells change; the grey bar behind a point spans the changes of those runs. The
smaller point below is from equal numbers of cells in every animal.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from stages.base.errors import FigureError
from stages.base.study import Study
from stages.cells.figures import clusters
from stages.cells.tables.clusters import CLUSTER_CONTRAST
from stages.cells.tables.stability import STABILITY
from stages.drawing import command, style

NAME = "kimmel_robustness"
"""Of its files, as the study published the figure."""

ROW_MM = 5.0
TISSUE_GAP_MM = 3.0
HEAD_MM = 10.0
AXIS_MM = 9.0
LEGEND_MM = 9.0
LINE_MM = 3.6
# Where the columns of text end or start, and where both panels stand.
TISSUE_MM, TISSUE_WIDTH_MM = 1.5, 25.5
RIGHT_MM = {"Resolution": 41.0, "Clusters": 53.5, "ARI": 61.0}
PANELS_MM = {"gini": 63.0, "effective_number": 125.0}
PANEL_MM = 44.0
RUNS_MM = 12.5
"""From the right end of a panel to that of the number of runs beside it."""
# Of a row: the point from all cells stands above the one from equal cells.
ALL, EQUAL = -0.1, 0.27
BAR = 0.46
KEY = [*clusters.TISSUE, "resolution"]


@style.styled
def draw(contrast: pd.DataFrame, stability: pd.DataFrame, *, about: Study) -> Figure:
    """Return one row a tissue and resolution: changes with intervals, clusters, runs that agree.

    Parameters
    ----------
    contrast
        ``CLUSTER_CONTRAST`` of the validation cohort. Without rows, the figure says so in words.
    stability
        ``STABILITY``, of these tissues and maybe of others.

    Raises
    ------
    FigureError
        The metrics were not compared, or a comparison has no runs.
    """
    if contrast.empty:
        return style.message("The atlas has no graph of a tissue\nof the validation cohort.")
    rows = clusters.plane(contrast)
    runs = _runs(rows, stability)
    change = style.change(about.groups(rows))
    blocks = style.arms(runs)
    n_rows = [part["resolution"].nunique() for _, _, part in blocks]
    frame = HEAD_MM + TISSUE_GAP_MM * (len(blocks) - 1) + AXIS_MM + LEGEND_MM + style.STRIP_MM
    row_mm = min(ROW_MM, (style.PAGE_MM - frame) / sum(n_rows))
    height = frame + sum(n_rows) * row_mm
    figure, canvas = style.page(style.DOUBLE_MM, height)
    _head(canvas)
    reaches = {
        metric: clusters.limits(runs[runs["metric"] == metric], ["change_lowest", "change_highest"])
        for metric in clusters.METRICS
    }
    several = len({which.label for which, _, _ in blocks}) > 1
    top = HEAD_MM
    for k, ((which, tissue, here), n) in enumerate(zip(blocks, n_rows, strict=True)):
        if k:
            line = top - TISSUE_GAP_MM / 2
            ends = [TISSUE_MM, style.DOUBLE_MM - TISSUE_MM]
            canvas.plot(ends, [line, line], color=style.FAINT, linewidth=0.6)
        lines = [tissue, which.cohort, which.platform] if several else [tissue]
        _tissue(canvas, top + row_mm / 2, lines)
        _text(canvas, top, row_mm, here)
        for metric, left in PANELS_MM.items():
            axes = style.add_axes(figure, left=left, top=top, width=PANEL_MM, height=n * row_mm)
            last = k == len(blocks) - 1
            clusters.rows_axes(axes, n, ticks=5, label=change if last else "")
            axes.set_xlim(reaches[metric])
            _panel(axes, here[here["metric"] == metric])
        top += n * row_mm + TISSUE_GAP_MM
    handles = [
        *style.direction_marks(rows["quadrant"]),
        style.pale_mark("pale: not stable"),
        clusters.equal_cells(),
        Patch(color=style.FAINT, linewidth=0, label="range over runs"),
    ]
    style.legend(figure, handles, columns=len(handles), borderaxespad=0.5)
    return figure


def _runs(rows: pd.DataFrame, stability: pd.DataFrame) -> pd.DataFrame:
    """Return the changes with what the runs of the same tissue and resolution say."""
    both = rows.merge(stability, on=[*KEY, "metric"], how="left", validate="many_to_one")
    if (without := both["n_runs"].isna()).any():
        first = both[without].iloc[0]
        msg = (
            f"the stability table has no runs of {first['tissue']} ({first['cohort']}, "
            f"{first['platform']}) at resolution {first['resolution']:g}. Run dvc repro stability."
        )
        raise FigureError(msg)
    return both


def _head(canvas: Axes) -> None:
    middle = HEAD_MM - LINE_MM / 2 - 1
    for label, right in RIGHT_MM.items():
        canvas.text(right, middle, label, ha="right", va="center", color=style.QUIET)
    for metric, left in PANELS_MM.items():
        canvas.text(
            left,
            middle - LINE_MM,
            clusters.METRICS[metric],
            weight="bold",
            va="center",
            size=style.TITLE_PT,
        )
        canvas.text(
            left + PANEL_MM + RUNS_MM,
            middle,
            "Same direction",
            ha="right",
            va="center",
            color=style.QUIET,
        )


def _tissue(canvas: Axes, middle: float, lines: Sequence[str]) -> None:
    """Write a tissue, and under it its cohort and platform where there are several."""
    for line, text in enumerate(lines):
        short = style.shorten(style.name(text), TISSUE_WIDTH_MM / (1 if line else 1.12))
        y, weight = middle + line * LINE_MM, "normal" if line else "bold"
        canvas.text(TISSUE_MM, y, short, weight=weight, va="center")


def _text(canvas: Axes, top: float, row_mm: float, runs: pd.DataFrame) -> None:
    """Write resolution, clusters and agreement of every row, and the runs beside both panels."""
    for row, (resolution, part) in enumerate(runs.groupby("resolution", sort=True)):
        middle = top + (row + 0.5) * row_mm
        first = part.iloc[0]
        numbers = {
            "Resolution": f"{resolution:g}",
            "Clusters": _span(
                min(first["n_clusters"], first["n_clusters_lowest"]),
                max(first["n_clusters"], first["n_clusters_highest"]),
            ),
            "ARI": f"{first['ari_median']:.2f}",
        }
        for label, right in RIGHT_MM.items():
            canvas.text(right, middle, numbers[label], ha="right", va="center")
        for metric, left in PANELS_MM.items():
            found = part[part["metric"] == metric].iloc[0]
            same = round(found["same_direction_share"] * found["n_clusterings"])
            canvas.text(
                left + PANEL_MM + RUNS_MM,
                middle,
                f"{same} of {found['n_clusterings']:.0f}",
                ha="right",
                va="center",
                weight="bold" if found["stable"] else "normal",
            )


def _span(low: float, high: float) -> str:
    return f"{low:.0f}" if low == high else f"{low:.0f}\N{EN DASH}{high:.0f}"


def _panel(axes: Axes, runs: pd.DataFrame) -> None:
    resolutions = sorted(runs["resolution"].unique())
    for _, row in runs.iterrows():
        middle = resolutions.index(row["resolution"])
        if row["cells"] == "all":
            ends = row["change_lowest"], row["change_highest"]
            axes.barh(
                middle + ALL,
                ends[1] - ends[0],
                left=ends[0],
                height=BAR,
                color=style.FAINT,
                linewidth=0,
                zorder=1,
            )
            # Stable in another direction than this clustering's is not stable here.
            stable = bool(row["stable"] and row["direction"] * row["change"] > 0)
            clusters.change(axes, middle + ALL, row, width=1.1, doubtful=not stable)
        else:
            colour = style.QUIET
            clusters.change(axes, middle + EQUAL, row, width=0.5, colour=colour, scale=0.4)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"contrast": CLUSTER_CONTRAST, "stability": STABILITY}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs)


if __name__ == "__main__":
    raise SystemExit(main())
