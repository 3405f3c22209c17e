"""Schemas of the heads' concentration along trainings that differ in their seed alone."""

from stages.base.columns import count, flag, number, optional_count, schema, text
from stages.measurement.halves import SIDES

ESTIMATORS = ("plug_in", "split_half")
"""Of mean effects as measured; by independent halves of the sequences, so that noise does not
add."""
METRICS = ("gini", "effective_number")

_WHAT = {
    "effects": text(isin=tuple(SIDES)),
    "estimator": text(isin=ESTIMATORS),
    "metric": text(isin=METRICS),
}
_STATE = {"state": text(), "position": number(0, nullable=True)}

HEAD_SEEDS = schema(
    "head_seeds",
    {"seed": optional_count()}
    | _WHAT
    | _STATE
    | {
        "value": number(nullable=True),
        "low": number(nullable=True),
        "high": number(nullable=True),
        "floor": number(nullable=True),
        "floor_low": number(nullable=True),
        "floor_high": number(nullable=True),
        "found_again": number(nullable=True),
        "is_peak": flag(),
        "n_heads": count(2),
        "n_sequences": count(2),
    },
    ["seed", *_WHAT, "state"],
)
"""Every training in every state; `effects`: of all effects the absolute values, or the harmful ones
alone. `low`, `high`: interval over sequences. `floor*`: what noise alone would give; halves have
none. `found_again`: sum of effects by halves over the plain sum. `is_peak`: the most concentrated
state of its training. The seed is empty for a model that was not trained here."""

HEAD_OVER_SEEDS = schema(
    "head_over_seeds",
    _WHAT
    | _STATE
    | {
        "n_seeds": count(),
        "mean": number(nullable=True),
        "low": number(nullable=True),
        "high": number(nullable=True),
        "smallest": number(nullable=True),
        "largest": number(nullable=True),
        "n_peaks": count(),
    },
    [*_WHAT, "state"],
)
"""Mean over trainings in every state, with Student's interval, and in how many of them the state is
the most concentrated. `n_seeds`: trainings that have a value."""

HEAD_BASELINES = schema(
    "head_baselines",
    _WHAT
    | {
        "state_first": text(),
        "state_last": text(),
        "position_first": number(0, nullable=True),
        "position_last": number(0, nullable=True),
        "change": number(nullable=True),
        "low": number(nullable=True),
        "high": number(nullable=True),
        "n_seeds": count(),
        "mean": number(nullable=True),
        "mean_low": number(nullable=True),
        "mean_high": number(nullable=True),
        "n_rise": count(),
    },
    [*_WHAT, "state_first", "state_last"],
)
"""The change from every state to every later one. `change`, `low`, `high`: of the model of `make
reproduce`, with its interval over sequences; `mean*`: over trainings, with Student's interval;
`n_rise`: trainings in which the value rises."""
