"""Read the per-sequence effects of all checkpoints, and believe no file that is not whole.

The steps come from the settings, never from what lies in the folder: a file of a checkpoint that is
no longer listed is refused, and so is a listed one without a file. What is returned are full
arrays: every removal was measured on every sequence, on the same sequences at every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import tables
from stages.base.errors import TableError
from stages.heads.tables.effects import EFFECTS_PER_SEQUENCE, PERTURBATIONS, UNITS

Floats = NDArray[np.float64]

COMPONENT = ["layer", "head", "draw"]
_NUMBERS = ["loss_base", "loss_ablated", "delta_loss_nats"]
# delta_loss_nats is a difference of two float64 columns of the same row; nothing else is allowed.
_TOLERANCE_NATS = 1e-12


@dataclass(frozen=True)
class Effects:
    """The effects of one kind of removal at one step, on every sequence."""

    step: int
    unit: str
    perturbation: str
    components: pd.DataFrame
    """`layer`, `head`, `draw` of each component, in the order of the arrays."""
    sequences: NDArray[np.int64]
    """Numbers of the sequences, ascending: (n_sequences,)."""
    loss_base: Floats  # (n_sequences,)
    delta: Floats  # (n_draws, n_sequences, n_components)

    @property
    def per_sequence(self) -> Floats:
        """Effects averaged over draws, of shape (n_sequences, n_components)."""
        mean: Floats = self.delta.mean(axis=0)
        return mean

    @property
    def n_sequences(self) -> int:
        """Number of sequences that the effects are means over."""
        return int(self.delta.shape[1])

    @property
    def name(self) -> str:
        """Step, unit and perturbation as an error says them."""
        return f"step {self.step}, {self.unit} {self.perturbation}"


def read(folder: Path, steps: Sequence[int]) -> list[Effects]:
    """Read the effects of these steps, in their order, by unit and perturbation within a step.

    Parameters
    ----------
    folder
        Holds ``step<N>.parquet`` for each of `steps` and for no other.

    Raises
    ------
    TableError
        A file is missing, superfluous, damaged or incomplete, or the files do not fit together.
    """
    expected = [f"step{step}.parquet" for step in steps]
    found = sorted(path.name for path in folder.glob("*.parquet")) if folder.is_dir() else []
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    if missing:
        msg = (
            f"{folder} has no {', '.join(missing)}: every step of model.checkpoints needs its "
            "effects. Run dvc repro ablate."
        )
        raise TableError(msg)
    if extra:
        msg = (
            f"{folder} holds {', '.join(extra)}, which model.checkpoints does not list. "
            "Remove the file or list its step."
        )
        raise TableError(msg)
    read_in = [part for step in steps for part in read_step(folder / f"step{step}.parquet", step)]
    check_same(read_in)
    return read_in


def read_step(path: Path, step: int) -> list[Effects]:
    """Read and check the effects of one step."""
    return from_table(tables.read_parquet(path, EFFECTS_PER_SEQUENCE), step, str(path))


def from_table(table: pd.DataFrame, step: int, where: str) -> list[Effects]:
    """Return one object for each unit and perturbation of a table of per-sequence effects.

    Parameters
    ----------
    table
        ``EFFECTS_PER_SEQUENCE``.
    step
        The step that every row must have.
    where
        Names the table in errors.
    """
    if table.empty:
        msg = f"{where} holds no effects. Remove it and run dvc repro ablate."
        raise TableError(msg)
    if (table["step"] != step).any():
        other = int(table.loc[table["step"] != step, "step"].iloc[0])
        msg = f"{where} holds effects of step {other}, not only of step {step}. Make it again."
        raise TableError(msg)
    for column in _NUMBERS:
        bad = ~np.isfinite(table[column].to_numpy(float))
        if bad.any():
            row = table[bad].iloc[0]
            msg = (
                f"{where} holds {row[column]} in {column} (layer {row['layer']}, head "
                f"{row['head']}, sequence {row['sequence']}): only finite losses are allowed. "
                "Check the weights of this checkpoint and run dvc repro ablate."
            )
            raise TableError(msg)
    off = (table["loss_ablated"] - table["loss_base"] - table["delta_loss_nats"]).abs()
    if off.max() > _TOLERANCE_NATS:
        msg = (
            f"{where}: delta_loss_nats differs from loss_ablated - loss_base by {off.max():.3g} "
            f"nats, at most {_TOLERANCE_NATS:g} is allowed. Make it again."
        )
        raise TableError(msg)
    if (table.groupby("sequence")["loss_base"].nunique() != 1).any():
        msg = f"{where}: a sequence has several baseline losses; one is allowed. Make it again."
        raise TableError(msg)
    parts = []
    for unit in UNITS:
        of_unit = table[table["unit"] == unit]
        for perturbation in sorted(of_unit["perturbation"].unique(), key=_order):
            rows = of_unit[of_unit["perturbation"] == perturbation]
            parts.append(_array(rows, step, unit, perturbation, where))
    return parts


def _order(perturbation: str) -> int:
    return PERTURBATIONS.index(perturbation)


def _array(rows: pd.DataFrame, step: int, unit: str, perturbation: str, where: str) -> Effects:
    """Arrange the rows of one kind of removal; each cell of the grid must be there once."""
    # The directions of the noise are components of their own; a head's draws are repeats.
    key = COMPONENT if unit == "noise" else COMPONENT[:2]
    repeat = [name for name in COMPONENT if name not in key]
    ordered = rows.sort_values([*repeat, "sequence", *key], kind="stable")
    components = ordered[key].drop_duplicates().sort_values(key).reset_index(drop=True)
    sequences = np.sort(ordered["sequence"].unique())
    n_draws = int(ordered["draw"].nunique()) if repeat else 1
    shape = (n_draws, len(sequences), len(components))
    if len(ordered) != np.prod(shape):
        msg = (
            f"{where}, {unit} {perturbation}: {len(ordered)} rows are not {n_draws} draws x "
            f"{len(sequences)} sequences x {len(components)} components; every removal is "
            "measured on every sequence. Make it again."
        )
        raise TableError(msg)
    if len(sequences) < 2:
        msg = (
            f"{where}, {unit} {perturbation}: one sequence has no standard error; at least 2 are "
            "needed. Raise model.text.n_sequences."
        )
        raise TableError(msg)
    base = ordered.drop_duplicates("sequence").sort_values("sequence")["loss_base"]
    return Effects(
        step=step,
        unit=unit,
        perturbation=perturbation,
        components=components.assign(draw=components["draw"] if unit == "noise" else 0),
        sequences=sequences.astype(np.int64),
        loss_base=base.to_numpy(float),
        delta=ordered["delta_loss_nats"].to_numpy(float).reshape(shape),
    )


def to_table(part: Effects) -> pd.DataFrame:
    """Return ``EFFECTS_PER_SEQUENCE`` of one kind of removal: what :func:`from_table` reads.

    `loss_ablated` is the baseline loss and the effect, so that the three columns belong together.
    """
    n_draws, n_sequences, n_components = part.delta.shape
    draw, sequence, component = (
        index.ravel() for index in np.indices((n_draws, n_sequences, n_components))
    )
    components, delta = part.components, part.delta.ravel()
    loss_base = part.loss_base[sequence]
    table = pd.DataFrame(
        {
            "step": part.step,
            "unit": part.unit,
            "perturbation": part.perturbation,
            "layer": components["layer"].to_numpy()[component],
            "head": components["head"].to_numpy()[component],
            "draw": components["draw"].to_numpy()[component] if part.unit == "noise" else draw,
            "sequence": part.sequences[sequence],
            "loss_base": loss_base,
            "loss_ablated": loss_base + delta,
            "delta_loss_nats": delta,
        }
    )
    return table.sort_values([*COMPONENT, "sequence"], kind="stable", ignore_index=True)


def check_same(parts: Sequence[Effects]) -> None:
    """Check that each kind of removal has the same components and sequences at every step.

    Raises
    ------
    TableError
        The first step that differs from the first one.
    """
    steps = sorted({part.step for part in parts})
    first: dict[tuple[str, str], Effects] = {}
    for part in parts:
        reference = first.setdefault((part.unit, part.perturbation), part)
        same = (
            part.n_sequences == reference.n_sequences
            and part.delta.shape == reference.delta.shape
            and part.components.equals(reference.components)
        )
        if not same:
            msg = (
                f"{part.name} was measured on {part.n_sequences} sequences and "
                f"{len(part.components)} components, step {reference.step} on "
                f"{reference.n_sequences} and {len(reference.components)}, or on others; all "
                "steps need the same. Run dvc repro ablate."
            )
            raise TableError(msg)
    for (unit, perturbation), reference in first.items():
        having = {p.step for p in parts if (p.unit, p.perturbation) == (unit, perturbation)}
        if lacking := [step for step in steps if step not in having]:
            msg = (
                f"{unit} {perturbation} was measured at step {reference.step} but not at step "
                f"{lacking[0]}; all steps need the same. Run dvc repro ablate."
            )
            raise TableError(msg)


def heads(parts: Sequence[Effects]) -> dict[str, list[Effects]]:
    """Return the effects of heads by perturbation, each a list over steps.

    Raises
    ------
    TableError
        No head was removed.
    """
    by_perturbation: dict[str, list[Effects]] = {}
    for part in parts:
        if part.unit == "head":
            by_perturbation.setdefault(part.perturbation, []).append(part)
    if not by_perturbation:
        msg = "the effects hold no head. Add the unit head to the sweep and run dvc repro ablate."
        raise TableError(msg)
    return by_perturbation
