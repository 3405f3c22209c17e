"""Tables as files: checked on write and on read, with every digit, whole or not at all."""

import importlib
import pkgutil
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import pyarrow
import pyarrow.parquet as pq
from pandera.errors import SchemaError, SchemaErrors

from stages.base.errors import TableError
from stages.base.files import atomic_path


def schemas() -> list[pa.DataFrameSchema]:
    """Return the schemas of all rooms: those in a module or package ``tables`` of each."""
    found: dict[str, pa.DataFrameSchema] = {}
    for room in pkgutil.iter_modules([str(Path(__file__).parents[1])], "stages."):
        folder = Path(__file__).parents[1] / room.name.rpartition(".")[2] / "tables"
        if room.name == "stages.base" or not (
            folder.is_dir() or folder.with_suffix(".py").exists()
        ):
            continue
        inside = [part.name for part in pkgutil.iter_modules([str(folder)], f"{room.name}.tables.")]
        for name in inside or [f"{room.name}.tables"]:
            held = vars(importlib.import_module(name)).values()
            found |= {one.name: one for one in held if isinstance(one, pa.DataFrameSchema)}
    return [found[name] for name in sorted(found)]


def write(table: pd.DataFrame, schema: pa.DataFrameSchema, path: Path) -> None:
    """Check `table` and write it as CSV with 17 significant digits, atomically.

    Raises
    ------
    TableError
        The table does not follow its schema.
    """
    checked = _check(table, schema, f"the {schema.name} table to be written to {path}")
    with atomic_path(path) as temporary:
        checked.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")


def read(path: Path, schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Read a CSV written by :func:`write` and check it.

    Raises
    ------
    TableError
        The file is missing, is no CSV, or does not follow its schema.
    """
    text = {name: "str" for name, column in schema.columns.items() if str(column.dtype) == "str"}
    try:
        # Only an empty field is missing: "nan" and "NA" are names that real atlases use.
        table = pd.read_csv(
            path,
            dtype=text,
            keep_default_na=False,
            na_values=[""],
            # The default parser may miss the last digit.
            float_precision="round_trip",
            encoding="utf-8",
        )
    except FileNotFoundError:
        msg = (
            f"the {schema.name} table {path} does not exist. "
            "Run the stage that writes it: dvc repro."
        )
        raise TableError(msg) from None
    except (
        pd.errors.EmptyDataError,
        pd.errors.ParserError,
        UnicodeDecodeError,
        ValueError,
    ) as error:
        msg = (
            f"{path} is not a readable CSV of the {schema.name} table "
            f"({' '.join(str(error).split())}). Remove it and run dvc repro."
        )
        raise TableError(msg) from None
    return _check(table, schema, f"the {schema.name} table {path}")


def empty(schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Return a table of `schema` without rows."""
    return pd.DataFrame(
        {name: pd.Series(dtype=str(column.dtype)) for name, column in schema.columns.items()}
    )


def _check(table: pd.DataFrame, schema: pa.DataFrameSchema, where: str) -> pd.DataFrame:
    fault = _columns_fault(list(table.columns), list(schema.columns))
    if not fault:
        try:
            return schema.validate(table)
        except SchemaError as error:
            fault = _reason(error)
        except SchemaErrors as errors:
            fault = _reason(errors.schema_errors[0])
    msg = (
        f"{where} does not follow its schema: {fault}. "
        "Mend the stage that writes it, then run dvc repro."
    )
    raise TableError(msg)


def _columns_fault(found: list[str], expected: list[str]) -> str:
    missing = [name for name in expected if name not in found]
    extra = [str(name) for name in found if name not in expected]
    if missing:
        return f"it has no column {', '.join(missing)}"
    if extra:
        return f"it has the unknown column {', '.join(extra)}"
    return "" if found == expected else f"its columns are not in the order {', '.join(expected)}"


def _reason(error: SchemaError) -> str:
    """Say in one line what is wrong, with the column and the first bad value."""
    cases = error.failure_cases
    column = getattr(error.schema, "name", None)
    if isinstance(cases, pd.DataFrame) and "failure_case" in cases and not cases.empty:
        first = cases["failure_case"].iloc[0]
        shown = first.item() if hasattr(first, "item") else first
        return f"column {column}, value {shown!r} ({error.check})"
    return " ".join(str(error).split())[:300]


def write_parquet(
    table: pd.DataFrame, schema: pa.DataFrameSchema, path: Path, *, metadata: dict[str, str]
) -> None:
    """Check `table` and write it as Parquet, atomically; the same content makes the same bytes.

    Raises
    ------
    TableError
        The table does not follow its schema.
    """
    checked = _check(table, schema, f"the {schema.name} table to be written to {path}")
    arrow = pyarrow.Table.from_pandas(checked, preserve_index=False)
    with atomic_path(path) as temporary:
        pq.write_table(arrow.replace_schema_metadata(metadata), temporary, compression="zstd")


def read_parquet(path: Path, schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Read a Parquet table and check it.

    Raises
    ------
    TableError
        The file is missing, is no Parquet, or does not follow its schema.
    """
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        msg = (
            f"the {schema.name} table {path} does not exist. "
            "Run the stage that writes it: dvc repro."
        )
        raise TableError(msg) from None
    except (OSError, ValueError) as error:
        msg = (
            f"{path} is not a readable Parquet file of the {schema.name} table "
            f"({' '.join(str(error).split())}). Remove it and run dvc repro."
        )
        raise TableError(msg) from None
    return _check(table, schema, f"the {schema.name} table {path}")
