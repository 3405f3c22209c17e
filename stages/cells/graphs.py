"""List which graphs of neighbours an atlas has; an atlas may have none.

The stages after this one read the graphs that the settings name; this list lies beside them, so
that their folder is there even where there is nothing to cluster.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from stages.base import cli, tables
from stages.base.settings import load
from stages.cells.tables.graphs import GRAPHS
from stages.inputs.settings import Atlas


def listed(atlas: Atlas) -> pd.DataFrame:
    """Return ``GRAPHS``: the graphs of annotated cells, then those of libraries."""
    rows = [
        [key, atlas.cells[of.cells].cohort, atlas.cells[of.cells].platform, of.tissue]
        for key, of in atlas.graphs.items()
    ]
    rows += [[key, of.cohort, of.platform, of.tissue] for key, of in atlas.libraries.items()]
    columns = list(GRAPHS.columns)
    return pd.DataFrame(rows, columns=columns) if rows else tables.empty(GRAPHS)


def _run(args: argparse.Namespace) -> None:
    tables.write(listed(load(args.params).atlas), GRAPHS, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
