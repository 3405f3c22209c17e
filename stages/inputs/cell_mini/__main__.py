"""Train cell-mini, the demo's model of cells, and keep its checkpoints in Geneformer's layout."""

import os

# Before PyTorch starts its threads: those that wait must sleep (stages.inputs.mini says why).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
from collections.abc import Sequence
from pathlib import Path

from stages.base import cli
from stages.base.settings import load, needed
from stages.inputs import training
from stages.inputs.cell_mini.learnt import learnt
from stages.inputs.cell_mini.train import HELD_OUT, CellBert, Material, key_of, spread
from stages.inputs.settings import MiniCellModel


def make(model: MiniCellModel, *, out: Path, scratch: Path) -> None:
    """Encode the cells, train, and put folder `out` in place, whole or not at all.

    Parameters
    ----------
    model
        What to train.
    out
        Gets ``step<N>/``, each with its vocabulary, and ``train_log.csv``.
    scratch
        Keeps what is unfinished between runs.
    """
    known, cells, others = learnt(model)
    cli.log.info(
        "%d genes; %d cells to learn from, %d held out", len(known.genes), len(cells), len(others)
    )
    material = Material(known, cells.ids, spread(others, HELD_OUT))
    key = key_of(model, material)
    training.make(CellBert(model, material), key, out=out, scratch=scratch)


def _run(args: argparse.Namespace) -> None:
    model = needed(
        load(args.params).cellmodel,
        MiniCellModel,
        source=args.params,
        does="is not trained here",
        instead="--cellmodel cell-mini",
    )
    make(model, out=args.out, scratch=args.scratch)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--scratch",
        type=Path,
        default=Path("data/scratch/cell-training"),
        help="unfinished training, outside of what DVC deletes (default: %(default)s)",
    )
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
