"""Compare the heads' effects with those that the companion study published, step by step.

The published file is only compared with; no result rests on it. It holds zero ablation of every
third head of Pythia-410M-deduped (144 of 384), of whole layers, and distributed noise, each as a
mean loss over 100 sequences without its error.
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
from stages.heads.importance import rank
from stages.heads.tables.companion import COMPANION_AGREEMENT
from stages.heads.tables.importance import HEAD_IMPORTANCE
from stages.measurement.metrics import REGISTRY, measure

Floats = NDArray[np.float64]

N_SEQUENCES = 100
"""25 batches of 4 sequences."""
NOISE_SEED = 42000
"""The published noise direction i has the seed 42000 + i."""

_SHOWN = (REGISTRY["gini"], REGISTRY["effective_number"])
_UNITS = {"head": "head", "layer": "layer", "type_a": "noise"}
_PERTURBATIONS = {"head": "zero", "layer": "zero", "type_a": "gaussian"}
_COLUMNS = [
    "checkpoint",
    "perturbation_type",
    "layer_idx",
    "head_idx",
    "seed",
    "baseline_loss",
    "perturbed_loss",
    "delta",
]
# Their delta is -(perturbed - baseline) / |baseline|, written with all its digits.
_TOLERANCE = 1e-12


def read_companion(path: Path) -> pd.DataFrame:
    """Return the published effects as a table of importance.

    Effects are turned into ours: nats per token, positive where removal harms.

    Returns
    -------
    DataFrame
        ``HEAD_IMPORTANCE`` without standard errors; no rows if the file holds only its
        header.

    Raises
    ------
    TableError
        The file is missing or is not the published one.
    """
    try:
        table = pd.read_csv(path, float_precision="round_trip")
    except FileNotFoundError:
        msg = f"the companion's table {path} does not exist. Run dvc repro."
        raise TableError(msg) from None
    except (ValueError, UnicodeDecodeError) as error:
        msg = f"{path} is no CSV ({' '.join(str(error).split())}). Remove it and run dvc repro."
        raise TableError(msg) from None
    if missing := [name for name in _COLUMNS if name not in table.columns]:
        msg = f"the companion's table {path} has no column {', '.join(missing)}. Fetch it again."
        raise TableError(msg)
    if table.empty:
        return tables.empty(HEAD_IMPORTANCE)
    if unknown := set(table["perturbation_type"]) - set(_UNITS):
        msg = (
            f"the companion's table {path} holds {sorted(map(str, unknown))[0]!r} as "
            f"perturbation_type; known are {', '.join(_UNITS)}. Fetch it again."
        )
        raise TableError(msg)
    _check_delta(table, path)
    unit = table["perturbation_type"].map(_UNITS)
    layer, head = table["layer_idx"], table["head_idx"]
    names = {
        "head": "L" + layer.astype(str) + "H" + head.astype(str),
        "layer": "L" + layer.astype(str),
        "noise": "N" + (table["seed"] - NOISE_SEED).astype(str),
    }
    found = pd.DataFrame(
        {
            "state": "step" + table["checkpoint"].astype(str),
            "position": table["checkpoint"],
            "unit": unit,
            "perturbation": table["perturbation_type"].map(_PERTURBATIONS),
            "component": np.select([unit == kind for kind in names], list(names.values()), ""),
            "layer": layer.astype("Int64").where(unit != "noise"),
            "head": head.astype("Int64").where(unit == "head"),
            "delta_loss_nats": table["perturbed_loss"] - table["baseline_loss"],
            "standard_error_nats": np.nan,
            "standard_error_draws_nats": np.nan,
            "n_sequences": N_SEQUENCES,
            "n_draws": 1,
            "loss_base": table["baseline_loss"],
        }
    )
    groups = found.groupby(["state", "unit", "perturbation"])["delta_loss_nats"]
    found["rank"] = groups.transform(lambda x: pd.Series(rank(x.to_numpy(float)), index=x.index))
    return HEAD_IMPORTANCE.validate(found)


def _check_delta(table: pd.DataFrame, path: Path) -> None:
    expected = -(table["perturbed_loss"] - table["baseline_loss"]) / table["baseline_loss"].abs()
    off = float((expected - table["delta"]).abs().max())
    # nan fails this as well.
    if not off <= _TOLERANCE:
        msg = (
            f"the companion's table {path}: delta is not -(perturbed - baseline) / |baseline| "
            f"(off by {off:.3g}). Fetch it again."
        )
        raise TableError(msg)


def agreement(importance: pd.DataFrame, companion: pd.DataFrame) -> pd.DataFrame:
    """Return how far both agree in each state, over the heads that both have.

    Parameters
    ----------
    importance, companion
        ``HEAD_IMPORTANCE``; zero ablation of heads is compared.

    Returns
    -------
    DataFrame
        ``COMPANION_AGREEMENT``: differences are ours minus theirs. States in which both have
        two heads or more; no rows where there is none, as when heads are removed in another way.
    """
    key = ["state", "layer", "head"]
    both = _zero(importance).merge(_zero(companion), on=key, suffixes=("", "_companion"))
    both = both[both.groupby("state")["head"].transform("size") >= 2]
    if both.empty:
        return tables.empty(COMPANION_AGREEMENT)
    return pd.DataFrame([_agreement(rows) for _, rows in both.groupby("position")])


def _zero(importance: pd.DataFrame) -> pd.DataFrame:
    rows = importance[(importance["unit"] == "head") & (importance["perturbation"] == "zero")]
    return rows[["state", "position", "layer", "head", "delta_loss_nats", "loss_base"]]


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
    importance = tables.read(args.importance, HEAD_IMPORTANCE)
    published = read_companion(args.published)
    table = agreement(importance, published)
    if table.empty and not published.empty:
        cli.log.info(
            "nothing is compared: here and in %s no state has zero ablation of the same two heads",
            args.published,
        )
    tables.write(table, COMPANION_AGREEMENT, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    parser.add_argument("--importance", type=Path, required=True)
    parser.add_argument("--published", type=Path, required=True, help="the companion's CSV")
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
