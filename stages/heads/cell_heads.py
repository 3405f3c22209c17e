"""Remove every head of a model of cells, in every state, and keep what each cell then costs.

Resumable, and on several GPUs, as ``stages.heads.ablate`` is. A cell's loss is the mean over the
genes that were hidden in it: in nats where the gene is predicted, in squared bins where its value
is.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.base import cli
from stages.base.settings import load
from stages.compute.run import where_it_runs
from stages.heads.ablate import ablated
from stages.heads.attribution import CPU_POSITIONS, GPU_POSITIONS, features
from stages.heads.sweep import write_effects
from stages.inputs.encoders import encoded
from stages.inputs.encoders.measured import chosen
from stages.inputs.material import Cells
from stages.measurement.effects import State
from stages.models.architectures import architecture_of, family
from stages.models.devices import devices, matmul_precision
from stages.models.load import load_model, read_config


def sizes(checkpoint: Path, material: Cells, device: str) -> NDArray[np.float64]:
    """Return how much each head writes, as a share of the variance of its layer's input.

    Returns
    -------
    ndarray
        (n_layers, n_heads)
    """
    model = load_model(checkpoint, device=device)
    text = material.text(architecture_of(model), np.arange(len(material)))
    positions = CPU_POSITIONS if device == "cpu" else GPU_POSITIONS
    with matmul_precision("float32"):
        found = features(model, text, batch_size=max(1, positions // text.n_positions))
    return np.asarray(found.size.mean(axis=0))


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    model, sweep = settings.cellmodel, settings.cell_heads
    rows, others = chosen(encoded.read(args.cells).cells, model.cells)
    on = where_it_runs(devices, args.device)
    for name in model.checkpoints:
        checkpoint = args.checkpoints / name
        material = Cells(
            args.cells, checkpoint, tuple(rows.tolist()), tuple(others.tolist()), model.cells.seed
        )
        kind = family(read_config(checkpoint).model_type, str(checkpoint))
        unit = f"{kind.loss.value} per gene"
        parts, provenance = ablated(
            sweep,
            State("cell_heads", name, model.position(name), unit, "size"),
            checkpoint=checkpoint,
            material=material,
            sequences=np.arange(len(material)),
            size=sizes(checkpoint, material, devices(args.device)[0]),
            scratch=args.scratch,
            on=on,
        )
        write_effects(args.out / f"{name}.parquet", parts, provenance=provenance)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of <state>/")
    parser.add_argument("--cells", type=Path, required=True, help="folder of encoded cells")
    parser.add_argument("--scratch", type=Path, required=True, help="folder of finished shards")
    parser.add_argument("--out", type=Path, required=True, help="folder of <state>.parquet")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:0, cuda:0,cuda:1")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
