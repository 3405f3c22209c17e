"""Draw which cell types move each tissue: the parts of the change, which sum to the whole.

Original step 06. Cohorts and platforms share one row a cell type, so that one sees whether the same
types move the tissue in each. The figure stays on one page: of many tissues, it shows those that
change most.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from stages.base.study import Study
from stages.cells.tables.drivers import DRIVERS, NUMBER_OF_TYPES
from stages.drawing import command, evidence, style

NAME = "driver_contributions"

METRICS = {"gini": "Δ Gini", "effective_number": "Δ N"}
DIGITS = {"gini": 3, "effective_number": 2}
MAX_TISSUES = 6
MAX_TYPES = 8
ROW_MM = 3.7
TITLE_MM = 8.0
TICKS_MM = 6.0
MARGIN_MM = 1.5
LINE_MM = 3.8
GAP_MM = 8.0
WORD_GAP_MM = 1.2
NAMES_MM = 78.0
"""The most room for names of cell types: about 58 characters."""
# Of the height of a row, taken by its bars together.
FILL = 0.78
ZERO = 1e-12


@dataclass(frozen=True)
class Row:
    """One row of bars: a cell type, the sum of the others, or the number of types."""

    label: str
    parts: pd.DataFrame
    """Rows of ``DRIVERS``, of any cohort and platform."""
    interval: bool
    """Whether the table has an interval for it: not for a sum."""


@style.styled
def draw(drivers: pd.DataFrame, *, about: Study) -> Figure:
    """Return a pair of panels a tissue: contributions to the changes of both numbers.

    Parameters
    ----------
    drivers
        ``DRIVERS``.
    about
        What its arms rest on.
    """
    if drivers.empty:
        return style.message(style.NOTHING_COMPARED)
    tissues = compared(drivers)
    n_tissues = drivers["tissue"].nunique()
    left_out = n_tissues > len(tissues)
    drivers = drivers[drivers["tissue"].isin(tissues)]
    shown = style.series(drivers)
    arms = evidence.arms(drivers)
    minus = about.groups(drivers).minus(style.MINUS)
    words = [f"Δ: {minus}, difference of means; N: effective number of cell types"]
    if left_out:
        words.append(
            f"{len(tissues)} of {n_tissues} tissues: of those on most platforms, those whose mean "
            "Gini coefficient changes most"
        )
    head = MARGIN_MM + LINE_MM * (1 + len(words)) + 1
    frame = TITLE_MM + TICKS_MM
    room = (style.PAGE_MM - head - style.STRIP_MM) / len(tissues) - frame
    n_types = min(MAX_TYPES, math.floor(room / ROW_MM) - 2)
    panels = {tissue: rows(drivers[drivers["tissue"] == tissue], n_types) for tissue in tissues}
    height = sum(len(panel) * ROW_MM + frame for panel in panels.values())
    figure = style.figure(style.DOUBLE_MM, head + height + style.STRIP_MM)
    canvas = _head(figure, shown, words)
    labels = [row.label for panel in panels.values() for row in panel]
    names = min(NAMES_MM, max(map(style.text_width_mm, labels)) + 3)
    top = head
    for tissue, panel in panels.items():
        here = drivers[drivers["tissue"] == tissue]
        looks = [which for which in shown if len(style.of_series(here, which))]
        title = evidence.label(tissue, arms, about)
        _tissue(figure, canvas, top, names, title, panel, looks)
        top += len(panel) * ROW_MM + frame
    evidence.explain(figure, arms, about)
    return figure


def compared(drivers: pd.DataFrame) -> list[str]:
    """Return the tissues to show, in alphabetical order.

    All of them, or those in most cohorts and on most platforms; of these, those whose mean
    Gini coefficient changes most in any.
    """
    change = drivers.groupby(["cohort", "platform", "tissue"])["gini_contribution"].sum().abs()
    order = change.groupby("tissue").agg(["size", "max"]).sort_values(["size", "max"])
    return sorted((str(tissue) for tissue in order.index[-MAX_TISSUES:]), key=str.casefold)


def rows(tissue: pd.DataFrame, n_types: int) -> list[Row]:
    """Return the rows of one tissue from top to bottom.

    The types with the largest contribution to the Gini coefficient in any cohort or platform, then
    the sum of all others, then the number of types if it moves anything.
    """
    is_type = tissue["cell_type"] != NUMBER_OF_TYPES
    types = tissue[is_type]
    size = types["gini_contribution"].abs().groupby(types["cell_type"]).max()
    order = [str(name) for name in size.sort_values(ascending=False, kind="stable").index]
    # A row that would sum up one type shows that type instead.
    top = order if len(order) <= n_types + 1 else order[:n_types]
    found = [Row(name, types[types["cell_type"] == name], interval=True) for name in top]
    if len(order) > len(top):
        rest = types[~types["cell_type"].isin(top)]
        found.append(Row(f"others ({len(order) - len(top)})", rest, interval=False))
    number = tissue[~is_type]
    if (number["gini_contribution"].abs() > ZERO).any():
        found.append(Row(NUMBER_OF_TYPES, number, interval=True))
    return found


def _head(figure: Figure, shown: list[style.Series], words: list[str]) -> Axes:
    """Write the legend, and return axes of the whole page in millimetres."""
    width, height = figure.get_size_inches() * style.MM_PER_INCH
    canvas = style.add_axes(figure, left=0, top=0, width=width, height=height, canvas=True)
    canvas.set_zorder(-1)
    x, y = MARGIN_MM, MARGIN_MM + LINE_MM / 2
    for which in shown:
        _swatch(canvas, x, y, which)
        canvas.text(x + 5.5, y, which.label, va="center")
        x += 5.5 + style.text_width_mm(which.label) + 5
    for line, text in enumerate(words, start=1):
        canvas.text(MARGIN_MM, y + line * LINE_MM, text, va="center", color=style.QUIET)
    return canvas


def _face(which: style.Series) -> str:
    """Return the colour of bars, on which intervals can be seen."""
    return style.GREY if which.filled else "white"


def _swatch(canvas: Axes, x: float, y: float, which: style.Series) -> None:
    box = Rectangle((x, y - 1.1), 4, 2.2, linewidth=0.8)
    box.set(facecolor=_face(which), edgecolor=which.colour)
    canvas.add_patch(box)


def _tissue(
    figure: Figure,
    canvas: Axes,
    top: float,
    names: float,
    title: str,
    panel: list[Row],
    shown: list[style.Series],
) -> None:
    """Draw the two panels of one tissue; `names` is the width of its names."""
    left, height = MARGIN_MM, len(panel) * ROW_MM
    width = (style.DOUBLE_MM - 2 * MARGIN_MM - names - GAP_MM) / 2 - 1
    short = style.shorten_all([row.label for row in panel], names - 2)
    for k, metric in enumerate(METRICS):
        start = left + names + k * (width + GAP_MM)
        axes = style.add_axes(figure, left=start, top=top + TITLE_MM, width=width, height=height)
        _bars(axes, panel, metric, shown)
        axes.set_yticks(range(len(panel)), short if k == 0 else [])
        axes.set_ylim(len(panel) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(style.ticks(4))
        _sums(canvas, (start, top + TITLE_MM), width, panel, metric, shown)
    canvas.text(
        left,
        top + TITLE_MM - 1.8,
        title,
        weight="bold",
        size=style.TITLE_PT,
        va="center",
    )


def _bars(axes: Axes, panel: list[Row], metric: str, shown: list[style.Series]) -> None:
    thick = FILL / len(shown)
    for y in range(0, len(panel), 2):
        axes.axhspan(y - 0.5, y + 0.5, color="#f5f5f5", linewidth=0, zorder=0)
    for i, which in enumerate(shown):
        for y, row in enumerate(panel):
            mine = style.of_series(row.parts, which)
            if mine.empty:
                continue
            middle = y + (i - (len(shown) - 1) / 2) * thick
            value = float(mine[f"{metric}_contribution"].sum())
            axes.barh(
                middle,
                value,
                height=thick * 0.86,
                color=_face(which),
                edgecolor=which.colour,
                linewidth=0.6,
                zorder=2,
            )
            if row.interval:
                ends = [
                    float(mine[f"{metric}_contribution_{end}"].iloc[0]) for end in ("low", "high")
                ]
                axes.plot(ends, [middle, middle], color=style.INK, linewidth=0.6, zorder=3)
    axes.axvline(0, color=style.QUIET, linewidth=0.6, zorder=4)
    axes.grid(axis="x")
    axes.margins(x=0.04)


def _sums(
    canvas: Axes,
    corner: tuple[float, float],
    width: float,
    panel: list[Row],
    metric: str,
    shown: list[style.Series],
) -> None:
    """State the sum of the contributions above a panel, after a square of the series' colour."""
    words = [[(METRICS[metric], style.INK)]]
    for which in shown:
        parts = pd.concat([style.of_series(row.parts, which) for row in panel])
        total = float(parts[f"{metric}_contribution"].sum())
        square = ("■ " if which.filled else "□ ", which.colour)
        words.append([square, (style.signed(total, DIGITS[metric]), style.INK)])
    lines: list[list[list[tuple[str, str]]]] = [[]]
    for word in words:
        if lines[-1] and _wide(lines[-1]) + _wide([word]) > width:
            lines.append([])
        lines[-1].append(word)
    left, bottom = corner
    for up, line in enumerate(reversed(lines)):
        x = left
        for word in line:
            for text, colour in word:
                y = bottom - 1.8 - up * 3.1
                canvas.text(x, y, text, color=colour, va="center")
                x += style.text_width_mm(text)
            x += WORD_GAP_MM


def _wide(line: list[list[tuple[str, str]]]) -> float:
    return sum(style.text_width_mm(text) for word in line for text, _ in word) + WORD_GAP_MM * len(
        line
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"drivers": DRIVERS}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, real=True)


if __name__ == "__main__":
    raise SystemExit(main())
