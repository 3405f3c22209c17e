"""An atlas that has nothing to cluster: every stage of the room ends with an empty table."""

import json

import pytest
import yaml

from stages.base import tables
from stages.cells import (
    granularity,
    graphs,
    neighbours,
    restriction,
    stability,
    substates,
)
from stages.cells.figures import (
    granularity_curve,
    replication_animals,
    replication_robustness,
    restriction_rescue,
    substate_scale,
)
from stages.cells.tables.clusters import CLUSTER_CONTRAST, CLUSTER_METRICS
from stages.cells.tables.contrast import CONTRAST
from stages.cells.tables.graphs import GRAPHS
from stages.cells.tables.restriction import (
    RESTRICTION,
    RESTRICTION_LIBRARIES,
    RESTRICTION_TESTS,
)
from stages.cells.tables.stability import STABILITY, STABILITY_RUNS
from stages.cells.tables.substates import SUBSTATES_NOT_COMPARED

COMPARED = {
    "substates": ["substates_metrics", "substates", "substates_not_compared"],
    "granularity": ["granularity_curve_metrics", "granularity_curve"],
    "stability": ["stability_runs", "stability"],
    "restriction": [
        "restriction_libraries",
        "restriction",
        "restriction_tests",
    ],
}


@pytest.fixture(scope="module")
def folder(params, tmp_path_factory):
    """Return the folder in which the stages wrote what they find in such an atlas."""
    folder = tmp_path_factory.mktemp("nothing")
    content = params | {"atlas": params["atlas"] | {"graphs": {}, "libraries": {}}}
    (folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    shared = [f"--params={folder / 'params.yaml'}"]

    def path(name):
        return str(folder / f"{name}.csv")

    assert graphs.main([*shared, "--out", str(folder / "graphs/graphs.csv")]) == 0
    kept = f"--scratch={folder / 'clusterings'}"
    read = [*shared, f"--graphs={folder / 'graphs'}", kept]
    words = ["--entry", "curve", "--metrics", path("granularity_curve_metrics")]
    assert granularity.main([*read, *words, "--out", path("granularity_curve")]) == 0
    words = ["--runs", path("stability_runs"), "--out", path("stability")]
    assert stability.main([*read, *words]) == 0
    words = ["--metrics", path("substates_metrics"), "--out", path("substates")]
    words += ["--not-compared", path("substates_not_compared")]
    assert substates.main([*shared, kept, *words]) == 0
    words = ["--libraries", path("restriction_libraries"), "--tests", path("restriction_tests")]
    words += ["--out", path("restriction")]
    assert restriction.main([*read, *words]) == 0
    return folder


@pytest.mark.parametrize("stage", COMPARED)
def test_its_tables_are_empty(folder, stage):
    schemas = {
        "granularity_curve_metrics": CLUSTER_METRICS,
        "substates_metrics": CLUSTER_METRICS,
        "granularity_curve": CLUSTER_CONTRAST,
        "substates": CLUSTER_CONTRAST,
        "substates_not_compared": SUBSTATES_NOT_COMPARED,
        "stability": STABILITY,
        "stability_runs": STABILITY_RUNS,
        "restriction_libraries": RESTRICTION_LIBRARIES,
        "restriction_tests": RESTRICTION_TESTS,
        "restriction": RESTRICTION,
    }
    for name in COMPARED[stage]:
        assert tables.read(folder / f"{name}.csv", schemas[name]).empty


def test_the_list_of_graphs_is_empty_and_full(folder, params, tmp_path):
    assert tables.read(folder / "graphs/graphs.csv", GRAPHS).empty
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    args = [f"--params={tmp_path / 'params.yaml'}", f"--out={tmp_path / 'graphs.csv'}"]
    assert graphs.main(args) == 0
    found = tables.read(tmp_path / "graphs.csv", GRAPHS)
    assert set(found["graph"]) == set(params["atlas"]["graphs"]) | {"rat-marrow"}


def test_an_unknown_graph_is_one_line(folder, tmp_path, caplog):
    args = [f"--params={folder / 'params.yaml'}", "--graph", "x", f"--out={tmp_path / 'x.h5ad'}"]
    assert neighbours.main(args) == 1
    assert "names no graph 'x': allowed are none" in caplog.text
    assert not list(tmp_path.iterdir())


def test_its_figures_say_so_in_words(folder, tmp_path):
    (tmp_path / "study.json").write_text(
        json.dumps({"name": "mine", "source": "local", "simulated": False, "notice": ""})
    )
    tables.write(tables.empty(CONTRAST), CONTRAST, folder / "contrast.csv")

    def given(**names):
        words = [f"--{option}={folder / f'{name}.csv'}" for option, name in names.items()]
        return [*words, f"--study={tmp_path / 'study.json'}", f"--out={tmp_path}"]

    at = ["--reference", "0.8"]
    assert substate_scale.main([*given(substates="substates", coarse="contrast"), *at]) == 0
    metrics, contrast = COMPARED["granularity"]
    assert replication_animals.main([*given(metrics=metrics, contrast=contrast), *at]) == 0
    assert replication_robustness.main(given(contrast=contrast, stability="stability")) == 0
    assert granularity_curve.main(given(contrast=contrast, coarse="contrast")) == 0
    words = given(
        rescue="restriction", libraries="restriction_libraries", tests="restriction_tests"
    )
    assert restriction_rescue.main([*words, *at]) == 0
    assert len(list(tmp_path.glob("fig_*.png"))) == 5
