"""Set what the heads of a layer cost together beside the sum of what each costs alone.

Heads that make up for one another cost little one by one and much together: their excess is above
0. The intervals resample the same sequences for both.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stages.base import cli, tables
from stages.base.settings import load
from stages.heads.settings import JointRemoval
from stages.heads.tables.joint_removal import JOINT_REMOVAL, WHAT
from stages.measurement import effects, resampling
from stages.measurement.effects import Effects
from stages.measurement.streams import stream


def joint_removal(parts: Sequence[Effects], params: JointRemoval) -> pd.DataFrame:
    """Compare both for every layer, state and way of removal.

    Parameters
    ----------
    parts
        Effects of the kinds `head` and `attention` on the same sequences; others are passed over.

    Returns
    -------
    DataFrame
        ``JOINT_REMOVAL``, without rows where nothing was removed together.
    """
    alone = {(part.state.name, part.condition): part for part in parts if part.kind == "head"}
    rows: list[dict[str, object]] = []
    for part in parts:
        if part.kind != "attention":
            continue
        heads = alone[part.state.name, part.condition]
        weights = resampling.group_weights(
            part.n_replicates, params.draws, stream(params.seed, part.state.name)
        )
        for number, layer in enumerate(part.components["layer"]):
            of = (heads.components["layer"] == layer).to_numpy()
            together, singles = part.values[:, number], heads.values[:, of].sum(axis=1)
            for what, values in zip(WHAT, (together, singles, together - singles), strict=True):
                low, high = resampling.percentile_interval(
                    weights @ values, confidence=params.confidence
                )
                rows.append(
                    {
                        "state": part.state.name,
                        "position": part.state.position,
                        "perturbation": part.condition,
                        "layer": int(layer),
                        "what": what,
                        "value": float(np.mean(values)),
                        "low": low,
                        "high": high,
                        "unit": part.state.unit,
                        "n_heads": int(of.sum()),
                        "n_sequences": part.n_replicates,
                    }
                )
    return pd.DataFrame(rows, columns=list(JOINT_REMOVAL.columns))


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    parts = effects.read_states(args.effects, settings.cellmodel.checkpoints)
    tables.write(joint_removal(parts, settings.joint_removal), JOINT_REMOVAL, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--effects", type=Path, required=True, help="folder of <state>.parquet")
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
