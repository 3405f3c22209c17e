"""What is no table of cells: one line that says what it is and how to come by a table from it."""

import re
from pathlib import Path

from stages.base.errors import AtlasError

AGAIN = "Fetch or write it again."
GIVE = "give that as atlas.cells.<name>.raw"
MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")
POINTER = b"version https://git-lfs"
MATRIX = b"%%MatrixMarket"
HDF5 = b"\x89HDF"
PARQUET = b"PAR1"
TAR_AT = 257
ZIP = b"PK\x03\x04"
OLD_EXCEL = b"\xd0\xcf\x11\xe0"
# A data set of R alone (saveRDS), and several by name (save); binary or text.
R_ONE = (b"X\n\0\0\0", b"A\n2\n", b"A\n3\n")
R_MANY = (b"RDX2\n", b"RDX3\n", b"RDA2\n", b"RDA3\n")
UTF16 = (b"\xff\xfe", b"\xfe\xff")
SHOWN = 8


def address(path: Path) -> None:
    """Stop at the address of a file on the network.

    Raises
    ------
    AtlasError
        `path` is one; the line says how to download it.
    """
    # A Path keeps only one of the two slashes.
    if found := re.match(r"(https?|ftp|s3|gs):/+(.+)", str(path)):
        url = f"{found[1]}://{found[2]}"
        how = f"curl -LO {url}" if found[1] in {"http", "https", "ftp"} else "with its own tool"
        msg = (
            f"{url} is an address, and a file is read here. Download it first ({how}), and {GIVE}."
        )
        raise AtlasError(msg)


def beginning(path: Path, head: bytes, *, packed: bool) -> None:
    """Stop at what does not begin as text does.

    Parameters
    ----------
    path
        The file that the line names.
    head
        Its first bytes, decompressed.
    packed
        Whether it is compressed.

    Raises
    ------
    AtlasError
        A web page, a pointer of Git LFS, a file of R, a matrix, an archive, Excel's old format,
        another binary file, or a text that calls itself h5ad.
    """
    if reason := _reason(path, head, packed=packed):
        msg = f"{path} {reason}"
        raise AtlasError(msg)


def _reason(path: Path, head: bytes, *, packed: bool) -> str:
    if not head:
        return f"is empty: a download was refused or cut off. {AGAIN}"
    if head.lstrip().lower().startswith(MARKUP):
        return f"is a web page, not a table of cells: the server sent an error page. {AGAIN}"
    if head.startswith(POINTER):
        return "is a pointer of Git LFS, not the file itself. Fetch it with git lfs pull."
    if head.startswith(R_ONE):
        return _of_r(f'readRDS("{path}")')
    if head.startswith(R_MANY):
        return _of_r(f'get(load("{path}")[1])')
    if head.startswith(MATRIX):
        return f"is a matrix of counts: {NO_TYPES}"
    if packed and head.startswith((HDF5, PARQUET)):
        return (
            f"is compressed, and no text is in it. Unpack it, find the table of cells and {GIVE}."
        )
    if head[TAR_AT:].startswith(b"ustar"):
        return f"is a tar archive. Unpack it, find the table of cells and {GIVE}."
    if head.startswith(ZIP):
        return f"is a zip archive, or an Excel file, that was cut off. {AGAIN}"
    if head.startswith(OLD_EXCEL):
        return "is of Excel before 2007 (.xls). Save it as .xlsx or CSV."
    if not packed and path.suffix in {".h5ad", ".h5", ".h5mu"}:
        return (
            f"is not HDF5 (it begins with {head[:8]!r}): a download that failed, or another kind "
            "of file. Fetch it again, or name it as what it is."
        )
    if b"\0" in head and not head.startswith(UTF16):
        return (
            f"is neither HDF5, zarr, Parquet, Excel nor text (it begins with {head[:8]!r}). Export "
            f"its table of cells as CSV, and {GIVE}."
        )
    return ""


def _of_r(read: str) -> str:
    code = (
        f'x <- {read}; write.csv(if (inherits(x, "Seurat")) x@meta.data else '
        'as.data.frame(SummarizedExperiment::colData(x)), "cells.csv")'
    )
    return (
        "is a file of R, which R alone reads. Export the table of cells of the Seurat object or "
        f"SingleCellExperiment in it: Rscript -e '{code}', and {GIVE}."
    )


NO_TYPES = (
    "it says no animal, age or cell type. Find the table that has them with a row for each barcode "
    f"(the metadata or annotation of its authors, as CSV), and {GIVE}."
)


def without_obs(path: Path, names: list[str], inner: set[str]) -> AtlasError:
    """Return what to say of HDF5 or zarr that holds `names`, these `inner`, and no obs."""
    if {"col_attrs", "row_attrs"} <= set(names):
        code = (
            f'import h5py, pandas; c = h5py.File("{path}")["col_attrs"]; '
            "pandas.DataFrame({k: v.asstr()[:] if v.dtype.kind in 'OS' else v[:] "
            "for k, v in c.items() if v.ndim == 1}).to_csv('cells.csv', index=False)"
        ).replace('"', "'")
        reason = f'is a loom file. Export its table of cells: python -c "{code}", and {GIVE}.'
    elif {"assays", "meta.data"} <= set(names):
        code = f'write.csv(SeuratDisk::LoadH5Seurat("{path}")@meta.data, "cells.csv")'
        reason = (
            "is an h5Seurat file. Export its table of cells with R: "
            f"Rscript -e '{code}', and {GIVE}."
        )
    elif "barcodes" in inner:
        reason = f"is a matrix of counts of 10x Genomics: {NO_TYPES}"
    else:
        shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        reason = (
            "is HDF5 or zarr but has no table obs: it is no AnnData. It holds: "
            f"{shown or 'nothing'}. Export a table of its cells as CSV, and {GIVE}."
        )
    return AtlasError(f"{path} {reason}")


def folder(path: Path) -> AtlasError:
    """Return what to say of a folder that is no zarr and holds no h5ad or Parquet."""
    names = sorted(child.name for child in path.iterdir())
    if any(name.removesuffix(".gz").endswith("matrix.mtx") for name in names):
        return AtlasError(f"{path} is a folder of a matrix of 10x Genomics: {NO_TYPES}")
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return AtlasError(
        f"{path} is a folder without a zarr store, h5ad or Parquet file. It holds: "
        f"{shown or 'nothing'}. Give the file with the table of cells."
    )
