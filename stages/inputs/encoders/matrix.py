"""Stream the counts of an h5ad, some cells at a time; the matrix is never loaded.

======================  =======================================================================
CSR                     the wanted rows, some at a time.
Dense                   the same, contiguous or in chunks.
CSC                     has no rows to read: the file is read through once for each band of cells
                        that fits into memory, and a warning says how often.
======================  =======================================================================

Of a million cells what stays in memory is 8 MB of pointers. Matrices lie in ``X``, in ``raw/X`` (in
the layout of anndata 0.6: ``raw.X``) or in a layer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from anndata.io import read_elem
from numpy.typing import NDArray
from scipy import sparse

from stages.base import cli
from stages.base.errors import AtlasError
from stages.inputs.formats import refused
from stages.inputs.formats.wanted import Wanted

ENTRIES_AT_ONCE = 1 << 22
"""Stored values in memory at a time; of a dense matrix, zeros too."""
ENTRIES_OF_A_BAND = 1 << 24
CELLS_AT_ONCE = 1 << 13
NAMES_AT_ONCE = 1 << 18
LARGEST_LOG = 20
"""No count is so large that its logarithm reaches this."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Chunk:
    """Some cells of a file."""

    rows: Rows
    """Their numbers in the file, ascending. (n_cells,)"""
    cells: list[str]
    """Their names."""
    counts: sparse.csr_matrix
    """float64, indices ascending, no zeros stored. (n_cells, n_genes)"""

    @property
    def totals(self) -> NDArray[np.float64]:
        """Sum of each cell over all its genes; shape (n_cells,)."""
        return np.asarray(self.counts.sum(axis=1), dtype=np.float64).ravel()


@dataclass(frozen=True)
class Matrix:
    """An open matrix of a file, by rows."""

    path: Path
    file: h5py.File
    choice: str
    """``X``, ``raw`` or ``layer:NAME``."""
    place: str
    """Where in the file that is."""
    genes: list[str]
    n_cells: int

    def rows_of(self, cells: Sequence[str]) -> Rows:
        """Return the rows of cells by their names, ascending.

        Raises
        ------
        AtlasError
            A name is of no cell, or of several.
        """
        wanted = set(cells)
        found: dict[str, int] = {}
        for start in range(0, self.n_cells, NAMES_AT_ONCE):
            rows = np.arange(start, min(start + NAMES_AT_ONCE, self.n_cells))
            for row, name in zip(rows, self._names(rows), strict=True):
                if name in wanted:
                    if name in found:
                        msg = (
                            f"{self.path} has several cells {name!r} (rows {found[name]} and {row})"
                            ". Make the names unique: adata.obs_names_make_unique()."
                        )
                        raise AtlasError(msg)
                    found[name] = int(row)
        if missing := sorted(wanted - found.keys()):
            msg = (
                f"{self.path} has no cell {missing[0]!r} ({len(missing)} of {len(wanted)} are not "
                "there). Name cells as the index of obs does, one a line."
            )
            raise AtlasError(msg)
        return np.sort(np.array(list(found.values()), dtype=np.int64))

    def chunks(
        self, rows: Sequence[int] | Rows | None = None, *, whole: bool = True
    ) -> Iterator[Chunk]:
        """Yield cells in the order of the file.

        Parameters
        ----------
        rows
            Ascending, each once; None: all.
        whole
            Whether anything but raw counts is refused; else only values below 0 are.

        Raises
        ------
        AtlasError
            The file is damaged, or a value is not allowed: the line says which, where, and what
            to do.
        """
        wanted = np.arange(self.n_cells) if rows is None else np.asarray(rows, dtype=np.int64)
        if len(wanted) and (
            wanted[0] < 0 or wanted[-1] >= self.n_cells or (np.diff(wanted) < 1).any()
        ):
            msg = (
                f"rows of {self.path} are 0 to {self.n_cells - 1}, ascending and each once; these "
                f"go from {wanted.min()} to {wanted.max()}. Correct the list."
            )
            raise AtlasError(msg)
        with _readable(self.path):
            node = self.file[self.place]
            pieces = PIECES[_layout(node)](node, _shape(node), wanted)
        while (piece := self._next(pieces)) is not None:
            self._check(piece, whole=whole)
            yield piece

    def _next(self, pieces: Iterator[tuple[Rows, sparse.csr_matrix]]) -> Chunk | None:
        with _readable(self.path):
            for rows, counts in pieces:
                counts.check_format(full_check=True)
                values = counts.astype(np.float64, copy=False)
                values.sum_duplicates()
                values.eliminate_zeros()
                return Chunk(rows, self._names(rows), values)
        return None

    def _names(self, rows: Rows) -> list[str]:
        obs = self.file["obs"]
        with _readable(self.path):
            if isinstance(obs, h5py.Dataset):
                index = obs.fields(obs.dtype.names[0])
            else:
                index = obs[_index(obs)]
                if h5py.check_string_dtype(index.dtype) is not None:
                    index = index.asstr()
            return [_text(name) for run in _runs(rows) for name in index[run]]

    def _check(self, chunk: Chunk, *, whole: bool) -> None:
        counts = chunk.counts
        place = _first_fault(counts.data, whole=whole)
        if place is None:
            return
        row = int(np.searchsorted(counts.indptr, place, side="right")) - 1
        what = (
            f"cell {chunk.cells[row]} has {counts.data[place]:.6g} of "
            f"{self.genes[counts.indices[place]]}"
        )
        if not whole:
            msg = (
                f"{self.place} of {self.path} has a value that is no expression: {what}. Allowed "
                "are numbers of at least 0: z-scores and residuals are none. Give the values they "
                "were made from."
            )
            raise AtlasError(msg)
        largest = counts.data.max(initial=0, where=np.isfinite(counts.data))
        logged = 0 < counts.data[place] <= largest < LARGEST_LOG
        looks = f", and nothing above {largest:.4g}, as after log1p" if logged else ""
        others = [choice for choice in _places(self.file) if choice != self.choice]
        msg = (
            f"{self.place} of {self.path} holds no raw counts: {what}{looks}. Raw counts are whole "
            f"numbers of at least 0. {self._elsewhere(others)}"
        )
        raise AtlasError(msg)

    def _elsewhere(self, others: Sequence[str]) -> str:
        places = _places(self.file)
        with _readable(self.path):
            for choice in others:
                place, _ = places[choice]
                if _looks_counted(self.file[place]):
                    return f"Counts lie in {place}: --counts {choice}."
        return "There are none elsewhere in it: give the file with the counts."


