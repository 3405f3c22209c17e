"""Read the tables of the study: the one place where the report knows their files."""

from pathlib import Path

import pandas as pd

from stages.base import tables
from stages.cells.tables.aging import AGING
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

_CELLS = (SAMPLES, CONFOUNDING, PROPORTIONS, EXCLUSIONS, AGING, DRIVERS, RECOVERY)
_PLATFORMS = (CONCORDANCE, CONCORDANCE_SUMMARY)
_CLUSTERS = (STABILITY, SUBSTATES_NOT_COMPARED, CALORIC_RESTRICTION, RESTRICTION_TESTS)
_HEADS = (HEAD_IMPORTANCE, HEAD_TRAJECTORY, HEAD_CHANGE, HEAD_CLASSES, HEAD_DISTRIBUTION)
_BESIDE_HEADS = (HEAD_GRANULARITY, HEAD_CONTROL_VARIATE, HEAD_SCREEN, COMPANION_AGREEMENT)
_BOTH = (PLANE, PLANE_DIRECTIONS, CLAIMS)
_ALL = (*_CELLS, *_PLATFORMS, *_CLUSTERS, *_HEADS, *_BESIDE_HEADS, *_BOTH)
SCHEMAS = {schema.name: schema for schema in _ALL} | dict.fromkeys(
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


def along_training(found: Tables, name: str = "head_trajectory") -> pd.DataFrame:
    """Return the concentration of the heads' effects at every checkpoint, or its ``head_change``.

    A row a metric, of the way of removal that the text is about, with the ends of its interval over
    sequences (``sequences_low``, ``sequences_high``) and over heads.
    """
    table: pd.DataFrame = getattr(found, name)
    rows: pd.DataFrame = table[table["perturbation"] == perturbation(table)]
    return rows
