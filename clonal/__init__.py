"""Measure concentration from a notebook, with the study's own functions and without DVC.

The functions here take weights: counts of cells by type, absolute effects of components. Those of
:mod:`clonal.tl` take an ``AnnData`` or a ``DataFrame``. No number is computed in a second way: all
are those of :mod:`stages.measurement` and :mod:`stages.cells`.

Examples
--------
>>> gini([50, 30, 15, 5]), round(effective_number([50, 30, 15, 5]), 3)
(0.375, 3.133)
"""

from clonal import tl
from stages import __version__
from stages.measurement.concentration import (
    effective_number,
    evenness,
    gini,
    gini_corrected,
    hill_number,
    lorenz_curve,
    quadrant,
    richness,
    shannon_entropy,
)

__all__ = [
    "__version__",
    "effective_number",
    "evenness",
    "gini",
    "gini_corrected",
    "hill_number",
    "lorenz_curve",
    "quadrant",
    "richness",
    "shannon_entropy",
    "tl",
]
