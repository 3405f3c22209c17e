"""Fill the templates of the text with numbers: Markdown with Jinja2, in ``templates/``.

Templates are given numbers, lists and rows, and write them by filters, which are the functions of
:mod:`stages.report.text`. Whole numbers need none; a float without one, a value that is not there
and a number that was typed into the prose are errors of one line.
"""

import inspect
import itertools
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from jinja2.runtime import LoopContext

from stages.base.errors import RenderError
from stages.heads.components import head_name
from stages.report import text
from stages.report.claims import printed
from stages.report.numerals import check_numbers

TEMPLATES = Path(__file__).parent / "templates"
NOT_THERE = (jinja2.UndefinedError, AttributeError, LookupError)

Row = Mapping[str, Any]


def table(block: str, align: str) -> str:
    r"""Return a pipe table of a block whose lines are rows, their cells parted by ``|``.

    Parameters
    ----------
    block
        The header and the rows, a line each; empty lines are passed over.
    align
        One letter a column: ``l``, ``r`` or ``c``.

    Raises
    ------
    ValueError
        A row has another number of cells.

    Examples
    --------
    >>> print(table("a | b\n\n1 | x\\|y\n", "rl"), end="")
    | a | b |
    |--:|:--|
    | 1 | x\|y |
    """
    rows = [text.cells(line) for line in block.splitlines() if line.strip()]
    for row in rows:
        if len(row) != len(align):
            msg = f"the row {' | '.join(row)!r} has {len(row)} cells, not {len(align)}"
            raise ValueError(msg)
    return text.pipe_table(rows[0], rows[1:], align=align) + "\n"


def by(rows: Iterable[Row], *keys: str) -> list[list[Row]]:
    """Return neighbouring rows that have the same `keys`, together."""
    groups = itertools.groupby(rows, key=lambda row: [row[key] for key in keys])
    return [list(group) for _, group in groups]


def joint(loop: LoopContext, mark: str = "") -> str:
    """Return what stands before an item of a list: nothing, `mark`, or else a comma or "and"."""
    return "" if loop.first else mark or (" and " if loop.last else ", ")


FILTERS = {
    **dict(inspect.getmembers(text, inspect.isfunction)),
    "arm": lambda row: text.arm(row["cohort"], row["platform"]),
    "by": by,
    "head": lambda row, prefix="": head_name(row[f"{prefix}layer"], row[f"{prefix}head"]),
    "joint": joint,
    "ours": printed.ours,
    "table": table,
}


def _shown(value: object) -> object:
    """Return what stands for a value in the text."""
    if isinstance(value, jinja2.Undefined) or hasattr(value, "__html__"):
        return value
    if isinstance(value, str):
        return text.escaped(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return text.integer(value)
    msg = f"the value {value!r} has no filter that says how it is written"
    raise TypeError(msg)


class Templates:
    """The templates of a folder, without a number typed into any.

    Parameters
    ----------
    folder
        Of the templates.

    Raises
    ------
    RenderError
        One of them is no template, or holds a number.
    """

    def __init__(self, folder: Path = TEMPLATES) -> None:
        self._folder = folder
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(folder),
            undefined=jinja2.StrictUndefined,
            finalize=_shown,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            # {# begins a label in Quarto.
            comment_start_string="<#",
            comment_end_string="#>",
            # Markdown is no HTML; _shown escapes what would end a cell.
            autoescape=False,  # noqa: S701
        )
        self._environment.filters |= FILTERS
        self._environment.globals["interval"] = text.interval
        for name in self._environment.list_templates(extensions=["j2"]):
            source = (folder / name).read_text(encoding="utf-8")
            try:
                check_numbers(name, self._prose(source))
            except jinja2.TemplateSyntaxError as error:
                raise _unreadable(error, name) from None

    def _prose(self, source: str) -> str:
        """Return a template less what computes, but for its words; lines keep their place."""
        kept, line = "", 1
        for number, kind, value in self._environment.lex(source):
            kept += "\n" * (number - line)
            kept += value if kind in ("data", "string") else "\n" * value.count("\n")
            line = number + value.count("\n")
        return kept

    def fill(self, name: str, values: Row) -> str:
        """Return a template with values in it.

        Raises
        ------
        RenderError
            A value or a template is not there, or a value cannot be written as asked.
        """
        try:
            return self._environment.get_template(name).render(values)
        except jinja2.TemplateSyntaxError as error:
            raise _unreadable(error, name) from None
        except jinja2.TemplateNotFound as error:
            msg = f"there is no template {error.name}. Restore it, or correct its name."
            raise RenderError(msg) from None
        except (*NOT_THERE, ArithmeticError, TypeError, ValueError) as error:
            # Jinja gives each frame of a template the line of its source.
            frames = reversed(traceback.extract_tb(error.__traceback__))
            at = next(frame for frame in frames if Path(frame.filename).suffix == ".j2")
            place = f"{Path(at.filename).relative_to(self._folder).as_posix()}, line {at.lineno}"
            reason = " ".join(str(error).split()) or type(error).__name__
            msg = f"{place}: {reason}. Correct the template or what it is given."
            raise RenderError(msg) from error


def _unreadable(error: jinja2.TemplateSyntaxError, name: str) -> RenderError:
    return RenderError(f"{error.name or name}, line {error.lineno}: {error.message}")
