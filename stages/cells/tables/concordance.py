"""Schemas of the agreement of two platforms."""

from stages.base.columns import count, flag, number, schema, text

CONCORDANCE = schema(
    "concordance",
    {
        "cohort": text(),
        "tissue": text(),
        "metric": text(),
        "change_first": number(),
        "change_first_low": number(),
        "change_first_high": number(),
        "change_second": number(),
        "change_second_low": number(),
        "change_second_high": number(),
        "same_sign": flag(),
    },
    ["cohort", "tissue", "metric"],
)
"""The change of each tissue of a cohort on the two platforms, which the settings name first and
second."""


CONCORDANCE_SUMMARY = schema(
    "concordance_summary",
    {
        "metric": text(),
        "first": text(),
        "second": text(),
        "n_tissues": count(),
        "n_same_sign": count(),
        "same_sign_p": number(0, 1, nullable=True),
        "spearman": number(-1, 1, nullable=True),
        "spearman_p": number(0, 1, nullable=True),
        "spearman_p_smallest": number(0, 1, nullable=True),
        "spearman_exact": flag(),
    },
    ["metric"],
)
"""How far the two platforms agree over tissues, with permutation p-values."""
