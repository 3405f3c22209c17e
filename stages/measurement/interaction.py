r"""Say what several components do together beyond the sum of what each does alone.

Of two, :math:`\varepsilon_{AB} = \delta_{AB} - \delta_A - \delta_B`, with :math:`\delta` the rise
of the loss without them. Above 0, both cost more than the sum: they make up for each other, and
each alone is missed less than it is worth. Below 0, the second costs less where the first is gone.
Fitness has the opposite sign, since there more is better.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def interaction(together: Floats, singles: Sequence[Floats]) -> Floats:
    """Return the effect of several components at once less the sum of their single effects.

    Parameters
    ----------
    together
        On each replicate, of any shape.
    singles
        Of each component alone, on the same replicates: arrays of that shape.

    Examples
    --------
    >>> interaction(np.array([0.5, 0.25]), [np.array([0.125, 0.25]), np.array([0.25, 0.0])])
    array([0.125, 0.   ])
    """
    excess: Floats = np.asarray(together, dtype=float)
    for single in singles:
        excess = excess - single
    return excess
