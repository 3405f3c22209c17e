"""Test whether two systems move the same way in the plane.

The estimate is the angle between the vector v of a series, first to last state, and the vector h of
a reference, 0 to 180 degrees, both sides resampled for its interval. The statistic is the inner
product v . h, large only where both vectors are long and point the same way, one-sided, under nulls
of either side:

* *own*: the replicates of the series are exchangeable between its states (animals between young and
  old). All arrangements are counted where there are few, else some are drawn and the observed one
  is counted among them [1]_. Where the replicates are the same in all states, the states are
  exchanged instead.
* *reference*: the reference's states are exchangeable, so that h may be the difference of any two,
  in either order. All ordered pairs are counted; with K states no p-value is below 1 / (K (K - 1)).
* *steps*: each step of the reference, from a state to the next, is as likely to have gone the
  opposite way, so that h may be the sum of its steps with any signs: a path without a drift. States
  along one path resemble their neighbours, and this null keeps that, where *reference* takes them
  for exchangeable. (Circular shifts and random phases keep it too, and test nothing: a shifted path
  has the ends of one step, and phases leave the sum of the steps alone.)
* *trainings*: h is as likely to have pointed the opposite way in each of S independent trainings,
  which alone are replicates of a training; all signs of their vectors are counted, and no p-value
  is below 1 / 2^S.

`p`, stated before any of it was computed, is the larger of *own* and *reference*, since both must
be rejected to speak of one direction (an intersection-union test [2]_); `q` is adjusted over the
tissues of one cohort and platform. `p_trainings` has *trainings* in the place of *reference*.

*What the three nulls of the reference can say.* The two metrics almost mirror each other, so that
nearly every vector, permuted or not, lies along one line. Then v enters v . h only by its sign, and
the p-value of the reference is one number for every series that points with it and another for all
the others, whatever their own uncertainty: it says whether the reference moved, not whether a
series moves likewise. Of 8 states whose largest change is not that of the first to the last,
*reference* cannot reach 0.05 for any tissue. For the same reason about half of all random splits
point the way of h (`split_right_angle`), two unrelated systems share a quadrant about half of the
time, and :mod:`stages.plane.splits` says how many of many would.

References
----------
.. [1] Phipson, B. and Smyth, G. K. (2010). Permutation p-values should never be zero. Statistical
   Applications in Genetics and Molecular Biology 9:39.
.. [2] Berger, R. L. (1982). Multiparameter hypothesis testing and acceptance sampling.
   Technometrics 24:295-300.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import tables
from stages.measurement import nulls, resampling
from stages.measurement.streams import stream
from stages.plane import directions
from stages.plane.directions import Floats
from stages.plane.settings import Plane
from stages.plane.tables import CRITERIA, PLANE_DIRECTIONS, REFERENCE
from stages.plane.vectors import KEY, Trail, training_vectors

# Statistics closer than this, relative to the largest, differ only in the order of summation.
_TIE = 1e-12
# Angles in degrees carry rounding of the arcus tangent: observed below 1e-13.
_TIE_DEGREES = 1e-9


def same_direction(
    found: Sequence[Trail], settings: Plane, trainings: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return angle and tests of every series against each reference (``PLANE_DIRECTIONS``).

    Parameters
    ----------
    found
        From :func:`stages.plane.vectors.trails`.
    trainings
        ``HEAD_SEEDS``: independent trainings of the group that the settings name.

    Returns
    -------
    DataFrame
        Without rows where there is nothing to compare.
    """
    references = [trail for trail in found if trail.key[0] in settings.references]
    rows = [
        _compare(trail, reference, trainings, settings)
        for trail in found
        for reference in references
        if trail.key[0] not in settings.references and trail.scale == reference.scale
    ]
    if not rows:
        return tables.empty(PLANE_DIRECTIONS)
    table = pd.DataFrame(rows)
    family = table.groupby(["system", "group", "condition", "scale", *REFERENCE], sort=False)
    for of in ("", "_trainings"):
        table[f"q{of}"] = family[f"p{of}"].transform(resampling.benjamini_hochberg)
    return table[list(PLANE_DIRECTIONS.columns)]


