"""Draw what edges, sets of features and steering are worth beside what stands in their place.

On the left how many features have at least so many edges, with the directions that were put in the
place of their own; in the middle what sets of features do together over the sum of each alone, in
raw effects and by the published ratio, which is drawn for sums that add up exactly, too; on the
right what amplified features that follow an order move, by dose, with what stands beside them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from stages.drawing import command, style
from stages.features.tables.combine import COMBINATIONS
from stages.features.tables.steer import KINDS, STEERING
from stages.features.tables.trace import DIRECTIONS, TRACED, TRACING

NAME = "features"
HEIGHT_MM = 82
TOP_MM, FOOT_MM = 7, 27
LEFT_MM, WIDTH_MM = (13, 76, 138), (48, 47, 42)
LINES: dict[str, tuple[str, style.LineStyle, float]] = {
    "feature": (style.INK, "-", 1.4),
    "random": (style.GREY, "-", 1.1),
    "another": (style.QUIET, "--", 1.0),
    "matched": (style.QUIET, ":", 1.2),
}
NAMES = {
    "feature": "own direction",
    "random": "random direction",
    "another": "another feature's",
    "matched": "of equal frequency",
}
STEERED: dict[str, tuple[str, style.LineStyle, str]] = {
    "feature": (style.INK, "-", "o"),
    "random feature": (style.QUIET, "--", "s"),
    "random direction": (style.GREY, "-", "v"),
    "shuffled order": (style.QUIET, ":", "D"),
    "ceiling": (style.INK, "-.", "^"),
}
READOUT = "markers"


@style.styled
def draw(
    tracing: pd.DataFrame,
    traced: pd.DataFrame,
    combinations: pd.DataFrame,
    steering: pd.DataFrame,
) -> Figure:
    """Return the three panels of ``TRACING``, ``TRACED``, ``COMBINATIONS`` and ``STEERING``."""
    figure = style.figure(style.DOUBLE_MM, HEIGHT_MM + style.STRIP_MM)
    height = HEIGHT_MM - TOP_MM - FOOT_MM
    panels = [
        style.add_axes(figure, left=left, top=TOP_MM, width=width, height=height)
        for left, width in zip(LEFT_MM, WIDTH_MM, strict=True)
    ]
    _edges(panels[0], tracing, traced)
    _together(panels[1], combinations)
    _steered(panels[2], steering)
    titles = ("a  Edges of a feature", "b  Features together", "c  Features amplified")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, loc="left", weight="bold")
    return figure


def _edges(axes: Axes, tracing: pd.DataFrame, traced: pd.DataFrame) -> None:
    """Draw the share of features with at least so many edges, and the means under the axis."""
    whole = traced.dropna(subset=list(DIRECTIONS[1:]))
    means = tracing[(tracing["seed"] == 0) & (tracing["rule"] == "published")]
    mean = means.set_index("direction")
    handles = []
    for name in DIRECTIONS:
        values = np.sort(whole["edges" if name == "feature" else name].to_numpy(float))
        colour, line, width = LINES[name]
        at = np.concatenate([[0.0], np.repeat(values, 2)])
        share = 1 - np.repeat(np.arange(len(values) + 1), 2) / len(values)
        axes.plot(at, share[: len(at)], color=colour, linestyle=line, linewidth=width)
        label = f"{NAMES[name]}, mean {mean.loc[name, 'edges']:.1f}"
        if name == "feature":
            label = f"{NAMES[name]}, mean {values.mean():.1f}"
        handles.append(Line2D([], [], color=colour, linestyle=line, linewidth=width, label=label))
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("Edges (published rule)")
    axes.set_ylabel("Share of features with more")
    _legend(axes, handles)


def _together(axes: Axes, combinations: pd.DataFrame) -> None:
    """Draw the three ratios of every set of the largest size, with those that add up as a line."""
    handles: list[Line2D] = []
    if not combinations.empty:
        rows = combinations[combinations["order"] == combinations["order"].max()]
        looks = (
            ("raw", style.INK, style.INK, "raw effects"),
            ("published", style.INK, "white", "published ratio"),
            ("additive", style.GREY, style.GREY, "published, of exact sums"),
        )
        order = rows["raw"].rank(method="first").to_numpy() - 1
        for column, edge, face, label in looks:
            axes.scatter(
                rows[column],
                order,
                s=13,
                facecolors=face,
                edgecolors=edge,
                linewidths=0.9,
                zorder=3,
            )
            handles.append(
                Line2D(
                    [],
                    [],
                    color=edge,
                    marker="o",
                    markersize=3.6,
                    markerfacecolor=face,
                    linewidth=0,
                    label=label,
                )
            )
        axes.hlines(order, rows["low"], rows["high"], color=style.INK, linewidth=0.8)
        axes.axvline(1, color=style.QUIET, linewidth=0.8, dashes=(3, 2))
        axes.set_xlim(left=0)
    axes.set_yticks([])
    axes.set_ylabel("Sets of three features")
    axes.set_xlabel("Together over the sum of each")
    _legend(axes, handles)


def _steered(axes: Axes, steering: pd.DataFrame) -> None:
    """Draw what each dose moves, at the first layer, as a mean over autoencoders."""
    handles: list[Line2D] = []
    if steering.empty:
        axes.text(0.5, 0.5, "not in these inputs", transform=axes.transAxes, ha="center")
        axes.set_xticks([])
        axes.set_yticks([])
    else:
        shown = READOUT if READOUT in set(steering["readout"]) else "state"
        rows = steering[
            (steering["readout"] == shown) & (steering["layer"] == steering["layer"].min())
        ]
        for kind in [kind for kind in KINDS if kind in set(rows["kind"])]:
            of = rows[rows["kind"] == kind]
            colour, line, marker = STEERED[kind]
            for _, one in of.groupby("seed"):
                axes.plot(one["dose"], one["shift"], color=colour, linewidth=0.5, alpha=0.45)
            mean = of.groupby("dose")["shift"].mean()
            looks: dict[str, Any] = {
                "color": colour,
                "linestyle": line,
                "marker": marker,
                "markersize": 3.2,
            }
            axes.plot(mean.index, mean, linewidth=1.2, **looks)
            handles.append(Line2D([], [], linewidth=1.2, label=kind, **looks))
        axes.axhline(0, color=style.QUIET, linewidth=0.6)
        axes.set_xscale("log", base=2)
        doses = sorted(rows["dose"].unique())
        axes.set_xticks(doses, [f"{dose:g}" for dose in doses])
        axes.minorticks_off()
    axes.set_xlabel("Dose (times the code)")
    axes.set_ylabel("Late less early markers (logits)" if not steering.empty else "")
    _legend(axes, handles)


def _legend(axes: Axes, handles: Sequence[Line2D]) -> None:
    if handles:
        axes.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(-0.12, -0.22),
            borderaxespad=0,
            handlelength=2.2,
            labelspacing=0.25,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {
        "tracing": TRACING,
        "traced": TRACED,
        "combinations": COMBINATIONS,
        "steering": STEERING,
    }
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, arms=None)


if __name__ == "__main__":
    raise SystemExit(main())
