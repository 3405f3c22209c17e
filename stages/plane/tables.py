"""Schemas of the plane that all measured systems share."""

from stages.base.columns import count, flag, number, schema, text
from stages.measurement.concentration import QUADRANTS
from stages.measurement.tables import SERIES

SCALES = {
    "raw": ("gini", "effective_number"),
    "corrected": ("gini_corrected", "effective_share"),
}
"""The two metrics that are the axes of each scale."""
RESAMPLED = ("replicates", "components")

_KEY = SERIES | {
    "state_first": text(),
    "state": text(),
    "scale": text(isin=tuple(SCALES)),
    "bootstrap": text(isin=RESAMPLED),
}

PLANE = schema(
    "plane",
    _KEY
    | {
        "position_first": number(nullable=True),
        "position": number(nullable=True),
        "n_first": count(1),
        "n_last": count(1),
        "d_gini": number(),
        "d_gini_low": number(nullable=True),
        "d_gini_high": number(nullable=True),
        "d_effective": number(),
        "d_effective_low": number(nullable=True),
        "d_effective_high": number(nullable=True),
        "variance_gini": number(0, nullable=True),
        "variance_effective": number(0, nullable=True),
        "covariance": number(nullable=True),
        "angle_degrees": number(-180, 180, nullable=True),
        "angle_low": number(-360, 360, nullable=True),
        "angle_high": number(-360, 360, nullable=True),
        "resultant_length": number(0, 1 + 1e-12, nullable=True),
        "quadrant": text(isin=QUADRANTS),
        "noise_share_first": number(0, nullable=True),
        "noise_share": number(0, nullable=True),
    },
    list(_KEY),
)
"""Vectors: each state minus the first of its series. On the corrected scales `d_gini` is that of
the corrected Gini, `d_effective` that of the effective number over the number of components. Angles
are counter-clockwise from more Gini; `bootstrap` names what interval, covariance and angle are
over. `n_first`, `n_last`: replicates of both states."""

_COMPARED = SERIES | {
    "reference_group": text(),
    "reference_series": text(),
    "reference_condition": text(),
    "scale": text(isin=tuple(SCALES)),
}

PLANE_DIRECTIONS = schema(
    "plane_directions",
    _COMPARED
    | {
        "state_first": text(),
        "state_last": text(),
        "n_first": count(1),
        "n_last": count(1),
        "reference_first": text(),
        "reference_last": text(),
        "position_first": number(nullable=True),
        "position_last": number(nullable=True),
        "n_states": count(2),
        "angle_degrees": number(0, 180, nullable=True),
        "angle_replicates_low": number(0, 180, nullable=True),
        "angle_replicates_high": number(0, 180, nullable=True),
        "angle_components_low": number(0, 180, nullable=True),
        "angle_components_high": number(0, 180, nullable=True),
        "product": number(),
        "own_p": number(0, 1),
        "own_p_smallest": number(0, 1),
        "own_exact": flag(),
        "own_angle_p": number(0, 1, nullable=True),
        "reference_p": number(0, 1),
        "reference_p_smallest": number(0, 1),
        "reference_angle_p": number(0, 1, nullable=True),
        "p": number(0, 1),
        "q": number(0, 1),
    },
    list(_COMPARED),
)
"""The angle between the vector of each series, first to last state, and that of each series of the
reference system, and the one-sided test that both point the same way. `angle_*` intervals: the
series' replicates and the reference's replicates, or its components, resampled; `product`: inner
product of both vectors; `own_p`: the series' replicates exchanged between its states (or, where
they are the same ones in all states, its states exchanged); `reference_p`: the reference's
`n_states` states exchanged; `p`: the larger of both."""
