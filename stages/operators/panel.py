"""Cells and anchors: the mean over the cells of one kind in one donor (and tissue)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli
from stages.inputs.encoders import matrix, naming
from stages.inputs.encoders.encoded import Encoded
from stages.inputs.encoders.presets import PRESETS
from stages.inputs.encoders.vocabulary import Vocabulary
from stages.inputs.settings import CellInput
from stages.operators.rulers import Ruler
from stages.operators.settings import Labels

Floats = NDArray[np.float64]
Names = NDArray[np.str_]


@dataclass(frozen=True)
class Inputs:
    """What candidates make features of; a row a cell or an anchor."""

    x: Floats
    """Unit vectors of ln(1 + counts per 10,000) over the items: (rows, n_items)."""
    residual: Floats | None = None
    """Residual stream behind the last block of the last state, mean over genes: (rows, width)."""


@dataclass(frozen=True)
class Cells:
    """Cells that have labels."""

    rows: NDArray[np.int64]
    """Which rows of the table they are."""
    donor: Names
    block: Names
    """Donor and whatever else labels are shuffled within."""
    kind: NDArray[np.int64]
    """Number of the kind in the ruler."""
    order: Floats | None
    """Place along an order, if the cells have one."""


@dataclass(frozen=True)
class Panel:
    """Anchors."""

    of: NDArray[np.int64]
    """The anchor of each cell, -1 of none: (n_cells,)."""
    donor: Names
    block: Names
    kind: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of anchors."""
        return len(self.kind)

    def mean(self, cells: Floats) -> Floats:
        """Average rows of cells by anchor: (n_anchors, width)."""
        kept = self.of >= 0
        total = np.zeros((len(self), cells.shape[1]))
        np.add.at(total, self.of[kept], cells[kept])
        return total / np.bincount(self.of[kept])[:, np.newaxis]

    def inputs(self, cells: Inputs) -> Inputs:
        """Return those of the anchors."""
        residual = None if cells.residual is None else self.mean(cells.residual)
        return Inputs(self.mean(cells.x), residual)


def labelled(table: pd.DataFrame, labels: Labels, ruler: Ruler) -> Cells | None:
    """Return the cells of a table whose label the ruler knows; None where there are no such labels.

    Cells with another label are left out, and their labels are said.
    """
    if labels.kind not in table or labels.donor not in table:
        cli.log.info("the cells have no column %s or %s", labels.kind, labels.donor)
        return None
    given = table[labels.kind].astype(str).to_numpy()
    known = np.isin(given, list(ruler.names))
    if unknown := sorted(set(given[~known])):
        cli.log.info("%d cells are of no kind of the ruler: %s", (~known).sum(), ", ".join(unknown))
    rows = np.flatnonzero(known)
    if not len(rows):
        return None
    blocks = [labels.donor, *(name for name in labels.blocks if name in table)]
    kept = table.iloc[rows]
    block = kept[blocks].astype(str).agg("|".join, axis=1).to_numpy(str)
    number = {kind: place for place, kind in enumerate(ruler.kinds)}
    return Cells(
        rows=rows,
        donor=kept[labels.donor].astype(str).to_numpy(str),
        block=block,
        kind=np.array([number[ruler.names[name]] for name in given[rows]]),
        order=kept[labels.order].to_numpy(float) if labels.order in kept else None,
    )


def anchors(cells: Cells, *, fewest: int) -> Panel:
    """Return the anchors of at least `fewest` cells, by block and kind."""
    keys = np.char.add(np.char.add(cells.block, "|"), np.char.zfill(cells.kind.astype(str), 6))
    _, first, inverse, counts = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    kept = counts >= fewest
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    return Panel(
        of=number[inverse],
        donor=cells.donor[first[kept]],
        block=cells.block[first[kept]],
        kind=cells.kind[first[kept]],
    )


def expression(
    asked: CellInput, cells: Encoded, rows: NDArray[np.int64], known: Vocabulary
) -> Floats:
    """Return ln(1 + counts per 10,000) of encoded cells by id of the vocabulary, (rows, n_ids).

    Counts of ids that the file has under several names are summed, as when cells are encoded.
    """
    encoding, path = asked.encoding, Path(str(asked.h5ad))
    preset = PRESETS[encoding.preset]
    found = []
    with matrix.opened(path, counts=encoding.counts, gene_column=encoding.gene_column) as source:
        genes = naming.match(
            source.genes,
            known,
            given=encoding.genes or preset.genes,
            wanted=preset.genes,
            source=str(path),
        )
        for chunk in source.chunks(cells.cells["row"].to_numpy()[rows], whole=preset.counts):
            dense = genes.only(chunk.counts).toarray()
            totals = np.maximum(chunk.totals[:, np.newaxis], 1.0)
            found.append(np.log1p(dense / totals * 1e4))
    return np.concatenate(found)


def unit(values: Floats) -> Floats:
    """Return rows of length 1; rows of zeros stay."""
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(length > 0, length, 1.0))
