"""Read the rat atlas' libraries as shipped and make the one graph of neighbours of all their cells.

Ma et al. 2020 [1]_, GEO series GSE137869. Each library is three files,
``GSM4331822_BM-M-Y_barcodes.tsv.gz``, ``_genes.tsv.gz`` (two columns, identifier and symbol) and
``_matrix.mtx.gz`` (genes x cells). A name is tissue, sex (M, F) and condition: Y young, O old and
fed freely, CR old and on caloric restriction. There is one library of each sex and condition, and
no cell types: clusters of all libraries together stand in for them. Libraries are not corrected
for batches, since a library is all that there is of its sex and condition.

References
----------
.. [1] Ma, S. et al. (2020). Caloric restriction reprograms the single-cell transcriptional
   landscape of Rattus norvegicus aging. Cell 180:984-1001.
"""

import argparse
import csv
import gzip
import itertools
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.io
from scipy import sparse

from stages.base import cli
from stages.base.errors import AtlasError
from stages.base.settings import load
from stages.cells import clustering
from stages.inputs.settings import RAT_ATLAS, Libraries

SEXES = {"M": "male", "F": "female"}
CONDITIONS = {"Y": "young", "O": "old", "CR": "restricted"}
PARTS = {"barcodes": "tsv", "genes": "tsv", "matrix": "mtx"}
NAME = re.compile(
    r"(?P<sample>GSM\d+)_(?P<library>(?P<tissue>[A-Za-z]+)-(?P<sex>[MF])-(?P<condition>Y|O|CR))"
    r"_(?P<part>barcodes\.tsv|genes\.tsv|matrix\.mtx)\.gz"
)
LOOKS_LIKE_A_LIBRARY = re.compile(r".*(barcodes|genes|features|matrix)\.(tsv|mtx|h5)(\.gz)?")
OTHER_SPECIES = ("ENSMUSG", "ENSG0")
"""How identifiers of genes of the mouse and of man begin (Ensembl)."""

SHARED_GENES = 0.5
"""At least this part of the shortest list of genes must be in all of them."""

AGAIN = "Fetch the file again: delete the folder and run dvc repro."


@dataclass(frozen=True)
class Library:
    """The counts of one library: one sex on one condition."""

    name: str
    sex: str
    condition: str
    genes: pd.Index
    """Names, each once."""
    counts: sparse.csr_matrix
    """Cells x genes."""


def read(spec: Libraries) -> ad.AnnData:
    """Read all libraries of a folder over the genes that all of them list.

    Genes are joined by name, since the lists differ; rows of one name in a library are summed, as
    the rows of two lists could not be told apart by a number. Cells with fewer than `min_counts`
    counts are left out, and one line says how many.

    Returns
    -------
    AnnData, cells x genes
        `X`: counts (CSR, float32). `obs`: ``clustering.OBS``, with the library as `animal` and no
        `cell_type`, and `condition`: young, old or restricted. Libraries stand in the order of
        conditions, the male first.

    Raises
    ------
    AtlasError
        A file is missing or damaged, holds something else than counts, or is of another data set; a
        library has no cells; or the gene lists do not fit together.
    """
    found = [read_library(spec, files) for files in libraries_of(spec)]
    shared = shared_genes(found, spec.raw)
    obs, counts = [], []
    for library in found:
        of_library = library.counts[:, library.genes.get_indexer(shared)]
        kept = np.asarray(of_library.sum(axis=1)).ravel() >= spec.min_counts
        if not kept.any():
            msg = (
                f"{spec.raw}: no cell of library {library.name} has {spec.min_counts} counts "
                f"({len(kept)} cells). Lower min_counts of atlas.libraries, or fetch the file "
                "again."
            )
            raise AtlasError(msg)
        if few := int((~kept).sum()):
            cli.log.info(
                "%s: %d of %d cells left out, with fewer than %d counts",
                library.name,
                few,
                len(kept),
                spec.min_counts,
            )
        counts.append(of_library[kept])
        obs.append(_obs(library, int(kept.sum()), spec))
    return clustering.from_counts(
        sparse.vstack(counts, format="csr"),
        shared,
        pd.concat(obs, ignore_index=True),
        where=str(spec.raw),
    )


