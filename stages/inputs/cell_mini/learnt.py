"""Split cells into those that are learnt from and those that are held out; make the vocabulary."""

from pathlib import Path

import anndata as ad
import numpy as np
import numpy.typing as npt
from scipy import sparse

from stages.base.errors import AtlasError
from stages.inputs.encoders.encoded import Encoded
from stages.inputs.encoders.encoding import encode
from stages.inputs.encoders.vocabulary import CLS, EOS, MASK, PAD, Vocabulary
from stages.inputs.settings import MiniCellModel

SPECIAL = {PAD: 0, MASK: 1, CLS: 2, EOS: 3}
"""As in Geneformer's second version."""
TARGET_SUM = 10_000.0


def held_out(obs: "ad.AnnData", of: dict[str, list[str]]) -> npt.NDArray[np.bool_]:
    """Return which cells are kept from training.

    Raises
    ------
    AtlasError
        A column does not exist, or all cells or none are held out.
    """
    found = np.zeros(len(obs), dtype=bool)
    for column, values in of.items():
        if column not in obs:
            msg = (
                f"held_out names the column {column}; the cells have {', '.join(obs)}. "
                "Correct cellmodel.cells.held_out."
            )
            raise AtlasError(msg)
        found |= obs[column].astype(str).isin(values).to_numpy()
    if found.all() or not found.any():
        msg = (
            f"{int(found.sum())} of {len(found)} cells are held out; some are to be, some not. "
            "Correct cellmodel.cells.held_out."
        )
        raise AtlasError(msg)
    return found


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
    """Return the vocabulary, the encoded cells to learn from, and those that are held out."""
    path = Path(str(model.cells.h5ad))
    cells = ad.read_h5ad(path)
    out = held_out(cells.obs, model.cells.held_out)
    known = vocabulary(cells.X[~out], list(cells.var_names), fewest_cells=model.train.fewest_cells)
    parts = list(encode(path, known, model.cells.encoding))
    width = model.cells.encoding.width
    ids = np.full((sum(map(len, parts)), width), known.pad, dtype=np.int32)
    done = 0
    for part in parts:
        ids[done : done + len(part), : part.ids.shape[1]] = part.ids
        done += len(part)
    import pandas as pd

    frame = pd.concat([part.cells for part in parts], ignore_index=True)
    of = held_out(frame, model.cells.held_out)
    return (
        known,
        Encoded(ids[~of], frame[~of].reset_index(drop=True)),
        Encoded(ids[of], frame[of].reset_index(drop=True)),
    )
