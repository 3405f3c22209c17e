"""The clustering room: what is read, what is refused, and that one seed gives one result."""

import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse

from stages.base.errors import AtlasError
from stages.base.files import file_hash
from stages.cells import clustering, neighbours
from stages.cells.settings import Leiden, Neighbours, Proportions
from stages.cells.stability import agreement_of
from stages.inputs import cells
from stages.inputs.demo import __main__ as demo
from stages.inputs.demo import legacy
from stages.inputs.settings import CellsFile, SimulatedFile

ROOT = Path(__file__).parents[2]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
GRAPH = Neighbours.model_validate(PARAMS["neighbours"])
LEIDEN = Leiden.model_validate(PARAMS["leiden"])
N_GENES = 40


def spec_of(**changes) -> CellsFile:
    content = {
        "raw": "cells.h5ad",
        "cohort": "tms",
        "platform": "droplet",
        "columns": {
            "animal": "mouse.id",
            "tissue": "tissue",
            "age": "age",
            "sex": "sex",
            "cell_type": "cell_ontology_class",
        },
        "groups": {"reference": {"up_to": "3 months"}, "compared": {"from": "24 months"}},
    }
    return CellsFile.model_validate(content | changes)


def small(n=60, *, seed=0) -> tuple[sparse.csr_matrix, pd.DataFrame]:
    """Return counts and obs of `n` cells: the first half of Kidney, the second of Spleen."""
    rng = np.random.default_rng(seed)
    counts = sparse.csr_matrix(rng.poisson(1.0, (n, N_GENES)).astype(np.float32))
    tissue = np.repeat(["Kidney", "Spleen"], n // 2)
    old = np.arange(n) % 2 == 1
    obs = pd.DataFrame(
        {
            "mouse.id": np.where(old, "24-M-59", "3-F-56"),
            "tissue": tissue,
            "age": np.where(old, "24m", "3m"),
            "sex": np.where(old, "male", "female"),
            "cell_ontology_class": np.where(np.arange(n) % 3 == 0, "nan", "macrophage"),
        },
        index=[f"cell{i}" for i in range(n)],
    ).astype("category")
    return counts, obs


def genes(n=N_GENES) -> pd.DataFrame:
    return pd.DataFrame(index=[f"Gene{i}" for i in range(n)])


def written(path: Path, x, obs, *, var=None, raw=None) -> Path:
    data = ad.AnnData(X=x, obs=obs, var=genes() if var is None else var)
    if raw is not None:
        data.raw = ad.AnnData(X=raw, obs=obs, var=data.var)
    data.write_h5ad(path)
    return path


def read(path: Path, tissue="Kidney", **changes) -> ad.AnnData:
    return clustering.read_tissue(path, spec_of(**changes), tissue, name="mine", atlas="local")


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["X", "raw", "dense", "csc", "legacy"])
def test_every_layout_gives_the_same_cells(tmp_path, layout):
    counts, obs = small()
    path = tmp_path / "cells.h5ad"
    scaled = counts * 0.37
    match layout:
        case "X":
            written(path, counts, obs)
        case "raw":
            written(path, scaled, obs, raw=counts)
        case "dense":
            written(path, counts.toarray(), obs)
        case "csc":
            written(path, counts.tocsc(), obs)
        case "legacy":
            legacy.write(path, x=scaled, obs=obs, var=genes(), raw_x=counts, raw_var=genes())
    found = read(path, "Spleen")
    assert (found.X != counts[30:]).nnz == 0
    assert found.X.dtype == np.float32
    assert list(found.var_names) == list(genes().index)
    assert list(found.obs.columns) == clustering.OBS
    assert found.obs["animal"].tolist() == ["3-F-56", "24-M-59"] * 15
    assert found.obs["age_months"].tolist() == [3.0, 24.0] * 15
    assert found.obs["group"].tolist() == ["reference", "compared"] * 15
    assert found.obs["cell_type"].isna().sum() == 10


