"""Choose the sequences that are ablated exactly, where the others are predicted.

Cheap features (``stages.heads.attribution``) are known for every sequence before any head is
removed. Effects and features are heavy-tailed: a few unusual sequences can hold most of what a
prediction gets wrong. Those with the most unusual features are therefore taken for certain, the
rest at random without replacement: a take-all stratum beside a simple random sample [1]_.

References
----------
.. [1] Cochran, W. G. (1977). Sampling Techniques, chapters 5 and 5A. Wiley.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.base.errors import AblationError
from stages.heads.covariates import Features
from stages.heads.settings import Sweep
from stages.measurement.streams import stream

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# Fewer exact sequences cannot support a regression on four features.
MIN_EXACT = 32


@dataclass(frozen=True)
class Subset:
    """Which of `n` sequences are ablated exactly."""

    n: int
    certain: Indices
    """Taken whatever the draw; ascending."""
    drawn: Indices
    """A simple random sample without replacement of the others; ascending."""

    @property
    def sequences(self) -> Indices:
        """All that are ablated, ascending."""
        return np.sort(np.concatenate([self.certain, self.drawn]))

    @property
    def n_others(self) -> int:
        """Number of sequences that the random draw was made from."""
        return self.n - len(self.certain)


def standardised(columns: Floats) -> Floats:
    """Return features with mean 0 and variance 1 over the first axis; constant ones as 0."""
    centred = columns - columns.mean(axis=0)
    spread = centred.std(axis=0)
    scaled: Floats = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    return scaled


def choose(
    columns: Floats, n_exact: int, *, certain_share: float, rng: np.random.Generator
) -> Subset:
    """Choose `n_exact` sequences.

    Parameters
    ----------
    columns : (n_sequences, n_heads, n_features)
        Features of every sequence. The most unusual sequences have the largest mean square of
        their standardised features.
    n_exact
        How many to choose.
    certain_share
        Share of them that is taken for certain.
    rng
        Draws the others.

    Raises
    ------
    AblationError
        Fewer than ``MIN_EXACT`` are wanted, or as many as there are.
    """
    n = len(columns)
    if n_exact < MIN_EXACT:
        msg = (
            f"{n_exact} exact sequences are too few for a control variate: at least {MIN_EXACT}. "
            "Raise sweep.control_variate.exact_sequences, or take sweep.estimator exact."
        )
        raise AblationError(msg)
    if n_exact >= n:
        msg = (
            f"{n_exact} exact sequences of {n} leave none to be predicted. Raise "
            "model.text.n_sequences, or take sweep.estimator exact."
        )
        raise AblationError(msg)
    unusual = (standardised(columns) ** 2).mean(axis=(1, 2))
    # Stable: equal ones in their order.
    order = np.argsort(-unusual, kind="stable")
    n_certain = int(certain_share * n_exact)
    drawn = rng.choice(np.sort(order[n_certain:]), n_exact - n_certain, replace=False)
    return Subset(n=n, certain=np.sort(order[:n_certain]), drawn=np.sort(drawn))


def subset_of(sweep: Sweep, features: Features, state: str) -> Subset:
    """Return the sequences of a checkpoint that are ablated exactly, decided by the settings."""
    columns = features.columns()
    own = sweep.control_variate
    return choose(
        columns.reshape(len(columns), -1, columns.shape[-1]),
        own.exact_sequences,
        certain_share=own.certain_share,
        rng=stream(own.seed, "subset", state),
    )
