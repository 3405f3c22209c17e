"""Schemas of what pairs of heads do beyond the sum of their heads."""

from stages.base.columns import count, number, optional_count, schema, text
from stages.pairs.components import CONDITIONS

QUANTITIES = (
    "median_abs",
    "share_beyond",
    "share_positive",
    "same_layer_ratio",
    "product_spearman",
    "slope_first",
    "slope_second",
    "slope_distance",
    "tier_ratio",
    "tier_ratio_reranked",
    "tier_ratio_by_product",
    "tier_ratio_by_root",
    "effective_rank",
    "modularity",
)
SOURCES = ("measured", "additive", "product", "fitted", "permuted")
WHAT = ("together", "singles", "excess")

_STATE = {
    "state": text(),
    "position": number(0, nullable=True),
    "perturbation": text(isin=CONDITIONS),
}
_INTERVAL = {"value": number(nullable=True), "low": number(nullable=True)}
_INTERVAL |= {"high": number(nullable=True)}

EPISTASIS = schema(
    "epistasis",
    _STATE
    | {"quantity": text(isin=QUANTITIES), "source": text(isin=SOURCES)}
    | _INTERVAL
    | {
        "p": number(0, 1, nullable=True),
        "n_heads": count(2),
        "n_pairs": count(1),
        "n_sequences": count(2),
        "unit": text(),
    },
    ["state", "perturbation", "quantity", "source"],
)
"""One row a quantity of a state and a source. `quantity`: `median_abs`, median absolute effect of a
pair beyond the sum; `share_beyond`, share of pairs told from 0; `share_positive`, of these the
share above 0; `same_layer_ratio`, median absolute effect of pairs within a layer over that of pairs
across; `product_spearman`, rank correlation of absolute effect and product of the heads' effects;
`slope_*`, of the logarithm of the absolute effect on those of the two heads' effects (first: the
earlier layer) and on their distance in layers; `tier_ratio`, median absolute effect of pairs among
the heads of the largest effects in the last state over that of all (or random) pairs, `_reranked`:
of the largest in this state, `_by_product`, `_by_root`: of effects over the product or its root;
`effective_rank`, Hill number of order 1 of the squared singular values of the matrix of heads;
`modularity` of the graph of absolute effects.

`source`: as `measured`, with its interval over sequences; an `additive` model, in which every pair
is the sum of its heads and differs from it by the noise of these sequences; absolute effects
proportional to the `product`, or to the power of it that fits best (`fitted`); effects `permuted`
over pairs. `low`, `high` of the last and of the additive model: of their draws. `p`: two-sided, of
the measured value among these; in the row as measured of `same_layer_ratio`, by Mann-Whitney."""

EPISTASIS_HEADS = schema(
    "epistasis_heads",
    _STATE
    | {"component": text(), "layer": count(), "head": count(), "effect": number()}
    | {
        "made_up": number(),
        "made_up_low": number(),
        "made_up_high": number(),
        "noise_high": number(),
        "n_partners": count(),
        "community": optional_count(),
    },
    ["state", "perturbation", "component"],
)
"""`made_up`: sum of the effects beyond the sum of all pairs of a head in which they are above 0 and
told from it, with an interval over sequences for these partners; `noise_high`: upper end of the
same sum where all is additive and the rest is noise. `n_partners`: how many they are. `community`:
of the graph of absolute effects, the largest 0; empty where not all pairs were measured."""

EPISTASIS_SETS = schema(
    "epistasis_sets",
    _STATE
    | {
        "kind": text(isin=("attention", "cumulative")),
        "component": text(),
        "n_heads": count(1),
        "joined": text(nullable=True),
        "what": text(isin=WHAT),
    }
    | _INTERVAL
    | {"unit": text(), "n_sequences": count(2)},
    ["state", "perturbation", "kind", "component", "what"],
)
"""Sets of heads removed `together`, the sum of what each costs alone (`singles`), and the first
less the second (`excess`): all heads of a layer, and the first `n_heads` by absolute effect, of
which `joined` came last. Intervals: the same sequences resampled for all three."""

EPISTASIS_PAIRS = schema(
    "epistasis_pairs",
    _STATE
    | {
        "component": text(),
        "layer_a": count(),
        "head_a": count(),
        "layer_b": count(),
        "head_b": count(),
        "effect": number(),
        "standard_error": number(0),
        "product": number(0),
    },
    ["state", "perturbation", "component"],
)
"""Every pair in the last state: its mean effect beyond the sum of its heads, with the standard
error over sequences, and the absolute product of its heads' effects."""
