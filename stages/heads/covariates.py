"""What is cheaply known of every head on every sequence, and its file (``ATTRIBUTION``)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import tables
from stages.base.errors import TableError
from stages.heads.tables.attribution import ATTRIBUTION

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """Cheap facts about every sequence and head; arrays (sequence, layer, head)."""

    first_order: Floats
    """First-order effect of the removal on the sequence's loss, nats per token."""
    fisher: Floats
    """Sum over positions of the squared first-order terms, times the number of predicted tokens."""
    size: Floats
    """Mean over positions of the contribution's squared length over that of the centred
    residual."""
    loss: Floats
    """Baseline loss of each sequence, nats per token: shape (sequence,)."""

    def columns(self) -> Floats:
        """Return the features side by side: (sequence, layer, head, feature)."""
        loss = np.broadcast_to(self.loss[:, np.newaxis, np.newaxis], self.first_order.shape)
        return np.stack([self.first_order, self.fisher, self.size, loss], axis=-1)


def to_table(found: Features, state: str) -> pd.DataFrame:
    """Return ``ATTRIBUTION`` of one checkpoint."""
    n, n_layers, n_heads = found.first_order.shape
    layer, head, sequence = (index.ravel() for index in np.indices((n_layers, n_heads, n)))

    def column(values: Floats) -> Floats:
        return np.moveaxis(values, 0, -1).ravel()

    return pd.DataFrame(
        {
            "state": state,
            "layer": layer,
            "head": head,
            "sequence": sequence,
            "loss_base": found.loss[sequence],
            "first_order_nats": column(found.first_order),
            "fisher": column(found.fisher),
            "size": column(found.size),
        }
    )


def read(path: Path, state: str) -> Features:
    """Read the features of one checkpoint.

    Raises
    ------
    TableError
        The file is missing, is of another state, or does not hold every head on every sequence.
    """
    table = tables.read_parquet(path, ATTRIBUTION)
    if table.empty or (table["state"] != state).any():
        msg = f"{path} is not the attribution of {state}. Run dvc repro attribution."
        raise TableError(msg)
    ordered = table.sort_values(["layer", "head", "sequence"], ignore_index=True)
    shape = tuple(int(ordered[name].max()) + 1 for name in ("layer", "head", "sequence"))
    if len(ordered) != np.prod(shape):
        msg = (
            f"{path} holds {len(ordered)} rows, not {shape[0]} layers x {shape[1]} heads x "
            f"{shape[2]} sequences. Run dvc repro attribution."
        )
        raise TableError(msg)

    def values(name: str) -> Floats:
        return np.moveaxis(ordered[name].to_numpy(float).reshape(shape), -1, 0)

    return Features(
        first_order=values("first_order_nats"),
        fisher=values("fisher"),
        size=values("size"),
        loss=values("loss_base")[:, 0, 0],
    )
