"""What the figures of heads share: steps, and the effects that they show."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray

from stages.base.errors import FigureError
from stages.drawing import style
from stages.heads.components import perturbation

Floats = NDArray[np.float64]

DELTA = "\N{GREEK CAPITAL LETTER DELTA}"
EFFECT = f"{DELTA} loss without the head (nats per token)"
SHADES = LinearSegmentedColormap.from_list(
    "heads", ["#faf6f9", "#e8c6d9", style.PURPLE, "#7d3660", "#2b0a20"]
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
    """Return effects by (layer, head), one column a step."""
    whole = rows.astype({"layer": int, "head": int})
    wide = whole.pivot(index=["layer", "head"], columns="step", values="delta_loss_nats")
    return wide.sort_index(axis=0).sort_index(axis=1)


def step_name(step: int) -> str:
    """Return a step as an axis shows it, thousands as k.

    >>> [step_name(step) for step in (512, 2048, 16000, 143000)]
    ['512', '2048', '16k', '143k']
    """
    return f"{step // 1000}k" if step and step % 1000 == 0 else str(step)


def positions(steps: Sequence[int]) -> Floats:
    """Return where steps stand on a logarithmic axis; step 0 stands one octave below the next."""
    at = np.array(steps, dtype=np.float64)
    positive = at[at > 0]
    return np.where(at > 0, at, positive.min() / 2 if positive.size else 1.0)


def spread(steps: Sequence[int], most: int) -> list[int]:
    """Return at most `most` steps, evenly chosen, with the first and the last."""
    if len(steps) <= most:
        return list(steps)
    return [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, most).round().astype(int))]


def step_axis(axes: Axes, steps: Sequence[int], width_mm: float, *, labels: bool = True) -> None:
    """Make x logarithmic, with a tick at each step and as many labels as have room.

    Parameters
    ----------
    width_mm
        How wide the span from the first to the last step is on paper.
    """
    at = positions(steps)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(at, _labels(steps, at, width_mm) if labels else [""] * len(steps))


def _labels(steps: Sequence[int], at: Floats, width_mm: float) -> list[str]:
    """Label the last step, the first, and the others from the left where they fit."""
    names = [step_name(step) for step in steps]
    span = max(float(np.log(at[-1] / at[0])), 1e-9)
    middle = np.log(at / at[0]) / span * width_mm
    half = [style.text_width_mm(name) / 2 for name in names]
    kept: list[int] = []
    for i in [len(steps) - 1, *range(len(steps) - 1)]:
        if all(abs(middle[i] - middle[j]) >= half[i] + half[j] + _GAP_MM for j in kept):
            kept.append(i)
    return [name if i in kept else "" for i, name in enumerate(names)]


def noise_level(rows: pd.DataFrame) -> float:
    """Return the typical size of a measured effect that is only noise.

    The median standard error; where there is none, a hundredth of the median absolute effect.
    """
    errors = rows["standard_error_nats"].dropna()
    level = float(errors.median()) if len(errors) else 0.0
    if level <= 0:
        level = float(rows["delta_loss_nats"].abs().median()) / 100
    return level if level > 0 else 1e-6
