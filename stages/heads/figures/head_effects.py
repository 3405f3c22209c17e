"""Draw how the effects of the heads are distributed at each checkpoint, beside noise and fits.

A panel shows the share of heads whose absolute effect is at least the value below it, both on
logarithmic scales, where a heavy tail falls slowly and a normal one drops. The grey curve is what
the heads would show if none had an effect: the mean over the heads of normal distributions with
their standard errors. Beside the normal fit stands the one of the least Akaike criterion.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy import stats

from stages.drawing import command, style
from stages.heads.components import perturbation
from stages.heads.figures import heads
from stages.heads.tables.distribution import HEAD_DISTRIBUTION
from stages.heads.tables.importance import HEAD_IMPORTANCE

NAME = "head_effects"
Floats = NDArray[np.float64]

MAX_PANELS = 8
COLUMNS = 4
PANEL_MM = 41
HEADS = style.COLOURS["heads"]
NU = "\N{GREEK SMALL LETTER NU}"
FITS = {
    "normal": "normal",
    "laplace": "Laplace",
    "student_t": f"t, {NU} = {{:.2g}}",
    "gamma": "gamma, k = {:.2g}",
    "lognormal": "lognormal",
}
"""Families of all effects, as a title names them, some with the shape of their fit."""
NORMAL, BEST = (style.INK, (1, 1.2)), (style.INK, None)


@style.styled
def draw(importance: pd.DataFrame, distribution: pd.DataFrame) -> Figure:
    """Return one panel a checkpoint, at most eight.

    Parameters
    ----------
    importance
        ``HEAD_IMPORTANCE``; zero ablation is drawn where there is one.
    distribution
        ``HEAD_DISTRIBUTION`` of the same effects.

    Raises
    ------
    FigureError
        The table holds no head.
    """
    rows = heads.shown(importance)
    kind = perturbation(rows)
    fits = distribution[(distribution["unit"] == "head") & (distribution["perturbation"] == kind)]
    states = heads.spread(heads.States.of(rows).names, MAX_PANELS)
    columns = min(COLUMNS, len(states))
    n_rows = math.ceil(len(states) / columns)
    width = style.DOUBLE_MM if columns > 2 else style.SINGLE_MM
    legend_mm = 5 if columns > 2 else 17
    figure = style.figure(
        width, n_rows * PANEL_MM + 5 + legend_mm + style.STRIP_MM, constrained=True
    )
    grid = figure.subplots(n_rows, columns, squeeze=False, sharex=True, sharey=True)
    limits = _limits(rows[rows["state"].isin(states)])
    for state, axes in zip(states, grid.flat, strict=False):
        of_state = fits[fits["state"] == state]
        _panel(axes, rows[rows["state"] == state], of_state, limits)
        title = {"size": style.SMALLEST_PT, "pad": 2}
        axes.set_title(heads.title(state), loc="left", weight="bold", **title)
        axes.set_title(_best(of_state), loc="right", **title)
    for axes in list(grid.flat)[len(states) :]:
        axes.set_visible(False)
    n_heads = int((rows["state"] == states[0]).sum())
    grid[0, 0].set_xlim(limits)
    grid[0, 0].set_ylim(0.45 / n_heads, 1.4)
    for axes in grid[:, 0]:
        axes.set_ylabel("Share of heads")
    for i in range(max(0, len(states) - columns), len(states)):
        axes = grid.flat[i]
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(f"|{heads.DELTA} loss| (nats per token)")
    figure.legend(
        handles=_legend(),
        loc="outside upper center" if columns > 2 else "outside upper left",
        ncols=6 if columns > 2 else 2,
        handlelength=2,
        columnspacing=1.4,
    )
    style.freeze(figure)
    return figure


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    """Return powers of ten about what is of interest: from below the noise to the largest."""
    size = rows["delta_loss_nats"].abs()
    present = size[size > 0]
    low = heads.noise_levels(rows).min() / 5
    if len(present):
        low = min(low, float(present.quantile(0.1)))
    high = max(float(size.max()), 100 * low)
    return 10 ** math.floor(math.log10(low)), 10 ** (math.log10(high) + 0.25)


def exceedance(rows: pd.DataFrame, x: Floats) -> Floats:
    """Return the share of heads that would show at least an effect of `x` by noise alone."""
    errors = rows["standard_error_nats"].to_numpy(float)
    with np.errstate(divide="ignore"):
        mean: Floats = 2 * stats.norm.sf(x[:, np.newaxis] / errors).mean(axis=1)
    return mean


def _panel(axes: Axes, rows: pd.DataFrame, fits: pd.DataFrame, limits: tuple[float, float]) -> None:
    x = np.geomspace(*limits, 241)
    if rows["standard_error_nats"].notna().all():
        axes.fill_between(x, exceedance(rows, x), 1e-9, color=style.FAINT, linewidth=0, zorder=0)
    for which, (colour, dashes) in (
        (fits["family"] == "normal", NORMAL),
        (fits["delta_aic"] == 0, BEST),
    ):
        if not which.any():
            continue
        above = _share_above(fits[which].iloc[0], x)
        line = axes.plot(x, above, color=colour, linewidth=0.9, zorder=2)[0]
        if dashes:
            line.set_dashes(dashes)
    ordered = rows.assign(size=rows["delta_loss_nats"].abs()).sort_values("size", ascending=False)
    share = np.arange(1, len(ordered) + 1) / len(ordered)
    for harms, face in ((True, HEADS), (False, "white")):
        which = (ordered["delta_loss_nats"] > 0).to_numpy() == harms
        axes.scatter(
            ordered["size"][which],
            share[which],
            s=7 if len(ordered) < 100 else 3,
            facecolors=face,
            edgecolors=HEADS,
            linewidths=0.5 if len(ordered) < 100 else 0.35,
            zorder=3,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.minorticks_off()


def _share_above(fit: pd.Series, x: Floats) -> Floats:
    """Return the probability of an absolute effect of at least `x`."""
    scale, shape = fit["scale_nats"], fit["shape"]
    match fit["family"]:
        case "normal":
            family = stats.norm(fit["location_nats"], scale)
        case "laplace":
            family = stats.laplace(fit["location_nats"], scale)
        case "gamma":
            family = stats.gamma(shape, scale=scale)
        case "lognormal":
            family = stats.lognorm(shape, scale=scale)
        case _:
            family = stats.t(shape, fit["location_nats"], scale)
    share: Floats = family.sf(x) + family.cdf(-x)
    return share


def _best(fits: pd.DataFrame) -> str:
    """Name the family with the smallest AIC; nothing where none was fitted."""
    best = fits[fits["delta_aic"] == 0]
    if best.empty:
        return ""
    return FITS[str(best["family"].iloc[0])].format(float(best["shape"].iloc[0]))


def _legend() -> list[Line2D | Patch]:
    marks = [
        style.mark("removal harms", "o", colour=HEADS, size=3),
        style.mark("removal helps", "o", colour=HEADS, face="white", size=3, width=0.5),
    ]
    lines = []
    for label, (colour, dashes) in (("normal fit", NORMAL), ("best fit, named above", BEST)):
        line = Line2D([], [], color=colour, linewidth=0.9, label=label)
        if dashes:
            line.set_dashes(dashes)
        lines.append(line)
    return [*marks, Patch(color=style.FAINT, label="noise alone"), *lines]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"importance": HEAD_IMPORTANCE, "distribution": HEAD_DISTRIBUTION}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, arms=None)


if __name__ == "__main__":
    raise SystemExit(main())
