"""Read what the stages on operators share: labelled cells, their anchors, their features."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.base.settings import Settings
from stages.inputs.encoders import encoded, vocabulary
from stages.inputs.settings import CellInput
from stages.measurement.streams import stream
from stages.operators import maps, rulers
from stages.operators.maps import Maps
from stages.operators.panel import Cells, Inputs, Panel, anchors, expression, labelled, unit
from stages.operators.rulers import Ruler
from stages.operators.settings import OperatorGates, OperatorMaps

Floats = NDArray[np.float64]

RESIDUAL_FILE = "residual.npy"
"""Of the judged cells the stream behind the last block of the last state, mean over its genes,
float32: (n_cells, width)."""


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


def prepare(settings: Settings, folder: Path, checkpoint: Path, of: Maps) -> Prepared | None:
    """Return it; None where cells have no labels, or anchors are of fewer than three kinds.

    Parameters
    ----------
    folder
        Encoded cells.
    checkpoint
        Holds the vocabulary.
    of
        Maps of any state: all are over the same items.
    """
    asked: CellInput = settings.cellmodel.cells
    params: OperatorGates = settings.operator_gates
    cells = encoded.read(folder)
    ruler = rulers.of_cells(Path(str(asked.h5ad)))
    rows = judged(len(cells), settings.operator_maps)
    found = labelled(cells.cells.iloc[rows], params.labels, ruler)
    if found is None:
        return None
    panel = anchors(found, fewest=params.fewest_cells)
    if len(np.unique(panel.kind)) < 3 or len(np.unique(panel.donor)) < 2:
        return None
    logs = expression(asked, cells, rows[found.rows], vocabulary.read(checkpoint))
    return Prepared(ruler, found, panel, logs[:, of.items])


def judged(n_cells: int, params: OperatorMaps) -> NDArray[np.int64]:
    """Return which of the encoded cells maps are judged on, ascending."""
    drawn = stream(params.seed, "judged").permutation(n_cells)[: params.cells]
    return np.sort(drawn)


def maps_in(folder: Path, state: str) -> Maps:
    """Read the maps of a state."""
    return maps.read(folder / f"{state}.safetensors")


def ends(settings: Settings) -> tuple[str | None, str]:
    """Return the untrained state, if the first is, and the last."""
    states = settings.cellmodel.checkpoints
    untrained = states[0] if settings.cellmodel.position(states[0]) == 0 else None
    return (untrained if len(states) > 1 else None), states[-1]
