"""The values of the paper that are about cells and heads in one plane."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from stages.heads.components import perturbation
from stages.measurement.resampling import SIGNIFICANT
from stages.report import text
from stages.report.reading import read_all

# In simulated trainings, intervals over sequences held the truth in 0.92 to 0.97 of cases at a
# noise share of 0.20 at the first checkpoint, and in 0.58 to 0.78 at 0.41 (stages.plane.plane).
TOO_NOISY = 0.4


class PlaneTables(NamedTuple):
    """The tables that the text on the plane rests on."""

    plane: pd.DataFrame
    plane_directions: pd.DataFrame


def read_tables(folder: Path) -> PlaneTables:
    """Read and check both."""
    return PlaneTables(**read_all(PlaneTables._fields, folder))


def section(found: PlaneTables) -> str:
    """Return the passage that fits: without both systems there is nothing to compare."""
    return "plane" if len(found.plane_directions) else "plane_none"


def variables(found: PlaneTables, importance: pd.DataFrame) -> dict[str, str]:
    """Return the values of the comparison, on the corrected scales; none without one.

    Parameters
    ----------
    found
        Both tables.
    importance
        ``HEAD_IMPORTANCE``: which way of removal the text is about.
    """
    if found.plane_directions.empty:
        return {}
    shown = perturbation(importance)
    heads = found.plane[(found.plane["system"] == "heads") & (found.plane["scale"] == "corrected")]
    heads = heads[heads["perturbation"] == shown]
    last = heads[heads["step"] == heads["step"].max()].set_index("bootstrap")
    over = last.loc["sequences"]
    directions = found.plane_directions
    directions = directions[
        (directions["scale"] == "corrected") & (directions["perturbation"] == shown)
    ]
    first = directions.iloc[0]
    return {
        "step_first": text.integer(int(first["step_first"])),
        "step_last": text.integer(int(first["step_last"])),
        "n_steps": text.plural(int(first["n_steps"]), "checkpoint"),
        "heads_d_gini": text.signed(over["d_gini"], 3),
        "heads_d_effective": text.signed(over["d_effective"], 3),
        "heads_angle": _degrees(over["angle_degrees"]),
        "heads_angle_sequences": _between(over),
        "heads_angle_heads": _between(last.loc["heads"]),
        "heads_quadrant": str(over["quadrant"]),
        "n_close": text.integer(int((directions["angle_degrees"] < 90).sum())),
        "n_tissues": text.plural(len(directions), "tissue of an arm", "tissues of an arm"),
        "significant": f"{SIGNIFICANT:g}",
        "n_significant": text.integer(int((directions["p"] < SIGNIFICANT).sum())),
        "checkpoints_p_smallest": text.number(first["checkpoints_p_smallest"], 3),
        "noise_sentence": _noise_sentence(float(over["noise_share_first"])),
    }


def _degrees(angle: float) -> str:
    return f"{text.number(angle, 0)}°"


def _between(row: pd.Series) -> str:
    return f"{_degrees(row['angle_low'])} to {_degrees(row['angle_high'])}"


def _noise_sentence(share: float) -> str:
    stated = (
        f"Noise alone would give {text.number(share, 2)} of the sum of absolute effects at the "
        "first checkpoint"
    )
    if share < TOO_NOISY:
        return f"{stated}, at which intervals over sequences may be believed."
    return (
        f"{stated}; in simulated trainings, intervals over sequences failed where that share "
        f"reached {TOO_NOISY:g}, so those given here are not to be believed."
    )
