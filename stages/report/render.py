"""Render the manuscript to one HTML page and one PDF, by the bundled wheels or by Quarto.

The wheels are pinned, so that the pages have the same bytes wherever they are made, and the page
says who made it; Quarto renders where `render.renderer` asks for it, and not because it happens to
be installed. The source is checked first, whichever renderer follows. Both work in a temporary copy
that holds only the files the paper uses; the two results appear in the output folder together or
not at all.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from stages.base import cli
from stages.base.files import atomic_path
from stages.base.settings import load
from stages.report.check import check_source
from stages.report.pandoc import bundled_pandoc, render_with_pandoc
from stages.report.quarto import find_quarto, quarto_version, render_with_quarto
from stages.report.settings import Renderer
from stages.report.source import read_source, stage_project


def render(project: Path, paper: str, *, out_dir: Path, renderer: Renderer) -> tuple[Path, Path]:
    """Check a manuscript and render it to HTML and PDF.

    Parameters
    ----------
    project
        The folder of ``_quarto.yml``.
    paper
        The name of the document in it.
    out_dir
        Where the two files are put; made if missing.
    renderer
        Who renders.

    Returns
    -------
    tuple of Path
        The HTML and the PDF file.

    Raises
    ------
    stages.base.errors.RenderError
        If the source refers to something that does not exist, or the renderer fails.
    """
    source = read_source(project, paper)
    stem = Path(paper).stem
    with tempfile.TemporaryDirectory(prefix="paper-") as temporary:
        scratch, folder = Path(temporary) / "check", Path(temporary) / "project"
        scratch.mkdir()
        folder.mkdir()
        resources = check_source(source, folder=scratch)
        stage_project(source, resources, folder=folder)
        cli.log.info("rendering %s with %s", paper, _describe(renderer))
        if renderer is Renderer.QUARTO:
            results = render_with_quarto(source, folder=folder)
        else:
            results = render_with_pandoc(source, folder=folder)
        targets = (out_dir / f"{stem}.html", out_dir / f"{stem}.pdf")
        # Both copies are complete before either is moved into place.
        with ExitStack() as stack:
            for result, target in zip(results, targets, strict=True):
                shutil.copyfile(result, stack.enter_context(atomic_path(target)))
    for target in targets:
        cli.log.info("wrote %s", target)
    return targets


def _describe(renderer: Renderer) -> str:
    program = find_quarto()
    if renderer is Renderer.QUARTO and program is not None:
        return f"Quarto {quarto_version(program)}"
    wheels = (f"{name} {version(name)}" for name in ("pypandoc_binary", "typst"))
    return f"{bundled_pandoc().name} and typst from the wheels {', '.join(wheels)}"


def _run(args: argparse.Namespace) -> None:
    renderer = load(args.params).render.renderer
    render(args.project, args.paper, out_dir=args.out_dir, renderer=renderer)


def main(argv: Sequence[str] | None = None) -> int:
    """Render the paper; return the exit status."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--project", type=Path, required=True, help="the folder of _quarto.yml")
    parser.add_argument("--paper", default="paper.qmd", help="its document (default: %(default)s)")
    parser.add_argument("--out-dir", type=Path, required=True, help="where HTML and PDF are put")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
