"""The kinds of columns that schemas are made of."""

import pandera.pandas as pa


def text(*, nullable: bool = False, isin: tuple[str, ...] | None = None) -> pa.Column:
    """Return a column of text."""
    return pa.Column(str, pa.Check.isin(isin) if isin else None, nullable=nullable, coerce=True)


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
