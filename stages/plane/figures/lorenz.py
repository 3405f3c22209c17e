"""Draw the Lorenz curves of cells and of heads side by side.

The share of the whole that the smallest components hold together, against their share of all
components. Twice the area between a curve and the diagonal is its Gini coefficient.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from stages.base.errors import FigureError
from stages.cells.tables.proportions import PROPORTIONS
from stages.drawing import command, style
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
GROUPS = ("young", "old")
LINES: dict[str, style.LineStyle] = {"young": "--", "old": "-"}
MAX_STATES = 8


@style.styled
def draw(proportions: pd.DataFrame, importance: pd.DataFrame) -> Figure:
    """Return cells on the left, a thin line a tissue and age group; heads on the right.

    Parameters
    ----------
    proportions
        ``PROPORTIONS``; samples of neither age group are left out.
    importance
        ``HEAD_IMPORTANCE``; zero ablation is drawn where there is one.

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
    _cells(left, proportions)
    _heads(right, heads.shown(importance))
    for axes, of in ((left, "cell types"), (right, "heads")):
        axes.plot([0, 1], [0, 1], color=style.QUIET, linewidth=0.6, zorder=1)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel(f"Share of {of}, smallest first")
        axes.legend(loc="upper left", handlelength=2.2, labelspacing=0.3)
    left.set_ylabel("Share of the whole that they hold")
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


def tissue_curves(proportions: pd.DataFrame, group: str) -> Floats:
    """Return the median curve of each tissue of each arm, over the animals of an age group."""
    rows = proportions[proportions["age_group"] == group]
    curves = [
        np.median([curve(n.to_numpy(float)) for _, n in of_tissue.groupby("animal")["n_cells"]], 0)
        for _, of_tissue in rows.groupby(["cohort", "platform", "tissue"], sort=True)
    ]
    return np.array(curves).reshape(-1, GRID.size)


def half_normal() -> Floats:
    r"""Return the Lorenz curve of absolute normal noise: :math:`1 - e^{-z^2 / 2}` at quantile z.

    Its Gini coefficient is :math:`\sqrt 2 - 1`.
    """
    held: Floats = 1 - np.exp(-(stats.norm.ppf((1 + GRID) / 2) ** 2) / 2)
    return held


def _cells(axes: Axes, proportions: pd.DataFrame) -> None:
    drawn = 0
    for group in GROUPS:
        curves = tissue_curves(proportions, group)
        if not len(curves):
            continue
        colour, drawn = style.COLOURS[group], drawn + len(curves)
        _thin(axes, curves, colour)
        middle = np.median(curves, axis=0)
        axes.plot(
            GRID,
            middle,
            color=colour,
            linestyle=LINES[group],
            linewidth=1.8,
            zorder=3,
            label=f"{group}, median of {len(curves)} tissues",
        )
    if not drawn:
        msg = "the proportions table holds no young and no old sample. Check the exclusions table."
        raise FigureError(msg)


def _thin(axes: Axes, curves: Iterable[Floats], colour: str) -> None:
    for line in curves:
        axes.plot(GRID, line, color=colour, linewidth=0.5, alpha=0.45, zorder=2)


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
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, both=True)


if __name__ == "__main__":
    raise SystemExit(main())
