"""Draw in how many directions genes differ, what the leading ones separate, and what they hold.

On the left the effective rank of every layer in every state, beside permuted columns; below, the
same matrices with the rows of zeros that the published one had. In the middle what the first
directions of the last layer separate, untrained and trained; on the right how well each known
relation of genes is told by the model, untrained and trained, by co-expression and by frequency.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stages.drawing import command, style
from stages.measurement.tables import MEASURED
from stages.spectra.tables.separation import FREQUENCY, SEPARATION
from stages.spectra.tables.spectrum import SPECTRUM
from stages.spectra.tables.structures import STRUCTURES

NAME = "spectra"
HEIGHT_MM = 90
TOP_MM, FOOT_MM, GAP_MM = 10, 19, 8
LEFT_MM, WIDTH_MM = (10, 71, 143), (40, 42, 37)
TITLE_MM = (3, 56, 119)
"""Where the titles of the panels begin."""
MARKS: Sequence[str] = ("o", "s", "^", "D", "v", "P")
SHADES = LinearSegmentedColormap.from_list("axes", ["#ffffff", style.FAINT, style.QUIET, style.INK])
MOST_LABELS = 7
DARK = 0.55
"""From this shade on, numbers are white."""
SOURCES = {
    "untrained": ("o", "white"),
    "model": ("o", style.INK),
    "co-expression": ("D", style.GREY),
    "frequency": ("x", style.QUIET),
}


@style.styled
def draw(
    measured: pd.DataFrame, spectrum: pd.DataFrame, axes: pd.DataFrame, structures: pd.DataFrame
) -> Figure:
    """Return the three panels.

    Parameters
    ----------
    measured
        ``MEASURED`` of the directions of one model.
    spectrum
        ``SPECTRUM``
    axes
        ``SEPARATION``
    structures
        ``STRUCTURES``
    """
    figure = style.figure(style.DOUBLE_MM, HEIGHT_MM + style.STRIP_MM)
    height = HEIGHT_MM - TOP_MM - FOOT_MM
    each = (height - GAP_MM) / 2
    states = list(spectrum["state"].unique())
    _panel(figure, 0, "a  Effective rank by layer")
    for i, matrix in enumerate(("items", "zero rows")):
        place = style.add_axes(
            figure,
            left=LEFT_MM[0],
            top=TOP_MM + i * (each + GAP_MM),
            width=WIDTH_MM[0],
            height=each,
        )
        _ranks(place, measured, spectrum, states, matrix, last=i == 1)
    _panel(figure, 1, "b  First directions, last layer")
    layer = spectrum["layer"].iloc[-1]
    of_layer = axes[(axes["layer"] == layer) & axes["statistic"].isin(("rho", "auroc"))]
    asked = list(of_layer["state"].unique())
    for i, state in enumerate(asked):
        place = style.add_axes(
            figure,
            left=LEFT_MM[1],
            top=TOP_MM + i * (each + GAP_MM),
            width=WIDTH_MM[1],
            height=each,
        )
        _heat(place, of_layer[of_layer["state"] == state], last=i == len(asked) - 1)
        place.set_title(state, size=style.SMALLEST_PT, weight="normal", pad=2, loc="right")
    _panel(figure, 2, "c  Known relations")
    _relations(figure, structures, layer, height)
    _legend(figure, states)
    return figure


def _panel(figure: Figure, number: int, text: str) -> None:
    figure.text(
        TITLE_MM[number] / style.DOUBLE_MM,
        1 - 1.5 / (HEIGHT_MM + style.STRIP_MM),
        text,
        va="top",
        weight="bold",
        size=style.TITLE_PT,
    )


def _looks(states: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the marker and the grey of each state, the last the darkest."""
    shades = np.linspace(0.72, 0.13, len(states))
    return {
        state: (MARKS[i % len(MARKS)], str(round(float(shade), 3)))
        for i, (state, shade) in enumerate(zip(states, shades, strict=True))
    }


def _ranks(
    axes: Axes,
    measured: pd.DataFrame,
    spectrum: pd.DataFrame,
    states: Sequence[str],
    matrix: str,
    *,
    last: bool,
) -> None:
    layers = list(spectrum["layer"].unique())
    x = np.arange(len(layers))
    of = spectrum.set_index(["matrix", "state", "layer"])
    ends = measured[measured["metric"] == "effective_number"].set_index(["state", "series"])
    if matrix == "items":
        band = of.loc["column shuffle"].loc[states[-1]].loc[layers]
        axes.fill_between(
            x,
            band["effective_rank_low"],
            band["effective_rank_high"],
            color=style.GREY,
            linewidth=2,
        )
    for state, (marker, shade) in _looks(states).items():
        values = of.loc[matrix].loc[state].loc[layers, "effective_rank"]
        axes.plot(x, values, color=shade, marker=marker, markersize=3, linewidth=1)
        if matrix == "items":
            own = ends.loc[[(state, layer) for layer in layers]]
            axes.vlines(x, own["replicates_low"], own["replicates_high"], color=shade, linewidth=2)
    axes.set_ylim(0, None)
    axes.margins(x=0.06)
    # The first is longer than the others, and of many layers not all have room.
    names = ["emb.", *layers[1:]]
    every = -(-len(layers) // MOST_LABELS)
    axes.set_xticks(x, [name if last and i % every == 0 else "" for i, name in enumerate(names)])
    rows = spectrum[spectrum["matrix"] == matrix].iloc[0]
    n_zero = int(rows["n_zero_rows"])
    share = n_zero / (n_zero + int(rows["n_items"]))
    words = f"with {share:.0%} rows of zeros" if n_zero else "genes as they are"
    axes.set_title(words, size=style.SMALLEST_PT, weight="normal", pad=2, loc="right")
    if last:
        axes.set_xlabel("Layer")


def _heat(axes: Axes, rows: pd.DataFrame, *, last: bool) -> None:
    wide = rows.pivot(index="family", columns="axis", values="value")
    wide = wide.loc[[FREQUENCY, *(name for name in wide.index if name != FREQUENCY)]]
    values = wide.to_numpy(float)
    # A correlation is shaded from 0, an AUROC from one half.
    shade = np.where(wide.index.to_numpy() == FREQUENCY, values.T, 2 * values.T - 1).T
    axes.pcolormesh(shade, cmap=SHADES, vmin=0, vmax=1, edgecolors="face", linewidth=0.05)
    for i, j in np.ndindex(values.shape):
        number = f"{values[i, j]:.2f}"
        axes.text(
            j + 0.5,
            i + 0.5,
            "1" if number == "1.00" else number.removeprefix("0"),
            ha="center",
            va="center",
            color="white" if shade[i, j] > DARK else style.INK,
        )
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(wide)) + 0.5, list(wide.index))
    axes.set_xticks(np.arange(values.shape[1]) + 0.5, list(wide.columns) if last else [])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if last:
        axes.set_xlabel("Direction")


