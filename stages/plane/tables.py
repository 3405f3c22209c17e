"""Schemas of the plane that all measured systems share."""

from stages.base.columns import count, flag, number, optional_count, schema, text
from stages.measurement.concentration import QUADRANTS
from stages.measurement.tables import SERIES

SCALES = {
    "raw": ("gini", "effective_number"),
    "corrected": ("gini_corrected", "effective_share"),
    "shape": ("gini_corrected", "effective_excess"),
}
"""The two metrics that are the axes of each scale. On the first two they almost mirror each other;
*shape* has what the effective number says beside the Gini coefficient."""
CRITERIA = ("right_angle", "quadrant")
"""When two vectors are said to agree: less than 90 degrees apart, or the same signs."""
AMONG = ("real", "simulated")
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
        "angle_degrees": number(-180, 180, nullable=True),
        "angle_low": number(-360, 360, nullable=True),
        "angle_high": number(-360, 360, nullable=True),
        "quadrant": text(isin=QUADRANTS, nullable=True),
        "noise_share_first": number(0, nullable=True),
        "noise_share": number(0, nullable=True),
    },
    list(_KEY),
)
"""Vectors: each state minus the first of its series. `d_gini` and `d_effective` are the changes of
the first and the second metric of the scale (``SCALES``). Angles are counter-clockwise from more
Gini; `bootstrap` names what the intervals are over. `n_first`, `n_last`: replicates of both states.
`quadrant` is of the scales that have one: *shape* has no effective number."""

REFERENCE = [f"reference_{name}" for name in SERIES]
_REFERENCE = {name: text() for name in REFERENCE}
_COMPARED = SERIES | _REFERENCE | {"scale": text(isin=tuple(SCALES))}

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
        "same_quadrant": flag(),
        "split_right_angle": number(0, 1, nullable=True),
        "split_quadrant": number(0, 1, nullable=True),
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
        "steps_p": number(0, 1),
        "steps_p_smallest": number(0, 1),
        "n_trainings": count(),
        "n_trainings_close": count(),
        "trainings_p": number(0, 1, nullable=True),
        "trainings_p_smallest": number(0, 1, nullable=True),
        "p_trainings": number(0, 1, nullable=True),
        "q_trainings": number(0, 1, nullable=True),
    },
    list(_COMPARED),
)
"""The angle between the vector of each series, first to last state, and that of each series of the
reference systems, and one-sided tests that both point the same way. `angle_*` intervals: the
series' replicates and the reference's replicates, or its components, resampled; `split_*`: share of
the random splits of the series' replicates whose vector agrees with the reference's, by criterion;
`product`: inner product of both vectors; `own_p`: the series' replicates exchanged between its
states (or, where they are the same ones in all states, its states exchanged); `reference_p`: the
reference's `n_states` states exchanged; `p`: the larger of both, stated before it was computed, as
its adjusted `q`. `steps_p`: signs of the reference's steps; `trainings_p`: signs of its
`n_trainings` independent trainings, of which `n_trainings_close` are less than 90 degrees away;
`p_trainings`: the larger of `own_p` and `trainings_p`."""

_COUNTED = {
    "system": text(),
    "condition": text(),
    **_REFERENCE,
    "scale": text(isin=tuple(SCALES)),
    "among": text(),
    "criterion": text(isin=CRITERIA),
}

SPLITS = schema(
    "splits",
    _COUNTED
    | {
        "n_series": count(1),
        "n_agree": count(),
        "expected": number(0),
        "expected_low": count(),
        "expected_high": count(),
        "p": number(0, 1),
        "n_significant": count(),
        "n_significant_trainings": count(),
    },
    list(_COUNTED),
)
"""How many series agree with the reference, and how many would if the replicates of each were
split at random between its states: mean, central interval, and the probability `p` of at least as
many. `among`: one arm, or all of those that are real or simulated. `n_significant*`: how many have
a small `p` or `p_trainings` (``PLANE_DIRECTIONS``), whatever the criterion."""