@contextmanager
def opened(path: Path, *, counts: str = "X", gene_column: str | None = None) -> Iterator[Matrix]:
    """Open the matrix of an h5ad.

    Parameters
    ----------
    counts
        ``X``, ``raw``, ``layer:NAME``; ``auto``: the first of these that begins as raw counts do,
        which is said.
    gene_column
        Of the table of genes that belongs to the matrix; None: its index.

    Raises
    ------
    AtlasError
        The file is missing, damaged or no h5ad; it has no such matrix or column; or ``auto`` finds
        no counts.
    """
    with _file(path) as file:
        with _readable(path):
            places = _places(file)
            choice = _found(path, file) if counts == "auto" else counts
            if choice not in places:
                msg = (
                    f"{path} has no {choice}; matrices in it are: {', '.join(places) or '(none)'}. "
                    "Name one of these: --counts."
                )
                raise AtlasError(msg)
            place, var = places[choice]
            genes = _gene_names(path, file, var, gene_column)
            n_cells, n_genes = _shape(file[place])
            n_obs = _n_obs(file)
            if (n_cells, n_genes) != (n_obs, len(genes)):
                msg = (
                    f"{place} has {n_cells} x {n_genes} values for {n_obs} cells of obs and "
                    f"{len(genes)} genes of {var}"
                )
                raise ValueError(msg)
        yield Matrix(path, file, choice, place, genes, n_cells)


def n_cells_of(path: Path) -> int:
    """Return how many cells an h5ad has.

    Raises
    ------
    AtlasError
        The file is missing, damaged or no h5ad.
    """
    with _file(path) as file, _readable(path):
        return _n_obs(file)


@contextmanager
def _file(path: Path) -> Iterator[h5py.File]:
    refused.address(path)
    if not path.is_file() or not h5py.is_hdf5(path):
        msg = (
            f"{path} is no h5ad file. Write it as such: adata.write_h5ad(...)."
            if path.exists()
            else f"{path} does not exist. Correct the path."
        )
        raise AtlasError(msg)
    with _readable(path):
        file = h5py.File(path, "r")
    with file:
        yield file


