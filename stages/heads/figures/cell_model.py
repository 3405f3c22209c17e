"""Draw what a model of cells holds, and in how many of its heads, state by state.

On the left the concentration of the heads' effects under every way of removal, with what noise
alone would give; in the middle what the heads of a layer cost together beside the sum of what each
costs alone, in the last state; on the right what the model knows: of hidden genes, of a cell's
label, of its place in an order, with what needs no model as lines across.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from stages.drawing import command, style
from stages.heads.components import CONDITIONS
from stages.heads.figures import heads
from stages.heads.tables.joint_removal import JOINT_REMOVAL
from stages.heads.tables.seeds import HEAD_SEEDS
from stages.measurement.tables import MEASURED
from stages.representations.tables.probes import PROBES

NAME = "cell_model"
HEIGHT_MM = 86
TOP_MM, FOOT_MM, GAP_MM = 7, 18, 4
LEFT_MM, WIDTH_MM = (14, 78, 141), (50, 44, 37)
METRICS = {"gini": "Gini coefficient", "effective_number": "Effective number"}
LINES: dict[str, style.LineStyle] = dict(zip(CONDITIONS, ("-", "--", "-.", ":"), strict=False))
MARKS = dict(zip(CONDITIONS, ("o", "s", "^", "D"), strict=False))
PROBED = {"label": "Label found (share)", "order": "Place in order ($R^2$)"}
ACROSS: tuple[style.LineStyle, ...] = ("--", ":", "-.", "-")


@style.styled
def draw(
    measured: pd.DataFrame, seeds: pd.DataFrame, joint: pd.DataFrame, probes: pd.DataFrame
) -> Figure:
    """Return the three panels.

    Parameters
    ----------
    measured
        ``MEASURED`` of the heads of one model.
    seeds
        ``HEAD_SEEDS``: the same heads set to zero, in further trainings where there are any.
    joint
        ``JOINT_REMOVAL``
    probes
        ``PROBES``
    """
    figure = style.figure(style.DOUBLE_MM, HEIGHT_MM + style.STRIP_MM)
    height = HEIGHT_MM - TOP_MM - FOOT_MM
    each = (height - GAP_MM) / 2
    rows = measured[measured["series"] == "head"]
    states = heads.States.of(rows)
    others = _others(seeds)
    for i, (metric, label) in enumerate(METRICS.items()):
        top = TOP_MM + i * (each + GAP_MM)
        axes = style.add_axes(figure, left=LEFT_MM[0], top=top, width=WIDTH_MM[0], height=each)
        _concentration(axes, rows[rows["metric"] == metric], states, last=i == 1)
        for _, of in others[others["metric"] == metric].groupby("seed"):
            axes.plot(
                states.at,
                of.set_index("state").loc[states.names, "value"],
                color=style.COLOURS["heads"],
                linewidth=0.6,
                alpha=0.5,
            )
        axes.set_ylabel(label)
        if i == 0:
            axes.set_title("a  Concentration of the heads' effects", loc="left", weight="bold")
    axes = style.add_axes(figure, left=LEFT_MM[1], top=TOP_MM, width=WIDTH_MM[1], height=height)
    _together(axes, joint)
    axes.set_title("b  Heads of a layer, last state", loc="left", weight="bold")
    for i, (measure, label) in enumerate(PROBED.items()):
        top = TOP_MM + i * (each + GAP_MM)
        axes = style.add_axes(figure, left=LEFT_MM[2], top=top, width=WIDTH_MM[2], height=each)
        _known(axes, probes[probes["measure"] == measure], states, last=i == 1)
        axes.set_ylabel(label)
        if i == 0:
            axes.set_title("c  What the model knows", loc="left", weight="bold")
    _legend(figure, list(dict.fromkeys(rows["condition"])), probes, seeds=others["seed"].nunique())
    return figure


def _others(seeds: pd.DataFrame) -> pd.DataFrame:
    """Return the trainings beside the first, by absolute effects as measured."""
    shown = seeds[(seeds["effects"] == "absolute") & (seeds["estimator"] == "plug_in")]
    return shown[shown["seed"].notna() & (shown["seed"] != shown["seed"].iloc[0])]


def _concentration(axes: Axes, rows: pd.DataFrame, states: heads.States, *, last: bool) -> None:
    colour = style.COLOURS["heads"]
    shown = min(rows["condition"].unique(), key=CONDITIONS.index)
    for condition, of in rows.groupby("condition"):
        of = of.set_index("state").loc[states.names]
        if condition == shown:
            axes.fill_between(
                states.at, of["floor_low"], of["floor_high"], color=style.FAINT, linewidth=0
            )
            axes.plot(states.at, of["floor"], color=style.QUIET, linewidth=0.8, dashes=(3, 2))
            axes.fill_between(
                states.at,
                of["replicates_low"],
                of["replicates_high"],
                color=colour,
                alpha=0.25,
                linewidth=0,
            )
        axes.plot(
            states.at,
            of["value"],
            color=colour,
            linestyle=LINES[str(condition)],
            marker=MARKS[str(condition)],
            markersize=2.4,
            linewidth=1.1,
        )
    _along(axes, states, WIDTH_MM[0], last=last)


def _along(axes: Axes, states: heads.States, width: float, *, last: bool) -> None:
    states.axis(axes, width * 0.9, labels=last)
    axes.margins(x=0.05)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if last:
        axes.set_xlabel(states.label)


def _together(axes: Axes, joint: pd.DataFrame) -> None:
    """Draw both of each layer, with their intervals, in the last state."""
    shown = min(joint["perturbation"].unique(), key=CONDITIONS.index)
    rows = joint[(joint["perturbation"] == shown) & (joint["what"] != "excess")]
    rows = rows[rows["state"] == rows["state"].iloc[-1]]
    for what, shift, face in (("singles", -0.12, "white"), ("together", 0.12, None)):
        of = rows[rows["what"] == what]
        y = of["layer"].to_numpy(float) + shift
        colour = style.COLOURS["heads"]
        axes.hlines(y, of["low"], of["high"], color=colour, linewidth=1.0)
        axes.scatter(
            of["value"],
            y,
            s=20,
            facecolors=face or colour,
            edgecolors=colour,
            linewidths=1.0,
            zorder=3,
        )
    axes.axvline(0, color=style.QUIET, linewidth=0.6)
    axes.invert_yaxis()
    axes.set_yticks(sorted(rows["layer"].unique()))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_ylabel("Layer")
    unit = str(rows["unit"].iloc[0])
    axes.set_xlabel(f"{heads.DELTA} loss without them ({unit})")


def _known(axes: Axes, rows: pd.DataFrame, states: heads.States, *, last: bool) -> None:
    """Draw what the last layer of each state knows, and across what needs no model."""
    if rows.empty:
        axes.text(0.5, 0.5, "not in these cells", transform=axes.transAxes, ha="center")
        axes.set_xticks([])
        axes.set_yticks([])
        return
    of_model = rows[rows["source"] == "model"]
    layer = of_model["layer"].iloc[-1]
    of = of_model[of_model["layer"] == layer].set_index("name")
    asked = [i for i, state in enumerate(states.names) if state in of.index]
    of, at = of.loc[[states.names[i] for i in asked]], states.at[asked]
    colour = style.COLOURS["heads"]
    axes.fill_between(at, of["low"], of["high"], color=colour, alpha=0.25, linewidth=0)
    axes.plot(at, of["value"], color=colour, marker="o", markersize=2.4, linewidth=1.1)
    others = rows[rows["source"] != "model"]
    for line, value in zip(ACROSS, others["value"], strict=False):
        axes.axhline(value, color=style.INK, linewidth=0.8, linestyle=line)
    _along(axes, states, WIDTH_MM[2], last=last)


def _legend(figure: Figure, conditions: Sequence[str], probes: pd.DataFrame, *, seeds: int) -> None:
    colour = style.COLOURS["heads"]
    handles: list[Line2D] = [
        Line2D(
            [],
            [],
            color=colour,
            linestyle=LINES[name],
            marker=MARKS[name],
            markersize=2.4,
            label=name,
        )
        for name in sorted(conditions, key=CONDITIONS.index)
    ]
    handles.append(
        Line2D([], [], color=style.QUIET, linewidth=0.8, dashes=(3, 2), label="noise alone")
    )
    if seeds:
        label = "zero, another training"
        handles.append(Line2D([], [], color=colour, linewidth=0.6, alpha=0.5, label=label))
    for face, label in (("white", "sum of single heads"), (colour, "all at once")):
        handles.append(
            Line2D(
                [],
                [],
                color=colour,
                marker="o",
                markersize=4,
                markerfacecolor=face,
                linewidth=0,
                label=label,
            )
        )
    others = probes[probes["source"] == "expression"]["name"].unique()
    handles += [
        Line2D([], [], color=style.INK, linewidth=0.8, linestyle=line, label=name)
        for line, name in zip(ACROSS, others, strict=False)
    ]
    strip = style.STRIP_MM / (HEIGHT_MM + style.STRIP_MM)
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, strip - 0.01),
        ncols=(len(handles) + 1) // 2,
        handlelength=2,
        columnspacing=1.2,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {
        "measured": MEASURED,
        "seeds": HEAD_SEEDS,
        "joint": JOINT_REMOVAL,
        "probes": PROBES,
    }
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, arms=None)


if __name__ == "__main__":
    raise SystemExit(main())
