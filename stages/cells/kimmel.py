"""Validate on the cohort of Kimmel et al. 2019: direction by tissue and resolution.

Original steps 10 and 11. Kidney, lung and spleen are clustered at the same resolutions, each from
one graph; the p-values of one resolution are adjusted over the tissues.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from stages.base import cli, tables
from stages.base.settings import load
from stages.cells import granularity
from stages.cells.tables.clusters import CLUSTER_AGING, CLUSTER_METRICS


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    kimmel = settings.kimmel
    measured, compared = granularity.over_resolutions(
        args.graphs,
        settings,
        cohorts=[kimmel.cohort],
        tissues=kimmel.tissues,
        resolutions=settings.clusters.resolutions,
        family=["cohort", "platform", "resolution"],
    )
    tables.write(measured, CLUSTER_METRICS, args.metrics)
    tables.write(compared, CLUSTER_AGING, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--graphs", type=Path, required=True, help="the folder of the graphs")
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