def test_cells_are_those_that_the_composition_counts(tmp_path):
    """The same obs through both rooms: one row a cell here, one a sample and type there."""
    counts, obs = small()
    found = read(written(tmp_path / "cells.h5ad", counts, obs)).obs
    other = cells.count(obs[obs["tissue"] == "Kidney"], spec_of(), name="mine", atlas="local")
    key = ["animal", "sex", "age_months", "group", "cell_type"]
    here = found.groupby(key, dropna=False).size().sort_index()
    there = other.set_index(key)["n_cells"].sort_index()
    assert here.tolist() == there.tolist()
    assert len(here) == 4


def test_only_the_rows_of_the_tissue_are_read(tmp_path):
    """The matrix of the other tissue is made unreadable: who touches it fails."""
    counts, obs = small()
    path = written(tmp_path / "cells.h5ad", counts, obs)
    with h5py.File(path, "r+") as file:
        data = file["X/data"][()]
        of_kidney = int(file["X/indptr"][30])
        del file["X/data"]
        stored = file["X"].create_dataset("data", data=data, chunks=(of_kidney,), compression=4)
        stored.id.write_direct_chunk((of_kidney,), b"not zlib")
    with pytest.raises(OSError, match=r"filter|inflate"):
        ad.read_h5ad(path)
    assert (read(path).X != counts[:30]).nnz == 0
    with pytest.raises(AtlasError, match="damaged"):
        read(path, "Spleen")


def test_a_filter_of_cells_is_obeyed(tmp_path):
    counts, obs = small()
    path = written(tmp_path / "cells.h5ad", counts, obs)
    assert read(path, where={"sex": "male"}).obs["animal"].unique().tolist() == ["24-M-59"]


def test_the_cells_that_count_are_the_compositions(tmp_path):
    counts, obs = small()
    obs["mouse.id"] = obs["mouse.id"].astype(str)
    obs.iloc[:9, 0] = "3-M-7/8"
    obs.loc[obs["mouse.id"] == "3-M-7/8", ["age", "sex"]] = ["3m", "female"]
    found = read(written(tmp_path / "cells.h5ad", counts, obs))
    kept = neighbours.countable(found, Proportions(min_cells=7, pooled_pattern="[/|+]"))
    # Of 30 cells 9 bear a pooled label and 7 of the others no type; 3-F-56 then has 7 cells.
    assert kept.obs["animal"].value_counts().to_dict() == {"3-F-56": 7, "24-M-59": 7}
    assert kept.obs["cell_type"].tolist() == ["macrophage"] * 14


# --- bad inputs: one clear line each --------------------------------------------------------------


