r"""Average the effect of each removal over sequences, with its standard error.

The effect of a removal on a sequence is the rise of its mean loss, :math:`\delta_s = \ell_s^{abl} -
\ell_s`, in nats per predicted token; sequences have equal lengths, so the mean over sequences is
the mean over tokens. Where a perturbation is random, a sequence's effect is its mean over the
draws.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from stages.base import cli, tables
from stages.base.settings import load
from stages.heads.tables.importance import HEAD_IMPORTANCE
from stages.measurement import effects
from stages.measurement.effects import Effects


def importance(parts: Sequence[Effects]) -> pd.DataFrame:
    r"""Return the importance of every component in every state.

    The standard error over sequences is :math:`s / \sqrt n` with the sample standard deviation
    :math:`s` of the n per-sequence effects. The one over draws is the same over the K draws' means;
    it is empty for a single draw. The first already holds the part of the second that differs from
    sequence to sequence.

    Returns
    -------
    DataFrame
        ``HEAD_IMPORTANCE``.
    """
    return pd.concat([_of(part) for part in parts], ignore_index=True)


def _of(part: Effects) -> pd.DataFrame:
    n_draws, n_sequences, _ = part.draws.shape
    per_sequence = part.values
    mean = per_sequence.mean(axis=0)
    draws = part.draws.mean(axis=1)  # (n_draws, n_components)
    over_draws = draws.std(axis=0, ddof=1) / np.sqrt(n_draws) if n_draws > 1 else np.nan
    return pd.DataFrame(
        {
            "state": part.state.name,
            "position": part.state.position,
            "unit": part.kind,
            "perturbation": part.condition,
            "component": part.components.index,
            **{name: _attribute(part, name) for name in ("layer", "head")},
            "delta_loss_nats": mean,
            "standard_error_nats": per_sequence.std(axis=0, ddof=1) / np.sqrt(n_sequences),
            "standard_error_draws_nats": over_draws,
            "n_sequences": n_sequences,
            "n_draws": n_draws,
            "loss_base": np.nan if part.baseline is None else part.baseline.mean(),
            "rank": rank(mean),
        }
    )


def _attribute(part: Effects, name: str) -> "pd.api.extensions.ExtensionArray":
    known = part.components[name] if name in part.components else [None] * len(part.components)
    return pd.array(known, dtype="Int64")


def rank(mean: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return 1 for the largest absolute effect; equal ones share the smaller number.

    Examples
    --------
    >>> rank(np.array([0.1, -3.0, 0.0, 0.1])).tolist()
    [2, 1, 4, 2]
    """
    return stats.rankdata(-np.abs(mean), method="min").astype(np.int64)


def _run(args: argparse.Namespace) -> None:
    parts = effects.read_states(args.effects, load(args.params).model.checkpoints)
    tables.write(importance(parts), HEAD_IMPORTANCE, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--effects", type=Path, required=True, help="folder of <state>.parquet")
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
