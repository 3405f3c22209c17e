"""Read columns of a table of cells from whatever layout it has, never the expression matrix.

==========================  ===================================================================
AnnData (h5ad, zarr)        every layout since anndata 0.6; columns as anndata has them.
MuData (h5mu, zarr)         the `obs` of a modality, or that of the whole.
Text                        comma, semicolon or tab; UTF-8 or UTF-16; also gz, bz2, xz, or a zip
                            of one file. Every value is text; only an empty field is missing.
Excel (xlsx)                the first sheet; every value is text.
Parquet                     every value is text; folders named ``key=value`` are columns.
Folder, pattern or list     of h5ad or Parquet, or named files of any kind: read as one table.
==========================  ===================================================================

The layout is told by the bytes, not by the file's name; `stages.inputs.formats` has one file each,
and says of all else what to do with it. Counting needs no more than the distinct rows and how many
cells share each: :func:`count_obs` keeps no others, so sixty million cells fit into memory.
"""

import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias
from zipfile import BadZipFile, ZipFile, is_zipfile

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.types import union_categoricals

from stages.base.errors import AtlasError
from stages.inputs.formats import excel, parquet, refused, stored, text
from stages.inputs.formats.wanted import Listed, Names, Wanted

N_CELLS = "(number of cells)"
"""The column that counts the cells of a distinct row; no atlas has one of this name."""

IN_FOLDERS = (".h5ad", ".parquet")
ROWS_KEPT = 1 << 20

Pieces: TypeAlias = Callable[[Path, Wanted], Iterator[pd.DataFrame]]


def read_obs(
    path: Path | Sequence[Path],
    columns: Sequence[str],
    *,
    change: str = "the column names",
    modality: str | None = None,
) -> pd.DataFrame:
    """Return wanted columns of a table of cells, decoded, in the order of the file.

    Parameters
    ----------
    path
        A table of cells in any layout; a folder or pattern (``cells/*.h5ad``) of several, in the
        order of their names; or a list of such.
    columns
        The columns to read; nothing else is.
    change
        What a person should change when a column is missing; it ends that error.
    modality
        Whose `obs` of a MuData; None: that of the whole.

    Returns
    -------
    DataFrame
        From AnnData exactly the columns of ``anndata.read_h5ad(path).obs``, categories and their
        order included; from others, categories of text. The index counts the rows.

    Raises
    ------
    AtlasError
        The file is missing, empty, damaged or something else; a column is missing; or a legacy file
        has codes but not the names that they stand for.
    """
    wanted = Wanted(list(dict.fromkeys(columns)), change, modality)
    return _joined([_joined(list(_pieces(file, wanted))) for file in _files(path)])


def count_obs(
    path: Path | Sequence[Path],
    columns: Sequence[str],
    *,
    change: str = "the column names",
    modality: str | None = None,
) -> pd.DataFrame:
    """Return each distinct row of wanted columns once, with the number of cells that share it.

    Parameters and errors are those of :func:`read_obs`, which gives the same values and kinds of
    columns; here a piece of the rows at a time is in memory, and the distinct ones.

    Returns
    -------
    DataFrame
        The columns and ``N_CELLS``, the rows in no set order. The index counts them.
    """
    wanted = Wanted(list(dict.fromkeys(columns)), change, modality)
    return _counted(_counted(_pieces(file, wanted)) for file in _files(path))


def columns_of(path: Path, *, modality: str | None = None) -> list[str]:
    """Return the names of the columns of a table of cells, in their order.

    Errors are those of :func:`read_obs`.
    """
    wanted = Names([], "the column names", modality)
    try:
        for file in _files(path):
            for _ in _pieces(file, wanted):
                pass
    except Listed as found:
        return [name for name in found.names if name]
    return []


def _counted(tables: Iterator[pd.DataFrame]) -> pd.DataFrame:
    """Join tables, whose rows may be counted already, into distinct rows."""
    waiting = [distinct(next(tables))]
    for table in tables:
        waiting.append(distinct(table))
        if sum(map(len, waiting[1:])) > max(ROWS_KEPT, len(waiting[0])):
            waiting = [distinct(_joined(waiting))]
    return distinct(_joined(waiting))


