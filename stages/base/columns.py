"""The kinds of columns that schemas are made of."""

from typing import Any

import pandas as pd
import pandera.pandas as pa
from pandera import dtypes
from pandera.engines import pandas_engine


@pandas_engine.Engine.register_dtype
@dtypes.immutable
class Text(pandas_engine.NpString):
    """Text as pandera has it, which is not asked of a column that is text already.

    pandera converts each element, looks at it, and writes a message of no fault, which takes most
    of the time of reading a small table.
    """

    def coerce(self, data_container: Any) -> Any:
        """Return the elements as text; missing ones stay so."""
        return data_container if _is_text(data_container) else super().coerce(data_container)

    def check(self, pandera_dtype: Any, data_container: Any = None) -> Any:
        """Return whether all elements are text or missing, or which of them are."""
        known = data_container is not None and _is_text(data_container)
        return known or super().check(pandera_dtype, data_container)


def _is_text(column: Any) -> bool:
    return column.dtype == object and pd.api.types.infer_dtype(column) in ("string", "empty")


def text(*, nullable: bool = False, isin: tuple[str, ...] | None = None) -> pa.Column:
    """Return a column of text."""
    return pa.Column(Text, pa.Check.isin(isin) if isin else None, nullable=nullable, coerce=True)


def number(
    low: float | None = None, high: float | None = None, *, nullable: bool = False
) -> pa.Column:
    """Return a column of numbers in [`low`, `high`]."""
    checks = []
    if low is not None:
        checks.append(pa.Check.ge(low))
    if high is not None:
        checks.append(pa.Check.le(high))
    return pa.Column(float, checks, nullable=nullable, coerce=True)


def count(low: int = 0) -> pa.Column:
    """Return a column of whole numbers, `low` at least."""
    return pa.Column(int, pa.Check.ge(low), coerce=True)


def optional_count() -> pa.Column:
    """Return a column of whole numbers that not every row has."""
    return pa.Column("Int64", pa.Check.ge(0), nullable=True, coerce=True)


def flag() -> pa.Column:
    """Return a column of yes and no."""
    return pa.Column(bool, coerce=True)


def schema(name: str, columns: dict[str, pa.Column], unique: list[str]) -> pa.DataFrameSchema:
    """Return a schema: these columns and no other, in this order; rows differ in `unique`."""
    return pa.DataFrameSchema(columns, name=name, strict=True, ordered=True, unique=unique)
