"""Train the demo's models from other seeds, and keep what removing each head then costs.

Of every seed the stages of the graph run with the demo's settings in a folder of their own: train,
tokenise (or simulate cells, train and encode), and set every head to zero at each checkpoint. Other
removals, on which nothing over seeds rests, are left out. The effects, one file a state, are kept
with what they come from as ``reports/seeds/seed<N>/`` (``reports/cell_seeds/``), whole or not at
all; a seed that is there with these settings is not made again, and one that was killed goes on
where it stopped.
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
from typing import Any, get_args

from stages.base import cli, compose, record
from stages.base.errors import SettingsError
from stages.base.files import atomic_folder, file_hash, write_text
from stages.base.settings import Settings, parse
from stages.heads import ablate, cell_heads
from stages.heads.recipes import STATEMENT_FILE, Trained, folder_of, recipe
from stages.heads.seeds import asked
from stages.inputs import encode, tokens
from stages.inputs.cell_mini import __main__ as cell_mini
from stages.inputs.haematopoiesis import __main__ as haematopoiesis
from stages.inputs.mini import __main__ as mini

DEMO = ("atlas=demo", "model=pythia-mini", "cellmodel=cell-mini")
HEADS_ALONE: dict[Trained, tuple[str, ...]] = {
    "model": ("sweep.perturbations=[zero]", "sweep.layers=false", "sweep.noise.alphas=[]"),
    "cellmodel": (
        "cell_heads.perturbations=[zero]",
        "cell_heads.layers=false",
        "cell_heads.attention=false",
    ),
}
KEPT: dict[Trained, Path] = {
    "model": Path("reports/seeds"),
    "cellmodel": Path("reports/cell_seeds"),
}


def params_of(seed: int, conf: Path, of: Trained = "model") -> dict[str, Any]:
    """Compose the demo's settings with another seed of the training of a model."""
    return compose.compose(conf, [*DEMO, f"{of}.train.seed={seed}", *HEADS_ALONE[of]])


def is_made(folder: Path, settings: Settings, of: Trained = "model") -> bool:
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
    if other := compose.differences(made, recipe(settings, of)):
        key, (old, new) = next(iter(other.items()))
        msg = (
            f"{folder} was made with {key} = {old!r}, conf/ now says {new!r}. "
            "Remove it, or take the setting back."
        )
        raise SettingsError(msg)
    return True


def make(
    seed: int, params: dict[str, Any], *, out: Path, scratch: Path, of: Trained = "model"
) -> None:
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
    of
        Which model.
    """
    begun = time.time()
    folder = scratch / of / f"seed{seed}"
    settings = folder / "params.yaml"
    checkpoints, effects = folder / "checkpoints", folder / "effects"
    if of == "cellmodel":
        params["cellmodel"]["cells"]["h5ad"] = str(folder / "cells" / haematopoiesis.CELLS_FILE)
    compose.write(params, settings)
    states = getattr(parse(params), of).checkpoints
    make_effects = _of_text if of == "model" else _of_cells
    make_effects(settings, states, folder)
    with atomic_folder(out) as fresh:
        for state in states:
            shutil.copyfile(effects / f"{state}.parquet", fresh / f"{state}.parquet")
        statement = {
            "seed": seed,
            "recipe": recipe(parse(params), of),
            "train_log_sha256": file_hash(checkpoints / "train_log.csv"),
            **_made_by(),
            # Of this run: what an earlier one that was killed had done is not in it.
            "wall_seconds": round(time.time() - begun),
        }
        write_text(fresh / STATEMENT_FILE, json.dumps(statement, indent=1, sort_keys=True) + "\n")


def _of_text(settings: Path, states: Sequence[str], folder: Path) -> None:
    checkpoints, text = folder / "checkpoints", folder / "tokens"
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
            out=folder / "effects" / f"{state}.parquet",
        )


def _of_cells(settings: Path, states: Sequence[str], folder: Path) -> None:
    checkpoints, simulated, read = folder / "checkpoints", folder / "cells", folder / "encoded"
    h5ad = simulated / haematopoiesis.CELLS_FILE
    if not h5ad.exists():
        _stage(haematopoiesis, settings, out=simulated)
    if not all((checkpoints / state).exists() for state in states):
        _stage(cell_mini, settings, out=checkpoints, scratch=folder / "training")
    _stage(encode, settings, h5ad=h5ad, vocabulary=checkpoints / states[0], out=read)
    _stage(
        cell_heads,
        settings,
        checkpoints=checkpoints,
        cells=read,
        scratch=folder / "shards",
        out=folder / "effects",
    )


def _stage(module: Any, params: Path, **arguments: object) -> None:
    """Run a stage by its command line; it has said itself why if it fails."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in arguments.items()]
    if status := module.main([f"--params={params}", *words]):
        raise SystemExit(status)


def _made_by() -> dict[str, Any]:
    """Return code, commit, machine and versions that this process runs."""
    root = Path.cwd()
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    hashes = record.code_hashes(root).items()
    code = {name: md5 for name, md5 in hashes if str(root / name) in loaded}
    commit, changed = record.checkout(root)
    return {
        "code": code,
        "commit": commit,
        "changed": changed,
        "environment": record.environment(),
    }


def _run(args: argparse.Namespace) -> None:
    settings = parse(compose.compose(args.conf, DEMO))
    for of in get_args(Trained):
        for seed in asked(settings, of).others:
            params, out = params_of(seed, args.conf, of), folder_of(KEPT[of], seed)
            if is_made(out, parse(params), of):
                cli.log.info("%s is there", out)
            else:
                make(seed, params, out=out, scratch=args.scratch, of=of)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("--conf", type=Path, default=compose.CONF)
    parser.add_argument("--scratch", type=Path, default=Path("data/scratch/seeds"))
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
