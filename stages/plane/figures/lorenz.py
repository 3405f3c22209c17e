"""Draw what age changes in the Lorenz curves of cells, and the curves of heads.

A Lorenz curve is the share of the whole that the smallest components hold together, against their
share of all components. Twice the area between it and the diagonal is its Gini coefficient, so that
twice the area under a change, turned about, is a change of Gini.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from stages.base.errors import FigureError
from stages.base.study import Study
from stages.cells import counts
from stages.cells.tables.proportions import PROPORTIONS
from stages.drawing import command, evidence, labels, style
from stages.heads.figures import heads
from stages.heads.tables.importance import HEAD_IMPORTANCE
from stages.measurement.concentration import lorenz_curve

NAME = "lorenz"
Floats = NDArray[np.float64]

PANEL_MM = 76
LEFTS_MM = (13, 104)
TOP_MM, FOOT_MM = 7, 10
# Every curve is read off at these shares of its components; between them all are straight.
GRID = np.linspace(0.0, 1.0, 401)
MAX_STATES = 8
NAMED = 2
"""At each end: the tissues whose curves move most."""


@style.styled
def draw(proportions: pd.DataFrame, importance: pd.DataFrame, *, about: Study) -> Figure:
    """Return cells on the left, compared minus reference, a line a tissue; heads on the right.

    Parameters
    ----------
    proportions
        ``PROPORTIONS`` of the tissues to draw; samples of neither age group are left out.
    importance
        ``HEAD_IMPORTANCE``; zero ablation is drawn where there is one.
    about
        What the cells rest on.

    Raises
    ------
    FigureError
        A table holds nothing to draw.
    """
    figure = style.figure(style.DOUBLE_MM, TOP_MM + PANEL_MM + FOOT_MM + style.STRIP_MM)
    left, right = (
        style.add_axes(figure, left=start, top=TOP_MM, width=PANEL_MM, height=PANEL_MM)
        for start in LEFTS_MM
    )
    evidence.explain(figure, _cells(left, proportions, about), about)
    _heads(right, heads.shown(importance))
    right.plot([0, 1], [0, 1], color=style.QUIET, linewidth=0.6, zorder=1)
    right.set_ylim(0, 1)
    for axes, of in ((left, "cell types"), (right, "heads")):
        axes.set_xlim(0, 1)
        axes.set_xlabel(f"Share of {of}, smallest first")
    if left.get_legend_handles_labels()[0]:
        left.legend(loc="lower left", handlelength=2.2)
    right.legend(loc="upper left", handlelength=2.2, labelspacing=0.3)
    minus = about.groups(proportions).minus(style.MINUS)
    left.set_ylabel(f"Change of the share of cells that they hold, {minus}")
    right.set_ylabel("Share of the whole that they hold")
    left.set_title("a  Cells", loc="left", weight="bold")
    right.set_title(f"b  Heads, by |{heads.DELTA} loss|", loc="left", weight="bold")
    return figure


def curve(weights: Floats) -> Floats:
    """Return the Lorenz curve of one vector at the shares of ``GRID``.

    Examples
    --------
    >>> curve(np.array([1.0, 3.0]))[[0, 200, 400]].tolist()
    [0.0, 0.25, 1.0]
    """
    share, held = lorenz_curve(weights)
    return np.interp(GRID, share, held)


def changes(proportions: pd.DataFrame) -> dict[tuple[str, str, str], Floats]:
    """Return compared minus reference of the median curves over animals, of tissues with both."""
    curves: dict[tuple[str, str, str], dict[str, Floats]] = {}
    for key, of in proportions.groupby([*counts.TISSUE, "group"], sort=True):
        of_animals = [curve(n.to_numpy(float)) for _, n in of.groupby("animal")["n_cells"]]
        curves.setdefault(key[:3], {})[key[3]] = np.median(of_animals, axis=0)
    return {
        arm: of["compared"] - of["reference"]
        for arm, of in curves.items()
        if {"compared", "reference"} <= of.keys()
    }


def half_normal() -> Floats:
    r"""Return the Lorenz curve of absolute normal noise: :math:`1 - e^{-z^2 / 2}` at quantile z.

    Its Gini coefficient is :math:`\sqrt 2 - 1`.
    """
    held: Floats = 1 - np.exp(-(stats.norm.ppf((1 + GRID) / 2) ** 2) / 2)
    return held


def _cells(axes: Axes, proportions: pd.DataFrame, about: Study) -> list[tuple[str, str, str]]:
    """Draw the tissues and return their arms."""
    moved = changes(proportions)
    if not moved:
        words = style.NOTHING_COMPARED
        axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes)
        axes.set_yticks([])
        return []
    for line in moved.values():
        axes.plot(GRID, line, color=style.QUIET, linewidth=0.5, alpha=0.6, zorder=2)
    axes.plot(
        GRID,
        np.median(list(moved.values()), axis=0),
        color=style.INK,
        linewidth=1.8,
        zorder=3,
        label=f"median of {len(moved)} tissues",
    )
    axes.axhline(0, color=style.QUIET, linewidth=0.6, zorder=1)
    # Room for the names, above and below.
    axes.margins(y=0.12)
    ordered = sorted(moved, key=lambda key: float(moved[key].sum()))
    ends = list(dict.fromkeys([*ordered[:NAMED], *ordered[-NAMED:]]))
    at = [int(np.argmax(np.abs(moved[key]))) for key in ends]
    y = np.array([moved[key][i] for key, i in zip(ends, at, strict=True)])
    names = [f"{style.name(arm[1])} {evidence.label(arm[2], [arm], about)}" for arm in ends]
    axes.set_xlim(0, 1)
    labels.place(axes, GRID[at], y, names)
    return list(moved)


def _heads(axes: Axes, rows: pd.DataFrame) -> None:
    wide = heads.effects(rows).abs()
    # A state in which no head has any effect has no curve.
    states = heads.spread([name for name in wide.columns if wide[name].sum() > 0], MAX_STATES)
    if not states:
        msg = (
            "no head has an effect in any state, so there is nothing to share out. Check the sweep."
        )
        raise FigureError(msg)
    # From pale to dark, but never so pale that a line is lost on white.
    shades = heads.SHADES(np.linspace(0.3, 0.95, len(states)) if len(states) > 1 else [0.6])
    for state, colour in zip(states, shades, strict=True):
        axes.plot(
            GRID,
            curve(wide[state].to_numpy(float)),
            color=colour,
            linewidth=1.1,
            zorder=3,
            label=heads.title(state, "step"),
        )
    axes.plot(
        GRID,
        half_normal(),
        color=style.INK,
        linewidth=1,
        dashes=(1, 1),
        zorder=4,
        label="noise alone",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"proportions": PROPORTIONS, "importance": HEAD_IMPORTANCE}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, both=True, real=True)


if __name__ == "__main__":
    raise SystemExit(main())
