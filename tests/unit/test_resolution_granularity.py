"""Clusters as components: counted by hand, compared by the code of the types, planted signs."""

import itertools
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml

from stages.base import tables
from stages.base.errors import AtlasError, SettingsError
from stages.base.settings import Settings, load, parse
from stages.cells import clustering, contrast, granularity, metrics, neighbours, over_clusters
from stages.cells.settings import Metrics
from stages.cells.tables.clusters import ALL_TYPES, CLUSTER_CONTRAST, CLUSTER_METRICS
from stages.cells.tables.contrast import CONTRAST
from stages.cells.tables.metrics import CELLS, METRICS
from stages.cells.tables.proportions import PROPORTIONS
from stages.inputs.demo import __main__ as demo
from stages.inputs.settings import SimulatedFile
from stages.measurement import concentration, resampling

ROOT = Path(__file__).parents[2]
KEY = "kimmel-kidney"


def cells_of(**counts: list[int]) -> tuple[pd.DataFrame, np.ndarray]:
    """Cells of animals named like y1, o2: so many of each cluster."""
    rows, labels = [], []
    for animal, numbers in counts.items():
        group = "reference" if animal.startswith("y") else "compared"
        months = 3.0 if group == "reference" else 24.0
        sample = ["tms", "droplet", "Kidney", animal, None, None, months, None, group]
        for cluster, n in enumerate(numbers):
            rows += [sample] * n
            labels += [cluster] * n
    table = pd.DataFrame(rows, columns=over_clusters.counts.SAMPLE)
    return table, np.array(labels, dtype=np.int64)


def test_cells_by_cluster_by_hand():
    obs, labels = cells_of(y1=[3, 1], o1=[0, 5])
    table = PROPORTIONS.validate(over_clusters.clusters_as_types(obs, labels))
    found = table[["animal", "cell_type", "n_cells", "proportion"]].to_numpy().tolist()
    assert sorted(found) == [["o1", "1", 5, 1.0], ["y1", "0", 3, 0.75], ["y1", "1", 1, 0.25]]


@pytest.fixture(scope="module")
def draft(params, tmp_path_factory) -> Settings:
    """Return settings with the file of Kimmel's kidney alone, simulated at their true size."""
    path = tmp_path_factory.mktemp("demo") / "kimmel-kidney.h5ad"
    spec = SimulatedFile(
        out=path, cohort="kimmel", platform="droplet", tissue="Kidney", layout="anndata"
    )
    demo.simulate(KEY, spec, seed=20260101)
    atlas = params["atlas"]
    files = atlas["cells"] | {KEY: atlas["cells"][KEY] | {"raw": str(path)}}
    graph = atlas["graphs"][KEY] | {"raw": str(path)}
    content = params | {"atlas": atlas | {"cells": files, "graphs": {KEY: graph}}}
    here = {"cohorts": ["kimmel"], "tissues": ["Kidney"]}
    content["granularity"] = {
        "replication": here | {"resolutions": [], "adjusted_over": "tissues", "otherwise": "all"},
        "curve": here
        | {"resolutions": [0.3, 2.0], "adjusted_over": "resolutions", "otherwise": "all"},
    }
    content["clusters"] = params["clusters"] | {"resolutions": [0.3, 1.6], "reference": 0.3}
    return parse(content)


@pytest.fixture(scope="module")
def folder(draft, tmp_path_factory) -> Path:
    """Return the folder of graphs and settings, written by the stage itself."""
    folder = tmp_path_factory.mktemp("stages")
    text = yaml.safe_dump(draft.model_dump(mode="json"))
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    assert load(folder / "params.yaml") == draft
    args = ["--params", str(folder / "params.yaml"), "--graph", KEY]
    assert neighbours.main([*args, "--out", str(folder / "graphs" / f"{KEY}.h5ad")]) == 0
    return folder


@pytest.fixture(scope="module")
def graph(folder) -> ad.AnnData:
    return clustering.read_graph(folder / "graphs" / f"{KEY}.h5ad")


@pytest.fixture(scope="module")
def measured(graph, draft, folder) -> pd.DataFrame:
    table = over_clusters.measure(
        graph,
        [0.3, 1.6],
        leiden=draft.leiden,
        settings=draft.clusters,
        scratch=folder / "clusterings",
    )
    return CLUSTER_METRICS.validate(table)


