"""Draw every system side by side: its Lorenz curves, and the effective number over N as it matures.

A Lorenz curve is the share of the whole that the smallest components hold together, against their
share of all components; twice the area between it and the diagonal is the Gini coefficient. Below
it stands, of the same system, the effective number over N by state: every training as a line, what
noise alone would give as a band, and what exposure alone would give.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy import stats

from stages.base import cli, study, tables
from stages.drawing import style
from stages.heads.figures import heads
from stages.measurement.tables import SERIES
from stages.plane.tables import LORENZ, MATURING, MATURING_ANSWERS, NOISE_COUNTS

NAME = "lorenz"
Floats = NDArray[np.float64]
KEY = list(SERIES)
SHARE = "effective_share"

SHARES = np.linspace(0.0, 1.0, 101)
COLUMNS = 5
LEFT_MM, RIGHT_MM, BETWEEN_MM = 11, 2, 5
NAME_MM, CURVE_MM, LABEL_MM, PATH_MM, FOOT_MM = 9, 30, 9, 23, 7
LEGEND_MM = 9
MOST_TICKS = 4
EXPOSURE, NOISE = style.GREY, style.FAINT
DASHES = (3, 2)
"""Of the untrained state."""


@style.styled
def draw(
    maturing: pd.DataFrame, answers: pd.DataFrame, curves: pd.DataFrame, *, about: study.Study
) -> Figure:
    """Return a column a system: Lorenz curves above, the effective number over N below.

    Parameters
    ----------
    maturing, answers, curves
        ``MATURING``, ``MATURING_ANSWERS`` and ``LORENZ``; series that are shown are drawn.
    about
        What the cells are.
    """
    systems = answers[answers["shown"]].drop_duplicates("system")
    if systems.empty:
        return style.message("No system was measured.")
    n_rows = -(-len(systems) // COLUMNS)
    height = NAME_MM + CURVE_MM + LABEL_MM + PATH_MM + FOOT_MM
    figure = style.figure(style.DOUBLE_MM, n_rows * height + LEGEND_MM + style.STRIP_MM)
    width = (style.DOUBLE_MM - LEFT_MM - RIGHT_MM - (COLUMNS - 1) * BETWEEN_MM) / COLUMNS
    for i, system in enumerate(systems.to_dict("records")):
        row, column = divmod(i, COLUMNS)
        left, top = LEFT_MM + column * (width + BETWEEN_MM), row * height + NAME_MM
        upper, lower = (
            style.add_axes(figure, left=left, top=at, width=width, height=tall)
            for at, tall in ((top, CURVE_MM), (top + CURVE_MM + LABEL_MM, PATH_MM))
        )
        for axes in (upper, lower):
            axes.set_ylim(0, 1)
            axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"] if column == 0 else [""] * 3)
        _curves(upper, curves[curves["system"] == system["system"]])
        if system["system"] != "cells":
            upper.plot(SHARES, half_normal(), color=style.GREY, linewidth=0.8, dashes=(1, 1))
        if system["system"] == "cells":
            _tissues(lower, maturing[maturing["system"] == "cells"], about)
        else:
            _path(lower, maturing[(maturing[KEY] == [system[name] for name in KEY]).all(axis=1)])
        named = system["group"] if system["system"] != "cells" else about.groups().minus("after")
        upper.set_title(
            f"{chr(ord('a') + i)}  {system['components'].capitalize()}\n",
            loc="left",
            weight="bold",
            pad=3,
        )
        upper.annotate(
            style.shorten(named, width),
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, 3),
            textcoords="offset points",
        )
        upper.set_xlabel("Share of components" if column == 0 else "", labelpad=1)
        if column == 0:
            upper.set_ylabel("Share of the whole")
            lower.set_ylabel("Effective number / N")
    style.legend(figure, _legend(), columns=3)
    return figure


def half_normal() -> Floats:
    r"""Return the Lorenz curve of absolute normal noise: :math:`1 - e^{-z^2 / 2}` at quantile z.

    Its Gini coefficient is :math:`\sqrt 2 - 1`.
    """
    held: Floats = 1 - np.exp(-(stats.norm.ppf((1 + SHARES) / 2) ** 2) / 2)
    return held


def _curves(axes: Axes, curves: pd.DataFrame) -> None:
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.plot([0, 1], [0, 1], color=style.QUIET, linewidth=0.5, zorder=1)
    for trained, of in curves.groupby("trained"):
        looks: dict[str, Any] = {} if trained else {"dashes": DASHES}
        axes.plot(
            of["share"],
            of["held"],
            color=style.INK,
            linewidth=1.3 if trained else 1,
            label="last state" if trained else "untrained",
            **looks,
        )


def _path(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw every training of one series, ours thick, with what noise and exposure alone give."""
    seeds = rows["seed"].astype("Float64").fillna(-1)
    ours = rows[seeds == seeds.iloc[0]]
    states = ours.sort_values("position")["state"].tolist()
    at = {state: float(i) for i, state in enumerate(states)}
    single = len(states) == 1
    spread = [-0.3, 0.3] if single else [0.0, 0.0]

    def line(of: pd.DataFrame, column: str) -> tuple[Floats, Floats]:
        values = of.set_index("state")[column].reindex(states).to_numpy(float)
        x = np.array([at[state] for state in states])
        return (np.array(spread), np.repeat(values, 2)) if single else (x, values)

    x, low = line(ours, f"{SHARE}_floor_low")
    _, high = line(ours, f"{SHARE}_floor_high")
    if ours["noise_share"].max() > NOISE_COUNTS:
        axes.fill_between(x, low, high, color=NOISE, linewidth=0, zorder=1, label="noise")
    every = [of for _, of in rows.groupby(seeds, sort=False)]
    alone = np.stack([line(of, f"{SHARE}_exposure_alone")[1] for of in every])
    known = np.isfinite(alone).any(axis=0)
    if known.any():
        least = np.where(np.isfinite(alone), alone, np.inf).min(axis=0)
        most = np.where(np.isfinite(alone), alone, -np.inf).max(axis=0)
        axes.fill_between(
            x[known], least[known], most[known],
            facecolor="none", edgecolor=EXPOSURE, hatch="/////", linewidth=0.8, zorder=2,
            label="exposure",
        )  # fmt: skip
    for of in every[::-1]:
        thick = of is every[0]
        looks: dict[str, Any] = {"marker": ".", "markersize": 4} if thick else {}
        values = of.set_index("state")[SHARE].reindex(states).to_numpy(float)
        axes.plot(
            [at[state] for state in states],
            values,
            color=style.INK,
            linewidth=1.3 if thick else 0.5,
            zorder=4 if thick else 3,
            label="this run" if thick else "training",
            **looks,
        )
    named = heads.spread(states, MOST_TICKS)
    axes.set_xticks([at[state] for state in named], [heads.short(state) for state in named])
    axes.set_xlim(-0.35, len(states) - 0.65)


