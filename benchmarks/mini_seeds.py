"""The trajectory of pythia-mini under several seeds: what one training shows and what all show.

For every seed the stages of the graph run with the demo's settings in a folder of its own: train,
tokenise and remove every head at each checkpoint, by the stages' command lines; then the noise
floor and the trajectory. Removals of whole blocks and noise on weights, which no table here rests
on, are left out. The demo's own seed is not trained again: its effects are taken from where the
demo wrote them. Whatever is finished is kept: a run that was killed goes on where it stopped.

Run: ``nice python -m benchmarks.mini_seeds --seeds 1 2 3 --demo data/interim/pythia-mini/effects``
after ``make reproduce``; a seed took 17 minutes on two busy cores. The tables, in Markdown, go to
``FOLDER/seeds.md``; ``models/README.md`` says what they show.
"""

import os

# As stages.inputs.mini does, before PyTorch starts its threads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from stages.base import cli, compose
from stages.base.errors import SettingsError
from stages.base.files import write_text
from stages.base.settings import Settings, load, parse
from stages.heads import ablate
from stages.inputs import tokens
from stages.inputs.mini import __main__ as mini
from stages.inputs.settings import MiniModel, Model
from stages.measurement.effects import read_states
from stages.measurement.measured import measured, metrics_of

METRICS = ("gini", "effective_number", "sum_abs")
SHOWN = {
    "gini": ("Gini", ".3f"),
    "effective_number": ("eff_N", ".1f"),
    "sum_abs": ("sum of absolute effects", ".3f"),
}
# What else the demo does to a checkpoint.
HEADS_ALONE = ["sweep.layers=false", "sweep.noise.alphas=[]"]
# The sections of the settings on which the numbers rest.
SECTIONS = ("model", "sweep", "measured")


def params_of(seed: int, conf: Path) -> dict[str, Any]:
    """Compose the demo's settings with another seed of the training."""
    chosen = ["atlas=demo", "model=pythia-mini", f"model.train.seed={seed}"]
    return compose.compose(conf, chosen + HEADS_ALONE)


def keep_params(params: dict[str, Any], path: Path) -> None:
    """Write the settings of a seed, or check that an earlier run had the same.

    Raises
    ------
    SettingsError
        The folder holds a run with other settings.
    """
    if path.exists():
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
        for section in SECTIONS:
            if other := compose.differences(before[section], params[section], section):
                key, (old, new) = next(iter(other.items()))
                msg = (
                    f"{path.parent} holds a run with {key} = {old!r}, conf/ now says {new!r}. "
                    "Remove the folder or name another with --folder."
                )
                raise SettingsError(msg)
    compose.write(params, path)


@dataclass(frozen=True)
class Seed:
    """What was measured of one training."""

    along: pd.DataFrame
    """``MEASURED``"""
    change: pd.DataFrame
    """``CHANGES``: from any checkpoint to any later one."""


def ablated(folder: Path, model: Model) -> Path:
    """Train a seed, remove its heads, and return the folder of the effects.

    Parameters
    ----------
    folder
        Holds ``params.yaml`` and gets all that is made.
    model
        What ``params.yaml`` says of it.
    """
    params = folder / "params.yaml"
    checkpoints, text, effects = folder / "checkpoints", folder / "tokens", folder / "effects"
    if not checkpoints.exists():  # put there whole
        _stage(mini, params, out=checkpoints, scratch=folder / "training")
    if not text.exists():
        _stage(tokens, params, checkpoints=checkpoints, out=text)
    for state in model.checkpoints:
        _stage(
            ablate,
            params,
            checkpoint=checkpoints / state,
            state=state,
            tokens=text / tokens.TOKENS_FILE,
            scratch=folder / "shards",
            out=effects / f"{state}.parquet",
        )
    return effects


def measure(effects: Path, settings: Settings) -> Seed:
    """Follow a seed's heads along its training."""
    system = settings.systems["heads"]
    parts = read_states(effects, system.states)
    along, change, _ = measured(parts, system, metrics_of("heads"), settings.measured)
    return Seed(along, change)


