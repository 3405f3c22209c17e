"""Schemas of the concentration of effects along training."""

from stages.base.columns import count, number, schema, text
from stages.heads.tables.effects import PERTURBATIONS

HEAD_METRICS = (
    "gini",
    "gini_corrected",
    "effective_number",
    "effective_share",
    "sum_abs_delta_nats",
)


_HEADS_AT_STEP = {"step": count(), "perturbation": text(isin=PERTURBATIONS)}


_HEADS_METRIC = _HEADS_AT_STEP | {"metric": text(isin=HEAD_METRICS)}


HEAD_NOISE_FLOOR = schema(
    "head_noise_floor",
    _HEADS_METRIC
    | {
        "observed": number(0, nullable=True),
        "floor": number(0, nullable=True),
        "floor_low": number(0, nullable=True),
        "floor_high": number(0, nullable=True),
        "floor_independent": number(0, nullable=True),
        "p": number(0, 1, nullable=True),
        "p_smallest": number(0, 1),
    },
    list(_HEADS_METRIC),
)
"""What each metric would be if no head had an effect: median and interval with the heads'
estimated covariance, and the median for independent heads. `p`: two-sided, of the observed."""


HEAD_TRAJECTORY = schema(
    "head_trajectory",
    _HEADS_METRIC
    | {
        "value": number(0, nullable=True),
        "sequences_low": number(nullable=True),
        "sequences_high": number(nullable=True),
        "percentile_low": number(0, nullable=True),
        "percentile_high": number(0, nullable=True),
        "heads_low": number(0, nullable=True),
        "heads_high": number(0, nullable=True),
        "floor": number(0, nullable=True),
        "floor_low": number(0, nullable=True),
        "floor_high": number(0, nullable=True),
        "noise_share": number(0, nullable=True),
        "n_heads": count(1),
        "n_sequences": count(1),
        "loss_base": number(0),
    },
    list(_HEADS_METRIC),
)
"""The metrics along training. `sequences_*`: the interval that allows for the bias of absolute
values; `percentile_*`: the plain bootstrap over sequences; `heads_*`: the bootstrap over heads;
`noise_share`: sum of absolute effects that noise alone would give, over the observed sum."""


HEAD_CHANGE = schema(
    "head_change",
    {
        "perturbation": text(isin=PERTURBATIONS),
        "metric": text(isin=HEAD_METRICS),
        "step_first": count(),
        "step_last": count(),
        "value_first": number(0, nullable=True),
        "value_last": number(0, nullable=True),
        "change": number(nullable=True),
        "sequences_low": number(nullable=True),
        "sequences_high": number(nullable=True),
        "percentile_low": number(nullable=True),
        "percentile_high": number(nullable=True),
        "heads_low": number(nullable=True),
        "heads_high": number(nullable=True),
        "n_heads": count(1),
        "n_sequences": count(1),
    },
    ["perturbation", "metric"],
)
"""Last checkpoint minus first; the same resampled sequences (or heads) stand at both."""
