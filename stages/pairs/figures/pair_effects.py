"""Draw what pairs of heads do beyond the sum of their heads: along states, as a matrix, by product.

On the left, above, the median absolute effect of a pair with what noise alone would give; below,
how much larger it is among the heads of the largest effects, with what noise alone, effects
proportional to the product of the two heads' effects, or to the power of it that fits best, would
give. In the middle
every pair in the last state; on the right each against that product.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter
from numpy.typing import NDArray

from stages.drawing import command, style
from stages.measurement import nulls
from stages.measurement.states import step_of
from stages.pairs.components import CONDITIONS
from stages.pairs.tables.epistasis import EPISTASIS, EPISTASIS_PAIRS

Floats = NDArray[np.float64]

NAME = "pairs"
HEIGHT_MM, TOP_MM, FOOT_MM, GAP_MM = 87, 7, 25, 4
LEFT_MM, WIDTH_MM = (15, 71, 141), (40, 55, 39)
BAR_MM, BELOW_MM = 2, 9.5
EPSILON = "\N{GREEK SMALL LETTER EPSILON}"
BOTH_WAYS = LinearSegmentedColormap.from_list(
    "epistasis", [style.INK, style.GREY, "#ffffff", "#9278b9", style.COLOURS["heads"]]
)
"""Below 0 towards black, above 0 towards the colour of heads."""
RATIOS: dict[str, style.LineStyle] = {"measured": "-", "product": "--", "fitted": ":"}
LABELS = {
    "measured": "measured",
    "product": f"|{EPSILON}| as the product",
    "fitted": "as the fitted power of it",
}


@style.styled
def draw(epistasis: pd.DataFrame, pairs: pd.DataFrame) -> Figure:
    """Return the three panels.

    Parameters
    ----------
    epistasis
        ``EPISTASIS``
    pairs
        ``EPISTASIS_PAIRS``: those of the last state.
    """
    shown = min(epistasis["perturbation"].unique(), key=CONDITIONS.index)
    rows = epistasis[epistasis["perturbation"] == shown]
    pairs = pairs[pairs["perturbation"] == shown]
    states = list(dict.fromkeys(rows["state"]))
    figure = style.figure(style.DOUBLE_MM, HEIGHT_MM + style.STRIP_MM)
    height = HEIGHT_MM - TOP_MM - FOOT_MM
    each = (height - GAP_MM) / 2
    axes = style.add_axes(figure, left=LEFT_MM[0], top=TOP_MM, width=WIDTH_MM[0], height=each)
    _median(axes, rows, states)
    axes.set_title("a  Along states", loc="left", weight="bold")
    top = TOP_MM + each + GAP_MM
    axes = style.add_axes(figure, left=LEFT_MM[0], top=top, width=WIDTH_MM[0], height=each)
    _ratios(axes, rows, states)
    axes = style.add_axes(figure, left=LEFT_MM[1], top=TOP_MM, width=WIDTH_MM[1], height=height)
    bar = style.add_axes(
        figure,
        left=LEFT_MM[1],
        top=TOP_MM + height + BELOW_MM,
        width=WIDTH_MM[1],
        height=BAR_MM,
    )
    _matrix(axes, bar, pairs)
    axes.set_title(f"b  {EPSILON} of every pair, {_word(states[-1])}", loc="left", weight="bold")
    axes = style.add_axes(figure, left=LEFT_MM[2], top=TOP_MM, width=WIDTH_MM[2], height=height)
    _scatter(axes, pairs, rows[rows["state"] == states[-1]])
    axes.set_title("c  Against the product", loc="left", weight="bold")
    _legend(figure)
    return figure


def _word(state: str) -> str:
    step = step_of(state)
    return style.shorten(state, WIDTH_MM[1] / 2) if step is None else f"step {step}"


def _along(axes: Axes, states: Sequence[str], *, last: bool) -> None:
    at = range(len(states))
    room = WIDTH_MM[0] / len(states)
    steps = [step_of(state) for state in states]
    words = [
        style.shorten(state, room) if step is None else str(step)
        for state, step in zip(states, steps, strict=True)
    ]
    axes.set_xticks(list(at), words if last else [""] * len(states))
    axes.set_xlim(-0.3, len(states) - 0.7)
    if last:
        axes.set_xlabel("State" if None in steps else "Training step")


def _of(rows: pd.DataFrame, quantity: str, source: str, states: Sequence[str]) -> pd.DataFrame:
    found = rows[(rows["quantity"] == quantity) & (rows["source"] == source)]
    return found.set_index("state").reindex(states)


def _log(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=5))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())


def _median(axes: Axes, rows: pd.DataFrame, states: Sequence[str]) -> None:
    at = np.arange(len(states), dtype=float)
    _noise(axes, at, _of(rows, "median_abs", "additive", states))
    found = _of(rows, "median_abs", "measured", states)
    _line(axes, at, found)
    _log(axes)
    axes.set_ylabel(f"Median |{EPSILON}| ({_short(rows)})")
    _along(axes, states, last=False)


def _short(rows: pd.DataFrame) -> str:
    return str(rows["unit"].iloc[0]).split(" per ")[0]


def _noise(axes: Axes, at: Floats, noise: pd.DataFrame) -> None:
    axes.fill_between(at, noise["low"], noise["high"], color=style.FAINT, linewidth=0)
    axes.plot(at, noise["value"], color=style.QUIET, linewidth=0.8, dashes=(3, 2))


def _line(axes: Axes, at: Floats, found: pd.DataFrame) -> None:
    colour = style.COLOURS["heads"]
    # What reaches 0 has no place on a logarithmic axis.
    least = found["value"].min() / 10
    ends = found[["low", "high"]].clip(lower=least)
    axes.vlines(at, ends["low"], ends["high"], color=colour, linewidth=1.0)
    axes.plot(at, found["value"], color=colour, marker="o", markersize=2.8, linewidth=1.1)


def _ratios(axes: Axes, rows: pd.DataFrame, states: Sequence[str]) -> None:
    at = np.arange(len(states), dtype=float)
    _noise(axes, at, _of(rows, "tier_ratio", "additive", states))
    for source, line in RATIOS.items():
        found = _of(rows, "tier_ratio", source, states)
        if source == "measured":
            _line(axes, at, found)
        else:
            axes.plot(at, found["value"], color=style.INK, linestyle=line, linewidth=0.9)
    axes.axhline(1, color=style.QUIET, linewidth=0.6)
    _log(axes)
    # Few powers of ten: one label would be no scale.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=6))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_ylabel("Top heads / all pairs")
    _along(axes, states, last=True)


def _matrix(axes: Axes, bar: Axes, pairs: pd.DataFrame) -> None:
    """Draw the pairs as a square; what was not measured stays white."""
    first = list(zip(pairs["layer_a"], pairs["head_a"], strict=True))
    second = list(zip(pairs["layer_b"], pairs["head_b"], strict=True))
    heads = sorted({*first, *second})
    place = {head: i for i, head in enumerate(heads)}
    values = np.full((len(heads), len(heads)), np.nan)
    a, b = [place[head] for head in first], [place[head] for head in second]
    values[a, b] = values[b, a] = pairs["effect"]
    # Roots, so that one large pair does not leave all others white.
    scaled = np.sign(values) * np.sqrt(np.abs(values))
    most = float(np.nanmax(np.abs(scaled))) or 1.0
    image = axes.imshow(scaled, cmap=BOTH_WAYS, norm=Normalize(-most, most), interpolation="none")
    layers = np.array([layer for layer, _ in heads])
    edges = np.flatnonzero(np.diff(layers)) + 0.5
    for edge in edges:
        axes.axhline(edge, color=style.GREY, linewidth=0.4)
        axes.axvline(edge, color=style.GREY, linewidth=0.4)
    starts = np.concatenate([[-0.5], edges, [len(heads) - 0.5]])
    middles = (starts[:-1] + starts[1:]) / 2
    names = [str(layer) for layer in dict.fromkeys(layers)]
    step = max(1, len(names) // 8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(middles[::step], names[::step])
    axes.tick_params(length=0)
    axes.set_xlabel("Layer of a head")
    axes.set_ylabel("Layer of the other")
    for spine in axes.spines.values():
        spine.set_visible(True)
    axes.figure.colorbar(image, cax=bar, orientation="horizontal")
    ticks = [f * most**2 for f in (-1, -0.1, 0, 0.1, 1)]
    words = [style.MINUS * (tick < 0) + f"{abs(tick):.2g}" for tick in ticks]
    bar.set_xticks([float(np.sign(tick) * np.sqrt(abs(tick))) for tick in ticks], words)


def _scatter(axes: Axes, pairs: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Draw each pair by the product of its heads' effects, both logarithmic."""
    known = pairs[(pairs["effect"] != 0) & (pairs["product"] > 0)]
    same = known["layer_a"] == known["layer_b"]
    for of, face in ((~same, "none"), (same, style.COLOURS["heads"])):
        axes.scatter(
            known.loc[of, "product"],
            known.loc[of, "effect"].abs(),
            s=5,
            facecolors=face,
            edgecolors=style.COLOURS["heads"],
            linewidths=0.4,
            alpha=0.7,
        )
    noise = rows[(rows["quantity"] == "median_abs") & (rows["source"] == "additive")]["value"]
    for value in noise:
        axes.axhline(value, color=style.QUIET, linewidth=0.8, dashes=(3, 2))
    axes.set_xscale("log")
    _log(axes)
    axes.xaxis.set_major_locator(LogLocator(numticks=4))
    axes.xaxis.set_minor_locator(NullLocator())
    if not known.empty:
        ends = np.array([known["product"].min(), known["product"].max()])
        middle = known["effect"].abs().median() / known["product"].median()
        low, high = axes.get_ylim()
        axes.plot(ends, middle * ends, color=style.INK, linestyle=RATIOS["product"], linewidth=0.9)
        found, _ = nulls.by_exposure(known["effect"].to_numpy(), known["product"].to_numpy())
        order = np.argsort(known["product"].to_numpy())
        axes.plot(
            known["product"].to_numpy()[order],
            found[order],
            color=style.INK,
            linestyle=RATIOS["fitted"],
            linewidth=0.9,
        )
        axes.set_ylim(low, high)
    unit = _short(rows)
    axes.set_xlabel(f"Product of both effects ({unit}²)")
    axes.set_ylabel(f"|{EPSILON}| ({unit})")


def _legend(figure: Figure) -> None:
    colour = style.COLOURS["heads"]
    handles = [
        Line2D([], [], color=colour, marker="o", markersize=2.8, label=LABELS["measured"]),
        Line2D([], [], color=style.QUIET, linewidth=0.8, dashes=(3, 2), label="noise alone"),
        *(
            Line2D([], [], color=style.INK, linewidth=0.9, linestyle=RATIOS[name], label=label)
            for name, label in LABELS.items()
            if name != "measured"
        ),
        *(
            Line2D(
                [],
                [],
                color=colour,
                marker="o",
                markersize=3,
                markerfacecolor=face,
                linewidth=0,
                label=label,
            )
            for face, label in ((colour, "in one layer"), ("white", "in two"))
        ),
    ]
    strip = style.STRIP_MM / (HEIGHT_MM + style.STRIP_MM)
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, strip - 0.01),
        ncols=len(handles),
        handlelength=2,
        columnspacing=1.2,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"epistasis": EPISTASIS, "pairs": EPISTASIS_PAIRS}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, arms=None)


if __name__ == "__main__":
    raise SystemExit(main())
