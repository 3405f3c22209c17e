"""Run a renderer as a program of its own, and say in one line why it failed."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.base.errors import RenderError

TIMEOUT_SECONDS = 900


def run(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str], text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder and return what it wrote and said.

    Parameters
    ----------
    command
        The program and its arguments; paths in them are relative to `folder`.
    folder
        Its working folder.
    environment
        All of its environment.
    text
        Its standard input.

    Raises
    ------
    RenderError
        It fails or takes more than a quarter of an hour.
    """
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            check=False,
            cwd=folder,
            encoding="utf-8",
            env=environment,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"{name} did not end within {TIMEOUT_SECONDS} s and was stopped."
        raise RenderError(msg) from error
    if done.returncode != 0:
        lines = done.stderr.splitlines()
        reason = " ".join(" ".join([one for one in lines if "ERROR" in one] or lines).split())
        reason = reason.replace(str(folder) + os.sep, "")
        msg = f"{name} failed with status {done.returncode}: {reason}"
        raise RenderError(msg)
    return done
