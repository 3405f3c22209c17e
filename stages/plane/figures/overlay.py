"""Draw the ageing of tissues and the training of heads in one plane of both metrics.

Original steps 07 and 14, on the corrected scales. Old minus young of each tissue, and each
checkpoint minus the first of the heads, as crosses of the intervals that the tables have: above
with the effective number, which almost mirrors the Gini coefficient, in the middle with what it
says beside it. Below stands how many tissues agree with the heads, and how many would by chance.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from stages.base import cli, study, tables
from stages.drawing import evidence, labels, style
from stages.heads.figures import heads
from stages.plane.tables import AMONG, PLANE, SPLITS

NAME = "pythia_overlay_v2"
"""Of its files, as the study published the figure."""
Floats = NDArray[np.float64]

LEFT_MM, WIDTH_MM = 14, 167
HEIGHTS_MM = {"corrected": 86, "shape": 72}
HEAD_MM, BETWEEN_MM = 17, 14
COLUMNS, LEGEND_LINES = 3, 3
"""Of the legend, for whose lines the head has room."""
ROW_MM, FOOT_MM = 4.5, 10
NAMES_MM, COUNTS_MM = 62, 30
"""Beside the counts: what is counted, and the numbers."""
PANELS = {
    "corrected": ("a", "effective number / number of components"),
    "shape": ("b", "effective excess"),
}
SAYS = ("unequal by degrees", "unequal at the ends")
"""What the ends of panel b mean, above and below."""
COUNTED = {"corrected": "right_angle", "shape": "quadrant"}
"""By which criterion a panel's tissues agree with the heads."""
SAID = {"right_angle": "less than 90° from", "quadrant": "in the quadrant of"}
MOST_NAMED = 12
SERIES = ["system", "group", "series", "condition"]
PLACE = ["d_gini", "d_effective"]
# Of each system beside the cells, in the order of the table.
LINES: tuple[style.LineStyle, ...] = ("-", "--", "-.", ":")


@style.styled
def draw(plane: pd.DataFrame, splits: pd.DataFrame, *, about: study.Study) -> Figure:
    """Return both planes, and the counts of tissues.

    Parameters
    ----------
    plane
        ``PLANE``; simulated tissues are drawn where none is real. Without rows, the figure says so
        in words.
    splits
        ``SPLITS``.
    about
        What the cells rest on.
    """
    if plane.empty:
        return style.message("No tissue was compared and no two states were measured.")
    cells, paths = evidence.real(named(plane), about), plane[plane["system"] != "cells"]
    counted, lines = _counted(splits), _lines(paths)
    handles = _legend(cells, paths, lines)
    # More lines of the legend take their room from the first panel.
    more = ROW_MM * max(0, math.ceil(len(handles) / COLUMNS) - LEGEND_LINES)
    heights = HEIGHTS_MM | {"corrected": HEIGHTS_MM["corrected"] - more}
    tops, top = {}, HEAD_MM + more
    for scale, height in heights.items():
        tops[scale], top = top, top + height + BETWEEN_MM
    rows = ROW_MM * len(counted)
    figure = style.figure(style.DOUBLE_MM, top + (rows + FOOT_MM if rows else -4) + style.STRIP_MM)
    for scale, height in heights.items():
        axes = style.add_axes(figure, left=LEFT_MM, top=tops[scale], width=WIDTH_MM, height=height)
        of_cells, of_paths = cells[cells["scale"] == scale], paths[paths["scale"] == scale]
        _panel(axes, of_cells, of_paths, lines)
        letter, along = PANELS[scale]
        axes.set_title(letter, loc="left", weight="bold")
        axes.set_xlabel(f"{heads.DELTA} corrected Gini coefficient")
        axes.set_ylabel(f"{heads.DELTA} {along}")
        if scale == "shape":
            _says(axes)
        _names(axes, of_cells, of_paths, about)
    if rows:
        width = style.DOUBLE_MM - NAMES_MM - COUNTS_MM
        _counts(style.add_axes(figure, left=NAMES_MM, top=top, width=width, height=rows), counted)
    figure.legend(
        handles=handles,
        loc="upper left",
        ncols=COLUMNS,
        handlelength=2.4,
        columnspacing=1.4,
    )
    evidence.explain(figure, evidence.arms(cells), about)
    return figure


