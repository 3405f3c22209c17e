"""Test whether two systems move the same way in the plane.

The estimate is the angle between the vector v of a series, first to last state, and the vector h of
the reference, 0 to 180 degrees, both sides resampled for its interval. The test statistic is the
inner product v . h, large only where both vectors are long and point the same way, one-sided, under
two nulls:

* *own*: the replicates of the series are exchangeable between its states (animals between young and
  old). All arrangements are counted where there are few, else some are drawn and the observed one
  is counted among them [1]_. Where the replicates are the same in all states, the states are
  exchanged instead.
* *reference*: the reference's states are exchangeable, so that h may be the difference of any two,
  in either order. All ordered pairs are counted; with K states no p-value is below 1 / (K (K - 1)).

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

from collections.abc import Sequence

import numpy as np
import pandas as pd

from stages.base import tables
from stages.measurement import nulls, resampling
from stages.plane import directions
from stages.plane.directions import Floats
from stages.plane.settings import Plane
from stages.plane.tables import PLANE_DIRECTIONS
from stages.plane.vectors import KEY, Trail

# Statistics closer than this, relative to the largest, differ only in the order of summation.
_TIE = 1e-12
# Angles in degrees carry rounding of the arcus tangent: observed below 1e-13.
_TIE_DEGREES = 1e-9


def same_direction(found: Sequence[Trail], settings: Plane) -> pd.DataFrame:
    """Return angle and tests of every series against the reference (``PLANE_DIRECTIONS``).

    Parameters
    ----------
    found
        From :func:`stages.plane.vectors.trails`.

    Returns
    -------
    DataFrame
        Without rows where there is nothing to compare.
    """
    references = [trail for trail in found if trail.key[0] == settings.reference]
    rows = [
        _compare(trail, reference, settings)
        for trail in found
        for reference in references
        if trail.key[0] != settings.reference and trail.scale == reference.scale
    ]
    if not rows:
        return tables.empty(PLANE_DIRECTIONS)
    table = pd.DataFrame(rows)
    own = ["system", "group", "condition", "scale"]
    family = table.groupby(
        [*own, "reference_group", "reference_series", "reference_condition"], sort=False
    )["p"]
    table["q"] = family.transform(resampling.benjamini_hochberg)
    return table[list(PLANE_DIRECTIONS.columns)]


def _compare(trail: Trail, reference: Trail, settings: Plane) -> dict[str, object]:
    vector, fixed = trail.vector, reference.vector
    turned = float(directions.turn(fixed, vector))
    exchanged = nulls.exchanged_states(reference.values)
    own = nulls.exchanged_states(trail.values) if trail.permuted is None else trail.permuted
    by_own, by_own_angle = one_sided(vector, fixed, own, exact=trail.is_complete)
    by_reference, by_reference_angle = one_sided(fixed, vector, exchanged, exact=True)
    return {
        **dict(zip(KEY, trail.key, strict=True)),
        **dict(zip([f"reference_{name}" for name in KEY[1:]], reference.key[1:], strict=True)),
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
        "product": by_own.statistic,
        "own_p": by_own.p,
        "own_p_smallest": by_own.p_smallest,
        "own_exact": by_own.exact,
        "own_angle_p": by_own_angle.p,
        "reference_p": by_reference.p,
        "reference_p_smallest": by_reference.p_smallest,
        "reference_angle_p": by_reference_angle.p,
        "p": max(by_own.p, by_reference.p),
    }


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
