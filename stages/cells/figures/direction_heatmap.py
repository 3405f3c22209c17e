"""Show which way each tissue moves, from all cells and from equal numbers of cells.

Figure S2 of the original. Where the two halves of a column differ in colour, the direction depends
on the number of cells.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from stages.base.study import Groups, Study
from stages.cells.tables.contrast import CONTRAST
from stages.drawing import command, evidence, style
from stages.measurement.resampling import SIGNIFICANT

NAME = "direction_heatmap"

CELL_MM = (24.5, 5.0)
GROUP_GAP_MM = 2.0
MARGIN_MM = 1.5
LINE_MM = 3.8
HEADER_MM = 3 * LINE_MM + 1.5
HALVES = {"all": "all cells", "rarefied": "equal cells"}
# How much of the role's colour a cell takes: numbers stay readable, and the three differ in grey.
TINT = {"crystallize": 0.42, "disperse": 0.24, "mixed": 0.10}
# Where the middle of the marker and the right ends of the two numbers stand in a cell.
SYMBOL_MM, GINI_MM, NUMBER_MM = 2.0, 13.6, 23.6


@style.styled
def draw(contrast: pd.DataFrame, *, about: Study) -> Figure:
    """Return a table of tissues by cohort and platform: direction as colour, both changes as text.

    Parameters
    ----------
    contrast
        ``CONTRAST``.
    about
        What its arms rest on.
    """
    plane = contrast[contrast["metric"].isin(["gini", "effective_number"])]
    if plane.empty:
        return style.message(style.NOTHING_COMPARED)
    tissues = style.tissues(plane)
    arms = evidence.arms(plane)
    names = [evidence.label(tissue, arms, about) for tissue in tissues]
    shown = style.series(plane)
    names_mm = max(map(style.text_width_mm, names)) + 3
    group_mm = 2 * CELL_MM[0] + GROUP_GAP_MM
    legend = _legend(about.groups(plane))
    wanted = MARGIN_MM * 2 + names_mm + len(shown) * group_mm
    legend_mm = max(style.text_width_mm(line) for _, line in legend) + 8
    width = max(wanted, legend_mm, style.SINGLE_MM)
    body = MARGIN_MM + HEADER_MM
    foot = body + len(tissues) * CELL_MM[1] + 2
    height = foot + len(legend) * LINE_MM + style.STRIP_MM
    figure, canvas = style.page(width, height)
    for row, name in enumerate(names):
        middle = body + (row + 0.5) * CELL_MM[1]
        canvas.text(MARGIN_MM + names_mm - 2, middle, name, ha="right", va="center")
    for column, which in enumerate(shown):
        left = MARGIN_MM + names_mm + column * group_mm
        _header(canvas, left, which.label)
        for half, cells in enumerate(HALVES):
            part = style.of_series(plane[plane["cells"] == cells], which)
            for row, tissue in enumerate(tissues):
                corner = (left + half * CELL_MM[0], body + row * CELL_MM[1])
                _cell(canvas, corner, part[part["tissue"] == tissue].set_index("metric"))
    for line, (quadrant, text) in enumerate(legend):
        _legend_line(canvas, foot + (line + 0.5) * LINE_MM, quadrant, text)
    evidence.explain(figure, arms, about)
    return figure


def _header(canvas: Axes, left: float, label: str) -> None:
    top = MARGIN_MM + LINE_MM / 2
    canvas.text(
        left + CELL_MM[0], top, label, ha="center", va="center", weight="bold", size=style.TITLE_PT
    )
    for half, text in enumerate(HALVES.values()):
        start = left + half * CELL_MM[0]
        canvas.text(start + CELL_MM[0] / 2, top + LINE_MM, text, ha="center", va="center")
        for right, what in ((GINI_MM, "Δ Gini"), (NUMBER_MM, "Δ N")):
            canvas.text(
                start + right,
                top + 2 * LINE_MM,
                what,
                ha="right",
                va="center",
                color=style.QUIET,
            )


def _cell(canvas: Axes, corner: tuple[float, float], changes: pd.DataFrame) -> None:
    x, y = corner
    middle = y + CELL_MM[1] / 2
    if not {"gini", "effective_number"} <= set(changes.index):
        canvas.text(
            x + CELL_MM[0] / 2, middle, "\N{EN DASH}", ha="center", va="center", color=style.QUIET
        )
        return
    quadrant = str(changes.loc["gini", "quadrant"])
    canvas.add_patch(
        Rectangle(corner, *CELL_MM, facecolor=tint(quadrant), edgecolor="white", linewidth=1)
    )
    style.point(canvas, x + SYMBOL_MM, middle, quadrant)
    for metric, right, digits in (("gini", GINI_MM, 3), ("effective_number", NUMBER_MM, 2)):
        change = changes.loc[metric]
        text = style.signed(float(change["change"]), digits)
        weight = "bold" if change["emphasised"] else "normal"
        canvas.text(x + right, middle, text, ha="right", va="center", weight=weight)


def tint(quadrant: str) -> tuple[float, float, float]:
    """Return the pale colour of a direction."""
    share = TINT[quadrant]
    red, green, blue = (1 - share * (1 - part) for part in to_rgb(style.COLOURS[quadrant]))
    return red, green, blue


def _legend(groups: Groups) -> list[tuple[str, str]]:
    lines = [(quadrant, f"{quadrant}: {style.MEANINGS[quadrant]}") for quadrant in style.MEANINGS]
    return [
        *lines,
        (
            "",
            f"Δ: {groups.minus(style.MINUS)}, of medians; N: effective number of cell types",
        ),
        ("", f"bold: of both, the interval leaves out zero and the rank test's p ≤ {SIGNIFICANT}"),
    ]


def _legend_line(canvas: Axes, middle: float, quadrant: str, text: str) -> None:
    if not quadrant:
        canvas.text(MARGIN_MM, middle, text, va="center", color=style.QUIET)
        return
    box = (MARGIN_MM, middle - 1.5)
    canvas.add_patch(Rectangle(box, 4, 3, facecolor=tint(quadrant), edgecolor="none"))
    style.point(canvas, MARGIN_MM + 2, middle, quadrant)
    canvas.text(MARGIN_MM + 5.5, middle, text, va="center")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"contrast": CONTRAST}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, real=True)


if __name__ == "__main__":
    raise SystemExit(main())
