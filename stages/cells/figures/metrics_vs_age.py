"""Draw both numbers of every sample against its age, or by its group, tissue by tissue.

Original step 03. The Gini coefficient has one axis for all tissues; the effective number has an
axis for each tissue, since tissues differ in how many cell types they have.
"""

import itertools
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, MultipleLocator

from stages.base.errors import FigureError
from stages.base.study import Groups, Study
from stages.cells.design import design
from stages.cells.tables.metrics import METRICS
from stages.drawing import command, evidence, style
from stages.inputs.tables import TWO_GROUPS

NAME = "metrics_vs_age"

MAX_COLUMNS = 7
ROW_MM = 37
"""Height of a row of panels with its ticks, where the page has room for it."""
LEGEND_MM = 10
# Of the span of ages, between the series of one panel: animals of the same age stand side by side.
DODGE = 0.028
# Half the width of a median, of the span of ages.
MEDIAN = 0.045
# Ages up to here are months, with ticks by the year; longer lives are counted in years.
MOST_MONTHS = 48

MARKERS = {"female": "o", "male": "^"}
OTHER_SEX = "D"
LABELS = {"gini": "Gini\ncoefficient", "effective_number": "Effective number\nof cell types"}


@style.styled
def draw(metrics: pd.DataFrame, *, about: Study) -> Figure:
    """Return a pair of panels a tissue: Gini coefficient above, effective number below.

    Parameters
    ----------
    metrics
        ``METRICS``; the rows from all cells are drawn.
    about
        What its arms rest on.

    Raises
    ------
    FigureError
        The table holds no sample.
    """
    samples = metrics[metrics["cells"] == "all"]
    if samples.empty:
        msg = "the metrics table holds no sample to draw. Check the exclusions table."
        raise FigureError(msg)
    tissues, arms = style.tissues(samples), evidence.arms(samples)
    shown = style.series(samples)
    pairs = math.ceil(len(tissues) / MAX_COLUMNS)
    columns = math.ceil(len(tissues) / pairs)
    wide = columns > 2
    width = style.DOUBLE_MM if wide else style.SINGLE_MM
    handles = _legend(samples, shown, wide=wide)
    legend_mm = LEGEND_MM if wide else 3 + 3.6 * len(handles)
    room = (style.PAGE_MM - legend_mm - style.STRIP_MM) / (2 * pairs)
    height = 2 * pairs * min(ROW_MM, room) + legend_mm + style.STRIP_MM
    figure = style.figure(width, height, constrained=True)
    grid = figure.subplots(2 * pairs, columns, squeeze=False, sharex=True)
    axis = _Axis.of(samples, about.groups(samples))
    samples, span = samples.assign(at=axis.places(samples)), axis.span
    gini = _limits(samples["gini"])
    for k, tissue in enumerate(tissues):
        row, column = 2 * (k // columns), k % columns
        for metric, axes in zip(LABELS, (grid[row, column], grid[row + 1, column]), strict=True):
            _panel(axes, samples[samples["tissue"] == tissue], metric, shown, span)
            if column == 0:
                axes.set_ylabel(LABELS[metric])
            axes.tick_params(labelbottom=metric == "effective_number")
        grid[row, column].set_title(
            _title(evidence.label(tissue, arms, about), columns),
            weight="bold",
            size=style.SMALLEST_PT,
        )
        grid[row, column].set_ylim(gini)
        grid[row, column].tick_params(labelleft=column == 0)
        if k + columns >= len(tissues):
            grid[row + 1, column].set_xlabel(axis.label)
    for axes in grid.flat:
        axes.set_visible(bool(axes.collections))
    axis.set_on(grid[0, 0])
    figure.align_ylabels(grid[:, 0])
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=math.ceil(len(handles) / 2) if wide else 1,
        handlelength=2.4,
        columnspacing=1.2,
        labelspacing=0.35,
    )
    style.freeze(figure)
    evidence.explain(figure, arms, about)
    return figure


def _title(name: str, columns: int) -> str:
    """Return the name of a tissue, in two lines if it is wider than a panel."""
    if style.text_width_mm(name, weight="bold") < style.DOUBLE_MM / max(columns, 2) - 8:
        return name
    return "\n".join(textwrap.wrap(name, math.ceil(len(name) * 0.7), break_on_hyphens=False))


def _limits(values: pd.Series) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = 0.08 * max(high - low, 0.05)
    return low - room, high + room


