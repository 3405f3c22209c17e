"""Pairs of heads per second by two routes side by side, in one run, and how far they agree.

* ours: ``stages.models.passes``: a baseline pass, a pass without each first head, and of each pair
  only what lies behind the second;
* hooks: a pre-hook on ``attention.dense`` for each head of the pair, which sets its slice of the
  input to zero, and a full forward of ``transformers`` with its loss, in batches of sequences.

Random weights of the true shapes: speed does not depend on their values. The limit is the ratio of
operations (products only) of a full forward to those of a pair, on average over all pairs of the
model: of a deep one, the blocks behind the later of two layers are a third of all, and what is
shared is spread over many pairs. A sample of pairs stands for all, and the limit beside the ratio
is that of the sample: with fewer pairs of a head than in a whole sweep, the pass without it weighs
more. The hooks cost the same for every pair and are timed on some. The routes take turns, and of
each the fastest of the repeats counts. The differences are the largest ones of a sequence's loss,
in nats, in float32 and float64.

Run: ``python -m benchmarks.pairs [--large] [--threads 1] [--repeats 3]``.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.ablation_routes import fastest
from benchmarks.model_shapes import LARGE, MINI, Shape
from stages.base import cli
from stages.models.interventions import AblationType
from stages.models.passes import Passes
from stages.models.text import next_tokens
from stages.pairs.choice import all_heads, pairs_of
from stages.pairs.components import Pair
from stages.pairs.removals import without

HOOKED_BATCH = 4
STEPS = {"pythia-mini": (6, 1), "410M": (96, 32)}
"""Every which head comes first in a pair, and every which second."""
HOOKED = {"pythia-mini": 24, "410M": 2}
"""Pairs that the hooks are timed on."""
SEQ = {"410M": 128}
"""Tokens of a sequence where those of the shape would take too long."""


def sampled(shape: Shape) -> list[Pair]:
    """Return pairs of some first heads with some later ones, evenly over the model."""
    step, other = STEPS[shape.name]
    every = all_heads(shape.n_layers, shape.n_heads)
    first, second = set(every[step // 2 :: step]), set(every[other // 2 :: other])
    return [one for one in pairs_of(every) if one[0] in first and one[1] in second]


def limit(shape: Shape, pairs: Sequence[Pair], seq: int) -> float:
    """Return the ratio of products of a whole forward pass to those of one pair, on average.

    Of the pairs given, in a sweep over all: a first head's pass from its layer to the end is shared
    by its own pairs, the baseline by all.
    """
    # One position: two operations a product; attention sees half of the sequence on average.
    block = 24 * shape.hidden**2 + 2 * shape.hidden * seq
    unembedding = 2 * shape.hidden * shape.vocabulary
    contribution = 2 * shape.hidden * shape.hidden / shape.n_heads
    whole = shape.n_layers * block + unembedding
    firsts = {a for a, _ in pairs}
    later = sum((shape.n_layers - 1 - b[0]) * block + contribution for _, b in pairs)
    # A pair within a layer starts at the baseline and has both heads' contributions.
    both = sum(a[0] == b[0] for a, b in pairs) * contribution
    stems = sum((shape.n_layers - 1 - layer) * block + contribution for layer, _ in firsts)
    n_all = shape.n_layers * shape.n_heads
    shared = whole / (n_all * (n_all - 1) / 2)
    return whole / ((later + both + stems) / len(pairs) + unembedding + shared)


def ours(model: Any, tokens: Tensor, pairs: Sequence[Pair], shape: Shape) -> tuple[Tensor, float]:
    """Return losses (pairs, sequences) and the seconds of a pair."""
    passes = Passes(model, next_tokens(tokens))
    started = time.perf_counter()
    with torch.inference_mode():
        passes._trunk.go_to(0)
    moved = time.perf_counter()
    found, shared = [], moved - started
    seconds = 0.0
    for layer in sorted({a[0] for a, _ in pairs}):
        mine = [one for one in pairs if one[0][0] == layer]
        started = time.perf_counter()
        with torch.inference_mode():
            passes._trunk.go_to(layer)
        moved = time.perf_counter()
        found.append(passes.run([without(one, AblationType.ZERO) for one in mine]))
        seconds += time.perf_counter() - moved
        shared += moved - started
    started = time.perf_counter()
    passes.baseline()
    shared += time.perf_counter() - started
    n_all = shape.n_layers * shape.n_heads
    return torch.cat(found), seconds / len(pairs) + shared / (n_all * (n_all - 1) / 2)


@torch.no_grad()
def hooked(
    model: Any, tokens: Tensor, pairs: Sequence[Pair], shape: Shape, batch: int = HOOKED_BATCH
) -> tuple[Tensor, float]:
    """Return losses (pairs, sequences) and the seconds of a pair, by hooks on a full forward."""
    width = shape.hidden // shape.n_heads
    found, started = [], time.perf_counter()
    for pair in pairs:
        handles = []
        for layer, head in pair:

            def empty(_: Any, given: tuple[Tensor, ...], head: int = head) -> tuple[Tensor]:
                heads = given[0].clone()
                heads[..., head * width : (head + 1) * width] = 0
                return (heads,)

            dense = model.gpt_neox.layers[layer].attention.dense
            handles.append(dense.register_forward_pre_hook(empty))
        losses = [
            F.cross_entropy(model(part).logits[:, :-1].mT, part[:, 1:], reduction="none")
            for part in torch.split(tokens, batch)
        ]
        found.append(torch.cat(losses).double().mean(dim=-1))
        for handle in handles:
            handle.remove()
    return torch.stack(found), (time.perf_counter() - started) / len(pairs)


def apart(model: Any, tokens: Tensor, pairs: Sequence[Pair], shape: Shape) -> float:
    """Return the largest difference of a sequence's loss between the two routes."""
    mine, theirs = ours(model, tokens, pairs, shape)[0], hooked(model, tokens, pairs, shape)[0]
    return float((mine - theirs).abs().max())


