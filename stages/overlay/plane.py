r"""Lay the ageing of tissues and the training of heads into one plane, and compare directions.

Original steps 07 and 14. What is compared was laid down here before any of it was computed.

*Vectors.* A tissue's vector is the difference of the medians of its old and young animals in both
metrics; the heads' vectors are every checkpoint minus the first. On the *raw* scales the axes are
Gini and effective number. On the *corrected* scales they are the Gini coefficient times n / (n - 1)
and the effective number over n, n being the number of components: 384 heads and 15 cell types have
no effective number in common, while both corrected axes run from 0 to 1. Directions on the raw
scales depend on the units of the axes and are given for completeness; the statement rests on the
corrected ones.

*Uncertainty.* Animals are resampled within their age group, with both metrics of an animal kept
together; the intervals of single coordinates are those of the exact bootstrap
(:func:`stages.resampling.bootstrap_median_change`). For heads, sequences are resampled and,
separately, heads, the same ones at all checkpoints (:mod:`stages.ablation.trajectory`). The
covariance of the draws makes the ellipse; angles have intervals of the turns from the estimate
[1]_. Over 400 simulated tissues the nominal 95% intervals held the true coordinates and angle in
0.93 to 0.94 with 4 and 3 animals, 0.96 to 0.97 with 6 and 5, 0.96 to 0.98 with 9 and 9. Over 200
simulated trainings (48 heads, 32 sequences) those over sequences held them in 0.92 to 0.97 where
noise made a fifth of the sum of absolute effects (`noise_share`), but only in 0.58 to 0.78 where it
made two fifths at the first checkpoint: then no interval of the heads should be believed.

*Same direction.* The estimate is the angle between a tissue's vector v and the vector h of the
heads from the first to the last checkpoint, 0 to 180 degrees, both sides resampled for its
interval. The test statistic is the inner product v . h, large only where both vectors are long and
point the same way, one-sided, under two nulls:

* *permuted ages*: the tissue's animals are exchangeable between young and old. All arrangements are
  counted where there are few, else some are drawn and the observed one is counted among them [2]_.
* *permuted checkpoints*: the checkpoints are exchangeable, so that h may be the difference of any
  two, in either order. All ordered pairs are counted; with K checkpoints no p-value is below
  1 / (K (K - 1)).

`p` is the larger of both, since both must be rejected to speak of one direction (an
intersection-union test [3]_); `q` is adjusted over the tissues of one cohort and platform. The same
nulls for the angle alone stand beside them, and have little power: the two metrics almost mirror
each other, so nearly every vector, permuted or not, lies close to one line, and about half of all
arrangements point the way of h. For the same reason two unrelated systems share a quadrant about
half of the time.

*What it cannot say.* A quadrant that cells and heads share is an analogy and not a mechanism: no
tissue of one animal and no head of one model have a common cause here. Ages are permuted regardless
of sex, so what confounds age and sex (:mod:`stages.composition.aging` permutes within sexes) stays
in. The first checkpoint's heads may be all but noise, whose Gini is 0.414: `noise_share_first` says
how far the vector starts from the noise floor instead of from a measured state.

References
----------
.. [1] Mardia, K. V. and Jupp, P. E. (2000). Directional Statistics. Wiley, chapter 12.
.. [2] Phipson, B. and Smyth, G. K. (2010). Permutation p-values should never be zero. Statistical
   Applications in Genetics and Molecular Biology 9:39.
.. [3] Berger, R. L. (1982). Multiparameter hypothesis testing and acceptance sampling.
   Technometrics 24:295-300.
"""

import argparse
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages import cli, resampling, tables
from stages.ablation import effects, trajectory
from stages.ablation.effects import Effects
from stages.composition import aging, counts
from stages.errors import TableError
from stages.overlay import directions
from stages.settings import Plane, load

Floats = NDArray[np.float64]

