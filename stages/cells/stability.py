"""Ask how often a direction holds when the seed and the cells change.

The original lacks it. At each resolution the cells are clustered with several seeds, all of them
and random parts of each animal's; the neighbours of a part are looked for anew among its cells, in
the components of the stored graph. Runs that find the same clustering are one observation, not
several: a direction counts as stable where it holds in a stated share of the different ones, and
the exact interval of that share says how little a handful can show. Agreement between the seeds'
clusterings of all cells is the adjusted Rand index [1]_.

References
----------
.. [1] Hubert, L. and Arabie, P. (1985). Comparing partitions. Journal of Classification 2:193-218.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import igraph
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli, tables
from stages.base.settings import Settings, load
from stages.cells import clustering, counts, metrics, over_clusters
from stages.cells.contrast import PLANE
from stages.cells.design import design
from stages.cells.settings import Stability
from stages.cells.tables.stability import STABILITY, STABILITY_RUNS
from stages.measurement import concentration, resampling


def seeds_of(settings: Stability) -> list[int]:
    """Return the seeds of the clusterings."""
    return [settings.seed + number for number in range(settings.seeds)]


def parts_of(obs: pd.DataFrame, settings: Stability) -> list[NDArray[np.bool_]]:
    """Return which cells each subsample holds: all of them, then random parts of each animal's.

    Returns
    -------
    list of 1 + `subsamples` arrays of shape (n_cells,)
        A part holds the stated share of every animal's cells, at least one.
    """
    parts = [np.ones(len(obs), dtype=bool)]
    rng = np.random.default_rng(settings.seed)
    of_animals = [where for _, where in sorted(obs.groupby("animal").indices.items())]
    for _ in range(settings.subsamples):
        part = np.zeros(len(obs), dtype=bool)
        for where in of_animals:
            n = max(1, round(settings.cells_share * len(where)))
            part[rng.choice(where, size=n, replace=False)] = True
        parts.append(part)
    return parts


def agreement_of(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Return the adjusted Rand index of two clusterings: 1 if they agree, about 0 by chance.

    Examples
    --------
    >>> agreement_of(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
    1.0
    """
    index = igraph.compare_communities(first.tolist(), second.tolist(), method="adjusted_rand")
    # Of equal clusterings it may exceed 1 by rounding.
    return min(1.0, float(index))