def test_the_flip_of_the_kidney_is_recovered(measured, draft):
    """Planted: types crystallize while substates disperse.

    Observed: dGini +0.037 and deff_N -0.60 at resolution 0.3 with 15 clusters, -0.044 and +0.58 at
    1.6 with 16; from equal cells the same to 0.02.
    """
    settings = draft.clusters.contrast
    found = over_clusters.compare(measured, settings, family=["cohort", "platform"])
    for cells in CELLS:
        rows = found[found["cells"] == cells]
        change = rows.pivot_table(index="resolution", columns="metric", values="change")
        assert change.loc[0.3, "gini"] > 0 > change.loc[0.3, "effective_number"]
        assert change.loc[1.6, "gini"] < 0 < change.loc[1.6, "effective_number"]
        quadrant = rows.drop_duplicates("resolution").set_index("resolution")["quadrant"]
        assert quadrant.to_dict() == {0.3: "crystallize", 1.6: "disperse"}


def test_measures_are_those_of_the_cells_by_cluster(graph, measured, draft):
    labels = clustering.leiden(graph, 0.3, draft.leiden.seed, draft.leiden)
    n_checked = 0
    for animal, where in graph.obs.groupby("animal").indices.items():
        numbers = np.bincount(labels[where], minlength=labels.max() + 1)
        row = measured[
            (measured["animal"] == animal)
            & (measured["resolution"] == 0.3)
            & (measured["cells"] == "all")
        ].iloc[0]
        assert row["n_cells"] == numbers.sum()
        assert row["n_clusters"] == len(numbers)
        assert row["gini"] == pytest.approx(concentration.gini(numbers[numbers > 0]))
        expected = concentration.effective_number(numbers)
        assert row["effective_number"] == pytest.approx(expected)
        n_checked += 1
    assert n_checked == 7
    equal = measured[measured["cells"] == "rarefied"]
    smallest = graph.obs["animal"].value_counts().min()
    assert set(equal["n_cells"]) == {smallest}


def test_comparison_is_the_compositions(measured, draft):
    """The same samples as one tissue each through ``composition.contrast``: the same numbers."""
    settings = draft.clusters.contrast
    mine = over_clusters.compare(measured, settings, family=["cohort", "platform"])
    # Each resolution as a tissue of its own: the family of p-values is then the same too.
    renamed = measured.assign(tissue=measured["resolution"].astype(str))
    theirs, _ = contrast.contrast(renamed[list(METRICS.columns)], settings)
    mine = mine.assign(tissue=mine["resolution"].astype(str))
    key = ["tissue", "cells", "metric"]
    columns = [name for name in CONTRAST.columns if not name.startswith("within_block")]
    pd.testing.assert_frame_equal(
        mine[columns].sort_values(key, ignore_index=True),
        theirs[columns].sort_values(key, ignore_index=True),
    )


def words_of(folder: Path, entry: str, out: Path) -> list[str]:
    """Return the words of a run of the stage that keeps its clusterings beside its tables."""
    return [
        *("--params", str(folder / "params.yaml"), "--graphs", str(folder / "graphs")),
        *("--entry", entry, "--scratch", str(out / "clusterings")),
        *("--metrics", str(out / "metrics.csv"), "--out", str(out / "contrast.csv")),
    ]


def bytes_in(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in ("metrics.csv", "contrast.csv")]


@pytest.fixture(scope="module")
def curve(folder) -> Path:
    """Return what the stage writes of the curve: three resolutions."""
    assert granularity.main(words_of(folder, "curve", folder / "c")) == 0
    return folder / "c"


SLOW = """
import os, sys, time
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from stages.cells import clustering, granularity
real = clustering.leiden
def slow(*words):
    time.sleep(0.3)
    return real(*words)
clustering.leiden = slow
raise SystemExit(granularity.main(sys.argv[1:]))
"""


