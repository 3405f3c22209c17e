"""Schemas of the plane that systems share."""

from stages.base.columns import count, flag, number, schema, text
from stages.heads.tables.effects import PERTURBATIONS
from stages.inputs.tables import TISSUE
from stages.measurement.concentration import QUADRANTS

PLANE_SYSTEMS = ("cells", "heads")


PLANE_SCALES = ("raw", "corrected")


PLANE_BOOTSTRAPS = ("animals", "sequences", "heads")


_KEY = {
    "system": text(isin=PLANE_SYSTEMS),
    "cohort": text(nullable=True),
    "platform": text(nullable=True),
    "tissue": text(nullable=True),
    "perturbation": text(nullable=True, isin=PERTURBATIONS),
    "step_first": number(0, nullable=True),
    "step": number(0, nullable=True),
    "scale": text(isin=PLANE_SCALES),
    "bootstrap": text(isin=PLANE_BOOTSTRAPS),
}


PLANE = schema(
    "plane",
    _KEY
    | {
        "n_young": number(2, nullable=True),
        "n_old": number(2, nullable=True),
        "d_gini": number(),
        "d_gini_low": number(nullable=True),
        "d_gini_high": number(nullable=True),
        "d_effective": number(),
        "d_effective_low": number(nullable=True),
        "d_effective_high": number(nullable=True),
        "variance_gini": number(0, nullable=True),
        "variance_effective": number(0, nullable=True),
        "covariance": number(nullable=True),
        "angle_degrees": number(-180, 180, nullable=True),
        "angle_low": number(-360, 360, nullable=True),
        "angle_high": number(-360, 360, nullable=True),
        "resultant_length": number(0, 1 + 1e-12, nullable=True),
        "quadrant": text(isin=QUADRANTS),
        "noise_share_first": number(0, nullable=True),
        "noise_share": number(0, nullable=True),
    },
    list(_KEY),
)
"""Vectors: old minus young of a tissue, a checkpoint minus the first of the heads. On the corrected
scales `d_gini` is that of the corrected Gini, `d_effective` that of the effective number over the
number of components. Angles are counter-clockwise from more Gini; `bootstrap` names what interval,
covariance and angle are over. Empty are the columns of the other system."""


PLANE_DIRECTIONS = schema(
    "plane_directions",
    TISSUE
    | {
        "perturbation": text(isin=PERTURBATIONS),
        "step_first": count(),
        "step_last": count(),
        "scale": text(isin=PLANE_SCALES),
        "n_young": count(2),
        "n_old": count(2),
        "n_steps": count(2),
        "angle_degrees": number(0, 180, nullable=True),
        "angle_sequences_low": number(0, 180, nullable=True),
        "angle_sequences_high": number(0, 180, nullable=True),
        "angle_heads_low": number(0, 180, nullable=True),
        "angle_heads_high": number(0, 180, nullable=True),
        "product": number(),
        "ages_p": number(0, 1),
        "ages_p_smallest": number(0, 1),
        "ages_exact": flag(),
        "ages_angle_p": number(0, 1, nullable=True),
        "checkpoints_p": number(0, 1),
        "checkpoints_p_smallest": number(0, 1),
        "checkpoints_angle_p": number(0, 1, nullable=True),
        "p": number(0, 1),
        "q": number(0, 1),
    },
    [*TISSUE, "perturbation", "scale"],
)
"""The angle between each tissue's vector and that of the heads from first to last checkpoint, and
the one-sided test that both point the same way. `angle_*` intervals: animals and sequences, or
animals and heads, resampled; `product`: inner product of both vectors; `p`: the larger p-value of
its two nulls. Empty where there is nothing to compare."""
