"""Remove the same heads in several ways, and set their concentration side by side.

A head that is set to zero is silent; one that writes its mean over other text (*mean*), or what it
writes on another sequence (*resample*), still writes what does not depend on the input. Which of
them is taken decides what an effect is, and may decide how concentrated effects are [1]_. It is
asked in two states: the one in which removal as everywhere else gives the highest Gini coefficient,
and the last. All sequences and every removal are computed exactly.

References
----------
.. [1] Zhang, F. and Nanda, N. (2024). Towards best practices of activation patching in language
   models: metrics and methods. International Conference on Learning Representations.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.base import cli, tables
from stages.base.settings import load
from stages.heads.ablate import ablated
from stages.heads.components import CONDITIONS, UNIT, shown
from stages.heads.screen import rank_correlations
from stages.heads.settings import RemovalKinds, Sweep, SweepNoise
from stages.heads.tables.removal_kinds import HEAD_REMOVALS
from stages.inputs.material import Tokens
from stages.measurement import effects, measured, resampling
from stages.measurement.effects import Effects, State
from stages.measurement.metrics import REGISTRY, measure, measure_weighted
from stages.measurement.streams import stream
from stages.models.devices import devices

OF = tuple(REGISTRY[name] for name in ("gini", "effective_number", "sum_abs"))


def asked(parts: Sequence[Effects]) -> list[str]:
    """Return the most concentrated state and the last, once where they are one."""
    found = effects.series(parts, ["head"])
    states = found[("head", shown(pd.Series([condition for _, condition in found])))]
    gini = [measure(np.abs(part.values.mean(axis=0)), OF)[0] for part in states]
    peak = states[int(np.nanargmax(gini))] if not np.isnan(gini).all() else states[-1]
    return list(dict.fromkeys([peak.state.name, states[-1].state.name]))


def removal_kinds(parts: Sequence[Effects], params: RemovalKinds, *, last: str) -> pd.DataFrame:
    """Measure every way of removal, and every pair of them.

    Parameters
    ----------
    parts
        Effects of the heads, of one or two states; all ways on the same sequences.
    last
        The last state.

    Returns
    -------
    DataFrame
        ``HEAD_REMOVALS``
    """
    rows: list[dict[str, object]] = []
    for state in dict.fromkeys(part.state.name for part in parts):
        ways = {part.condition: part for part in parts if part.state.name == state}
        ways = {name: ways[name] for name in CONDITIONS if name in ways}
        n = next(iter(ways.values())).n_replicates
        # The same resampled sequences for all ways.
        rng = stream(params.seed, state)
        weights = resampling.group_weights(n, params.draws, rng)
        means = {name: np.abs(part.values.mean(axis=0)) for name, part in ways.items()}
        drawn = {name: np.abs(weights @ part.values) for name, part in ways.items()}
        for name, part in ways.items():
            values = measure(means[name], OF)
            over = measure_weighted(weights, part.values, OF)
            found: list[tuple[str, str | None, Any, Any]] = [
                (metric.name, None, values[m], over[:, m]) for m, metric in enumerate(OF)
            ]
            found += [
                (
                    "spearman",
                    other,
                    rank_correlations(means[name][np.newaxis], means[other][np.newaxis])[0],
                    rank_correlations(drawn[name], drawn[other]),
                )
                for other in ways
                if other != name
            ]
            for metric, beside, value, draws in found:
                ends = resampling.percentile_interval(draws, confidence=params.confidence)
                low, high = measured.hull(value, *ends)
                most = 1.0 if metric == "spearman" else np.inf
                rows.append(
                    {
                        "state": state,
                        "position": part.state.position,
                        "is_last": state == last,
                        "perturbation": name,
                        "metric": metric,
                        "beside": beside,
                        "value": value,
                        "low": low,
                        "high": min(high, most),
                        "n_heads": len(part.components),
                        "n_sequences": n,
                        "n_draws": len(part.draws),
                    }
                )
    return pd.DataFrame(rows, columns=list(HEAD_REMOVALS.columns))


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    params: RemovalKinds = settings.removal_kinds
    states = settings.model.checkpoints
    alone: Sweep = settings.sweep.model_copy(
        update={
            "perturbations": params.perturbations,
            "layers": False,
            "noise": SweepNoise(draws=0),
            "resample": settings.sweep.resample.model_copy(update={"draws": params.resamplings}),
            "estimator": "exact",
        }
    )
    parts: list[Effects] = []
    for name in asked(effects.read_states(args.effects, states)):
        material = Tokens(args.tokens, args.reference, args.checkpoints / name)
        found = ablated(
            alone,
            State("heads", name, settings.model.position(name), UNIT),
            checkpoint=args.checkpoints / name,
            material=material,
            sequences=np.arange(len(material)),
            scratch=args.scratch,
            on=devices(args.device),
        )
        parts += found[0] if found is not None else []
    table = removal_kinds(parts, params, last=states[-1])
    tables.write(table, HEAD_REMOVALS, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--effects", type=Path, required=True, help="folder of <state>.parquet")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of <state>/")
    parser.add_argument("--tokens", type=Path, required=True, help="the evaluated text (.npy)")
    parser.add_argument("--reference", type=Path, required=True, help="another text")
    parser.add_argument("--scratch", type=Path, required=True, help="folder of finished shards")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:0, cuda:0,cuda:1")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
