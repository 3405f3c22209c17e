"""Train the demo's models from other seeds, and measure what this study measures of them.

The graph itself runs, in a clone of the last commit whose settings have another seed: what is kept
is what its stages write. Of every seed the effects of removing each head go to
``reports/seeds/seed<N>/`` (``reports/cell_seeds/``), of those named in `room_seeds` all tables on
the model too, to ``reports/room_seeds/<model>/seed<N>/``: each folder whole or not at all, with
what it comes from. A seed that is there with these settings is not made again; one that was killed
goes on where it stopped.
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from stages.audit import commit
from stages.base import cli, compose, record
from stages.base.errors import SettingsError
from stages.base.files import atomic_folder, file_hash, write_text
from stages.base.settings import Settings, parse
from stages.heads.recipes import STATEMENT_FILE, Trained, folder_of, recipe
from stages.heads.seeds import asked
from stages.plane.room_seeds import MEASURED, ROOT, TABLES, rooms_recipe

DEMO = {"atlas": "demo", "model": "pythia-mini", "cellmodel": "cell-mini"}
SCRATCH = Path("data/scratch/seeds")
MADE = Path("reports/tables")


@dataclass(frozen=True)
class Made:
    """How one of the two models is measured from another seed."""

    heads: str
    """The stage that removes heads."""
    kept: Path
    """Where the effects of heads go."""
    only: tuple[str, ...]
    """Removals of heads on which nothing over seeds rests are left out."""
    rooms: tuple[str, ...]
    """Stages of all other rooms, the last ones of each."""


OF: dict[Trained, Made] = {
    "model": Made(
        "ablate",
        Path("reports/seeds"),
        ("sweep.perturbations=[zero]", "sweep.layers=false", "sweep.noise.alphas=[]"),
        ("epistasis", "measured@pairs", "measured@spectra"),
    ),
    "cellmodel": Made(
        "cell_heads",
        Path("reports/cell_seeds"),
        (
            "cell_heads.perturbations=[zero]",
            "cell_heads.layers=false",
            "cell_heads.attention=false",
        ),
        (
            *("cell_epistasis", "cell_separation", "structures"),
            *("autoencoders", "trace", "combine", "steer", "annotate"),
            *("operator_gates", "operator_readouts", "operator_factors", "operator_edges"),
            *(f"measured@{of}" for of in ("cell_heads", "cell_pairs", "cell_spectra")),
            *(f"measured@{of}" for of in ("features", "operators")),
        ),
    ),
}


def settings_of(seed: int, conf: Path, of: Trained = "model") -> Settings:
    """Return the demo's settings with another seed of the training of a model."""
    return parse(compose.compose(conf, [*_demo(), *_changed(seed, of)]))


def _demo() -> list[str]:
    return [f"{group}={name}" for group, name in DEMO.items()]


def _changed(seed: int, of: Trained) -> list[str]:
    return [f"{of}.train.seed={seed}", *OF[of].only]


def is_made(folder: Path, wanted: dict[str, Any]) -> bool:
    """Return whether a seed is there, and made by this recipe.

    Raises
    ------
    SettingsError
        It was made by another.
    """
    statement = folder / STATEMENT_FILE
    if not statement.exists():
        return False
    made = json.loads(statement.read_text(encoding="utf-8"))["recipe"]
    if other := compose.differences(made, wanted):
        key, (old, new) = next(iter(other.items()))
        msg = (
            f"{folder} was made with {key} = {old!r}, conf/ now says {new!r}. "
            "Remove it, or take the setting back."
        )
        raise SettingsError(msg)
    return True


