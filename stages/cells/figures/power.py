"""Draw how often each rule calls a change that is not there, and how often one that is.

The original lacks it. One row a cohort, whose animals the simulated ones resemble; one place on the
axis a design, young against old animals.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.cells.tables.calibration import CALIBRATION
from stages.drawing import command, style
from stages.measurement.resampling import SIGNIFICANT

NAME = "power"

ROW_MM = 58
DESIGN = ["n_young", "n_old"]
# Of the rules without a planted change: label, colour, marker.
RULES = {
    "direction": ("quadrant not mixed", style.GREY, "D"),
    "gini_interval": ("interval of Gini", style.ORANGE, "s"),
    "gini_ranks": ("rank test of Gini", style.SKY, "^"),
    "emphasised": ("emphasised", style.INK, "o"),
}
SHADES = (style.FAINT, style.GREY, style.INK)
"""Of planted changes, from the smallest; the last of any more."""
APART = 0.14
"""Between the marks of one design, as a share of the distance to the next."""


@style.styled
def draw(calibration: pd.DataFrame) -> Figure:
    """Return a row a cohort: left no planted change, right each planted one.

    Parameters
    ----------
    calibration
        ``CALIBRATION``. Without rows, the figure says so in words.
    """
    if calibration.empty:
        return style.message("No arm of the cohorts has\nenough animals to vary like.")
    cohorts = list(calibration["cohort"].unique())
    height = ROW_MM * len(cohorts) + style.STRIP_MM
    figure = style.figure(style.DOUBLE_MM, height, constrained=True)
    grid = figure.subplots(len(cohorts), 2, squeeze=False, sharey=True)
    for row, cohort in enumerate(cohorts):
        of_cohort = calibration[calibration["cohort"] == cohort]
        null, planted = (of_cohort[of_cohort["gini_shift"].gt(0) == is_] for is_ in (False, True))
        designs = _designs(of_cohort)
        series = {rule: null[null["rule"] == rule] for rule in RULES}
        _panel(grid[row, 0], designs, {RULES[rule]: part for rule, part in series.items()})
        power = planted[planted["rule"] == "emphasised"]
        shades = {
            (f"{shift:g}", SHADES[min(i, len(SHADES) - 1)], "o"): part
            for i, (shift, part) in enumerate(power.groupby("gini_shift", sort=True))
        }
        _panel(grid[row, 1], designs, shades)
    return figure
