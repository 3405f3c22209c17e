"""Remove pairs of heads in some states of a model; keep what each costs beyond its heads' sum.

For each sequence (or cell), the effect of a pair is what its removal adds to the loss, less what
the removals of its two heads add (:mod:`stages.measurement.interaction`): above 0 they make up for
each other. Beside the pairs stand the heads alone, all heads of each layer together, and heads that
are removed one after another, each the one that adds most by what was measured before. All are
measured on the same sequences, with the means of the intact model in the place of what is removed
(or what the settings say). Resumable: what is finished lies in the scratch folder.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.base import cli
from stages.base.errors import AblationError
from stages.base.files import only_one
from stages.base.settings import Settings, load
from stages.compute import shards
from stages.compute.run import where_it_runs
from stages.inputs.encoders import encoded
from stages.inputs.encoders.measured import chosen as chosen_cells
from stages.inputs.material import Cells, Material, Tokens
from stages.measurement.effects import MIN_REPLICATES, Effects, State, write
from stages.measurement.interaction import interaction
from stages.models.architectures import family
from stages.models.devices import devices
from stages.models.interventions import AblationType
from stages.models.load import read_config, shape_of
from stages.pairs import choice, components, removals
from stages.pairs.components import CONDITIONS, Head
from stages.pairs.removals import Losses
from stages.pairs.settings import Pairs

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Source:
    """One state: what is loaded, what it reads, what its effects are called."""

    state: State
    checkpoint: Path
    material: Material


@dataclass(frozen=True)
class Alone:
    """What is known of a state before pairs are chosen, by way of removal."""

    base: Floats  # (n_sequences,)
    heads: dict[str, Floats]
    """Effects of each head alone: (n_draws, n_sequences, n_heads)."""
    layers: dict[str, Floats]
    """Of all heads of each layer: (n_draws, n_sequences, n_layers)."""


def effects_of(
    sources: Sequence[Source], params: Pairs, *, scratch: Path, on: Sequence[str]
) -> Iterator[tuple[str, list[Effects], dict[str, str]]]:
    """Measure every state; each comes with the state's name and what its file says.

    Raises
    ------
    AblationError
        There are too few sequences or heads, or a checkpoint or reference is missing or wrong.
    """
    sequences = np.arange(_n_sequences(sources[-1].material, params))
    shape = shape_of(sources[-1].checkpoint)
    heads = choice.all_heads(*shape)
    if len(heads) < 2:
        msg = f"{sources[-1].checkpoint} has one head, and a pair needs two. Take another model."
        raise AblationError(msg)
    opened = {
        source.state.name: Losses(
            source.checkpoint,
            source.material,
            sequences,
            folder=scratch / source.state.name / "pairs",
            precision=params.precision,
            on=on,
        )
        for source in sources
    }
    alone = {name: _alone(losses, params, *shape) for name, losses in opened.items()}
    shown = min(params.perturbations, key=CONDITIONS.index)
    ranking = [
        dict(zip(heads, of.heads[shown].mean(axis=(0, 1)), strict=True)) for of in alone.values()
    ]
    pairs = choice.chosen(ranking, params)
    for source in sources:
        name = source.state.name
        parts = _together(opened[name], source.state, alone[name], heads, pairs, params)
        yield name, parts, opened[name].provenance


def _n_sequences(material: Material, params: Pairs) -> int:
    number = min(params.n_sequences or len(material), len(material))
    if number < MIN_REPLICATES:
        msg = (
            f"{number} sequence or cell is evaluated, and a standard error needs {MIN_REPLICATES}. "
            "Give more text (model.text) or cells (cellmodel.cells)."
        )
        raise AblationError(msg)
    return number


def _ways(params: Pairs) -> Iterator[tuple[AblationType, tuple[int, ...]]]:
    for name in params.perturbations:
        way = AblationType(name)
        drawn = params.resamplings if way is AblationType.RESAMPLE else 1
        yield way, tuple(params.seed + draw for draw in range(drawn))


def _alone(losses: Losses, params: Pairs, n_layers: int, n_heads: int) -> Alone:
    heads, layers = {}, {}
    for way, seeds in _ways(params):
        of_heads, of_layers = removals.singles(n_layers, n_heads, way, seeds)
        both = zip(of_heads, of_layers, strict=True)
        found = losses.of([one for layer in both for one in layer])
        heads[way.value] = _by_sequence(found[::2])
        layers[way.value] = _by_sequence(found[1::2])
    base = losses.of([removals.BASELINE])[0][0, 0]
    return Alone(
        base,
        {way: found - base[:, None] for way, found in heads.items()},
        {way: found - base[:, None] for way, found in layers.items()},
    )


def _by_sequence(found: Sequence[Floats]) -> Floats:
    """Return losses (sets, draws, sequences) of several removals as (draws, sequences, sets)."""
    return np.moveaxis(np.concatenate(found), 0, -1)


def _together(
    losses: Losses,
    state: State,
    alone: Alone,
    heads: Sequence[Head],
    pairs: Sequence[components.Pair],
    params: Pairs,
) -> list[Effects]:
    """Return all effects of a state, the pairs' as what they are beyond the sum."""
    n_layers = heads[-1][0] + 1
    a, b = (np.array([heads.index(one[i]) for one in pairs]) for i in (0, 1))
    parts = []
    for way, seeds in _ways(params):
        single = alone.heads[way.value]
        mean = single.mean(axis=(0, 1))
        joint = _by_sequence(losses.of(removals.joint(pairs, way, seeds)))
        excess = interaction(joint - alone.base[:, None], [single[..., a], single[..., b]])
        products = np.abs(mean[a] * mean[b])
        found = {
            "head": (components.of_heads(heads), single),
            "pair": (components.of_pairs(pairs, products), excess),
            "attention": (components.of_layers(n_layers), alone.layers[way.value]),
        }
        beyond = dict(zip(pairs, excess.mean(axis=(0, 1)), strict=True))
        effect_of = dict(zip(heads, mean, strict=True))
        if first := choice.greedy(effect_of, beyond, params.cumulative):
            (more,) = losses.of([removals.cumulative(first, way, seeds)])
            effect = _by_sequence([more]) - alone.base[:, None]
            found["cumulative"] = (components.in_order(first), effect)
        parts += [
            Effects(
                state=state,
                kind=kind,
                condition=way.value,
                components=known,
                replicates=np.arange(len(alone.base)),
                draws=effect,
                baseline=alone.base,
            )
            for kind, (known, effect) in found.items()
        ]
    return parts


