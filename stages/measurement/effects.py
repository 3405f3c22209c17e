"""The one table: what each component of a system does, in one state, on every replicate.

A system (heads of a model, pairs of them, features, directions) writes it and knows nothing of
Gini; measurement reads it and knows nothing of heads. One Parquet file holds one state; in it, for
every kind of component and every condition (how a component was removed), the effect of each
component on each replicate, signed, in one unit. A replicate is what was sampled independently: a
sequence, a cell, an animal. What is known of a component stands in columns of its own, the same in
all its rows; one of them may be declared the *exposure*, that which alone could explain a large
effect. Where a removal is itself random, `draw` counts its repeats.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.base.errors import TableError
from stages.base.files import atomic_path

Floats = NDArray[np.float64]

_COLUMNS = {
    "kind": pa.string(),
    "condition": pa.string(),
    "component": pa.string(),
    "draw": pa.int64(),
    "replicate": pa.int64(),
    "baseline": pa.float64(),
    "effect": pa.float64(),
}
MIN_REPLICATES = 2
"""Fewer have no standard error, no interval and no floor."""
_KEY = ["kind", "condition", "component", "draw", "replicate"]
_FACTS = ("system", "state", "position", "unit", "exposure")


@dataclass(frozen=True)
class State:
    """A state of a system, as its file names it."""

    system: str
    name: str
    """Such as ``step512``: that of its file."""
    position: float
    """Along the axis of the states; nan where the name alone says where it stands."""
    unit: str
    """Of the effects."""
    exposure: str | None = None
    """The attribute that alone could explain a large effect, if one is declared."""


@dataclass(frozen=True)
class Effects:
    """Effects of the components of one kind under one condition, in one state."""

    state: State
    kind: str
    condition: str
    components: pd.DataFrame
    """Free attributes, indexed by the names of the components, in the order of the arrays."""
    replicates: NDArray[np.int64]
    """Numbers of the replicates, ascending: (n_replicates,)."""
    draws: Floats
    """Effect by draw, replicate and component: (n_draws, n_replicates, n_components)."""
    baseline: Floats | None = None
    """The intact system's value on each replicate, in the same unit: (n_replicates,)."""

    @property
    def values(self) -> Floats:
        """Effects averaged over draws, of shape (n_replicates, n_components)."""
        mean: Floats = self.draws.mean(axis=0)
        return mean

    @property
    def n_replicates(self) -> int:
        """Number of replicates that the effects are means over."""
        return int(self.draws.shape[1])

    @property
    def exposure(self) -> Floats | None:
        """The declared exposure of each component, or None."""
        name = self.state.exposure
        if name is None or name not in self.components:
            return None
        known: Floats = self.components[name].to_numpy(float)
        return known

    @property
    def label(self) -> str:
        """State, kind and condition as an error says them."""
        return f"{self.state.name}, {self.kind} {self.condition}"


def write(
    path: Path, parts: Sequence[Effects], *, provenance: Mapping[str, str] | None = None
) -> None:
    """Write the effects of one state, atomically; the same content makes the same bytes.

    Parameters
    ----------
    parts
        All of one state; each pair of kind and condition once.
    provenance
        What else the file should say of where it comes from.

    Raises
    ------
    TableError
        The parts are not of one state.
    """
    states = {part.state for part in parts}
    if len(states) != 1:
        msg = f"{path} was to hold the effects of {len(states)} states; a file holds those of one."
        raise TableError(msg)
    (state,) = states
    ordered = sorted(parts, key=lambda part: (part.kind, part.condition))
    table = pa.concat_tables([_rows(part) for part in ordered], promote_options="default")
    table = table.sort_by([(name, "ascending") for name in _KEY])
    facts = {
        "system": state.system,
        "state": state.name,
        "position": repr(state.position),
        "unit": state.unit,
        "exposure": state.exposure or "",
    }
    with atomic_path(path) as temporary:
        pq.write_table(
            table.replace_schema_metadata(dict(provenance or {}) | facts),
            temporary,
            compression="zstd",
        )