def refused(action, *parts: str) -> None:
    with pytest.raises(AtlasError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_scaled_expression_without_counts(tmp_path):
    counts, obs = small()
    path = written(tmp_path / "cells.h5ad", counts * 0.37, obs, raw=counts * 0.5)
    refused(lambda: read(path), "no counts", "X (it has the fraction 0.37)", "raw/X", "give a file")


def test_negative_values(tmp_path):
    counts, obs = small()
    path = written(tmp_path / "cells.h5ad", counts * -1.0, obs)
    refused(lambda: read(path), "no counts", "negative value -", "give a file")


def test_a_fault_beyond_the_first_rows(tmp_path):
    counts, obs = small(2 * (clustering.ROWS_AT_ONCE + 10))
    # Of the Kidney's 2,058 cells the 2,054th has half a count.
    counts.data[counts.indptr[clustering.ROWS_AT_ONCE + 5]] = 0.5
    path = written(tmp_path / "cells.h5ad", counts, obs)
    refused(lambda: read(path), "no counts", "fraction 0.5")


def test_values_that_are_no_numbers():
    counts = np.array([[1.0, np.nan]])
    where = {"genes": ["a", "b"], "obs": pd.DataFrame(index=["c"]), "where": "mine"}
    refused(lambda: clustering.from_counts(counts, **where), "mine", "no number")


def test_no_expression(tmp_path):
    _, obs = small()
    path = tmp_path / "cells.h5ad"
    ad.AnnData(obs=obs).write_h5ad(path)
    refused(lambda: read(path), "neither X nor raw.X")


def test_unknown_tissue(tmp_path):
    counts, obs = small()
    path = written(tmp_path / "cells.h5ad", counts, obs)
    refused(lambda: read(path, "Brain"), "'Brain'", "Kidney, Spleen", "conf/atlas/local.yaml")


def test_fewer_cells_than_neighbours():
    counts, obs = small()
    n = GRAPH.n_neighbors
    few = clustering.from_counts(counts[:n], list(genes().index), obs[:n], where="mine")
    refused(lambda: clustering.neighbours(few, GRAPH), "15 cells are too few", "at least 16")


def test_a_cell_without_counts():
    counts, obs = small()
    counts = counts.tolil()
    counts[4] = 0
    silent = clustering.from_counts(counts.tocsr(), list(genes().index), obs, where="mine")
    refused(lambda: clustering.neighbours(silent, GRAPH), "1 of 60 cells have no counts")


def test_no_gene_is_expressed_widely_enough():
    counts, obs = small()
    data = clustering.from_counts(counts, list(genes().index), obs, where="mine")
    strict = GRAPH.model_copy(update={"min_cells_per_gene": 61})
    refused(lambda: clustering.neighbours(data, strict), "0 genes", "at least 2")


def test_duplicated_gene_names_are_told_apart_and_reported(tmp_path, caplog):
    counts, obs = small()
    names = genes()
    names.index = ["Gene0", "Gene0", *names.index[2:]]
    path = tmp_path / "cells.h5ad"
    with pytest.warns(UserWarning, match="not unique"):
        written(path, counts, obs, var=names)
    with caplog.at_level("INFO", logger="stages"):
        found = read(path)
    assert list(found.var_names[:3]) == ["Gene0", "Gene0-1", "Gene2"]
    assert (found.X != counts[:30]).nnz == 0
    assert "1 gene names occur more than once, Gene0 first" in caplog.text


@pytest.mark.parametrize("resolution", [0.0, -1.0, float("nan")])
def test_resolution_must_be_positive(resolution):
    graph = clustering.neighbours(
        clustering.from_counts(small()[0], list(genes().index), small()[1], where="mine"), GRAPH
    )
    refused(lambda: clustering.leiden(graph, resolution, 0, LEIDEN), "above 0")


def test_a_graph_that_is_none(tmp_path):
    refused(lambda: clustering.read_graph(tmp_path / "no.h5ad"), "does not exist", "dvc repro")
    foreign = tmp_path / "foreign.h5ad"
    written(foreign, *small())
    refused(lambda: clustering.read_graph(foreign), "is no graph of neighbours", "cohort")


# --- graph and clusters --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kidney(tmp_path_factory, settings) -> ad.AnnData:
    """Kidney of the simulated cohort of Kimmel et al., 3,273 cells."""
    path = tmp_path_factory.mktemp("demo") / "kimmel-kidney.h5ad"
    of = SimulatedFile(
        out=path, cohort="kimmel", platform="droplet", tissue="Kidney", layout="anndata"
    )
    demo.simulate("kimmel-kidney", of, seed=20260101)
    spec = settings.atlas.cells["kimmel-kidney"]
    return clustering.read_tissue(path, spec, "Kidney", name="kimmel-kidney", atlas="demo")


@pytest.fixture(scope="module")
def graph(kidney) -> ad.AnnData:
    return clustering.neighbours(kidney, GRAPH)


def test_graph_holds_what_it_says(kidney, graph):
    weights = graph.obsp["connectivities"]
    assert graph.n_vars == 0
    assert weights.shape == (kidney.n_obs, kidney.n_obs)
    assert (weights != weights.T).nnz == 0
    assert 0 < weights.data.min() <= weights.data.max() <= 1
    assert graph.obsm["X_pca"].shape == (kidney.n_obs, GRAPH.n_comps)
    assert graph.obs.equals(kidney.obs)
    assert clustering.fault_of_counts(kidney.X) == "", "neighbours must not change its input"


def test_clusters_are_the_planted_types(graph):
    """Few counts a cell, so that the agreement is not perfect: observed 0.88."""
    types, _ = pd.factorize(graph.obs["cell_type"])
    assert agreement_of(clustering.leiden(graph, 0.2, 0, LEIDEN), types) > 0.7


def test_written_graph_is_the_graph_and_its_bytes_are_the_same_each_time(graph, tmp_path):
    first, second = tmp_path / "a" / "graph.h5ad", tmp_path / "b" / "graph.h5ad"
    clustering.write_graph(graph, first)
    clustering.write_graph(graph, second)
    assert file_hash(first) == file_hash(second)
    again = clustering.read_graph(first)
    assert again.obs.equals(graph.obs)
    assert (again.obsp["connectivities"] != graph.obsp["connectivities"]).nnz == 0
    assert np.array_equal(again.obsm["X_pca"], graph.obsm["X_pca"])
    labels = clustering.leiden(graph, 0.8, 1, LEIDEN)
    assert np.array_equal(clustering.leiden(again, 0.8, 1, LEIDEN), labels)


def test_only_what_decides_a_clustering_has_it_made_again(graph, tmp_path, caplog):
    def made(of: ad.AnnData, runs: list[tuple[float, int]], settings: Leiden) -> list[np.ndarray]:
        return clustering.leiden_each(of, runs, settings, scratch=tmp_path)

    def there() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")}

    first = made(graph, [(0.8, 1), (0.2, 1)], LEIDEN)
    assert [labels.dtype for labels in first] == [np.int64, np.int64]
    assert np.array_equal(first[0], clustering.leiden(graph, 0.8, 1, LEIDEN))
    before = there()
    # The seed of the settings decides nothing here; a seed and a resolution are added.
    runs = [(0.2, 1), (0.8, 1), (0.8, 2), (1.0, 1)]
    again = made(graph, runs, LEIDEN.model_copy(update={"seed": 9}))
    np.testing.assert_array_equal(first, again[1::-1])
    after = there()
    assert before.items() <= after.items()
    assert len(after) == 4
    # Another graph, another rule.
    weaker = graph.copy()
    weaker.obsp["connectivities"].data[:1] /= 2
    made(weaker, runs[:1], LEIDEN)
    made(graph, runs[:1], LEIDEN.model_copy(update={"n_iterations": 1}))
    assert len(there()) == 6
    # A damaged one is said, and made again.
    (damaged,) = tmp_path.glob("1-1-*.npz")
    damaged.write_bytes(damaged.read_bytes()[:-40])
    assert np.array_equal(made(graph, runs[3:], LEIDEN)[0], again[3])
    assert f"{damaged} is damaged" in caplog.text
    assert len(there()) == 6


@pytest.mark.parametrize("flavor", ["leidenalg", "igraph"])
def test_one_seed_gives_one_clustering(graph, flavor):
    settings = LEIDEN.model_copy(update={"flavor": flavor, "directed": False})
    first = clustering.leiden(graph, 1.0, 3, settings)
    assert np.array_equal(first, clustering.leiden(graph, 1.0, 3, settings))
    sizes = np.bincount(first)
    assert (np.diff(sizes) <= 0).all(), "cluster 0 is the largest"
    assert first.shape == (graph.n_obs,)


def test_a_higher_resolution_gives_more_clusters(graph):
    n = [clustering.leiden(graph, r, 0, LEIDEN).max() for r in (0.01, 0.2, 3.0)]
    assert n[0] < n[1] < n[2]


def test_neighbours_among_all_cells_are_the_graph(graph):
    everyone = np.ones(graph.n_obs, dtype=bool)
    again = clustering.neighbours_among(graph, everyone, GRAPH)
    assert (again.obsp["connectivities"] != graph.obsp["connectivities"]).nnz == 0
    some = np.arange(graph.n_obs) % 2 == 0
    half = clustering.neighbours_among(graph, some, GRAPH)
    assert half.obs["animal"].tolist() == graph.obs["animal"][some].tolist()
    # Every cell has its neighbours again, which it would not have in a cut-out of the graph.
    assert np.diff(half.obsp["connectivities"].indptr).min() >= GRAPH.n_neighbors - 1


HASH_OF_A_GRAPH = """
import sys
from pathlib import Path
import numpy as np
from tests_graph import GRAPH, LEIDEN, data
from stages.cells import clustering
graph = clustering.neighbours(data(), GRAPH)
labels = clustering.leiden(graph, 0.8, 1, LEIDEN)
clustering.write_graph(graph, Path(sys.argv[1]))
np.save(sys.argv[2], labels)
"""


@pytest.mark.slow
def test_the_number_of_threads_changes_nothing(kidney, tmp_path):
    """BLAS, OpenMP and numba on one thread and on two: the same graph file, the same clusters."""
    (tmp_path / "tests_graph.py").write_text(
        "import anndata\n"
        "from stages.cells.settings import Leiden, Neighbours\n"
        f"GRAPH = Neighbours.model_validate({GRAPH.model_dump()!r})\n"
        f"LEIDEN = Leiden.model_validate({LEIDEN.model_dump()!r})\n"
        f"def data(): return anndata.read_h5ad({str(tmp_path / 'kidney.h5ad')!r})\n",
        encoding="utf-8",
    )
    stored = kidney.copy()
    stored.obs = stored.obs.astype(
        dict.fromkeys(("animal", "sex", "block", "condition", "cell_type"), str)
    )
    stored.write_h5ad(tmp_path / "kidney.h5ad")
    digests = []
    for n in ("1", "2"):
        threads = ("OMP", "OPENBLAS", "MKL", "NUMBA")
        environment = dict.fromkeys([f"{name}_NUM_THREADS" for name in threads], n)
        path = os.pathsep.join([str(ROOT), str(tmp_path)])
        out = [tmp_path / n / "graph.h5ad", tmp_path / f"{n}.npy"]
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", HASH_OF_A_GRAPH, *map(str, out)],
            env=os.environ | environment | {"PYTHONPATH": path},
            check=True,
        )
        digests.append([file_hash(path) for path in out])
    assert digests[0] == digests[1]


