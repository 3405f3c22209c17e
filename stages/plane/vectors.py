"""Place animals and checkpoints in the plane, and return their vectors with draws of them.

A tissue's vector is the difference of the medians of its old and young animals in both metrics; the
heads' vectors are every checkpoint minus the first. On the *raw* scales the axes are Gini and
effective number. On the *corrected* scales they are the Gini coefficient times n / (n - 1) and the
effective number over n, n being the number of components: 384 heads and 15 cell types have no
effective number in common, while both corrected axes run from 0 to 1. Directions on the raw scales
depend on the units of the axes and are given for completeness; the statement rests on the corrected
ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stages.base import cli
from stages.cells import counts
from stages.heads import effects, trajectory
from stages.heads.effects import Effects
from stages.heads.tables.effects import PERTURBATIONS
from stages.heads.tables.trajectory import HEAD_METRICS
from stages.plane.directions import Floats
from stages.plane.settings import Plane
from stages.plane.tables import PLANE_SCALES

HEAD_AXES = {
    "raw": ("gini", "effective_number"),
    "corrected": ("gini_corrected", "effective_share"),
}
"""The axes of each scale among ``HEAD_METRICS``."""


@dataclass(frozen=True)
class Tissue:
    """One tissue on one scale: its animals as points (gini, effective number) of the plane."""

    key: tuple[str, str, str]
    scale: str
    young: Floats  # (n_young, 2)
    old: Floats  # (n_old, 2)
    vector: Floats  # (2,)
    draws: Floats  # (n_draws, 2)


@dataclass(frozen=True)
class Heads:
    """The heads of one perturbation on one scale, along the checkpoints that have a place."""

    perturbation: str
    scale: str
    steps: list[int]
    values: Floats  # (n_steps, 2)
    sequences: Floats  # (n_steps, n_draws, 2)
    heads: Floats  # (n_steps, n_draws, 2)

    @property
    def vector(self) -> Floats:
        """From the first checkpoint to the last, of shape (2,)."""
        change: Floats = self.values[-1] - self.values[0]
        return change


def points(samples: pd.DataFrame, scale: str) -> Floats:
    """Return the place of each sample in the plane, of shape (n_samples, 2).

    The number of components n, whatever the category set, follows from the two Gini coefficients,
    whose ratio is n / (n - 1); where both are zero all components are equal, hence present, and n
    is the richness. With one component the corrected Gini is undefined, and so is the place.

    Parameters
    ----------
    samples
        Rows of ``METRICS``.
    scale
        ``raw`` or ``corrected``.
    """
    gini, corrected, number = (
        samples[name].to_numpy(float) for name in ("gini", "gini_corrected", "effective_number")
    )
    if scale == "raw":
        return np.column_stack([gini, number])
    n = samples["richness"].to_numpy(float)
    n = np.divide(corrected, corrected - gini, out=n.copy(), where=corrected > gini)
    return np.column_stack([corrected, number / n])


def tissues(metrics: pd.DataFrame, settings: Plane) -> list[Tissue]:
    """Return the vector of every tissue that has two young and two old animals, on both scales.

    Parameters
    ----------
    metrics
        ``METRICS``.
    """
    chosen = metrics[metrics["cells"] == settings.cells]
    groups = chosen.groupby(counts.TISSUE, sort=True)
    streams = np.random.SeedSequence(settings.seed).spawn(len(groups))
    found = []
    for (key, samples), stream in zip(groups, streams, strict=True):
        for scale, own in zip(PLANE_SCALES, stream.spawn(2), strict=True):
            place = points(samples, scale)
            known = np.isfinite(place).all(axis=1)
            young, old = (
                place[known & (samples["age_group"] == group).to_numpy()]
                for group in ("young", "old")
            )
            if min(len(young), len(old)) < counts.MIN_ANIMALS:
                cli.log.info(
                    "%s on the %s scales has no vector: %d young and %d old animals, %d of each "
                    "are needed",
                    " ".join(key),
                    scale,
                    len(young),
                    len(old),
                    counts.MIN_ANIMALS,
                )
                continue
            rng = np.random.default_rng(own)
            draws = _medians(old, settings.draws, rng) - _medians(young, settings.draws, rng)
            vector = np.median(old, axis=0) - np.median(young, axis=0)
            found.append(Tissue(key, scale, young, old, vector, draws))
    return found


def _medians(animals: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """Return the medians of resampled animals, of shape (n_draws, 2)."""
    chosen = rng.integers(len(animals), size=(draws, len(animals)))
    medians: Floats = np.median(animals[chosen], axis=1)
    return medians


def heads(parts: Sequence[Effects], settings: Plane) -> list[Heads]:
    """Return the checkpoints' places of every perturbation of heads, on both scales.

    Checkpoints at which no head has an effect have no concentration and are left out. One that is
    left has no vector, and neither has its perturbation.

    Parameters
    ----------
    parts
        Effects of all steps (:func:`stages.heads.effects.read`).
    """
    found = []
    for perturbation, steps in effects.heads(parts).items():
        moved = [part for part in steps if part.per_sequence.mean(axis=0).any()]
        if len(moved) < 2:
            cli.log.info(
                "heads (%s) have no vector: %d of %d checkpoints have effects, 2 are needed",
                perturbation,
                len(moved),
                len(steps),
            )
            continue
        rng = np.random.default_rng([settings.seed, PERTURBATIONS.index(perturbation)])
        drawn = trajectory.resample(moved, draws=settings.draws, rng=rng)
        for scale, names in HEAD_AXES.items():
            axes = [HEAD_METRICS.index(name) for name in names]
            found.append(
                Heads(
                    perturbation,
                    scale,
                    [part.step for part in moved],
                    drawn.values[:, axes],
                    drawn.sequences[:, :, axes],
                    drawn.heads[:, :, axes],
                )
            )
    return found
