"""Heads per second by three routes side by side, in one run, and how far they agree.

* ours: ``stages.models.passes``: a baseline pass, then only the later blocks, several heads in a
  batch;
* the companion's: zero the head's columns of ``attention.dense.weight``, run the whole
  ``transformers`` model with labels in batches of four sequences, restore the columns;
* TransformerLens, if ``--lens`` names an environment that has it (``benchmarks.lens``): the head's
  ``hook_z`` set to zero in a pass of the whole model, in the same batches.

Random weights of the true shapes: speed does not depend on their values. The routes take turns, and
of each the fastest of the repeats counts, since machines are noisy. The two whole passes cost the
same for every head of a layer, so they are timed on one head a layer. The limit is the ratio of
operations (products only); the rest of a ratio beyond it is overhead that one of the two does not
pay. Differences are the largest ones from ours, in nats: of a sequence's loss, of a head's mean
loss, and of a sequence's loss with everything in float64.

Run: ``python -m benchmarks.ablation_routes [--large] [--threads 1] [--repeats 5] [--lens PYTHON]``.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import lens as other
from benchmarks.model_shapes import LARGE, MINI, Shape
from stages.base import cli
from stages.models.interventions import single_heads
from stages.models.passes import Passes
from stages.models.text import next_tokens

COMPANION_BATCH = 4


def ours(model: nn.Module, tokens: Tensor, shape: Shape) -> tuple[Tensor, float]:
    """Return losses (layers, heads, sequences) and the seconds of a head."""
    passes = Passes(model, next_tokens(tokens))
    seconds = shared = 0.0
    losses = []
    for layer in shape.layers:
        started = time.perf_counter()
        with torch.inference_mode():
            passes._trunk.go_to(layer)
        moved = time.perf_counter()
        losses.append(passes.run(single_heads(layer, range(shape.heads))))
        shared += moved - started
        seconds += time.perf_counter() - moved
    started = time.perf_counter()
    passes.baseline()
    shared += time.perf_counter() - started
    # The baseline pass serves all heads of the model.
    a_head = seconds / (len(shape.layers) * shape.heads) + shared / (shape.n_layers * shape.n_heads)
    return torch.stack(losses), a_head


@torch.no_grad()
def companion(model: Any, tokens: Tensor, shape: Shape) -> float:
    """Return the seconds of a head the companion's way, from one head of each layer."""
    width = shape.hidden // shape.n_heads
    started = time.perf_counter()
    for layer in shape.layers:
        weight = model.gpt_neox.layers[layer].attention.dense.weight
        saved = weight.data.clone()
        weight.data[:, :width] = 0
        for batch in torch.split(tokens, COMPANION_BATCH):
            model(input_ids=batch, labels=batch).loss.item()
        weight.data.copy_(saved)
    return (time.perf_counter() - started) / len(shape.layers)


@torch.no_grad()
def whole(model: Any, tokens: Tensor, shape: Shape) -> Tensor:
    """Return the companion's losses by sequence: (layers, heads, sequences)."""
    width = shape.hidden // shape.n_heads
    found = []
    for layer in shape.layers:
        weight = model.gpt_neox.layers[layer].attention.dense.weight
        for head in range(shape.heads):
            columns = slice(head * width, (head + 1) * width)
            saved = weight.data[:, columns].clone()
            weight.data[:, columns] = 0
            logits = torch.cat([model(row[None]).logits[:, :-1] for row in tokens])
            weight.data[:, columns] = saved
            losses = F.cross_entropy(logits.mT, tokens[:, 1:], reduction="none")
            found.append(losses.double().mean(dim=-1))
    return torch.stack(found).view(len(shape.layers), shape.heads, -1)


def transformer_lens(lens: other.Lens, shape: Shape) -> float:
    """Return the seconds of a head in TransformerLens, from one head of each layer."""
    return sum(lens.without_head(layer, 0)[0] for layer in shape.layers) / len(shape.layers)


def apart(model: Any, tokens: Tensor, shape: Shape) -> tuple[float, float]:
    """Return by how much the companion's losses differ from ours: of a sequence, of a head."""
    difference = ours(model, tokens, shape)[0] - whole(model, tokens, shape)
    return float(difference.abs().max()), float(difference.mean(dim=-1).abs().max())


def lens_apart(lens: other.Lens, model: Any, tokens: Tensor, shape: Shape) -> float:
    """Return by how much a head's mean loss in TransformerLens differs from ours, at most."""
    mine = ours(model, tokens, shape)[0].mean(dim=-1)  # (layers, heads)
    theirs = [
        [lens.without_head(layer, head)[1] for head in range(shape.heads)] for layer in shape.layers
    ]
    return float((mine - torch.tensor(theirs, dtype=torch.float64)).abs().max())


def fastest(repeats: int, routes: Sequence[Callable[[], float]]) -> list[float]:
    """Return the fastest time of each route; they take turns, and the first turn does not count."""
    times = [[route() for route in routes] for _ in range(repeats + 1)][1:]
    return [min(column) for column in zip(*times, strict=True)]


def rows(shape: Shape, args: argparse.Namespace) -> list[str]:
    """Measure a shape and return its lines of the table."""
    model, tokens = shape.model(torch.float32), shape.tokens()
    repeats = args.repeats if shape is MINI else min(args.repeats, 2)
    with ExitStack() as stack:
        routes = [lambda: companion(model, tokens, shape), lambda: ours(model, tokens, shape)[1]]
        lens_head = 0.0
        if args.lens is not None:
            lens = stack.enter_context(
                other.opened(
                    args.lens, model, tokens, batch_size=COMPANION_BATCH, threads=args.threads
                )
            )
            routes.append(lambda: transformer_lens(lens, shape))
            lens_head = lens_apart(lens, model, tokens, shape)
        theirs, mine, *of_lens = fastest(repeats, routes)
    sequence, head = apart(model, tokens, shape)
    differences = f"{sequence:.1e} | {head:.1e} |"
    if shape is MINI:
        differences += f" {apart(shape.model(torch.float64), tokens, shape)[0]:.1e}"
    found = [f"| {shape.name} | companion's | {1 / theirs:.3g} | 1 | | | {differences} |"]
    for seconds in of_lens:
        figures = f"{1 / seconds:.3g} | {theirs / seconds:.2f} | | | | {lens_head:.1e} |"
        found.append(f"| {shape.name} | TransformerLens | {figures} |")
    ratio, limit = theirs / mine, shape.limit()
    n_ours, n_all = len(shape.layers) * shape.heads, shape.n_layers * shape.n_heads
    found.append(
        f"| {shape.name} ({n_ours} of {n_all} heads) | ours | {1 / mine:.3g} | {ratio:.2f} "
        f"| {limit:.2f} | {ratio / limit:.2f} | | | |"
    )
    return found


def _run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("highest")
    print(f"torch {torch.__version__}, {args.threads} threads, fastest of {args.repeats}")
    if args.lens is None:
        print("TransformerLens was not measured: name a Python that has it by --lens.")
    print("\n| shape | route | heads/s | ratio | limit | share | sequence | head | float64 |")
    print("|:--|:--|--:|--:|--:|--:|--:|--:|--:|")
    shapes = [LARGE] if args.large_only else [MINI, LARGE] if args.large else [MINI]
    for shape in shapes:
        print("\n".join(rows(shape, args)), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print a table."""
    parser = cli.parser(__doc__)
    parser.add_argument("--large", action="store_true", help="also the 410M shape (minutes)")
    parser.add_argument("--large-only", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lens", type=Path, help="a Python that has TransformerLens")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
