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
from stages.report import (
    cell_model,
    cells,
    clusters,
    features,
    heads,
    maturing,
    operators,
    pairs,
    planted,
    spectra,
)
from stages.report.claims import printed
from stages.report.comparisons import Row
from stages.report.reading import Tables
from stages.report.writing import Templates

PAPERS = {"study": "paper.qmd.j2", "cells": "cells.qmd.j2", "heads": "heads.qmd.j2"}
"""The template of a paper on both systems, or on one alone."""


def context(
    found: Tables,
    settings: Settings,
    what: tuple[study.Study | None, study.Study | None, study.Study | None],
    overrides: Mapping[str, str],
    seeds: Path | None = None,
) -> Row:
    """Return all that the templates may name.

    Parameters
    ----------
    found
        The tables.
    settings
        All settings.
    what
        The inputs: of cells, of heads, and of heads of a model of cells; None where the paper is
        not about them.
    overrides
        Settings that were changed for this run, and to what.
    seeds
        Folder of further trainings.
    """
    of_cells, of_heads, of_cell_model = what
    made: Row = {"settings": settings, "overrides": overrides, "significant": SIGNIFICANT}
    if of_cells is not None:
        of_clusters = clusters.context(found, settings, of_cells)
        made |= cells.context(found, settings, of_cells) | of_clusters
        made["planted"] = planted.context(found, of_clusters, settings)
    if of_heads is not None:
        made |= heads.context(found, settings)
    made["cell_model"] = {} if of_cell_model is None else cell_model.context(found, settings)
    made["operators"] = {} if of_cell_model is None else operators.context(found)
    if of_cells is not None and of_heads is not None:
        made["pairs"] = pairs.context(found, settings)
        made["plane"] = heads.plane(found)
        made["spectra"] = spectra.context(found, of_genes=of_cell_model is not None)
        traced = settings.features.of == "model" or of_cell_model is not None
        made["features"] = features.context(found, settings) if traced else {}
        made["maturing"] = maturing.context(found, made, settings, seeds)
        made["claims"] = printed.context(found.claims)
        return made | {"notice": study.joined(*(one for one in what if one is not None)).notice}
    return made | {"notice": "".join(one.notice for one in what if one is not None)}


def _run(args: argparse.Namespace) -> None:
    overrides = json.loads(args.overrides.read_text(encoding="utf-8"))
    found = Tables(args.tables, args.planted)
    settings = load(args.params)
    of_cells, of_heads = (
        study.read(path) if args.about in {"study", name} else None
        for name, path in (("cells", args.cells), ("heads", args.heads))
    )
    of_cell_model = None
    if args.about == "study" and settings.cellmodel.checkpoints:
        of_cell_model = study.read(args.cellmodel)
    values = context(found, settings, (of_cells, of_heads, of_cell_model), overrides, args.seeds)
    paper = Templates().fill(PAPERS[args.about], values)
    write_text(args.paper, paper)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    study.add_arguments(parser)
    parser.add_argument("--cellmodel", type=Path, help="what the model of cells is")
    parser.add_argument("--overrides", type=Path, required=True)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--planted", type=Path, help="what was simulated")
    parser.add_argument("--seeds", type=Path, help="folder of further trainings")
    parser.add_argument("--about", choices=PAPERS, default="study", help="default: %(default)s")
    parser.add_argument("--paper", type=Path, required=True, help="the source of the paper")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
