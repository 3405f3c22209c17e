"""What a control variate saves: cost of a checkpoint's sweep at equal standard error of Gini.

On trained checkpoints of pythia-mini (``models/pythia-mini``, made by ``make reproduce``), all
heads are ablated on every one of a few hundred held-out sequences. Against these exact values
stand, over many draws,

* the plain mean over m sequences drawn at random, whose squared error of Gini falls as A / m;
* the control variate with m exact sequences, whose squared error falls as B / m, and the
  attribution of N sequences, which are themselves a sample of all text: A / N.

An exact sweep of n sequences has the error A / n and costs n; the other has A / N + B / m and costs
m + c N, where c is the measured cost of attributing one sequence, in exactly ablated ones. At equal
error, the cheapest mix of m and N costs less by ``1 / (sqrt(c) + sqrt(B / A)) ** 2``. B / A cannot
be had from random weights: for the 410M shape c is measured and B / A is that of pythia-mini.

Run: ``python -m benchmarks.control_variate [--large] [--threads 1] [--repeats 3]``.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.ablation_routes import fastest, ours
from benchmarks.model_shapes import LARGE, MINI, Shape
from stages.heads import attribution, control_variate, subset
from stages.heads.settings import SweepControlVariate
from stages.inputs.mini.corpus import SEPARATOR, spread
from stages.inputs.mini.tokenizer import encode
from stages.inputs.tokenizer import tokenizer_of
from stages.inputs.tokens import text_lines
from stages.measurement.concentration import gini as gini_of
from stages.models.interventions import single_heads
from stages.models.load import load_model
from stages.models.passes import Passes
from stages.models.text import next_tokens

Floats = NDArray[np.float64]
MODEL = Path("models/pythia-mini")
SEQ = 128


def heldout(n_sequences: int) -> Tensor:
    """Return sequences of pythia-mini's held-out text: (n_sequences, 128)."""
    tokenizer, _ = tokenizer_of(MODEL)
    documents = "".join(text_lines(MODEL / "heldout.txt")).split(SEPARATOR)
    return torch.from_numpy(spread(encode(tokenizer, documents), n_sequences, SEQ).astype(np.int64))


def ablate(model: Any, tokens: Tensor, layers: list[int]) -> Tensor:
    """Return the effects of all heads of some layers: (n_sequences, n_heads)."""
    passes = Passes(model, next_tokens(tokens))
    heads = range(passes.architecture.n_heads)
    removed = [one for layer in layers for one in single_heads(layer, heads)]
    losses = passes.run([(), *removed])
    effects: Tensor = (losses[1:] - losses[0]).T
    return effects


def cost_of_attribution(shape: Shape, repeats: int) -> float:
    """Return the cost of attributing one sequence, in sequences on which all heads are ablated.

    With random weights of the shape, on which no speed depends; both take turns, and the fastest of
    the repeats of each counts.
    """
    model, tokens = shape.model(torch.float32), shape.tokens()
    batch = max(1, attribution.CPU_POSITIONS // tokens.shape[1])

    def cheap() -> float:
        started = time.perf_counter()
        attribution.features(model, next_tokens(tokens), batch_size=batch)
        return time.perf_counter() - started

    def dear() -> float:
        return ours(model, tokens, shape)[1] * shape.n_layers * shape.n_heads

    one, other = fastest(repeats, [cheap, dear])
    return one / other


def squared_errors(
    exact: Floats, columns: Floats, *, draws: int, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Return A, B, the share of heads whose 95% interval covers, and the median R^2."""
    settings = SweepControlVariate()
    n, m = len(exact), settings.exact_sequences
    truth = exact.mean(axis=0)
    gini = float(gini_of(np.abs(truth)))
    plain, estimated, covered, r2 = [], [], [], []
    for _ in range(draws):
        plain.append(float(gini_of(np.abs(exact[rng.choice(n, m, replace=False)].mean(axis=0)))))
        chosen = subset.choose(columns, m, certain_share=settings.certain_share, rng=rng)
        found = control_variate.estimate(
            exact[chosen.sequences], chosen, columns, least_r2=settings.least_r2, rng=rng
        )
        estimated.append(float(gini_of(np.abs(found.mean))))
        covered.append(np.abs(found.mean - truth) < 1.96 * found.se_subset)
        r2.append(np.median(found.r2))
    # Both errors are those within the n sequences: of m drawn from n, 1 / m - 1 / n.
    scale = 1 / (1 / m - 1 / n)
    first, second = (
        scale * float(np.mean((np.array(found) - gini) ** 2)) for found in (plain, estimated)
    )
    return first, second, float(np.mean(covered)), float(np.median(r2))


def main() -> int:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[16, 64, 256, 2048])
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--large", action="store_true", help="also the cost at the 410M shape")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokens = heldout(args.sequences)
    shapes = [MINI, LARGE] if args.large else [MINI]
    costs = {
        shape.name: cost_of_attribution(shape, args.repeats if shape is MINI else 1)
        for shape in shapes
    }
    print(f"torch {torch.__version__}, {args.threads} threads, {args.sequences} sequences")
    for name, cost in costs.items():
        print(f"attribution of a sequence, {name}: {cost:.4f} of ablating all heads on it")
    print(
        "\n| step | median R2 | covered | A / B | " + " | ".join(f"{n}: less work" for n in costs)
    )
    print("|--:|--:|--:|--:|" + "--:|" * len(costs))
    work: dict[str, list[float]] = {name: [] for name in costs}
    every = list(range(MINI.n_layers))
    for step in args.steps:
        model = load_model(MODEL / f"step{step}")
        exact = ablate(model, tokens, every).numpy()
        found = attribution.features(model, next_tokens(tokens), batch_size=8).columns()
        columns = found.reshape(len(tokens), -1, found.shape[-1])
        rng = np.random.default_rng(step)
        plain, estimated, covered, r2 = squared_errors(exact, columns, draws=args.draws, rng=rng)
        shown = []
        for name, cost in costs.items():
            share = (np.sqrt(cost) + np.sqrt(estimated / plain)) ** 2
            work[name].append(share)
            shown.append(f"{1 / share:.1f}")
        print(
            f"| {step} | {r2:.4f} | {covered:.3f} | {plain / estimated:.1f} | "
            + " | ".join(shown)
            + " |",
            flush=True,
        )
    print("| all | | | | " + " | ".join(f"{1 / np.mean(share):.1f}" for share in work.values()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
