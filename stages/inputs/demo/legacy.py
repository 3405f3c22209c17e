"""Write h5ad in the layout of anndata 0.6, as the published Tabula Muris Senis files have it.

`obs` and `var` are compound datasets whose first field is `index`; a categorical column is a field
of integer codes, its names in ``uns/<column>_categories``. `X`, and `raw.X` beside a compound
`raw.var`, are groups of the three arrays of a CSR matrix with the attributes ``h5sparse_format``
and ``h5sparse_shape``. No current library writes this layout.
"""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

TEXT = h5py.string_dtype("utf-8")
LARGEST_CHUNK = 1 << 16


def write(
    path: Path,
    *,
    x: sparse.csr_matrix,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    raw_x: sparse.csr_matrix | None = None,
    raw_var: pd.DataFrame | None = None,
) -> None:
    """Write one file. The same content gives the same bytes.

    Parameters
    ----------
    path
        The file; it is overwritten.
    x, raw_x
        Expression, and the counts it was made from.
    obs, var, raw_var
        Tables of cells and genes; their indices are the names. Categorical columns keep the order
        of their categories.
    """
    # HDF5 stores no times unless asked; asked or not, they would make the same content differ.
    with h5py.File(path, "w", track_order=False) as file:
        _write_table(file, "obs", obs)
        _write_table(file, "var", var)
        _write_sparse(file, "X", x)
        if raw_x is not None and raw_var is not None:
            _write_sparse(file, "raw.X", raw_x)
            _write_table(file, "raw.var", raw_var)


def _write_table(file: h5py.File, name: str, table: pd.DataFrame) -> None:
    uns = file.require_group("uns")
    fields: dict[str, NDArray[np.generic]] = {"index": table.index.to_numpy(dtype=object)}
    types: list[tuple[str, object]] = [("index", TEXT)]
    for column in table.columns:
        values = table[column]
        if isinstance(values.dtype, pd.CategoricalDtype):
            fields[column] = values.cat.codes.to_numpy()
            uns.create_dataset(
                f"{column}_categories",
                data=values.cat.categories.to_numpy(dtype=object),
                dtype=TEXT,
                track_times=False,
            )
        elif values.dtype.kind in "OUT":
            fields[column] = values.to_numpy(dtype=object)
        else:
            fields[column] = values.to_numpy()
        types.append((column, TEXT if fields[column].dtype == object else fields[column].dtype))
    records = np.empty(len(table), dtype=np.dtype(types))
    for column, values in fields.items():
        records[column] = values
    file.create_dataset(name, data=records, **_packed(len(records)))


def _write_sparse(file: h5py.File, name: str, matrix: sparse.csr_matrix) -> None:
    group = file.create_group(name)
    group.attrs["h5sparse_format"] = "csr"
    group.attrs["h5sparse_shape"] = np.array(matrix.shape)
    for part in ("data", "indices", "indptr"):
        values = getattr(matrix, part)
        group.create_dataset(part, data=values, **_packed(len(values)))


def _packed(length: int) -> dict[str, object]:
    if length == 0:
        return {"track_times": False}
    chunks = (min(length, LARGEST_CHUNK),)
    return {"compression": "gzip", "shuffle": True, "chunks": chunks, "track_times": False}
