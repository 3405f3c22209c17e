"""Find what a paper refers to and does not have, before any renderer runs.

Quarto prints a question mark for an unknown reference and ends well. Here each is an
error, whichever renderer is used, and it names the line to look at.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

from stages.base.errors import RenderError
from stages.report.pandoc import as_list, read_citation_keys, read_document
from stages.report.project import format_options
from stages.report.source import Source, local_path

KIND = re.compile(r"(fig|tbl|eq|sec)-")
LABEL_WORD = re.compile(r"\{#((?:fig|tbl|eq|sec)-[^} ]*)")
EQUATION_LABEL = re.compile(r"^\{#(eq-[^} ]+)\}")
# ```{python} opens a cell, `{python} x` is a computed value; ```{.python} is only shown.
CELL = re.compile(r"^\s*(?:```+|~~~+)\s*\{[A-Za-z]|`\{(?:python|r|julia|ojs)\} ")
HOLDERS = {
    "fig": ("Figure", "Div"),
    "tbl": ("Table", "Div"),
    "eq": ("Math",),
    "sec": ("Header",),
}
HOW = {
    "fig": "![Caption](figures/name.png){#fig-name} in a paragraph of its own",
    "tbl": ": Caption {#tbl-name} under the table, with an empty line between",
    "eq": "$$ ... $$ {#eq-name}",
    "sec": "# Title {#sec-name}",
}
NOT_SHARED = ("callout-", "panel-tabset", "column-", "content-visible", "content-hidden")

Element = dict[str, Any]


@dataclass
class _Facts:
    """What the syntax tree holds, in the order of the text."""

    labels: list[tuple[str, str]] = field(default_factory=list)
    captions: dict[str, bool] = field(default_factory=dict)
    unnumbered: set[str] = field(default_factory=set)
    references: list[str] = field(default_factory=list)
    citations: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    loose_labels: list[str] = field(default_factory=list)
    has_top_section: bool = False
    has_section: bool = False


def check_source(source: Source, *, folder: Path) -> tuple[str, ...]:
    """Check that everything the paper refers to is there.

    Parameters
    ----------
    source
        The manuscript.
    folder
        An empty folder for pandoc to work in.

    Returns
    -------
    tuple of str
        The files that the paper uses besides its text: figures, bibliography, style sheets.

    Raises
    ------
    RenderError
        At the first fault: an unknown label, citation or file; a label given twice, not attached
        to anything or never referred to; something that only one renderer understands.
    """
    _check_lines(source)
    tree = read_document(source.text, folder=folder)
    _check_metadata(source, tree["meta"])
    facts = _Facts()
    for block in (tree["meta"], tree["blocks"]):
        for element in _elements(block):
            _note(source, facts, element)
    _check_labels(source, facts)
    _check_references(source, facts)
    figures = _check_images(source, facts)
    other = _check_option_files(source)
    _check_citations(source, facts, folder=folder)
    return tuple(dict.fromkeys((*figures, *other)))


def _check_lines(source: Source) -> None:
    for line in source.lines:
        if "{{<" in line.text or ">}}" in line.text:
            msg = (
                f"{line.place}: a shortcode that is no include of the paper on a line of its own. "
                "Put values in where the template is filled."
            )
            raise RenderError(msg)
        if CELL.search(line.text):
            msg = (
                f"{line.place}: a cell that is to be executed. The paper computes nothing: let "
                "a stage compute it and the template print it."
            )
            raise RenderError(msg)


def _refuse(source: Source, pattern: str, what: str, *, occurrence: int = 1) -> NoReturn:
    """Raise the error about the line in which a pattern stands."""
    msg = f"{source.find(pattern, occurrence=occurrence)}: {what}"
    raise RenderError(msg)


def _label(name: str, sign: str = "#") -> str:
    """Return the pattern of a label where it is given, or with ``@`` where it is referred to."""
    return rf"{sign}{re.escape(name)}(?![\w-])"


def _check_metadata(source: Source, meta: Element) -> None:
    for key in ("format", "bibliography", "crossref", "number-sections", "execute", "filters"):
        if key in meta:
            what = f"{key} belongs in _quarto.yml, where both renderers read it. Move it."
            _refuse(source, rf"^{key}:", what)
    if "title" not in meta:
        msg = f"{source.paper}, line 1: the paper has no title. Write one in its YAML head."
        raise RenderError(msg)
    if "date" in meta and re.fullmatch(r"today|now|last-modified", _stringify(meta["date"])):
        what = "this date changes by itself. Write the day, or leave date out."
        _refuse(source, r"^date:", what)


def _elements(node: Any) -> Iterator[Element]:
    """Walk a syntax tree from top to bottom."""
    if isinstance(node, dict):
        if "t" in node:
            yield node
        for value in node.values():
            yield from _elements(value)
    elif isinstance(node, list):
        for value in node:
            yield from _elements(value)


def _stringify(node: Any) -> str:
    words = (e["c"] if e["t"] == "Str" else " " for e in _elements(node))
    return "".join(word for word in words if isinstance(word, str)).strip()


def _note(source: Source, facts: _Facts, element: Element) -> None:
    """Add what one element tells to the facts."""
    kind: str = element["t"]
    content: Any = element.get("c")
    if kind == "Header":
        level, (identifier, classes, _), _ = content
        facts.labels.append((identifier, kind))
        facts.has_section = True
        facts.has_top_section |= level == 1
        if "unnumbered" in classes:
            facts.unnumbered.add(identifier)
    elif kind in ("Figure", "Table"):
        facts.labels.append((content[0][0], kind))
        facts.captions[content[0][0]] = bool(content[1][1])
    elif kind == "Div":
        _note_div(source, facts, content)
    elif kind in ("Span", "Code", "CodeBlock"):
        facts.labels.append((content[0][0], kind))
    elif kind == "Image":
        facts.labels.append((content[0][0], kind))
        facts.images.append(content[2][0])
    elif kind in ("Para", "Plain"):
        _note_equations(facts, content)
    elif kind == "Str":
        facts.loose_labels += LABEL_WORD.findall(content)
    elif kind == "Cite":
        keys = [citation["citationId"] for citation in content[0]]
        references = [key for key in keys if KIND.match(key.lower())]
        facts.references += [key[0].lower() + key[1:] for key in references]
        facts.citations += [key for key in keys if key not in references]
        if references and len(references) < len(keys):
            facts.mixed.append(references[0])


def _note_div(source: Source, facts: _Facts, content: list[Any]) -> None:
    (identifier, classes, _), blocks = content
    facts.labels.append((identifier, "Div"))
    for name in classes:
        if name.startswith(NOT_SHARED):
            what = f".{name} is Quarto's alone. Write it in plain markdown."
            _refuse(source, rf"^:::+.*{re.escape(name)}", what)
    if KIND.match(identifier) is None:
        return
    inner = [block["t"] for block in blocks]
    wanted = ["Table", "Para"] if identifier.startswith("tbl-") else ["Para", "Para"]
    if inner != wanted:
        what = (
            f"the block {identifier} holds {', '.join(inner) or 'nothing'}. It must hold "
            "one table or one image without a caption, then the caption as a paragraph."
        )
        _refuse(source, _label(identifier), what)
    facts.captions[identifier] = True


def _note_equations(facts: _Facts, inlines: list[Element]) -> None:
    after_math = False
    for inline in inlines:
        if inline["t"] == "Math":
            after_math = inline["c"][0]["t"] == "DisplayMath"
        elif inline["t"] == "Str":
            match = EQUATION_LABEL.match(inline["c"])
            if match and after_math:
                facts.labels.append((match.group(1), "Math"))
            after_math = False
        elif inline["t"] not in ("Space", "SoftBreak"):
            after_math = False


def _check_labels(source: Source, facts: _Facts) -> None:
    if facts.has_section and not facts.has_top_section:
        what = "no section begins with a single #, so numbers would differ. Use # first."
        _refuse(source, r"^##+ ", what)
    for label, times in Counter(label for label, _ in facts.labels if label).items():
        if times > 1:
            what = f"label {label} is given {times} times. Give each its own."
            _refuse(source, _label(label), what, occurrence=2)
    attached = {label for label, _ in facts.labels}
    for label in facts.loose_labels:
        if label not in attached:
            what = f"label {label} is not attached to anything. Write {HOW[label.split('-')[0]]}."
            _refuse(source, rf"\{{#{re.escape(label)}", what)
    for label, holder in facts.labels:
        match = KIND.match(label)
        if match is None:
            continue
        kind = match.group(1)
        if holder not in HOLDERS[kind]:
            what = f"label {label} stands on a {holder}. Write {HOW[kind]}."
            _refuse(source, _label(label), what)
        if kind in ("fig", "tbl") and not facts.captions.get(label):
            _refuse(source, _label(label), f"{label} has no caption. Write {HOW[kind]}.")


def _check_references(source: Source, facts: _Facts) -> None:
    known = {label for label, _ in facts.labels if KIND.match(label)}
    numbered = bool(source.options.get("number-sections"))
    for label in facts.references:
        at = rf"{_label(label, '@')}|@(?i:{re.escape(label)})(?![\w-])"
        if label not in known:
            what = f"@{label} refers to nothing. Give the label {{#{label}}} or correct it."
            _refuse(source, at, what)
        if label.startswith("sec-") and (label in facts.unnumbered or not numbered):
            what = f"@{label} refers to a section without a number. Number it, or link it."
            _refuse(source, at, what)
    for label in facts.mixed:
        what = (
            f"one bracket holds a citation and the reference @{label}. Quarto would drop "
            "the citation: write two brackets with a word between."
        )
        _refuse(source, rf"\[[^\]]*{_label(label, '@')}", what)
    for label, _ in facts.labels:
        if label.startswith(("fig-", "tbl-")) and label not in facts.references:
            what = f"no sentence refers to {label}. Write @{label} where it is discussed."
            _refuse(source, _label(label), what)


def _check_images(source: Source, facts: _Facts) -> list[str]:
    names = []
    for target in facts.images:
        place = source.find(re.escape(target) + "|" + re.escape(unquote(target)))
        if re.match(r"[a-z]+:|//", target) or target.startswith("/"):
            msg = (
                f'{place}: figure "{target}" is not a path from the paper\'s folder. Nothing is '
                "fetched while rendering: put the file in the project."
            )
            raise RenderError(msg)
        names.append(_existing(source, unquote(target), f"{place}: figure"))
    return names


def _check_option_files(source: Source) -> list[str]:
    names = []
    html = format_options(source.options, "html")
    for key, value in (
        ("bibliography", source.options.get("bibliography")),
        ("csl", source.options.get("csl")),
        ("css", html.get("css")),
    ):
        names += [_existing(source, name, f"_quarto.yml: {key}") for name in as_list(value)]
    return names


def _existing(source: Source, name: str, what: str) -> str:
    path = local_path(source.project, name)
    if path is None or not (source.project / path).is_file():
        msg = (
            f'{what} "{name}" does not exist in the project. Correct the path, or run the stage '
            "that writes it."
        )
        raise RenderError(msg)
    return name


def _check_citations(source: Source, facts: _Facts, *, folder: Path) -> None:
    names = as_list(source.options.get("bibliography"))
    texts = [(source.project / name).read_text(encoding="utf-8") for name in names]
    keys = read_citation_keys("\n".join(texts), folder=folder) if names else set()
    for key in facts.citations:
        if key not in keys and key != "*":
            what = (
                f"citation @{key} is not in {', '.join(names) or 'any bibliography'}. "
                "Correct the key or add the entry."
            )
            _refuse(source, rf"@\{{?{re.escape(key)}(?![\w-])", what)
