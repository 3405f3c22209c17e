"""Take the concentration of signed effects: the same metrics wherever heads are measured."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.heads.tables.trajectory import HEAD_METRICS
from stages.measurement import concentration

Floats = NDArray[np.float64]
# Bootstrap draws measured at a time: 200 x 384 heads stay in the cache.
_CHUNK = 200


def measure(effects: Floats) -> Floats:
    """Return the metrics of absolute effects, in the order of ``HEAD_METRICS``.

    Parameters
    ----------
    effects : shape (..., n_heads)
        Mean effects, signed.

    Returns
    -------
    array of shape (..., n_metrics)
        Concentrations are nan where every effect is zero.

    Examples
    --------
    >>> measure(np.array([-50.0, 30.0, -15.0, 5.0])).round(3).tolist()
    [0.375, 0.5, 3.133, 0.783, 100.0]
    """
    size = np.abs(effects)
    number = np.asarray(concentration.effective_number(size))
    values = [
        np.asarray(concentration.gini(size)),
        np.asarray(concentration.gini_corrected(size)),
        number,
        number / size.shape[-1],
        size.sum(axis=-1),
    ]
    return np.stack(values, axis=-1)


def measure_weighted(weights: Floats, per_sequence: Floats) -> Floats:
    """Return the metrics of weighted mean effects, one row a draw.

    Parameters
    ----------
    weights : shape (n_draws, n_sequences)
        Bootstrap weights; see :func:`stages.measurement.resampling.group_weights`.
    per_sequence : shape (n_sequences, n_heads)
    """
    starts = range(0, len(weights), _CHUNK)
    return np.concatenate([measure(weights[i : i + _CHUNK] @ per_sequence) for i in starts])


def measure_resampled(chosen: NDArray[np.int64], effects: Floats) -> Floats:
    """Return the metrics of resampled heads, one row a draw.

    Parameters
    ----------
    chosen : shape (n_draws, n_heads)
        Which heads each draw takes.
    effects : shape (n_heads,)
    """
    starts = range(0, len(chosen), _CHUNK)
    return np.concatenate([measure(effects[chosen[i : i + _CHUNK]]) for i in starts])


def of_importance(importance: pd.DataFrame) -> pd.DataFrame:
    """Return the metrics of each step and perturbation of heads.

    Parameters
    ----------
    importance
        ``HEAD_IMPORTANCE``, from effects measured here or from published ones.

    Returns
    -------
    DataFrame
        Indexed by `step`, `perturbation`; columns ``HEAD_METRICS``.
    """
    rows = importance[importance["unit"] == "head"]
    key = ["step", "perturbation"]
    groups = rows.groupby(key, sort=True)["delta_loss_nats"]
    values = {name: measure(effects.to_numpy(float)) for name, effects in groups}
    index = pd.MultiIndex.from_tuples(list(values), names=key)
    return pd.DataFrame(list(values.values()), index=index, columns=list(HEAD_METRICS))
