"""Draw the ageing of tissues and the training of heads in one plane of both metrics.

Original steps 07 and 14. Old minus young of each tissue, and each checkpoint minus the first of the
heads, with the ellipses of their bootstrap draws: above on the raw scales, below on the corrected
ones. A quadrant that both share is an analogy and not a mechanism.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from stages.drawing import command, labels, style
from stages.heads import components
from stages.heads.figures import heads
from stages.measurement.resampling import SIGNIFICANT
from stages.plane import directions
from stages.plane.tables import PLANE, PLANE_DIRECTIONS, SCALES

NAME = "pythia_overlay_v2"
"""Of its files, as the study published the figure."""
Floats = NDArray[np.float64]

PANEL_MM = 96
LEGEND_MM = 12
MAX_STATES = 4
TITLES = {"raw": "a  Raw scales", "corrected": "b  Corrected scales"}
AXES = {
    "raw": ("Gini coefficient", "effective number"),
    "corrected": ("corrected Gini coefficient", "effective number / number of components"),
}
# Where the heads reach this many times further than the tissues, the axis is compressed beyond
# these: 384 heads and 15 cell types have no effective number in common.
COMPRESS_FROM = 3
# (sign of the change of Gini, of the effective number)
CORNERS = {
    (1, -1): "crystallize",
    (-1, 1): "disperse",
    (1, 1): "mixed (both up)",
    (-1, -1): "mixed (both down)",
}


@style.styled
def draw(plane: pd.DataFrame, same: pd.DataFrame, *, confidence: float) -> Figure:
    """Return one panel a pair of scales: points are tissues, the path is that of the heads.

    Parameters
    ----------
    plane
        ``PLANE``; zero ablation is drawn where there is one. Without rows, the figure says
        so in words.
    same
        ``PLANE_DIRECTIONS``.
    confidence
        Level of the ellipses.
    """
    if plane.empty:
        return style.message("No tissue was compared and no two states were measured.")
    cells = _named(plane[plane["system"] == "cells"])
    moving = plane[plane["system"] == "heads"]
    others = plane[~plane["system"].isin(("cells", "heads"))]
    if not moving.empty:
        shown = components.shown(moving["condition"])
        moving = moving[moving["condition"] == shown]
        same = same[same["reference_condition"] == shown]
    same = same[same["system"] == "cells"]
    height = 2 * PANEL_MM + LEGEND_MM + style.STRIP_MM
    figure = style.figure(style.DOUBLE_MM, height, constrained=True)
    panels = []
    for axes, scale in zip(figure.subplots(2, 1), SCALES, strict=True):
        of_cells, of_heads = (rows[rows["scale"] == scale] for rows in (cells, moving))
        _panel(axes, of_cells, of_heads, confidence)
        _others(axes, others[others["scale"] == scale])
        axes.set_title(TITLES[scale], loc="left", weight="bold")
        axes.set_title(
            _agreement(same[same["scale"] == scale]), loc="right", size=style.SMALLEST_PT
        )
        across, along = AXES[scale]
        axes.set_xlabel(f"{heads.DELTA} {across}")
        axes.set_ylabel(f"{heads.DELTA} {along}{_compressed(axes)}")
        panels.append((axes, of_cells, of_heads))
    handles = _legend(cells, moving, others, confidence)
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=min(4, len(handles)),
        handlelength=1.8,
        columnspacing=1.4,
    )
    # Names can be placed only where the panels stay.
    style.freeze(figure)
    for axes, of_cells, of_heads in panels:
        _names(axes, of_cells, of_heads)
    return figure


def _panel(axes: Axes, cells: pd.DataFrame, moving: pd.DataFrame, confidence: float) -> None:
    drawn = [np.zeros((1, 2))]
    for which in style.series(cells):
        for _, row in style.of_series(cells, which).iterrows():
            outline = _outline(row, confidence)
            drawn.append(outline)
            axes.fill(*outline.T, color=which.colour, alpha=0.05, linewidth=0, zorder=1)
            axes.plot(
                *outline.T, color=which.colour, linewidth=0.5, alpha=0.6, ls=which.line, zorder=2
            )
            axes.scatter(
                row["d_gini"],
                row["d_effective"],
                s=16,
                facecolors=which.colour if which.filled else "white",
                edgecolors=which.colour,
                linewidths=0.9,
                zorder=4,
            )
    near = float(np.abs(np.concatenate(drawn)[:, 1]).max())
    for bootstrap, line in (("replicates", "-"), ("components", "--")):
        rows = moving[moving["bootstrap"] == bootstrap]
        if rows.empty:
            continue
        outline = _outline(rows.iloc[-1], confidence)
        drawn.append(outline)
        colour = style.COLOURS["heads"]
        axes.plot(*outline.T, color=colour, linewidth=0.8, linestyle=line, zorder=2)
        if bootstrap == "replicates":
            axes.fill(*outline.T, color=colour, alpha=0.12, linewidth=0, zorder=1)
            path = np.vstack([np.zeros(2), _places(rows)])
            drawn.append(path)
            axes.plot(*path.T, color=colour, linewidth=1.2, marker="o", markersize=2.6, zorder=3)
            axes.scatter(path[-1, 0], path[-1, 1], s=30, marker="D", color=colour, zorder=4)
    everything = np.concatenate(drawn)
    _limits(axes, everything, near)
    axes.axhline(0, color=style.QUIET, linewidth=0.6, zorder=1)
    axes.axvline(0, color=style.QUIET, linewidth=0.6, zorder=1)
    axes.spines[["top", "right"]].set_visible(True)
    for (right, up), text in CORNERS.items():
        axes.annotate(
            text,
            xy=((1 + right) / 2, (1 + up) / 2),
            xycoords="axes fraction",
            xytext=(-4 * right, -4 * up),
            textcoords="offset points",
            ha="right" if right > 0 else "left",
            va="top" if up > 0 else "bottom",
            weight="bold",
            color=style.COLOURS[text.split()[0]],
        )


def _named(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of tissues with their cohort, platform and tissue."""
    arm = cells["group"].str.split(" ", n=1)
    return cells.assign(cohort=arm.str[0], platform=arm.str[1], tissue=cells["series"])


