"""Render the paper by Quarto, where a person has installed it and asks for it."""

import os
import re
import shutil
from pathlib import Path

from stages.base.errors import RenderError
from stages.report import programs
from stages.report.pandoc import FIGURE_FONTS
from stages.report.source import Source

# Quarto only warns of these and prints a question mark; here they stop the render, should
# anything have passed our own check.
UNRESOLVED = (
    *("Unable to resolve", "Unknown var", "Unknown meta", "citeproc: citation"),
    *("FATAL", "Error resolving"),
)
# Its filters colour what they say, whatever NO_COLOR asks for.
COLOUR = re.compile(r"\x1b\[[\d;]*m")


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
        msg = (
            "render.renderer = quarto, and quarto is not on PATH. Install it, or render by the "
            "wheels: make paper SET=render.renderer=pandoc."
        )
        raise RenderError(msg)
    report = COLOUR.sub("", _run([program, "render"], folder=folder)).splitlines()
    if faults := [line.strip() for line in report if any(sign in line for sign in UNRESOLVED)]:
        msg = f"quarto left something unresolved: {' '.join(faults)}"
        raise RenderError(msg)
    output = folder / (source.options.get("project") or {}).get("output-dir", "")
    page, pdf = (output / Path(source.paper).with_suffix(suffix) for suffix in (".html", ".pdf"))
    for file in (page, pdf):
        if not file.is_file():
            msg = f"quarto ended well but wrote no {file.name}. Look at `format` in _quarto.yml."
            raise RenderError(msg)
    return page, pdf


def _run(command: list[str], *, folder: Path) -> str:
    """Run Quarto and return its output and messages together."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "NO_COLOR": "1"}
    environment["TYPST_FONT_PATHS"] = str(FIGURE_FONTS)
    done = programs.run(command, folder=folder, environment=environment)
    return done.stdout + done.stderr
