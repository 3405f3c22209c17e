"""The paper's source: read, with the words on provenance in place, and copied for a renderer.

``reports/paper.qmd`` comes from the templates with all numbers in it. What is said of the runs is
known only after it is written, so the paper includes that, as Quarto does: an include on a line of
its own. It is put in place here, as text, for both renderers.
"""

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from stages.base.errors import RenderError

QUARTO_FILE = "_quarto.yml"

INCLUDE = re.compile(r"\s*\{\{< include (\S+) >\}\}\s*")


@dataclass(frozen=True)
class Line:
    """One line of the text and where it was written."""

    text: str
    file: str
    number: int

    @property
    def place(self) -> str:
        """The line as a person looks it up."""
        return f"{self.file}, line {self.number}"


@dataclass(frozen=True)
class Source:
    """A manuscript project, read: nothing of it is checked against anything else yet."""

    project: Path
    paper: str
    lines: tuple[Line, ...]
    options: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The whole markdown, every include in its place."""
        return "\n".join(line.text for line in self.lines) + "\n"

    def find(self, pattern: str, *, occurrence: int = 1) -> str:
        """Say where a pattern stands for the n-th time, or name the paper if it is not found."""
        found = 0
        for line in self.lines:
            found += len(re.findall(pattern, line.text))
            if found >= occurrence:
                return line.place
        return self.paper


def read_source(project: Path, paper: str) -> Source:
    """Read a manuscript project.

    Parameters
    ----------
    project
        The folder of ``_quarto.yml``.
    paper
        The name of the document in it.

    Raises
    ------
    RenderError
        If a file is missing or cannot be read.
    """
    options = _read_yaml(_read_text(project, QUARTO_FILE), QUARTO_FILE)
    text = _read_text(project, paper)
    lines: list[Line] = []
    for line in _lines(text, paper):
        if include := INCLUDE.fullmatch(line.text):
            name = include.group(1)
            lines += _lines(_read_text(project, name, of=f"{line.place}: "), name)
        else:
            lines.append(line)
    return Source(project, paper, tuple(lines), options)


def local_path(project: Path, target: str) -> PurePosixPath | None:
    """Return a path as text inside the project, or None if it leads out of it.

    >>> local_path(Path("reports"), "figures/../a.png")
    PurePosixPath('a.png')
    >>> local_path(Path("reports"), "../a.png") is None
    True
    """
    root = project.resolve()
    resolved = (root / target).resolve()
    if not resolved.is_relative_to(root):
        return None
    return PurePosixPath(resolved.relative_to(root).as_posix())


def _lines(text: str, name: str) -> list[Line]:
    return [Line(line, name, number) for number, line in enumerate(text.splitlines(), start=1)]


def _read_text(project: Path, name: str, *, of: str = "") -> str:
    path = local_path(project, name)
    if path is None or not (project / path).is_file():
        msg = f"{of}{project / name} does not exist. Run the stage that writes it: dvc repro."
        raise RenderError(msg)
    try:
        return (project / path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        msg = f"{name} is not UTF-8 at byte {error.start}. Save it as UTF-8."
        raise RenderError(msg) from error


def _read_yaml(text: str, name: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        msg = f"{name} is not YAML: {reason}"
        raise RenderError(msg) from error
    if not isinstance(content, dict):
        msg = f"{name} holds no keys. It must be a YAML map."
        raise RenderError(msg)
    return content


def format_options(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the options of one format: those of the project, overridden by its own."""
    formats = options.get("format") or {}
    own = formats.get(name) if isinstance(formats, Mapping) else None
    shared = {key: value for key, value in options.items() if key != "format"}
    return shared | (dict(own) if isinstance(own, Mapping) else {})


def stage_project(source: Source, resources: Iterable[str], *, folder: Path) -> None:
    """Copy a project to `folder`, its text whole.

    Parameters
    ----------
    source
        The manuscript.
    resources
        Paths inside the project that it uses: figures, bibliography, style sheets, filters.
    folder
        An empty folder.
    """
    for name in dict.fromkeys((QUARTO_FILE, *resources)):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.project / name, target)
    (folder / source.paper).write_text(source.text, encoding="utf-8")
