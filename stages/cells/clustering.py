"""The one clustering room: counts of a tissue to a graph of neighbours to Leiden clusters.

=============  ====================================================================================
read           only the rows of the wanted tissue, from any layout of h5ad
counts         from X, else from the raw matrix; a file without counts is refused
neighbours     normalise, log1p, highly variable genes, principal components, neighbours (scanpy)
graph          what is kept of a tissue: obs, connectivities and components, no genes
Leiden         any number of resolutions and seeds on one graph (scanpy, leidenalg)
=============  ====================================================================================

The graph is the part that differs between machines and versions, and most of the work. It is
computed once a tissue and written down; every resolution and seed starts from the same one [1]_
[2]_.

References
----------
.. [1] Wolf, F. A., Angerer, P. and Theis, F. J. (2018). SCANPY: large-scale single-cell gene
   expression data analysis. Genome Biology 19:15.
.. [2] Traag, V. A., Waltman, L. and van Eck, N. J. (2019). From Louvain to Leiden: guaranteeing
   well-connected communities. Scientific Reports 9:5233.
"""

import argparse
import hashlib
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem, sparse_dataset
from anndata.utils import make_index_unique
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits

from stages.base import cli
from stages.base.errors import AtlasError
from stages.base.files import atomic_path
from stages.cells.counts import SAMPLE, WHO
from stages.cells.settings import Leiden, Neighbours
from stages.compute import shards
from stages.inputs import cells
from stages.inputs.obs import read_obs
from stages.inputs.settings import CellsFile

OBS = [*SAMPLE, "cell_type"]
"""What is known of each cell; `sex` and `cell_type` may be missing."""

CONNECTIVITIES = "connectivities"
COMPONENTS = "X_pca"
COMPUTED_BY = ("igraph", "leidenalg", "scanpy")
VERSION = 1
"""Raised when a change here makes other clusters, so that finished ones are not mixed with new."""
Matrix: TypeAlias = "sparse.csr_matrix | sparse.csc_matrix | NDArray[np.floating]"

DECIMALS = 4
"""Of the principal components, in which cells lie some units apart."""
ROWS_AT_ONCE = 2048
SHOWN = 8


# --- reading -------------------------------------------------------------------------------------


def read_tissue(path: Path, spec: CellsFile, tissue: str, *, name: str, atlas: str) -> ad.AnnData:
    """Read the cells of one tissue, with their counts; no other row of the matrix is read.

    Parameters
    ----------
    path
        An h5ad, in the current layout or a legacy one (anndata 0.6 and 0.7).
    spec
        What its columns mean, and who is compared with whom.
    tissue
        The tissue, as the file names it.
    name, atlas
        The file's key in ``conf/atlas/<atlas>.yaml``; errors name them.

    Returns
    -------
    AnnData, cells x genes
        `X`: counts (CSR, float32). `obs`: the columns of ``OBS``, cells in the order of the file;
        unannotated cells have no `cell_type`, cells of unknown animals bear
        ``stages.inputs.tables.UNKNOWN_ANIMAL``.

    Raises
    ------
    AtlasError
        The file is missing, damaged or has no expression matrix, a column or the tissue is not in
        it, the table of cells contradicts itself, or neither matrix holds counts.
    """
    change = f"conf/atlas/{atlas}.yaml: cells.{name}.columns"
    obs = read_obs(path, cells.wanted_columns(spec), change=change, modality=spec.modality)
    rows, known = _cells_of(obs, spec, tissue, path=path, name=name, atlas=atlas)
    counts, genes = _read_counts(path, rows, n_cells=len(obs))
    return from_counts(counts, genes, known, where=f"{tissue} of {path}")


