"""Draw the effect of removing each head from state to state, and the concentration of all of them.

One line a head; the heads with the largest effect in any state have names. The grey band is the
size of the noise in each state; the scale is linear about zero, up to where that is least, and
logarithmic beyond. Beside it the concentration of all heads' effects and of the harmful ones, in
every training that differs in its seed alone, with their mean.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from stages.drawing import command, style
from stages.heads.components import head_name
from stages.heads.figures import heads
from stages.heads.tables.importance import HEAD_IMPORTANCE
from stages.heads.tables.seeds import HEAD_OVER_SEEDS, HEAD_SEEDS

NAME = "head_trajectories"
Floats = NDArray[np.float64]

N_NAMED = 10
HEIGHT_MM = 104
TOP_MM, FOOT_MM = 6, 15
LINES_LEFT_MM, LINES_WIDTH_MM = 14, 76
SIDE_LEFT_MM, SIDE_WIDTH_MM = 106, 33
GAP_MM = 4
# Beyond the last state: room for names, as a share of the (logarithmic) axis.
NAMES_SHARE = 0.19
NAME_LINE_PT = 8.6
LOOKS: tuple[tuple[str, style.LineStyle], ...] = tuple(
    (colour, line)
    for line in ("-", "--")
    for colour in map(to_hex, heads.SHADES(np.linspace(0.4, 0.95, 5)))
)
METRICS = {"gini": "Gini coefficient", "effective_number": "Effective number of heads"}
EFFECTS = {
    "absolute": f"|{heads.DELTA} loss|",
    "harmful": f"{heads.DELTA} loss where above 0",
}


@style.styled
def draw(importance: pd.DataFrame, seeds: pd.DataFrame, over: pd.DataFrame) -> Figure:
    """Return the lines of all heads, and beside them the metrics of every training and their mean.

    Parameters
    ----------
    importance
        ``HEAD_IMPORTANCE``; zero ablation is drawn where there is one.
    seeds, over
        ``HEAD_SEEDS`` and ``HEAD_OVER_SEEDS`` of the same model. One training alone has its
        interval over sequences, several that over seeds.

    Raises
    ------
    FigureError
        The table holds no head.
    """
    rows = heads.shown(importance)
    wide = heads.effects(rows)
    states = heads.States.of(rows)
    figure = style.figure(style.DOUBLE_MM, HEIGHT_MM + style.STRIP_MM)
    height = HEIGHT_MM - TOP_MM - FOOT_MM
    lines = style.add_axes(
        figure, left=LINES_LEFT_MM, top=TOP_MM, width=LINES_WIDTH_MM, height=height
    )
    _lines(lines, wide, states, heads.noise_levels(rows), height)
    each = (height - GAP_MM) / 2
    n_seeds = seeds["seed"].nunique(dropna=False)
    for i, (metric, label) in enumerate(METRICS.items()):
        beside: Axes | None = None
        for j, (effects, title) in enumerate(EFFECTS.items()):
            axes = style.add_axes(
                figure,
                left=SIDE_LEFT_MM + j * (SIDE_WIDTH_MM + GAP_MM),
                top=TOP_MM + i * (each + GAP_MM),
                width=SIDE_WIDTH_MM,
                height=each,
            )
            if beside is not None:
                axes.sharey(beside)
                axes.tick_params(labelleft=False)
            each_seed, mean = (part[_of(part, effects, metric)] for part in (seeds, over))
            _metric(axes, each_seed, mean, states, last=i == len(METRICS) - 1)
            if i == 0:
                axes.set_title(title, size=style.SMALLEST_PT, weight="normal", pad=3)
            if beside is None:
                axes.set_ylabel(label)
            beside = axes
    _legend(figure, n_seeds)
    return figure


def _of(table: pd.DataFrame, effects: str, metric: str) -> NDArray[np.bool_]:
    which: NDArray[np.bool_] = (
        (table["effects"] == effects) & (table["metric"] == metric)
    ).to_numpy()
    return which


def _lines(
    axes: Axes,
    wide: pd.DataFrame,
    states: heads.States,
    noise: "pd.Series[float]",
    height: float,
) -> None:
    x = states.at
    # A state alone is a point and not a line.
    marker = "" if len(x) > 1 else "."
    linear = 10.0 ** math.floor(math.log10(2 * float(noise.min())))
    largest = wide.abs().max(axis=1).sort_values(ascending=False, kind="stable")
    named = list(largest.index[:N_NAMED])
    axes.set_yscale("symlog", linthresh=linear, linscale=0.6)
    level = noise[states.names].to_numpy(float)
    at, level = (x, level) if len(x) > 1 else (_widened(states), level.repeat(2))
    axes.fill_between(at, -level, level, color=style.FAINT, linewidth=0, zorder=0)
    axes.axhline(0, color=style.QUIET, linewidth=0.6, zorder=1)
    rest = wide.drop(index=named)
    # So many lines as lie over one another, so much fainter each.
    alpha = float(np.clip(25 / max(len(rest), 1), 0.18, 0.5))
    for values in rest.to_numpy(float):
        axes.plot(x, values, color=style.GREY, linewidth=0.4, marker=marker, alpha=alpha, zorder=2)
    for index, (colour, line) in zip(named, LOOKS, strict=False):
        values = wide.loc[index].to_numpy(float)
        axes.plot(x, values, color=colour, linestyle=line, linewidth=1.1, marker=marker, zorder=3)
    low, high = float(wide.to_numpy().min()), float(wide.to_numpy().max())
    axes.set_ylim(min(low * 1.6, -2 * linear), max(high * 1.6, 2 * linear))
    axes.yaxis.set_major_locator(FixedLocator(_decades(linear, *axes.get_ylim())))
    axes.yaxis.set_major_formatter(FuncFormatter(_power))
    axes.minorticks_off()
    before = max(0.03, states.widest_mm / 2 / LINES_WIDTH_MM)
    share = 1 - NAMES_SHARE - before
    states.axis(axes, LINES_WIDTH_MM * share)
    axes.set_xlim(*states.limits(before / share, NAMES_SHARE / share))
    axes.set_xlabel(states.label)
    axes.set_ylabel(heads.EFFECT, labelpad=2)
    _names(axes, wide.loc[named], float(x[-1]), height)


def _decades(linear: float, low: float, high: float) -> list[float]:
    """Return zero and the powers of ten from the edge of the linear part outward."""
    first = round(math.log10(linear))
    up = [10.0**k for k in range(first, 4) if 10.0**k <= high]
    down = [-(10.0**k) for k in range(first, 4) if -(10.0**k) >= low]
    return [*reversed(down), 0.0, *up]


def _power(value: float, _: int) -> str:
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    return f"${sign}10^{{{round(math.log10(abs(value)))}}}$"


def _names(axes: Axes, named: pd.DataFrame, x_end: float, height_mm: float) -> None:
    """Write the names in the order of the lines' ends, apart from one another."""
    ends = named.iloc[:, -1].to_numpy(float)
    to_page = axes.transData + axes.transAxes.inverted()
    height_pt = height_mm / style.MM_PER_INCH * style.POINTS_PER_INCH
    at = np.array([to_page.transform((x_end, end)) for end in ends])
    placed = apart(at[:, 1] * height_pt, NAME_LINE_PT, 0, height_pt) / height_pt
    x_text = at[0, 0] + 0.045
    for (layer, head), start, y, look in zip(named.index, at, placed, LOOKS, strict=False):
        axes.plot(
            [start[0] + 0.004, x_text - 0.006],
            [start[1], y],
            transform=axes.transAxes,
            color=look[0],
            linewidth=0.5,
            clip_on=False,
        )
        axes.text(x_text, y, head_name(layer, head), transform=axes.transAxes, va="center")


