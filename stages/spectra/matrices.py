r"""The matrix of a layer, items by dimensions, and what each part of the text says of it.

The mean of item i over all text is :math:`x_i = \sum_r n_{ir} x_{ir} / N_i`. What part r of B says
of it is the pseudo-value :math:`x_i + B\, n_{ir} (x_{ir} - x_i) / N_i`, whose mean over parts is
:math:`x_i` exactly (infinitesimal jackknife of a ratio; Efron 1982, The Jackknife, the Bootstrap
and Other Resampling Plans, chapter 6). An item that a part has not met deviates by nothing there.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.base.errors import RepresentationError
from stages.representations import arrays
from stages.representations.arrays import Representations

Floats = NDArray[np.float64]

FEWEST = 4
"""Items that a spectrum needs: fewer have no neighbours to compare."""


@dataclass(frozen=True)
class Items:
    """The items of a model in one state, and how often each was met."""

    found: Representations
    tokens: NDArray[np.int64]
    """Ids, ascending: (n_items,)."""
    counts: NDArray[np.int64]
    """Positions, over all parts: (n_items,)."""
    n_parts: int
    n_rare: int
    """Items that were met too seldom, and are left out."""
    n_never_met: int
    """Items that the model knows and the text has nowhere."""
    row: NDArray[np.int64]
    """Rows of the harvest that are of these items."""
    item: NDArray[np.int64]
    """Which item each is of."""

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.tokens)

    @property
    def names(self) -> list[str]:
        """What the items stand for: genes, or ids where no vocabulary says."""
        known = self.found.names
        return [str(token) if known is None else known[token] for token in self.tokens]

    @property
    def log_frequency(self) -> Floats:
        """Natural logarithm of the counts: (n_items,)."""
        return np.log(self.counts)

    def matrix(self, layer: int) -> Floats:
        """Return the mean vectors of a layer, (n_items, width), not centred."""
        sums = self._sums(self.found.layer(layer)[self.row])
        return np.asarray(sums / self.counts[:, np.newaxis])

    def deviations(self, layer: int, matrix: Floats) -> Floats:
        """Return how the pseudo-values of each part deviate: (n_parts, n_items, width).

        Parameters
        ----------
        matrix
            That of :meth:`matrix`.
        """
        part, times = self.found.rows["part"][self.row], self.found.rows["count"][self.row]
        weight = self.n_parts * times / self.counts[self.item]
        deviation = np.zeros((self.n_parts, *matrix.shape))
        rows = self.found.layer(layer)[self.row].astype(np.float64)
        deviation[part, self.item] = weight[:, np.newaxis] * (rows - matrix[self.item])
        return deviation

    def _sums(self, rows: NDArray[np.float32]) -> Floats:
        sums = np.zeros((len(self), rows.shape[1]))
        times = self.found.rows["count"][self.row, np.newaxis]
        np.add.at(sums, self.item, rows * times.astype(np.float64))
        return sums


def read(folder: Path, *, min_count: int) -> Items:
    """Read the items of a harvest that were met at least `min_count` times.

    Raises
    ------
    RepresentationError
        The folder holds no means of items, or too few of them.
    """
    found = arrays.read(folder)
    if found.kind != "item_mean":
        msg = f"{folder} holds {found.kind}, not item_mean. Harvest items: dvc repro."
        raise RepresentationError(msg)
    met, item = np.unique(found.rows["token"], return_inverse=True)
    counts = np.zeros(len(met), dtype=np.int64)
    np.add.at(counts, item, found.rows["count"])
    kept = counts >= min_count
    if kept.sum() < FEWEST:
        msg = (
            f"{int(kept.sum())} items of {folder} were met {min_count} times or more, of which a "
            f"spectrum needs {FEWEST}. Lower spectrum.min_count or read more text."
        )
        raise RepresentationError(msg)
    place = np.cumsum(kept) - 1
    row = np.flatnonzero(kept[item])
    return Items(
        found=found,
        tokens=met[kept].astype(np.int64),
        counts=counts[kept],
        n_parts=int(found.statement["parts"]),
        n_rare=int((~kept).sum()),
        n_never_met=int(found.statement["n_items"]) - len(met),
        row=row,
        item=place[item[row]],
    )
