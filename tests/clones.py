"""A copy of this tree as git would hand it out, with an empty cache, to run the pipeline in."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

SHOWN = 3000


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