def named(plane: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of tissues with cohort, platform and tissue, and one direction each."""
    cells = plane[plane["system"] == "cells"]
    arm = cells["group"].str.split(" ", n=1)
    cells = cells.assign(cohort=arm.str[0], platform=arm.str[1], tissue=cells["series"])
    key = ["group", "series", "condition"]
    direction = cells[cells["scale"] == "corrected"].set_index(key)["quadrant"]
    return cells.assign(direction=direction.reindex(pd.MultiIndex.from_frame(cells[key])).array)


def _says(axes: Axes) -> None:
    """Say what panel b's ends mean."""
    for at, text in zip((1, 0), SAYS, strict=True):
        axes.annotate(
            text,
            (0, at),
            xycoords="axes fraction",
            xytext=(4, -4 if at else 4),
            textcoords="offset points",
            va="top" if at else "bottom",
            color=style.QUIET,
        )


def _lines(paths: pd.DataFrame) -> dict[tuple[str, ...], style.LineStyle]:
    """Return the line of each system's series."""
    series = paths[SERIES].drop_duplicates().itertuples(index=False, name=None)
    return {tuple(name): LINES[i % len(LINES)] for i, name in enumerate(series)}


def _panel(
    axes: Axes,
    cells: pd.DataFrame,
    paths: pd.DataFrame,
    lines: dict[tuple[str, ...], style.LineStyle],
) -> None:
    for which in style.series(cells):
        for _, row in style.of_series(cells, which).iterrows():
            _cross(axes, row, color=which.colour, ls=which.line, lw=0.6, alpha=0.35, zorder=2)
            style.point(axes, row["d_gini"], row["d_effective"], row["direction"])
    colour = style.COLOURS["heads"]
    for series, line in lines.items():
        of = paths[(paths[SERIES] == list(series)).all(axis=1)]
        path = along(of)
        places = np.vstack([np.zeros(2), path[PLACE].to_numpy(float)])
        axes.plot(*places.T, color=colour, linestyle=line, marker=".", markersize=4, zorder=3)
        for state in ends(path):
            for bootstrap, width in (("replicates", 1.6), ("components", 0.7)):
                here = (of["state"] == state) & (of["bootstrap"] == bootstrap)
                for _, row in of[here].iterrows():
                    _cross(axes, row, color=colour, lw=width, zorder=2.5)
    axes.margins(0.05)
    axes.autoscale_view()
    axes.axhline(0, color=style.QUIET, linewidth=0.6, zorder=1)
    axes.axvline(0, color=style.QUIET, linewidth=0.6, zorder=1)
    axes.spines[["top", "right"]].set_visible(True)


def _cross(axes: Axes, row: "pd.Series[float]", **looks: Any) -> None:
    """Draw both intervals of a vector through its end."""
    x, y = row[PLACE]
    axes.plot([row["d_gini_low"], row["d_gini_high"]], [y, y], **looks)
    axes.plot([x, x], [row["d_effective_low"], row["d_effective_high"]], **looks)


def _arms(rows: pd.DataFrame) -> Floats:
    """Return the arms of crosses as lines, x and y of both ends; (2 n_rows, 4)."""
    across = rows[["d_gini_low", "d_effective", "d_gini_high", "d_effective"]].to_numpy(float)
    upright = rows[["d_gini", "d_effective_low", "d_gini", "d_effective_high"]].to_numpy(float)
    arms: Floats = np.concatenate([across, upright])
    return arms[np.isfinite(arms).all(axis=1)]


def along(of: pd.DataFrame) -> pd.DataFrame:
    """Return the states of one series in order, each once."""
    return of.drop_duplicates("state").sort_values("position")


def ends(path: pd.DataFrame) -> list[str]:
    """Return the state that is furthest from the first, and the last."""
    far = path.iloc[int(np.argmax(np.hypot(*path[PLACE].to_numpy(float).T)))]
    return list(dict.fromkeys([str(far["state"]), str(path["state"].iloc[-1])]))


def _counted(splits: pd.DataFrame) -> pd.DataFrame:
    """Return the counts that are shown: of real tissues, and of simulated where none is real."""
    cells = splits[(splits["system"] == "cells") & splits["among"].isin(AMONG)]
    kept = cells["among"] == next((name for name in AMONG if (cells["among"] == name).any()), "")
    of = cells["scale"].map(COUNTED) == cells["criterion"]
    return cells[kept & of].sort_values("scale", key=lambda scale: scale.map(list(COUNTED).index))


def _counts(axes: Axes, counted: pd.DataFrame) -> None:
    """Draw how many tissues agree, above how many would under random splits of their animals."""
    most = int(counted["n_series"].max())
    for at, row in enumerate(counted.to_dict("records")):
        axes.plot(
            [row["expected_low"], row["expected_high"]],
            [at, at],
            color=style.FAINT,
            linewidth=5,
            solid_capstyle="butt",
            zorder=2,
        )
        axes.plot(row["expected"], at, marker="|", color=style.QUIET, markersize=7, zorder=3)
        axes.plot(row["n_agree"], at, marker="D", color=style.INK, markersize=3.5, zorder=4)
        axes.annotate(
            f"{row['n_agree']} of {row['n_series']}, p {style.p_value(row['p'])}",
            (1, at),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    letters = counted["scale"].map(lambda scale: PANELS[scale][0])
    said = counted["criterion"].map(SAID)
    axes.set_yticks(
        range(len(counted)), [*(letters + ": " + said + " " + counted["reference_group"])]
    )
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(counted) - 0.5, -0.6)
    axes.set_xlim(-0.5, most + 0.5)
    axes.xaxis.set_major_locator(style.ticks(8, integer=True))
    axes.grid(axis="x")
    axes.set_xlabel("Tissues (diamond); bar: 95% of random splits of their animals, and their mean")
    axes.set_title("c", loc="left", weight="bold")


def _legend(
    cells: pd.DataFrame,
    paths: pd.DataFrame,
    lines: dict[tuple[str, ...], style.LineStyle],
) -> list[Line2D]:
    arms = [
        Line2D([], [], color=which.colour, linestyle=which.line, linewidth=0.8, label=which.label)
        for which in style.series(cells)
    ]
    colour = style.COLOURS["heads"]
    for series, line in lines.items():
        first = paths.loc[(paths[SERIES] == list(series)).all(axis=1), "state_first"].iloc[0]
        label = f"{series[1]} {series[2]}s since {heads.title(first, 'step')}"
        arms.append(Line2D([], [], color=colour, linestyle=line, marker=".", label=label))
    return [*style.direction_marks(cells["direction"]), *arms]


def _names(axes: Axes, cells: pd.DataFrame, paths: pd.DataFrame, about: study.Study) -> None:
    """Name the tissues that move most with their arm, and of each path the furthest and the last.

    What lies about the origin, where no name has room, hardly moves.
    """
    low, high = axes.transLimits.inverted().transform([(0, 0), (1, 1)])
    moved = np.hypot(*(cells[PLACE].to_numpy(float) / (high - low)).T)
    far = cells.iloc[np.argsort(-moved, kind="stable")[:MOST_NAMED]]
    several = cells["cohort"].nunique() > 1
    places, names, lines = [], [], [np.array([[low[0], 0, high[0], 0], [0, low[1], 0, high[1]]])]
    for which, tissue, rows in style.arms(far):
        arm = which.label if several else style.name(which.platform)
        names.append(f"{arm} {evidence.label(tissue, evidence.arms(rows), about)}")
        places.append(rows[PLACE].to_numpy(float))
    for _, of in paths.groupby(SERIES, sort=False):
        path = along(of)
        crossed = of["state"].isin(ends(path))
        marked = along(of[crossed])
        names += [heads.title(state, "step") for state in marked["state"]]
        places.append(marked[PLACE].to_numpy(float))
        whole = np.vstack([np.zeros(2), path[PLACE].to_numpy(float)])
        lines += [np.hstack([whole[:-1], whole[1:]]), _arms(of[crossed])]
    x, y = np.concatenate(places).T
    labels.place(axes, x, y, names, lines=np.concatenate(lines))


def _run(args: argparse.Namespace) -> None:
    about = study.read(args.study)
    models = [study.read(path) for path in (args.study_heads, args.study_cellmodel)]
    plane = tables.read(args.plane, PLANE)
    figure = draw(plane, tables.read(args.splits, SPLITS), about=about)
    drawn = about.about(evidence.arms(evidence.real(named(plane), about)))
    style.save(figure, args.out, NAME, study.joined(drawn, *models))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    parser.add_argument("--plane", type=Path, required=True)
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--study", type=Path, required=True, help="what the inputs are")
    parser.add_argument("--study-heads", type=Path, required=True, help="what the model is")
    parser.add_argument("--study-cellmodel", type=Path, required=True, help="that of cells")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
