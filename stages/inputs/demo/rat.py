"""Write the rat marrow libraries as the archive ships them: three files each, without cell types.

Names are ``GSM4331822_BM-M-Y_barcodes.tsv.gz``, ``_genes.tsv.gz`` (identifier and symbol) and
``_matrix.mtx.gz`` (genes x cells). The gene lists of the libraries differ by one gene, as those of
the published ones do: join by name.
"""

import gzip
from pathlib import Path

import numpy as np
from scipy import sparse

from stages.inputs.demo import expression, model
from stages.inputs.demo.layouts import barcodes

TISSUE = "Marrow"
FIRST_ACCESSION = 4331822
EXTRA_GENE = "Pecam1"
"""A gene that only one library lists (the published BM-M-O does)."""

LIBRARY_WITH_EXTRA = "BM-M-O"
EXTRA_RATE = 0.05


def write(folder: Path, of: model.Cohort, generator: np.random.Generator) -> None:
    """Write all libraries into a folder, which must exist."""
    composition = model.compositions(of)[TISSUE]
    for number, sample in enumerate(model.samples(of, TISSUE, composition, generator)):
        library = sample.animal.animal
        counts = expression.draw(
            composition.cell_types, sample.cell_type, sample.substate, of, generator
        )
        genes = list(expression.GENES)
        if library == LIBRARY_WITH_EXTRA:
            extra = generator.poisson(EXTRA_RATE, size=(counts.shape[0], 1))
            counts = sparse.hstack(
                [counts, sparse.csr_matrix(extra.astype(np.float32))], format="csr"
            )
            genes.append(EXTRA_GENE)
        stem = f"GSM{FIRST_ACCESSION + number}_{library}"
        names = [f"{barcode}-1" for barcode in barcodes(counts.shape[0], generator)]
        _write(folder / f"{stem}_barcodes.tsv.gz", "".join(f"{name}\n" for name in names))
        listed = "".join(f"SIMRAT{number_of(gene):08d}\t{gene}\n" for gene in genes)
        _write(folder / f"{stem}_genes.tsv.gz", listed)
        _write(folder / f"{stem}_matrix.mtx.gz", _matrix_market(counts.T.tocsc()))


def number_of(gene: str) -> int:
    """Return the number in a gene's invented identifier, the same in every library."""
    return (*expression.GENES, EXTRA_GENE).index(gene) + 1


def _matrix_market(matrix: sparse.csc_matrix) -> str:
    """Write the text by hand: the libraries' writers add comments with their version."""
    matrix.sort_indices()
    columns = np.repeat(np.arange(matrix.shape[1]), np.diff(matrix.indptr)) + 1
    entries = zip(
        (matrix.indices + 1).tolist(),
        columns.tolist(),
        matrix.data.astype(np.int64).tolist(),
        strict=True,
    )
    head = "%%MatrixMarket matrix coordinate integer general\n%\n"
    size = f"{matrix.shape[0]} {matrix.shape[1]} {matrix.nnz}\n"
    return head + size + "".join(f"{row} {column} {value}\n" for row, column, value in entries)


def _write(path: Path, text: str) -> None:
    # Neither the time nor the name goes into the header: the same content gives the same bytes.
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as file,
    ):
        file.write(text.encode())
