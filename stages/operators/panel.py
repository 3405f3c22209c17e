"""What the stages on operators share: labelled cells, their anchors, their features, their maps.

An anchor is the mean over the cells of one kind in one donor (and tissue).
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli
from stages.base.settings import Settings
from stages.inputs.encoders import encoded, expression, vocabulary
from stages.inputs.encoders.settings import Encoding
from stages.measurement.streams import stream
from stages.operators import maps, rulers
from stages.operators.maps import Maps
from stages.operators.rulers import Ruler
from stages.operators.settings import Labels, OperatorGates, OperatorMaps

Floats = NDArray[np.float64]
Names = NDArray[np.str_]

RESIDUAL_FILE = "residual.npy"
"""Of the judged cells the stream behind the last block of the last state, mean over its genes,
float32: (n_cells, width)."""


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


@dataclass(frozen=True)
class Prepared:
    """Cells that the ruler knows, as anchors, over the items of the maps."""

    ruler: Ruler
    cells: Cells
    panel: Panel
    logs: Floats
    """ln(1 + counts per 10,000), (n_cells, n_items)."""

    @property
    def x(self) -> Floats:
        """The same as unit vectors."""
        return unit(self.logs)

    def inputs(self, folder: Path) -> Inputs:
        """Return what candidates read, of every cell, with the stream in a folder of maps."""
        residual = np.load(folder / RESIDUAL_FILE, allow_pickle=False)
        return Inputs(self.x, residual[self.cells.rows].astype(float))


def add_arguments(arguments: argparse.ArgumentParser) -> None:
    """Add what every stage that judges maps reads."""
    cli.add_params(arguments)
    arguments.add_argument("--checkpoints", type=Path, required=True, help="folder of <state>/")
    arguments.add_argument("--cells", type=Path, required=True, help="folder of encoded cells")
    arguments.add_argument("--known", type=Path, required=True, help="folder of what was planted")
    arguments.add_argument("--maps", type=Path, required=True, help="folder of <state>.safetensors")


def maps_of(args: argparse.Namespace, settings: Settings) -> dict[str, Maps]:
    """Return the maps of the untrained state, if the first is, and of the last."""
    states = settings.cellmodel.checkpoints
    first = states[:1] if settings.cellmodel.position(states[0]) == 0 else []
    return {state: maps.read(args.maps / f"{state}.safetensors") for state in (*first, states[-1])}


def prepare(args: argparse.Namespace, settings: Settings, of: Maps) -> Prepared | None:
    """Return it; None where cells have no labels, or anchors are of fewer than three kinds.

    Parameters
    ----------
    of
        Maps of any state: all are over the same items.
    """
    params: OperatorGates = settings.operator_gates
    table = encoded.read(args.cells).cells
    ruler = rulers.of_cells(args.known)
    rows = judged(len(table), settings.operator_maps)
    found = labelled(table.iloc[rows], params.labels, ruler)
    if found is None:
        return None
    panel = anchors(found, fewest=params.fewest_cells)
    if len(np.unique(panel.kind)) < 3 or len(np.unique(panel.donor)) < 2:
        return None
    return Prepared(ruler, found, panel, logs(args, settings, of, rows[found.rows]))


def judged(n_cells: int, params: OperatorMaps) -> NDArray[np.int64]:
    """Return which of the encoded cells maps are judged on, ascending."""
    drawn = stream(params.seed, "judged").permutation(n_cells)[: params.cells]
    return np.sort(drawn)


def logs(
    args: argparse.Namespace, settings: Settings, of: Maps, rows: NDArray[np.int64] | None = None
) -> Floats:
    """Return ln(1 + counts per 10,000) of encoded cells, the judged ones: (rows, n_items)."""
    return np.concatenate(list(expression.logs(*_source(args, settings, of, rows))))


def counts(args: argparse.Namespace, settings: Settings, of: Maps, cells: Cells) -> Floats:
    """Return the counts of labelled cells: (rows, n_items)."""
    rows = judged(len(encoded.read(args.cells).cells), settings.operator_maps)[cells.rows]
    found = expression.counts(*_source(args, settings, of, rows))
    return np.concatenate([some for some, _ in found])


def _source(
    args: argparse.Namespace, settings: Settings, of: Maps, rows: NDArray[np.int64] | None
) -> tuple[Path, Encoding, NDArray[np.int64], vocabulary.Vocabulary, NDArray[np.int64]]:
    cells, asked = encoded.read(args.cells).cells, settings.cellmodel.cells
    rows = judged(len(cells), settings.operator_maps) if rows is None else rows
    words = vocabulary.read(args.checkpoints / settings.cellmodel.checkpoints[-1])
    in_file = cells["row"].to_numpy()[rows]
    return Path(str(asked.h5ad)), asked.encoding, in_file, words, of.items


def unit(values: Floats) -> Floats:
    """Return rows of length 1; rows of zeros stay."""
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(length > 0, length, 1.0))
