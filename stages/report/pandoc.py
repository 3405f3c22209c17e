"""Render the paper by the pandoc and the typst that come as Python wheels."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pypandoc
import typst

from stages.base.errors import RenderError
from stages.report import programs
from stages.report.source import Source, format_options

ASSETS = Path(__file__).parent / "assets"
FIGURE_FONTS = Path(mpl.get_data_path()) / "fonts" / "ttf"
"""Of the text in figures, which is text in SVG; those of the page come with typst."""
METADATA_FILE = "_metadata.json"
# Keys of _quarto.yml that are Quarto's or a command line option of pandoc, not metadata.
NOT_METADATA = frozenset({"project", "format", "css", "filters", "include-in-header", "minimal"})


def bundled_pandoc() -> Path:
    """Return the pandoc of the wheel, never one that happens to be installed beside it."""
    return Path(pypandoc.__file__).parent / "files" / "pandoc"


def run_pandoc(arguments: Sequence[str], text: str, *, folder: Path) -> str:
    """Run pandoc on a text in a folder and return what it writes.

    Parameters
    ----------
    arguments
        Options; paths in them are relative to `folder`.
    text
        The document, given on standard input.
    folder
        Working folder; also stands for the home folder, so that no person's own templates or
        filters are picked up.

    Returns
    -------
    str
        Standard output.

    Raises
    ------
    RenderError
        If pandoc fails.
    """
    environment = {
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder),
        "LANG": "C.UTF-8",
        "PATH": os.defpath,
        "SOURCE_DATE_EPOCH": "0",
    }
    command = [str(bundled_pandoc()), *arguments]
    return programs.run(command, folder=folder, environment=environment, text=text).stdout


def read_document(text: str, *, folder: Path) -> dict[str, Any]:
    """Parse markdown to pandoc's syntax tree."""
    made = run_pandoc(["--from=markdown", "--to=json"], text, folder=folder)
    tree: dict[str, Any] = json.loads(made)
    return tree


def read_citation_keys(bibliography: str, *, folder: Path) -> set[str]:
    """Return the keys of a BibLaTeX text."""
    made = run_pandoc(["--from=biblatex", "--to=csljson"], bibliography, folder=folder)
    return {entry["id"] for entry in json.loads(made)}


def render_with_pandoc(source: Source, *, folder: Path) -> tuple[Path, Path]:
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
        The HTML and the PDF file, both in `folder`.

    Raises
    ------
    RenderError
        If pandoc or typst fails.
    """
    return _render_html(source, folder=folder), _render_pdf(source, folder=folder)


def _render_html(source: Source, *, folder: Path) -> Path:
    options = format_options(source.options, "html")
    arguments = [
        "--to=html5",
        "--embed-resources",
        "--section-divs",
        "--mathml",
        *(f"--css={css}" for css in as_list(options.get("css"))),
    ]
    if options.get("html-math-method", "mathml") != "mathml":
        msg = "html-math-method is not mathml. The page must not fetch scripts; set it to mathml."
        raise RenderError(msg)
    html = folder / "paper.html"
    html.write_text(_convert(source, arguments, options, folder=folder), encoding="utf-8")
    return html


def _render_pdf(source: Source, *, folder: Path) -> Path:
    options = format_options(source.options, "typst")
    # --include-in-header would put them in the place of what the paper's filter adds there.
    styles = [(folder / name).read_text("utf-8") for name in as_list(options["include-in-header"])]
    arguments = [
        "--to=typst",
        f"--template={ASSETS / 'template.typ'}",
        *(f"--variable=style:{style}" for style in styles),
    ]
    document = folder / "_document.typ"
    document.write_text(_convert(source, arguments, options, folder=folder), encoding="utf-8")
    pdf = folder / "paper.pdf"
    try:
        compiler = typst.Compiler(
            input=str(document),
            root=str(folder),
            # Fonts that typst brings along, and those of the figures: the same pages everywhere.
            font_paths=typst.Fonts(include_system_fonts=False, font_paths=[FIGURE_FONTS]),
            ignore_system_fonts=True,
            package_path=str(folder),
            package_cache_path=str(folder),
        )
        compiler.compile(output=str(pdf), format="pdf", timestamp=0)
    except typst.TypstError as error:
        reason = " ".join(str(part) for part in (error.message, *error.hints))
        msg = f"typst failed: {' '.join(reason.split())}"
        raise RenderError(msg) from error
    return pdf


def _convert(
    source: Source, arguments: Sequence[str], options: Mapping[str, Any], *, folder: Path
) -> str:
    metadata = {key: value for key, value in options.items() if key not in NOT_METADATA}
    (folder / METADATA_FILE).write_text(json.dumps(metadata), encoding="utf-8")
    arguments = [*arguments, *(f"--lua-filter={file}" for file in as_list(options.get("filters")))]
    toc = [f"--toc-depth={options.get('toc-depth', 3)}"]
    if options.get("toc"):
        toc.append("--toc")
    if options.get("number-sections"):
        toc.append("--number-sections")
    common = f"--defaults={ASSETS / 'pandoc.yaml'}"
    return run_pandoc([common, *toc, *arguments], source.text, folder=folder)


def as_list(value: Any) -> list[Any]:
    """Return a YAML value that may be one thing or a list as a list; none is the empty list."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
