"""Cells as a model reads them, in a folder of arrays that are read without loading them.

``ids.npy`` holds token ids, int32, one row a cell, padded on the right; ``values.npy`` the value
beside each id, float32, for models that read one (scGPT); ``cells.parquet`` one row a cell in the
same order (``cell``: its name; ``row``: its number in the file; ``length``: tokens without padding;
and columns of ``obs``);
``encoding.json`` states how they were made and what was left out.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.base.errors import AtlasError
from stages.base.files import atomic_folder, write_text

IDS_FILE, VALUES_FILE = "ids.npy", "values.npy"
CELLS_FILE, STATEMENT_FILE = "cells.parquet", "encoding.json"
ROWS_AT_ONCE = 4096

Ids = npt.NDArray[np.int32]
Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Encoded:
    """Some cells, encoded."""

    ids: Ids
    """(n_cells, width), padded on the right."""
    cells: pd.DataFrame
    """One row a cell: ``cell``, ``row``, ``length``, and columns of ``obs``."""
    values: Values | None = None
    """(n_cells, width), for models that read values beside ids."""

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.ids)


def write(
    folder: Path,
    parts: Iterable[Encoded],
    statement: Callable[[], Mapping[str, Any]],
    *,
    n_cells: int,
    width: int,
    pad: int,
    pad_value: float = 0.0,
) -> int:
    """Write cells as they come, whole or not at all.

    Parameters
    ----------
    folder
        Is replaced.
    parts
        Some cells at a time, none wider than `width`.
    statement
        Asked after the last part, which may have told it something.
    n_cells
        At most so many: those that were dropped leave no row.
    width
        Tokens of the longest cell that may come.
    pad, pad_value
        Id and value of the padding.

    Returns
    -------
    int
        How many cells were written.

    Raises
    ------
    AtlasError
        None.
    """
    frames: list[pd.DataFrame] = []
    with atomic_folder(folder) as fresh:
        ids = np.lib.format.open_memmap(
            fresh / "all.npy", mode="w+", dtype=np.int32, shape=(max(n_cells, 1), width)
        )
        values = None
        done = 0
        for part in parts:
            rows, columns = slice(done, done + len(part)), part.ids.shape[1]
            # What is not written takes no place on the disk.
            ids[rows, :columns] = part.ids
            if part.values is not None:
                if values is None:
                    values = np.lib.format.open_memmap(
                        fresh / "all_values.npy", mode="w+", dtype=np.float32, shape=ids.shape
                    )
                values[rows, :columns] = part.values
            frames.append(part.cells)
            done += len(part)
        if done == 0:
            msg = (
                "no cell is left: none has a gene that the model knows. "
                "Check that the file's genes are named as the model's are."
            )
            raise AtlasError(msg)
        cells = pd.concat(frames, ignore_index=True)
        for source, name, padding in ((ids, IDS_FILE, pad), (values, VALUES_FILE, pad_value)):
            if source is not None:
                _trimmed(source, fresh / name, cells["length"].to_numpy(), padding)
        del ids, values
        for name in ("all.npy", "all_values.npy"):
            (fresh / name).unlink(missing_ok=True)
        cells.to_parquet(fresh / CELLS_FILE, index=False)
        text = json.dumps(dict(statement()), indent=1, sort_keys=True, ensure_ascii=False)
        write_text(fresh / STATEMENT_FILE, text + "\n")
    return done


def _trimmed(
    source: npt.NDArray[Any], path: Path, lengths: npt.NDArray[np.int64], padding: float
) -> None:
    """Write the part of an array that was filled, padded, some rows at a time."""
    shape = (len(lengths), int(lengths.max()))
    kept = np.lib.format.open_memmap(path, mode="w+", dtype=source.dtype, shape=shape)
    for start in range(0, shape[0], ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, shape[0]))
        beyond = np.arange(shape[1]) >= lengths[rows, None]
        kept[rows] = np.where(beyond, kept.dtype.type(padding), source[rows, : shape[1]])
    kept.flush()


def read(folder: Path) -> Encoded:
    """Read a folder of encoded cells; the arrays are mapped, not loaded.

    Raises
    ------
    AtlasError
        A file is missing or does not fit the others.
    """
    try:
        ids = np.load(folder / IDS_FILE, mmap_mode="r", allow_pickle=False)
        cells = pd.read_parquet(folder / CELLS_FILE)
        path = folder / VALUES_FILE
        values = np.load(path, mmap_mode="r", allow_pickle=False) if path.exists() else None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"{folder} holds no encoded cells ({reason}). Remove it and run dvc repro."
        raise AtlasError(msg) from None
    if len(ids) != len(cells) or (values is not None and values.shape != ids.shape):
        msg = (
            f"{folder} holds {len(ids)} rows of ids and {len(cells)} of cells, or values of another"
            " shape. Remove it and run dvc repro."
        )
        raise AtlasError(msg)
    return Encoded(ids, cells, values)
