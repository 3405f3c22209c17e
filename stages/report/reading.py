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
from stages.heads.tables.trajectory import HEAD_CHANGE, HEAD_TRAJECTORY
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
    HEAD_CHANGE,
    HEAD_CLASSES,
    HEAD_CONTROL_VARIATE,
    HEAD_DISTRIBUTION,
    HEAD_GRANULARITY,
    HEAD_IMPORTANCE,
    HEAD_SCREEN,
    HEAD_TRAJECTORY,
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
    return {name: tables.read(path(name, folder), SCHEMAS[name]) for name in names}
