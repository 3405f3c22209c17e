"""Parquet, a batch of rows at a time; folders ``key=value`` are columns too."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from stages.base.errors import AtlasError
from stages.inputs.formats import coded
from stages.inputs.formats.wanted import Wanted

ROWS_AT_ONCE = 1 << 18


def pieces(path: Path, wanted: Wanted) -> Iterator[pd.DataFrame]:
    """Yield the columns as categories of text.

    Raises
    ------
    AtlasError
        A column is missing, or holds lists or records.
    """
    # Text is read as the codes and the dictionary that the file keeps; other columns as they are.
    reading = ds.ParquetReadOptions(dictionary_columns=wanted.columns)
    table = ds.dataset(path, format=ds.ParquetFileFormat(reading), partitioning="hive")
    wanted.require(path, table.schema.names)
    for column in wanted.columns:
        if pa.types.is_nested(kind := table.schema.field(column).type):
            msg = f"column {column} of {path} holds {kind}: one value a cell is read. Write text."
            raise AtlasError(msg)
    # What is read before it is asked for takes memory and saves no time: whoever counts the rows is
    # slower than whoever reads them.
    rows = table.scanner(
        columns=wanted.columns,
        batch_size=ROWS_AT_ONCE,
        batch_readahead=1,
        use_threads=False,
        fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=False),
    )
    yield from coded.frames(rows.projected_schema, rows.to_batches())
