"""Which later features a feature moves, by the published rule and by calibrated ones.

Of the effects of one feature on many targets in n cells, the published rule calls an edge where the
mean over cells lies more than `min_d` standard deviations from 0 and more than `min_consistency` of
the cells lie on one side. Beside it stands what flipped signs of cells give.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.features.settings import Trace

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
_TIE = 1e-9
NULL_FLIPS = 199
"""Flips of all targets; those of edges have as many as the settings ask for."""


@dataclass(frozen=True)
class Tests:
    """What is known of the effects of one feature on each target: (n_targets,) each."""

    mean: Floats
    d: Floats
    """Mean over standard deviation; 0 where all effects are 0."""
    consistency: Floats
    """max(n+, n - n+) / n of the n cells."""
    p: Floats
    """Two-sided, of flipped signs; nan where all effects are 0."""
    null_edges: float
    """Edges by the published rule under flipped signs, on average."""

    def edges(self, params: Trace) -> Mask:
        """Return which targets the published rule calls."""
        return is_edge(self.d, self.consistency, params)


def is_edge(d: Floats, consistency: Floats, params: Trace) -> Mask:
    """Return where the published rule calls an edge."""
    found: Mask = (np.abs(d) > params.min_d) & (consistency > params.min_consistency)
    return found


def standardised(effects: Floats) -> Floats:
    """Return the mean over the first axis in standard deviations over it; 0 where all are 0."""
    mean, sd = effects.mean(axis=0), effects.std(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        d: Floats = np.where(mean == 0, 0.0, mean / sd)
    return d


def consistency(effects: Floats) -> Floats:
    """Return the share of cells on the side where most are, zeros counting as negative."""
    above = (effects > 0).mean(axis=0)
    larger: Floats = np.maximum(above, 1 - above)
    return larger


def tested(effects: Floats, params: Trace, rng: np.random.Generator) -> Tests:
    """Test the effects of a feature against no effect.

    The sign of a cell's effects is flipped for all targets at once, so that they stay as dependent
    as they are. The sum of squares does not change, and so |d| grows with |mean|.

    Parameters
    ----------
    effects
        (n_cells, n_targets)
    rng
        Draws the flips.
    """
    n, n_targets = effects.shape
    d, agree = standardised(effects), consistency(effects)
    live = (effects != 0).any(axis=0)
    p = np.full(n_targets, np.nan)
    null_edges = 0.0
    if live.any():
        signs = rng.choice((-1.0, 1.0), size=(params.flips, n))
        p[live], null_edges = _flipped(effects[:, live], signs[:NULL_FLIPS], params)
        # What is no edge needs no finer p.
        close = live & is_edge(d, agree, params)
        p[close], _ = _flipped(effects[:, close], signs, params)
    return Tests(effects.mean(axis=0), d, agree, p, null_edges)


def _flipped(effects: Floats, signs: Floats, params: Trace) -> tuple[Floats, float]:
    """Return p of each target, and how many edges there are under flipped signs, on average."""
    n = len(effects)
    flipped = signs @ effects / n
    reached = np.abs(flipped) >= np.abs(effects.mean(axis=0)) * (1 - _TIE)
    left = np.maximum(np.square(effects).sum(axis=0) - n * np.square(flipped), 0) / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        d = np.where(flipped == 0, 0.0, flipped / np.sqrt(left))
    above = (signs @ np.sign(effects) + (effects != 0).sum(axis=0)) / (2 * n)
    called = is_edge(d, np.maximum(above, 1 - above), params)
    p: Floats = (1 + reached.sum(axis=0)) / (1 + len(signs))
    return p, float(called.sum(axis=1).mean())
