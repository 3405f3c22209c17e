"""Hold what the stages of this room share: all counts, the sample key, and counts as matrices."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import tables
from stages.base.errors import AtlasError
from stages.inputs.tables import COUNTS

TISSUE = ["cohort", "platform", "tissue"]
WHO = ["sex", "block", "age_months", "condition", "group"]
"""What is known of a sample beyond its name."""
SAMPLE = [*TISSUE, "animal", *WHO]
# An interval over animals needs at least two of them in each group.
MIN_ANIMALS = 2


def read_all(folder: Path, names: Sequence[str]) -> pd.DataFrame:
    """Read the counts of the named files.

    The list comes from the settings, never from the folder; a file that the settings do not name is
    refused, since it is left over from other settings and would be part of what DVC takes the
    inputs to be.

    Raises
    ------
    AtlasError
        The folder holds a file too many, or two files hold the same sample.
    TableError
        A file is missing or does not follow its schema.
    """
    if extra := sorted(path.name for path in folder.glob("*.csv") if path.stem not in names):
        msg = (
            f"{folder} holds {', '.join(extra)}, which atlas.cells does not name "
            f"(it names {', '.join(names)}): left over from other settings. "
            "Delete it, or add it to conf/atlas/."
        )
        raise AtlasError(msg)
    parts = [tables.read(folder / f"{name}.csv", COUNTS) for name in names]
    merged = pd.concat(parts, ignore_index=True)
    key = ["cohort", "platform", "tissue", "animal", "cell_type"]
    twice = merged[merged.duplicated(key, keep=False)]
    if not twice.empty:
        first = twice.iloc[0]
        msg = (
            f"{len(twice)} samples stand in more than one file, the first is "
            f"{first['cohort']} {first['platform']} {first['tissue']} animal {first['animal']}: "
            "their cells would count twice. "
            "Give the files different cohorts or platforms, or drop one from atlas.cells."
        )
        raise AtlasError(msg)
    return merged


def is_pooled(animals: pd.Series, pattern: str) -> pd.Series:
    """Say which labels name several animals."""
    return animals.str.contains(pattern, regex=True)


class Matrix(NamedTuple):
    """Counts of one tissue: samples by cell types."""

    samples: pd.DataFrame
    types: list[str]
    counts: NDArray[np.float64]  # (n_samples, n_types)


def matrix(proportions: pd.DataFrame) -> Matrix:
    """Return the counts of the samples in `proportions`, which hold one tissue.

    Absent types count zero; the order of samples and types is stable.
    """
    row, animals = pd.factorize(proportions["animal"], sort=True)
    column, types = pd.factorize(proportions["cell_type"], sort=True)
    matrix = np.zeros((len(animals), len(types)))
    np.add.at(matrix, (row, column), proportions["n_cells"].to_numpy(float))
    samples = proportions[SAMPLE].drop_duplicates("animal").sort_values("animal", ignore_index=True)
    return Matrix(samples, [str(name) for name in types], matrix)