def distinct(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each distinct row once, with the number of cells that share it in ``N_CELLS``.

    A table that has ``N_CELLS`` already says so of each row; in another, each is one cell.
    """
    n_cells = rows[N_CELLS] if N_CELLS in rows else np.ones(len(rows), dtype=np.int64)
    keys = [name for name in rows.columns if name != N_CELLS]
    # One whole number a row instead of a grouping by many columns, which takes four times the
    # memory.
    place, n_places = np.zeros(len(rows), dtype=np.int64), 1
    for name in keys:
        column = rows[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            codes, n = column.cat.codes.to_numpy(), len(column.cat.categories)
        else:
            codes, values = pd.factorize(column)
            n = len(values)
        if n_places * (n + 1) > np.iinfo(np.int64).max:
            place, seen = pd.factorize(place)
            n_places = len(seen)
        # A missing value has code -1.
        place = place * (n + 1)
        place += codes
        place += 1
        n_places *= n + 1
    first = ~pd.Series(place).duplicated().to_numpy()
    place = pd.factorize(place)[0]
    # Weights are floats, which are exact up to 2**53 cells.
    total = np.bincount(place, weights=n_cells).astype(np.int64)
    return rows.loc[first, keys].reset_index(drop=True).assign(**{N_CELLS: total})


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put tables of the same columns one below the other; categories stay categories."""
    tables = [table for table in tables if len(table)] or list(tables[:1])
    return pd.DataFrame(
        {name: _column([table[name] for table in tables]) for name in tables[0].columns}
    )


def _column(parts: list[pd.Series]) -> pd.Series:
    if all(isinstance(part.dtype, pd.CategoricalDtype) for part in parts):
        try:
            return pd.Series(union_categoricals(parts))
        except TypeError:  # they are of different kinds, or ordered in different ways
            parts = [part.astype(object) for part in parts]
    return pd.concat(parts, ignore_index=True)


# --- which files, and who reads them -------------------------------------------------------------


def _files(path: Path | Sequence[Path]) -> list[Path]:
    """List the tables that a path stands for."""
    if not isinstance(path, Path):
        return [file for one in path for file in _files(one)]
    refused.address(path)
    if not path.exists():
        if found := sorted(path.parent.glob(path.name)):
            return _files(found)
        msg = f"{path} does not exist. Fetch it with dvc repro, or correct atlas.cells.<name>.raw."
        raise AtlasError(msg)
    if not path.is_dir() or _is_zarr(path):
        return [path]
    files = sorted(
        file for file in path.rglob("[!.]*") if file.suffix in IN_FOLDERS and file.is_file()
    )
    if not files:
        raise refused.folder(path)
    if len({file.suffix for file in files}) > 1:
        msg = (
            f"{path} holds both h5ad and Parquet files, perhaps of the same cells. Name one kind: "
            f"{path}/*.h5ad or {path}/*.parquet."
        )
        raise AtlasError(msg)
    return files


def _is_zarr(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in stored.ZARR_MARKS)


def _pieces(path: Path, wanted: Wanted) -> Iterator[pd.DataFrame]:
    """Yield the wanted columns of one table; whatever its reader meets becomes one line."""
    # A reader of any layout fails in its own way on a damaged file; a person needs one line.
    try:
        pieces = _reader(path)
        if wanted.modality is not None and pieces is not stored.pieces:
            msg = f"{path} has no modality {wanted.modality!r}: it is no MuData. Name none."
            raise AtlasError(msg)
        yield from pieces(path, wanted)
    except PermissionError:
        raise
    except (
        OSError,
        EOFError,
        KeyError,
        RuntimeError,
        ValueError,
        TypeError,
        BadZipFile,
        lzma.LZMAError,
        zlib.error,
        pa.ArrowException,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"{path} is damaged or not a table of cells ({reason}). {refused.AGAIN}"
        raise AtlasError(msg) from None


def _reader(path: Path) -> Pieces:
    """Tell by the bytes who reads a table."""
    if path.is_dir():
        return stored.pieces
    with path.open("rb") as file:
        head = file.read(len(refused.PARQUET))
    if h5py.is_hdf5(path):
        return stored.pieces
    if head == refused.PARQUET:
        return parquet.pieces
    if is_zipfile(path):
        with ZipFile(path) as archive:
            names = archive.namelist()
        if "xl/workbook.xml" in names:
            return excel.pieces
        if stored.zarr_root(names) is not None:
            return stored.pieces
    return text.pieces
