"""Read what was measured of all systems, and place it in the plane of both metrics.

A series (a tissue, the heads of a model) is a path of states; its vectors are each state minus the
first. On the *raw* scales the axes are Gini and effective number. On the *corrected* scales they
are the Gini coefficient times n / (n - 1) and the effective number over n, n being the number of
components: 384 heads and 15 cell types have no effective number in common, while both corrected
axes run from 0 to 1. Directions on the raw scales depend on the units of the axes and are given for
completeness; the statement rests on the corrected ones.

Gini and effective number almost mirror each other: the plane of both is nearly a line. On the
*shape* scales the second axis is the effective excess, which is what the effective number over n
says beside the Gini coefficient: the difference from that of a lognormal distribution of the same
Gini (:func:`stages.measurement.metrics.lognormal_share`). It is negative where inequality lies at
the ends, a few components that hold much or many that hold next to nothing, and positive where it
goes by degrees: the entropy minds the ends, the Gini coefficient the middle.
:mod:`stages.plane.axes` shows why this second axis and no other.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from stages.base import cli, tables
from stages.base.errors import TableError
from stages.measurement.metrics import lognormal_share
from stages.measurement.tables import CHANGES, MEASURED, SERIES
from stages.plane.directions import Floats
from stages.plane.settings import Plane
from stages.plane.tables import RESAMPLED, SCALES

KEY = list(SERIES)
AXES = ("d_gini", "d_effective")


class System(NamedTuple):
    """What was measured of one system."""

    measured: pd.DataFrame
    changes: pd.DataFrame
    draws: pd.DataFrame


@dataclass(frozen=True)
class Trail:
    """One series on one scale: its states as points (Gini, effective number) of the plane."""

    key: tuple[str, str, str, str]
    """System, group, series, condition."""
    scale: str
    states: list[str]
    positions: list[float]
    values: Floats  # (n_states, 2)
    draws: dict[str, Floats]
    """By what is resampled: (n_states, n_draws, 2)."""
    permuted: Floats | None
    """Vectors first to last of exchanged replicates, (n, 2), where that can be done."""
    ends: dict[tuple[str, str], Floats]
    """Intervals of the vectors by bootstrap and state: rows low, high; (2, 2)."""
    noise: list[float]
    """Share of noise in each state; nan where absolute values play no part."""
    n: list[int]
    """Replicates of each state."""

    @property
    def vector(self) -> Floats:
        """From the first state to the last, of shape (2,)."""
        change: Floats = self.values[-1] - self.values[0]
        return change

    def is_mirrored(self, bootstrap: str) -> bool:
        """Whether an interval is the hull of the draws' and its mirror image.

        Absolute values make noise count (:mod:`stages.measurement.measured`); where they play no
        part there is no share of noise.
        """
        return bootstrap == "replicates" and not math.isnan(self.noise[0])

    @property
    def is_complete(self) -> bool:
        """Whether `permuted` holds every arrangement."""
        return self.permuted is None or len(self.permuted) == math.comb(
            self.n[0] + self.n[-1], self.n[-1]
        )


def read(names: Sequence[str], measured: Path, changes: Path, draws: Path) -> dict[str, System]:
    """Read what was measured of these systems.

    The names come from the settings; a table of another system is refused.

    Raises
    ------
    TableError
        A table is missing or superfluous.
    """
    if extra := sorted(path.name for path in measured.glob("*.csv") if path.stem not in names):
        msg = (
            f"{measured} holds {', '.join(extra)}, which the settings name neither under systems "
            "nor under plane.beside. Remove the file, or name its system."
        )
        raise TableError(msg)
    return {
        name: System(
            tables.read(measured / f"{name}.csv", MEASURED),
            tables.read(changes / f"{name}.csv", CHANGES),
            pd.read_parquet(draws / f"{name}.parquet"),
        )
        for name in names
    }


def trails(
    systems: dict[str, System],
    settings: Plane,
    *,
    untrained: Mapping[str, str | None] = MappingProxyType({}),
) -> list[Trail]:
    """Return the path of every series with two states that have a place, on all scales.

    Parameters
    ----------
    untrained
        By system the state that has learnt nothing: no path begins there.
    """
    found = []
    for name, system in systems.items():
        learnt = system.measured["state"] != untrained.get(name)
        system = system._replace(measured=system.measured[learnt])
        asked = settings.conditions.get(name)
        changes, draws = _by_series(system.changes), _by_series(system.draws)
        for key, rows in system.measured.groupby(KEY, sort=False):
            if asked is not None and key[-1] not in asked:
                continue
            of = System(
                rows,
                changes.get(key[1:], system.changes.iloc[:0]),
                draws.get(key[1:], system.draws.iloc[:0]),
            )
            for scale in SCALES:
                if (trail := _trail(key, of, scale)) is not None:
                    found.append(trail)
    return found


def training_vectors(trainings: pd.DataFrame, reference: Trail) -> Floats:
    """Return the vectors of independent trainings between the states of `reference`.

    Parameters
    ----------
    trainings
        ``HEAD_SEEDS``; absolute effects as they were measured count, of models trained here.

    Returns
    -------
    array of shape (n_trainings, 2)
        Of the trainings that have a place in both states.
    """
    rows = trainings[
        (trainings["effects"] == "absolute")
        & (trainings["estimator"] == "plug_in")
        & trainings["seed"].notna()
    ]
    wide = rows.pivot(index=["seed", "state", "n_heads"], columns="metric", values="value")
    n = wide.index.get_level_values("n_heads").to_numpy(float)
    gini, number = wide["gini"].to_numpy(float), wide["effective_number"].to_numpy(float)
    known = {
        "gini": gini,
        "gini_corrected": gini * n / (n - 1),
        "effective_number": number,
        "effective_share": number / n,
        "effective_excess": number / n - lognormal_share(gini),
    }
    places = pd.DataFrame(
        {axis: known[metric] for axis, metric in zip(AXES, SCALES[reference.scale], strict=True)},
        wide.index.droplevel("n_heads"),
    ).unstack("state")
    first, last = (
        places.reindex(columns=[(axis, state) for axis in AXES]).to_numpy(float)
        for state in (reference.states[0], reference.states[-1])
    )
    vectors: Floats = last - first
    return vectors[np.isfinite(vectors).all(axis=1)]


def _by_series(table: pd.DataFrame) -> dict[tuple[str, ...], pd.DataFrame]:
    return dict(list(table.groupby(KEY[1:], sort=False)))


def _trail(key: tuple[str, str, str, str], of: System, scale: str) -> Trail | None:
    """Return the path of a series from the rows of its own."""
    rows, drawn = of.measured, of.draws
    metrics = list(SCALES[scale])
    states = list(dict.fromkeys(rows["state"]))
    wide = rows.pivot(index="state", columns="metric", values="value").reindex(states)
    if not set(metrics) <= set(wide.columns):
        return None
    # A state without any effect has no concentration, and no place.
    placed = [state for state in states if np.isfinite(wide.loc[state, metrics]).all()]
    if len(placed) < 2:
        cli.log.info(
            "%s has no vector on the %s scales: %d of %d states have a place, 2 are needed",
            " ".join(key),
            scale,
            len(placed),
            len(states),
        )
        return None
    facts = rows[rows["metric"] == metrics[0]].set_index("state").loc[placed]
    resampled = {
        sampling: _draws(drawn[drawn["sampling"] == sampling], placed, metrics)
        for sampling in RESAMPLED
        if (drawn["sampling"] == sampling).any()
    }
    exchanged = drawn[drawn["sampling"] == "permuted"]
    permuted = None
    if len(exchanged):
        first, last = _draws(exchanged, [placed[0], placed[-1]], metrics)
        permuted = last - first
    return Trail(
        key=key,
        scale=scale,
        states=placed,
        positions=facts["position"].tolist(),
        values=wide.loc[placed, metrics].to_numpy(float),
        draws=resampled,
        permuted=permuted,
        ends=_ends(of.changes, placed, metrics),
        noise=facts["noise_share"].tolist(),
        n=facts["n_replicates"].astype(int).tolist(),
    )


def _draws(drawn: pd.DataFrame, states: Sequence[str], metrics: list[str]) -> Floats:
    """Return the draws of each state, (n_states, n_draws, 2)."""
    return np.stack(
        [
            drawn.loc[drawn["state"] == state].sort_values("draw")[metrics].to_numpy(float)
            for state in states
        ]
    )


def _ends(
    changes: pd.DataFrame, states: list[str], metrics: list[str]
) -> dict[tuple[str, str], Floats]:
    rows = changes[changes["state_first"] == states[0]].set_index(["state_last", "metric"])
    return {
        (sampling, state): np.array(
            [
                [rows.loc[(state, metric), f"{sampling}_{end}"] for metric in metrics]
                for end in ("low", "high")
            ],
            dtype=np.float64,
        )
        for state in states[1:]
        for sampling in RESAMPLED
    }
