"""Draw how far caloric restriction brings an old tissue back, and how sure that is.

Figure 5 of the original. On the left every library at one resolution; on the right the rescue
fraction at every resolution, 0 where restriction does nothing and 1 where it brings youth back. The
whiskers resample cells; what two libraries a condition allow to say about animals stands below.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stages.base.errors import FigureError
from stages.cells.tables.restriction import (
    CONDITIONS,
    RESTRICTION,
    RESTRICTION_LIBRARIES,
    RESTRICTION_TESTS,
)
from stages.drawing import command, style

NAME = "calico_cr_rescue"
"""Of its files, as the study published the figure."""

PANEL_MM = 56
FOOT_MM = 18
"""Below the panels: the legend, and what the number of libraries allows."""

LABELS = {"gini": "Gini coefficient", "effective_number": "Effective number of clusters"}
GROUPS = {"young": "young", "old": "old,\nfed freely", "restricted": "old,\nrestricted"}
SEXES = {"male": "^", "female": "o"}
DODGE = {"male": -0.08, "female": 0.08}
MEAN = 0.22
"""Half the width of the mean of a condition."""

# What is drawn of each resolution, from left to right: libraries, cells, marker, filled.
SHOWN = {
    "mean of the libraries": ("mean", "all", "s", True),
    "mean, equal cells": ("mean", "rarefied", "s", False),
    "cells pooled": ("pooled", "all", "D", False),
    "male": ("male", "all", SEXES["male"], True),
    "female": ("female", "all", SEXES["female"], True),
}
STEP = 0.15
"""Between two of them, where resolutions are 1 apart."""

LOWEST, HIGHEST = -0.5, 1.5
"""No axis of fractions goes farther; what lies beyond is an arrowhead at its end."""


@style.styled
def draw(
    rescue: pd.DataFrame, libraries: pd.DataFrame, tests: pd.DataFrame, *, reference: float
) -> Figure:
    """Return a row of two panels a metric: the libraries, and the rescue fraction by resolution.

    Parameters
    ----------
    rescue
        ``RESTRICTION``. Without rows, the figure says so in words.
    libraries
        ``RESTRICTION_LIBRARIES``.
    tests
        ``RESTRICTION_TESTS``: the smallest p-values are stated.
    reference
        The resolution of the panels on the left.

    Raises
    ------
    FigureError
        The tables do not hold this resolution.
    """
    if rescue.empty:
        return style.message("The atlas has no libraries\nof the caloric-restriction atlas.")
    if reference not in set(rescue["resolution"]):
        there = ", ".join(f"{value:g}" for value in sorted(set(rescue["resolution"]))) or "none"
        msg = (
            f"the table of caloric restriction has no resolution {reference:g}: it has {there}. "
            "Change clusters.reference."
        )
        raise FigureError(msg)
    height = len(LABELS) * PANEL_MM + FOOT_MM + style.STRIP_MM
    figure = style.figure(style.DOUBLE_MM, height)
    for row, (metric, label) in enumerate(LABELS.items()):
        top = 9 + row * PANEL_MM
        here = rescue[rescue["metric"] == metric]
        axes = style.add_axes(figure, left=13, top=top, width=51, height=PANEL_MM - 18)
        _libraries(axes, libraries[libraries["resolution"] == reference], metric)
        at = here[(here["resolution"] == reference) & (here["cells"] == "all")]
        axes.set_title(label, loc="left", weight="bold", pad=13)
        axes.text(0, 1.03, _stated(at, reference), transform=axes.transAxes, va="bottom")
        axes = style.add_axes(figure, left=83, top=top, width=97, height=PANEL_MM - 18)
        _fractions(axes, here)
        if row == len(LABELS) - 1:
            axes.set_xlabel("Leiden resolution (number of clusters)")
    _foot(figure, height, tests)
    return figure


def _stated(at: pd.DataFrame, reference: float) -> str:
    row = at[at["libraries"] == "mean"].iloc[0]
    fraction = "no drift"
    if pd.notna(row["rescue_fraction"]):
        fraction = f"rescue fraction {_plain(row['rescue_fraction'])}"
    return f"resolution {reference:g}, {fraction}"


def _plain(value: float) -> str:
    return style.signed(value, 2).removeprefix("+")


def _libraries(axes: Axes, libraries: pd.DataFrame, metric: str) -> None:
    rows = libraries[libraries["cells"] == "all"]
    for sex, marker in SEXES.items():
        of_sex = rows[rows["sex"] == sex].set_index("condition")[metric].loc[list(CONDITIONS)]
        places = [i + DODGE[sex] for i in range(len(CONDITIONS))]
        axes.plot(places, of_sex, color=style.FAINT, linewidth=0.8, zorder=1)
        axes.scatter(
            places,
            of_sex,
            s=20,
            marker=marker,
            color=style.INK,
            edgecolors="white",
            linewidths=0.4,
            zorder=3,
        )
    for i, name in enumerate(CONDITIONS):
        mean = rows.loc[rows["condition"] == name, metric].mean()
        axes.plot([i - MEAN, i + MEAN], [mean, mean], color=style.INK, linewidth=1.6, zorder=2)
    axes.set_xticks(range(len(CONDITIONS)), [GROUPS[name] for name in CONDITIONS])
    axes.set_xlim(-0.5, len(CONDITIONS) - 0.5)
    axes.margins(y=0.12)
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(style.ticks(4))


def _fractions(axes: Axes, rescue: pd.DataFrame) -> None:
    resolutions = sorted(rescue["resolution"].unique())
    low, high = _limits(rescue)
    axes.set_ylim(low, high)
    for value in (0.0, 1.0):
        axes.axhline(value, color=style.QUIET, linewidth=0.6, zorder=1)
    for i, resolution in enumerate(resolutions):
        if i % 2:
            axes.axvspan(i - 0.5, i + 0.5, color="#f6f6f6", linewidth=0, zorder=0)
        here = rescue[rescue["resolution"] == resolution]
        for k, (libraries, cells, marker, filled) in enumerate(SHOWN.values()):
            row = here[(here["libraries"] == libraries) & (here["cells"] == cells)].iloc[0]
            if pd.notna(row["rescue_fraction"]):
                x = i + (k - (len(SHOWN) - 1) / 2) * STEP
                _point(axes, x, row, marker, filled=filled)
    n_clusters = rescue.groupby("resolution")["n_clusters"].first()
    names = [f"{resolution:g} ({n_clusters[resolution]})" for resolution in resolutions]
    axes.set_xticks(range(len(resolutions)), names)
    axes.set_xlim(-0.5, len(resolutions) - 0.5)
    axes.set_ylabel("Rescue fraction")
    minus = "\N{MINUS SIGN}"
    formula = f"(old {minus} restricted) / (old {minus} young)"
    axes.text(0, 1.03, formula, transform=axes.transAxes, va="bottom")
    axes.yaxis.set_major_locator(style.ticks(5))


def _point(axes: Axes, x: float, row: pd.Series, marker: str, *, filled: bool) -> None:
    low, high = axes.get_ylim()
    alone = row["libraries"] in SEXES
    colour = style.GREY if alone else style.INK
    value = float(row["rescue_fraction"])
    if pd.notna(row["rescue_fraction_low"]):
        ends = [row["rescue_fraction_low"], row["rescue_fraction_high"]]
        axes.plot([x, x], ends, color=colour, linewidth=0.6 if alone else 1, zorder=2)
        style.beyond(axes, x, ends, colour=colour, upright=True)
    if value < low or value > high:
        marker, value = ("v", low) if value < low else ("^", high)
    axes.scatter(
        [x],
        [value],
        s=10 if alone else 16,
        marker=marker,
        facecolors=colour if filled else "white",
        edgecolors=colour,
        linewidths=0.8,
        clip_on=False,
        zorder=3,
    )


def _limits(rescue: pd.DataFrame) -> tuple[float, float]:
    """Return an axis that holds no rescue, full rescue and all but the wildest intervals."""
    columns = ["rescue_fraction", "rescue_fraction_low", "rescue_fraction_high"]
    low = min(0.0, float(rescue[columns].min().min()))
    high = max(1.0, float(rescue[columns].max().max()))
    room = 0.06 * (high - low)
    return max(low - room, LOWEST), min(high + room, HIGHEST)


def _foot(figure: Figure, height: float, tests: pd.DataFrame) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=style.GREY if libraries in SEXES else style.INK,
            marker=marker,
            markersize=3.5,
            markerfacecolor=None if filled else "white",
            linewidth=1,
            label=label,
        )
        for label, (libraries, _, marker, filled) in SHOWN.items()
    ]
    bottom = style.STRIP_MM + 9
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, bottom / height),
        ncols=len(handles),
        handlelength=1.6,
        columnspacing=1.6,
    )
    about = "Whiskers resample cells, not animals; none where the drift may be zero."
    for line, text in enumerate((about, _allowed(tests))):
        figure.text(0.5, (bottom - 1 - 3.8 * line) / height, text, ha="center", va="center")


def _allowed(tests: pd.DataFrame) -> str:
    """Say what exchanging whole libraries could show at best."""
    best = {
        strata: part.iloc[0]
        for strata, part in tests[tests["contrast"] == "drift"].groupby("strata")
    }
    free, within = best["all"], best["within_sex"]
    return (
        f"Exchanging whole libraries, {free['n_first']} against {free['n_second']}, no two-sided "
        f"p could be below {_p(free)}, and within sexes none below {_p(within)}."
    )


def _p(row: pd.Series) -> str:
    return f"{row['p_smallest']:.2g}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {
        "rescue": RESTRICTION,
        "libraries": RESTRICTION_LIBRARIES,
        "tests": RESTRICTION_TESTS,
    }
    numbers = {"reference": "the resolution that shows every library"}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, numbers=numbers)


if __name__ == "__main__":
    raise SystemExit(main())
