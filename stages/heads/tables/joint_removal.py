"""Schema of what the heads of a layer cost together, beside the sum of what each costs alone."""

from stages.base.columns import count, number, schema, text
from stages.heads.components import CONDITIONS

WHAT = ("together", "singles", "excess")

JOINT_REMOVAL = schema(
    "joint_removal",
    {
        "state": text(),
        "position": number(0, nullable=True),
        "perturbation": text(isin=CONDITIONS),
        "layer": count(),
        "what": text(isin=WHAT),
        "value": number(),
        "low": number(),
        "high": number(),
        "unit": text(),
        "n_heads": count(1),
        "n_sequences": count(2),
    },
    ["state", "perturbation", "layer", "what"],
)
"""`what`: all heads of a layer removed `together`, the sum over its heads removed one by one
(`singles`), and the first less the second (`excess`): above 0 where heads make up for one another.
`low`, `high`: intervals over sequences, the same ones resampled for all three."""
