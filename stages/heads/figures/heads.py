"""What the figures of heads share: states, and the effects that they show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray

from stages.base.errors import FigureError
from stages.drawing import style
from stages.heads.components import perturbation
from stages.measurement.states import step_of

Floats = NDArray[np.float64]

DELTA = "\N{GREEK CAPITAL LETTER DELTA}"
EFFECT = f"{DELTA} loss without the head (nats per token)"
SHADES = LinearSegmentedColormap.from_list(
    "heads", ["#f8f6fb", "#d3c8e4", "#9278b9", style.COLOURS["heads"], "#1c0936"]
)
"""From no effect to a large one; even in grey."""
# Free space between two labels of an axis.
_GAP_MM = 1.2


def shown(importance: pd.DataFrame) -> pd.DataFrame:
    """Return the heads of the perturbation that figures show: zero ablation where there is one.

    Raises
    ------
    FigureError
        The table holds no head.
    """
    of_heads = importance[importance["unit"] == "head"]
    if of_heads.empty:
        msg = "the head_importance table holds no head to draw. Check the sweep's units."
        raise FigureError(msg)
    return of_heads[of_heads["perturbation"] == perturbation(of_heads)]


def effects(rows: pd.DataFrame) -> pd.DataFrame:
    """Return effects by (layer, head), one column a state, in order."""
    whole = rows.astype({"layer": int, "head": int})
    wide = whole.pivot(index=["layer", "head"], columns="state", values="delta_loss_nats")
    return wide.sort_index(axis=0)[States.of(rows).names]


def short(name: str) -> str:
    """Return a state as an axis shows it: a step as its number, a long name cut.

    >>> [short(name) for name in ("step512", "step143000", "main", "stage1-step150-tokens1B")]
    ['512', '143k', 'main', 'stage1-…ens1B']
    """
    step = step_of(name)
    if step is None:
        cut = f"{name[:7]}\N{HORIZONTAL ELLIPSIS}{name[-5:]}"
        return cut if len(cut) < len(name) else name
    return f"{step // 1000}k" if step and step % 1000 == 0 else str(step)


def title(name: str, word: str = "Step") -> str:
    """Return a state as a title names it.

    >>> title("step16000"), title("step512", "step"), title("main")
    ('Step 16k', 'step 512', 'main')
    """
    return short(name) if step_of(name) is None else f"{word} {short(name)}"


def spread(names: Sequence[str], most: int) -> list[str]:
    """Return at most `most` states, evenly chosen, with the first and the last."""
    if len(names) <= most:
        return list(names)
    return [names[i] for i in np.unique(np.linspace(0, len(names) - 1, most).round().astype(int))]


@dataclass(frozen=True)
class States:
    """The states of a table, in order, as points of an axis."""

    names: list[str]
    positions: list[float]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> "States":
        """Return the states of a table that has their names and positions."""
        each = rows[["state", "position"]].drop_duplicates().sort_values("position")
        return cls(list(each["state"]), [float(at) for at in each["position"]])

    @property
    def are_steps(self) -> bool:
        """Whether they are steps of one training; others stand in their order."""
        return all(step_of(name) is not None for name in self.names)

    @property
    def label(self) -> str:
        """Of their axis."""
        return "Training step" if self.are_steps else "State"

    @property
    def at(self) -> Floats:
        """Where they stand: on a logarithmic axis, step 0 an octave below the next; or in order."""
        if not self.are_steps:
            return np.arange(len(self.names), dtype=np.float64)
        at = np.array(self.positions)
        positive = at[at > 0]
        return np.where(at > 0, at, positive.min() / 2 if positive.size else 1.0)

    def axis(self, axes: Axes, width_mm: float, *, labels: bool = True) -> None:
        """Make x their axis, with a tick at each and as many labels as have room.

        Parameters
        ----------
        width_mm
            How wide the span from the first to the last is on paper.
        """
        at = self.at
        axes.set_xscale("log" if self.are_steps else "linear")
        axes.minorticks_off()
        axes.set_xticks(at, self._labels(width_mm) if labels else [""] * len(at))

    @property
    def widest_mm(self) -> float:
        """How wide the widest name is on paper; steps, whose numbers are short, have none."""
        return 0.0 if self.are_steps else max(style.text_width_mm(short(n)) for n in self.names)

    def limits(self, before: float, after: float) -> tuple[float, float]:
        """Return the ends of the axis with this much room, in shares of the span of the states."""
        if not self.are_steps:
            span = float(self.at[-1]) or 1.0
            return -before * span, float(self.at[-1]) + after * span
        first, last = math.log(self.at[0]), math.log(self.at[-1])
        span = math.log(self.at[-1] / self.at[0]) or 1.0
        return math.exp(first - before * span), math.exp(last + after * span)

    def _labels(self, width_mm: float) -> list[str]:
        """Label the last, the first, and the others from the left where they fit."""
        names = [short(name) for name in self.names]
        along = np.log(self.at / self.at[0]) if self.are_steps else self.at
        middle = along / max(float(along[-1]), 1e-9) * width_mm
        half = [style.text_width_mm(name) / 2 for name in names]
        kept: list[int] = []
        for i in [len(names) - 1, *range(len(names) - 1)]:
            if all(abs(middle[i] - middle[j]) >= half[i] + half[j] + _GAP_MM for j in kept):
                kept.append(i)
        return [name if i in kept else "" for i, name in enumerate(names)]


def noise_levels(rows: pd.DataFrame) -> "pd.Series[float]":
    """Return the typical size, by state, of a measured effect that is only noise.

    The median standard error of the state; where there is none, a hundredth of the median absolute
    effect.
    """
    by_state = rows.groupby("state")
    level = by_state["standard_error_nats"].median()
    instead = by_state["delta_loss_nats"].agg(lambda effects: effects.abs().median() / 100)
    level = level.where(level > 0, instead)
    return level.where(level > 0, 1e-6)
