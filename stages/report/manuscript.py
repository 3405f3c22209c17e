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


def context(
    found: Tables,
    settings: Settings,
    what: tuple[study.Study, study.Study],
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
        The inputs: of cells, and of heads.
    overrides
        Settings that were changed for this run, and to what.
    """
    of_clusters = clusters.context(found, settings, what[0])
    return {
        "settings": settings,
        "notice": study.joined(*what).notice,
        "overrides": overrides,
        "significant": SIGNIFICANT,
        **cells.context(found, settings, what[0]),
        **of_clusters,
        "planted": planted.context(found, of_clusters, settings),
        **heads.context(found, settings),
        "claims": printed.context(found.claims),
    }


def _run(args: argparse.Namespace) -> None:
    overrides = json.loads(args.overrides.read_text(encoding="utf-8"))
    found = Tables(args.tables, args.planted)
    what = study.read(args.cells), study.read(args.heads)
    values = context(found, load(args.params), what, overrides)
    paper = Templates().fill("paper.qmd.j2", values)
    write_text(args.paper, paper)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    study.add_arguments(parser)
    parser.add_argument("--overrides", type=Path, required=True)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--planted", type=Path, required=True, help="what was simulated")
    parser.add_argument("--paper", type=Path, required=True, help="the source of the paper")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
