"""Draw what operators pass and add, the shares of their factors, and what they know of edges.

On the left how well each candidate puts anchors at the distances of the ruler, where their donor
was held out and within a branch that was, each with the mean of wrong rulers; in the middle what
the first factors of a head carry, beside random bases; on the right how well targets of a factor
are told from other genes of its programme.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from stages.drawing import command, style
from stages.operators.tables.edges import OPERATOR_EDGES
from stages.operators.tables.factors import OPERATOR_FACTORS
from stages.operators.tables.gates import OPERATOR_GATES

NAME = "operators"
TOP_MM, FOOT_MM, ROW_MM = 7, 27, 4.2
LEFT_MM, WIDTH_MM = (42, 97, 155), (42, 17, 26)
NOTHING = "The cells have no kinds\nthat the ruler knows."
SOURCES = {
    "expression": "expression",
    "embedding": "",
    "residual": "stream,",
    "attn_mean": "attention,",
    "ov_weight": "OV,",
    "random": "random,",
}


@style.styled
def draw(gates: pd.DataFrame, factors: pd.DataFrame, edges: pd.DataFrame) -> Figure:
    """Return the three panels.

    Parameters
    ----------
    gates
        ``OPERATOR_GATES``
    factors
        ``OPERATOR_FACTORS``
    edges
        ``OPERATOR_EDGES``
    """
    if gates.empty:
        return style.message(NOTHING)
    gates = gates[gates["dimensions"] == gates["dimensions"].max()]
    last = gates["state"].dropna().iloc[-1]
    right = gates[gates["ruler"] == "right"]
    names = [
        key
        for key, _ in right.groupby(
            ["source", "name", "state", "adaptor"], sort=False, dropna=False
        )
    ]
    height = ROW_MM * len(names)
    figure = style.figure(style.DOUBLE_MM, TOP_MM + height + FOOT_MM + style.STRIP_MM)
    axes = [
        style.add_axes(figure, left=left, top=TOP_MM, width=width, height=height)
        for left, width in zip(LEFT_MM, WIDTH_MM, strict=True)
    ]
    _gates(axes[0], gates, names, last)
    axes[0].set_title("a  Distances on the ruler", loc="left", weight="bold", x=-0.93)
    _factors(axes[1], factors)
    axes[1].set_title("b  Factors of a head", loc="left", weight="bold", x=-0.42)
    _edges(axes[2], edges, last)
    axes[2].set_title("c  Targets of a factor", loc="left", weight="bold", x=-0.9)
    _legend(figure, TOP_MM + height + FOOT_MM + style.STRIP_MM)
    return figure


def _label(source: str, name: str, state: object, last: str, adaptor: str = "ridge") -> str:
    words = f"{SOURCES[source]} {name.replace('attn_mean', 'attention').replace('ov_weight', 'OV')}"
    words += ", published adaptor" if adaptor == "arccos" else ""
    words += "" if state == last or not isinstance(state, str) else ", untrained"
    return words.strip()


def _gates(axes: Axes, gates: pd.DataFrame, names: list[tuple[str, ...]], last: str) -> None:
    limit = gates.loc[gates["gate"] == "donor", "threshold"].iloc[0]
    axes.axvline(limit, color=style.QUIET, linewidth=0.8, dashes=(3, 2))
    axes.axvline(0, color=style.FAINT, linewidth=0.6)
    keys = ["source", "name", "state", "adaptor"]
    for y, key in enumerate(names):
        of = gates
        for column, value in zip(keys, key, strict=True):
            same = of[column].isna() if pd.isna(value) else of[column] == value
            of = of[same]
        colour = style.COLOURS["heads"] if key[2] == last and key[0] != "random" else style.INK
        for gate, marker, face in (("donor", "o", "white"), ("within", "o", colour)):
            for ruler in ("wrong", "right"):
                row = of[(of["gate"] == gate) & (of["ruler"] == ruler)]
                if row.empty:
                    continue
                one = row.iloc[0]
                if ruler == "wrong":
                    shown = "x" if gate == "within" else "+"
                    axes.scatter(
                        one["value"], y, s=14, marker=shown, color=style.QUIET, linewidths=0.8
                    )
                    continue
                axes.hlines(y, one["low"], one["high"], color=colour, linewidth=0.9)
                axes.scatter(
                    one["value"],
                    y,
                    s=14,
                    marker=marker,
                    facecolors=face,
                    edgecolors=colour,
                    linewidths=0.8,
                    zorder=3,
                )
    axes.set_yticks(
        range(len(names)), [_label(key[0], key[1], key[2], last, key[3]) for key in names]
    )
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(right=1.03)
    axes.set_xlabel("Spearman correlation of distances")


def _factors(axes: Axes, factors: pd.DataFrame) -> None:
    state = factors["state"].iloc[-1]
    rows = factors[factors["state"] == state].sort_values(["top", "condition"])
    x = np.arange(len(rows), dtype=float)
    for at, (_, row) in zip(x, rows.iterrows(), strict=True):
        axes.fill_between(
            [at - 0.32, at + 0.32],
            row["rotated_low"],
            row["rotated_high"],
            color=style.FAINT,
            linewidth=0,
        )
        axes.hlines(row["rotated"], at - 0.32, at + 0.32, color=style.QUIET, linewidth=0.8)
        axes.hlines(
            row["sigma2_share"], at - 0.2, at + 0.2, color=style.INK, linewidth=1.0, linestyle=":"
        )
        axes.vlines(at, row["low"], row["high"], color=style.COLOURS["heads"], linewidth=1.0)
        axes.scatter(at, row["share"], s=16, color=style.COLOURS["heads"], zorder=3)
    labels = [f"{row['top']}, {row['condition']}" for _, row in rows.iterrows()]
    axes.set_xticks(x, labels, rotation=90)
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylabel("Share of all drops", labelpad=1)


def _edges(axes: Axes, edges: pd.DataFrame, last: str) -> None:
    if edges.empty:
        axes.text(0.5, 0.5, "no edges known", transform=axes.transAxes, ha="center")
        axes.set_axis_off()
        return
    ways = {
        "both": "",
        "target to factor": ", to factor",
        "factor to target": ", to target",
        "direction": ", direction",
    }
    rows = edges[
        edges["state"].isna()
        | (edges["state"] == last)
        | (edges["way"] == "both")
        | (edges["name"] == "mean of heads") & (edges["way"] != "direction")
    ]
    for y, (_, row) in enumerate(rows.iterrows()):
        colour = style.COLOURS["heads"] if row["state"] == last else style.INK
        axes.hlines(y, row["low"], row["high"], color=colour, linewidth=0.9)
        axes.scatter(row["value"], y, s=14, color=colour, zorder=3)
    axes.axvline(0.5, color=style.QUIET, linewidth=0.8, dashes=(3, 2))
    short = {"mean of heads": "mean", "best head": "best", "gene embedding": "embedding"}
    labels = []
    for _, row in rows.iterrows():
        name = short.get(str(row["name"]), str(row["name"]))
        labels.append(
            _label(str(row["source"]), name, row["state"], last)
            .replace(", untrained", " (untr.)")
            .replace("expression correlation", "correlation")
            .replace("attention,", "att.")
            .replace("OV,", "OV")
            + ways[str(row["way"])]
        )
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("Area under the curve")


def _mark(marker: str, colour: str, label: str, face: str | None = None) -> Line2D:
    return Line2D(
        [],
        [],
        color=colour,
        marker=marker,
        markersize=4,
        markerfacecolor=face or colour,
        linewidth=0,
        label=label,
    )


def _legend(figure: Figure, height: float) -> None:
    colour = style.COLOURS["heads"]
    handles = [
        _mark("o", colour, "donor held out", face="white"),
        _mark("o", colour, "within a branch held out"),
        _mark("+", style.QUIET, "wrong rulers, donor"),
        _mark("x", style.QUIET, "wrong rulers, branch"),
        Patch(color=style.FAINT, label="random bases"),
        Line2D([], [], color=style.INK, linestyle=":", label="of squared singular values"),
    ]
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, style.STRIP_MM / height - 0.004),
        ncols=3,
        handlelength=2,
        columnspacing=1.2,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"gates": OPERATOR_GATES, "factors": OPERATOR_FACTORS, "edges": OPERATOR_EDGES}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, arms=None)


if __name__ == "__main__":
    raise SystemExit(main())
