"""Split cells into those that are learnt from and those that are held out; make the vocabulary."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from stages.base.errors import AtlasError
from stages.inputs.encoders.encoded import Encoded
from stages.inputs.encoders.encoding import encode
from stages.inputs.encoders.measured import held_out
from stages.inputs.encoders.vocabulary import CLS, EOS, MASK, PAD, Vocabulary
from stages.inputs.settings import MiniCellModel

SPECIAL = {PAD: 0, MASK: 1, CLS: 2, EOS: 3}
"""As in Geneformer's second version."""
TARGET_SUM = 10_000.0


def vocabulary(counts: sparse.csr_matrix, genes: list[str], *, fewest_cells: int) -> Vocabulary:
    """Return the genes of some cells with the median of each over the cells that have it.

    As Geneformer's: of counts per 10,000 of the cell.

    Parameters
    ----------
    counts
        (cells, genes)
    fewest_cells
        A gene that fewer cells have is left out.
    """
    scaled = sparse.diags(TARGET_SUM / np.asarray(counts.sum(axis=1)).ravel()) @ counts
    columns = scaled.tocsc()
    medians = {}
    for number, gene in enumerate(genes):
        values = columns.data[columns.indptr[number] : columns.indptr[number + 1]]
        if len(values) >= fewest_cells:
            medians[gene] = float(np.median(values))
    ids = {gene: number for number, gene in enumerate(sorted(medians), start=len(SPECIAL))}
    return Vocabulary(genes=ids, special=SPECIAL, medians=medians)


def learnt(model: MiniCellModel) -> tuple[Vocabulary, Encoded, Encoded]:
    """Return the vocabulary, the encoded cells to learn from, and those that are held out.

    Raises
    ------
    AtlasError
        All cells are held out, or none.
    """
    path = Path(str(model.cells.h5ad))
    cells = ad.read_h5ad(path)
    out = held_out(cells.obs, model.cells)
    if out.all():
        msg = "every cell is held out, none to learn from. Correct cellmodel.cells.held_out."
        raise AtlasError(msg)
    known = vocabulary(cells.X[~out], list(cells.var_names), fewest_cells=model.train.fewest_cells)
    width = model.cells.encoding.width
    found = []
    for rows in (np.flatnonzero(~out), np.flatnonzero(out)):
        parts = list(encode(path, known, model.cells.encoding, rows=rows))
        ids = np.full((sum(map(len, parts)), width), known.pad, dtype=np.int32)
        done = 0
        for part in parts:
            ids[done : done + len(part), : part.ids.shape[1]] = part.ids
            done += len(part)
        found.append(Encoded(ids, pd.concat([part.cells for part in parts], ignore_index=True)))
    return known, found[0], found[1]
