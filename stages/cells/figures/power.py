"""Draw how often each rule calls a change that is not there, and how often one that is.

The original lacks it. A row a cohort, whose animals the simulated ones resemble; a place on the
axis a design, young against old animals.
"""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.cells.tables.calibration import CALIBRATION
from stages.drawing import command, style
from stages.measurement.resampling import SIGNIFICANT

NAME = "power"

Look = tuple[str, str, str]
Looks = Mapping[str, Look] | Mapping[float, Look]
"""Label, colour and marker of each value of a column."""

ROW_MM, LEGEND_MM = 52, 9
SIDE_MM, GAP_MM = 11, 14
LETTERS = "abcdefghijklmnopqrstuvwxyz"
RULES = {
    "direction": ("quadrant not mixed", style.GREY, "X"),
    "gini_interval": ("interval of Gini leaves out zero", style.GREY, "s"),
    "gini_ranks": ("rank test of Gini", style.GREY, "^"),
    "emphasised": ("emphasised", style.INK, "P"),
}
"""Of studies without a change."""
MARKERS = ("v", "s", "^", "P")
"""Of planted changes, from the smallest, and again for more than these."""
APART = 0.16
"""Between the marks of a design, as a share of the distance to the next."""


@style.styled
def draw(calibration: pd.DataFrame) -> Figure:
    """Return two panels a cohort: no planted change, and how often planted ones are emphasised.

    Parameters
    ----------
    calibration
        ``CALIBRATION``. Without rows, the figure says so in words.
    """
    if calibration.empty:
        return style.message("No arm has enough animals to say how animals vary.")
    cohorts = calibration["cohort"].unique()
    height = ROW_MM * len(cohorts) + LEGEND_MM + style.STRIP_MM
    figure = style.figure(style.DOUBLE_MM, height)
    shifts = sorted(set(calibration["gini_shift"]) - {0.0})
    planted = {
        shift: (f"\N{GREEK CAPITAL LETTER DELTA}Gini {shift:g}", style.INK, MARKERS[i % 4])
        for i, shift in enumerate(shifts)
    }
    width = (style.DOUBLE_MM - 2 * SIDE_MM - GAP_MM) / 2
    for row, cohort in enumerate(cohorts):
        part = calibration[calibration["cohort"] == cohort]
        emphasised = part[part["rule"] == "emphasised"]
        panels = (
            ("no change", RULES, "rule", part[part["gini_shift"] == 0]),
            ("planted, emphasised", planted, "gini_shift", emphasised),
        )
        for column, (title, looks, by, rows) in enumerate(panels):
            left, top = SIDE_MM + column * (width + GAP_MM), row * ROW_MM + 7
            axes = style.add_axes(figure, left=left, top=top, width=width, height=ROW_MM - 19)
            heading = f"{LETTERS[2 * row + column]}  {style.name(cohort)}-like: {title}"
            axes.set_title(heading, loc="left", weight="bold")
            _panel(axes, rows, looks, by)
            if column == 0:
                axes.set_ylabel("Share of simulated studies")
            if row == 0:
                _legend(figure, looks.values(), left, len(cohorts) * ROW_MM, width)
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, looks: Looks, by: str) -> None:
    """Draw the rate of each value of the column `by`, with its interval, at every design."""
    sizes = rows[["n_reference", "n_compared"]].drop_duplicates()
    designs = sorted(sizes.itertuples(index=False, name=None), key=lambda n: (sum(n), n))
    for i, (value, (_, colour, marker)) in enumerate(looks.items()):
        moved = APART * (i - (len(looks) - 1) / 2)
        part = rows[rows[by] == value]
        sizes_of = zip(part["n_reference"], part["n_compared"], strict=True)
        x = [designs.index(design) + moved for design in sizes_of]
        axes.vlines(x, part["rate_low"], part["rate_high"], color=colour, linewidth=0.8)
        axes.scatter(x, part["rate"], s=9, color=colour, marker=marker, zorder=3)
    axes.axhline(SIGNIFICANT, color=style.QUIET, linewidth=0.6, dashes=(4, 3), zorder=0)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(-0.5, len(designs) - 0.5)
    axes.set_xticks(range(len(designs)), [f"{young}\n{old}" for young, old in designs])
    axes.set_xlabel("Animals: young above, old below")


def _legend(figure: Figure, looks: Iterable[Look], left: float, top: float, width: float) -> None:
    axes = style.add_axes(
        figure, left=left - 8, top=top, width=width + 8, height=LEGEND_MM, canvas=True
    )
    handles = [style.mark(label, marker, colour=colour) for label, colour, marker in looks]
    axes.legend(handles=handles, loc="center left", ncols=2, handlelength=1.2, borderaxespad=0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"calibration": CALIBRATION}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, arms=None)


if __name__ == "__main__":
    raise SystemExit(main())