def _relations(figure: Figure, structures: pd.DataFrame, layer: str, height: float) -> None:
    kept = structures[(structures["source"] != "model") | (structures["layer"] == layer)]
    of_model = kept[kept["source"] == "model"]
    if of_model.empty:
        axes = style.add_axes(figure, left=LEFT_MM[2], top=TOP_MM, width=WIDTH_MM[2], height=height)
        axes.text(
            0.5, 0.5, "nothing is known\nof these genes", transform=axes.transAxes, ha="center"
        )
        axes.set_axis_off()
        return
    first, last = of_model["state"].iloc[0], of_model["state"].iloc[-1]
    names = list(dict.fromkeys(kept["structure"]))
    graded = [
        name for name in names if (kept["structure"] == name).any() and _is_graded(kept, name)
    ]
    plain = [name for name in names if name not in graded]
    # A place for each, and the axis of the correlations below that of the AUROC.
    step = (height - (9 if graded else 0)) / (len(plain) + len(graded) + 0.4)
    for of, top, chance, label in (
        (plain, TOP_MM, 0.5, "AUROC"),
        (graded, TOP_MM + step * (len(plain) + 0.2) + 9, 0.0, "Rank correlation"),
    ):
        if not of:
            continue
        axes = style.add_axes(
            figure, left=LEFT_MM[2], top=top, width=WIDTH_MM[2], height=step * (len(of) + 0.2)
        )
        axes.axvline(chance, color=style.QUIET, linewidth=0.6)
        for y, name in enumerate(of):
            rows = kept[kept["structure"] == name]
            for source, shift in (
                ("frequency", 0.27),
                ("co-expression", 0.09),
                ("untrained", -0.09),
                ("model", -0.27),
            ):
                if source == "untrained" and first == last:
                    continue
                state = {"untrained": first, "model": last}.get(source)
                own = rows[rows["source"] == ("model" if state else source)]
                own = own[own["state"] == state] if state else own
                _dot(axes, own.iloc[0], y + shift, source)
        axes.set_ylim(len(of) - 0.4, -0.6)
        axes.set_yticks(range(len(of)), [_wrapped(name) for name in of])
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(label, labelpad=1)


def _is_graded(rows: pd.DataFrame, name: str) -> bool:
    return bool((rows.loc[rows["structure"] == name, "statistic"] == "rho").all())


def _dot(axes: Axes, row: "pd.Series[float]", y: float, source: str) -> None:
    marker, face = SOURCES[source]
    colour = style.INK if source in {"untrained", "model"} else face
    axes.hlines(y, row["low"], row["high"], color=colour, linewidth=0.8)
    # What is only lines has no edge.
    edge = None if marker == "x" else colour
    axes.scatter(
        row["value"], y, s=12, marker=marker, c=face, edgecolors=edge, linewidths=0.8, zorder=3
    )


def _wrapped(name: str) -> str:
    r"""Break a long name in two lines.

    >>> _wrapped("edges within a programme")
    'edges within\na programme'
    """
    if len(name) < 17:
        return name
    words = name.split(" ")
    cut = min(
        range(1, len(words)),
        key=lambda i: abs(len(" ".join(words[:i])) - len(" ".join(words[i:]))),
    )
    return " ".join(words[:cut]) + "\n" + " ".join(words[cut:])


def _legend(figure: Figure, states: Sequence[str]) -> None:
    handles: list[Line2D] = [
        Line2D([], [], color=shade, marker=marker, markersize=3, linewidth=1, label=state)
        for state, (marker, shade) in _looks(states).items()
    ]
    handles.append(
        Line2D([], [], color=style.GREY, linewidth=3, label="columns permuted, last state")
    )
    named = {"untrained": "model, first state", "model": "model, last state"}
    for source, (marker, face) in SOURCES.items():
        colour = style.INK if source in named else face
        handles.append(style.mark(named.get(source, source), marker, colour=colour, face=face))
    style.legend(figure, handles, columns=(len(handles) + 1) // 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {
        "measured": MEASURED,
        "spectrum": SPECTRUM,
        "separation": SEPARATION,
        "structures": STRUCTURES,
    }
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, arms=None)


if __name__ == "__main__":
    raise SystemExit(main())
