"""Read what the stages on operators share: labelled cells, their anchors, their features."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.base.settings import Settings
from stages.inputs.encoders import encoded, vocabulary
from stages.inputs.settings import CellInput
from stages.operators import maps, rulers
from stages.operators.maps import Maps
from stages.operators.panel import Cells, Inputs, Panel, anchors, expression, labelled, unit
from stages.operators.rulers import Ruler
from stages.operators.settings import OperatorGates

Floats = NDArray[np.float64]


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

    def distances(self) -> Floats:
        """Steps between all kinds of the ruler."""
        return self.ruler.hops()

    def inputs(self, states: dict[str, Floats]) -> Inputs:
        """Return what candidates read, of every cell; `states` of all encoded cells."""
        return Inputs(self.x, {name: of[self.cells.rows] for name, of in states.items()})


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
    found = labelled(cells, params.labels, ruler)
    if found is None:
        return None
    panel = anchors(found, fewest=params.fewest_cells)
    if len(np.unique(panel.kind)) < 3 or len(np.unique(panel.donor)) < 2:
        return None
    logs = expression(asked, cells, found.rows, vocabulary.read(checkpoint))
    return Prepared(ruler, found, panel, logs[:, of.items])


def maps_in(folder: Path, state: str) -> Maps:
    """Read the maps of a state."""
    return maps.read(folder / f"{state}.safetensors")


def ends(settings: Settings) -> tuple[str | None, str]:
    """Return the untrained state, if the first is, and the last."""
    states = settings.cellmodel.checkpoints
    untrained = states[0] if settings.cellmodel.position(states[0]) == 0 else None
    return (untrained if len(states) > 1 else None), states[-1]
