"""Compare old with young over Leiden clusters of whole tissues, from coarse to fine.

Original steps 10, 11 and 13. An entry of the settings names cohorts and tissues; each tissue is
clustered at every resolution, all from one graph, so that a direction can be followed over
granularity. ``replication`` asks whether the directions of several tissues hold in another cohort;
``curve`` takes one tissue at many more resolutions, so that its change of direction is a curve with
intervals and not a few points.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import pandas as pd

from stages.base import cli, tables
from stages.base.errors import SettingsError
from stages.base.settings import Settings, load
from stages.cells import clustering, over_clusters
from stages.cells.settings import Granularity
from stages.cells.tables.clusters import CLUSTER_CONTRAST, CLUSTER_METRICS

FAMILIES = {
    "tissues": ["cohort", "platform", "resolution"],
    "resolutions": ["cohort", "platform", "tissue"],
}
"""By what p-values are adjusted over: what those of one family have in common."""


def granularity(
    graphs: Sequence[ad.AnnData], settings: Settings, rules: Granularity, *, scratch: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure and compare each tissue at each resolution.

    Parameters
    ----------
    graphs
        Of neighbours, one a tissue of a cohort on a platform.
    scratch
        Folder of finished clusterings.

    Returns
    -------
    metrics, comparison
        ``CLUSTER_METRICS`` and ``CLUSTER_CONTRAST``, without rows where there is no graph.
    """
    if not graphs:
        return tables.empty(CLUSTER_METRICS), tables.empty(CLUSTER_CONTRAST)
    clusters = settings.clusters
    resolutions = sorted({*clusters.resolutions, *rules.resolutions})
    measured = pd.concat(
        [
            over_clusters.measure(
                graph, resolutions, leiden=settings.leiden, settings=clusters, scratch=scratch
            )
            for graph in graphs
        ],
        ignore_index=True,
    )
    family = FAMILIES[rules.adjusted_over]
    return measured, over_clusters.compare(measured, clusters.contrast, family=family)


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    if args.entry not in settings.granularity:
        allowed = ", ".join(settings.granularity) or "none"
        msg = f"granularity has no entry {args.entry!r} in {args.params}: allowed are {allowed}."
        raise SettingsError(msg)
    rules = settings.granularity[args.entry]
    keys = over_clusters.graphs_of(settings, rules.cohorts, rules.tissues, rules.otherwise)
    graphs = [clustering.read_graph(args.graphs / f"{key}.h5ad") for key in keys]
    measured, compared = granularity(graphs, settings, rules, scratch=args.scratch)
    tables.write(measured, CLUSTER_METRICS, args.metrics)
    tables.write(compared, CLUSTER_CONTRAST, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--entry", required=True, help="key of granularity in the settings")
    parser.add_argument("--graphs", type=Path, required=True, help="the folder of the graphs")
    clustering.add_scratch(parser)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
