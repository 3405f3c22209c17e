"""Simulate the haematopoiesis of some donors, and state the truth that was planted.

Counts go into an h5ad; the truth into tables beside it: genes, edges, complexes, kinds of cells
with their distances on the tree, and the shares at both ages.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from stages.base import cli
from stages.base.files import atomic_folder
from stages.base.settings import load
from stages.inputs.haematopoiesis import cells, tree
from stages.inputs.haematopoiesis.genes import Genes, plant
from stages.inputs.settings import Haematopoiesis

CELLS_FILE = "cells.h5ad"


def simulate(settings: Haematopoiesis) -> tuple[ad.AnnData, Genes]:
    """Return the cells of all donors with their counts, and what was planted."""
    genes = plant(settings.seed)
    parts = [
        part
        for donor in cells.donors(settings.seed, settings.donors)
        for part in cells.draw(genes, donor, seed=settings.seed, n_cells=settings.cells_a_donor)
    ]
    obs = pd.concat([obs for obs, _ in parts], ignore_index=True).set_index("cell")
    for name in ("donor", "age", "sex", "tissue", "node", "branch"):
        obs[name] = obs[name].astype("category")
    var = genes.table[["gene", "symbol"]].rename(columns={"symbol": "feature_name"})
    counts = sparse.vstack([counts for _, counts in parts], format="csr")
    return ad.AnnData(counts, obs=obs, var=var.set_index("gene")), genes


def nodes() -> pd.DataFrame:
    """Return the kinds of cells: what they come from, and the steps to every other."""
    known = pd.DataFrame(
        {
            "node": tree.NODES,
            "parent": [tree.PARENTS[name] or "" for name in tree.NODES],
            "branch": [tree.branch(name) for name in tree.NODES],
            "depth": [tree.DEPTHS[name] for name in tree.NODES],
        }
    )
    return known.join(pd.DataFrame(tree.hops(), columns=[f"to {name}" for name in tree.NODES]))


def _run(args: argparse.Namespace) -> None:
    simulated, genes = simulate(load(args.params).haematopoiesis)
    with atomic_folder(args.out) as folder:
        simulated.write_h5ad(folder / CELLS_FILE, compression="lzf")
        for name, table in (
            ("genes", genes.table),
            ("edges", genes.edges),
            ("complexes", genes.complexes),
            ("nodes", nodes()),
            ("composition", cells.composition()),
        ):
            table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    per_cell = np.diff(simulated.X.indptr)
    cli.log.info(
        "%d cells of %d donors, %d genes, %d genes a cell (median)",
        *(simulated.n_obs, simulated.obs["donor"].nunique(), len(genes), np.median(per_cell)),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of cells and truth")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
