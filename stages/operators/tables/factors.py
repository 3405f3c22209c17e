"""Schemas of the factors of one head: their shares, subsets of the core, programmes of genes."""

from stages.base.columns import count, number, schema, text

CONDITIONS = ("fixed", "refitted")

OPERATOR_FACTORS = schema(
    "operator_factors",
    {
        "state": text(),
        "head": text(),
        "condition": text(isin=CONDITIONS),
        "top": count(1),
        "share": number(0, 1),
        "low": number(0, 1),
        "high": number(0, 1),
        "rotated": number(0, 1, nullable=True),
        "rotated_low": number(0, 1, nullable=True),
        "rotated_high": number(0, 1, nullable=True),
        "p": number(0, 1, nullable=True),
        "sigma2_share": number(0, 1),
        "n_factors": count(2),
        "n_donors": count(2),
    },
    ["state", "condition", "top"],
)
"""`share`: what the `top` factors of the largest mean drops have of the sum of all absolute mean
drops, with probes `fixed` or `refitted`; `low`, `high`: interval over donors. `rotated`: the same
of random orthonormal bases of this space, mean and quantiles, with the share of them (p) that are
as concentrated; in the last state alone. `sigma2_share`: share of the same factors in the sum of
squared singular values."""

OPERATOR_CORE = schema(
    "operator_core",
    {
        "state": text(),
        "kept": text(),
        "n_kept": count(1),
        "endpoint": text(),
        "value": number(),
        "loss": number(),
        "low": number(),
        "high": number(),
        "n_donors": count(2),
    },
    ["state", "kept", "endpoint"],
)
"""Every subset of the core kept alone, with probes fitted anew: the endpoint, and what it loses
against all factors, with the interval over donors."""

OPERATOR_PROGRAMMES = schema(
    "operator_programmes",
    {
        "state": text(),
        "factor": text(),
        "side": text(isin=("read", "write")),
        "programme": text(),
        "n_top": count(1),
        "n_programme": count(1),
        "n_background": count(1),
        "overlap": count(),
        "expected": number(0),
        "p": number(0, 1),
        "q": number(0, 1),
    },
    ["state", "factor", "side"],
)
"""The planted programme that the genes of the largest entries of a factor are most often of: the
hypergeometric p against all items of the maps as background, q over all factors, sides and
programmes (Benjamini-Hochberg)."""
