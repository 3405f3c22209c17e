r"""Estimate the effect of every removal from exact effects on a few sequences.

Exact effects :math:`y_i` are known for a chosen subset of the :math:`N` sequences
(``stages.heads.subset``), cheap features :math:`x_i` (``stages.heads.attribution``) for all
of them. A regression predicts the effects of the sequences that were not ablated. Each ablated
sequence is predicted by a fit that never saw it (cross-fitting [2]_), and what that prediction got
wrong, :math:`r_i`, corrects the others: sequence :math:`i` is given the value

.. math::
    \psi_i = \begin{cases}
        f(x_i) & \text{not ablated: the mean over the fits} \\
        y_i + \frac{1}{Q} \big(\frac{N' - m' + m_q}{m_q} - 1\big) r_i & \text{drawn, in fold } q \\
        y_i & \text{taken for certain,}
    \end{cases}

with :math:`m'` sequences drawn from :math:`N'`, of which fold :math:`q` of :math:`Q` holds
:math:`m_q`. The mean of :math:`\psi` is the mean over the folds of difference estimators [1]_, each
with a fit that is independent of its fold: it is unbiased over the draws for any regression, good
or bad; a good one makes it precise.

These values stand in for the effects of all sequences: their mean is the estimate, their standard
deviation over :math:`\sqrt N` its standard error, which holds the error of the fit, and resampling
them resamples the estimate. All later stages therefore read them as they read exact effects.

Removals whose out-of-fold :math:`R^2` is low are not fitted: :math:`f` is then the mean of the
drawn sequences. Which they are hangs on the draw, so that with this rule the estimate is not
strictly unbiased: an outside check with the threshold at 0.5 saw a bias of 1.25 standard errors.

References
----------
.. [1] Cochran, W. G. (1977). Sampling Techniques, chapter 7. Wiley.
.. [2] Chernozhukov, V. et al. (2018). Double/debiased machine learning for treatment and structural
   parameters. The Econometrics Journal 21:C1-C68.
"""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli, tables
from stages.base.errors import AblationError
from stages.base.files import atomic_path
from stages.base.settings import load
from stages.heads import covariates
from stages.heads.settings import Sweep
from stages.heads.subset import Subset, standardised, subset_of
from stages.heads.tables.attribution import HEAD_CONTROL_VARIATE
from stages.measurement import effects
from stages.measurement.effects import Effects
from stages.measurement.streams import stream

Floats = NDArray[np.float64]

FOLDS = 4
# Relative to the variance of the standardised features: keeps collinear ones apart.
_RIDGE = 1e-2
# The losses of the attribution's pass and of the engine are those of one model on one text.
_TOLERANCE_NATS = 1e-3


@dataclass(frozen=True)
class Estimate:
    """Estimated effects; the last axis is that of the removals."""

    values: Floats
    """What stands in for the effect of each sequence, nats per token: (n, n_removals)."""
    se_subset: Floats
    """Standard error of their mean as an estimate of the exact mean over the same sequences."""
    r2: Floats
    """Out-of-fold share of the variance that the features explain; below 0 where they mislead."""
    fitted: NDArray[np.bool_]
    """Whether the regression was used."""

    @property
    def mean(self) -> Floats:
        """Estimated mean effects: (n_removals,)."""
        mean: Floats = self.values.mean(axis=0)
        return mean

    @property
    def se(self) -> Floats:
        """Standard error of the mean as an estimate for all text of this kind."""
        error: Floats = self.values.std(axis=0, ddof=1) / np.sqrt(len(self.values))
        return error