# --- real cells ----------------------------------------------------------------------------------


def test_real_cells_of_two_donors_and_two_conditions(real_input):
    """Kang et al. 2018, 1,556 PBMC: interferon moves every type, so that clusters part by both.

    Observed adjusted Rand index at resolution 0.8: 0.46 with the published types alone, 0.74 with
    type and condition together. At 0.1 it is 0.56 and 0.46.
    """
    kang = real_input("kang_ifn_pbmc_subset.h5ad")
    spec = CellsFile.model_validate(
        {
            "raw": kang,
            "cohort": "kang",
            "platform": "droplet",
            "columns": {
                "animal": "sample_id",
                "condition": "group_id",
                "cell_type": "cluster_id",
            },
            "constants": {"tissue": "Blood"},
            "groups": {"reference": ["ctrl"], "compared": ["stim"]},
        }
    )
    data = clustering.read_tissue(kang, spec, "Blood", name="kang", atlas="local")
    assert data.shape == (1556, 1267)
    graph = clustering.neighbours(data, GRAPH)
    labels = clustering.leiden(graph, 0.8, LEIDEN.seed, LEIDEN)
    types, _ = pd.factorize(data.obs["cell_type"])
    both, _ = pd.factorize(data.obs["cell_type"] + data.obs["group"])
    assert agreement_of(labels, types) > 0.4
    assert agreement_of(labels, both) > 0.65
    coarse = clustering.leiden(graph, 0.1, LEIDEN.seed, LEIDEN)
    assert agreement_of(coarse, types) > 0.5
