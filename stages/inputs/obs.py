"""Read columns of a table of cells from whatever layout it has, never the expression matrix.

=====================  ========================================================================
h5ad, anndata >= 0.8   `obs` is an HDF5 group; each wanted column is decoded by ``anndata.io``.
h5ad, anndata 0.7      the same, with the categories under ``obs/__categories``.
h5ad, anndata 0.6      `obs` is one compound dataset whose categorical columns are codes, their
                       names in ``uns/<column>_categories`` or ``uns/__categories/<column>``
                       (Tabula Muris Senis).
CSV, TSV (also gzip)   every value as text; only an empty field is missing.
Parquet                every value as text.
=====================  ========================================================================

The layout is told by the bytes, not by the file's name. Reading a legacy `obs` with a general
reader gives the codes without a word; here a whole number without a category name is an error.
"""

import csv
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from anndata.io import read_elem
from numpy.typing import NDArray

from stages.base.errors import AtlasError

HEAD_BYTES = 512
GZIP_MAGIC = b"\x1f\x8b"
PARQUET_MAGIC = b"PAR1"
MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")
COLUMNS_SHOWN = 40
AGAIN = "Fetch or write it again."


def read_obs(
    path: Path, columns: Sequence[str], *, change: str = "the column names"
) -> pd.DataFrame:
    """Return wanted columns of a table of cells, decoded, in the order of the file.

    Parameters
    ----------
    path
        An h5ad of any layout, a CSV or TSV (also gzipped), or a Parquet file.
    columns
        The columns to read; nothing else is.
    change
        What a person should change when a column is missing; it ends that error.

    Returns
    -------
    DataFrame
        From an h5ad exactly the columns of ``anndata.read_h5ad(path).obs``, categories and their
        order included; from a text table or Parquet, text. The index counts the rows.

    Raises
    ------
    AtlasError
        The file is missing, empty, damaged or something else; a column is missing; or a legacy file
        has codes but not the names that they stand for.
    """
    wanted = list(dict.fromkeys(columns))
    head = _head(path)
    # A reader of any layout fails in its own way on a damaged file; a person needs one line.
    try:
        if h5py.is_hdf5(path):
            return _read_h5ad(path, wanted, change)
        if head.startswith(PARQUET_MAGIC):
            return _read_parquet(path, wanted, change)
        _refuse_other(path, head)
        return _read_text(path, wanted, change)
    except (
        OSError,
        EOFError,
        KeyError,
        RuntimeError,
        ValueError,
        TypeError,
        zlib.error,
        pa.ArrowException,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"{path} is damaged or not a table of cells ({reason}). {AGAIN}"
        raise AtlasError(msg) from None


def _head(path: Path) -> bytes:
    """Return the first bytes of the file, or say why there are none."""
    if not path.exists():
        msg = f"{path} does not exist. Fetch it with dvc repro, or correct atlas.cells.<name>.raw."
        raise AtlasError(msg)
    if path.is_dir():
        msg = f"{path} is a folder, not a table of cells. Give an h5ad, CSV or Parquet file."
        raise AtlasError(msg)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        msg = f"{path} is empty (0 bytes): a download was refused or cut off. {AGAIN}"
        raise AtlasError(msg)
    return head


def _refuse_other(path: Path, head: bytes) -> None:
    """Stop at what is no text table: a web page, a broken h5ad, other binary files."""
    if head.lstrip().lower().startswith(MARKUP):
        msg = f"{path} is a web page, not a table of cells: the server sent an error page. {AGAIN}"
        raise AtlasError(msg)
    if path.suffix in {".h5ad", ".h5"}:
        msg = f"{path} is not HDF5 (it begins with {head[:8]!r}). {AGAIN}"
        raise AtlasError(msg)
    if not head.startswith(GZIP_MAGIC) and b"\0" in head:
        msg = f"{path} is neither HDF5, Parquet nor text (it begins with {head[:8]!r}). {AGAIN}"
        raise AtlasError(msg)


def _require(path: Path, wanted: list[str], present: Sequence[str], change: str) -> None:
    if missing := [column for column in wanted if column not in present]:
        shown = ", ".join(present[:COLUMNS_SHOWN]) + (
            ", ..." if len(present) > COLUMNS_SHOWN else ""
        )
        msg = (
            f"column {', '.join(missing)} is not in {path}. Its columns are: {shown or '(none)'}. "
            f"Change {change}."
        )
        raise AtlasError(msg)


# --- h5ad ----------------------------------------------------------------------------------------


def _read_h5ad(path: Path, wanted: list[str], change: str) -> pd.DataFrame:
    with h5py.File(path, "r") as file:
        obs = file.get("obs")
        if isinstance(obs, h5py.Group):
            return _read_group(path, obs, wanted, change)
        if isinstance(obs, h5py.Dataset) and obs.dtype.names:
            return _read_compound(path, file, obs, wanted, change)
    msg = f"{path} is HDF5 but has no table obs: it is no h5ad. {AGAIN}"
    raise AtlasError(msg)


def _read_group(path: Path, obs: h5py.Group, wanted: list[str], change: str) -> pd.DataFrame:
    """Read columns of the layout in which every column is an HDF5 object of its own."""
    order = obs.attrs.get("column-order")
    names = [str(name) for name in (order if order is not None else obs) if name != "__categories"]
    _require(path, wanted, names, change)
    return pd.DataFrame({column: _read_column(obs, column) for column in wanted})


def _read_column(obs: h5py.Group, column: str) -> pd.Categorical | NDArray[np.generic]:
    element = obs[column]
    if isinstance(element, h5py.Dataset) and "categories" in element.attrs:
        # anndata 0.7: codes that point to a dataset under obs/__categories; read_elem would leave
        # them undecoded.
        names = obs[element.attrs["categories"]]
        ordered = bool(names.attrs.get("ordered", False))
        return pd.Categorical.from_codes(element[()], _texts(names), ordered=ordered)
    values: pd.Categorical | NDArray[np.generic] = read_elem(element)
    return values


def _read_compound(
    path: Path, file: h5py.File, obs: h5py.Dataset, wanted: list[str], change: str
) -> pd.DataFrame:
    """Read fields of the layout of anndata 0.6, in which `obs` is one compound dataset."""
    names = list(obs.dtype.names)[1:]  # the first field is the index
    _require(path, wanted, names, change)
    # HDF5 hands over the wanted fields only: the names of 245,389 cells are never made into Python
    # strings.
    table = obs.fields(wanted)[()]
    return pd.DataFrame(
        {
            column: _decode(path, column, table[column], _categories(file, column))
            for column in wanted
        }
    )


def _categories(file: h5py.File, column: str) -> h5py.Dataset | None:
    """Find the category names of a column of a legacy file."""
    for place in (f"uns/{column}_categories", f"uns/__categories/{column}"):
        if place in file:
            return file[place]
    return None


def _decode(
    path: Path, column: str, values: NDArray[np.generic], names: h5py.Dataset | None
) -> pd.Categorical | NDArray[np.generic]:
    if names is not None:
        categories = _texts(names)
        codes = np.asarray(values)
        if codes.dtype.kind in "iu" and len(codes) and codes.max() >= len(categories):
            msg = (
                f"column {column} of {path} has the code {codes.max()} but only {len(categories)} "
                "category names "
                "in uns: the file is inconsistent. Write it again with a current anndata."
            )
            raise AtlasError(msg)
        return pd.Categorical.from_codes(codes.astype(np.int64), categories)
    if values.dtype.kind in "iu":
        msg = (
            f"column {column} of {path} holds whole numbers without category names: in this layout "
            "(anndata 0.6) "
            f"they are codes, and uns/{column}_categories is missing. Write the file again with a "
            "current anndata, "
            "or give a CSV with text."
        )
        raise AtlasError(msg)
    if values.dtype.kind in "SO":
        return np.array(
            [v.decode() if isinstance(v, bytes) else v for v in values.tolist()], dtype=object
        )
    return values


def _texts(names: h5py.Dataset) -> NDArray[np.generic]:
    """Return category names as text; a single one may have been written as a scalar."""
    values = np.atleast_1d(names[()])
    if values.dtype.kind in "SO":
        return np.array(
            [v.decode() if isinstance(v, bytes) else v for v in values.tolist()], dtype=object
        )
    return values


# --- text and Parquet ----------------------------------------------------------------------------


def _read_text(path: Path, wanted: list[str], change: str) -> pd.DataFrame:
    with path.open("rb") as raw:
        zipped = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    with gzip.open(path, "rb") if zipped else path.open("rb") as file:
        first = file.readline().decode("utf-8-sig").strip("\r\n")
        separator = "\t" if first.count("\t") > first.count(",") else ","
        names = next(csv.reader([first], delimiter=separator), [])
        _require(path, wanted, names, change)
        if twice := [column for column in wanted if names.count(column) > 1]:
            msg = f"{path} has more than one column {twice[0]}. Rename all but one."
            raise AtlasError(msg)
        file.seek(0)
        # Not pandas: it takes a row with one field too many without a word and shifts its values.
        table = pa_csv.read_csv(
            file,
            parse_options=pa_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                include_columns=wanted,
                column_types=dict.fromkeys(wanted, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    return table.to_pandas()


def _read_parquet(path: Path, wanted: list[str], change: str) -> pd.DataFrame:
    with pq.ParquetFile(path) as file:
        _require(path, wanted, file.schema_arrow.names, change)
        table = file.read(columns=wanted).to_pandas(ignore_metadata=True)
    text = {
        column: [
            None if missing else str(value)
            for value, missing in zip(values, values.isna(), strict=True)
        ]
        for column, values in table[wanted].items()
    }
    return pd.DataFrame(text, columns=wanted, dtype="object")
