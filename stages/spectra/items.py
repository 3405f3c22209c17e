"""Harvest the mean vector of every item (gene or token) behind every block, in some states.

Sequences are read whole and dealt into parts, each of which has means of its own: the replicates of
what follows. Special tokens are no items, and in text the first position is left out, whose vector
is the same whatever stands there.
"""

import argparse
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from stages.base import cli
from stages.base.settings import load
from stages.compute.run import run, where_it_runs
from stages.inputs.encoders import encoded
from stages.models.architectures import architecture_of
from stages.models.devices import devices
from stages.models.load import fingerprint, load_model
from stages.representations.arrays import EMBEDDING
from stages.representations.harvest import Source, Wanted, harvest
from stages.representations.sequences import of_cells, of_tokens
from stages.spectra.sampling import drawn
from stages.spectra.settings import ItemMeans

SKIP = 1


def harvested(args: argparse.Namespace, state: str, *, device: str) -> None:
    """Keep the mean vectors of one state."""
    settings = load(args.params)
    params: ItemMeans = settings.items
    if args.cells is not None:
        rows = drawn(len(encoded.read(args.cells)), params)
        read = partial(of_cells, args.cells, rows=rows)
    else:
        read = partial(of_tokens, args.tokens, skip=SKIP)
    checkpoint = args.checkpoints / state
    architecture = architecture_of(load_model(checkpoint, device=device))
    sequences = read(checkpoint, architecture, reading="whole")
    source = Source(architecture, sequences, torch.device(device), fingerprint(checkpoint))
    layers = (EMBEDDING, *range(architecture.n_layers))
    wanted = Wanted("item_mean", layers, "float32", min(params.parts, len(sequences)))
    harvest(source, wanted, scratch=args.scratch / state, out=args.out / state)
    # A run that is killed goes on from it; one that has ended needs it no more.
    shutil.rmtree(args.scratch / state)


def _run(args: argparse.Namespace) -> None:
    states = load(args.params).systems[args.system].states
    run(harvested, [(args, state) for state in states], on=where_it_runs(devices, args.device))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--system", required=True, help="a key of systems: its states are read")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of <state>/")
    read = parser.add_mutually_exclusive_group(required=True)
    read.add_argument("--cells", type=Path, help="folder of encoded cells")
    read.add_argument("--tokens", type=Path, help="text of a language model (.npy)")
    parser.add_argument("--scratch", type=Path, required=True, help="folder of finished shards")
    parser.add_argument("--out", type=Path, required=True, help="folder of <state>/")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:0, cuda:0,cuda:1")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