def make(seed: int, of: Trained, *, repository: Path, scratch: Path, stages: Sequence[str]) -> Path:
    """Run stages of the graph with another seed, in a clone of the last commit; return the clone.

    Parameters
    ----------
    seed
        Of the training.
    of
        Which model.
    repository
        Is cloned.
    scratch
        Keeps the clone, and so what is unfinished between runs.
    stages
        The last ones to run.

    Raises
    ------
    VerificationError
        A stage failed; it has said itself why.
    """
    folder = scratch / of / f"seed{seed}"
    revision = commit.run(repository, "git", "rev-parse", "HEAD").strip()
    if folder.exists():
        commit.run(folder, "git", "fetch", "--quiet", "origin")
        commit.run(folder, "git", "checkout", "--quiet", "--force", "--detach", revision)
        clone = commit.Commit(folder, revision)
    else:
        clone = commit.clone(repository, revision, folder)
    groups = [f"--{group}={name}" for group, name in DEMO.items()]
    changed = ["--set", " ".join(_changed(seed, of))]
    commit.run(folder, "python", "-m", "stages.base.compose", *groups, *changed)
    clone.run_graph(stages)
    return folder


def _keep(out: Path, files: dict[str, Path], about: dict[str, Any]) -> None:
    """Put a folder in place that holds these files and the statement of what made them."""
    with atomic_folder(out) as fresh:
        for name, path in files.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, fresh / name)
        write_text(fresh / STATEMENT_FILE, json.dumps(about, indent=1, sort_keys=True) + "\n")


def _tables(folder: Path) -> dict[str, Path]:
    """Return the tables that a clone has made: what is measured, and those of the rooms."""
    found = {path.relative_to(folder / MADE): path for path in (folder / MADE).rglob("*.csv")}
    return {
        (name if name.parts[0] == MEASURED else Path(TABLES) / name).as_posix(): path
        for name, path in sorted(found.items())
        if name.parts[0] != "changes"
    }


def _wanted(settings: Settings, of: Trained) -> Iterator[tuple[int, bool, bool]]:
    """Give every seed, whether its heads are asked for, and whether its rooms are."""
    heads, rooms = asked(settings, of).others, getattr(settings.room_seeds, of)
    for seed in sorted({*heads, *rooms}):
        yield seed, seed in heads, seed in rooms


def _run(args: argparse.Namespace) -> None:
    demo = parse(compose.compose(args.conf, _demo()))
    repository = Path.cwd()
    for of in get_args(Trained):
        model = getattr(demo, of)
        for seed, heads, rooms in _wanted(demo, of):
            if args.only and args.only != f"{model.name}:{seed}":
                continue
            settings, how, begun = settings_of(seed, args.conf, of), OF[of], time.time()
            folder, tables = folder_of(how.kept, seed), folder_of(ROOT / model.name, seed)
            heads = heads and not is_made(folder, recipe(settings, of))
            rooms = rooms and not is_made(tables, rooms_recipe(settings, of))
            if not (heads or rooms):
                cli.log.info("seed %d of %s is there", seed, model.name)
                continue
            stages = [*([how.heads] if heads else []), *(how.rooms if rooms else [])]
            clone = make(seed, of, repository=repository, scratch=args.scratch, stages=stages)
            about = {
                "seed": seed,
                "train_log_sha256": file_hash(clone / model.folder / "train_log.csv"),
                "commit": commit.run(clone, "git", "rev-parse", "HEAD").strip(),
                "environment": record.environment(),
                # Of this run: what an earlier one that was killed had done is not in it.
                "wall_seconds": round(time.time() - begun),
            }
            if heads:
                effects = clone / "data/interim" / model.name / "effects"
                files = {f"{s}.parquet": effects / f"{s}.parquet" for s in model.checkpoints}
                _keep(folder, files, about | {"recipe": recipe(settings, of)})
            if rooms:
                about |= {"recipe": rooms_recipe(settings, of)}
                _keep(tables, _tables(clone), about)
            shutil.rmtree(clone)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("--conf", type=Path, default=compose.CONF)
    parser.add_argument("--scratch", type=Path, default=SCRATCH)
    parser.add_argument("--only", default="", metavar="MODEL:SEED", help="this one alone")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