def _lines_of(others: pd.DataFrame) -> list[tuple[tuple[str, ...], style.LineStyle]]:
    """Return the series of further systems, each with a line of its own."""
    names = others[["group", "series", "condition"]].drop_duplicates().itertuples(index=False)
    lines: tuple[style.LineStyle, ...] = ("-", "--", "-.", ":")
    return [(tuple(name), lines[i % len(lines)]) for i, name in enumerate(names)]


def _others(axes: Axes, others: pd.DataFrame) -> None:
    """Draw the path of every further system: one that is measured needs no change here."""
    for series, line in _lines_of(others):
        of_series = (others[["group", "series", "condition"]] == list(series)).all(axis=1)
        rows = others[of_series & (others["bootstrap"] == "replicates")]
        path = np.vstack([np.zeros(2), _places(rows)])
        axes.plot(*path.T, color=style.GREY, linestyle=line, marker=".", markersize=3, zorder=3)


def _outline(row: pd.Series, confidence: float) -> Floats:
    shared = row["covariance"]
    covariance = np.array([[row["variance_gini"], shared], [shared, row["variance_effective"]]])
    centre = row[["d_gini", "d_effective"]].to_numpy(float)
    return directions.ellipse(centre, covariance, confidence=confidence)


def _places(rows: pd.DataFrame) -> Floats:
    places: Floats = rows.sort_values("position")[["d_gini", "d_effective"]].to_numpy(float)
    return places


def _limits(axes: Axes, drawn: Floats, near: float) -> None:
    """Show all that is drawn and both sides of zero, with room for the quadrants' names."""
    low, high = drawn.min(axis=0), drawn.max(axis=0)
    span = np.maximum(high - low, 1e-9)
    low, high = np.minimum(low, -0.15 * span), np.maximum(high, 0.15 * span)
    axes.set_xlim(low[0] - 0.04 * span[0], high[0] + 0.04 * span[0])
    axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10]))
    far = float(np.abs(drawn[:, 1]).max())
    if near > 0 and far > COMPRESS_FROM * near:
        linear = _nice(near)
        axes.set_yscale("symlog", linthresh=linear, linscale=1.2)
        reach = [linear * step for step in (1, 2, 5, 10, 20, 50, 100) if linear * step < 1.2 * far]
        axes.set_yticks([*(-tick for tick in reach), -linear / 2, 0, linear / 2, *reach])
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda tick, _: f"{tick:g}".replace("-", "\N{MINUS SIGN}"))
        )
        axes.minorticks_off()
        ends = drawn[:, 1].min(), drawn[:, 1].max()
        # A factor of two on the compressed part is the room for the quadrants' names.
        axes.set_ylim(min(2 * ends[0], -1.5 * linear), max(2 * ends[1], 1.5 * linear))
    else:
        axes.set_ylim(low[1] - 0.1 * span[1], high[1] + 0.1 * span[1])
        axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))