def estimate(
    exact: Floats,
    subset: Subset,
    columns: Floats,
    *,
    least_r2: float,
    rng: np.random.Generator,
) -> Estimate:
    """Estimate the effect of every removal.

    Parameters
    ----------
    exact : (m, n_removals)
        Exact effects of the sequences ``subset.sequences``, in this order.
    subset
        Which of the n sequences were ablated.
    columns : (n, n_removals, n_features)
        Features of every sequence; a removal is regressed on its own.
    least_r2
        Removals whose out-of-fold R^2 is lower are not fitted.
    rng
        Deals the drawn sequences into folds.

    Raises
    ------
    AblationError
        Arrays that do not fit one another.
    """
    sequences = subset.sequences
    if exact.shape != (len(sequences), columns.shape[1]) or len(columns) != subset.n:
        msg = (
            f"exact effects of shape {exact.shape}, {len(sequences)} chosen of {subset.n} "
            f"sequences and features of shape {columns.shape} do not belong together"
        )
        raise AblationError(msg)
    known = np.isin(sequences, subset.drawn)
    drawn, certain = exact[known], exact[~known]
    m, n_others = len(drawn), subset.n_others
    fold = rng.permutation(m) % FOLDS
    design = _design(columns)
    predicted, residual = np.zeros(columns.shape[:2]), np.empty_like(drawn)
    for q in range(FOLDS):
        here = fold == q
        rows = np.concatenate([design[subset.drawn[~here]], design[subset.certain]])
        weights = _fit(rows, np.concatenate([drawn[~here], certain]))
        everywhere = np.einsum("nhk,hk->nh", design, weights)
        predicted += everywhere / FOLDS
        residual[here] = drawn[here] - everywhere[subset.drawn[here]]

    total = drawn.var(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = np.where(total > 0, 1 - (residual**2).mean(axis=0) / total, 0.0)
    fitted = r2 >= least_r2
    size = np.bincount(fold, minlength=FOLDS)[fold][:, np.newaxis]  # of each one's fold
    weight = np.where(fitted, ((n_others - m + size) / size - 1) / FOLDS, (n_others - m) / m)
    residual = np.where(fitted, residual, drawn - drawn.mean(axis=0))
    values = np.where(fitted, predicted, drawn.mean(axis=0))
    values[subset.drawn] = drawn + weight * residual
    values[subset.certain] = certain
    variance = residual.var(axis=0, ddof=1) / m * (1 - m / n_others) * (n_others / subset.n) ** 2
    return Estimate(values=values, se_subset=np.sqrt(variance), r2=r2, fitted=fitted)


def _design(columns: Floats) -> Floats:
    """Return the standardised features with a leading 1."""
    return np.concatenate([np.ones((*columns.shape[:2], 1)), standardised(columns)], axis=-1)


def _fit(design: Floats, exact: Floats) -> Floats:
    """Return ridge weights of each removal: design (m, n_removals, k), exact (m, n_removals)."""
    m, _, k = design.shape
    gram = np.einsum("mhk,mhl->hkl", design, design)
    penalty = _RIDGE * m * np.eye(k)
    penalty[0, 0] = 0.0  # the mean is not shrunk
    right = np.einsum("mhk,mh->hk", design, exact)
    weights: Floats = np.linalg.solve(gram + penalty, right[..., np.newaxis])[..., 0]
    return weights


def features_of(part: Effects, features: covariates.Features) -> Floats:
    """Return the features of every sequence for each removal: (n, n_components, n_features).

    A head has its own; a layer the means over its heads; noise those over all heads.
    """
    columns = features.columns()  # (n, layer, head, feature)
    components = part.components
    found: Floats
    match part.kind:
        case "head":
            found = columns[:, components["layer"], components["head"]]
        case "layer":
            found = columns.mean(axis=2)[:, components["layer"]]
        case _:
            everything = columns.mean(axis=(1, 2))[:, np.newaxis]
            found = np.repeat(everything, len(components), axis=1)
    return found


def extend(
    part: Effects, subset: Subset, features: covariates.Features, sweep: Sweep
) -> tuple[Effects, Estimate]:
    """Return the effects of all sequences from those of the ablated ones.

    Raises
    ------
    AblationError
        The effects are not those of the subset, or of another model or text than the features.
    """
    if not np.array_equal(part.replicates, subset.sequences):
        msg = (
            f"{part.label}: the ablated sequences are not those that the attribution chooses. "
            "Run dvc repro ablate."
        )
        raise AblationError(msg)
    base = np.full(part.n_replicates, np.nan) if part.baseline is None else part.baseline
    apart = np.abs(base - features.loss[part.replicates]).max()
    # nan fails this as well.
    if not apart <= _TOLERANCE_NATS:
        msg = (
            f"{part.label}: the baseline losses of effects and attribution differ by {apart:.2g} "
            f"nats, at most {_TOLERANCE_NATS:g} is allowed. Run dvc repro attribution ablate."
        )
        raise AblationError(msg)
    columns = features_of(part, features)
    own = sweep.control_variate
    rng = stream(own.seed, part.state.name, part.kind)
    found = [estimate(draw, subset, columns, least_r2=own.least_r2, rng=rng) for draw in part.draws]
    loss_base = features.loss.copy()
    loss_base[part.replicates] = base
    whole = replace(
        part,
        replicates=np.arange(subset.n),
        baseline=loss_base,
        draws=np.stack([one.values for one in found]),
    )
    return whole, Estimate(
        values=whole.values,
        se_subset=np.mean([one.se_subset for one in found], axis=0),
        r2=np.mean([one.r2 for one in found], axis=0),
        fitted=np.all([one.fitted for one in found], axis=0),
    )


def _summary(part: Effects, subset: Subset, found: Estimate) -> dict[str, object]:
    """Return how well the prediction did, over the removals of one kind in one state."""
    total = part.values.var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # For the mean over all text: the exact sequences that would give the same error.
        alone = total / found.se**2
    able = alone[np.isfinite(alone)]
    return {
        "state": part.state.name,
        "position": part.state.position,
        "unit": part.kind,
        "perturbation": part.condition,
        "n_removals": len(part.components),
        "n_fitted": int(found.fitted.sum()),
        "n_sequences": subset.n,
        "n_exact": len(subset.sequences),
        "n_certain": len(subset.certain),
        "r2_median": np.median(found.r2),
        "r2_smallest": found.r2.min(),
        "equivalent_sequences": np.median(able) if able.size else np.nan,
    }


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    sweep, states = settings.sweep, settings.model.checkpoints
    parts = effects.read_states(args.effects, states, paired=False)
    rows: list[dict[str, object]] = []
    for state in states:
        source, out = args.effects / f"{state}.parquet", args.out / f"{state}.parquet"
        if sweep.estimator == "exact":
            with atomic_path(out) as temporary:
                shutil.copyfile(source, temporary)
            continue
        features = covariates.read(args.attribution / f"{state}.parquet", state)
        subset = subset_of(sweep, features, state)
        whole = []
        for part in (one for one in parts if one.state.name == state):
            extended, found = extend(part, subset, features, sweep)
            whole.append(extended)
            rows.append(_summary(part, subset, found))
        provenance = effects.provenance(source) | {"estimator": "control_variate"}
        effects.write(out, whole, provenance=provenance)
    summary = pd.DataFrame(rows) if rows else tables.empty(HEAD_CONTROL_VARIATE)
    tables.write(summary, HEAD_CONTROL_VARIATE, args.summary)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--effects", type=Path, required=True, help="folder of <state>.parquet")
    parser.add_argument("--attribution", type=Path, required=True, help="the like of features")
    parser.add_argument("--out", type=Path, required=True, help="folder of the estimated effects")
    parser.add_argument("--summary", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