AXES = schema(
    "axes",
    {
        "system": text(),
        "candidate": text(),
        "n": count(),
        "r": number(-1, 1, nullable=True),
        "curves_gini": number(nullable=True),
        "curves_both": number(nullable=True),
        "r_change": number(-1, 1, nullable=True),
        "n_changes": optional_count(),
        "intraclass": number(-1, 1, nullable=True),
        "n_platforms": optional_count(),
        "r_platforms": number(-1, 1, nullable=True),
    },
    ["system", "candidate"],
)
"""What a candidate for the second axis says beside the corrected Gini coefficient. `r`: correlation
with it over `n` animals or states; `r_change`: over the changes of tissues; `curves_gini`,
`curves_both`: share of the variance of Lorenz curves that Gini holds alone and with the candidate;
`intraclass`: of animals in an age group of a tissue; `r_platforms`: over the tissues and ages that
two platforms share."""

MOSTLY_NOISE = 0.4
"""Above this share of noise in the sum of effects no interval of a concentration is to be believed:
in simulated trainings, intervals over sequences held the truth in 0.92 to 0.97 of cases at a share
of 0.20 in the first checkpoint, and in 0.58 to 0.78 at 0.41 (:mod:`stages.plane.plane`)."""
NOISE_COUNTS = 0.05
"""Share of noise from which on what noise alone would give says something of a concentration."""
TOLD = ("gini", "effective_number", "effective_share")
"""The numbers of the one table."""
STARTS = ("first", "beyond noise")
OVER = ("trainings", "tissues", "replicates")
VERDICTS = (
    "yes",
    "falls, beyond exposure in one training",
    "falls, not beyond exposure",
    "falls, exposure not tested",
    "not told",
    "rises",
    "no interval",
    "noise",
    "one state",
)

MATURING = schema(
    "maturing",
    SERIES
    | {"state": text(), "position": number(nullable=True), "seed": optional_count()}
    | {
        "trained": flag(),
        "n_components": optional_count(),
        "n_replicates": count(1),
        "noise_share": number(0, nullable=True),
        "exposure": text(nullable=True),
    }
    | {
        f"{metric}{what}": number(nullable=True)
        for metric in TOLD
        for what in ("", "_floor", "_exposure_alone", "_exposure_removed")
    }
    | {f"effective_share_{end}": number(nullable=True) for end in ("low", "high")}
    | {f"effective_share_floor_{end}": number(nullable=True) for end in ("low", "high")},
    [*SERIES, "state", "seed"],
)
"""Every system in every state of every training: the numbers, what noise alone would give
(`_floor`), what the exposure alone would, and effects over what it predicts
(:data:`stages.measurement.tables.MEASURED`). The seed is empty where no training was made here.
`trained`: not the state that has learnt nothing. Of cells the number of components is that of
an animal, and is left out."""

MATURING_ANSWERS = schema(
    "maturing_answers",
    SERIES
    | {
        "components": text(),
        "start": text(isin=STARTS),
        "shown": flag(),
        "state_first": text(),
        "state_last": text(),
        "n_components": optional_count(),
        "share_first": number(0, 1, nullable=True),
        "share_last": number(0, 1, nullable=True),
        "noise_first": number(0, nullable=True),
        "noise_last": number(0, nullable=True),
        "p_first": number(0, 1, nullable=True),
        "p_smallest": number(0, 1, nullable=True),
    }
    | {
        f"{what}{name}": column
        for what in ("", "left_")
        for name, column in {
            "over": text(isin=OVER, nullable=True),
            "n": count(),
            "n_fall": count(),
            "change": number(nullable=True),
            "low": number(nullable=True),
            "high": number(nullable=True),
            "p_sign": number(0, 1, nullable=True),
        }.items()
    }
    | {"verdict": text(isin=VERDICTS)},
    [*SERIES, "start"],
)
"""Does the effective number over N fall from the first state to the last, beyond its exposure?
`change`: mean log ratio of the last state's to the first's over `n` trainings (of cells: tissues of
an arm), of which `n_fall` fall; `p_sign`: two-sided sign test, `p_smallest` the smallest that so
many allow. `low`, `high`: Student's interval where there are three, and else that over replicates
of this training (`over`). `left_*`: the same of effects over what their exposure predicts.
`noise_*`: shares of noise, `p_first`: that noise alone gives as much, in the first state, both of
this run's training. `start`: the first state, and where that is mostly noise also the first that is
not. `components`: what they are called; `shown`: the series that text and figures show of a
system."""

LORENZ = schema(
    "lorenz_curves",
    SERIES | {"state": text(), "trained": flag(), "share": number(0, 1), "held": number(0, 1)},
    [*SERIES, "state", "share"],
)
"""What share of the whole the smallest components hold: of each shown series in its last state and
in the untrained one; of cells medians over tissues of the medians over animals."""
