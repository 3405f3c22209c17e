"""Simulated haematopoiesis: what is planted among genes and cells is what comes out."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml

from clonal import tl
from stages.inputs.haematopoiesis import __main__ as command
from stages.inputs.haematopoiesis import cells, tree
from stages.inputs.haematopoiesis.genes import (
    ACTIVATED,
    COMPLEX_GENES,
    FACTORS,
    PROGRAMME_GENES,
    REPRESSED,
    plant,
)
from stages.inputs.settings import Haematopoiesis
from stages.measurement.concentration import effective_number, gini

SMALL = Haematopoiesis(seed=7, donors=4, cells_a_donor=500)


@pytest.fixture(scope="module")
def simulated():
    return command.simulate(SMALL)


@pytest.fixture(scope="module")
def logs(simulated):
    counts = simulated[0].X.toarray()
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)


def test_the_tree_is_one_and_its_distances_are_hops():
    hops = tree.hops()
    assert (hops == hops.T).all()
    assert (np.diag(hops) == 0).all()
    at = tree.NODES.index
    assert hops[at("CD4 T"), at("CD8 T")] == 2
    assert hops[at("Erythroid"), at("Plasma")] == 2 + 4
    edges = [(name, parent) for name, parent in tree.PARENTS.items() if parent]
    assert all(hops[at(name), at(parent)] == 1 for name, parent in edges)
    # A tree of n kinds has n - 1 edges: no other pair is one step apart.
    assert (hops == 1).sum() == 2 * len(edges) == 2 * (len(tree.NODES) - 1)


def test_pseudotime_goes_from_the_stem_cell_to_the_deepest_leaf():
    node = np.array([tree.NODES.index("HSC"), tree.NODES.index("Plasma")])
    assert tree.pseudotime(node, np.array([0.0, 1.0])).tolist() == [0.0, 1.0]


def test_a_cell_turns_its_programme_on_and_its_parent_s_down():
    node = np.full(2, tree.NODES.index("B"))
    early, late = tree.activities(node, np.array([0.0, 1.0]))
    own, parent = tree.NODES.index("B"), tree.NODES.index("Pro-B")
    assert early[own] < 0.02 < 0.98 < late[own]
    assert late[parent] == pytest.approx(1 - 0.7 * late[own])
    assert late[tree.NODES.index("NK")] == 0


def test_the_planted_structure_has_its_numbers_and_a_seed_of_its_own():
    genes = plant(3)
    table = genes.table
    assert table["gene"].is_unique
    assert table["symbol"].is_unique
    assert (table.groupby("programme").size().drop("") == PROGRAMME_GENES).all()
    n_factors = FACTORS * len(tree.NODES)
    assert table["is_factor"].sum() == n_factors
    signs = genes.edges["sign"].value_counts()
    assert signs["activates"] == n_factors * ACTIVATED
    assert signs["represses"] == n_factors * REPRESSED
    programme = table.set_index("gene")["programme"]
    same = genes.edges["factor"].map(programme) == genes.edges["target"].map(programme)
    assert (same == (genes.edges["sign"] == "activates")).all()
    assert (table[table["complex"] >= 0].groupby("complex").size() == COMPLEX_GENES).all()
    pd.testing.assert_frame_equal(plant(3).edges, genes.edges)
    assert not plant(4).edges.equals(genes.edges)


def test_counts_are_whole_and_every_donor_has_its_cells(simulated):
    found, genes = simulated
    assert found.shape == (2000, len(genes))
    assert (found.X.data == np.round(found.X.data)).all()
    assert found.X.data.min() > 0
    assert found.obs["donor"].value_counts().tolist() == [500] * 4
    assert found.obs["pseudotime"].between(0, 1).all()
    again, _ = command.simulate(SMALL)
    assert (again.X != found.X).nnz == 0


def test_a_donor_s_cells_do_not_depend_on_how_many_donors_there_are(simulated):
    more, _ = command.simulate(SMALL.model_copy(update={"donors": 6}))
    assert (more[:2000].X != simulated[0].X).nnz == 0


def test_genes_of_a_programme_are_high_in_its_cells(simulated, logs):
    found, genes = simulated
    node, programme = found.obs["node"].to_numpy(), genes.table["programme"].to_numpy()
    for name in tree.NODES:
        if (node == name).sum() > 20:
            of = logs[:, programme == name].mean(axis=1)
            assert of[node == name].mean() > of[node != name].mean() + 0.3, name


def test_strong_complexes_go_together_and_weak_ones_hardly(simulated, logs):
    _, genes = simulated
    number = genes.table["complex"].to_numpy()
    mean = []
    for of in genes.complexes["complex"]:
        seen = np.corrcoef(logs[:, number == of].T)
        mean.append(seen[np.triu_indices(COMPLEX_GENES, 1)].mean())
    # Observed 0.93; the weakest about 0.01, the strongest about 0.22.
    assert np.corrcoef(mean, genes.complexes["strength"])[0, 1] > 0.8
    assert mean[-1] > mean[0] + 0.1


def test_targets_follow_their_factors_in_the_planted_direction(simulated, logs):
    _, genes = simulated
    place = {gene: number for number, gene in enumerate(genes.table["gene"])}
    seen = np.corrcoef(logs.T)
    edges = genes.edges[genes.edges["sign"] == "activates"]
    of = np.mean(
        [seen[place[a], place[b]] for a, b in zip(edges.factor, edges.target, strict=True)]
    )
    pairs = set(zip(edges.factor, edges.target, strict=True))
    rest = []
    for node in tree.NODES:
        own = genes.table[genes.table["programme"] == node]
        rest += [
            seen[place[a], place[b]]
            for a in own.loc[own["is_factor"], "gene"]
            for b in own.loc[~own["is_factor"], "gene"]
            if (a, b) not in pairs
        ]
    # Observed 0.20 against 0.14 within the same programme.
    assert of > np.mean(rest) + 0.02


def test_old_marrow_is_more_concentrated_and_the_truth_says_by_how_much():
    table = cells.composition()
    for age, of in (("young", cells.YOUNG), ("old", cells.OLD)):
        rows = table[table["age"] == age]
        shares = np.array(list(of.values())) / sum(of.values())
        assert rows["share"].sum() == pytest.approx(1)
        assert rows["gini"].iloc[0] == pytest.approx(gini(shares))
        assert rows["effective_number"].iloc[0] == pytest.approx(effective_number(shares))
    by_age = table.groupby("age")[["gini", "effective_number"]].first()
    assert by_age.loc["old", "gini"] > by_age.loc["young", "gini"] + 0.1
    assert by_age.loc["old", "effective_number"] < by_age.loc["young", "effective_number"] - 1


def test_the_command_writes_cells_and_truth(tmp_path, params):

    params = dict(
        params, haematopoiesis=SMALL.model_copy(update={"cells_a_donor": 20}).model_dump()
    )
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    words = ["--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / "made")]
    assert command.main(words) == 0
    found = ad.read_h5ad(tmp_path / "made" / command.CELLS_FILE)
    names = {path.name for path in (tmp_path / "made").iterdir()}
    assert names == {
        command.CELLS_FILE,
        *(f"{name}.csv" for name in ("genes", "edges", "complexes", "nodes", "composition")),
    }
    genes = pd.read_csv(tmp_path / "made" / "genes.csv")
    assert genes["gene"].tolist() == found.var_names.tolist()
    nodes = pd.read_csv(tmp_path / "made" / "nodes.csv", keep_default_na=False)
    assert set(found.obs["node"]) <= set(nodes["node"])


def test_composition_finds_what_age_did_to_it():
    """The donors' own shares scatter around those of their age, so the intervals are wide."""
    found, _ = command.simulate(SMALL.model_copy(update={"donors": 10, "cells_a_donor": 600}))
    years = found.obs["age"].astype(str).str.split().str[0].astype(int)
    obs = found.obs.assign(group=np.where(years >= cells.OLD_FROM, "old", "young"))
    measured = tl.composition(obs, sample="donor", cell_type="node", covariates=["group"], draws=2)
    compared = tl.compare(measured, group="group", reference="young", compared="old")
    of = compared[compared["cells"] == "all"].set_index("metric")
    truth = cells.composition().groupby("age")[["gini", "effective_number"]].first()
    planted = truth.loc["old"] - truth.loc["young"]
    assert planted["gini"] > 0 > planted["effective_number"]
    assert (of["quadrant"] == "crystallize").all()
    for name, change in planted.items():
        assert of.loc[name, "change_low"] <= change <= of.loc[name, "change_high"]
