"""Substates within cell types: opposite planted trends, and which types can be looked into."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.base.settings import Settings, parse
from stages.cells import clustering, neighbours, over_clusters, substates
from stages.cells.settings import Substates
from stages.cells.tables.clusters import CLUSTER_CONTRAST, CLUSTER_METRICS
from stages.cells.tables.metrics import CELLS
from stages.cells.tables.substates import SUBSTATES_NOT_COMPARED
from stages.inputs.demo import __main__ as demo
from stages.inputs.settings import SimulatedFile

ROOT = Path(__file__).parents[2]
KEY = "simulated-droplet-kidney"
CASES = ["podocyte", "macrophage"]


@pytest.fixture(scope="module")
def draft(params, tmp_path_factory) -> Settings:
    path = tmp_path_factory.mktemp("demo") / "tms-droplet.h5ad"
    spec = SimulatedFile(out=path, cohort="tms", platform="droplet", layout="legacy")
    demo.simulate("tms-droplet", spec, seed=20260101)
    atlas = params["atlas"]
    of = "simulated-droplet"
    files = atlas["cells"] | {of: atlas["cells"][of] | {"raw": str(path)}}
    graph = atlas["graphs"][KEY] | {"raw": str(path)}
    content = params | {"atlas": atlas | {"cells": files, "graphs": {KEY: graph}}}
    content["substates"] = params["substates"] | {"tissues": ["Kidney"], "resolutions": [0.3]}
    return parse(content)


@pytest.fixture(scope="module")
def cells(draft):
    return neighbours.read(draft, KEY)


@pytest.fixture(scope="module")
def found(draft, cells, tmp_path_factory):
    """Return the stage's tables for the two published cases alone."""
    chosen = cells[cells.obs["cell_type"].isin(CASES).to_numpy()].copy()
    return substates.substates([chosen], draft, scratch=tmp_path_factory.mktemp("scratch"))


def test_podocytes_crystallize_and_macrophages_disperse(found):
    """Planted in substates.csv.

    Observed at resolution 0.3: podocytes +0.22 and -1.02, macrophages -0.37 and +2.09 (Gini and
    effective number).
    """
    measured, compared, _ = found
    CLUSTER_METRICS.validate(measured)
    table = CLUSTER_CONTRAST.validate(compared)
    for cells in CELLS:
        rows = table[table["cells"] == cells]
        change = rows.pivot_table(index="cell_type", columns="metric", values="change")
        assert change.loc["podocyte", "gini"] > 0 > change.loc["podocyte", "effective_number"]
        assert change.loc["macrophage", "gini"] < 0 < change.loc["macrophage", "effective_number"]
    quadrant = table.drop_duplicates("cell_type").set_index("cell_type")["quadrant"]
    assert quadrant.to_dict() == {"podocyte": "crystallize", "macrophage": "disperse"}


@pytest.mark.slow
def test_the_whole_kidney_flips_with_granularity(cells, draft, tmp_path):
    """Planted: types crystallize while substates disperse.

    Observed: dGini +0.063 and deff_N -3.19 at resolution 0.02 with 17 clusters, -0.088 and +1.52 at
    0.8 with 21.
    """
    graph = clustering.neighbours(cells, draft.neighbours)
    measured = over_clusters.measure(
        graph, [0.02, 0.8], leiden=draft.leiden, settings=draft.clusters, scratch=tmp_path
    )
    table = over_clusters.compare(measured, draft.clusters.contrast, family=["cohort"])
    quadrant = table.set_index(["cells", "resolution"])["quadrant"].to_dict()
    assert quadrant == {
        (cells, resolution): named
        for cells in CELLS
        for resolution, named in ((0.02, "crystallize"), (0.8, "disperse"))
    }


def test_p_values_are_adjusted_over_the_types(found):
    _, compared, _ = found
    gini = compared[(compared["metric"] == "gini") & (compared["cells"] == "all")]
    p, q = (gini.sort_values("rank_p")[f"rank_{k}"].to_numpy() for k in "pq")
    assert q == pytest.approx([min(2 * p[0], p[1]), p[1]])


def test_only_animals_with_enough_cells_of_the_type_count(found, draft, cells):
    measured, _, _ = found
    of_all = measured[measured["cells"] == "all"]
    assert of_all["n_cells"].min() >= draft.substates.min_cells
    podocytes = cells.obs.loc[cells.obs["cell_type"] == "podocyte", "animal"].value_counts()
    expected = set(podocytes.index[podocytes >= draft.substates.min_cells])
    assert set(of_all.loc[of_all["cell_type"] == "podocyte", "animal"]) == expected
    assert 0 < len(expected) < podocytes.size


def test_types_left_out_are_listed_with_the_reason(cells, draft):
    by_type, left_out = substates.types_of(cells, draft.substates, draft.neighbours)
    table = SUBSTATES_NOT_COMPARED.validate(left_out)
    everything = set(cells.obs["cell_type"])
    assert set(by_type) | set(table["cell_type"]) == everything
    assert set(by_type) & set(table["cell_type"]) == set()
    assert set(CASES) < set(by_type)
    assert (
        table["reason"]
        .str.contains("needs 2 animals in each group, or complete pairs, with 10 cells")
        .all()
    )
    assert (table["n_cells"] > 0).all()


def test_a_type_with_fewer_cells_than_neighbours_is_left_out(params):
    group = ["reference", "reference", "compared", "compared"]
    obs = pd.DataFrame(
        {
            "cohort": "tms",
            "platform": "droplet",
            "tissue": "Kidney",
            "animal": [f"a{i}" for i in range(4)] * 3,
            "sex": "male",
            "age_months": [3.0, 3.0, 24.0, 24.0] * 3,
            "block": None,
            "condition": None,
            "group": group * 3,
            "cell_type": "podocyte",
        }
    )
    data = clustering.from_counts(np.ones((12, 3)), ["a", "b", "c"], obs, where="mine")
    rules = Substates(
        cohorts=["tms"], tissues=["Kidney"], resolutions=[0.3], min_cells=1, min_animals=2
    )
    graph = substates.Neighbours.model_validate(params["neighbours"])
    by_type, left_out = substates.types_of(data, rules, graph)
    assert not by_type
    assert left_out["reason"].tolist() == ["needs 16 cells for a graph of neighbours"]
    assert left_out["n_cells"].tolist() == [12]


def test_no_type_at_all(draft, tmp_path):
    rules = draft.substates.model_copy(update={"tissues": ["Brain"]})
    settings = draft.model_copy(update={"substates": rules})
    found = substates.substates([], settings, scratch=tmp_path)
    assert all(table.empty for table in found)
