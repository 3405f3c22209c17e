"""Render the paper by Quarto, where a person has installed it."""

import os
import shutil
from pathlib import Path

from stages.base.errors import RenderError
from stages.report import programs
from stages.report.source import Source

# Quarto only warns of these and prints a question mark; here they stop the render, should
# anything have passed our own check.
UNRESOLVED = ("Unable to resolve", "Unknown var", "Unknown meta", "citeproc: citation")


def find_quarto() -> str | None:
    """Return the path of ``quarto``, or None where it is not installed."""
    return shutil.which("quarto")


def quarto_version(program: str) -> str:
    """Return what ``quarto --version`` says."""
    return _run([program, "--version"], folder=Path.cwd()).strip()


def render_with_quarto(source: Source, *, folder: Path) -> tuple[Path, Path]:
    """Render HTML and PDF in a staged copy of the project.

    Parameters
    ----------
    source
        The checked manuscript.
    folder
        The copy made by :func:`stages.report.source.stage_project`.

    Returns
    -------
    tuple of Path
        The HTML and the PDF file.

    Raises
    ------
    RenderError
        If Quarto is missing, fails, leaves something unresolved or writes no such file.
    """
    program = find_quarto()
    if program is None:
        msg = "quarto is not on PATH. Install it, or use --renderer pandoc."
        raise RenderError(msg)
    report = _run([program, "render"], folder=folder)
    for line in report.splitlines():
        if any(sign in line for sign in UNRESOLVED):
            msg = f"quarto left something unresolved: {line.strip()}"
            raise RenderError(msg)
    project = source.options.get("project") or {}
    output = folder / project.get("output-dir", "_manuscript")
    stem = Path(source.paper).stem
    return _first(output, f"{stem}.html", "index.html"), _first(output, f"{stem}.pdf", "index.pdf")


def _first(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    msg = f"quarto ended well but wrote no {names[0]}. Look at `format` in _quarto.yml."
    raise RenderError(msg)


def _run(command: list[str], *, folder: Path) -> str:
    """Run Quarto and return its output and messages together."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "NO_COLOR": "1"}
    done = programs.run(command, folder=folder, environment=environment)
    return done.stdout + done.stderr
