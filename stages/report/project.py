"""Copy what a manuscript needs, and only that, to a folder where a renderer may work."""

import html
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stages.report.source import QUARTO_FILE, Source

FILTERS = Path(__file__).parent / "filters"
ASSETS = Path(__file__).parent / "assets"
# _quarto.yml names these three; they exist only in the copy.
NOTICE_HTML = "_notice.html"
NOTICE_TYPST = "_notice.typ"
STYLE_TYPST = "_style.typ"


def format_options(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the options of one format: those of the project, overridden by its own."""
    formats = options.get("format") or {}
    own = formats.get(name) if isinstance(formats, Mapping) else None
    shared = {key: value for key, value in options.items() if key != "format"}
    return shared | (dict(own) if isinstance(own, Mapping) else {})


def stage_project(source: Source, resources: Iterable[str], *, folder: Path) -> None:
    """Copy a project to `folder`, its text whole, with the notice and the PDF style beside it.

    Parameters
    ----------
    source
        The manuscript.
    resources
        Paths inside the project that it uses: figures, bibliography, style sheets.
    folder
        An empty folder.
    """
    for name in dict.fromkeys((QUARTO_FILE, *resources)):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.project / name, target)
    (folder / source.paper).write_text(source.text, encoding="utf-8")
    (folder / NOTICE_HTML).write_text(notice_html(source.notice), encoding="utf-8")
    (folder / NOTICE_TYPST).write_text(notice_typst(source.notice), encoding="utf-8")
    shutil.copyfile(ASSETS / "style.typ", folder / STYLE_TYPST)


def notice_html(notice: str) -> str:
    """Return the banner of the page; nothing for an empty notice."""
    return f'<div class="notice" role="note">{html.escape(notice)}</div>\n' if notice else ""


def notice_typst(notice: str) -> str:
    r"""Return the header line of every page; nothing for an empty notice.

    >>> notice_typst('Say "no".')
    '#set page(header: align(center, text(size: 8.5pt, fill: rgb("#92400e"), "Say \\"no\\".")))\n'
    """
    if not notice:
        return ""
    quoted = notice.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    text = f'text(size: 8.5pt, fill: rgb("#92400e"), "{quoted}")'
    return f"#set page(header: align(center, {text}))\n"