def _compare(
    trail: Trail, reference: Trail, trainings: pd.DataFrame | None, settings: Plane
) -> dict[str, object]:
    vector, fixed = trail.vector, reference.vector
    turned = float(directions.turn(fixed, vector))
    exchanged = nulls.exchanged_states(reference.values)
    own = nulls.exchanged_states(trail.values) if trail.permuted is None else trail.permuted
    by_own, by_own_angle = one_sided(vector, fixed, own, exact=trail.is_complete)
    by_reference, by_reference_angle = one_sided(fixed, vector, exchanged, exact=True)
    by_steps = by_signs(np.diff(reference.values, axis=0), vector, reference, settings)
    others = np.zeros((0, 2))
    if trainings is not None and reference.key[1] == settings.trainings:
        others = training_vectors(trainings, reference)
    by_trainings = by_signs(others, vector, reference, settings)
    return {
        **dict(zip(KEY, trail.key, strict=True)),
        **dict(zip(REFERENCE, reference.key, strict=True)),
        "scale": trail.scale,
        "state_first": trail.states[0],
        "state_last": trail.states[-1],
        "n_first": trail.n[0],
        "n_last": trail.n[-1],
        "reference_first": reference.states[0],
        "reference_last": reference.states[-1],
        "position_first": reference.positions[0],
        "position_last": reference.positions[-1],
        "n_states": len(reference.states),
        "angle_degrees": abs(turned),
        **_angle_ends("replicates", trail, reference, turned, settings),
        **_angle_ends("components", trail, reference, turned, settings),
        "same_quadrant": bool(agrees(vector, fixed, "quadrant")),
        **_splits(trail, fixed),
        "product": by_own.statistic,
        "own_p": by_own.p,
        "own_p_smallest": by_own.p_smallest,
        "own_exact": by_own.exact,
        "own_angle_p": by_own_angle.p,
        "reference_p": by_reference.p,
        "reference_p_smallest": by_reference.p_smallest,
        "reference_angle_p": by_reference_angle.p,
        "p": max(by_own.p, by_reference.p),
        "steps_p": by_steps.p,
        "steps_p_smallest": by_steps.p_smallest,
        "n_trainings": len(others),
        "n_trainings_close": int(agrees(others, vector, "right_angle").sum()),
        "trainings_p": by_trainings.p,
        "trainings_p_smallest": by_trainings.p_smallest,
        "p_trainings": float(np.maximum(by_own.p, by_trainings.p)),
    }


def agrees(vectors: Floats, fixed: Floats, criterion: str) -> NDArray[np.bool_]:
    """Say which vectors of shape (..., 2) agree with `fixed` by one of ``CRITERIA``.

    Examples
    --------
    >>> vectors = np.array([[1.0, -2.0], [3.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
    >>> agrees(vectors, np.array([1.0, -1.0]), "right_angle").tolist()
    [True, True, False, False]
    >>> agrees(vectors, np.array([1.0, -1.0]), "quadrant").tolist()
    [True, False, False, False]
    """
    if criterion == "quadrant":
        return np.asarray((np.sign(vectors) == np.sign(fixed)).all(axis=-1))
    products = vectors @ fixed
    return np.asarray(products > _TIE * np.abs(vectors * fixed).sum(axis=-1))


def _splits(trail: Trail, fixed: Floats) -> dict[str, float]:
    """Return the share of the random splits of replicates that agree with `fixed`."""
    return {
        f"split_{criterion}": np.nan
        if trail.permuted is None
        else float(agrees(trail.permuted, fixed, criterion).mean())
        for criterion in CRITERIA
    }


def by_signs(parts: Floats, vector: Floats, reference: Trail, settings: Plane) -> resampling.Test:
    """Test whether the sum of parts points along `vector`, each being as likely the other way.

    Parameters
    ----------
    parts : shape (n, 2)
        Steps of a path, or the vectors of independent trainings.

    Returns
    -------
    Test
        nan where there is no part.
    """
    n = len(parts)
    if not n:
        return resampling.Test(np.nan, np.nan, np.nan, exact=True)
    exact = 2**n <= settings.max_permutations
    if exact:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
    else:
        rng = stream(settings.seed, *reference.key, reference.scale, "signs")
        signs = rng.choice((-1.0, 1.0), size=(settings.max_permutations, n))
    return one_sided(parts.sum(axis=0), vector, signs @ parts, exact=exact)[0]


def _angle_ends(
    bootstrap: str, trail: Trail, reference: Trail, turned: float, settings: Plane
) -> dict[str, float]:
    """Return the interval of the angle, both sides resampled."""
    ends = (np.nan, np.nan)
    if bootstrap in reference.draws and "replicates" in trail.draws:
        ours, theirs = trail.draws["replicates"], reference.draws[bootstrap]
        n = min(ours.shape[1], theirs.shape[1])
        turns = directions.turn(theirs[-1, :n] - theirs[0, :n], ours[-1, :n] - ours[0, :n])
        ends = directions.interval(
            turned,
            turns,
            confidence=settings.confidence,
            mirrored=reference.is_mirrored(bootstrap),
        )
    low, high = directions.unsigned(*ends)
    return {f"angle_{bootstrap}_low": low, f"angle_{bootstrap}_high": high}


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
        if np.isfinite(angle)
        else resampling.Test(np.nan, np.nan, np.nan, exact=exact)
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