def _obs(library: Library, n: int, spec: Libraries) -> pd.DataFrame:
    known = {
        "cohort": spec.cohort,
        "platform": spec.platform,
        "tissue": spec.tissue,
        "animal": library.name,
        "sex": SEXES[library.sex],
        "block": None,
        "age_months": spec.age_months[library.condition],
        "condition": CONDITIONS[library.condition],
        "group": "reference" if library.condition == "Y" else "compared",
        "cell_type": None,
    }
    return pd.DataFrame([known] * n).astype({"cell_type": object})


def libraries_of(spec: Libraries) -> list[dict[str, re.Match[str]]]:
    """Find the three files of each of the six libraries by their names.

    The atlas' other tissues and files that are no part of a library are passed over.

    Returns
    -------
    list of {"barcodes": ..., "genes": ..., "matrix": ...}
        The file names, matched by ``NAME``.

    Raises
    ------
    AtlasError
        The folder is missing, a file is not of the rat atlas, or a library lacks a file or has one
        twice.
    """
    if not spec.raw.is_dir():
        msg = f"the folder of libraries {spec.raw} does not exist. Run dvc repro acquire."
        raise AtlasError(msg)
    files: dict[str, dict[str, re.Match[str]]] = {}
    for path in sorted(spec.raw.iterdir()):
        name = NAME.fullmatch(path.name)
        if name is None and not LOOKS_LIKE_A_LIBRARY.fullmatch(path.name):
            continue
        if name is None:
            msg = (
                f"{spec.raw} holds {path.name}, which is no library of the rat atlas {RAT_ATLAS}: "
                f"its names are as GSM4331822_{spec.prefix}-M-Y_matrix.mtx.gz. GSE141784, which "
                "is cited for it, holds islets of NOD mice. Fetch the rat atlas into a folder of "
                "its own."
            )
            raise AtlasError(msg)
        if name["tissue"] != spec.prefix:
            continue
        parts = files.setdefault(name["library"], {})
        part = name["part"].partition(".")[0]
        if part in parts:
            msg = (
                f"{spec.raw} holds the {part} of library {name['library']} twice, in "
                f"{parts[part].string} and {path.name}: a library has one of each. Delete the "
                "folder and run dvc repro."
            )
            raise AtlasError(msg)
        parts[part] = name
    chosen = []
    for condition, sex in itertools.product(CONDITIONS, SEXES):
        library = f"{spec.prefix}-{sex}-{condition}"
        parts = files.get(library, {})
        if missing := [part for part in PARTS if part not in parts]:
            msg = (
                f"{spec.raw} lacks {' and '.join(missing)} of library {library}: needed are "
                f"{', '.join(f'GSM<n>_{library}_{part}.{PARTS[part]}.gz' for part in missing)}. "
                f"{AGAIN}"
            )
            raise AtlasError(msg)
        if len(samples := sorted({name["sample"] for name in parts.values()})) > 1:
            msg = (
                f"{spec.raw}: the files of library {library} are of different samples, "
                f"{' and '.join(samples)}. {AGAIN}"
            )
            raise AtlasError(msg)
        chosen.append(parts)
    return chosen


def read_library(spec: Libraries, files: dict[str, re.Match[str]]) -> Library:
    """Read the three files of one library.

    Raises
    ------
    AtlasError
        A file is damaged, the three do not fit together, or the library has no cells.
    """
    paths = {part: spec.raw / name.string for part, name in files.items()}
    name = files["matrix"]
    genes = _gene_names(paths["genes"])
    barcodes = [row[0] for row in _rows(paths["barcodes"], columns=1)]
    if not barcodes:
        msg = f"{paths['barcodes']}: library {name['library']} has no cells. {AGAIN}"
        raise AtlasError(msg)
    matrix = _matrix(paths["matrix"])
    if matrix.shape != (len(genes), len(barcodes)):
        msg = (
            f"{paths['matrix']} has {matrix.shape[0]} genes x {matrix.shape[1]} cells, but its "
            f"lists name {len(genes)} genes and {len(barcodes)} cells. {AGAIN}"
        )
        raise AtlasError(msg)
    row, unique = pd.factorize(pd.Index(genes))
    # Rows of one name are summed: (names x rows) @ (rows x cells).
    into = sparse.csr_matrix(
        (np.ones(len(row), np.float32), (row, np.arange(len(row)))), (len(unique), len(row))
    )
    return Library(
        name["library"], name["sex"], name["condition"], unique, (into @ matrix).T.tocsr()
    )


