"""scGPT's input: genes of a cell with the quantile bin of their expression.

Only genes that a cell expresses; bins are taken before a long cell is cut down. What upstream draws
from one generator for all cells is drawn here from the name of the cell: neither its batch nor
other cells change it, nor does the length that is allowed change its bins.

References
----------
Cui, H. et al. (2024). scGPT: toward building a foundation model for single-cell multi-omics using
generative AI. Nature Methods 21:1470-1480.
"""

import numpy as np
from numpy.typing import NDArray

from stages.inputs.encoders.encoded import Values
from stages.measurement.streams import stream

N_EDGES = 50
"""``n_bins`` 51 upstream, of which bin 0 is that of genes that are not expressed."""


def binned(expressed: NDArray[np.float64], *, seed: int, cell: str) -> Values:
    """Return bins 1 to 50; values that span several are spread over them evenly at random.

    Bin i holds the values from the i-th of 50 quantile edges up to the next. A value that equals
    several edges is of any of their bins: a cell of equal counts has all fifty.

    Parameters
    ----------
    expressed
        Above 0, at least one.
    """
    edges = np.quantile(expressed, np.linspace(0, 1, N_EDGES))
    last = np.digitize(expressed, edges)
    before = np.digitize(expressed, edges, right=True)
    drawn = stream(seed, "scgpt", "bins", cell).random(len(expressed))
    return np.ceil(drawn * (before - last) + last).astype(np.float32)


def sampled(n_genes: int, room: int, *, seed: int, cell: str) -> NDArray[np.int64]:
    """Return which genes of a cell stay: all that have room, else so many at random, in order."""
    if n_genes <= room:
        return np.arange(n_genes)
    rng = stream(seed, "scgpt", "genes", cell)
    return np.sort(rng.choice(n_genes, size=room, replace=False))