def _rows(part: Effects) -> pa.Table:
    n_draws, n_replicates, n_components = part.draws.shape
    draw, replicate, component = (
        index.ravel() for index in np.indices((n_draws, n_replicates, n_components))
    )
    baseline = np.full(n_replicates, np.nan) if part.baseline is None else part.baseline
    columns = {
        "kind": pa.array([part.kind] * draw.size, pa.string()),
        "condition": pa.array([part.condition] * draw.size, pa.string()),
        "component": pa.array(part.components.index.to_numpy(str)[component], pa.string()),
        "draw": pa.array(draw, pa.int64()),
        "replicate": pa.array(part.replicates[replicate], pa.int64()),
        "baseline": pa.array(baseline[replicate], pa.float64()),
        "effect": pa.array(part.draws.ravel(), pa.float64()),
    }
    for name in part.components:
        columns[name] = pa.array(part.components[name].to_numpy()[component], from_pandas=True)
    return pa.table(columns)


def provenance(path: Path) -> dict[str, str]:
    """Return what the writer of a file said of where it comes from."""
    kept = pq.read_schema(path).metadata or {}
    return {
        key.decode(): value.decode()
        for key, value in kept.items()
        if key.decode() not in _FACTS and not key.startswith(b"ARROW")
    }


def read_states(folder: Path, states: Sequence[str], *, paired: bool = True) -> list[Effects]:
    """Read the effects of these states, in their order, by kind and condition within a state.

    The states come from the settings, never from what lies in the folder: a file of a state that
    is no longer listed is refused, and so is a listed one without a file.

    Parameters
    ----------
    folder
        Holds ``<state>.parquet`` for each of `states` and for no other.
    states
        Their names, in order. Where one has no position of its own, they all get their places in
        this list, from 0, as positions.
    paired
        Whether all states must have the very same replicates, as many of them otherwise.

    Raises
    ------
    TableError
        A file is missing, superfluous, damaged or incomplete, or the files do not fit together.
    """
    expected = [f"{state}.parquet" for state in states]
    found = sorted(path.name for path in folder.glob("*.parquet")) if folder.is_dir() else []
    if missing := [name for name in expected if name not in found]:
        msg = (
            f"{folder} has no {', '.join(missing)}: every state of the settings needs its effects. "
            "Run dvc repro."
        )
        raise TableError(msg)
    if extra := [name for name in found if name not in expected]:
        msg = (
            f"{folder} holds {', '.join(extra)}, which the settings do not list. "
            "Remove the file or list its state."
        )
        raise TableError(msg)
    parts = []
    for state, name in zip(states, expected, strict=True):
        of_state = read(folder / name)
        if of_state[0].state.name != state:
            msg = (
                f"{folder / name} holds effects of {of_state[0].state.name}, not of {state}. "
                "Make it again."
            )
            raise TableError(msg)
        parts += of_state
    check_same(parts, paired=paired)
    if any(math.isnan(part.state.position) for part in parts):
        parts = [
            replace(part, state=replace(part.state, position=float(states.index(part.state.name))))
            for part in parts
        ]
    return parts


