"""Schemas of what is measured: the same for every system."""

from stages.base.columns import count, number, schema, text

SAMPLINGS = ("replicates", "components", "permuted")
"""What a bootstrap draw resamples; *permuted*: replicates are exchanged between the states."""

SERIES = {
    "system": text(),
    "group": text(),
    "series": text(),
    "condition": text(),
}
"""What is followed over states. Cells: an arm, a tissue, all or equal numbers of cells. Heads: a
model, a kind of component, a way of removal."""

_INTERVALS = {
    f"{kind}_{end}": number(nullable=True)
    for kind in ("replicates", "percentile", "components")
    for end in ("low", "high")
}

MEASURED = schema(
    "measured",
    SERIES
    | {
        "state": text(),
        "position": number(nullable=True),
        "metric": text(),
        "value": number(nullable=True),
        **_INTERVALS,
        "floor": number(nullable=True),
        "floor_low": number(nullable=True),
        "floor_high": number(nullable=True),
        "floor_independent": number(nullable=True),
        "p": number(0, 1, nullable=True),
        "p_smallest": number(0, 1, nullable=True),
        "noise_share": number(0, nullable=True),
        "exposure": text(nullable=True),
        "exposure_alone": number(nullable=True),
        "exposure_removed": number(nullable=True),
        "untrained": number(nullable=True),
        "n_components": count(1),
        "n_replicates": count(1),
        "baseline": number(nullable=True),
    },
    [*SERIES, "state", "metric"],
)
"""Every metric in every state. `replicates_*`: the interval that allows for the bias of absolute
values; `percentile_*`: the plain bootstrap over replicates; `components_*`: that over components.
`floor*`, `p`: what noise alone would give, and how often it gives what was observed (two-sided).
`noise_share`: sum of absolute effects that noise alone would give, over the observed sum.
`exposure_alone`, `exposure_removed`: the metric of what the exposure predicts, and of effects over
their prediction. `untrained`: the metric in the state that has learnt nothing. `baseline`: mean of
the intact system's."""

CHANGES = schema(
    "changes",
    SERIES
    | {
        "metric": text(),
        "state_first": text(),
        "state_last": text(),
        "position_first": number(nullable=True),
        "position_last": number(nullable=True),
        "value_first": number(nullable=True),
        "value_last": number(nullable=True),
        "change": number(nullable=True),
        **_INTERVALS,
        "n_components": count(1),
        "n_first": count(1),
        "n_last": count(1),
    },
    [*SERIES, "metric", "state_first", "state_last"],
)
"""The change from any state to any later one; where the replicates are the same in all states, the
same resampled ones stand in both. `n_first`, `n_last`: replicates."""
