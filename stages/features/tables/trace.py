"""Schemas of what features move, and of what that is worth."""

from stages.base.columns import count, number, schema, text

DIRECTIONS = ("feature", "random", "another", "matched")
RULES = ("published", "calibrated", "specific")

TRACED = schema(
    "traced_features",
    {
        "feature": text(),
        "frequency": number(0, 1),
        "n_sequences": count(1),
        "edges": count(),
        "calibrated": count(),
        "specific": count(),
        "flipped": number(0),
        "moved": number(0),
        "damage": number(),
        "damage_se": number(0),
        "random": number(0, nullable=True),
        "another": number(0, nullable=True),
        "matched": number(0, nullable=True),
    },
    ["feature"],
)
"""Every feature of the first autoencoder that fires in enough sequences. `edges`: later features
that it moves by the published rule, `calibrated` and `specific` by the others, `flipped` under
flipped signs, and `moved` in a sequence, on average. `damage`: rise of the loss without it, over
all sequences, in the model's unit. `random`, `another`, `matched`: edges of other directions in its
place: a random one, another feature's, that of one which fires as often."""

TRACING = schema(
    "tracing",
    {
        "seed": count(),
        "direction": text(isin=DIRECTIONS),
        "rule": text(isin=RULES),
        "n_features": count(1),
        "edges": number(0),
        "low": number(0),
        "high": number(0),
        "ratio": number(0, nullable=True),
        "ratio_low": number(0, nullable=True),
        "ratio_high": number(0, nullable=True),
        "flipped": number(0),
        "gini": number(0, 1, nullable=True),
    },
    ["seed", "direction", "rule"],
)
"""Mean edges of a direction taken out at the positions and with the codes of a feature, with an
interval over features; `ratio`: those of the features themselves over those of this direction, on
the same features; `flipped`: edges under flipped signs of cells. ``feature`` rows are over all
traced features, or those with nulls after the first autoencoder."""

STATISTICS = schema(
    "feature_statistics",
    {"what": text(), "value": number(nullable=True), "low": number(nullable=True)}
    | {"high": number(nullable=True), "p": number(0, 1, nullable=True), "n": count()},
    ["what"],
)
"""Of the traced features: rank correlations of `edges` with other columns (intervals over
features), and the tail of the distribution of edges; `p` of a tail is that of its fit, of a
comparison that of the likelihood ratio, whose z is the value."""
