"""Draw where the effects lie: layer by checkpoint, and head by head at each checkpoint.

Colour is logarithmic. What is below the size of the noise in its own state is pale: it cannot be
told from nothing.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from stages.drawing import command, style
from stages.heads.figures import heads
from stages.heads.tables.importance import HEAD_IMPORTANCE

NAME = "head_heatmap"
Floats = NDArray[np.float64]

MAX_STATES = 8
LEFT_MM, TOP_MM, TITLE_MM = 13, 3.5, 6.5
SUM_WIDTH_MM = 40
SUM_GAP_MM = 14
BAR_MM, BAR_GAP_MM, BAR_FOOT_MM = 2.2, 9.5, 8
# The widest step for which there is room above the bar.
STEP_WIDTH_MM = 5
PANEL_GAP_MM = 2.2
RIGHT_MM = 2
COLUMNS = 4
MIN_ROW_MM, MAX_ROW_MM = 24, 48
CELL_MM = 2.6


@style.styled
def draw(importance: pd.DataFrame) -> Figure:
    """Return the sum over each layer by checkpoint, and every head at up to eight checkpoints.

    Parameters
    ----------
    importance
        ``HEAD_IMPORTANCE``; zero ablation is drawn where there is one.

    Raises
    ------
    FigureError
        The table holds no head.
    """
    rows = heads.shown(importance)
    wide = heads.effects(rows).abs()
    layers = sorted({int(layer) for layer in wide.index.get_level_values("layer")})
    states = heads.States.of(rows)
    chosen = heads.spread(states.names, MAX_STATES)
    level = heads.noise_levels(rows)
    columns = min(COLUMNS, len(chosen))
    n_rows = math.ceil(len(chosen) / columns)
    row = float(np.clip(len(layers) * CELL_MM, MIN_ROW_MM, MAX_ROW_MM))
    body = n_rows * row + (n_rows - 1) * TITLE_MM
    # Names of states slant down to the bar.
    gap = BAR_GAP_MM + max(0.0, states.widest_mm - STEP_WIDTH_MM) * math.sin(math.pi / 4)
    height = TOP_MM + TITLE_MM + body + gap + BAR_MM + BAR_FOOT_MM + style.STRIP_MM
    figure = style.figure(style.DOUBLE_MM, height)
    left = LEFT_MM + SUM_WIDTH_MM + SUM_GAP_MM
    right_mm = style.DOUBLE_MM - RIGHT_MM - left
    each = (right_mm - (columns - 1) * PANEL_GAP_MM) / columns
    bottom = TOP_MM + TITLE_MM + body + gap

    by_layer = wide.groupby(level="layer").sum().loc[layers]
    # The sum that noise alone would give: a normal effect has this mean absolute value.
    alone = level[states.names] * math.sqrt(2 / math.pi) * len(wide) / len(layers)
    norm = _norm(by_layer.to_numpy(float), float(alone.min()))
    axes = style.add_axes(
        figure, left=LEFT_MM, top=TOP_MM + TITLE_MM, width=SUM_WIDTH_MM, height=body
    )
    _mesh(axes, by_layer.to_numpy(float), norm, alone.to_numpy(float))
    _layer_axis(axes, layers, body)
    axes.set_ylabel("Layer")
    _state_labels(axes, states)
    _bar(figure, norm, f"Sum of |{heads.DELTA} loss| (nats)", LEFT_MM, SUM_WIDTH_MM, bottom)
    _title(figure, "a", "Sum over each layer", LEFT_MM, height)

    norm = _norm(wide[chosen].to_numpy(float), float(level[chosen].min()))
    for i, state in enumerate(chosen):
        at_row, at_column = divmod(i, columns)
        axes = style.add_axes(
            figure,
            left=left + at_column * (each + PANEL_GAP_MM),
            top=TOP_MM + TITLE_MM + at_row * (row + TITLE_MM),
            width=each,
            height=row,
        )
        _mesh(axes, _grid(wide[state], layers), norm, level[state])
        _layer_axis(axes, layers, row, labels=at_column == 0)
        _head_axis(axes, wide, labels=i + columns >= len(chosen))
        axes.set_title(heads.title(state), size=style.SMALLEST_PT, weight="normal", pad=2)
    _bar(figure, norm, f"|{heads.DELTA} loss| (nats)", left, right_mm, bottom)
    _title(figure, "b", "Every head", left, height)
    return figure


def _grid(effects: pd.Series, layers: list[int]) -> Floats:
    """Return effects as layers by heads; nan where a head was not measured."""
    grid: Floats = effects.unstack("head").reindex(layers).to_numpy(float)
    return grid


def _norm(values: Floats, low: float) -> LogNorm:
    high = float(np.nanmax(values))
    return LogNorm(vmin=min(low, high / 10) if high > 0 else low, vmax=max(high, low * 10))


def _mesh(axes: Axes, values: Floats, norm: LogNorm, noise: Floats | float) -> None:
    """Draw values; `noise` is the level of all, or that of each column."""
    least = float(norm.vmin or 0.0)
    # What is of the size of noise is pale, what was not measured is empty.
    shown = np.ma.masked_invalid(np.where(values < noise, least, values))
    axes.pcolormesh(
        shown, cmap=heads.SHADES, norm=norm, edgecolors="face", linewidth=0.05, zorder=1
    )
    axes.invert_yaxis()
    axes.spines[:].set_visible(True)
    axes.tick_params(length=1.5)


def _layer_axis(axes: Axes, layers: list[int], height_mm: float, *, labels: bool = True) -> None:
    """Label every layer, or every second, third, ... as there is room."""
    every = max(1, math.ceil(3.2 * len(layers) / height_mm))
    if every > 2:
        every = 4 * math.ceil(every / 4)
    shown = range(0, len(layers), every)
    axes.set_yticks([i + 0.5 for i in shown], [str(layers[i]) if labels else "" for i in shown])


def _head_axis(axes: Axes, wide: pd.DataFrame, *, labels: bool) -> None:
    names = sorted({int(head) for head in wide.index.get_level_values("head")})
    every = max(1, math.ceil(len(names) / 5))
    shown = range(0, len(names), every)
    axes.set_xticks([i + 0.5 for i in shown], [str(names[i]) if labels else "" for i in shown])
    if labels:
        axes.set_xlabel("Head", labelpad=1)


def _state_labels(axes: Axes, states: heads.States) -> None:
    chosen = heads.spread(states.names, 10)
    axes.set_xticks(
        [states.names.index(name) + 0.5 for name in chosen],
        [heads.short(name) for name in chosen],
        rotation=45,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_xlabel(states.label, labelpad=1)


def _bar(figure: Figure, norm: LogNorm, label: str, left: float, width: float, top: float) -> None:
    inner = min(width, 62)
    axes = style.add_axes(
        figure, left=left + (width - inner) / 2, top=top + 3, width=inner, height=BAR_MM
    )
    bar = figure.colorbar(
        ScalarMappable(norm, heads.SHADES), cax=axes, orientation="horizontal", extend="min"
    )
    bar.ax.xaxis.set_major_locator(LogLocator(numticks=6))
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.outline.set_linewidth(0.4)
    bar.set_label(label, labelpad=1)


def _title(figure: Figure, letter: str, text: str, left: float, height: float) -> None:
    figure.text(
        left / style.DOUBLE_MM,
        1 - 2.2 / height,
        f"{letter}  {text}",
        va="top",
        weight="bold",
        size=style.TITLE_PT,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"importance": HEAD_IMPORTANCE}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, arms=None)


if __name__ == "__main__":
    raise SystemExit(main())
