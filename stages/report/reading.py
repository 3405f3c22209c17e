"""Read the tables that a part of the text rests on, all at once."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from stages.base import tables
from stages.cells.tables.aging import AGING, NOT_COMPARED
from stages.cells.tables.clusters import CLUSTER_AGING
from stages.cells.tables.concordance import CONCORDANCE, CONCORDANCE_SUMMARY
from stages.cells.tables.describe import CONFOUNDING, SAMPLES
from stages.cells.tables.drivers import DRIVERS
from stages.cells.tables.proportions import EXCLUSIONS, PROPORTIONS
from stages.cells.tables.recovery import RECOVERY
from stages.cells.tables.restriction import RESTRICTION, RESTRICTION_TESTS
from stages.cells.tables.stability import STABILITY
from stages.cells.tables.substates import SUBSTATES_NOT_COMPARED
from stages.heads.tables.attribution import HEAD_CONTROL_VARIATE, HEAD_SCREEN
from stages.heads.tables.classes import HEAD_CLASSES
from stages.heads.tables.companion import COMPANION_AGREEMENT
from stages.heads.tables.distribution import HEAD_DISTRIBUTION, HEAD_GRANULARITY
from stages.heads.tables.importance import HEAD_IMPORTANCE
from stages.measurement.tables import CHANGES, MEASURED
from stages.plane.tables import PLANE, PLANE_DIRECTIONS
from stages.report.tables import CLAIMS

_BY_SCHEMA = (
    AGING,
    CLAIMS,
    COMPANION_AGREEMENT,
    CONCORDANCE,
    CONCORDANCE_SUMMARY,
    CONFOUNDING,
    DRIVERS,
    EXCLUSIONS,
    HEAD_CLASSES,
    HEAD_CONTROL_VARIATE,
    HEAD_DISTRIBUTION,
    HEAD_GRANULARITY,
    HEAD_IMPORTANCE,
    HEAD_SCREEN,
    NOT_COMPARED,
    PLANE,
    PLANE_DIRECTIONS,
    PROPORTIONS,
    RECOVERY,
    RESTRICTION,
    RESTRICTION_TESTS,
    SAMPLES,
    STABILITY,
    SUBSTATES_NOT_COMPARED,
)
SCHEMAS = {schema.name: schema for schema in _BY_SCHEMA} | dict.fromkeys(
    ("kidney", "kimmel", "substates"), CLUSTER_AGING
)
"""Of each table that the text reads, by the name that it has there."""

_FILES = {"kidney": "granularity_curve", "kimmel": "granularity_replication"}
"""Of the tables that the text calls otherwise than their files."""


def path(name: str, folder: Path) -> Path:
    """Return the file of a table."""
    return folder / f"{_FILES.get(name, name)}.csv"


OF_HEADS = {
    "condition": "perturbation",
    "n_components": "n_heads",
    "n_replicates": "n_sequences",
    "replicates_low": "sequences_low",
    "replicates_high": "sequences_high",
    "components_low": "heads_low",
    "components_high": "heads_high",
    "baseline": "loss_base",
}
"""What is general in the tables of measurement, in the words of heads: the text's own."""
OF_REFERENCE = {
    "reference_condition": "perturbation",
    "position_first": "step_first",
    "position_last": "step_last",
    "n_states": "n_steps",
    "reference_p_smallest": "checkpoints_p_smallest",
}


def read_all(names: Iterable[str], folder: Path) -> dict[str, pd.DataFrame]:
    """Read and check tables by name, in the order of `names`.

    Parameters
    ----------
    names
        Of the tables: keys of ``SCHEMAS``.
    folder
        Of the tables.

    Raises
    ------
    TableError
        A table is missing, or not as its schema says.
    """
    return {name: _read(name, folder) for name in names}


def _read(name: str, folder: Path) -> pd.DataFrame:
    if name == "head_trajectory":
        along = tables.read(folder / "measured" / "heads.csv", MEASURED)
        along = along[along["series"] == "head"]
        return along.assign(step=along["position"].astype(int)).rename(columns=OF_HEADS)
    if name == "head_change":
        change = tables.read(folder / "changes" / "heads.csv", CHANGES)
        change = change[change["series"] == "head"]
        first, last = change["position_first"].min(), change["position_last"].max()
        ends = (change["position_first"] == first) & (change["position_last"] == last)
        return change[ends].rename(columns=OF_HEADS)
    table = tables.read(path(name, folder), SCHEMAS[name])
    if name == "plane":
        bootstrap = table["bootstrap"].replace({"replicates": "sequences", "components": "heads"})
        table = table.assign(step=table["position"], bootstrap=bootstrap)
        return _with_arms(table[table["system"].isin(("cells", "heads"))])
    if name == "plane_directions":
        return _with_arms(table[table["system"] == "cells"])
    return table


def _with_arms(table: pd.DataFrame) -> pd.DataFrame:
    arm = table["group"].str.split(" ", n=1)
    named = table.assign(cohort=arm.str[0], platform=arm.str[1], tissue=table["series"])
    return named.rename(columns=OF_HEADS if "reference_condition" not in table else OF_REFERENCE)
