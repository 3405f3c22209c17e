"""Train cell-mini, the demo's model of cells, and keep its checkpoints in Geneformer's layout."""

import os

# Before PyTorch starts its threads: those that wait must sleep (stages.inputs.mini says why).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from stages.base import cli
from stages.base.errors import SettingsError
from stages.base.files import atomic_folder
from stages.base.settings import load
from stages.inputs.cell_mini.learnt import learnt
from stages.inputs.cell_mini.train import HELD_OUT, Material, spread, train
from stages.inputs.settings import MiniCellModel
from stages.inputs.training import LOG_FILE, alone


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
    with alone(scratch):
        folder = train(model, material, scratch=scratch)
        with atomic_folder(out) as fresh:
            for state in model.checkpoints:
                shutil.copytree(folder / state, fresh / state)
            shutil.copyfile(folder / LOG_FILE, fresh / LOG_FILE)
        shutil.rmtree(folder)


def _run(args: argparse.Namespace) -> None:
    model = load(args.params).cellmodel
    if not isinstance(model, MiniCellModel):
        msg = (
            f"{args.params} is composed for the model of cells {model.name} (source "
            f"{model.source}), which is not trained here. Compose another: "
            "python -m stages.base.compose --cellmodel cell-mini."
        )
        raise SettingsError(msg)
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