# The axes of each scale among tables.HEAD_METRICS.
_HEAD_AXES = {
    "raw": ("gini", "effective_number"),
    "corrected": ("gini_corrected", "effective_share"),
}
# Statistics closer than this, relative to the largest, differ only in the order of summation.
_TIE = 1e-12
# Angles in degrees carry rounding of the arcus tangent: observed below 1e-13.
_TIE_DEGREES = 1e-9


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
        Rows of ``tables.METRICS``.
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
        ``tables.METRICS``.
    """
    chosen = metrics[metrics["cells"] == settings.cells]
    groups = chosen.groupby(counts.TISSUE, sort=True)
    streams = np.random.SeedSequence(settings.seed).spawn(len(groups))
    found = []
    for (key, samples), stream in zip(groups, streams, strict=True):
        for scale, own in zip(tables.PLANE_SCALES, stream.spawn(2), strict=True):
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
        Effects of all steps (:func:`stages.ablation.effects.read`).
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
        rng = np.random.default_rng([settings.seed, tables.PERTURBATIONS.index(perturbation)])
        drawn = trajectory.resample(moved, draws=settings.draws, rng=rng)
        for scale, names in _HEAD_AXES.items():
            axes = [tables.HEAD_METRICS.index(name) for name in names]
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


def plane(
    of_tissues: Sequence[Tissue],
    of_heads: Sequence[Heads],
    along: pd.DataFrame,
    settings: Plane,
) -> pd.DataFrame:
    """Return every vector of the plane with its uncertainty (``tables.PLANE``).

    Parameters
    ----------
    of_tissues, of_heads
        From :func:`tissues` and :func:`heads`.
    along
        ``tables.HEAD_TRAJECTORY`` of the same effects.

    Raises
    ------
    TableError
        The trajectory is not that of these effects.
    """
    rows = [_tissue_row(tissue, settings) for tissue in of_tissues]
    for moving in of_heads:
        rows += _head_rows(moving, _noise_shares(along, moving), settings)
    if not rows:
        return tables.empty(tables.PLANE)
    table = pd.DataFrame(rows)
    table["quadrant"] = _quadrants(table)
    return table.reindex(columns=list(tables.PLANE.columns))


def _tissue_row(tissue: Tissue, settings: Plane) -> dict[str, object]:
    ends = [
        resampling.bootstrap_median_change(
            tissue.young[:, axis], tissue.old[:, axis], confidence=settings.confidence
        )
        for axis in (0, 1)
    ]
    return {
        "system": "cells",
        **dict(zip(counts.TISSUE, tissue.key, strict=True)),
        "scale": tissue.scale,
        "bootstrap": "animals",
        "n_young": len(tissue.young),
        "n_old": len(tissue.old),
        **_coordinates(tissue.vector, [end.low for end in ends], [end.high for end in ends]),
        **_spread(tissue.vector, tissue.draws, settings, mirrored=False),
    }


def _head_rows(
    moving: Heads, noise_shares: Sequence[float], settings: Plane
) -> list[dict[str, object]]:
    """Return one row for each later checkpoint and each of the two bootstraps."""
    rows = []
    for i in range(1, len(moving.steps)):
        vector = moving.values[i] - moving.values[0]
        draws = {
            "sequences": moving.sequences[i] - moving.sequences[0],
            "heads": moving.heads[i] - moving.heads[0],
        }
        ends = trajectory.intervals(vector, draws["sequences"], draws["heads"], settings.confidence)
        for bootstrap, (low, high) in zip(draws, (ends[:2], ends[4:]), strict=True):
            rows.append(
                {
                    "system": "heads",
                    "perturbation": moving.perturbation,
                    "step_first": moving.steps[0],
                    "step": moving.steps[i],
                    "scale": moving.scale,
                    "bootstrap": bootstrap,
                    **_coordinates(vector, low, high),
                    **_spread(
                        vector, draws[bootstrap], settings, mirrored=bootstrap == "sequences"
                    ),
                    "noise_share_first": noise_shares[0],
                    "noise_share": noise_shares[i],
                }
            )
    return rows


def _coordinates(
    vector: Floats, low: Sequence[float] | Floats, high: Sequence[float] | Floats
) -> dict[str, object]:
    return {
        f"{axis}{end}": float(values[i])
        for i, axis in enumerate(("d_gini", "d_effective"))
        for end, values in (("", vector), ("_low", low), ("_high", high))
    }


def _spread(vector: Floats, draws: Floats, settings: Plane, *, mirrored: bool) -> dict[str, object]:
    """Return the covariance of the draws, and the direction with its interval."""
    covariance = np.cov(draws, rowvar=False)
    angle, angles = float(directions.direction(vector)), directions.direction(draws)
    low, high = directions.interval(
        angle, angles, confidence=settings.confidence, mirrored=mirrored
    )
    return {
        "variance_gini": covariance[0, 0],
        "variance_effective": covariance[1, 1],
        "covariance": covariance[0, 1],
        "angle_degrees": angle,
        "angle_low": low,
        "angle_high": high,
        "resultant_length": directions.resultant_length(angles),
    }


def _noise_shares(along: pd.DataFrame, moving: Heads) -> list[float]:
    """Return the share of noise at each checkpoint, from the trajectory of the same effects."""
    metric = _HEAD_AXES[moving.scale][0]
    chosen = (along["perturbation"] == moving.perturbation) & (along["metric"] == metric)
    rows = along[chosen].set_index("step")
    for step, value in zip(moving.steps, moving.values[:, 0], strict=True):
        known = step in rows.index
        if not known or not np.isclose(rows.loc[step, "value"], value, rtol=1e-9, atol=0):
            shown = f"{rows.loc[step, 'value']:.6g}" if known else "nothing"
            msg = (
                f"the head_trajectory table says {shown} for {metric} at step {step} "
                f"({moving.perturbation}), the effects {value:.6g}. Run dvc repro trajectory."
            )
            raise TableError(msg)
    return [float(rows.loc[step, "noise_share"]) for step in moving.steps]


def _quadrants(table: pd.DataFrame) -> pd.Series:
    """Name the quadrant of every vector as the changes of tissues are named."""
    long = pd.concat(
        [
            pd.DataFrame(
                {
                    "cohort": table.index,
                    "platform": "",
                    "tissue": "",
                    "cells": "",
                    "metric": metric,
                    "change": table[column],
                }
            )
            for metric, column in (("gini", "d_gini"), ("effective_number", "d_effective"))
        ],
        ignore_index=True,
    )
    return pd.Series(aging.quadrants(long).to_numpy()[: len(table)], index=table.index)


def same_direction(
    of_tissues: Sequence[Tissue], of_heads: Sequence[Heads], settings: Plane
) -> pd.DataFrame:
    """Return angle and tests of every tissue against the heads (``tables.PLANE_DIRECTIONS``).

    Parameters
    ----------
    of_tissues, of_heads
        From :func:`tissues` and :func:`heads`.

    Returns
    -------
    DataFrame
        Without rows where there is no tissue or no heads to compare.
    """
    streams = np.random.SeedSequence([settings.seed, 1]).spawn(len(of_tissues))
    rows = [
        _compare(tissue, moving, settings, np.random.default_rng(stream))
        for tissue, stream in zip(of_tissues, streams, strict=True)
        for moving in of_heads
        if moving.scale == tissue.scale
    ]
    if not rows:
        return tables.empty(tables.PLANE_DIRECTIONS)
    table = pd.DataFrame(rows)
    family = table.groupby(["cohort", "platform", "perturbation", "scale"])["p"]
    table["q"] = family.transform(resampling.benjamini_hochberg)
    return table[list(tables.PLANE_DIRECTIONS.columns)]


def _compare(
    tissue: Tissue, moving: Heads, settings: Plane, rng: np.random.Generator
) -> dict[str, object]:
    vector, reference = tissue.vector, moving.vector
    turned = float(directions.turn(reference, vector))
    by_ages = permuted_ages(
        tissue.young, tissue.old, max_permutations=settings.max_permutations, rng=rng
    )
    by_steps = permuted_checkpoints(moving.values)
    ages, ages_angle = one_sided(vector, reference, by_ages, exact=_exact(tissue, settings))
    steps, steps_angle = one_sided(reference, vector, by_steps, exact=True)
    return {
        **dict(zip(counts.TISSUE, tissue.key, strict=True)),
        "perturbation": moving.perturbation,
        "step_first": moving.steps[0],
        "step_last": moving.steps[-1],
        "scale": tissue.scale,
        "n_young": len(tissue.young),
        "n_old": len(tissue.old),
        "n_steps": len(moving.steps),
        "angle_degrees": abs(turned),
        **_angle_ends("sequences", tissue, moving.sequences, turned, settings),
        **_angle_ends("heads", tissue, moving.heads, turned, settings),
        "product": ages.statistic,
        "ages_p": ages.p,
        "ages_p_smallest": ages.p_smallest,
        "ages_exact": ages.exact,
        "ages_angle_p": ages_angle.p,
        "checkpoints_p": steps.p,
        "checkpoints_p_smallest": steps.p_smallest,
        "checkpoints_angle_p": steps_angle.p,
        "p": max(ages.p, steps.p),
    }


def _angle_ends(
    bootstrap: str, tissue: Tissue, drawn: Floats, turned: float, settings: Plane
) -> dict[str, float]:
    """Return the interval of the angle, both sides resampled."""
    turns = directions.turn(drawn[-1] - drawn[0], tissue.draws)
    ends = directions.interval(
        turned, turns, confidence=settings.confidence, mirrored=bootstrap == "sequences"
    )
    low, high = directions.unsigned(*ends)
    return {f"angle_{bootstrap}_low": low, f"angle_{bootstrap}_high": high}


def _exact(tissue: Tissue, settings: Plane) -> bool:
    n_old = len(tissue.old)
    return math.comb(len(tissue.young) + n_old, n_old) <= settings.max_permutations


def permuted_ages(
    young: Floats, old: Floats, *, max_permutations: int, rng: np.random.Generator
) -> Floats:
    """Return the vectors of a tissue whose animals are exchanged between the age groups.

    Parameters
    ----------
    young, old : shape (n, 2)
    max_permutations
        All arrangements are counted if there are at most this many, else this many are drawn.

    Returns
    -------
    array of shape (n_arrangements, 2)
    """
    pooled = np.concatenate([young, old])
    n, n_old = len(pooled), len(old)
    if math.comb(n, n_old) <= max_permutations:
        order = np.array(
            [
                [*taken, *sorted(set(range(n)) - set(taken))]
                for taken in itertools.combinations(range(n), n_old)
            ]
        )
    else:
        order = rng.permuted(np.tile(np.arange(n), (max_permutations, 1)), axis=1)
    medians = [np.median(pooled[part], axis=1) for part in (order[:, :n_old], order[:, n_old:])]
    vectors: Floats = medians[0] - medians[1]
    return vectors


def permuted_checkpoints(values: Floats) -> Floats:
    """Return the differences of all ordered pairs of checkpoints, of shape (K (K - 1), 2).

    Parameters
    ----------
    values : shape (K, 2)
    """
    pairs = np.array(list(itertools.permutations(range(len(values)), 2)))
    change: Floats = values[pairs[:, 0]] - values[pairs[:, 1]]
    return change


def one_sided(
    observed: Floats, fixed: Floats, null: Floats, *, exact: bool
) -> tuple[resampling.Test, resampling.Test]:
    """Test the inner product with `fixed` (large) and the angle to it (small) against a null.

    An arrangement without a direction counts as one of the smallest angle, against the claim.

    Parameters
    ----------
    observed, fixed : shape (2,)
    null : shape (n_arrangements, 2)
    exact
        Whether `null` holds every arrangement, the observed one among them.

    Returns
    -------
    product, angle
        The angle's statistic is in degrees, nan, as is its p-value, where a vector is zero.
    """
    product, products = float(observed @ fixed), null @ fixed
    scale = max(float(np.abs(products).max()), abs(product))
    angle = abs(float(directions.turn(fixed, observed)))
    angles = np.nan_to_num(np.abs(directions.turn(fixed, null)), nan=0.0)
    by_angle = (
        _test(angle, -angle, -angles, tie=_TIE_DEGREES, exact=exact)
        if math.isfinite(angle)
        else resampling.Test(math.nan, math.nan, math.nan, exact=exact)
    )
    return _test(product, product, products, tie=_TIE * scale, exact=exact), by_angle


def _test(
    statistic: float, observed: float, null: Floats, *, tie: float, exact: bool
) -> resampling.Test:
    """Return the share of the null that reaches the observed value from below."""
    reached = null >= observed - tie
    if exact:
        smallest = (null >= null.max() - tie).mean()
        return resampling.Test(statistic, float(reached.mean()), float(smallest), exact=True)
    p = (int(reached.sum()) + 1) / (null.size + 1)
    return resampling.Test(statistic, p, 1 / (null.size + 1), exact=False)


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    metrics = tables.read(args.metrics, tables.METRICS)
    along = tables.read(args.trajectory, tables.HEAD_TRAJECTORY)
    parts = effects.read(args.effects, settings.model.checkpoints)
    of_tissues = tissues(metrics, settings.plane)
    of_heads = heads(parts, settings.plane)
    vectors = plane(of_tissues, of_heads, along, settings.plane)
    compared = same_direction(of_tissues, of_heads, settings.plane)
    tables.write(vectors, tables.PLANE, args.out)
    tables.write(compared, tables.PLANE_DIRECTIONS, args.directions)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--trajectory", type=Path, required=True)
    parser.add_argument("--effects", type=Path, required=True, help="folder of step<N>.parquet")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--directions", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
