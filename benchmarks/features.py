"""Features traced a second by two routes side by side, in one run, and how far they agree.

* ours: ``stages.features.tail``: the intact stream is kept behind the traced block; of each feature
  only the cells in which it fires run, several in a batch, through later blocks alone; of the later
  codes only the largest are kept, where the feature fires; one process a processor, as the stage;
* one feature, one cell: the whole ``transformers`` model, with a hook that takes the feature out,
  cell by cell, and later autoencoders read at all positions, on all processors. The intact pass of
  each cell is kept. On all cells, as a plain script would, and on those in which the feature fires.

The routes take turns on the same features of the demo's model; of each the fastest of the repeats
counts, since machines are noisy. Ours reads the loss, too, and the others do not. The difference is
the largest one of mean codes, in their unit.

Run after ``make reproduce``: ``python -m benchmarks.features [--features 16] [--threads 2]``.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.base import cli
from stages.base.record import n_processors
from stages.base.settings import load
from stages.compute.run import run
from stages.features import trace
from stages.features.subject import Files
from stages.features.tail import along
from stages.models.load import load_model

ROUTES = ("ours", "whole passes, cells it fires in", "whole passes, all cells")


def ours(of: trace.Bench, features: Sequence[int]) -> list[Tensor]:
    """Return the effects of each feature on later codes: (cells that it fires in, targets)."""
    changes = [along(of.firing, feature, of.directions[:, feature]) for feature in features]
    found, _ = of.tail.run([change for some in changes for change in some])
    whole = torch.cat([found[layer] for layer in sorted(found)], dim=1)
    return list(torch.split(whole, [len(some) for some in changes]))


def _in_process(where: Files, features: Sequence[int]) -> list[Tensor]:
    torch.set_num_threads(1)
    return ours(trace.bench(where, 0), features)


def side_by_side(where: Files, features: Sequence[int], n: int) -> list[Tensor]:
    """Return what ours gives, by `n` processes."""
    if n == 1:
        return _in_process(where, features)
    found = run(_in_process, [(where, features[i::n]) for i in range(n)])
    return [found[i % n][i // n] for i in range(len(features))]


@torch.inference_mode()
def intact(of: trace.Bench, model: nn.Module) -> list[list[Tensor]]:
    """Return the later codes of every cell, by layer: (seq, n_features) each."""
    found = []
    text = of.tail.sequences.text
    for number in range(len(text)):
        inputs = text.inputs[number][None]
        attended = None if text.attended is None else text.attended[number][None].long()
        states = model(inputs, attention_mask=attended, output_hidden_states=True).hidden_states
        later = sorted(of.tail.dictionaries.items())
        found.append([one.encode(one.centred(states[at + 1], inputs))[0] for at, one in later])
    return found


@torch.inference_mode()
def cell_by_cell(
    of: trace.Bench,
    model: nn.Module,
    clean: list[list[Tensor]],
    features: Sequence[int],
    *,
    silent: bool,
) -> list[Tensor]:
    """Return the same by whole passes of one cell; with `silent`, also of cells without effect."""
    text, tail = of.tail.sequences.text, of.tail
    whole: Any = model
    block = whole.bert.encoder.layer[tail.layer]
    found = []
    for feature in features:
        fires = {number: (at, codes) for number, at, codes in of.firing.by_sequence(feature)}
        rows = []
        for number in range(len(text)):
            if number not in fires and not silent:
                continue
            empty = torch.zeros(0, dtype=torch.long), torch.zeros(0)
            at, codes = fires.get(number, empty)
            added = -codes[:, None] * of.directions[:, feature]

            def off(
                _: nn.Module, __: object, output: Tensor, at: Tensor = at, added: Tensor = added
            ) -> Tensor:
                changed = output.clone()
                changed[:, at] += added
                return changed

            inputs = text.inputs[number][None]
            attended = None if text.attended is None else text.attended[number][None].long()
            hook = block.register_forward_hook(off)
            states = model(inputs, attention_mask=attended, output_hidden_states=True).hidden_states
            hook.remove()
            later = sorted(tail.dictionaries.items())
            parts = [
                (one.encode(one.centred(states[layer + 1], inputs))[0] - before)[at].mean(dim=0)
                for (layer, one), before in zip(later, clean[number], strict=True)
            ]
            if number in fires:
                rows.append(torch.cat(parts))
        found.append(torch.stack(rows))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Time both routes."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--features", type=int, default=16, help="spread over all that are traced")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=n_processors())
    return cli.run(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    settings = load(args.params)
    name = settings.features.names[0]
    interim = Path("data/interim") / name
    where = Files(
        args.params,
        settings.features.checkpoints,
        interim / settings.features.reads,
        interim / "autoencoders",
        "cpu",
    )
    of = trace.bench(where, 0)
    model = load_model(of.tail.subject.checkpoint)
    every = trace.traceable(of)
    features = every[torch.linspace(0, len(every) - 1, args.features).long().numpy()].tolist()
    clean = intact(of, model)
    side_by_side(where, features[: args.threads], args.threads)
    best = dict.fromkeys(ROUTES, float("inf"))
    for _ in range(args.repeats):
        for route in ROUTES:
            started = time.perf_counter()
            if route == ROUTES[0]:
                mine = side_by_side(where, features, args.threads)
            else:
                theirs = cell_by_cell(of, model, clean, features, silent=route == ROUTES[2])
            best[route] = min(best[route], time.perf_counter() - started)
    apart = max(float((one - other).abs().max()) for one, other in zip(mine, theirs, strict=True))
    for route, seconds in best.items():
        cli.log.info(
            "%s: %.2f features a second, %.1f times as long as ours",
            *(route, len(features) / seconds, seconds / best[ROUTES[0]]),
        )
    cli.log.info("largest difference of a mean code: %.2g", apart)


if __name__ == "__main__":
    raise SystemExit(main())
