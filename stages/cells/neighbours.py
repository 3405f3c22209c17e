"""Make the graph of neighbours of one tissue of one file, once; every clustering starts from it.

The cells are those whose composition is measured: annotated, of known single animals, of samples
with enough cells. What changes between types and clusters is then the granularity alone.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import anndata as ad

from stages.base import cli
from stages.base.errors import AtlasError
from stages.base.settings import Settings, load
from stages.cells import clustering
from stages.cells.proportions import proportions
from stages.cells.settings import Proportions
from stages.inputs.tables import COUNTS


def read(settings: Settings, key: str) -> ad.AnnData:
    """Read the cells that count of a graph's file and tissue, with their counts.

    Raises
    ------
    AtlasError
        The settings name no such graph, or see
        :func:`stages.cells.clustering.read_tissue`; or no sample is left.
    """
    atlas = settings.atlas
    if key not in settings.atlas.graphs:
        allowed = ", ".join(settings.atlas.graphs) or "none"
        msg = f"atlas {atlas.name} names no graph {key!r}: allowed are {allowed}."
        raise AtlasError(msg)
    of = settings.atlas.graphs[key]
    spec = atlas.cells[of.cells]
    cells = clustering.read_tissue(spec.raw, spec, of.tissue, name=of.cells, atlas=atlas.name)
    return countable(cells, settings.proportions)


def countable(cells: ad.AnnData, rules: Proportions) -> ad.AnnData:
    """Return the cells of samples that count, by the rules of ``composition.proportions``."""
    key = [column for column in COUNTS.columns if column != "n_cells"]
    counted = cells.obs.groupby(key, dropna=False, as_index=False).size()
    kept, excluded = proportions(counted.rename(columns={"size": "n_cells"}), rules)
    for rule, n in excluded.groupby("rule")["n_cells"].sum().items():
        cli.log.info("%d of %d cells left out: %s", n, cells.n_obs, rule)
    chosen = cells.obs["animal"].isin(kept["animal"]) & cells.obs["cell_type"].notna()
    return cells[chosen.to_numpy()].copy()


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    graph = clustering.neighbours(read(settings, args.graph), settings.neighbours)
    clustering.write_graph(graph, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--graph", required=True, help="a key of atlas.graphs in the settings")
    parser.add_argument("--out", type=Path, required=True, help="the graph (h5ad) to write")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
