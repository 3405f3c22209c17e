"""Heads per second: our engine beside the companion's way, in one run, and how far they agree.

* ours: ``stages.ablation.engine``: a baseline pass, then only the later blocks, several heads in a
  batch;
* the companion's: zero the head's columns of ``attention.dense.weight``, run the whole
  ``transformers`` model with labels in batches of four sequences, restore the columns.

Random weights of the true shapes: speed does not depend on their values. Both take turns, and of
each the fastest of the repeats counts, since machines are noisy. The companion's way costs the same
for every head, so it is timed on one head a layer. The limit is the ratio of operations (products
only); the rest of a ratio beyond it is overhead that one of the two does not pay.

Run: ``python -m benchmarks.ablation_routes [--large] [--threads 1] [--repeats 5]``.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from stages.ablation.engine import Engine
from stages.ablation.perturbation import AblationType

COMPANION_BATCH = 4


@dataclass(frozen=True)
class Shape:
    """A model, a text, and the heads to remove."""

    name: str
    n_layers: int
    n_heads: int
    hidden: int
    vocabulary: int
    seq: int
    n_sequences: int
    layers: tuple[int, ...]
    """Their mean is that of all layers, so that the mean cost is that of a full sweep."""
    heads: int
    """Heads removed in each of these layers."""

    def model(self, dtype: torch.dtype) -> Any:
        """Build it with random weights."""
        torch.manual_seed(0)
        config = GPTNeoXConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.n_layers,
            num_attention_heads=self.n_heads,
            intermediate_size=4 * self.hidden,
            max_position_embeddings=self.seq,
            tie_word_embeddings=False,
            use_cache=False,
            initializer_range=0.05,
        )
        model: Any = GPTNeoXForCausalLM(config)
        return model.eval().requires_grad_(requires_grad=False).to(dtype)

    def tokens(self) -> Tensor:
        """Draw random tokens."""
        generator = torch.Generator().manual_seed(1)
        return torch.randint(self.vocabulary, (self.n_sequences, self.seq), generator=generator)

    def limit(self) -> float:
        """Return the ratio of products of a whole forward pass to those of one head, on average."""
        # One position: two operations a product; attention sees half of the sequence on average.
        block = 24 * self.hidden**2 + 2 * self.hidden * self.seq
        unembedding = 2 * self.hidden * self.vocabulary
        whole = self.n_layers * block + unembedding
        later = (self.n_layers - 1) / 2 * block + unembedding
        contribution = 2 * self.hidden * self.hidden / self.n_heads
        shared = whole / (self.n_layers * self.n_heads)
        return whole / (later + contribution + shared)


MINI = Shape("pythia-mini", 6, 8, 128, 2048, 128, 8, tuple(range(6)), 8)
LARGE = Shape("410M", 24, 16, 1024, 50304, 2048, 1, (3, 11, 12, 20), 1)


def ours(model: nn.Module, tokens: Tensor, shape: Shape) -> tuple[Tensor, float, float]:
    """Return losses (layers, heads, sequences), seconds of the heads and of the baseline pass."""
    engine = Engine(model, tokens)
    seconds = shared = 0.0
    losses = []
    for layer in shape.layers:
        started = time.perf_counter()
        with torch.inference_mode():
            engine._text.go_to(layer)
        moved = time.perf_counter()
        losses.append(engine.without_heads(layer, range(shape.heads), AblationType.ZERO))
        shared += moved - started
        seconds += time.perf_counter() - moved
    started = time.perf_counter()
    engine.baseline()
    shared += time.perf_counter() - started
    return torch.stack(losses), seconds, shared


@torch.no_grad()
def companion(model: Any, tokens: Tensor, shape: Shape) -> float:
    """Time the companion's way on one head of each layer."""
    width = shape.hidden // shape.n_heads
    started = time.perf_counter()
    for layer in shape.layers:
        weight = model.gpt_neox.layers[layer].attention.dense.weight
        saved = weight.data.clone()
        weight.data[:, :width] = 0
        for batch in torch.split(tokens, COMPANION_BATCH):
            model(input_ids=batch, labels=batch).loss.item()
        weight.data.copy_(saved)
    return time.perf_counter() - started


@torch.no_grad()
def whole(model: Any, tokens: Tensor, shape: Shape, heads: int) -> Tensor:
    """Return the companion's losses by sequence: (layers, heads, sequences)."""
    width = shape.hidden // shape.n_heads
    found = []
    for layer in shape.layers:
        weight = model.gpt_neox.layers[layer].attention.dense.weight
        for head in range(heads):
            columns = slice(head * width, (head + 1) * width)
            saved = weight.data[:, columns].clone()
            weight.data[:, columns] = 0
            logits = torch.cat([model(row[None]).logits[:, :-1] for row in tokens])
            weight.data[:, columns] = saved
            losses = F.cross_entropy(logits.mT, tokens[:, 1:], reduction="none")
            found.append(losses.double().mean(dim=-1))
    return torch.stack(found).view(len(shape.layers), heads, -1)


def agreement(model: Any, tokens: Tensor, shape: Shape) -> tuple[float, float]:
    """Return the largest difference of a sequence's loss and of a head's mean, in nats."""
    mine, _, _ = ours(model, tokens, shape)
    apart = mine - whole(model, tokens, shape, shape.heads)
    return float(apart.abs().max()), float(apart.mean(dim=-1).abs().max())


def fastest(repeats: int, first: Callable[[], float], second: Callable[[], float]) -> list[float]:
    """Return the fastest of each of two ways that take turns."""
    times = [(first(), second()) for _ in range(repeats + 1)][1:]
    return [min(column) for column in zip(*times, strict=True)]


def main() -> int:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--large", action="store_true", help="also the 410M shape (minutes)")
    parser.add_argument("--large-only", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("highest")
    print(f"torch {torch.__version__}, {args.threads} threads, fastest of {args.repeats}\n")
    print("| shape | route | heads/s | ratio | limit | share | sequence | head | float64 |")
    print("|:--|:--|--:|--:|--:|--:|--:|--:|--:|")
    shapes = [LARGE] if args.large_only else [MINI, LARGE] if args.large else [MINI]
    for shape in shapes:
        model, tokens = shape.model(torch.float32), shape.tokens()
        n_ours = len(shape.layers) * shape.heads
        n_all = shape.n_layers * shape.n_heads

        def mine(model: Any = model, tokens: Tensor = tokens, shape: Shape = shape) -> float:
            _, seconds, shared = ours(model, tokens, shape)
            # The baseline pass serves all heads of the model.
            return seconds / (len(shape.layers) * shape.heads) + shared / (
                shape.n_layers * shape.n_heads
            )

        def theirs(model: Any = model, tokens: Tensor = tokens, shape: Shape = shape) -> float:
            return companion(model, tokens, shape) / len(shape.layers)

        repeats = args.repeats if shape is MINI else min(args.repeats, 2)
        one, other = fastest(repeats, mine, theirs)
        sequence, head = agreement(model, tokens, shape)
        double = agreement(shape.model(torch.float64), tokens, shape)[0] if shape is MINI else None
        shown = "" if double is None else f"{double:.1e}"
        print(f"| {shape.name} | companion's | {1 / other:.3g} | 1 | | | | | |")
        print(
            f"| {shape.name} ({n_ours} of {n_all} heads) | ours | {1 / one:.3g} "
            f"| {other / one:.2f} | {shape.limit():.2f} | {other / one / shape.limit():.2f} "
            f"| {sequence:.1e} | {head:.1e} | {shown} |"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
