"""What heads, pairs and features cost on the GPU here, and how far it agrees with the CPU.

Random weights of the true shapes: speed does not depend on their values. Of Pythia-410M: seconds a
head over 204,800 tokens in float32 and tf32, beside the device's own speed at large products in the
same precision, and seconds a pair over a tenth of the tokens. Of Geneformer-316M: seconds of one
feature in one cell of 2,048 genes. From these, hours for 8 states of 384 heads, for all 73,536
pairs and for 4,608 features in 200 cells each. The last row of agreement is the largest difference
of a sequence's loss, CPU against GPU, in float32.

Each measurement is kept as it ends; one that would begin after `--minutes` is left to the next
call.

Run: ``python -m benchmarks.gpu [--device cuda:0] [--minutes 7]``; ``--small`` tries it on small
shapes, on the CPU too.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM

from benchmarks import ablation_routes, pairs
from benchmarks.model_shapes import LARGE, MINI, Shape
from stages.base import cli
from stages.base.errors import AblationError
from stages.base.files import write_text
from stages.features.autoencoder import Autoencoder
from stages.features.subject import Sequences, Subject
from stages.features.tail import Firing, Tail, along, sparse
from stages.models.architectures import architecture_of
from stages.models.devices import Precision, matmul_precision
from stages.models.interventions import single_heads
from stages.models.passes import Passes
from stages.models.text import Text, next_tokens

PRECISIONS: tuple[Precision, ...] = ("float32", "tf32")
CELLS = {"layers": 18, "heads": 18, "width": 1152, "genes": 2048, "k": 64}
SMALL_CELLS = {"layers": 4, "heads": 4, "width": 64, "genes": 64, "k": 8}
N_HEADS, N_PAIRS, N_FEATURES, N_CELLS = 8 * 384, 73_536, 4608, 200


def peak(device: str, n: int) -> float:
    """Return operations a second of a product of two squares, the fastest of five."""
    a, b = (torch.randn(n, n, device=device) for _ in range(2))
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        float((a @ b)[0, 0])
        seconds.append(time.perf_counter() - started)
    return 2 * n**3 / min(seconds)


def operations(shape: Shape) -> float:
    """Return the operations of one head over all tokens (products only), on average."""
    block = 24 * shape.hidden**2 + 2 * shape.hidden * shape.seq
    whole = shape.n_layers * block + 2 * shape.hidden * shape.vocabulary
    return shape.n_sequences * shape.seq * whole / shape.limit()


def heads(shape: Shape, device: str) -> dict[str, float]:
    """Return seconds a head and the share of the device's speed at large products."""
    model = shape.model(torch.float32).to(device)
    # The first pass finds how much fits, and starts what a device starts once.
    ablation_routes.ours(model, shape.tokens()[:1], shape)
    _, seconds = ablation_routes.ours(model, shape.tokens(), shape)
    reached = operations(shape) / seconds
    return {
        "seconds": seconds,
        "share": reached / peak(device, 8192 if shape.n_layers > 6 else 512),
    }


