"""Schemas of the agreement of two platforms."""

from stages.base.columns import count, flag, number, schema, text

CONCORDANCE = schema(
    "concordance",
    {
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
    ["tissue", "metric"],
)
"""The change of each tissue on the two platforms, first and second as the settings name them."""


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
