"""Test whether tissues age the way in which heads are trained.

The estimate is the angle between a tissue's vector v and the vector h of the heads from the first
to the last checkpoint, 0 to 180 degrees, both sides resampled for its interval. The test statistic
is the inner product v . h, large only where both vectors are long and point the same way,
one-sided, under two nulls:

* *permuted ages*: the tissue's animals are exchangeable between young and old. All arrangements are
  counted where there are few, else some are drawn and the observed one is counted among them [1]_.
* *permuted checkpoints*: the checkpoints are exchangeable, so that h may be the difference of any
  two, in either order. All ordered pairs are counted; with K checkpoints no p-value is below
  1 / (K (K - 1)).

`p` is the larger of both, since both must be rejected to speak of one direction (an
intersection-union test [2]_); `q` is adjusted over the tissues of one cohort and platform. The same
nulls for the angle alone stand beside them, and have little power: the two metrics almost mirror
each other, so nearly every vector, permuted or not, lies close to one line, and about half of all
arrangements point the way of h. For the same reason two unrelated systems share a quadrant about
half of the time.

References
----------
.. [1] Phipson, B. and Smyth, G. K. (2010). Permutation p-values should never be zero. Statistical
   Applications in Genetics and Molecular Biology 9:39.
.. [2] Berger, R. L. (1982). Multiparameter hypothesis testing and acceptance sampling.
   Technometrics 24:295-300.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from stages.base import tables
from stages.cells import counts
from stages.measurement import resampling
from stages.plane import directions
from stages.plane.directions import Floats
from stages.plane.settings import Plane
from stages.plane.tables import PLANE_DIRECTIONS
from stages.plane.vectors import Heads, Tissue

# Statistics closer than this, relative to the largest, differ only in the order of summation.
_TIE = 1e-12
# Angles in degrees carry rounding of the arcus tangent: observed below 1e-13.
_TIE_DEGREES = 1e-9


def same_direction(
    of_tissues: Sequence[Tissue], of_heads: Sequence[Heads], settings: Plane
) -> pd.DataFrame:
    """Return angle and tests of every tissue against the heads (``PLANE_DIRECTIONS``).

    Parameters
    ----------
    of_tissues, of_heads
        From :mod:`stages.plane.vectors`.

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
        return tables.empty(PLANE_DIRECTIONS)
    table = pd.DataFrame(rows)
    family = table.groupby(["cohort", "platform", "perturbation", "scale"])["p"]
    table["q"] = family.transform(resampling.benjamini_hochberg)
    return table[list(PLANE_DIRECTIONS.columns)]


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
