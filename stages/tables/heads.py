"""Schemas of the tables on attention heads."""

from stages.tables.columns import count, number, schema, text

UNITS = ("head", "layer", "noise")
PERTURBATIONS = ("zero", "mean", "mean_positional", "resample", "gaussian")
HEAD_METRICS = (
    "gini",
    "gini_corrected",
    "effective_number",
    "effective_share",
    "sum_abs_delta_nats",
)
HEAD_CLASS_NAMES = ("born_critical", "emergent", "growing", "transient", "never_critical")
FAMILIES = ("normal", "laplace", "student_t", "gamma_tail", "gamma_tail_cut")

_COMPONENT = {
    "step": count(),
    "unit": text(isin=UNITS),
    "perturbation": text(isin=PERTURBATIONS),
    "layer": count(-1),
    "head": count(-1),
    "draw": count(),
}

EFFECTS_PER_SEQUENCE = schema(
    "effects",
    _COMPONENT
    | {
        "sequence": count(),
        "loss_base": number(),
        "loss_ablated": number(),
        "delta_loss_nats": number(),
    },
    [*_COMPONENT, "sequence"],
)
"""What each removal costs on each sequence, one Parquet file a checkpoint. `head` is -1 for layers;
`draw` counts the random draws of one head, or the directions of the distributed noise (whose layer
is -1)."""

HEAD_IMPORTANCE = schema(
    "head_importance",
    _COMPONENT
    | {
        "delta_loss_nats": number(),
        "standard_error_nats": number(0, nullable=True),
        "standard_error_draws_nats": number(0, nullable=True),
        "n_sequences": count(1),
        "n_draws": count(1),
        "loss_base": number(0),
        "rank": count(1),
    },
    list(_COMPONENT),
)
"""Mean effect of each removal, with its standard error over sequences and, for random
perturbations, over draws. `rank` 1 has the largest absolute effect of its step, unit and
perturbation; `draw` numbers the directions of the distributed noise and is 0 elsewhere."""

_HEADS_AT_STEP = {"step": count(), "perturbation": text(isin=PERTURBATIONS)}
_HEADS_METRIC = _HEADS_AT_STEP | {"metric": text(isin=HEAD_METRICS)}

HEAD_NOISE_FLOOR = schema(
    "head_noise_floor",
    _HEADS_METRIC
    | {
        "observed": number(0, nullable=True),
        "floor": number(0, nullable=True),
        "floor_low": number(0, nullable=True),
        "floor_high": number(0, nullable=True),
        "floor_independent": number(0, nullable=True),
        "p": number(0, 1, nullable=True),
        "p_smallest": number(0, 1),
    },
    list(_HEADS_METRIC),
)
"""What each metric would be if no head had an effect: median and interval with the heads'
estimated covariance, and the median for independent heads. `p`: two-sided, of the observed."""

HEAD_TRAJECTORY = schema(
    "head_trajectory",
    _HEADS_METRIC
    | {
        "value": number(0, nullable=True),
        "sequences_low": number(nullable=True),
        "sequences_high": number(nullable=True),
        "percentile_low": number(0, nullable=True),
        "percentile_high": number(0, nullable=True),
        "heads_low": number(0, nullable=True),
        "heads_high": number(0, nullable=True),
        "floor": number(0, nullable=True),
        "floor_low": number(0, nullable=True),
        "floor_high": number(0, nullable=True),
        "noise_share": number(0, nullable=True),
        "n_heads": count(1),
        "n_sequences": count(1),
        "loss_base": number(0),
    },
    list(_HEADS_METRIC),
)
"""The metrics along training. `sequences_*`: the interval that allows for the bias of absolute
values; `percentile_*`: the plain bootstrap over sequences; `heads_*`: the bootstrap over heads;
`noise_share`: sum of absolute effects that noise alone would give, over the observed sum."""

HEAD_CHANGE = schema(
    "head_change",
    {
        "perturbation": text(isin=PERTURBATIONS),
        "metric": text(isin=HEAD_METRICS),
        "step_first": count(),
        "step_last": count(),
        "value_first": number(0, nullable=True),
        "value_last": number(0, nullable=True),
        "change": number(nullable=True),
        "sequences_low": number(nullable=True),
        "sequences_high": number(nullable=True),
        "percentile_low": number(nullable=True),
        "percentile_high": number(nullable=True),
        "heads_low": number(nullable=True),
        "heads_high": number(nullable=True),
        "n_heads": count(1),
        "n_sequences": count(1),
    },
    ["perturbation", "metric"],
)
"""Last checkpoint minus first; the same resampled sequences (or heads) stand at both."""

