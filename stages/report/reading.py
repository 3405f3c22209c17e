"""Read the tables that a part of the text rests on, all at once."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import pandas as pd
from pandera.pandas import DataFrameSchema

from stages.base import tables

NONE: Mapping[str, DataFrameSchema] = MappingProxyType({})


def read_all(
    names: Iterable[str], folder: Path, schemas: Mapping[str, DataFrameSchema] = NONE
) -> dict[str, pd.DataFrame]:
    """Read and check tables by name.

    Parameters
    ----------
    names
        Of the tables: each that of its file and, in capitals, of its schema.
    folder
        Of the tables.
    schemas
        Those that bear another name, by table.

    Returns
    -------
    dict of DataFrame
        In the order of `names`.

    Raises
    ------
    TableError
        A table is missing, or not as its schema says.
    """
    return {
        name: tables.read(
            folder / f"{name}.csv",
            schemas[name] if name in schemas else getattr(tables, name.upper()),
        )
        for name in names
    }
