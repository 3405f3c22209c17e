"""State the heads' effects that the companion study published, and ours beside them.

``data/embedded/spiro2026_heads.csv`` holds zero ablation of every third head of
Pythia-410M-deduped (144 of 384) at eight steps, each as the mean loss over 100 sequences, without
its error (Spiro 2026; data/README.md says where it comes from). It is stated as effects of one
replicate, so that it is measured as every system is: without intervals over sequences, and without
a noise floor. Where the model of this run is the same, ours are compared with it step by step.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from stages.base import cli, tables
from stages.base.errors import TableError
from stages.base.files import atomic_folder
from stages.base.settings import load
from stages.heads.components import UNIT, components
from stages.heads.tables.companion import COMPANION_AGREEMENT, COMPANION_HEADS
from stages.heads.tables.importance import HEAD_IMPORTANCE
from stages.measurement import effects
from stages.measurement.effects import Effects, State
from stages.measurement.metrics import REGISTRY, measure

Floats = NDArray[np.float64]

_SHOWN = (REGISTRY["gini"], REGISTRY["effective_number"])


def published(path: Path) -> list[Effects]:
    """Return the published effects, one part a step, in order.

    Raises
    ------
    TableError
        The file is missing or is no table of published effects, or the heads of two steps differ.
    """
    table = tables.read(path, COMPANION_HEADS)
    parts: list[Effects] = []
    for step, rows in table.groupby("checkpoint"):
        ordered = rows.sort_values(["layer", "head"])
        known = components("head", [(row.layer, row.head, 0) for row in ordered.itertuples()])
        if parts and not known.index.equals(parts[0].components.index):
            msg = (
                f"{path} holds other heads at step {step} than at the first one. Restore it: "
                f"git checkout {path}."
            )
            raise TableError(msg)
        delta = (ordered["loss_ablated"] - ordered["loss_base"]).to_numpy(float)
        parts.append(
            Effects(
                state=State("companion", f"step{step}", float(step), UNIT),
                kind="head",
                condition="zero",
                components=known,
                replicates=np.zeros(1, np.int64),
                draws=delta[None, None],
                baseline=ordered["loss_base"].to_numpy(float)[:1],
            )
        )
    return parts


def agreement(importance: pd.DataFrame, companion: Sequence[Effects]) -> pd.DataFrame:
    """Return how far both agree in each state, over the heads that both have.

    Parameters
    ----------
    importance
        ``HEAD_IMPORTANCE``; zero ablation of heads is compared.
    companion
        From :func:`published`.

    Returns
    -------
    DataFrame
        ``COMPANION_AGREEMENT``: differences are ours minus theirs. States in which both have
        two heads or more; no rows where there is none, as when heads are removed in another way.
    """
    key = ["state", "layer", "head"]
    both = _zero(importance).merge(_theirs(companion), on=key, suffixes=("", "_companion"))
    both = both[both.groupby("state")["head"].transform("size") >= 2]
    if both.empty:
        return tables.empty(COMPANION_AGREEMENT)
    return pd.DataFrame([_agreement(rows) for _, rows in both.groupby("position")])


def _zero(importance: pd.DataFrame) -> pd.DataFrame:
    rows = importance[(importance["unit"] == "head") & (importance["perturbation"] == "zero")]
    return rows[["state", "position", "layer", "head", "delta_loss_nats", "loss_base"]]


def _theirs(parts: Sequence[Effects]) -> pd.DataFrame:
    tables_ = [
        part.components.reset_index(drop=True).assign(
            state=part.state.name,
            delta_loss_nats=part.values[0],
            loss_base=np.nan if part.baseline is None else part.baseline[0],
        )
        for part in parts
    ]
    return pd.concat(tables_, ignore_index=True)


def _agreement(rows: pd.DataFrame) -> dict[str, object]:
    ours = rows["delta_loss_nats"].to_numpy(float)
    theirs = rows["delta_loss_nats_companion"].to_numpy(float)
    difference = np.abs(ours - theirs)
    largest = rows.iloc[int(difference.argmax())]
    gini, number = measure(np.abs(ours), _SHOWN)
    gini_companion, number_companion = measure(np.abs(theirs), _SHOWN)
    return {
        "state": rows["state"].iloc[0],
        "position": rows["position"].iloc[0],
        "n_heads": len(rows),
        "spearman": _spearman(ours, theirs),
        "spearman_abs": _spearman(np.abs(ours), np.abs(theirs)),
        "largest_difference_nats": float(difference.max()),
        "largest_layer": largest["layer"],
        "largest_head": largest["head"],
        "gini": gini,
        "gini_companion": gini_companion,
        "gini_difference": gini - gini_companion,
        "effective_number": number,
        "effective_number_companion": number_companion,
        "effective_number_difference": number - number_companion,
        "loss_base": rows["loss_base"].iloc[0],
        "loss_base_companion": rows["loss_base_companion"].iloc[0],
    }


def _spearman(x: Floats, y: Floats) -> float:
    # Constant vectors have no ranks to correlate.
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.clip(stats.spearmanr(x, y).statistic, -1, 1))


def _run(args: argparse.Namespace) -> None:
    theirs = published(args.published)
    with atomic_folder(args.effects) as folder:
        for part in theirs:
            effects.write(folder / f"{part.state.name}.parquet", [part])
    settings = load(args.params)
    found = tables.empty(COMPANION_AGREEMENT)
    if settings.model.name == settings.systems["companion"].group:
        found = agreement(tables.read(args.importance, HEAD_IMPORTANCE), theirs)
        if found.empty:
            cli.log.info("nothing is compared: no state has zero ablation of the same two heads")
    tables.write(found, COMPANION_AGREEMENT, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--importance", type=Path, required=True)
    parser.add_argument("--published", type=Path, required=True, help="the companion's effects")
    parser.add_argument("--effects", type=Path, required=True, help="folder of <state>.parquet")
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