HEAD_CLASSES = schema(
    "head_classes",
    {
        "perturbation": text(isin=PERTURBATIONS),
        "layer": count(),
        "head": count(),
        "head_class": text(isin=HEAD_CLASS_NAMES),
        "n_critical_steps": count(),
        "first_critical_step": number(0, nullable=True),
        "relative_first": number(),
        "relative_last": number(),
        "relative_largest": number(),
        "step_largest": count(),
    },
    ["perturbation", "layer", "head"],
)
"""The class of each head along training. `relative_*`: effect over the baseline loss, positive
where removal harms; empty `first_critical_step`: never critical."""

_COMPONENTS_AT_STEP = {
    "step": count(),
    "unit": text(isin=UNITS),
    "perturbation": text(isin=PERTURBATIONS),
}

HEAD_DISTRIBUTION = schema(
    "head_distribution",
    _COMPONENTS_AT_STEP
    | {
        "family": text(isin=FAMILIES),
        "n": count(1),
        "location_nats": number(nullable=True),
        "scale_nats": number(0),
        "shape": number(0, nullable=True),
        "shape_low": number(0, nullable=True),
        "shape_high": number(0, nullable=True),
        "log_likelihood": number(),
        "aic": number(nullable=True),
        "delta_aic": number(0, nullable=True),
    },
    [*_COMPONENTS_AT_STEP, "family"],
)
"""Maximum-likelihood fits to the effects of a step. `shape`: degrees of freedom of Student's t,
shape of the gamma tails; `delta_aic`: above the best of the three families of all effects."""

HEAD_GRANULARITY = schema(
    "head_granularity",
    _COMPONENTS_AT_STEP
    | {
        "n": count(1),
        "mean_delta_nats": number(),
        "mean_abs_delta_nats": number(0),
        "median_abs_delta_nats": number(0),
        "share_deleterious": number(0, 1),
        "loss_base": number(0),
    },
    list(_COMPONENTS_AT_STEP),
)
"""How much a removal of each size costs: distributed noise, heads, whole layers."""

ATTRIBUTION = schema(
    "attribution",
    {
        "step": count(),
        "layer": count(),
        "head": count(),
        "sequence": count(),
        "loss_base": number(),
        "first_order_nats": number(),
        "fisher": number(0),
        "size": number(0),
    },
    ["step", "layer", "head", "sequence"],
)
"""Cheap facts about every head and sequence from one forward and backward pass: the first-order
effect of a removal, the sum over positions of its squared terms, and the head's size in the
residual stream. One Parquet file a checkpoint."""

HEAD_CONTROL_VARIATE = schema(
    "head_control_variate",
    _COMPONENTS_AT_STEP
    | {
        "n_removals": count(1),
        "n_fitted": count(),
        "n_sequences": count(2),
        "n_exact": count(2),
        "n_certain": count(),
        "r2_median": number(None, 1),
        "r2_smallest": number(None, 1),
        "equivalent_sequences": number(0, nullable=True),
    },
    list(_COMPONENTS_AT_STEP),
)
"""How well the effects of most sequences were predicted from those of `n_exact`: out-of-fold R^2
over the removals, and the median number of exact sequences with the same standard error. Empty
where every effect is exact."""

HEAD_SCREEN = schema(
    "head_screen",
    _HEADS_AT_STEP
    | {
        "n_heads": count(2),
        "n_sequences": count(2),
        "spearman": number(-1, 1, nullable=True),
        "spearman_low": number(-1, 1, nullable=True),
        "spearman_high": number(-1, 1, nullable=True),
        "spearman_abs": number(-1, 1, nullable=True),
        "spearman_abs_low": number(-1, 1, nullable=True),
        "spearman_abs_high": number(-1, 1, nullable=True),
        "n_top": count(1),
        "n_top_shared": count(),
        "gini": number(0, 1, nullable=True),
        "gini_first_order": number(0, 1, nullable=True),
        "sum_abs_delta_nats": number(0),
        "sum_abs_first_order_nats": number(0),
        "r2_median": number(0, 1, nullable=True),
    },
    list(_HEADS_AT_STEP),
)
"""First-order attribution beside the effects of removal: rank correlation over heads with its
interval over sequences, how many of the heads with the largest effects it names, both
concentrations, and the median over heads of the squared correlation over sequences."""

COMPANION_AGREEMENT = schema(
    "companion_agreement",
    {
        "step": count(),
        "n_heads": count(2),
        "spearman": number(-1, 1, nullable=True),
        "spearman_abs": number(-1, 1, nullable=True),
        "largest_difference_nats": number(0),
        "largest_layer": count(),
        "largest_head": count(),
        "gini": number(0, 1, nullable=True),
        "gini_companion": number(0, 1, nullable=True),
        "gini_difference": number(-1, 1, nullable=True),
        "effective_number": number(0, nullable=True),
        "effective_number_companion": number(0, nullable=True),
        "effective_number_difference": number(nullable=True),
        "loss_base": number(0),
        "loss_base_companion": number(0),
    },
    ["step"],
)
"""Our effects beside those of the companion study, over the heads that both have. Empty where there
is nothing to compare with."""
