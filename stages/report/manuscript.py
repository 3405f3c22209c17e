"""Write the source of the paper: templates, filled from the tables of the study.

``reports/paper.qmd`` is the paper with plain numbers and tables in it; `render` makes pages of it.
What the inputs have nothing of, the templates say.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.base import cli, study
from stages.base.files import write_text
from stages.base.settings import Settings, load
from stages.measurement.resampling import SIGNIFICANT
from stages.report import cells, clusters, heads, planted
from stages.report.claims import printed
from stages.report.comparisons import Row
from stages.report.reading import Tables
from stages.report.writing import Templates

PAPERS = {"study": "paper.qmd.j2", "cells": "cells.qmd.j2", "heads": "heads.qmd.j2"}
"""The template of a paper on both systems, or on one alone."""


def context(
    found: Tables,
    settings: Settings,
    what: tuple[study.Study | None, study.Study | None],
    overrides: Mapping[str, str],
) -> Row:
    """Return all that the templates may name.

    Parameters
    ----------
    found
        The tables.
    settings
        All settings.
    what
        The inputs: of cells, and of heads; None where the paper is not about them.
    overrides
        Settings that were changed for this run, and to what.
    """
    of_cells, of_heads = what
    made: Row = {"settings": settings, "overrides": overrides, "significant": SIGNIFICANT}
    if of_cells is not None:
        of_clusters = clusters.context(found, settings, of_cells)
        made |= cells.context(found, settings, of_cells) | of_clusters
        made["planted"] = planted.context(found, of_clusters, settings)
    if of_heads is not None:
        made |= heads.context(found, settings)
    if of_cells is not None and of_heads is not None:
        made["plane"] = heads.plane(found)
        made["claims"] = printed.context(found.claims)
        return made | {"notice": study.joined(of_cells, of_heads).notice}
    return made | {"notice": "".join(one.notice for one in what if one is not None)}


def _run(args: argparse.Namespace) -> None:
    overrides = json.loads(args.overrides.read_text(encoding="utf-8"))
    found = Tables(args.tables, args.planted)
    what = study.read(args.cells), study.read(args.heads)
    of_cells, of_heads = (args.about in {"study", name} for name in ("cells", "heads"))
    about = (what[0] if of_cells else None, what[1] if of_heads else None)
    values = context(found, load(args.params), about, overrides)
    paper = Templates().fill(PAPERS[args.about], values)
    write_text(args.paper, paper)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    study.add_arguments(parser)
    parser.add_argument("--overrides", type=Path, required=True)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--planted", type=Path, help="what was simulated")
    parser.add_argument("--about", choices=PAPERS, default="study", help="default: %(default)s")
    parser.add_argument("--paper", type=Path, required=True, help="the source of the paper")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