def from_counts(
    counts: Matrix,
    genes: Sequence[str],
    obs: pd.DataFrame,
    *,
    where: str,
) -> ad.AnnData:
    """Put counts, gene names and a table of cells together, checked.

    Gene names that occur twice are made unique as scanpy does (``Gene``, ``Gene-1``), and one line
    says so: both rows are measured genes, and no result depends on their names.

    Parameters
    ----------
    counts : shape (n_cells, n_genes)
        Whole numbers, none negative.
    where
        What the counts are of; it begins the error.

    Raises
    ------
    AtlasError
        The matrix holds something else than counts.
    """
    if fault := fault_of_counts(counts):
        msg = f"{where} holds no counts: {fault}. {GIVE_COUNTS}"
        raise AtlasError(msg)
    names = pd.Index([str(gene) for gene in genes])
    if twice := int(names.duplicated().sum()):
        first = names[names.duplicated()][0]
        cli.log.info(
            "%s: %d gene names occur more than once, %s first; they are told apart by a number",
            where,
            twice,
            first,
        )
        names = make_index_unique(names)
    table = obs.reset_index(drop=True)
    table.index = table.index.astype(str)
    return ad.AnnData(
        X=sparse.csr_matrix(counts, dtype=np.float32),
        obs=table,
        var=pd.DataFrame(index=names),
    )


GIVE_COUNTS = "Clustering starts from counts: give a file with whole numbers in X or in raw.X."


def fault_of_counts(matrix: Matrix) -> str:
    """Say why a matrix holds no counts, with the first value at fault; empty if it does."""
    values = np.asarray(matrix if isinstance(matrix, np.ndarray) else matrix.data)
    for wrong, kind in (
        (~np.isfinite(values), "the value that is no number"),
        (values < 0, "the negative value"),
        (values != np.round(values), "the fraction"),
    ):
        if wrong.any():
            return f"it has {kind} {values[wrong].flat[0]:g}"
    return ""


def _cells_of(
    obs: pd.DataFrame, spec: CellsFile, tissue: str, *, path: Path, name: str, atlas: str
) -> tuple[NDArray[np.int64], pd.DataFrame]:
    """Return the rows of a tissue and what is known of their cells."""
    kept = np.ones(len(obs), dtype=bool)
    for column, value in spec.where.items():
        kept &= cells.as_text(obs[column]).to_numpy() == value
    tissues = (
        cells.as_text(obs[spec.columns.tissue])
        if spec.columns.tissue
        else pd.Series(spec.constants.tissue, obs.index)
    )
    rows = np.flatnonzero(kept & (tissues == tissue).to_numpy())
    if not rows.size:
        there = ", ".join(sorted(set(tissues[kept].dropna()))[:SHOWN])
        msg = (
            f"{path} has no cell of tissue {tissue!r}: its tissues are {there}. "
            f"Change conf/atlas/{atlas}.yaml: graphs, or cells.{name}."
        )
        raise AtlasError(msg)
    mine = obs.iloc[rows].reset_index(drop=True)
    # One place decides what ages and sexes mean and which animals contradict themselves.
    counted = cells.count(mine, spec, name=name, atlas=atlas)
    of_animal = counted.drop_duplicates("animal").set_index("animal")
    animal = cells.animals(mine, spec)
    who = pd.DataFrame({"tissue": tissue, "animal": animal, "condition": None})
    if not spec.groups.by_age and spec.columns.condition is not None:
        who["condition"] = cells.as_text(mine[spec.columns.condition])
    known = of_animal.loc[cells.named(who), WHO].reset_index()
    known["cohort"], known["platform"], known["tissue"] = spec.cohort, spec.platform, tissue
    known["cell_type"] = cells.as_text(mine[spec.columns.cell_type])
    return rows, known[OBS]