@dataclass(frozen=True)
class _Axis:
    """Where samples stand: at their ages, or side by side with their groups."""

    low: float
    high: float
    unit: str
    months: float
    names: tuple[str, str]

    @classmethod
    def of(cls, samples: pd.DataFrame, groups: Groups) -> Self:
        if not groups.by_age or samples["age_months"].isna().any():
            return cls(0.0, 1.0, "", 1.0, groups[:2])
        low, high = float(samples["age_months"].min()), float(samples["age_months"].max())
        unit, months = ("years", 12.0) if high > MOST_MONTHS else ("months", 1.0)
        return cls(low / months, high / months, unit, months, groups[:2])

    @property
    def label(self) -> str:
        return f"Age ({self.unit})" if self.unit else ""

    @property
    def span(self) -> float:
        return max(self.high - self.low, 1.0)

    def places(self, samples: pd.DataFrame) -> pd.Series:
        if self.unit:
            return samples["age_months"] / self.months
        return samples["group"].map({"reference": 0.0, "other": 0.5, "compared": 1.0})

    def set_on(self, axes: Axes) -> None:
        room = 0.1 if self.unit else 0.35
        axes.set_xlim(self.low - room * self.span, self.high + room * self.span)
        if not self.unit:
            axes.set_xticks([0, 1], self.names)
        elif self.unit == "months":
            axes.xaxis.set_major_locator(MultipleLocator(12 if self.span > 12 else 3))
            axes.xaxis.set_minor_locator(MultipleLocator(6 if self.span > 12 else 1))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))


def _panel(
    axes: Axes, samples: pd.DataFrame, metric: str, shown: list[style.Series], span: float
) -> None:
    present = [which for which in shown if len(style.of_series(samples, which))]
    for i, which in enumerate(present):
        rows = style.of_series(samples, which)
        shift = (i - (len(present) - 1) / 2) * DODGE * span
        for sex, of_sex in rows.groupby(rows["sex"].fillna("unknown"), sort=True):
            colours = [
                style.FAINT if group == "other" else which.colour for group in of_sex["group"]
            ]
            axes.scatter(
                of_sex["at"] + shift,
                of_sex[metric],
                s=11,
                marker=MARKERS.get(str(sex), OTHER_SEX),
                facecolors=colours if which.filled else "white",
                edgecolors=colours,
                linewidths=0.6,
                zorder=3,
            )
        _medians(axes, rows, metric, which, shift, span)
        _pairs(axes, rows, metric, shift)
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(style.ticks(4))
    axes.margins(y=0.1)


def _medians(
    axes: Axes, rows: pd.DataFrame, metric: str, which: style.Series, shift: float, span: float
) -> None:
    ends = []
    for group in TWO_GROUPS:
        values = rows[rows["group"] == group]
        if len(values):
            ends.append((float(values["at"].median()) + shift, values[metric].median()))
    for x, y in ends:
        axes.plot(
            [x - MEDIAN * span, x + MEDIAN * span],
            [y, y],
            color=which.colour,
            linewidth=1.8,
            solid_capstyle="butt",
            zorder=4,
        )
    if len(ends) > 1:
        way = np.array(ends)
        axes.plot(
            way[:, 0], way[:, 1], color=which.colour, linestyle=which.line, linewidth=1, zorder=2
        )


def _pairs(axes: Axes, rows: pd.DataFrame, metric: str, shift: float) -> None:
    """Join the samples of each pair."""
    found = design(rows.reset_index(drop=True))
    if not found.paired:
        return
    at, values = (rows[name].to_numpy(float) for name in ("at", metric))
    for one, other in zip(found.reference, found.compared, strict=True):
        ends = [one, other]
        axes.plot(at[ends] + shift, values[ends], color=style.GREY, linewidth=0.5, zorder=1)


def _legend(samples: pd.DataFrame, shown: list[style.Series], *, wide: bool) -> list[Line2D]:
    """Return what the legend shows; if it is wide, the series fill the upper of two lines."""
    lines = [
        Line2D([], [], color=s.colour, linestyle=s.line, linewidth=1.4, label=f"{s.label}, median")
        for s in shown
    ]
    sexes = sorted(samples["sex"].fillna("unknown").unique())
    handles = [style.mark(sex, MARKERS.get(sex, OTHER_SEX)) for sex in sexes]
    if sexes == ["unknown"]:
        handles = []
    if (samples["group"] == "other").any():
        handles.append(style.mark("pale: in neither group", "s", colour=style.FAINT))
    if not wide:
        return [*lines, *handles]
    blank = Line2D([], [], linestyle="", label="")
    columns = itertools.zip_longest(lines, handles, fillvalue=blank)
    return [handle for column in columns for handle in column]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"metrics": METRICS}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, real=True)


if __name__ == "__main__":
    raise SystemExit(main())
