"""The paper as its author wrote it: its files, its text with includes in place, its values.

Includes are put in place here, as text, and not in a pandoc filter: Quarto does the same before it
parses anything, so that a footnote, a link or a fenced block may begin in one file and end in
another, and every line keeps the name and number by which an error can point at it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from stages.base.errors import RenderError

QUARTO_FILE = "_quarto.yml"
VARIABLES_FILE = "_variables.yml"
NOTICE = "notice"

NAME = r"[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"
VARIABLE = re.compile(rf"\{{\{{< var ({NAME}) >\}}\}}")
INCLUDE = re.compile(r"\{\{< include (\S+) >\}\}")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the text and where it was written."""

    text: str
    file: str
    number: int

    @property
    def place(self) -> str:
        """The line as a person looks it up."""
        return f"{self.file}, line {self.number}"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A manuscript project, read: nothing of it is checked against anything else yet."""

    project: Path
    paper: str
    lines: tuple[Line, ...]
    files: tuple[str, ...]
    options: Mapping[str, Any]
    variables: Mapping[str, str]

    @property
    def text(self) -> str:
        """The whole markdown, every include in its place."""
        return "\n".join(line.text for line in self.lines) + "\n"

    @property
    def notice(self) -> str:
        """The sentence that every page carries; empty for none."""
        return self.variables[NOTICE].strip()

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

    Returns
    -------
    Source
        Text, options and values.

    Raises
    ------
    RenderError
        If a file is missing or cannot be read, a value is not text, or an include is missing,
        inside itself or not on a line of its own.
    """
    options = _read_yaml(project, QUARTO_FILE)
    variables = _flatten(_read_yaml(project, VARIABLES_FILE))
    if NOTICE not in variables:
        msg = (
            f'{VARIABLES_FILE} has no value "{NOTICE}". Write the sentence that simulated data '
            'must carry, or notice: "" for data that are real.'
        )
        raise RenderError(msg)
    if not (project / paper).is_file():
        msg = f"{project / paper} does not exist. Give the paper's name inside the project folder."
        raise RenderError(msg)
    lines = tuple(_expand(project, paper, chain=()))
    files = tuple(dict.fromkeys(line.file for line in lines))
    return Source(
        project=project, paper=paper, lines=lines, files=files, options=options, variables=variables
    )


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


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        msg = f"{path.name} is not UTF-8 at byte {error.start}. Save it as UTF-8."
        raise RenderError(msg) from error


def _read_yaml(project: Path, name: str) -> dict[str, Any]:
    path = project / name
    if not path.is_file():
        msg = f"{path} does not exist. Run the stage that writes it, or correct --project."
        raise RenderError(msg)
    try:
        content = yaml.safe_load(_read_text(path))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        msg = f"{name} is not YAML: {reason}"
        raise RenderError(msg) from error
    if not isinstance(content, dict):
        msg = f"{name} holds no keys. It must be a YAML map."
        raise RenderError(msg)
    return content


def _flatten(values: Mapping[Any, Any], prefix: str = "") -> dict[str, str]:
    """Name every value by its path of keys, joined by dots."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{name}.")
        elif isinstance(value, str):
            flat[name] = value
        elif isinstance(value, int) and not isinstance(value, bool):
            flat[name] = str(value)
        else:
            # 1.000 without quotes is "1" to one YAML reader and "1.0" to another.
            msg = (
                f"{VARIABLES_FILE}: {name} is {value!r}, not text. Put the value in quotes, "
                "with the digits that the reader shall see."
            )
            raise RenderError(msg)
    return flat


def _expand(project: Path, name: str, *, chain: tuple[str, ...]) -> list[Line]:
    """Return the lines of a file with those of its includes in place."""
    texts = _read_text(project / name).splitlines()
    own = [Line(text=text, file=name, number=i) for i, text in enumerate(texts, start=1)]
    lines: list[Line] = []
    for i, line in enumerate(own):
        match = INCLUDE.search(line.text)
        if match is None:
            lines.append(line)
            continue
        neighbours = [own[j].text.strip() for j in (i - 1, i + 1) if 0 <= j < len(own)]
        if line.text.strip() != match.group() or any(neighbours):
            msg = (
                f"{line.place}: {match.group()} does not stand alone. Quarto needs an include on "
                "a line of its own with an empty line before and after it."
            )
            raise RenderError(msg)
        lines += _include(project, match.group(1), line, chain=(*chain, name))
    return lines


def _include(project: Path, target: str, line: Line, *, chain: tuple[str, ...]) -> list[Line]:
    # Quarto resolves an include from the main document's folder, in included files too;
    # a leading slash is the project's root, which here is the same folder.
    path = local_path(project, target.lstrip("/"))
    if path is None or not (project / path).is_file():
        msg = (
            f'{line.place}: include "{target}" does not exist. Write its path from the folder of '
            f"{chain[0]}, or run the stage that writes it."
        )
        raise RenderError(msg)
    name = str(path)
    if name in chain:
        circle = " -> ".join((*chain[chain.index(name) :], name))
        msg = f"{line.place}: include circle {circle}. Take one of these includes out."
        raise RenderError(msg)
    lines = _expand(project, name, chain=chain)
    if lines and lines[0].text.strip() == "---":
        msg = f"{name}, line 1: an included file has YAML of its own. Move it to the paper."
        raise RenderError(msg)
    return lines
