"""Schema of what sets of features do together beside what each does alone."""

from stages.base.columns import count, number, schema, text

COMBINATIONS = schema(
    "combinations",
    {
        "set": text(),
        "order": count(2),
        "n_sequences": count(2),
        "n_targets": count(1),
        "raw": number(nullable=True),
        "low": number(nullable=True),
        "high": number(nullable=True),
        "published": number(0, nullable=True),
        "additive": number(0, nullable=True),
        "above": number(0, 1),
        "above_additive": number(0, 1),
        "interaction": number(nullable=True),
        "interaction_low": number(nullable=True),
        "interaction_high": number(nullable=True),
    },
    ["set", "order"],
)
"""Sets of one feature a layer that fire together, and (order 2) the pairs in them. `raw`: the slope
of what they do together on the sum of what each does alone, over targets, of signed effects in the
targets' own unit: 1 where effects add up; with an interval over sequences. `published`: median
ratio of the standardised effects, and the same of sums that add up exactly (`additive`); `above`:
share of targets where it is above 1.2. `interaction`: the slope of the third difference."""
