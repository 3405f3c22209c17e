"""Draw the direction of every arm under each choice of analysis, and its share of all of them."""

import re
import textwrap
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from stages.base.study import Groups, Study
from stages.cells.tables.multiverse import (
    KINDS,
    MULTIVERSE,
    MULTIVERSE_CHOICES,
    PUBLISHED,
)
from stages.drawing import command, evidence, style
from stages.inputs.tables import TWO_GROUPS
from stages.measurement.concentration import QUADRANTS

NAME = "multiverse"

MARGIN_MM = 1.5
LEGEND_MM = MARGIN_MM + 5.5
"""Where the words of the legend begin, behind its marks."""
LINE_MM = 3.8
ROW_MM = 4.2
COLUMN_MM = 4.6
GROUP_GAP_MM = 1.4
# How much of its colour a cell has whose direction is that of the main choices.
PALE = 0.22
BAR_MM = 26.0
NUMBER_MM = 9.0

WORDS = {
    "sex": "{}s alone",
    "min_cells": "cells \N{GREATER-THAN OR EQUAL TO} {}",
    "cells": "equal cells",
    "gini_corrected": "Gini, corrected",
    "gini_tissue": "Gini, tissue's types",
    "effective_number_miller_madow": "N, Miller-Madow",
    "effective_number_chao_shen": "N, Chao-Shen",
    "hill_0": "N of order 0",
    "hill_2": "N of order 2",
    "statistic": "{}s",
}
NUMBERED = (*TWO_GROUPS, "min_cells")
LEGEND = (
    "full: by the main choices, and where one other choice turns it; pale: where it holds; "
    "dot: no such choice"
)


@style.styled
def draw(multiverse: pd.DataFrame, choices: pd.DataFrame, about: Study) -> Figure:
    """Return a grid of arms by single choices, and beside it the share of all analyses.

    Parameters
    ----------
    multiverse, choices
        ``MULTIVERSE`` and ``MULTIVERSE_CHOICES``.
    about
        What names the animals of each arm.
    """
    if multiverse.empty:
        return style.message(style.NOTHING_COMPARED)
    columns, groups = _columns(choices), about.groups(multiverse)
    labels = [_words(kind, choice, groups) for kind, choice in columns]
    names = [evidence.label(arm[2], [arm], about) for arm in evidence.arms(multiverse)]
    series = style.series(multiverse)
    names_mm = max(map(style.text_width_mm, [*names, *(one.label for one in series)])) + 3
    lefts = _lefts(columns, MARGIN_MM + names_mm)
    shares_mm = lefts[-1] + COLUMN_MM + GROUP_GAP_MM
    meanings = [f"{name}: {style.MEANINGS[name]}" for name in QUADRANTS]
    widest = max(map(style.text_width_mm, meanings)) + LEGEND_MM + MARGIN_MM
    width = max(shares_mm + BAR_MM + NUMBER_MM + MARGIN_MM, widest)
    body = MARGIN_MM + max(map(style.text_width_mm, labels)) + 2
    room = (width - LEGEND_MM - MARGIN_MM) / style.text_width_mm(LEGEND)
    legend = [*meanings, *textwrap.wrap(LEGEND, int(0.95 * room * len(LEGEND)))]
    n_rows = len(multiverse) + len(series)
    rest = body + (len(legend) + 0.5) * LINE_MM + style.STRIP_MM
    row_mm = min(ROW_MM, (style.PAGE_MM - rest) / n_rows)
    figure, canvas = style.page(width, rest + n_rows * row_mm)
    for left, label in zip(lefts, labels, strict=True):
        canvas.text(left + COLUMN_MM / 2, body - 0.8, label, rotation=90, ha="center", va="bottom")
    canvas.text(shares_mm, body - 0.8, "share of all\nanalyses", ha="left", va="bottom")
    canvas.text(width - MARGIN_MM, body - 0.8, "same\ndirection", ha="right", va="bottom")
    top = body
    for one in series:
        canvas.text(MARGIN_MM, top + row_mm / 2, one.label, va="center", weight="bold")
        top += row_mm
        arms = style.of_series(multiverse, one)
        made = style.of_series(choices, one)
        for arm in arms.sort_values("tissue", key=lambda x: x.str.casefold()).itertuples():
            name = (str(arm.cohort), str(arm.platform), str(arm.tissue))
            middle = top + row_mm / 2
            edge = MARGIN_MM + names_mm - 2
            label = evidence.label(name[2], [name], about)
            canvas.text(edge, middle, label, ha="right", va="center")
            of = made[made["tissue"] == arm.tissue]
            found = of.assign(choice=of["choice"].fillna("")).set_index(["kind", "choice"])[
                "direction"
            ]
            for left, column in zip(lefts, columns, strict=True):
                box = (left, top, COLUMN_MM, row_mm)
                turned = column[0] == PUBLISHED or found.get(column) != arm.direction
                _cell(canvas, box, found.get(column), alpha=1.0 if turned else PALE)
            shares = [getattr(arm, name) for name in QUADRANTS]
            _bar(canvas, (shares_mm, top, BAR_MM, row_mm), shares)
            same = f"{getattr(arm, str(arm.direction)):.0%}"
            canvas.text(width - MARGIN_MM, middle, same, ha="right", va="center")
            top += row_mm
    for line, text in enumerate(legend):
        _legend_line(canvas, top + (line + 0.9) * LINE_MM, QUADRANTS[line : line + 1], text)
    evidence.explain(figure, evidence.arms(multiverse), about)
    return figure


