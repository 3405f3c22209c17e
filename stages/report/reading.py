"""Read the tables of the study: the one place where the report knows their files."""

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
from stages.cells.tables.restriction import CALORIC_RESTRICTION, RESTRICTION_TESTS
from stages.cells.tables.stability import STABILITY
from stages.cells.tables.substates import SUBSTATES_NOT_COMPARED
from stages.heads.figures.heads import perturbation
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
    CALORIC_RESTRICTION,
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
    RESTRICTION_TESTS,
    SAMPLES,
    STABILITY,
    SUBSTATES_NOT_COMPARED,
)
SCHEMAS = {schema.name: schema for schema in _BY_SCHEMA} | dict.fromkeys(
    ("kidney", "kimmel", "substates"), CLUSTER_AGING
)
"""Of each table that the text reads, by the name of its file."""


class Tables:
    """The tables of a folder, by the names of their files; each is read once, when it is needed.

    Raises
    ------
    TableError
        A table is missing, or not as its schema says.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getattr__(self, name: str) -> pd.DataFrame:
        """Read and check a table."""
        if name not in SCHEMAS:
            raise AttributeError(name)
        table = tables.read(self._folder / f"{name}.csv", SCHEMAS[name])
        setattr(self, name, table)
        return table


def along_training(found: Tables) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the concentration of the heads' effects at every checkpoint, and its change.

    Both are by metric, of the way of removal that the text is about, and end an interval over
    sequences and over heads with ``_low`` and ``_high``.
    """
    shown = perturbation(found.head_trajectory)
    trajectory, change = (
        table[table["perturbation"] == shown]
        for table in (found.head_trajectory, found.head_change)
    )
    return trajectory, change