def _nice(value: float) -> float:
    """Return the next of 1, 2, 5, 10, 20, ... times a power of ten.

    >>> _nice(3.2), _nice(0.7), _nice(20.0)
    (5.0, 1.0, 20.0)
    """
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 2, 5, 10) if value <= step * power * 1.000001))


def _compressed(axes: Axes) -> str:
    if axes.get_yscale() != "symlog":
        return ""
    linear = float(axes.yaxis.get_transform().linthresh)  # type: ignore[attr-defined]
    return f" (logarithmic beyond \N{PLUS-MINUS SIGN}{linear:g})"


def _agreement(same: pd.DataFrame) -> str:
    n = len(same)
    if not n:
        return ""
    close, sure = int((same["angle_degrees"] < 90).sum()), int((same["p"] < SIGNIFICANT).sum())
    return f"Less than 90° from the heads: {close} of {n} tissues; p < {SIGNIFICANT:g} in {sure}"


def _legend(
    cells: pd.DataFrame, moving: pd.DataFrame, others: pd.DataFrame, confidence: float
) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D(
            [],
            [],
            color=which.colour,
            linestyle=which.line,
            linewidth=0.8,
            marker="o",
            markersize=4,
            markerfacecolor=which.colour if which.filled else "white",
            label=f"{which.label}, old \N{MINUS SIGN} young",
        )
        for which in style.series(cells)
    ]
    level = f"{100 * confidence:g}% ellipse"
    if not moving.empty:
        colour = style.COLOURS["heads"]
        since = f"Heads, since {heads.title(moving['state_first'].iloc[0], 'step')}"
        handles += [
            Line2D([], [], color=colour, marker="o", markersize=2.6, label=since),
            Patch(facecolor="#f7edf2", edgecolor=colour, label=f"{level} over sequences"),
            Line2D([], [], color=colour, linestyle="--", label=f"{level} over heads"),
        ]
    handles += [
        Line2D([], [], color=style.GREY, linestyle=line, label=" ".join(series))
        for series, line in _lines_of(others)
    ]
    if not cells.empty:
        handles.append(
            Patch(facecolor="#f4f4f4", edgecolor=style.GREY, label=f"{level} over animals")
        )
    return handles


def _names(axes: Axes, cells: pd.DataFrame, moving: pd.DataFrame) -> None:
    """Name every tissue, and a few checkpoints, clear of the path and of the quadrants' names."""
    path = moving[moving["bootstrap"] == "replicates"].sort_values("position")
    named = path[path["state"].isin(heads.spread(path["state"].tolist(), MAX_STATES))]
    x, y = (
        np.concatenate([rows[column].to_numpy(float) for rows in (cells, named)])
        for column in ("d_gini", "d_effective")
    )
    names = [style.name(tissue) for tissue in cells["tissue"]]
    names += [heads.title(state, "step") for state in named["state"]]
    if not names:
        return
    places = np.vstack([np.zeros(2), _places(path)])
    lines = np.hstack([places[:-1], places[1:]])
    labels.place(axes, x, y, names, lines=np.concatenate([lines, _kept_clear(axes)]))


def _kept_clear(axes: Axes) -> Floats:
    """Return lines through the corners, where the quadrants' names stand, and along the axes."""
    # In fractions of the panel: from a corner inward, close enough that no name fits between.
    rows = np.linspace(0.01, 0.07, 12)
    fractions = [
        [start, height, start + 0.2, height]
        for start in (0.0, 0.8)
        for height in (*rows, *(1 - rows))
    ]
    to_data = axes.transAxes + axes.transData.inverted()
    corners = to_data.transform(np.array(fractions).reshape(-1, 2)).reshape(-1, 4)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    return np.vstack([corners, [left, 0, right, 0], [0, bottom, 0, top]])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"plane": PLANE, "directions": PLANE_DIRECTIONS}
    numbers = {"confidence": "level of the ellipses"}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, numbers=numbers, both=True)


if __name__ == "__main__":
    raise SystemExit(main())
