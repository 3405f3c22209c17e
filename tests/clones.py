"""A copy of this tree as git would hand it out, with an empty cache, to run the pipeline in."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

SHOWN = 3000
REPRO = ("python", "-m", "stages.base.repro")
"""What make calls; `dvc repro` does the same, and takes longer."""
# Settings of a run in which all is real and little of it: few draws, permutations and clusterings.
FEW_OF_CELLS = """
    calibration.studies=40 calibration.designs=[[4,4]] calibration.gini_shifts=[0.1]
    clusters.contrast.max_permutations=200 clusters.equal_cells.draws=5
    clusters.resolutions=[0.2,0.8] comparators.max_permutations=100
    concordance.max_permutations=200 contrast.max_permutations=1000 drivers.draws=100
    medians.draws=100 medians.max_permutations=200 metrics.rarefaction.draws=20
    multiverse.min_cells=[1] reconstruction.draws=100 restriction.draws=50
    stability.seeds=2 stability.subsamples=0 substates.resolutions=[0.8] trend.max_permutations=200
"""
FEW_OF_HEADS = """
    epistasis.draws=40 epistasis.permutations=20 removal_kinds.perturbations=[zero,mean]
    seeds.draws=40 seeds.halvings=40
"""
# And two models that are trained and read for seconds.
FEW = f"""{FEW_OF_CELLS} {FEW_OF_HEADS}
    granularity.curve.resolutions=[0.02,0.1] leiden.flavor=igraph leiden.directed=false
    haematopoiesis.cells_a_donor=150
    cellmodel.cells.n_encoded=600 cellmodel.cells.n_cells=16 cellmodel.cells.reference_cells=16
    cell_heads.perturbations=[zero,mean] cell_seeds.draws=40 cell_seeds.halvings=40
    cell_pairs.n_sequences=8 pairs.which=published_reranked pairs.top=4 pairs.random=6
    pairs.seq_len=16 probes.draws=50 separation.permutations=99
    structures.draws=50 structures.permutations=99
    autoencoders.judged=8 autoencoders.positions=5000 autoencoders.seeds=2
    autoencoders.training.features=64 combine.min_sequences=5 combine.sets=2
    steer.features=2 steer.min_sequences=2 trace.nulls=6 trace.sequences=16
    operator_factors.rotations=5 operator_gates.arccos.steps=20 operator_gates.permutations=99
    operator_gates.wrong_rulers=19 operator_maps.sequences=60 sweep.noise.draws=6
"""


def copy_of(repository: Path, folder: Path) -> Path:
    """Copy what git knows or would take up to `folder` and share the environment with it.

    Skips the test that asks for it where make set up no environment that fits.
    """
    # In an image, the environment is its own, and make takes it from there.
    own = os.environ.get("VENV", ".venv") == ".venv"
    stamp = repository / ".venv" / ".installed"
    made_from = [repository / name for name in ("requirements.txt", "pyproject.toml")]
    if not (repository / ".git").exists() or (own and not stamp.exists()):
        pytest.skip("needs a git checkout that make set up")
    if own and any(path.stat().st_mtime > stamp.stat().st_mtime for path in made_from):
        # The copy shares this environment, and make would remake it under the running tests.
        pytest.skip("the environment is stale: run make setup")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (repository / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repository / name, folder / name)
    if own:
        (folder / ".venv").symlink_to(repository / ".venv")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def environment(folder: Path, changed: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables of a person who works in a copy and has activated its .venv."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_"))}
    path = f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return kept | {"PATH": path} | dict(changed or {})


def call(
    folder: Path, *command: str, changed: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a copy and return its status and, together as `stdout`, all it said."""
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, changed),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def must(folder: Path, *command: str, changed: Mapping[str, str] | None = None) -> str:
    """Run a command in a copy that must succeed and return what it said."""
    done = call(folder, *command, changed=changed)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-2 * SHOWN :]}"
    return done.stdout


def stages_run(output: str) -> list[str]:
    """Return the stages that DVC says it ran, in its order."""
    return re.findall(r"Running stage '([^']+)'", output)
