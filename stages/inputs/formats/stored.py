"""`obs` of AnnData and MuData, in HDF5 or zarr; each wanted column is read a slice at a time.

====================  ==========================================================================
h5ad, zarr            `obs` is a group; a column is an array, or a group whose ``encoding-type``
(anndata >= 0.8)      says how it is put together [1]_.
anndata 0.7           the same, with the categories under ``obs/__categories``.
anndata 0.6           `obs` is one compound dataset whose categorical columns are codes, their
                      names in ``uns/<column>_categories`` or ``uns/__categories/<column>``
                      (Tabula Muris Senis).
h5mu, zarr of MuData  ``mod/<modality>/obs``, and an `obs` of the whole [2]_.
====================  ==========================================================================

Decoded here and not by ``anndata.io``, which reads a column of sixty million cells whole, and turns
the codes of a legacy `obs` into numbers without a word: here a whole number without a category name
is an error.

References
----------
.. [1] anndata, on-disk format: https://anndata.readthedocs.io/en/stable/fileformat-prose.html
.. [2] Bredikhin, D., Kats, I. and Stegle, O. (2022). MUON: multimodal omics analysis framework.
   Genome Biology 23:42.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from zipfile import ZipFile

import h5py
import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from zarr.storage import ZipStore

from stages.base.errors import AtlasError
from stages.inputs.formats import refused
from stages.inputs.formats.wanted import Wanted

ROWS_AT_ONCE = 1 << 20
ZARR_MARKS = ("zarr.json", ".zgroup")
FRAMES = {("", ""), ("dataframe", "0.1.0"), ("dataframe", "0.2.0")}

Group: TypeAlias = Any
"""An ``h5py.Group`` or a ``zarr.Group``; both are used alike."""
Values: TypeAlias = NDArray[Any] | pd.api.extensions.ExtensionArray
Slices: TypeAlias = Callable[[slice], Values]
"""Returns some rows of a column, decoded."""


def pieces(path: Path, wanted: Wanted) -> Iterator[pd.DataFrame]:
    """Yield the columns as ``anndata.read_h5ad(path).obs`` has them, categories included.

    Raises
    ------
    AtlasError
        There is no `obs`, a column is not in it or stored in a way that is not known here, or a
        legacy file has codes but not the names that they stand for.
    """
    with _opened(path) as root:
        obs = _obs(path, root, wanted)
        if isinstance(obs, h5py.Dataset):
            yield from _of_compound(path, root, obs, wanted)
        else:
            yield from _of_group(path, obs, wanted)


def zarr_root(names: list[str]) -> str | None:
    """Return the folder in which a zarr store begins among names of files; None: there is none.

    >>> zarr_root(["a.zarr/obs/.zgroup", "a.zarr/.zgroup"])
    'a.zarr'
    >>> zarr_root(["a.csv"])
    """
    marks = [PurePosixPath(name) for name in names if PurePosixPath(name).name in ZARR_MARKS]
    if not marks:
        return None
    top = min(marks, key=lambda mark: len(mark.parts)).parent
    return "" if top == PurePosixPath(".") else top.as_posix()


@contextmanager
def _opened(path: Path) -> Iterator[Group]:
    with ExitStack() as stack:
        if path.is_dir():
            yield _zarr(path)
        elif h5py.is_hdf5(path):
            yield stack.enter_context(h5py.File(path, "r"))
        else:
            with ZipFile(path) as archive:
                inside = zarr_root(archive.namelist())
            store = stack.enter_context(ZipStore(path, mode="r"))
            yield _zarr(store, inside or "")


def _zarr(store: Path | ZipStore, inside: str = "") -> zarr.Group:
    # By the consolidated metadata an array that was not copied is there, and full of zeros.
    return zarr.open_group(store, path=inside, mode="r", use_consolidated=False)


def _obs(path: Path, root: Group, wanted: Wanted) -> Group | h5py.Dataset:
    """Find the table of cells, of the whole or of a modality."""
    obs = root.get("obs")
    modalities = root.get("mod")
    if modalities is not None:
        names = sorted(modalities)
        if wanted.modality is not None:
            if wanted.modality not in names:
                msg = f"{path} has no modality {wanted.modality!r}: allowed are {', '.join(names)}."
                raise AtlasError(msg)
            return modalities[wanted.modality]["obs"]
        if obs is None or not set(wanted.columns) <= set(_names(obs)):
            of_all = ", ".join(_names(obs)) if obs is not None else ""
            msg = (
                f"{path} is a MuData with the modalities {', '.join(names)}, and the table of the "
                f"whole lacks a wanted column (its columns are: {of_all or '(none)'}). Name the "
                "modality whose table of cells is meant."
            )
            raise AtlasError(msg)
    elif wanted.modality is not None:
        msg = f"{path} has no modalities, {wanted.modality!r} or other: it is no MuData. Name none."
        raise AtlasError(msg)
    if isinstance(obs, h5py.Group | zarr.Group) or (
        isinstance(obs, h5py.Dataset) and obs.dtype.names
    ):
        return obs
    groups = [child for name in root if isinstance(child := root[name], h5py.Group | zarr.Group)]
    raise refused.without_obs(path, list(root), {name for group in groups for name in group})


# --- obs as a group of columns -------------------------------------------------------------------


def _names(obs: Group) -> list[str]:
    order = obs.attrs.get("column-order")
    return [str(name) for name in (order if order is not None else obs) if name != "__categories"]


def _of_group(path: Path, obs: Group, wanted: Wanted) -> Iterator[pd.DataFrame]:
    """Read the layout in which every column is an object of its own."""
    if (said := _encoding(obs)) not in FRAMES:
        raise _unknown(path, "obs", said)
    wanted.require(path, _names(obs))
    columns = {column: _slices(path, column, obs, obs[column]) for column in wanted.columns}
    lengths = {length for length, _ in columns.values()}
    if len(lengths) > 1:
        msg = f"columns of obs have {' and '.join(map(str, sorted(lengths)))} rows"
        raise ValueError(msg)
    for rows in _rows(lengths.pop()):
        yield pd.DataFrame({column: read(rows) for column, (_, read) in columns.items()})


def _rows(n_rows: int) -> Iterator[slice]:
    for start in range(0, max(n_rows, 1), ROWS_AT_ONCE):
        yield slice(start, start + ROWS_AT_ONCE)


def _encoding(element: Any) -> tuple[str, str]:
    words = (element.attrs.get(f"encoding-{of}", "") for of in ("type", "version"))
    kind, number = (w.decode() if isinstance(w, bytes) else str(w) for w in words)
    return kind, number


def _unknown(path: Path, what: str, said: tuple[str, str]) -> AtlasError:
    return AtlasError(
        f"{what} of {path} is stored as {said[0] or 'a group of no kind'} {said[1]}".rstrip()
        + f", which is not known here: it was written by an anndata newer than "
        f"{version('anndata')}, or holds no plain values. Write the column as plain strings, or "
        "give the table as CSV: adata.obs.to_csv('cells.csv')."
    )


def _slices(path: Path, column: str, obs: Group, element: Any) -> tuple[int, Slices]:
    """Return how many rows a column has, and what decodes some of them."""
    what, said = f"column {column}", _encoding(element)
    if isinstance(element, h5py.Dataset | zarr.Array):
        if said not in {("", ""), ("array", "0.2.0"), ("string-array", "0.2.0")}:
            raise _unknown(path, what, said)
        stored = _array(element)
        if "categories" in element.attrs:
            # anndata 0.7: codes that point to an array under obs/__categories.
            names = obs[element.attrs["categories"]]
            return element.shape[0], _categorical(stored, names, _array(names)(slice(None)))
        return element.shape[0], stored
    if said == ("categorical", "0.2.0"):
        _, names_of = _slices(path, f"{column} (its categories)", obs, element["categories"])
        codes = element["codes"]
        return codes.shape[0], _categorical(_array(codes), element, names_of(slice(None)))
    if said not in NULLABLE:
        raise _unknown(path, what, said)
    values, mask = _array(element["values"]), _array(element["mask"])
    build = NULLABLE[said]
    return element["mask"].shape[0], lambda rows: build(values(rows), mask(rows))


def _array(element: Any) -> Slices:
    """Return what reads some rows of an array; text as text, and a scalar as one row."""
    if isinstance(element, h5py.Dataset) and h5py.check_string_dtype(element.dtype) is not None:
        element = element.asstr()
    if element.shape == ():
        return lambda _: np.atleast_1d(element[()])
    return lambda rows: element[rows]


def _categorical(codes: Slices, said: Any, names: Values) -> Slices:
    kind = pd.CategoricalDtype(names, ordered=bool(said.attrs.get("ordered", False)))
    return lambda rows: pd.Categorical.from_codes(codes(rows), dtype=kind)


def _nullable_strings(values: NDArray[Any], mask: NDArray[np.bool_]) -> Values:
    strings = pd.array(values.astype(object), dtype=pd.StringDtype())
    strings[mask] = pd.NA
    return strings


NULLABLE: Mapping[tuple[str, str], Callable[[Any, Any], Values]] = {
    ("nullable-integer", "0.1.0"): pd.arrays.IntegerArray,
    ("nullable-boolean", "0.1.0"): pd.arrays.BooleanArray,
    ("nullable-string-array", "0.1.0"): _nullable_strings,
}


# --- obs as one compound dataset -----------------------------------------------------------------


def _of_compound(
    path: Path, file: h5py.File, obs: h5py.Dataset, wanted: Wanted
) -> Iterator[pd.DataFrame]:
    """Read the layout of anndata 0.6."""
    wanted.require(path, list(obs.dtype.names)[1:])  # the first field is the index
    names = {column: _legacy_names(file, column) for column in wanted.columns}
    # HDF5 hands over the wanted fields only: the names of the cells are never made into strings.
    fields = obs.fields(wanted.columns)
    for rows in _rows(obs.shape[0]):
        table = fields[rows]
        yield pd.DataFrame(
            {
                column: _decode(path, column, table[column], names[column])
                for column in wanted.columns
            }
        )


def _legacy_names(file: h5py.File, column: str) -> Values | None:
    """Find the category names of a column of a legacy file."""
    for place in (f"uns/{column}_categories", f"uns/__categories/{column}"):
        if place in file:
            return _array(file[place])(slice(None))
    return None


def _decode(path: Path, column: str, values: NDArray[Any], names: Values | None) -> Values:
    if names is not None:
        if values.dtype.kind in "iu" and len(values) and values.max() >= len(names):
            msg = (
                f"column {column} of {path} has the code {values.max()} but only {len(names)} "
                "category names in uns: the file is inconsistent. Write it again with a current "
                "anndata."
            )
            raise AtlasError(msg)
        return pd.Categorical.from_codes(values.astype(np.int64), names)
    if values.dtype.kind in "iu":
        msg = (
            f"column {column} of {path} holds whole numbers without category names: in this layout "
            f"(anndata 0.6) they are codes, and uns/{column}_categories is missing. Write the file "
            "again with a current anndata, or give a CSV with text."
        )
        raise AtlasError(msg)
    if values.dtype.kind in "SO":
        texts = [value.decode() if isinstance(value, bytes) else value for value in values.tolist()]
        return np.array(texts, dtype=object)
    return values
