"""Find what a paper refers to and does not have, before any renderer runs.

Quarto prints a question mark for an unknown value or reference and ends well. Here each is an
error, whichever renderer is used, and it names the line to look at.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from stages.base.errors import RenderError
from stages.report.numerals import check_numbers
from stages.report.pandoc import as_list, read_citation_keys, read_document
from stages.report.project import format_options
from stages.report.source import INCLUDE, NAME, VARIABLE, Source, local_path

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
        At the first fault: an unknown value, label, citation or file; a label given twice, not
        attached to anything or never referred to; something that only one renderer understands; a
        number typed into the text.
    """
    _check_shortcodes(source)
    _check_cells(source)
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
    check_numbers(source)
    return tuple(dict.fromkeys((*figures, *other)))


def _check_shortcodes(source: Source) -> None:
    for line in source.lines:
        for match in VARIABLE.finditer(line.text):
            if match.group(1) not in source.variables:
                msg = (
                    f"{line.place}: no value {match.group(1)} in _variables.yml. Correct the "
                    "name, or let the stage of the values write it."
                )
                raise RenderError(msg)
        rest = INCLUDE.sub("", VARIABLE.sub("", line.text))
        if "{{<" in rest or ">}}" in rest:
            msg = (
                f"{line.place}: a shortcode that is not {{{{< var name >}}}} or "
                f"{{{{< include file >}}}} on one line. Names are letters, digits and _ joined "
                f"by dots ({NAME})."
            )
            raise RenderError(msg)


def _check_cells(source: Source) -> None:
    for line in source.lines:
        if CELL.search(line.text):
            msg = (
                f"{line.place}: a cell that is to be executed. The paper computes nothing: write "
                "the value to _variables.yml or the table to an include."
            )
            raise RenderError(msg)


def _check_metadata(source: Source, meta: Element) -> None:
    for key in ("format", "bibliography", "crossref", "number-sections", "execute", "filters"):
        if key in meta:
            place = source.find(rf"^{key}:")
            msg = f"{place}: {key} belongs in _quarto.yml, where both renderers read it. Move it."
            raise RenderError(msg)
    if "title" not in meta:
        msg = f"{source.paper}, line 1: the paper has no title. Write one in its YAML head."
        raise RenderError(msg)
    if "date" in meta and re.fullmatch(r"today|now|last-modified", _stringify(meta["date"])):
        place = source.find(r"^date:")
        msg = f"{place}: this date changes by itself. Write the day, or leave date out."
        raise RenderError(msg)


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
            place = source.find(rf"^:::+.*{re.escape(name)}")
            msg = f"{place}: .{name} is Quarto's alone. Write it in plain markdown."
            raise RenderError(msg)
    if KIND.match(identifier) is None:
        return
    inner = [block["t"] for block in blocks]
    wanted = ["Table", "Para"] if identifier.startswith("tbl-") else ["Para", "Para"]
    if inner != wanted:
        place = source.find(rf"#{re.escape(identifier)}(?![\w-])")
        msg = (
            f"{place}: the block {identifier} holds {', '.join(inner) or 'nothing'}. It must hold "
            "one table or one image without a caption, then the caption as a paragraph."
        )
        raise RenderError(msg)
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
        place = source.find(r"^##+ ")
        msg = f"{place}: no section begins with a single #, so numbers would differ. Use # first."
        raise RenderError(msg)
    for label, times in Counter(label for label, _ in facts.labels if label).items():
        if times > 1:
            place = source.find(rf"#{re.escape(label)}(?![\w-])", occurrence=2)
            msg = f"{place}: label {label} is given {times} times. Give each its own."
            raise RenderError(msg)
    attached = {label for label, _ in facts.labels}
    for label in facts.loose_labels:
        if label not in attached:
            place = source.find(rf"\{{#{re.escape(label)}")
            kind = label.split("-")[0]
            msg = f"{place}: label {label} is not attached to anything. Write {HOW[kind]}."
            raise RenderError(msg)
    for label, holder in facts.labels:
        match = KIND.match(label)
        if match is None:
            continue
        kind, place = match.group(1), source.find(rf"#{re.escape(label)}(?![\w-])")
        if holder not in HOLDERS[kind]:
            msg = f"{place}: label {label} stands on a {holder}. Write {HOW[kind]}."
            raise RenderError(msg)
        if kind in ("fig", "tbl") and not facts.captions.get(label):
            msg = f"{place}: {label} has no caption. Write {HOW[kind]}."
            raise RenderError(msg)


def _check_references(source: Source, facts: _Facts) -> None:
    known = {label for label, _ in facts.labels if KIND.match(label)}
    numbered = bool(source.options.get("number-sections"))
    for label in facts.references:
        place = source.find(rf"@{re.escape(label)}(?![\w-])|@(?i:{re.escape(label)})(?![\w-])")
        if label not in known:
            msg = f"{place}: @{label} refers to nothing. Give the label {{#{label}}} or correct it."
            raise RenderError(msg)
        if label.startswith("sec-") and (label in facts.unnumbered or not numbered):
            msg = f"{place}: @{label} refers to a section without a number. Number it, or link it."
            raise RenderError(msg)
    for label in facts.mixed:
        place = source.find(rf"\[[^\]]*@{re.escape(label)}(?![\w-])")
        msg = (
            f"{place}: one bracket holds a citation and the reference @{label}. Quarto would drop "
            "the citation: write two brackets with a word between."
        )
        raise RenderError(msg)
    for label, _ in facts.labels:
        if label.startswith(("fig-", "tbl-")) and label not in facts.references:
            place = source.find(rf"#{re.escape(label)}(?![\w-])")
            msg = f"{place}: no sentence refers to {label}. Write @{label} where it is discussed."
            raise RenderError(msg)


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
            place = source.find(rf"@\{{?{re.escape(key)}(?![\w-])")
            msg = (
                f"{place}: citation @{key} is not in {', '.join(names) or 'any bibliography'}. "
                "Correct the key or add the entry."
            )
            raise RenderError(msg)
