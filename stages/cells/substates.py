"""Look for substates within each cell type of a tissue, and compare both groups over them.

Original steps 08 and 09. The cells of one type are clustered by themselves: genes, components and
neighbours are chosen anew among them, since what tells types apart says little within one. An
animal counts for a type in which it has enough cells, a type for which enough animals count; the
p-values of a tissue on a platform are adjusted over its types. Podocytes and macrophages of the
kidney are the published cases.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import anndata as ad
import pandas as pd

from stages.base import cli, tables
from stages.base.settings import Settings, load
from stages.cells import clustering, counts, neighbours, over_clusters
from stages.cells.design import design
from stages.cells.settings import Neighbours, Substates
from stages.cells.tables.clusters import CLUSTER_CONTRAST, CLUSTER_METRICS
from stages.cells.tables.substates import SUBSTATES_NOT_COMPARED


def types_of(
    cells: ad.AnnData, rules: Substates, graph: Neighbours
) -> tuple[dict[str, ad.AnnData], pd.DataFrame]:
    """Return the cells of each type that can be compared, and the types that cannot.

    Parameters
    ----------
    cells
        Of one tissue, annotated.

    Returns
    -------
    by type, not compared
        Cells of the animals that have enough of the type; ``SUBSTATES_NOT_COMPARED``.
    """
    found, left_out = {}, []
    for cell_type, where in sorted(cells.obs.groupby("cell_type").indices.items()):
        obs = cells.obs.iloc[where]
        n_cells = obs["animal"].value_counts()
        enough = n_cells.index[n_cells >= rules.min_cells]
        kept = obs["animal"].isin(enough)
        n_reference, n_compared = design(
            obs[kept].drop_duplicates("animal").reset_index(drop=True)
        ).n
        reason = ""
        if min(n_reference, n_compared) < rules.min_animals:
            reason = (
                f"needs {rules.min_animals} animals in each group, or complete pairs, with "
                f"{rules.min_cells} cells"
            )
        elif kept.sum() <= graph.n_neighbors:
            reason = f"needs {graph.n_neighbors + 1} cells for a graph of neighbours"
        if reason:
            tissue = obs.iloc[0][counts.TISSUE]
            left_out.append([*tissue, cell_type, len(obs), n_reference, n_compared, reason])
        else:
            found[str(cell_type)] = cells[where[kept.to_numpy()]].copy()
    return found, pd.DataFrame(left_out, columns=list(SUBSTATES_NOT_COMPARED.columns))


def substates(
    tissues: Iterable[ad.AnnData], settings: Settings, *, scratch: Path
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return metrics and comparison over the substates of every type, and the types left out.

    Parameters
    ----------
    tissues
        Annotated cells of one tissue each, with their counts; one at a time is held.
    scratch
        Folder of finished clusterings.

    Returns
    -------
    metrics, comparison, not compared
        ``CLUSTER_METRICS``, ``CLUSTER_CONTRAST``, ``SUBSTATES_NOT_COMPARED``; each may be empty.
    """
    rules = settings.substates
    measured, skipped = [], []
    for cells in tissues:
        by_type, too_small = types_of(cells, rules, settings.neighbours)
        skipped.append(too_small)
        measured += [
            over_clusters.measure(
                clustering.neighbours(of_type, settings.neighbours),
                rules.resolutions,
                leiden=settings.leiden,
                settings=settings.clusters,
                scratch=scratch,
                cell_type=cell_type,
            )
            for cell_type, of_type in by_type.items()
        ]
    listed = [rows for rows in skipped if len(rows)]
    left_out = (
        pd.concat(listed, ignore_index=True) if listed else tables.empty(SUBSTATES_NOT_COMPARED)
    )
    if not measured:
        return tables.empty(CLUSTER_METRICS), tables.empty(CLUSTER_CONTRAST), left_out
    table = pd.concat(measured, ignore_index=True)
    family = [*counts.TISSUE, "resolution"]
    compared = over_clusters.compare(table, settings.clusters.contrast, family=family)
    return table, compared, left_out


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    rules = settings.substates
    keys = over_clusters.graphs_of(settings, rules.cohorts, rules.tissues)
    tissues = (neighbours.read(settings, key) for key in keys)
    measured, compared, left_out = substates(tissues, settings, scratch=args.scratch)
    for row in left_out.itertuples():
        cli.log.info("%s %s %s: %s", row.platform, row.tissue, row.cell_type, row.reason)
    tables.write(measured, CLUSTER_METRICS, args.metrics)
    tables.write(compared, CLUSTER_CONTRAST, args.out)
    tables.write(left_out, SUBSTATES_NOT_COMPARED, args.not_compared)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    clustering.add_scratch(parser)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--not-compared", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