def _columns(choices: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the kinds and choices that any arm has, in the order of kinds; ages and cells rise."""
    found = choices[["kind", "choice"]].fillna("").drop_duplicates()
    kinds = list(dict.fromkeys([PUBLISHED, *KINDS]))

    def place(column: tuple[str, str]) -> tuple[int, float]:
        digits = re.findall(r"[\d.]+$", column[1])
        return kinds.index(column[0]), float(digits[0]) if column[0] in NUMBERED else 0.0

    return sorted(found.itertuples(index=False, name=None), key=place)


def _words(kind: str, choice: str, groups: Groups) -> str:
    """Return what the head of a column says."""
    if kind in TWO_GROUPS:
        return f"{groups[TWO_GROUPS.index(kind)]} {choice} mo"
    return WORDS.get(choice, WORDS.get(kind, "main choices")).format(choice)


def _lefts(columns: Sequence[tuple[str, str]], start: float) -> list[float]:
    """Return the left edge of each column; kinds stand apart."""
    lefts, at = [], start
    for i, (kind, _) in enumerate(columns):
        at += GROUP_GAP_MM if i and kind != columns[i - 1][0] else 0
        lefts.append(at)
        at += COLUMN_MM
    return lefts


def _cell(
    canvas: Axes, box: tuple[float, float, float, float], direction: str | None, *, alpha: float
) -> None:
    x, y, width, height = box
    middle = (x + width / 2, y + height / 2)
    if direction is None:
        canvas.text(*middle, "\N{MIDDLE DOT}", ha="center", va="center", color=style.QUIET)
        return
    colour = style.COLOURS[direction]
    look = {"facecolor": colour, "alpha": alpha, "edgecolor": "white", "linewidth": 0.8}
    canvas.add_patch(Rectangle((x, y), width, height, **look))  # type: ignore[arg-type]
    ink = colour if alpha < 1 else "white"
    style.point(canvas, *middle, direction, colour=ink, face="none", scale=0.6)


def _bar(canvas: Axes, box: tuple[float, float, float, float], shares: Sequence[float]) -> None:
    x, y, width, height = box
    for name, share in zip(QUADRANTS, shares, strict=True):
        corner, size = (x, y + 0.15 * height), (share * width, 0.7 * height)
        canvas.add_patch(Rectangle(corner, *size, facecolor=style.COLOURS[name], linewidth=0))
        x += share * width


def _legend_line(canvas: Axes, middle: float, quadrant: Sequence[str], text: str) -> None:
    for name in quadrant:
        box = Rectangle((MARGIN_MM, middle - 1.5), 4, 3, facecolor=style.COLOURS[name])
        canvas.add_patch(box)
        style.point(canvas, MARGIN_MM + 2, middle, name, colour="white", face="none", scale=0.6)
    canvas.text(LEGEND_MM, middle, text, va="center")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"multiverse": MULTIVERSE, "choices": MULTIVERSE_CHOICES}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, real=True)


if __name__ == "__main__":
    raise SystemExit(main())
