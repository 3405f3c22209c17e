"""Find what a paper refers to and does not have, before any renderer runs.

Quarto prints a question mark for an unknown reference and ends well. Here each is an
error, whichever renderer is used, and it names the line to look at.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from stages.base.errors import RenderError
from stages.report.pandoc import as_list, read_citation_keys, read_document
from stages.report.source import Source, format_options, local_path

KIND = re.compile(r"(fig|tbl|eq|sec)-")
LABEL_WORD = re.compile(r"\{#((?:fig|tbl|eq|sec)-[^} ]*)")
EQUATION_LABEL = re.compile(r"^\{#(eq-[^} ]+)\}")
# ```{python} opens a cell, `{python} x` is a computed value; ```{.python} is only shown.
CELL = re.compile(r"^\s*(?:```+|~~~+)\s*\{[A-Za-z]|`\{(?:python|r|julia|ojs)\} ")
HOLDERS = {"fig": ("Figure", "Div"), "tbl": ("Table", "Div"), "eq": ("Math",), "sec": ("Header",)}
HOW = {
    "fig": "![Caption](figures/name.png){#fig-name} in a paragraph of its own",
    "tbl": ": Caption {#tbl-name} under the table, with an empty line between",
    "eq": "$$ ... $$ {#eq-name}",
    "sec": "# Title {#sec-name}",
}
NOT_SHARED = ("callout-", "panel-tabset", "column-", "content-visible", "content-hidden")

Element = dict[str, Any]
Faults = Iterator[tuple[str, str]]
"""What is wrong, after the pattern of the place where it stands."""


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
    levels: list[int] = field(default_factory=list)
    blocks: list[tuple[str, list[str], list[str]]] = field(default_factory=list)


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
        The files that the paper uses besides its text: figures, bibliography, style sheets,
        filters.

    Raises
    ------
    RenderError
        At the first fault: an unknown label, citation or file; a label given twice, not attached
        to anything or never referred to; something that only one renderer understands.
    """
    _check_lines(source)
    tree = read_document(source.text, folder=folder)
    facts = _Facts()
    for element in _elements([tree["meta"], tree["blocks"]]):
        _note(facts, element)
    _check_given_once(source, facts)
    faults = (_of_metadata(tree["meta"]), _of_blocks(facts), _of_labels(facts))
    for pattern, what in chain(*faults, _of_references(source, facts)):
        msg = f"{source.find(pattern)}: {what}"
        raise RenderError(msg)
    figures = _check_images(source, facts)
    other = _check_option_files(source)
    _check_citations(source, facts, folder=folder)
    return tuple(dict.fromkeys((*figures, *other)))


def _check_lines(source: Source) -> None:
    for line in source.lines:
        what = ""
        if "{{<" in line.text or ">}}" in line.text:
            what = "a shortcode that is no include of the paper on a line of its own"
        elif CELL.search(line.text):
            what = "a cell that is to be executed"
        if what:
            msg = f"{line.place}: {what}. The paper computes nothing: print values by a template."
            raise RenderError(msg)


def _check_given_once(source: Source, facts: _Facts) -> None:
    for label, times in Counter(label for label, _ in facts.labels if label).items():
        if times > 1:
            place = source.find(_label(label), occurrence=2)
            msg = f"{place}: label {label} is given {times} times. Give each its own."
            raise RenderError(msg)


def _label(name: str, sign: str = "#") -> str:
    """Return the pattern of a label where it is given, or with ``@`` where it is referred to."""
    return rf"{sign}{re.escape(name)}(?![\w-])"


def _of_metadata(meta: Element) -> Faults:
    for key in ("format", "bibliography", "crossref", "number-sections", "execute", "filters"):
        if key in meta:
            yield (
                rf"^{key}:",
                f"{key} belongs in _quarto.yml, where both renderers read it. Move it.",
            )
    if "title" not in meta:
        yield "^", "the paper has no title. Write one in its YAML head."
    if "notice" not in meta:
        what = (
            'the paper has no "notice". Write in its YAML head the sentence that simulated data '
            'must carry, or notice: "" for data that are real.'
        )
        yield "^", what
    if "date" in meta and re.fullmatch(r"today|now|last-modified", _stringify(meta["date"])):
        yield r"^date:", "this date changes by itself. Write the day, or leave date out."


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