def read(path: Path) -> list[Effects]:
    """Read and check the effects of one state, by kind and condition.

    Raises
    ------
    TableError
        The file is missing, is no table of effects, or holds what cannot be.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        msg = f"the effects {path} do not exist. Run the stage that writes them: dvc repro."
        raise TableError(msg) from None
    except (OSError, ValueError) as error:
        msg = (
            f"{path} is not a readable Parquet file of effects ({' '.join(str(error).split())}). "
            "Remove it and run dvc repro."
        )
        raise TableError(msg) from None
    if missing := [name for name in _COLUMNS if name not in table.column_names]:
        msg = f"the effects {path} have no column {', '.join(missing)}. Make them again."
        raise TableError(msg)
    metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    if missing := [name for name in _FACTS if name not in metadata]:
        msg = f"the effects {path} do not say their {', '.join(missing)}. Make them again."
        raise TableError(msg)
    state = State(
        system=metadata["system"],
        name=metadata["state"],
        position=float(metadata["position"]),
        unit=metadata["unit"],
        exposure=metadata["exposure"] or None,
    )
    rows = table.to_pandas()
    # An attribute that only some kinds have is read with gaps, and whole numbers as others.
    whole = {field.name for field in table.schema if pa.types.is_integer(field.type)}
    if rows.empty:
        msg = f"{path} holds no effects. Remove it and run dvc repro."
        raise TableError(msg)
    bad = ~np.isfinite(rows["effect"].to_numpy(float))
    if bad.any():
        row = rows[bad].iloc[0]
        msg = (
            f"{path} holds {row['effect']} as an effect ({row['component']}, replicate "
            f"{row['replicate']}): only finite effects are allowed. Find out what made it, and "
            "run dvc repro."
        )
        raise TableError(msg)
    return [
        _array(part, state, str(kind), str(condition), whole, path)
        for (kind, condition), part in rows.groupby(["kind", "condition"], sort=True)
    ]


def _array(
    rows: pd.DataFrame, state: State, kind: str, condition: str, whole: set[str], path: Path
) -> Effects:
    """Arrange the rows of one kind and condition; each cell of the grid must be there once."""
    where = f"{path}, {kind} {condition}"
    free = [name for name in rows if name not in _COLUMNS and rows[name].notna().any()]
    known = rows[["component", *free]].drop_duplicates()
    known = known.astype({name: np.int64 for name in free if name in whole})
    if known["component"].duplicated().any():
        twice = known.loc[known["component"].duplicated(), "component"].iloc[0]
        msg = f"{where}: {twice} has several values of one attribute. Make it again."
        raise TableError(msg)
    # By their attributes, so that L10 follows L9; those of equal ones by name.
    components = known.sort_values([*free, "component"]).set_index("component")
    draws, replicates = np.unique(rows["draw"]), np.unique(rows["replicate"])
    shape = (len(draws), len(replicates), len(components))
    at = (
        np.searchsorted(draws, rows["draw"]),
        np.searchsorted(replicates, rows["replicate"]),
        components.index.get_indexer(rows["component"]),
    )
    values = np.full(shape, np.nan)
    values[at] = rows["effect"].to_numpy(float)
    if len(rows) != values.size or np.isnan(values).any():
        msg = (
            f"{where}: {len(rows)} rows are not {shape[0]} draws x {shape[1]} replicates x "
            f"{shape[2]} components, each once; every component is measured on every replicate. "
            "Make it again."
        )
        raise TableError(msg)
    base = rows.groupby("replicate")["baseline"]
    if (base.nunique() > 1).any():
        msg = f"{where}: a replicate has several baselines; one is allowed. Make it again."
        raise TableError(msg)
    baseline = base.first().to_numpy(float)
    return Effects(
        state=state,
        kind=kind,
        condition=condition,
        components=components,
        replicates=replicates.astype(np.int64),
        draws=values,
        baseline=None if np.isnan(baseline).all() else baseline,
    )


def check_same(parts: Sequence[Effects], *, paired: bool) -> None:
    """Check that each kind and condition has the same components and replicates in every state.

    Raises
    ------
    TableError
        The first state that differs from the first one.
    """
    states = list(dict.fromkeys(part.state.name for part in parts))
    first: dict[tuple[str, str], Effects] = {}
    for part in parts:
        reference = first.setdefault((part.kind, part.condition), part)
        same = (
            part.draws.shape == reference.draws.shape
            and (not paired or np.array_equal(part.replicates, reference.replicates))
            and part.components.index.equals(reference.components.index)
        )
        if not same:
            msg = (
                f"{part.label} was measured on {part.n_replicates} replicates and "
                f"{len(part.components)} components, {reference.state.name} on "
                f"{reference.n_replicates} and {len(reference.components)}, or on others; all "
                "states need the same. Run dvc repro."
            )
            raise TableError(msg)
    for (kind, condition), reference in first.items():
        having = {p.state.name for p in parts if (p.kind, p.condition) == (kind, condition)}
        if lacking := [state for state in states if state not in having]:
            msg = (
                f"{kind} {condition} was measured at {reference.state.name} but not at "
                f"{lacking[0]}; all states need the same. Run dvc repro."
            )
            raise TableError(msg)


def series(
    parts: Iterable[Effects], kinds: Sequence[str] = ()
) -> dict[tuple[str, str], list[Effects]]:
    """Return the effects by kind and condition, each a list over states.

    Parameters
    ----------
    kinds
        Only these kinds; empty: all.
    """
    found: dict[tuple[str, str], list[Effects]] = {}
    for part in parts:
        if not kinds or part.kind in kinds:
            found.setdefault((part.kind, part.condition), []).append(part)
    return found
