"""Follow the direction of one tissue over granularity: the curve behind the flip of the kidney.

Original step 13, the symmetry test: every cohort's kidney at the resolutions of the validation, and
at more of them, so that the change of direction is a curve with intervals and not five points. The
p-values of one cohort and platform are adjusted over the resolutions.
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
    kidney, clusters = settings.kidney, settings.clusters
    measured, compared = granularity.over_resolutions(
        args.graphs,
        settings,
        cohorts=kidney.cohorts,
        tissues=[kidney.tissue],
        resolutions=sorted({*clusters.resolutions, *kidney.curve}),
        family=["cohort", "platform"],
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
