"""Sort the heads by when in training their removal began to matter.

A head is *critical* in a state if its removal changes the loss by more than ``critical_relative``
of it and by at least ``min_z`` of its standard errors (where it has one), and *silent* if by less
than ``silent_relative``. Of the states that there are:

* born critical: critical in the first and in the last;
* emergent: critical in the last, silent in the first;
* growing: critical in the last, neither critical nor silent in the first;
* transient: not critical in the last, but in an earlier one;
* never critical: critical in none.

Where there is one state, it is the first and the last. Where every head is silent in the first,
none can be born critical: the class is empty in advance, and says nothing.

With the thresholds 5e-4 and 1e-4, and without standard errors, the first three are the classes of
the companion study; it counts the last two together as never critical.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stages.base import cli, tables
from stages.base.settings import load
from stages.heads.settings import Classes
from stages.heads.tables.classes import HEAD_CLASSES
from stages.heads.tables.importance import HEAD_IMPORTANCE


def classes(importance: pd.DataFrame, params: Classes) -> pd.DataFrame:
    """Return the class of every head, by perturbation.

    Parameters
    ----------
    importance
        ``HEAD_IMPORTANCE``.

    Returns
    -------
    DataFrame
        ``HEAD_CLASSES``; without rows where the importance holds no head.
    """
    of_heads = importance[importance["unit"] == "head"]
    parts = [
        _classes(rows, str(perturbation), params)
        for perturbation, rows in of_heads.groupby("perturbation", sort=True)
    ]
    return pd.concat(parts, ignore_index=True) if parts else tables.empty(HEAD_CLASSES)


def _classes(rows: pd.DataFrame, perturbation: str, params: Classes) -> pd.DataFrame:
    relative = rows["delta_loss_nats"] / rows["loss_base"]
    z = rows["delta_loss_nats"].abs() / rows["standard_error_nats"]
    # Without a standard error the size alone decides; an error of zero leaves no doubt.
    sure = z.isna() | (z >= params.min_z)
    states = list(rows.sort_values("position", kind="stable")["state"].unique())
    table = rows[["state", "layer", "head"]].assign(
        relative=relative, critical=(relative.abs() > params.critical_relative) & sure
    )
    key = ["layer", "head"]
    effect = table.pivot(index=key, columns="state", values="relative")[states]
    critical = table.pivot(index=key, columns="state", values="critical")[states].astype(bool)
    first, last = critical.iloc[:, 0], critical.iloc[:, -1]
    silent = effect.iloc[:, 0].abs() < params.silent_relative
    names = np.select(
        [last & first, last & silent, last, critical.any(axis=1)],
        ["born_critical", "emergent", "growing", "transient"],
        "never_critical",
    )
    largest = effect.abs().to_numpy().argmax(axis=1)
    return pd.DataFrame(
        {
            "perturbation": perturbation,
            "layer": effect.index.get_level_values("layer"),
            "head": effect.index.get_level_values("head"),
            "head_class": names,
            "n_critical_states": critical.sum(axis=1).to_numpy(),
            "first_critical_state": critical.idxmax(axis=1).where(critical.any(axis=1)).to_numpy(),
            "relative_first": effect.iloc[:, 0].to_numpy(),
            "relative_last": effect.iloc[:, -1].to_numpy(),
            "relative_largest": effect.to_numpy()[np.arange(len(effect)), largest],
            "state_largest": effect.columns.to_numpy()[largest],
        }
    )


def _run(args: argparse.Namespace) -> None:
    table = tables.read(args.importance, HEAD_IMPORTANCE)
    tables.write(classes(table, load(args.params).classes), HEAD_CLASSES, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--importance", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