def _tissues(axes: Axes, rows: pd.DataFrame, about: study.Study) -> None:
    """Draw every tissue of the real arms between the two groups, and their median."""
    arm = rows["group"].astype("str").str.split(" ", n=1)
    rows = rows.assign(cohort=arm.str[0], platform=arm.str[1], tissue=rows["series"])
    rows = about.real(rows[rows["condition"] == "all"])
    both = rows.pivot(index=["group", "series"], columns="state", values=SHARE)
    both = both.reindex(columns=["reference", "compared"]).dropna()
    axes.plot([0, 1], both.to_numpy(float).T, color=style.INK, linewidth=0.4, zorder=3)
    axes.plot([0, 1], both.median(), color=style.INK, linewidth=1.5, marker=".", zorder=4)
    groups = about.groups()
    axes.set_xticks([0, 1], [groups.reference, groups.compared])
    axes.set_xlim(-0.35, 1.35)


def _legend() -> list[Line2D | Patch]:
    ink = style.INK
    return [
        Line2D([], [], color=ink, linewidth=1.3, label="last state (old); this run"),
        Line2D([], [], color=ink, linewidth=1, dashes=DASHES, label="untrained (young)"),
        Line2D([], [], color=ink, linewidth=0.5, label="another training, or tissue"),
        Line2D([], [], color=style.GREY, linewidth=0.8, dashes=(1, 1), label="normal noise"),
        Patch(color=NOISE, linewidth=0, label="noise alone, 95%"),
        Patch(facecolor="none", edgecolor=EXPOSURE, hatch="/////", label="exposure alone"),
    ]  # fmt: skip


def _run(args: argparse.Namespace) -> None:
    about = study.read(args.study)
    models = [study.read(path) for path in (args.study_heads, args.study_cellmodel)]
    maturing = tables.read(args.maturing, MATURING)
    answers, curves = tables.read(args.answers, MATURING_ANSWERS), tables.read(args.lorenz, LORENZ)
    figure = draw(maturing, answers, curves, about=about)
    cells = maturing[maturing["system"] == "cells"]
    arm = cells["group"].astype("str").str.split(" ", n=1)
    keys = zip(arm.str[0], arm.str[1], cells["series"], strict=True)
    real = [key for key in keys if about.evidence(*key) != study.SIMULATED]
    style.save(figure, args.out, NAME, study.joined(about.about(real) if real else about, *models))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    parser.add_argument("--maturing", type=Path, required=True)
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--lorenz", type=Path, required=True)
    parser.add_argument("--study", type=Path, required=True, help="what the inputs are")
    parser.add_argument("--study-heads", type=Path, required=True, help="what the model is")
    parser.add_argument("--study-cellmodel", type=Path, required=True, help="that of cells")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
