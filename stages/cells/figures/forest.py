"""Draw the changes of all tissues over many datasets as one forest.

A row a tissue, sorted by the change of the Gini coefficient: every dataset a small mark, the larger
the more it weighs, in the middle their mean with its interval, and thin where one more dataset
would lie. However many datasets there are, the figure has as many rows as tissues.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.base.study import Study
from stages.cells.tables.pooled import POOLED, SHRUNKEN
from stages.drawing import command, style

NAME = "forest"

PANELS = ("gini", "effective_number")
ROW_MM, TOP_MM, FOOT_MM, LEGEND_MM = 4.6, 9, 9, 6
NAMES_MM, GAP_MM, NUMBERS_MM, RIGHT_MM = 36, 3, 21, 2
SHOWN_SHARE = 0.01
"""The axis leaves out this share of datasets at either end; arrowheads mark them at its border."""
APART = 0.3
"""How far marks stand above and below the middle of their row."""


@style.styled
def draw(pooled: pd.DataFrame, shrunken: pd.DataFrame, about: Study) -> Figure:
    """Return the forest: both numbers side by side, from all cells.

    Parameters
    ----------
    pooled, shrunken
        ``POOLED`` and ``SHRUNKEN``. Without rows, the figure says so in words.
    about
        What the groups are called.
    """
    pooled, shrunken = (table[table["cells"] == "all"] for table in (pooled, shrunken))
    if pooled.empty:
        return style.message(style.NOTHING_COMPARED)
    of_gini = pooled[pooled["metric"] == "gini"].sort_values(["change", "tissue"])
    tissues = list(of_gini["tissue"])
    height = TOP_MM + ROW_MM * len(tissues) + FOOT_MM + LEGEND_MM + style.STRIP_MM
    figure = style.figure(style.DOUBLE_MM, height)
    width = (style.DOUBLE_MM - NAMES_MM - RIGHT_MM - GAP_MM) / 2 - NUMBERS_MM
    for i, metric in enumerate(PANELS):
        left = NAMES_MM + i * (width + NUMBERS_MM + GAP_MM)
        axes = style.add_axes(
            figure, left=left, top=TOP_MM, width=width, height=ROW_MM * len(tissues)
        )
        rows = pooled[pooled["metric"] == metric].set_index("tissue").reindex(tissues)
        _panel(axes, rows, shrunken[shrunken["metric"] == metric])
        axes.set_title(f"{'ab'[i]}  {style.METRICS[metric]}", loc="left", weight="bold", pad=9)
        axes.set_xlabel(style.change(about.groups()))
        axes.set_yticks(range(len(tissues)))
        names = [style.name(tissue) for tissue in tissues] if i == 0 else []
        axes.set_yticklabels(
            style.shorten_all(names, NAMES_MM - 4) if names else [""] * len(tissues)
        )
        axes.tick_params(axis="y", length=0)
    n_datasets = shrunken["dataset"].nunique()
    compared = shrunken[["dataset", "tissue"]].drop_duplicates()
    handles = [
        style.mark("one dataset", "o", colour=style.GREY, size=2.5, width=0),
        style.mark("mean, interval; thin: one more dataset", "D", colour=style.INK, size=3.5),
        *style.direction_marks(of_gini.loc[of_gini["emphasised"], "quadrant"]),
    ]
    style.legend(figure, handles, columns=len(handles))
    words = f"{n_datasets} datasets, {len(compared):,} comparisons"
    style.footnote(figure, words)
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, datasets: pd.DataFrame) -> None:
    """Draw one number: `rows` of ``POOLED`` by tissue, from the bottom up."""
    at = {tissue: i for i, tissue in enumerate(rows.index)}
    datasets = datasets.sort_values(["tissue", "change", "dataset"])
    place = datasets.groupby("tissue").cumcount().to_numpy()
    # Neighbours in order take turns above and below, so that near ones do not hide one another.
    turn = np.array([0.7, -0.7, 1.0, -1.0, 0.4, -0.4, 0.85, -0.85])[place % 8]
    y = datasets["tissue"].map(at).to_numpy(float) + APART * turn
    low, high = _limits(rows, datasets["change"])
    x = datasets["change"].to_numpy(float)
    inside = (x >= low) & (x <= high)
    of_most = datasets["weight"] / datasets.groupby("tissue")["weight"].transform("max")
    sizes = 0.4 + 3.2 * of_most.to_numpy(float)
    looks: dict[str, Any] = {"color": style.GREY, "alpha": 0.75, "linewidths": 0}
    axes.scatter(x[inside], y[inside], s=sizes[inside], **looks)
    for side, mark, edge in ((x < low, "<", low), (x > high, ">", high)):
        axes.scatter(np.full(side.sum(), edge), y[side], s=2.5, marker=mark, clip_on=False, **looks)
    axes.axvline(0, color=style.QUIET, linewidth=0.6, zorder=0)
    for tissue, row in rows.iterrows():
        if np.isnan(row["change"]):
            continue
        i = at[tissue]
        colour = style.COLOURS[row["quadrant"]] if row["emphasised"] else style.INK
        for what, thick in (("predicted", 0.5), ("change", 1.5)):
            ends = np.clip([row[f"{what}_low"], row[f"{what}_high"]], low, high)
            axes.hlines(i, *ends, color=colour, linewidth=thick)
        direction = row["quadrant"] if row["emphasised"] else "crystallize"
        style.point(axes, row["change"], i, direction, colour=colour, scale=0.7)
    axes.set_xlim(low, high)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.xaxis.set_major_locator(style.ticks(5))
    axes.grid(axis="y", color=style.FAINT, linewidth=0.3)
    _numbers(axes, rows)


def _limits(rows: pd.DataFrame, changes: pd.Series) -> tuple[float, float]:
    """Return the ends of the axis: nearly all datasets, and every mean's interval that fits."""
    low, high = changes.quantile([SHOWN_SHARE, 1 - SHOWN_SHARE])
    low, high = min(low, rows["change"].min(), 0), max(high, rows["change"].max(), 0)
    margin = 0.06 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _numbers(axes: Axes, rows: pd.DataFrame) -> None:
    """Write beside each row how many datasets it has, their I2 and the adjusted p."""
    columns = ((0.1, "n"), (0.36, "I\N{SUPERSCRIPT TWO} %"), (0.68, "q"))
    unit = NUMBERS_MM / (axes.get_position().width * style.DOUBLE_MM)
    for i, (_, row) in enumerate(rows.iterrows()):
        if np.isnan(row["change"]):
            continue
        i2 = "" if np.isnan(row["i2"]) else f"{100 * row['i2']:.0f}"
        q = "<.001" if row["q"] < 0.001 else f"{row['q']:.3f}"[1:] if row["q"] < 1 else "1"
        words = (f"{row['n_datasets']:.0f}", i2, q)
        for (x, _), word in zip(columns, words, strict=True):
            axes.text(1 + x * unit, i, word, transform=axes.get_yaxis_transform(), va="center")
    for x, head in columns:
        axes.text(1 + x * unit, 1.0, head, transform=axes.transAxes, va="bottom", color=style.QUIET)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"pooled": POOLED, "shrunken": SHRUNKEN}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, arms=None)


if __name__ == "__main__":
    raise SystemExit(main())
