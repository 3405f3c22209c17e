"""Columns of text as codes and the few texts that they stand for."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa


def frames(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[pd.DataFrame]:
    """Yield batches of Arrow as categories of text, whatever the values were.

    The first frame has no rows: a table without cells has its columns.
    """
    yield _frame(pa.RecordBatch.from_pylist([], schema))
    for batch in batches:
        yield _frame(batch)


def _frame(batch: pa.RecordBatch) -> pd.DataFrame:
    return pd.DataFrame({name: _coded(batch.column(name)) for name in batch.schema.names})


def _coded(values: pa.Array) -> pd.Categorical:
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    texts = np.array([_text(value) for value in values.dictionary.to_pylist()], dtype=object)
    # A dictionary may hold a text twice, or the missing value, whose code becomes -1.
    codes, distinct = pd.factorize(texts)
    indices = values.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
    return pd.Categorical.from_codes(np.append(codes, -1)[indices], distinct)


def _text(value: object) -> str | None:
    if pd.isna(value):
        return None
    return value.decode() if isinstance(value, bytes) else str(value)