def of_pairs(shape: Shape, device: str) -> dict[str, float]:
    """Return seconds a pair over all tokens."""
    fewer = replace(shape, n_sequences=max(1, shape.n_sequences // 10))
    model = fewer.model(torch.float32).to(device)
    _, seconds = pairs.ours(model, fewer.tokens(), pairs.sampled(fewer), fewer)
    return {"seconds": seconds * shape.n_sequences / fewer.n_sequences}


def of_features(cells: dict[str, int], device: str) -> dict[str, float]:
    """Return seconds of one feature in one cell, behind a third of the blocks."""
    torch.manual_seed(0)
    width, n_layers, n = cells["width"], cells["layers"], 8
    config = BertConfig(
        vocab_size=20_275,
        hidden_size=width,
        num_hidden_layers=n_layers,
        num_attention_heads=cells["heads"],
        intermediate_size=4 * width,
        max_position_embeddings=cells["genes"],
        hidden_act="relu",
    )
    model: Any = BertForMaskedLM(config)
    model = model.eval().requires_grad_(requires_grad=False).to(device)
    ids = torch.randint(4, 20_275, (n, cells["genes"]))
    nothing: Any = None
    subject = Subject(
        Path(),
        architecture_of(model),
        torch.device(device),
        (),
        nothing,
        nothing,
        np.arange(n),
    )
    text = Text(ids, ids, scored=torch.rand(ids.shape) < 0.15)

    def dictionary() -> Autoencoder:
        directions = torch.nn.functional.normalize(torch.randn(width, 4 * width), dim=0)
        zeros = torch.zeros(4 * width), torch.zeros(width), torch.zeros(width)
        made = Autoencoder(directions.T.contiguous(), zeros[0], directions, *zeros[1:], cells["k"])
        return made.to(torch.device(device))

    made, at = dictionary(), n_layers // 3
    later = {layer: dictionary() for layer in (n_layers // 2, n_layers - 1)}
    tail = Tail(
        subject, Sequences(text, torch.ones_like(ids, dtype=torch.bool)), at, later, losses=True
    )
    with torch.inference_mode():
        codes = sparse(made, tail.states, ids.to(device))
    firing = Firing.of(codes, tail.sequences.kept, made.n_features)
    changes = [
        one for f in range(0, 4 * width, width // 8) for one in along(firing, f, made.decoder[:, f])
    ]
    tail.run(changes[:2])
    started = time.perf_counter()
    tail.run(changes)
    return {"seconds": (time.perf_counter() - started) / len(changes), "n": len(changes)}


def apart(shape: Shape, device: str) -> dict[str, float]:
    """Return the largest difference of a sequence's loss between the CPU and the device."""
    tokens = shape.tokens()[:1, :128]
    removed = [(), *(single_heads(layer, [0])[0] for layer in shape.layers[:2])]
    model = shape.model(torch.float32)
    here = Passes(model, next_tokens(tokens)).run(removed)
    there = Passes(model.to(device), next_tokens(tokens)).run(removed)
    return {"nats": float((here - there).abs().max())}


def _run(args: argparse.Namespace) -> None:
    started = time.monotonic()
    if not args.small and not torch.cuda.is_available():
        msg = "this machine has no GPU that torch can use; nothing is measured. See docs/scale.md."
        raise AblationError(msg)
    shape = MINI if args.small else replace(LARGE, n_sequences=100)
    cells = SMALL_CELLS if args.small else CELLS
    device = args.device
    name = torch.cuda.get_device_name(device) if "cuda" in device else "CPU"
    what: dict[str, tuple[Precision, Callable[[], dict[str, float]]]] = {
        "CPU against it, float32": ("float32", lambda: apart(shape, device)),
        **{f"head, {of}": (of, lambda: heads(shape, device)) for of in PRECISIONS},
        **{f"pair, {of}": (of, lambda: of_pairs(shape, device)) for of in PRECISIONS},
        **{
            f"feature in a cell, {of}": (of, lambda: of_features(cells, device))
            for of in PRECISIONS
        },
    }
    known = f"{name}, torch {torch.__version__}, {shape.name}"
    path = args.kept / f"{''.join(c if c.isalnum() else '-' for c in known)}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for label, (precision, measure) in what.items():
        if label in found:
            continue
        if time.monotonic() - started > 60 * args.minutes:
            cli.log.info("the time is over; run it again, and it goes on with: %s", label)
            break
        with matmul_precision(precision):
            found[label] = measure()
        write_text(path, json.dumps(found, indent=2))
        cli.log.info("%s: %s", label, found[label])
    print(f"{known}, {shape.n_sequences * shape.seq:,} tokens\n")
    print("| what | s each | share of the device's speed | projected hours |\n|:--|--:|--:|--:|")
    times = {"head": N_HEADS, "pair": N_PAIRS, "feature": N_FEATURES * N_CELLS}
    for label, row in found.items():
        if "seconds" in row:
            of = next(kind for kind in times if label.startswith(kind))
            share = f"{row['share']:.0%}" if "share" in row else ""
            hours = times[of] * row["seconds"] / 3600
            print(f"| {label} | {row['seconds']:.3g} | {share} | {hours:.3g} |")
    if "CPU against it, float32" in found:
        print(
            f"\nCPU and device differ by up to {found['CPU against it, float32']['nats']:.1e} nats."
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print a table."""
    parser = cli.parser(__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--minutes", type=float, default=7.0, help="after which nothing is begun")
    parser.add_argument("--small", action="store_true", help="small shapes, to try the code")
    parser.add_argument("--kept", type=Path, default=Path("data/scratch/bench_gpu"))
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