def _stage(module: Any, params: Path, **arguments: object) -> None:
    """Run a stage by its command line; it has said itself why if it fails."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in arguments.items()]
    if status := module.main([f"--params={params}", *words]):
        raise SystemExit(status)


def check_demo(params: Path, conf: Path) -> int:
    """Return the seed of the demo's training, if its settings are those of the other seeds.

    Raises
    ------
    SettingsError
        They are not.
    """
    content = yaml.safe_load(params.read_text(encoding="utf-8"))
    model = parse(content).model
    seed = model.train.seed if isinstance(model, MiniModel) else 0
    wanted = params_of(seed, conf)
    # What is left out here changes none of the numbers of heads.
    ours = {"sweep.layers", "sweep.noise.alphas"}
    for section in SECTIONS:
        for key, (has, needed) in compose.differences(
            content[section], wanted[section], section
        ).items():
            if key not in ours:
                msg = (
                    f"{params} has {key} = {has!r} and not {needed!r}: its effects are not the "
                    "demo's. Run make reproduce ATLAS=demo MODEL=pythia-mini."
                )
                raise SettingsError(msg)
    return seed


def along_table(seeds: dict[int, Seed]) -> str:
    """Show the metrics of every seed and step as Markdown, with their intervals over sequences."""
    names = "loss | Gini | Gini of noise | eff_N | sum of absolute effects | noise share"
    lines = [f"| seed | step | {names} |", "|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for seed, found in sorted(seeds.items()):
        for step, rows in found.along.groupby("position"):
            by = rows.set_index("metric")
            gini, number, total = (_interval(by.loc[name], name, "value") for name in METRICS)
            share, loss, floor = by.loc["gini", ["noise_share", "baseline", "floor"]]
            lines.append(
                f"| {seed} | {int(step)} | {loss:.3f} | {gini} | {floor:.3f} | {number} | {total} "
                f"| {share:.2f} |"
            )
    return "\n".join(lines)


def change_table(seeds: dict[int, Seed], since: int) -> str:
    """Show the changes of every seed to the last checkpoint as Markdown, with their intervals."""
    names = " | ".join(SHOWN[metric][0] for metric in METRICS)
    lines = [f"| change | seed | {names} |", "|:--|--:|--:|--:|--:|"]
    for first in (None, since):
        for seed, found in sorted(seeds.items()):
            change = found.change
            start = change["position_first"].min() if first is None else first
            last = change["position_last"].max()
            ends = (change["position_first"] == start) & (change["position_last"] == last)
            by = change[ends].set_index("metric")
            shown = " | ".join(_interval(by.loc[metric], metric, "change") for metric in METRICS)
            steps = f"{int(start)} to {int(last)}"
            lines.append(f"| {steps} | {seed} | {shown} |")
    return "\n".join(lines)


def _interval(row: "pd.Series[Any]", metric: str, value: str) -> str:
    form = SHOWN[metric][1]
    form = f"+{form}" if value == "change" else form
    ends = f"{row['replicates_low']:{form}} to {row['replicates_high']:{form}}"
    return f"{row[value]:{form}} ({ends})"


def side_by_side(seeds: dict[int, Seed]) -> str:
    """Show the metrics of all seeds at each step as Markdown, in the order of the seeds."""
    order = sorted(seeds)
    listed = ", ".join(str(seed) for seed in order)
    names = " | ".join([SHOWN[metric][0] for metric in METRICS] + ["noise share"])
    lines = [f"| step | {names} |", "|--:|:--|:--|:--|:--|", f"| *seed* |{f' {listed} |' * 4}"]
    tables = {seed: seeds[seed].along.set_index(["position", "metric"]) for seed in order}
    for step in sorted(set(seeds[order[0]].along["position"])):
        cells = [
            ", ".join(
                f"{tables[seed].loc[(step, name), 'value']:{SHOWN[name][1]}}" for seed in order
            )
            for name in METRICS
        ]
        shares = (tables[seed].loc[(step, "gini"), "noise_share"] for seed in order)
        cells.append(", ".join(f"{share:.2f}" for share in shares))
        lines.append(f"| {int(step)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _run(args: argparse.Namespace) -> None:
    own = None if args.demo is None else check_demo(args.params, args.conf)
    found = {}
    for seed in sorted({*args.seeds} | ({own} if own is not None else set())):
        params = args.folder / f"seed{seed}" / "params.yaml"
        keep_params(params_of(seed, args.conf), params)
        settings = load(params)
        effects = args.demo if seed == own else ablated(params.parent, settings.model)
        found[seed] = measure(effects, settings)
        parts = [along_table(found), side_by_side(found), change_table(found, args.since)]
        # After every seed: what is there can be looked at.
        write_text(args.folder / "seeds.md", "\n\n".join(parts) + "\n")
    print("\n\n".join(parts))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--conf", type=Path, default=compose.CONF)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, default=Path("data/scratch/seeds"))
    parser.add_argument("--demo", type=Path, help="effects of the demo's own seed, shown beside")
    parser.add_argument(
        "--since", type=int, default=256, help="a second change counts from this step (256)"
    )
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
