"""Schema of known truth beside what was found."""

from stages.base.columns import flag, number, schema, text
from stages.inputs.tables import TISSUE

RECOVERY = schema(
    "recovery",
    TISSUE
    | {
        "metric": text(),
        "truth": number(),
        "change": number(),
        "change_low": number(),
        "change_high": number(),
        "covered": flag(),
        "same_sign": flag(),
    },
    ["cohort", "platform", "tissue", "metric"],
)
"""Known truth of simulated cohorts beside what the pipeline found. Empty for real inputs."""