def _n_obs(file: h5py.File) -> int:
    obs = file["obs"]
    return int((obs if isinstance(obs, h5py.Dataset) else obs[_index(obs)]).shape[0])


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what a damaged file makes its readers raise into one line."""
    try:
        yield
    except PermissionError:
        raise
    except (OSError, KeyError, IndexError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"{path} is damaged or no h5ad with expression ({reason}). {refused.AGAIN}"
        raise AtlasError(msg) from None


# --- where the matrices are ----------------------------------------------------------------------


def _places(file: h5py.File) -> dict[str, tuple[str, str]]:
    """Return each matrix and its table of genes, by what the command line calls it."""
    places = {}
    for choice, place, var in (
        ("X", "X", "var"),
        ("raw", "raw/X", "raw/var"),
        ("raw", "raw.X", "raw.var"),
    ):
        if place in file and var in file:
            places[choice] = place, var
    layers = file.get("layers", {})
    # Layers that call themselves counts are looked into first.
    for name in sorted(layers, key=lambda name: ("count" not in name.lower(), name)):
        places[f"layer:{name}"] = f"layers/{name}", "var"
    return places


def _found(path: Path, file: h5py.File) -> str:
    """Return the first matrix that begins as raw counts do."""
    places = _places(file)
    for choice, (place, _) in places.items():
        if _looks_counted(file[place]):
            cli.log.info("%s: counts are taken from %s", path, place)
            return choice
    msg = (
        f"{path} holds no raw counts: none of {', '.join(places) or 'no matrix'} has whole numbers "
        "alone. Give the file with the counts."
    )
    raise AtlasError(msg)


def _looks_counted(node: h5py.Group | h5py.Dataset) -> bool:
    if _layout(node) == "dense":
        n_rows = max(1, ENTRIES_AT_ONCE // max(1, node.shape[1]))
        values = np.asarray(node[:n_rows]).ravel()
    else:
        values = node["data"][:ENTRIES_AT_ONCE]
    return _first_fault(values, whole=True) is None


def _first_fault(values: NDArray[Any], *, whole: bool) -> int | None:
    """Return the place of the first value that is not allowed."""
    good = np.isfinite(values) & (values >= 0)
    if whole and values.dtype.kind == "f":
        good &= values == np.floor(values)
    return None if good.all() else int(np.argmin(good))


def _layout(node: h5py.Group | h5py.Dataset) -> str:
    if isinstance(node, h5py.Dataset):
        if len(node.shape) != 2:
            msg = f"{node.name} has {len(node.shape)} dimensions"
            raise ValueError(msg)
        return "dense"
    said = node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", ""))
    kind = _text(said).removesuffix("_matrix")
    if kind not in {"csr", "csc"}:
        msg = f"{node.name} is stored as {kind or 'a group of no kind'}, not csr, csc or dense"
        raise ValueError(msg)
    return kind


def _shape(node: h5py.Group | h5py.Dataset) -> tuple[int, int]:
    attrs = node.attrs
    shape = (
        node.shape
        if isinstance(node, h5py.Dataset)
        else attrs["shape" if "shape" in attrs else "h5sparse_shape"]
    )
    n_rows, n_columns = map(int, shape)
    return n_rows, n_columns


# --- names ---------------------------------------------------------------------------------------


def _gene_names(path: Path, file: h5py.File, table: str, column: str | None) -> list[str]:
    """Return a column of a table of genes, or its index, as text."""
    var = file[table]
    if isinstance(var, h5py.Dataset):
        name = column or var.dtype.names[0]
        Wanted([name], "--gene-column").require(path, var.dtype.names)
        values = var.fields(name)[()]
        # In the layout of anndata 0.6 codes have their names elsewhere.
        categories = file.get(f"uns/{name}_categories")
        codes = values if values.dtype.kind in "iu" else None
    else:
        name = column or _index(var)
        Wanted([name], "--gene-column").require(path, list(var))
        element = var[name]
        # In that of 0.7 a column of codes points to them.
        pointer = element.attrs.get("categories") if isinstance(element, h5py.Dataset) else None
        categories = None if pointer is None else var[pointer]
        values = read_elem(element)
        codes = values if pointer is not None else None
    if codes is None:
        return [_text(value) for value in values]
    if categories is None:
        msg = f"column {name} of {table} holds codes without their names"
        raise ValueError(msg)
    names = [_text(value) for value in categories[()]]
    return [names[code] if code >= 0 else "" for code in codes]


def _index(table: h5py.Group) -> str:
    return _text(table.attrs.get("_index", "_index" if "_index" in table else "index"))


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


# --- rows ----------------------------------------------------------------------------------------


def _runs(rows: Rows) -> list[slice]:
    """Return ascending rows as spans without gaps."""
    parts = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if len(rows) else []
    return [slice(int(part[0]), int(part[-1]) + 1) for part in parts]


def _split(rows: Rows, lengths: NDArray[np.int64], limit: int) -> list[Rows]:
    """Cut rows into pieces of about `limit` entries, and of no more than ``CELLS_AT_ONCE`` rows."""
    costs = np.maximum(lengths, limit // CELLS_AT_ONCE)
    piece = (np.cumsum(costs) - costs) // limit
    return np.split(rows, np.flatnonzero(np.diff(piece)) + 1) if len(rows) else []


def _of_csr(
    group: h5py.Group, shape: tuple[int, int], rows: Rows
) -> Iterator[tuple[Rows, sparse.csr_matrix]]:
    starts = group["indptr"][:].astype(np.int64)
    lengths = np.diff(starts)
    if len(lengths) != shape[0] or (lengths < 0).any() or starts[-1] > len(group["data"]):
        msg = f"{group.name}/indptr does not fit {shape[0]} rows of {len(group['data'])} values"
        raise ValueError(msg)
    for some in _split(rows, lengths[rows], ENTRIES_AT_ONCE):
        spans = [slice(int(starts[run.start]), int(starts[run.stop])) for run in _runs(some)]
        ends = np.concatenate([[0], np.cumsum(lengths[some])])
        parts = (np.concatenate([group[of][span] for span in spans]) for of in ("data", "indices"))
        yield some, sparse.csr_matrix((*parts, ends), shape=(len(some), shape[1]))


def _of_dense(
    array: h5py.Dataset, shape: tuple[int, int], rows: Rows
) -> Iterator[tuple[Rows, sparse.csr_matrix]]:
    for some in _split(rows, np.full(len(rows), shape[1]), ENTRIES_AT_ONCE):
        yield some, sparse.csr_matrix(np.concatenate([array[run] for run in _runs(some)]))


def _of_csc(
    group: h5py.Group, shape: tuple[int, int], rows: Rows
) -> Iterator[tuple[Rows, sparse.csr_matrix]]:
    """Collect a band of cells at a time from all columns."""
    data, indices, starts = group["data"], group["indices"], group["indptr"][:]
    spans = [slice(i, i + ENTRIES_AT_ONCE) for i in range(0, len(data), ENTRIES_AT_ONCE)]
    lengths = np.zeros(shape[0], dtype=np.int64)
    for span in spans:
        lengths += np.bincount(indices[span], minlength=shape[0])
    bands = _split(rows, lengths[rows], ENTRIES_OF_A_BAND)
    if len(bands) > 1:
        cli.log.warning(
            "%s of %s is stored by genes (CSC) and is read through %d times; to read it once, "
            "write it by cells: adata.X = adata.X.tocsr()",
            group.name,
            group.file.filename,
            len(bands),
        )
    for band in bands:
        place = np.full(shape[0], -1)
        place[band] = np.arange(len(band))
        values, at, columns = [], [], []
        for span in spans:
            cells = place[indices[span]]
            kept = np.flatnonzero(cells >= 0)
            values.append(data[span][kept])
            at.append(cells[kept])
            columns.append(np.searchsorted(starts, kept + span.start, side="right") - 1)
        whole = sparse.csr_matrix(
            (_end_to_end(values), (_end_to_end(at), _end_to_end(columns))),
            shape=(len(band), shape[1]),
        )
        for some in _split(band, lengths[band], ENTRIES_AT_ONCE):
            first = int(place[some[0]])
            yield some, whole[first : first + len(some)]


def _end_to_end(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


PIECES: Mapping[str, Callable[..., Iterator[tuple[Rows, sparse.csr_matrix]]]] = {
    "csr": _of_csr,
    "dense": _of_dense,
    "csc": _of_csc,
}
