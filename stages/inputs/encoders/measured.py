"""The cells that a model of cells is measured on, as it reads them: some of its genes hidden."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base.errors import AtlasError
from stages.inputs.encoders.encoded import Encoded
from stages.inputs.encoders.vocabulary import MASK, Vocabulary
from stages.inputs.settings import CellInput
from stages.measurement.streams import stream
from stages.models.architectures.base import Architecture
from stages.models.text import Text, cell_text

Rows = NDArray[np.int64]


def held_out(cells: pd.DataFrame, asked: CellInput) -> NDArray[np.bool_]:
    """Return which cells the model has not learnt from; all, if none are named.

    Raises
    ------
    AtlasError
        None is such, or a column is missing.
    """
    allowed = np.full(len(cells), not asked.held_out)
    for column, values in asked.held_out.items():
        if column not in cells:
            msg = (
                f"held_out names the column {column}; the cells have {', '.join(cells)}. "
                "Correct cellmodel.cells.held_out."
            )
            raise AtlasError(msg)
        allowed |= cells[column].astype(str).isin(values).to_numpy()
    if not allowed.any():
        msg = f"no cell is held out by {asked.held_out}. Correct cellmodel.cells.held_out."
        raise AtlasError(msg)
    return allowed


def chosen(cells: pd.DataFrame, asked: CellInput) -> tuple[Rows, Rows]:
    """Draw the cells whose loss is measured, and others for means; rows, both ascending.

    Raises
    ------
    AtlasError
        There are too few.
    """
    found = np.flatnonzero(held_out(cells, asked))
    needed = asked.n_cells + asked.reference_cells
    if len(found) < needed:
        msg = (
            f"{len(found)} encoded cells may be measured, {needed} are needed: {asked.n_cells} and "
            f"{asked.reference_cells} for reference. Lower cellmodel.cells.n_cells or "
            "reference_cells, or give more cells (n_encoded)."
        )
        raise AtlasError(msg)
    drawn = stream(asked.seed, "cells").permutation(found)
    return np.sort(drawn[: asked.n_cells]), np.sort(drawn[asked.n_cells : needed])


def text(
    cells: Encoded, known: Vocabulary, architecture: Architecture, rows: Rows, *, seed: int
) -> Text:
    """Return some encoded cells as a model reads them; `seed` draws which genes are hidden."""
    return cell_text(
        cells.ids[rows],
        architecture=architecture,
        pad=known.pad,
        special=sorted(known.special.values()),
        mask=known.special.get(MASK) if architecture.mask_value is None else None,
        values=None if cells.values is None else cells.values[rows],
        seed=seed,
    )