def _read_counts(
    path: Path, rows: NDArray[np.int64], *, n_cells: int
) -> tuple[sparse.csr_matrix, list[str]]:
    """Read rows of the first matrix that holds counts: X, then the raw one."""
    faults = []
    try:
        with h5py.File(path, "r") as file:
            for place, names in (("X", "var"), ("raw/X", "raw/var"), ("raw.X", "raw.var")):
                if place not in file:
                    continue
                if fault := fault_of_counts(_rows(file[place], rows[:ROWS_AT_ONCE], n_cells)):
                    faults.append(f"{place} ({fault})")
                    continue
                return _rows(file[place], rows, n_cells), _gene_names(file[names])
    except (OSError, KeyError, IndexError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"{path} is damaged or not an h5ad with expression ({reason}). Fetch it again."
        raise AtlasError(msg) from None
    found = f"it has {' and '.join(faults)}" if faults else "it has neither X nor raw.X"
    msg = f"{path} holds no counts: {found}. {GIVE_COUNTS}"
    raise AtlasError(msg)


def _rows(
    matrix: h5py.Dataset | h5py.Group, rows: NDArray[np.int64], n_cells: int
) -> sparse.csr_matrix:
    """Read some rows of a matrix on disk, in pieces."""
    stored = sparse_dataset(matrix) if isinstance(matrix, h5py.Group) else matrix
    if stored.shape[0] != n_cells:
        msg = f"{matrix.name} has {stored.shape[0]} rows, but obs has {n_cells}"
        raise ValueError(msg)
    pieces = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        piece = stored[rows[start : start + ROWS_AT_ONCE]]
        pieces.append(sparse.csr_matrix(piece, dtype=np.float32))
    read: sparse.csr_matrix = sparse.vstack(pieces, format="csr")
    return read


def _gene_names(var: h5py.Dataset | h5py.Group) -> list[str]:
    """Read the names of the genes alone, in the current or the compound layout."""
    if isinstance(var, h5py.Group):
        return [str(name) for name in read_elem(var[var.attrs["_index"]])]
    names = var.fields(var.dtype.names[0])[()]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


# --- graph ---------------------------------------------------------------------------------------


def neighbours(adata: ad.AnnData, settings: Neighbours) -> ad.AnnData:
    """Return the graph of neighbours of cells: scanpy's standard steps, every choice explicit.

    Counts are normalised to `target_sum`, log1p-transformed, restricted to highly variable genes
    and reduced to principal components; the graph is UMAP's fuzzy one over the nearest neighbours.
    These are exact at any size: the approximate search that scanpy takes to from 8,192 cells on
    would be one more thing that differs between machines, and all pairs of 14,000 cells take two
    seconds. The components are computed in double precision and rounded: in single precision, the
    last digits of another processor grow until other cells are neighbours. `adata` is not changed.

    Parameters
    ----------
    adata
        Cells x genes, counts (:func:`read_tissue`, :func:`from_counts`).

    Returns
    -------
    AnnData without genes
        `obs` of `adata`; ``obsp["connectivities"]``, (n_cells, n_cells) CSR of weights in 0..1,
        symmetric; ``obsm["X_pca"]``, (n_cells, n_comps).

    Raises
    ------
    AtlasError
        The cells are too few for the number of neighbours, a cell has no counts, or no two genes
        are left.
    """
    # Takes seconds: not for those who only read a graph.
    import scanpy as sc

    _require_cells(adata.n_obs, settings)
    work = ad.AnnData(X=adata.X.astype(np.float64), var=pd.DataFrame(index=adata.var_names))
    sc.pp.filter_genes(work, min_cells=settings.min_cells_per_gene)
    if work.n_vars < 2:
        msg = (
            f"{work.n_vars} genes are expressed in {settings.min_cells_per_gene} or more of "
            f"{adata.n_obs} cells: at least 2 are needed. Lower neighbours.min_cells_per_gene."
        )
        raise AtlasError(msg)
    if silent := int((np.asarray(work.X.sum(axis=1)).ravel() == 0).sum()):
        msg = (
            f"{silent} of {adata.n_obs} cells have no counts in the {work.n_vars} genes that "
            f"{settings.min_cells_per_gene} or more cells express. Leave them out of the file."
        )
        raise AtlasError(msg)
    sc.pp.normalize_total(work, target_sum=settings.target_sum)
    sc.pp.log1p(work)
    n_top = min(settings.n_top_genes, work.n_vars)
    sc.pp.highly_variable_genes(work, flavor=settings.hvg_flavor, n_top_genes=n_top)
    work = work[:, work.var["highly_variable"].to_numpy()].copy()
    n_comps = min(settings.n_comps, work.n_obs - 1, work.n_vars - 1)
    # On some processors BLAS sums in another order on more threads.
    with threadpool_limits(1):
        sc.pp.pca(
            work,
            n_comps=n_comps,
            zero_center=True,
            svd_solver=settings.svd_solver,
            random_state=settings.seed,
            dtype="float64",
        )
    # Processors were seen to differ by 1e-11.
    components = work.obsm[COMPONENTS].round(DECIMALS).astype(np.float32)
    return _graph(adata.obs, _connected(components, settings), components)


def neighbours_among(
    graph: ad.AnnData, chosen: NDArray[np.bool_], settings: Neighbours
) -> ad.AnnData:
    """Return the graph of neighbours among some cells of a graph, in the same components.

    Parameters
    ----------
    chosen : shape (n_cells,)
        Which cells; their neighbours are looked for anew, among them alone.

    Raises
    ------
    AtlasError
        The chosen cells are too few for the number of neighbours.
    """
    _require_cells(int(chosen.sum()), settings)
    components = graph.obsm[COMPONENTS][chosen]
    return _graph(graph.obs[chosen], _connected(components, settings), components)


def _require_cells(n: int, settings: Neighbours) -> None:
    if n <= settings.n_neighbors:
        msg = (
            f"{n} cells are too few for a graph of {settings.n_neighbors} neighbours: at least "
            f"{settings.n_neighbors + 1} are needed. Lower neighbours.n_neighbors, or leave these "
            "cells out."
        )
        raise AtlasError(msg)


def _connected(components: NDArray[np.floating], settings: Neighbours) -> sparse.csr_matrix:
    """Return the connectivities, (n_cells, n_cells), of cells in principal components."""
    import scanpy as sc

    _keep_compiled()
    work = ad.AnnData(obsm={COMPONENTS: np.asarray(components)})
    sc.pp.neighbors(
        work,
        n_neighbors=settings.n_neighbors,
        use_rep=COMPONENTS,
        knn=True,
        method="umap",
        transformer="sklearn",
        metric=settings.metric,
        random_state=settings.seed,
    )
    connectivities = sparse.csr_matrix(work.obsp[CONNECTIVITIES], dtype=np.float32)
    connectivities.sort_indices()
    return connectivities


def _keep_compiled() -> None:
    """Let numba keep the two functions of umap that scanpy calls: compiling takes it seconds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Tensorflow not installed")
        from umap import umap_  # type: ignore[import-untyped]

    for function in (umap_.smooth_knn_dist, umap_.compute_membership_strengths):
        # Where no folder may be written to, they are compiled once more.
        with suppress(RuntimeError):
            function.enable_caching()


def write_graph(graph: ad.AnnData, path: Path) -> None:
    """Write a graph as an h5ad, whole or not at all; the same graph gives the same bytes."""
    packing: dict[str, Any] = {"compression": "gzip"}
    stored = graph.copy()
    for column in stored.obs.select_dtypes("object"):
        stored.obs[column] = pd.Categorical(stored.obs[column])
    with atomic_path(path) as temporary:
        stored.write_h5ad(temporary, **packing)


def read_graph(path: Path) -> ad.AnnData:
    """Read a graph that :func:`write_graph` wrote.

    Raises
    ------
    AtlasError
        The file is missing or is no such graph.
    """
    again = "Run the stage that writes it: dvc repro neighbours."
    if not path.exists():
        msg = f"the graph of neighbours {path} does not exist. {again}"
        raise AtlasError(msg)
    try:
        graph = ad.read_h5ad(path)
        if missing := [column for column in OBS if column not in graph.obs]:
            msg = f"obs has no column {missing[0]}"
            raise ValueError(msg)  # noqa: TRY301 - told as what else a foreign file lacks
        return _graph(graph.obs, graph.obsp[CONNECTIVITIES], graph.obsm[COMPONENTS])
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"{path} is no graph of neighbours ({reason}). {again}"
        raise AtlasError(msg) from None


def _graph(
    obs: pd.DataFrame, connectivities: sparse.csr_matrix, components: NDArray[np.floating]
) -> ad.AnnData:
    table = pd.DataFrame(obs).reset_index(drop=True)
    for column in table.select_dtypes("category"):
        values = table[column].astype(object)
        table[column] = values.where(values.notna(), None)
    table.index = table.index.astype(str)
    return ad.AnnData(
        obs=table,
        obsp={CONNECTIVITIES: connectivities},
        obsm={COMPONENTS: np.asarray(components, dtype=np.float32)},
    )


# --- clusters ------------------------------------------------------------------------------------


def add_scratch(parser: argparse.ArgumentParser) -> None:
    """Let a stage be told where finished clusterings lie."""
    parser.add_argument("--scratch", type=Path, required=True, help="folder of clusterings")


def leiden_each(
    graph: ad.AnnData, runs: Sequence[tuple[float, int]], settings: Leiden, *, scratch: Path
) -> list[NDArray[np.int64]]:
    """Return :func:`leiden` of each resolution and seed, in their order, on all processors.

    Parameters
    ----------
    scratch
        Folder of finished clusterings. Those that are there, of this graph, are not made again.
    """
    connected = sparse.csr_matrix(graph.obsp[CONNECTIVITIES])
    digest = hashlib.sha256()
    for array in (connected.indptr, connected.indices, connected.data):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    decides = {
        "graph": digest.hexdigest(),
        "settings": settings.model_dump(exclude={"seed"}),
        "version": VERSION,
        "versions": {name: metadata.version(name) for name in COMPUTED_BY},
    }
    # What a worker needs of the graph, and no more.
    bare = ad.AnnData(obs=graph.obs[[]], obsp={CONNECTIVITIES: connected})
    wanted = [
        shards.Shard(
            f"{resolution:g}-{seed}",
            shards.key_of(decides | {"resolution": float(resolution), "seed": seed}),
            (bare, resolution, seed, settings),
        )
        for resolution, seed in runs
    ]

    def fault(_: shards.Shard, arrays: shards.Arrays) -> str:
        labels = arrays.get("labels", np.zeros(0))
        right = labels.shape == (graph.n_obs,) and labels.dtype == np.int32
        return "" if right else f"it holds no clusters of {graph.n_obs} cells"

    found = shards.store(scratch, raises=AtlasError).filled(wanted, _clustered, fault=fault)
    return [arrays["labels"].astype(np.int64) for arrays in found]


def _clustered(task: tuple[ad.AnnData, float, int, Leiden]) -> shards.Arrays:
    return {"labels": leiden(*task).astype(np.int32)}


def leiden(graph: ad.AnnData, resolution: float, seed: int, settings: Leiden) -> NDArray[np.int64]:
    """Return the Leiden cluster of each cell at one resolution (``scanpy.tl.leiden``).

    Parameters
    ----------
    graph
        Of :func:`neighbours`; it is not changed.
    resolution
        Above 0; a higher one gives more clusters.
    seed
        Of the order in which the algorithm visits the cells.

    Returns
    -------
    array of shape (n_cells,)
        Numbers of clusters, 0 the largest.

    Raises
    ------
    AtlasError
        The resolution is not above 0.
    """
    if not resolution > 0:
        msg = f"Leiden resolution {resolution:g} is not allowed: it must be above 0. Change it."
        raise AtlasError(msg)
    import scanpy as sc

    work = ad.AnnData(obs=pd.DataFrame(index=graph.obs_names))
    with warnings.catch_warnings():
        # scanpy announces another default backend, whichever one is asked for by name.
        warnings.filterwarnings("ignore", "In the future, the default backend", FutureWarning)
        sc.tl.leiden(
            work,
            resolution=resolution,
            adjacency=graph.obsp[CONNECTIVITIES],
            flavor=settings.flavor,
            n_iterations=settings.n_iterations,
            directed=settings.directed,
            use_weights=True,
            random_state=seed,
        )
    labels: NDArray[np.int64] = work.obs["leiden"].astype(int).to_numpy(dtype=np.int64)
    # leidenalg numbers its clusters by size, igraph does not.
    largest_first = np.argsort(-np.bincount(labels), kind="stable")
    return np.argsort(largest_first, kind="stable")[labels]