def sources(settings: Settings, args: argparse.Namespace) -> tuple[Pairs, list[Source]]:
    """Return the settings that hold, and every state that they name.

    Raises
    ------
    AblationError
        A state is none of the model's checkpoints, or neither text nor cells are given.
    """
    if (args.cells is None) == (args.tokens is None):
        msg = "one of --cells (encoded cells) and --tokens (of a language model) is needed."
        raise AblationError(msg)
    section = "pairs" if args.cells is None else "cell_pairs"
    params: Pairs = getattr(settings, section)
    model = settings.model if args.cells is None else settings.cellmodel
    if unknown := [name for name in params.states if name not in model.checkpoints]:
        msg = (
            f"{section}.states names {unknown[0]}, which is no checkpoint of {model.name}: "
            f"{', '.join(model.checkpoints)}. Change it in conf/config.yaml."
        )
        raise AblationError(msg)
    if not params.states:
        msg = f"{section}.states is empty. Name checkpoints of {model.name} in conf/config.yaml."
        raise AblationError(msg)
    if args.cells is not None:
        known = chosen_cells(encoded.read(args.cells).cells, model.cells)
        rows, others = (tuple(part.tolist()) for part in known)
    found = []
    for name in params.states:
        checkpoint = args.checkpoints / name
        kind = family(read_config(checkpoint).model_type, str(checkpoint))
        if args.cells is None:
            material: Material = Tokens(args.tokens, args.reference, checkpoint, params.seq_len)
            unit = f"{kind.loss.value} per token"
        else:
            material = Cells(args.cells, checkpoint, rows, others, model.cells.seed)
            unit = f"{kind.loss.value} per gene"
        state = State(section, name, model.position(name), unit, "product")
        found.append(Source(state, checkpoint, material))
    return params, found


def _run(args: argparse.Namespace) -> None:
    params, states = sources(load(args.params), args)
    with ExitStack() as stack:
        for source in states:
            folder = args.scratch / source.state.name / "pairs"
            busy = f"another run works in {folder}; waiting for it to end"
            stack.enter_context(only_one(folder / "lock", busy))
        on = where_it_runs(devices, args.device)
        for name, parts, provenance in effects_of(states, params, scratch=args.scratch, on=on):
            path = args.out / f"{name}.parquet"
            try:
                write(path, parts, provenance=provenance)
            except OSError as error:
                raise AblationError(shards.unwritten(path, error)) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of <state>/")
    parser.add_argument("--tokens", type=Path, help="the evaluated text (.npy)")
    parser.add_argument("--reference", type=Path, help="another text, for means and resampling")
    parser.add_argument("--cells", type=Path, help="folder of encoded cells")
    parser.add_argument("--scratch", type=Path, required=True, help="folder of finished shards")
    parser.add_argument("--out", type=Path, required=True, help="folder of <state>.parquet")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:0, cuda:0,cuda:1")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