def rows(shape: Shape, repeats: int) -> list[str]:
    """Measure a shape and return its lines of the table."""
    model, tokens = shape.model(torch.float32), shape.tokens()[:, : SEQ.get(shape.name)]
    pairs = sampled(shape)
    few = pairs[:: max(1, len(pairs) // HOOKED[shape.name])][: HOOKED[shape.name]]
    theirs, mine = fastest(
        repeats,
        [
            lambda: hooked(model, tokens, few, shape)[1],
            lambda: ours(model, tokens, pairs, shape)[1],
        ],
    )
    at_most = limit(shape, pairs, tokens.shape[1])
    every = pairs_of(all_heads(shape.n_layers, shape.n_heads))
    of_all = limit(shape, every, tokens.shape[1])
    difference = f"{apart(model, tokens, few, shape):.1e}"
    exact = ""
    if shape is MINI:
        exact = f"{apart(shape.model(torch.float64), tokens, pairs[::7], shape):.1e}"
    ratio = theirs / mine
    figures = f"{ratio:.2f} | {at_most:.2f} | {ratio / at_most:.2f} | {of_all:.2f}"
    sample = f"{shape.name} ({len(pairs)} of {len(every)} pairs)"
    return [
        f"| {shape.name} ({len(few)} pairs) | hooks | {1 / theirs:.3g} | 1 | | | | | |",
        f"| {sample} | ours | {1 / mine:.3g} | {figures} | {difference} | {exact} |",
    ]


def _run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("highest")
    print(f"torch {torch.__version__}, {args.threads} threads, fastest of {args.repeats}")
    print(
        "\n| shape | route | pairs/s | ratio | limit | share | limit of all | float32 | float64 |"
    )
    print("|:--|:--|--:|--:|--:|--:|--:|--:|--:|")
    for shape in [LARGE] if args.large_only else [MINI, LARGE] if args.large else [MINI]:
        print("\n".join(rows(shape, args.repeats)), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print a table."""
    parser = cli.parser(__doc__)
    parser.add_argument("--large", action="store_true", help="also the 410M shape (minutes)")
    parser.add_argument("--large-only", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
