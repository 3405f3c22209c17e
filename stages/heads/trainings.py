"""Train the demo's model from other seeds, and keep what removing each head then costs.

Of every seed the stages of the graph run with the demo's settings in a folder of their own: train,
tokenise, and set every head to zero at each checkpoint. Whole blocks and noise on weights, on which
nothing over seeds rests, are left out. The effects, one file a state, are kept with what they come
from as ``OUT/seed<N>/``, whole or not at all; a seed that is there with these settings is not made
again, and one that was killed goes on where it stopped.
"""

import os

# As stages.inputs.mini does, before PyTorch starts its threads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.base import cli, compose, record
from stages.base.errors import SettingsError
from stages.base.files import atomic_folder, file_hash, write_text
from stages.base.settings import Settings, parse
from stages.heads import ablate
from stages.heads.recipes import STATEMENT_FILE, folder_of, recipe
from stages.inputs import tokens
from stages.inputs.mini import __main__ as mini

HEADS_ALONE = ("sweep.perturbations=[zero]", "sweep.layers=false", "sweep.noise.alphas=[]")


def params_of(seed: int, conf: Path) -> dict[str, Any]:
    """Compose the demo's settings with another seed of the training."""
    chosen = ["atlas=demo", "model=pythia-mini", f"model.train.seed={seed}", *HEADS_ALONE]
    return compose.compose(conf, chosen)


def is_made(folder: Path, settings: Settings) -> bool:
    """Return whether a seed is there, and made with these settings.

    Raises
    ------
    SettingsError
        It was made with others.
    """
    statement = folder / STATEMENT_FILE
    if not statement.exists():
        return False
    made = json.loads(statement.read_text(encoding="utf-8"))["recipe"]
    if other := compose.differences(made, recipe(settings)):
        key, (old, new) = next(iter(other.items()))
        msg = (
            f"{folder} was made with {key} = {old!r}, conf/ now says {new!r}. "
            "Remove it, or take the setting back."
        )
        raise SettingsError(msg)
    return True


def make(seed: int, params: dict[str, Any], *, out: Path, scratch: Path) -> None:
    """Train a seed, remove its heads, and put folder `out` in place.

    Parameters
    ----------
    seed
        Of the training; names its folder in `scratch`.
    params
        What ``params.yaml`` would hold.
    out
        Gets ``<state>.parquet`` for every state and the statement of what made them.
    scratch
        Keeps what is unfinished between runs.
    """
    begun = time.time()
    folder = scratch / f"seed{seed}"
    settings = folder / "params.yaml"
    compose.write(params, settings)
    states = parse(params).model.checkpoints
    checkpoints, text, effects = folder / "checkpoints", folder / "tokens", folder / "effects"
    if not all((checkpoints / state).exists() for state in states):
        _stage(mini, settings, out=checkpoints, scratch=folder / "training")
    _stage(tokens, settings, checkpoints=checkpoints, out=text)
    for state in states:
        _stage(
            ablate,
            settings,
            checkpoint=checkpoints / state,
            state=state,
            tokens=text / tokens.TOKENS_FILE,
            scratch=folder / "shards",
            out=effects / f"{state}.parquet",
        )
    with atomic_folder(out) as fresh:
        for state in states:
            shutil.copyfile(effects / f"{state}.parquet", fresh / f"{state}.parquet")
        statement = {
            "recipe": recipe(parse(params)),
            "train_log_sha256": file_hash(checkpoints / "train_log.csv"),
            **_made_by(),
            # Of this run: what an earlier one that was killed had done is not in it.
            "wall_seconds": round(time.time() - begun),
        }
        write_text(fresh / STATEMENT_FILE, json.dumps(statement, indent=1, sort_keys=True) + "\n")


def _stage(module: Any, params: Path, **arguments: object) -> None:
    """Run a stage by its command line; it has said itself why if it fails."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in arguments.items()]
    if status := module.main([f"--params={params}", *words]):
        raise SystemExit(status)


def _made_by() -> dict[str, Any]:
    """Return code, commit, machine and versions that this process runs."""
    root = Path.cwd()
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    code = {
        name: md5 for name, md5 in record.code_hashes(root).items() if str(root / name) in loaded
    }
    commit, changed = record.checkout(root)
    return {
        "code": code,
        "commit": commit,
        "changed": changed,
        "environment": record.environment(),
    }


def _run(args: argparse.Namespace) -> None:
    todo = parse(params_of(0, args.conf)).seeds.others
    for seed in todo:
        params, out = params_of(seed, args.conf), folder_of(args.out, seed)
        if is_made(out, parse(params)):
            cli.log.info("%s is there", out)
        else:
            make(seed, params, out=out, scratch=args.scratch)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("--conf", type=Path, default=compose.CONF)
    parser.add_argument("--out", type=Path, default=Path("reports/seeds"))
    parser.add_argument("--scratch", type=Path, default=Path("data/scratch/seeds"))
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
