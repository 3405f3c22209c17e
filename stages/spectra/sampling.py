"""Which of the encoded cells items are met in."""

import numpy as np
from numpy.typing import NDArray

from stages.measurement.streams import stream
from stages.spectra.settings import ItemMeans


def drawn(n_encoded: int, params: ItemMeans) -> NDArray[np.int64]:
    """Return which encoded cells are read: rows, ascending; all if there are no more."""
    order = stream(params.seed, "cells").permutation(n_encoded)
    return np.sort(order[: params.n_cells])
