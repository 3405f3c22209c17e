"""Draw the change of each tissue on one platform against its change on the other.

Original step 05. Both axes of a panel have the same scale, so the diagonal is where the platforms
see the same change; in the shaded quarters they see the same direction.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stages.base.study import Study
from stages.cells.tables.concordance import CONCORDANCE, CONCORDANCE_SUMMARY
from stages.drawing import command, evidence, labels, style

NAME = "platform_concordance"

PANEL_MM = 88
REACH = 1.35
"""Of the axes, in the largest change; an interval that reaches farther ends in an arrowhead."""
Lines = NDArray[np.float64]  # (n, 4): x, y of both ends
SIDES = ("first", "second")


@style.styled
def draw(concordance: pd.DataFrame, summary: pd.DataFrame, *, about: Study) -> Figure:
    """Return one panel a metric: points are tissues, crosses their intervals.

    Parameters
    ----------
    concordance
        ``CONCORDANCE``. Without rows, the figure says so in words.
    summary
        ``CONCORDANCE_SUMMARY``; its order is the order of the panels.
    about
        What its arms rest on.
    """
    if concordance.empty:
        return style.message(_nothing(summary))
    panels, change = summary[summary["n_tissues"] > 0], style.change(about.groups())
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = style.DOUBLE_MM if columns > 1 else style.SINGLE_MM
    figure = style.figure(width, rows * (PANEL_MM + 10) + style.STRIP_MM, constrained=True)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    drawn = [
        (axes, _panel(axes, concordance[concordance["metric"] == row["metric"]], row, change))
        for axes, (_, row) in zip(grid, panels.iterrows(), strict=False)
    ]
    for axes in list(grid)[len(panels) :]:
        axes.set_visible(False)
    shown = arms(concordance, summary)
    # Names can be placed only where the panels stay.
    style.freeze(figure)
    evidence.explain(figure, shown, about)
    for axes, changes in drawn:
        labels.place(
            axes,
            changes["change_first"].to_numpy(float),
            changes["change_second"].to_numpy(float),
            [evidence.label(tissue, shown, about) for tissue in changes["tissue"]],
            lines=np.concatenate([_whiskers(changes), _guides(axes)]),
        )
    return figure


def arms(concordance: pd.DataFrame, summary: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return the arms that are compared."""
    platforms = sorted({name for side in SIDES for name in summary[side]}, reverse=True)
    tissues = concordance[["cohort", "tissue"]].drop_duplicates().itertuples(index=False)
    return [(cohort, platform, tissue) for cohort, tissue in tissues for platform in platforms]


def _nothing(summary: pd.DataFrame) -> str:
    if summary.empty:
        return "No tissue was compared on two platforms."
    first, second = (style.name(str(summary[side].iloc[0])) for side in SIDES)
    return f"No tissue was compared on both platforms\n({first} and {second})."


def _panel(axes: Axes, changes: pd.DataFrame, row: pd.Series, change: str) -> pd.DataFrame:
    points = changes[[f"change_{side}" for side in SIDES]]
    reach = REACH * max(float(points.abs().to_numpy().max()), 1e-9)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_aspect("equal")
    for low, high in ((-reach, 0.0), (0.0, reach)):
        axes.fill_between([low, high], low, high, color="#f1f1f1", linewidth=0, zorder=0)
    axes.axhline(0, color=style.QUIET, linewidth=0.6, zorder=1)
    axes.axvline(0, color=style.QUIET, linewidth=0.6, zorder=1)
    axes.plot(
        [-reach, reach], [-reach, reach], color=style.QUIET, linewidth=0.6, dashes=(4, 3), zorder=1
    )
    for same, colour, marker in ((True, style.INK, "o"), (False, style.QUIET, "X")):
        part = changes[changes["same_sign"] == same]
        for line in _whiskers(part):
            x, y = line[[0, 2]], line[[1, 3]]
            axes.plot(x, y, color=style.GREY, linewidth=0.6, zorder=2)
            if x[0] == x[1]:
                style.beyond(axes, x[0], y, colour=style.GREY, upright=True)
            else:
                style.beyond(axes, y[0], x, colour=style.GREY)
        axes.scatter(
            part["change_first"],
            part["change_second"],
            s=16 if same else 22,
            marker=marker,
            color=colour,
            linewidths=0,
            zorder=3,
        )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(style.ticks(7))
    axes.set_xlabel(f"{change}, {style.name(row['first'])}")
    axes.set_ylabel(f"{change}, {style.name(row['second'])}")
    axes.spines[["top", "right"]].set_visible(True)
    axes.set_title(style.METRICS[row["metric"]], loc="left", weight="bold", pad=14)
    axes.annotate(
        _agreement(row),
        xy=(0, 1),
        xycoords="axes fraction",
        xytext=(0, 4),
        textcoords="offset points",
        va="bottom",
        annotation_clip=False,
    )
    return changes


def _agreement(row: pd.Series) -> str:
    n, same = int(row["n_tissues"]), int(row["n_same_sign"])
    tissues = "tissue" if n == 1 else "tissues"
    text = f"Same sign in {same} of {n} {tissues}"
    if not math.isnan(row["spearman"]):
        rho = style.signed(row["spearman"], 2).lstrip("+")
        text += (
            f"; Spearman \N{GREEK SMALL LETTER RHO} = {rho}, p {style.p_value(row['spearman_p'])}"
        )
    return text


def _whiskers(changes: pd.DataFrame) -> Lines:
    """Return the arms of the crosses, those across first."""
    x, y = changes["change_first"], changes["change_second"]
    across = [changes["change_first_low"], y, changes["change_first_high"], y]
    up = [x, changes["change_second_low"], x, changes["change_second_high"]]
    return np.concatenate([np.column_stack(across), np.column_stack(up)]).astype(np.float64)


def _guides(axes: Axes) -> Lines:
    """Return the zero lines and the diagonal."""
    low, high = axes.get_xlim()
    return np.array([[low, 0, high, 0], [0, low, 0, high], [low, low, high, high]])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"concordance": CONCORDANCE, "summary": CONCORDANCE_SUMMARY}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, real=True, arms=arms)


if __name__ == "__main__":
    raise SystemExit(main())
