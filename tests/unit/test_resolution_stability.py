"""Stability: which cells a part holds, agreement, and the summary of runs by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.metrics import adjusted_rand_score

from stages.base.settings import Settings, parse
from stages.cells import clustering, stability
from stages.cells.counts import SAMPLE
from stages.cells.settings import Stability
from stages.cells.tables.stability import STABILITY, STABILITY_RUNS

ROOT = Path(__file__).parents[2]
RULES = Stability(seeds=2, subsamples=2, cells_share=0.8, min_share=0.9, confidence=0.95, seed=5)


@pytest.fixture(scope="module")
def draft(params) -> Settings:
    clusters = params["clusters"] | {"resolutions": [0.1, 0.5], "reference": 0.5}
    rules = {"stability": RULES.model_dump(), "clusters": clusters}
    return parse(params | rules)


@pytest.fixture(scope="module")
def graph(draft):
    """Two young and two old animals whose three kinds of cells become more even."""
    rng = np.random.default_rng(1)
    programmes = rng.gamma(0.3, size=(3, 100)) + 0.05
    programmes /= programmes.sum(axis=1, keepdims=True)
    rows, kinds = [], []
    for animal, numbers in {
        "y1": [120, 12, 12],
        "y2": [130, 14, 12],
        "o1": [50, 45, 40],
        "o2": [52, 50, 45],
    }.items():
        months, group = (3.0, "reference") if animal.startswith("y") else (24.0, "compared")
        sample = ["tms", "droplet", "Kidney", animal, "male", None, months, None, group]
        for kind, n in enumerate(numbers):
            rows += [[*sample, f"type {kind}"]] * n
            kinds += [kind] * n
    counts = rng.poisson(400 * programmes[kinds]).astype(float)
    obs = pd.DataFrame(rows, columns=[*SAMPLE, "cell_type"])
    data = clustering.from_counts(counts, [f"Gene{i}" for i in range(100)], obs, where="mine")
    return clustering.neighbours(data, draft.neighbours)


def test_parts_hold_the_stated_share_of_every_animal(graph):
    parts = stability.parts_of(graph.obs, RULES)
    assert len(parts) == 3
    assert parts[0].all()
    everyone = graph.obs["animal"].value_counts()
    for part in parts[1:]:
        kept = graph.obs[part]["animal"].value_counts()
        assert (kept == (0.8 * everyone).round()).all()
    assert (parts[1] != parts[2]).any()
    again = stability.parts_of(graph.obs, RULES)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_agreement_is_the_adjusted_rand_index():
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.integers(0, 4, (2, 50))
        expected = adjusted_rand_score(first, second)
        # Two orders of summation: observed below 1e-15.
        assert stability.agreement_of(first, second) == pytest.approx(expected, abs=1e-12)


def test_a_clear_direction_is_stable(graph, draft, tmp_path):
    """Planted: disperse, in every run."""
    table, agreement = stability.runs(graph, draft, scratch=tmp_path)
    STABILITY_RUNS.validate(table)
    # 2 resolutions x (all cells and 2 parts) x 2 seeds
    assert len(table) == 12
    assert (table["quadrant"] == "disperse").all()
    assert len(agreement) == 2
    found = STABILITY.validate(stability.summary(table, agreement, draft.stability))
    gini = found[(found["metric"] == "gini") & (found["resolution"] == 0.1)].iloc[0]
    assert gini["direction"] == -1
    assert gini["stable"]
    assert gini["same_direction_share"] == 1.0
    # Of each part both seeds find the same clustering: three are different, of six runs, and three
    # of three are compatible with 0.025 ** (1 / 3).
    assert (gini["n_runs"], gini["n_clusterings"]) == (6, 3)
    assert gini["share_low"] == pytest.approx(0.025 ** (1 / 3))
    # Three kinds of cells that nobody could mistake: every seed finds them.
    assert gini["n_clusters_lowest"] == gini["n_clusters_highest"] == 3
    assert gini["ari_lowest"] == 1.0


def test_changes_are_differences_of_medians_by_hand(graph):
    kinds = graph.obs["cell_type"].str[-1].astype(int).to_numpy()
    found = stability.change(graph.obs, kinds, components="present")
    # By hand, (n + 1 - 2 * sum(cumsum(sorted)) / total) / n, medians of two.
    young = [(4 - 2 * (12 + 24 + 144) / 144) / 3, (4 - 2 * (12 + 26 + 156) / 156) / 3]
    old = [(4 - 2 * (40 + 85 + 135) / 135) / 3, (4 - 2 * (45 + 95 + 147) / 147) / 3]
    assert found["gini"] == pytest.approx(sum(old) / 2 - sum(young) / 2)
    assert found["effective_number"] > 0


def runs_of(*changes: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "cohort": "tms",
            "platform": "droplet",
            "tissue": "Kidney",
            "resolution": 0.5,
            "subsample": 0,
            "seed": range(len(changes)),
            "n_clusters": range(3, 3 + len(changes)),
            "clustering": range(len(changes)),
            "gini_change": changes,
            "effective_number_change": [-change for change in changes],
            "quadrant": "mixed",
        }
    )


@pytest.mark.parametrize(
    ("changes", "direction", "share", "stable"),
    [
        ([0.1] * 9 + [-0.1], 1, 0.9, True),
        ([0.1] * 8 + [-0.1] * 2, 1, 0.8, False),
        ([0.1] * 8 + [0.0] * 2, 1, 0.8, False),
        ([0.1, -0.1], 0, 0.5, False),
        ([-0.2] * 10, -1, 1.0, True),
    ],
)
def test_stable_is_a_stated_share_of_runs(changes, direction, share, stable):
    agreement = pd.DataFrame({"resolution": [0.5, 0.5, 0.1], "ari": [0.8, 0.6, 0.0]})
    found = stability.summary(runs_of(*changes), agreement, RULES)
    row = STABILITY.validate(found).iloc[1]
    assert row["metric"] == "effective_number"
    assert row["direction"] == -direction
    gini = found.iloc[0]
    assert (gini["direction"], gini["stable"]) == (direction, stable)
    assert gini["same_direction_share"] == pytest.approx(share)
    assert (gini["ari_median"], gini["ari_lowest"]) == pytest.approx((0.7, 0.6))
    assert (gini["n_clusters_lowest"], gini["n_clusters_highest"]) == (3, 2 + len(changes))


def test_a_clustering_that_is_found_again_counts_once():
    agreement = pd.DataFrame({"resolution": [0.5], "ari": [1.0]})
    runs = runs_of(*[0.1] * 5, -0.1).assign(clustering=[0, 0, 0, 0, 1, 2])
    gini = STABILITY.validate(stability.summary(runs, agreement, RULES)).iloc[0]
    assert (gini["n_runs"], gini["n_clusterings"]) == (6, 3)
    assert gini["same_direction_share"] == pytest.approx(2 / 3)
    exact = binomtest(2, 3).proportion_ci(0.95, method="exact")
    assert (gini["share_low"], gini["share_high"]) == pytest.approx((exact.low, exact.high))


def test_clusterings_are_the_same_where_only_the_names_of_clusters_differ():
    rng = np.random.default_rng(3)
    n_same = 0
    for _ in range(300):
        first, second = rng.integers(0, 2, (2, 4))
        same = stability.renamed(first).tolist() == stability.renamed(second).tolist()
        assert same == (adjusted_rand_score(first, second) == 1.0)
        n_same += same
    assert 0 < n_same < 300


def test_one_old_animal(graph, draft, tmp_path):
    fewer = clustering.neighbours_among(
        graph, (graph.obs["animal"] != "o2").to_numpy(), draft.neighbours
    )
    runs, agreement = stability.runs(fewer, draft, scratch=tmp_path)
    assert runs.empty
    assert agreement.empty