def apart(wanted: Floats, gap: float, low: float, high: float) -> Floats:
    """Return places in the same order, at least `gap` apart, as near as can be to those wanted.

    Blocks of neighbours that are too close share their mean displacement (isotonic regression);
    where `low` to `high` is too short for all, the places fill it evenly.

    Examples
    --------
    >>> apart(np.array([10.0, 10.0, 30.0]), 4.0, 0.0, 100.0).tolist()
    [8.0, 12.0, 30.0]
    """
    order = np.argsort(wanted, kind="stable")
    n = len(wanted)
    if n * gap > high - low:
        placed = np.linspace(low + gap / 2, high - gap / 2, n)
    else:
        steps = gap * np.arange(n)
        goal = np.clip(wanted[order], low + gap / 2, high - gap / 2) - steps
        blocks: list[list[float]] = []
        for value in goal:
            blocks.append([float(value), 1])
            while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
                mean, count = blocks.pop()
                before, earlier = blocks.pop()
                total = count + earlier
                blocks.append([(mean * count + before * earlier) / total, total])
        level = np.concatenate([np.full(int(count), mean) for mean, count in blocks])
        level = np.clip(level, low + gap / 2, high - gap / 2 - steps[-1])
        placed = level + steps
    found: Floats = np.empty(n)
    found[order] = placed
    return found