def shared_genes(found: Sequence[Library], folder: Path) -> list[str]:
    """Return the names that every library lists, in the order of the first one.

    Raises
    ------
    AtlasError
        They are too few for lists of one genome.
    """
    first, *others = found
    kept = np.ones(len(first.genes), dtype=bool)
    for library in others:
        kept &= first.genes.isin(library.genes)
    shortest = min(found, key=lambda library: len(library.genes))
    if kept.sum() < max(2, SHARED_GENES * len(shortest.genes)):
        odd = min(others, key=lambda library: int(first.genes.isin(library.genes).sum()))
        msg = (
            f"{folder}: the libraries have {kept.sum()} gene names in common, of "
            f"{len(shortest.genes)} in {shortest.name}; {first.name} begins with "
            f"{first.genes[0]!r}, {odd.name} with {odd.genes[0]!r}. Lists of one data set share "
            f"at least {SHARED_GENES:.0%}. {AGAIN}"
        )
        raise AtlasError(msg)
    lengths = [len(library.genes) for library in found]
    if max(lengths) > kept.sum():
        cli.log.info(
            "%s: the libraries list %d to %d genes, %d of them in all",
            folder,
            min(lengths),
            max(lengths),
            kept.sum(),
        )
    return [str(gene) for gene in first.genes[kept]]


def _gene_names(path: Path) -> list[str]:
    rows = _rows(path, columns=2)
    if not rows:
        msg = f"{path} lists no genes. {AGAIN}"
        raise AtlasError(msg)
    if foreign := next((row[0] for row in rows if row[0].startswith(OTHER_SPECIES)), None):
        msg = (
            f"{path} lists {foreign}, a gene of another species: this is not the rat atlas "
            f"{RAT_ATLAS}. Fetch the rat atlas."
        )
        raise AtlasError(msg)
    return [row[1] for row in rows]


def _rows(path: Path, *, columns: int) -> list[list[str]]:
    """Read a gzipped table without a header, separated by tabs."""
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError, csv.Error) as error:
        raise AtlasError(_damaged(path, error)) from None
    for number, row in enumerate(rows, start=1):
        if len(row) != columns:
            msg = f"{path}: line {number} has {len(row)} columns, not {columns}. {AGAIN}"
            raise AtlasError(msg)
    return rows


def _matrix(path: Path) -> sparse.csc_matrix:
    """Read a gzipped Matrix Market file of counts, genes x cells."""
    try:
        *_, layout, field, symmetry = scipy.io.mminfo(str(path))
        if layout != "coordinate" or field not in {"integer", "real"} or symmetry != "general":
            msg = f"it is a Matrix Market file of kind {layout} {field} {symmetry}"
            raise ValueError(msg)  # noqa: TRY301 - told as what else is wrong with the file
        matrix = sparse.csc_matrix(scipy.io.mmread(str(path)), dtype=np.float64)
    except (EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError) as error:
        raise AtlasError(_damaged(path, error)) from None
    if fault := clustering.fault_of_counts(matrix):
        msg = f"{path} holds no counts: {fault}. {clustering.GIVE_COUNTS}"
        raise AtlasError(msg)
    return matrix.astype(np.float32)


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} is truncated or damaged ({' '.join(str(error).split())[:200]}). {AGAIN}"


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    if args.file not in settings.atlas.libraries:
        allowed = ", ".join(settings.atlas.libraries) or "none"
        msg = (
            f"atlas {settings.atlas.name} names no libraries {args.file!r}: allowed are {allowed}."
        )
        raise AtlasError(msg)
    cells = read(settings.atlas.libraries[args.file])
    clustering.write_graph(clustering.neighbours(cells, settings.neighbours), args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--file", required=True, help="a key of atlas.libraries in the settings")
    parser.add_argument("--out", type=Path, required=True, help="the graph (h5ad) to write")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
