"""What a sweep of heads costs as model and text grow, what workers save, and what Dask adds.

Models of random weights, in the shape of pythia-mini but wider and deeper, and a text. *Growth*:
one process, of its own each time, with twice the sequences, layers (and so heads) or width; beside
the seconds, what counting operations says (docs/scale.md). *Workers*: the same sweep by processes
and by as many Dask workers, in turn. Workers are started by the first turn, which is not counted.
Of the others the table has medians, and of the ratios within a turn the least and the largest; then
what a task costs in which nothing is done. The bytes of all effects are compared.

Run: ``python -m benchmarks.scale [--workers 1 2] [--sequences 16] [--repeats 5]``; needs
requirements-dask.txt.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.model_shapes import MINI, Shape, save
from stages.base import cli
from stages.compute import settings
from stages.compute.run import run
from stages.compute.settings import Compute
from stages.heads.ablate import ablated
from stages.heads.settings import Sweep
from stages.inputs.material import Tokens
from stages.measurement.effects import State, write

WIDE = replace(MINI, hidden=256, n_layers=12)
LOCAL = Compute()
EMPTY = 500


def made(shape: Shape, folder: Path) -> None:
    """Write a model and its text."""
    save(shape.model(torch.float32), folder)
    np.save(folder / "tokens.npy", shape.tokens().numpy().astype("int32"))


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


def nothing(number: int, *, device: str) -> int:
    """Return a number, on a device."""
    del device
    return number


def empty(compute: Compute, on: list[str]) -> float:
    """Return the milliseconds of a task in which nothing is done."""
    settings.chosen = lambda: compute  # type: ignore[assignment]
    started = time.perf_counter()
    run(nothing, [(number,) for number in range(EMPTY)], on=on)
    return (time.perf_counter() - started) / EMPTY * 1e3


def operations(shape: Shape) -> float:
    """Return the operations of a sweep of all heads, as docs/scale.md has them."""
    block = 24 * shape.hidden**2 + 2 * shape.hidden * shape.seq
    a_head = shape.n_layers / 2 * block + 2 * shape.hidden * shape.vocabulary
    return shape.n_sequences * shape.seq * shape.n_layers * shape.n_heads * a_head


def alone(folder: Path, repeats: int) -> tuple[float, float]:
    """Return the seconds of a sweep, and the most memory of this process in MiB."""
    torch.set_num_threads(1)
    swept(folder, LOCAL, ["cpu"], "first")
    seconds = min(swept(folder, LOCAL, ["cpu"], f"turn{i}")[0] for i in range(repeats))
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def growth(base: Shape, repeats: int) -> None:
    """Print what is twice as large beside what it takes."""
    print("| twice | s | times | by operations | MiB |\n|:--|--:|--:|--:|--:|", flush=True)
    plain = 0.0
    for name, shape in (
        ("nothing", base),
        ("sequences", replace(base, n_sequences=2 * base.n_sequences)),
        ("layers", replace(base, n_layers=2 * base.n_layers)),
        ("width", replace(base, hidden=2 * base.hidden)),
    ):
        with tempfile.TemporaryDirectory() as folder:
            made(shape, Path(folder))
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, memory = pool.apply(alone, (Path(folder), repeats))
        plain = plain or seconds
        expected = operations(shape) / operations(base)
        times = f"{seconds / plain:.2f} | {expected:.2f}"
        print(f"| {name} | {seconds:.2f} | {times} | {memory:.0f} |", flush=True)


def workers(shape: Shape, numbers: Sequence[int], repeats: int) -> None:
    """Print what the sweep takes by processes and by Dask."""
    print("| workers | processes, s | Dask, s | Dask / processes | from | to | empty task, ms ||")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    contents = set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made(shape, folder)
        for number in numbers:
            dask = Compute(name="dask", scheduler="dask", workers=number)
            routes = {"processes": (LOCAL, ["cpu"] * number), "dask": (dask, ["cpu"])}
            took: dict[str, list[float]] = {route: [] for route in routes}
            for turn in range(repeats + 1):
                # Each goes first in every second turn.
                for route in sorted(routes, reverse=turn % 2 == 1):
                    compute, on = routes[route]
                    seconds, content = swept(folder, compute, on, f"{route}{number}-{turn}")
                    contents.add(content)
                    took[route].append(seconds)
            one, other = (np.array(took[route][1:]) for route in routes)
            ratios = np.sort(other / one)
            columns = [np.median(one), np.median(other), np.median(ratios), ratios[0], ratios[-1]]
            columns += [empty(*route) for route in routes.values()]
            print(f"| {number} | {' | '.join(f'{value:.2f}' for value in columns)} |", flush=True)
    print(f"\n{shape.n_layers + 1} shards; bytes of the effects: {len(contents)} kind(s)")


def _run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    growth(replace(WIDE, n_layers=6, n_sequences=args.sequences // 2), args.repeats)
    print()
    workers(replace(WIDE, n_sequences=args.sequences), args.workers, args.repeats)


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print two tables."""
    parser = cli.parser(__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