def _widened(states: heads.States) -> Floats:
    """Return the ends of a band about a state alone, which is a point."""
    return np.array(states.limits(0.2, 0.2))


def _metric(
    axes: Axes, seeds: pd.DataFrame, over: pd.DataFrame, states: heads.States, *, last: bool
) -> None:
    """Draw one metric: noise, every training, their mean, and that by halves of the sequences."""
    colour = style.COLOURS["heads"]
    measured = seeds[seeds["estimator"] == "plug_in"]
    each = [rows.sort_values("position") for _, rows in measured.groupby("seed", dropna=False)]
    x = states.at if len(states.names) > 1 else _widened(states)

    def along(values: "pd.Series[float]") -> Floats:
        found: Floats = values.to_numpy(float)
        return found if len(states.names) > 1 else found.repeat(2)

    floor = measured.groupby("position")[["floor", "floor_low", "floor_high"]].mean()
    axes.fill_between(
        x,
        along(floor["floor_low"]),
        along(floor["floor_high"]),
        color=style.FAINT,
        linewidth=0,
        zorder=0,
    )
    axes.plot(x, along(floor["floor"]), color=style.QUIET, linewidth=0.8, dashes=(3, 2), zorder=1)
    if len(each) > 1:
        for rows in each:
            axes.plot(states.at, rows["value"], color=colour, linewidth=0.5, alpha=0.6, zorder=2)
        mean = over[over["estimator"] == "plug_in"].sort_values("position")
        value = mean["mean"]
    else:
        mean = each[0]
        value = mean["value"]
    axes.fill_between(
        x, along(mean["low"]), along(mean["high"]), color=colour, alpha=0.3, linewidth=0
    )
    axes.plot(states.at, value, color=colour, marker="o", markersize=2.6, linewidth=1.2, zorder=3)
    halves = over[over["estimator"] == "split_half"].sort_values("position")
    # Where only some trainings have a value, their mean is that of others.
    halves = halves[halves["n_seeds"] == len(each)]
    if len(halves):
        at = dict(zip(states.names, states.at, strict=True))
        axes.plot(
            halves["state"].map(at),
            halves["mean"],
            color=style.INK,
            marker="_",
            markersize=5,
            linewidth=0,
            zorder=4,
        )
    span = min(SIDE_WIDTH_MM * 0.92, SIDE_WIDTH_MM - states.widest_mm)
    states.axis(axes, span, labels=last)
    axes.margins(x=max(0.04, states.widest_mm / 2 / span))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if last:
        axes.set_xlabel(states.label)


def _legend(figure: Figure, n_seeds: int) -> None:
    colour = style.COLOURS["heads"]
    observed = Line2D([], [], color=colour, marker="o", markersize=2.6, linewidth=1.2)
    band = Patch(color=colour, alpha=0.3, linewidth=0)
    floor = Line2D([], [], color=style.QUIET, linewidth=0.8, dashes=(3, 2))
    handles: dict[str, Any] = {"a head": Line2D([], [], color=style.GREY, linewidth=0.6)}
    if n_seeds > 1:
        handles["a training"] = Line2D([], [], color=colour, linewidth=0.5, alpha=0.6)
        handles[f"mean of {n_seeds}, interval over seeds"] = (band, observed)
    else:
        handles["all heads, interval over sequences"] = (band, observed)
    handles["by halves, without noise"] = Line2D(
        [], [], color=style.INK, marker="_", markersize=5, linewidth=0
    )
    handles["noise alone"] = (Patch(color=style.FAINT, linewidth=0), floor)
    strip = style.STRIP_MM / (HEIGHT_MM + style.STRIP_MM)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="lower center",
        bbox_to_anchor=(0.5, strip - 0.01),
        ncols=len(handles),
        handlelength=2,
        columnspacing=1.4,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"importance": HEAD_IMPORTANCE, "seeds": HEAD_SEEDS, "over": HEAD_OVER_SEEDS}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, arms=None)


if __name__ == "__main__":
    raise SystemExit(main())
