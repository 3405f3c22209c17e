"""What Dask adds to a sweep of heads, on as many workers, side by side; and one worker against two.

A model of random weights, in the shape of pythia-mini but wider, and a text. Each route starts its
workers before the clock: a worker imports torch once, which takes either the same. The routes take
turns; of each the fastest counts. The bytes of all effects are compared.

Run: ``python -m benchmarks.dask_overhead [--workers 2] [--sequences 16] [--repeats 3]``; needs
requirements-dask.txt.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.model_shapes import MINI, save
from stages.base import cli
from stages.compute import settings
from stages.compute.settings import Compute
from stages.heads.ablate import ablated
from stages.heads.settings import Sweep
from stages.inputs.material import Tokens
from stages.measurement.effects import State, write


def swept(folder: Path, compute: Compute, on: list[str], label: str) -> tuple[float, bytes]:
    """Return the seconds of a sweep, and the bytes of its effects."""
    settings.chosen = lambda: compute  # type: ignore[assignment]
    material = Tokens(folder / "tokens.npy", None, folder)
    started = time.perf_counter()
    parts, _ = ablated(
        Sweep(),
        State("heads", "step1", 1.0, "nats per token"),
        checkpoint=folder,
        material=material,
        sequences=np.arange(len(material)),
        scratch=folder / label,
        on=on,
    )
    seconds = time.perf_counter() - started
    write(folder / f"{label}.parquet", parts)
    return seconds, (folder / f"{label}.parquet").read_bytes()


def _run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    local = Compute()
    dask = Compute(name="dask", scheduler="dask", workers=args.workers)
    routes = {
        "one process": (local, ["cpu"]),
        f"{args.workers} processes": (local, ["cpu"] * args.workers),
        f"Dask, {args.workers} workers": (dask, ["cpu"]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in routes}
    contents = set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = replace(MINI, hidden=256, n_layers=12, n_sequences=args.sequences)
        save(shape.model(torch.float32), folder)
        np.save(folder / "tokens.npy", shape.tokens().numpy().astype("int32"))
        for turn in range(args.repeats + 1):
            for route, (compute, on) in routes.items():
                took, content = swept(folder, compute, on, f"{route.replace(' ', '')}{turn}")
                contents.add(content)
                # The first turn starts the workers.
                seconds[route] += [took] if turn else []
                cli.log.info("%s: %.1f s", route, took)
    print("| route | s | of that without Dask |\n|:--|--:|--:|")
    best = {route: min(found) for route, found in seconds.items()}
    plain = best[f"{args.workers} processes"]
    for route, least in best.items():
        print(f"| {route} | {least:.2f} | {least / plain:.3f} |")
    print(f"\n{shape.n_layers + 1} shards; bytes of the effects: {len(contents)} kind(s)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print a table."""
    parser = cli.parser(__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
