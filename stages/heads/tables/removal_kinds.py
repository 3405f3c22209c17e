"""Schema of ways of removal side by side."""

from stages.base.columns import count, flag, number, schema, text
from stages.heads.components import CONDITIONS

METRICS = ("gini", "effective_number", "sum_abs", "spearman")

HEAD_REMOVALS = schema(
    "head_removals",
    {
        "state": text(),
        "position": number(0, nullable=True),
        "is_last": flag(),
        "perturbation": text(isin=CONDITIONS),
        "metric": text(isin=METRICS),
        "beside": text(nullable=True, isin=CONDITIONS),
        "value": number(nullable=True),
        "low": number(nullable=True),
        "high": number(nullable=True),
        "n_heads": count(2),
        "n_sequences": count(2),
        "n_draws": count(1),
    },
    ["state", "perturbation", "metric", "beside"],
)
"""The heads removed in several ways, on the same sequences, in the most concentrated and in the
last state. `spearman`: rank correlation over heads of the absolute effects with those of another
way of removal, which `beside` names. `low`, `high`: intervals over sequences."""