def renamed(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return labels numbered in the order of their first cells: one labelling a clustering.

    Examples
    --------
    >>> renamed(np.array([2, 0, 2, 1])).tolist()
    [0, 1, 0, 2]
    """
    _, first, cluster = np.unique(labels, return_index=True, return_inverse=True)
    numbers: NDArray[np.int64] = np.argsort(np.argsort(first))
    return numbers[cluster]


def change(obs: pd.DataFrame, labels: NDArray[np.int64], *, components: str) -> dict[str, float]:
    """Return the change of the Gini coefficient and the effective number over clusters.

    Parameters
    ----------
    obs
        Of the cells of one tissue.
    labels : shape (n_cells,)
        Their clusters.
    components
        ``present`` or ``tissue``, as in :class:`stages.cells.settings.Metrics`.
    """
    table = counts.matrix(over_clusters.clusters_as_types(obs, labels))
    values = metrics.measure(
        table.counts, components="present" if components == "present" else "all"
    )
    found = design(table.samples)
    return {metric: float(found.change(values[metric])) for metric in PLANE}


def runs(
    graph: ad.AnnData, settings: Settings, *, scratch: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cluster one graph at every resolution, with every seed, of all cells and of parts.

    Parameters
    ----------
    scratch
        Folder of finished clusterings.

    Returns
    -------
    runs, agreement
        ``STABILITY_RUNS``; and `resolution`, `ari` of each pair of seeds on all cells.
    """
    if not over_clusters.can_be_compared(graph.obs):
        return tables.empty(STABILITY_RUNS), pd.DataFrame(columns=["resolution", "ari"])
    rules = settings.stability
    names = dict(graph.obs.iloc[0][counts.TISSUE])
    rows, agreement = [], []
    numbers: dict[tuple[int, bytes], int] = {}
    for number, part in enumerate(parts_of(graph.obs, rules)):
        among = clustering.neighbours_among(graph, part, settings.neighbours) if number else graph
        every = list(itertools.product(settings.clusters.resolutions, seeds_of(rules)))
        found = clustering.leiden_each(among, every, settings.leiden, scratch=scratch)
        labels = dict(zip(every, found, strict=True))
        for resolution in settings.clusters.resolutions:
            of_seeds = {seed: labels[resolution, seed] for seed in seeds_of(rules)}
            if number == 0:
                agreement += [
                    {"resolution": resolution, "ari": agreement_of(a, b)}
                    for a, b in itertools.combinations(of_seeds.values(), 2)
                ]
            for seed, of_seed in of_seeds.items():
                changed = change(among.obs, of_seed, components=settings.clusters.category_set)
                rows.append(
                    names
                    | {
                        "resolution": resolution,
                        "subsample": number,
                        "seed": seed,
                        "n_clusters": int(of_seed.max()) + 1,
                        "clustering": numbers.setdefault(
                            (number, renamed(of_seed).tobytes()), len(numbers)
                        ),
                        "gini_change": changed["gini"],
                        "effective_number_change": changed["effective_number"],
                    }
                )
    table = pd.DataFrame(rows)
    table["quadrant"] = concentration.quadrant(
        table["gini_change"], table["effective_number_change"]
    )
    return table[list(STABILITY_RUNS.columns)], pd.DataFrame(agreement)


def summary(table: pd.DataFrame, agreement: pd.DataFrame, settings: Stability) -> pd.DataFrame:
    """Return ``STABILITY`` of the runs of one tissue.

    The direction is that of most of the different clusterings; 0 where as many go the other way,
    and the share is then that of either. A change of exactly zero has none and counts against it.
    """
    rows = []
    for (*tissue, resolution), part in table.groupby([*counts.TISSUE, "resolution"], sort=True):
        ari = agreement.loc[agreement["resolution"] == resolution, "ari"]
        different = part.drop_duplicates("clustering")
        for metric in PLANE:
            changes = different[f"{metric}_change"].to_numpy()
            signs = np.sign(changes)
            direction = int(np.sign(signs.sum()))
            same = max(int((signs > 0).sum()), int((signs < 0).sum()))
            share = resampling.proportion_interval(
                same, len(different), confidence=settings.confidence
            )
            rows.append(
                dict(zip(counts.TISSUE, tissue, strict=True))
                | {
                    "resolution": resolution,
                    "metric": metric,
                    "n_runs": len(part),
                    "n_clusterings": len(different),
                    "change_median": float(np.median(changes)),
                    "change_lowest": changes.min(),
                    "change_highest": changes.max(),
                    "direction": direction,
                    "same_direction_share": share.estimate,
                    "share_low": share.low,
                    "share_high": share.high,
                    "stable": share.estimate >= settings.min_share,
                    "ari_median": ari.median(),
                    "ari_lowest": ari.min(),
                    "n_clusters_lowest": part["n_clusters"].min(),
                    "n_clusters_highest": part["n_clusters"].max(),
                }
            )
    return pd.DataFrame(rows)[list(STABILITY.columns)]


def wanted(settings: Settings) -> list[str]:
    """Return the graphs whose directions are followed: those of any entry of ``granularity``."""
    followed = {
        key
        for rules in settings.granularity.values()
        for key in over_clusters.graphs_of(settings, rules.cohorts, rules.tissues, rules.otherwise)
    }
    return [key for key in settings.atlas.graphs if key in followed]


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    found, summaries = [], []
    for key in wanted(settings):
        graph = clustering.read_graph(args.graphs / f"{key}.h5ad")
        table, agreement = runs(graph, settings, scratch=args.scratch)
        if table.empty:
            continue
        found.append(table)
        summaries.append(summary(table, agreement, settings.stability))
    for parts, schema, path in (
        (found, STABILITY_RUNS, args.runs),
        (summaries, STABILITY, args.out),
    ):
        whole = pd.concat(parts, ignore_index=True) if parts else tables.empty(schema)
        tables.write(whole, schema, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--graphs", type=Path, required=True, help="the folder of the graphs")
    clustering.add_scratch(parser)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