def _note(facts: _Facts, element: Element) -> None:
    """Add what one element tells to the facts."""
    kind: str = element["t"]
    content: Any = element.get("c")
    if kind == "Header":
        level, (identifier, classes, _), _ = content
        facts.labels.append((identifier, kind))
        facts.levels.append(level)
        if "unnumbered" in classes:
            facts.unnumbered.add(identifier)
    elif kind in ("Figure", "Table"):
        facts.labels.append((content[0][0], kind))
        facts.captions[content[0][0]] = bool(content[1][1])
    elif kind == "Div":
        (identifier, classes, _), blocks = content
        facts.labels.append((identifier, kind))
        facts.blocks.append((identifier, classes, [block["t"] for block in blocks]))
    elif kind in ("Span", "Code", "CodeBlock", "Image"):
        facts.labels.append((content[0][0], kind))
        facts.images += [content[2][0]] if kind == "Image" else []
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


def _of_blocks(facts: _Facts) -> Faults:
    for identifier, classes, inner in facts.blocks:
        for name in classes:
            if name.startswith(NOT_SHARED):
                yield (
                    rf"^:::+.*{re.escape(name)}",
                    f".{name} is Quarto's alone. Write it in plain markdown.",
                )
        wanted = ["Table", "Para"] if identifier.startswith("tbl-") else ["Para", "Para"]
        if KIND.match(identifier) and inner != wanted:
            what = (
                f"the block {identifier} holds {', '.join(inner) or 'nothing'}. It must hold "
                "one table or one image without a caption, then the caption as a paragraph."
            )
            yield _label(identifier), what
        facts.captions[identifier] = True


def _of_labels(facts: _Facts) -> Faults:
    if facts.levels and min(facts.levels) > 1:
        yield r"^##+ ", "no section begins with a single #, so numbers would differ. Use # first."
    attached = {label for label, _ in facts.labels}
    for label in facts.loose_labels:
        if label not in attached:
            yield (
                rf"\{{#{re.escape(label)}",
                f"label {label} is not attached to anything. Write {HOW[label.split('-')[0]]}.",
            )
    for label, holder in facts.labels:
        if match := KIND.match(label):
            kind = match.group(1)
            if holder not in HOLDERS[kind]:
                yield _label(label), f"label {label} stands on a {holder}. Write {HOW[kind]}."
            if kind in ("fig", "tbl") and not facts.captions.get(label):
                yield _label(label), f"{label} has no caption. Write {HOW[kind]}."


def _of_references(source: Source, facts: _Facts) -> Faults:
    known = {label for label, _ in facts.labels if KIND.match(label)}
    numbered = bool(source.options.get("number-sections"))
    for label in facts.references:
        at = rf"{_label(label, '@')}|@(?i:{re.escape(label)})(?![\w-])"
        if label not in known:
            yield at, f"@{label} refers to nothing. Give the label {{#{label}}} or correct it."
        if label.startswith("sec-") and (label in facts.unnumbered or not numbered):
            yield at, f"@{label} refers to a section without a number. Number it, or link it."
    for label in facts.mixed:
        what = (
            f"one bracket holds a citation and the reference @{label}. Quarto would drop "
            "the citation: write two brackets with a word between."
        )
        yield rf"\[[^\]]*{_label(label, '@')}", what
    for label, _ in facts.labels:
        if label.startswith(("fig-", "tbl-")) and label not in facts.references:
            yield (
                _label(label),
                f"no sentence refers to {label}. Write @{label} where it is discussed.",
            )


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
    return [
        _existing(source, name, f"_quarto.yml: {key}")
        for options in (format_options(source.options, name) for name in ("html", "typst"))
        for key in ("bibliography", "csl", "css", "filters", "include-in-header")
        for name in as_list(options.get(key))
    ]


def _existing(source: Source, name: str, what: str) -> str:
    path = local_path(source.project, name)
    if path is None or not (source.project / path).is_file():
        msg = f'{what} "{name}" does not exist in the project. Correct the path, or dvc repro.'
        raise RenderError(msg)
    return name


def _check_citations(source: Source, facts: _Facts, *, folder: Path) -> None:
    names = as_list(source.options.get("bibliography"))
    texts = [(source.project / name).read_text(encoding="utf-8") for name in names]
    keys = read_citation_keys("\n".join(texts), folder=folder) if names else set()
    for key in facts.citations:
        if key not in keys and key != "*":
            place = source.find(rf"@\{{?{re.escape(key)}(?![\w-])")
            files = ", ".join(names) or "any bibliography"
            msg = f"{place}: citation @{key} is not in {files}. Correct the key or add the entry."
            raise RenderError(msg)