def test_a_killed_run_goes_on_from_its_clusterings(folder, curve, tmp_path):
    words = words_of(folder, "curve", tmp_path)
    kept = tmp_path / "clusterings"
    with subprocess.Popen([sys.executable, "-c", SLOW, *words], cwd=ROOT) as process:
        deadline = time.monotonic() + 120
        while not list(kept.glob("*.npz")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    before = {path: path.stat().st_mtime_ns for path in kept.glob("*.npz")}
    assert len(before) < 3
    assert not (tmp_path / "contrast.csv").exists()
    assert granularity.main(words) == 0
    assert bytes_in(tmp_path) == bytes_in(curve)
    assert len(list(kept.glob("*.npz"))) == 3
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


def test_stages_write_the_same_tables_each_time(folder, measured, draft, curve):
    for name in ("a", "b"):
        assert granularity.main(words_of(folder, "replication", folder / name)) == 0
    assert bytes_in(folder / "a") == bytes_in(folder / "b")
    replicated = tables.read(folder / "a" / "metrics.csv", CLUSTER_METRICS)
    assert len(replicated) == len(measured)
    # One tissue: its tests at a resolution are a family of one.
    alone = tables.read(folder / "a" / "contrast.csv", CLUSTER_CONTRAST)
    assert alone["rank_q"].tolist() == alone["rank_p"].tolist()
    table = tables.read(curve / "contrast.csv", CLUSTER_CONTRAST)
    assert sorted(table["resolution"].unique()) == [0.3, 1.6, 2.0]
    # One cohort, one tissue: every resolution of the curve is a test of the family.
    family = table[(table["cells"] == "all") & (table["metric"] == "gini")]
    adjusted = resampling.benjamini_hochberg(family["rank_p"])
    assert family["rank_q"].to_numpy() == pytest.approx(adjusted)


def test_clusters_of_any_animal_can_count_as_components():
    """An absent cluster is a zero in the Gini of the tissue's set; no effective number moves."""
    obs, labels = cells_of(y1=[3, 1, 0], o1=[2, 1, 5])
    shares = over_clusters.clusters_as_types(obs, labels)
    found = {}
    for kind in ("present", "tissue"):
        rules = Metrics(
            category_set=kind,
            fixed_categories=[],
            rarefaction={"draws": 2, "depth": None, "seed": 0},
        )
        table = metrics.metrics(shares, rules)
        row = table[(table["animal"] == "y1") & (table["cells"] == "all")].iloc[0]
        found[kind] = (row["gini"], row["effective_number"])
    assert found["present"][0] == pytest.approx(0.25)
    assert found["tissue"][0] == pytest.approx(0.5)
    assert found["present"][1] == found["tissue"][1]


# --- bad inputs ----------------------------------------------------------------------------------


def test_one_animal(draft, caplog):
    caplog.set_level("INFO")
    obs, labels = cells_of(y1=[30, 10], y2=[20, 10], o1=[20, 20])
    shares = over_clusters.clusters_as_types(obs, labels)
    equal = draft.clusters.equal_cells
    rules = Metrics(category_set="present", fixed_categories=[], rarefaction=equal)
    table = metrics.metrics(shares, rules).assign(
        cell_type="(all cells)", resolution=1.0, n_clusters=2
    )
    assert over_clusters.compare(table, draft.clusters.contrast, family=["cohort"]).empty
    assert "tms droplet Kidney not compared: 2 and 1 samples in its groups" in caplog.text


def test_a_cohort_without_a_graph_leaves_its_tables_empty(draft, caplog, tmp_path):
    caplog.set_level("INFO")
    assert over_clusters.graphs_of(draft, ["kimmel"], ["Lung", "Kidney"]) == [KEY]
    assert over_clusters.graphs_of(draft, ["tms"], ["Kidney"]) == []
    assert "cohort tms and tissue Kidney; the atlas names kimmel-kidney (Kidney)" in caplog.text
    rules = draft.granularity["curve"]
    measured, compared = granularity.granularity([], draft, rules, scratch=tmp_path)
    assert CLUSTER_METRICS.validate(measured).empty
    assert CLUSTER_CONTRAST.validate(compared).empty


def test_an_atlas_of_another_study_has_its_own_graphs(draft):
    atlas = draft.atlas
    files = {key: file.model_copy(update={"cohort": "mine"}) for key, file in atlas.cells.items()}
    second = {"second": files[KEY].model_copy(update={"cohort": "later"})}
    graphs = atlas.graphs | {"second": atlas.graphs[KEY].model_copy(update={"cells": "second"})}
    own = atlas.model_copy(update={"cells": files | second, "graphs": graphs})
    other = draft.model_copy(update={"atlas": own})
    found = {
        otherwise: over_clusters.graphs_of(other, ["tms"], ["Lung"], otherwise)
        for otherwise in ("all", "first tissue", "later cohorts")
    }
    assert found == {
        "all": [KEY, "second"],
        "first tissue": [KEY, "second"],
        "later cohorts": ["second"],
    }


def test_an_unknown_entry_is_one_line(folder, tmp_path, caplog):
    args = ["--params", str(folder / "params.yaml"), "--graphs", str(folder / "graphs")]
    args += ["--scratch", str(tmp_path / "clusterings")]
    out = [f"--metrics={tmp_path / 'metrics.csv'}", f"--out={tmp_path / 'contrast.csv'}"]
    assert granularity.main([*args, "--entry", "kidney", *out]) == 1
    assert "granularity has no entry 'kidney' in " in caplog.text
    assert "allowed are curve, replication." in caplog.text
    assert not list(tmp_path.iterdir())


def test_p_values_are_adjusted_over_what_an_entry_says(draft):
    """Two tissues at two resolutions: a family is the tissues of one, or those of one tissue."""
    rng = np.random.default_rng(0)
    parts = []
    for tissue, resolution in itertools.product(("Kidney", "Lung"), (0.3, 1.6)):
        # Of the kidney, the old animals have one large cluster; of the lung, nothing changes.
        extra = {"y": 0, "o": 200 * (tissue == "Kidney")}
        animals = {
            f"{group}{i}": (rng.integers(20, 50, 4) + np.array([of_group, 0, 0, 0])).tolist()
            for group, of_group in extra.items()
            for i in range(4)
        }
        shares = over_clusters.clusters_as_types(*cells_of(**animals))
        table = metrics.metrics(shares, over_clusters.rules(draft.clusters))
        known = {"cell_type": ALL_TYPES, "resolution": resolution, "n_clusters": 4}
        parts.append(table.assign(tissue=tissue, **known))
    measured = pd.concat(parts)
    differs = {}
    for over, fixed in (("tissues", "resolution"), ("resolutions", "tissue")):
        family = granularity.FAMILIES[over]
        found = over_clusters.compare(measured, draft.clusters.contrast, family=family)
        rows = found[(found["cells"] == "all") & (found["metric"] == "gini")]
        assert len(rows) == 4
        for _, tests in rows.groupby(fixed):
            adjusted = resampling.benjamini_hochberg(tests["rank_p"])
            assert tests["rank_q"].to_numpy() == pytest.approx(adjusted)
        differs[over] = rows["rank_q"].tolist()
    of_kidney = {over: qs[:2] for over, qs in differs.items()}
    # The smallest p of four against four is 2 / 70.
    assert of_kidney["resolutions"] == pytest.approx([2 / 70, 2 / 70])
    assert of_kidney["tissues"] == pytest.approx([4 / 70, 4 / 70])


def test_an_unknown_graph(draft):
    with pytest.raises(AtlasError, match=r"names no graph 'kidney': allowed are kimmel-kidney\."):
        neighbours.read(draft, "kidney")


@pytest.mark.parametrize(
    ("section", "change", "fault"),
    [
        ("leiden", {"flavor": "igraph"}, "no directed graphs"),
        ("leiden", {"n_iterations": 0}, "n_iterations 0"),
        ("clusters", {"reference": 0.5}, "reference 0.5"),
        ("clusters", {"resolutions": [0.8, 0.2]}, "ascend"),
        ("clusters", {"resolutions": [0.0, 0.8]}, "greater than 0"),
        ("granularity", {"mine": {"cohorts": ["tms"]}}, r"missing key granularity\.mine\.tissues"),
        ("granularity", {"a b": None}, r"granularity\.a b"),
        ("neighbours", {"hvg_flavor": "seurat_v3"}, "seurat"),
    ],
)
def test_settings_that_are_not_allowed(params, tmp_path, section, change, fault):
    path = tmp_path / "params.yaml"
    content = params | {section: params[section] | change}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(SettingsError, match=fault):
        load(path)


@pytest.mark.parametrize(
    ("graph", "fault"),
    [
        ({"cells": "elsewhere", "raw": "x.h5ad", "tissue": "Kidney"}, "is no key of cells"),
        ({"cells": KEY, "raw": "x.h5ad", "tissue": "Kidney"}, "is not the file of cells.kimmel-k"),
    ],
)
def test_a_graph_of_cells_that_are_not_there(params, tmp_path, graph, fault):
    path = tmp_path / "params.yaml"
    content = params | {"atlas": params["atlas"] | {"graphs": {"mine": graph}}}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(SettingsError, match=fault):
        load(path)
