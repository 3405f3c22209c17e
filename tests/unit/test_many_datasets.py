"""Many datasets: each is compared as the other stages compare, and what is pooled is what is so."""

import math

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from stages.base import compose, tables
from stages.base.settings import parse
from stages.base.study import Study
from stages.cells import datasets, pooled
from stages.cells.contrast import contrast
from stages.cells.figures import forest
from stages.cells.metrics import metrics
from stages.cells.proportions import proportions
from stages.cells.tables.pooled import DATASETS, DATASETS_NOT_COMPARED, POOLED, SHRUNKEN
from stages.compute import run as computed
from stages.inputs import cells
from stages.inputs.obs import count_obs
from tests.made_census import cells_of


@pytest.fixture(scope="module")
def obs():
    return cells_of()


@pytest.fixture
def run(repository, tmp_path, monkeypatch):
    """Return a function that runs the first stage on a table, as make does; status and folder."""
    # What workers say is not caught here.
    monkeypatch.setattr(computed, "n_processors", lambda: 1)

    def runs(table, *settings):
        raw = tmp_path / "obs.parquet"
        table.to_parquet(raw)
        params = tmp_path / "params.yaml"
        words = [f"atlas.datasets.census.raw={raw}", "metrics.rarefaction.draws=5", *settings]
        args = ["--conf", str(repository / "conf"), "--params", str(params), "--atlas", "census"]
        assert compose.main([*args, "--set", *words]) == 0
        words = ["--params", str(params), "--collection", "census"]
        words += ["--scratch", str(tmp_path / "shards"), "--out", str(tmp_path / "d.csv")]
        status = datasets.main([*words, "--not-compared", str(tmp_path / "n.csv")])
        return status, tmp_path

    return runs


def _pool(folder):
    words = ["--params", str(folder / "params.yaml"), "--datasets", str(folder / "d.csv")]
    words += ["--out", str(folder / "p.csv"), "--shrunken", str(folder / "s.csv")]
    assert pooled.main(words) == 0
    return tables.read(folder / "p.csv", POOLED), tables.read(folder / "s.csv", SHRUNKEN)


def test_a_planted_change_is_found_and_a_null_tissue_is_silent(run, obs):
    status, folder = run(obs)
    assert status == 0
    found, shrunken = _pool(folder)
    gini = found[(found["cells"] == "all") & (found["metric"] == "gini")].set_index("tissue")
    assert gini["n_datasets"].tolist() == [7, 7]
    assert gini.loc["lung", "emphasised"]
    assert gini.loc["lung", "quadrant"] == "crystallize"
    assert gini.loc["lung", "change_low"] > 0.05
    assert not gini.loc["liver", "emphasised"]
    assert gini.loc["liver", "p"] > 0.05
    weights = shrunken.groupby(["tissue", "cells", "metric"])["weight"].sum()
    assert np.allclose(weights, 1)
    each = tables.read(folder / "d.csv", DATASETS).merge(
        shrunken, on=["dataset", "tissue", "cells", "metric"]
    )
    means = each.merge(found, on=["tissue", "cells", "metric"], suffixes=("", "_mean"))
    # Drawn towards the mean, never beyond it.
    before, after = (means["change_x"] - means["change"]), (means["shrunken"] - means["change"])
    assert (np.abs(after) <= np.abs(before) + 1e-12).all()
    figure = forest.draw(found, shrunken, Study("census", "local", simulated=False, notice=""))
    words = {text.get_text() for text in figure.axes[0].get_yticklabels()}
    assert words == {"lung", "liver"}


def test_of_one_dataset_it_says_what_contrast_says(run, obs, repository):
    one = obs[obs["dataset_id"] == "set3"]
    status, folder = run(one)
    assert status == 0
    mine = tables.read(folder / "d.csv", DATASETS)
    settings = parse(yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8")))
    spec = settings.datasets["census"].model_copy(update={"cohort": "set3"})
    columns = [*cells.wanted_columns(spec), "dataset_id"]
    counted = cells.count(count_obs(spec.raw, columns), spec, name="x", atlas="x")
    shares, _ = proportions(counted, settings.proportions)
    expected, _ = contrast(metrics(shares, settings.metrics), settings.contrast)
    key = ["tissue", "cells", "metric"]
    both = mine.merge(expected, on=key, suffixes=("", "_expected"), validate="1:1")
    assert len(both) == len(expected) == 24
    for name in ("change", "change_low", "change_high", "rank_p", "n_reference", "compared_median"):
        assert (both[name] == both[f"{name}_expected"]).all(), name
    found, _ = _pool(folder)
    alone = found.merge(mine, on=key, suffixes=("", "_own"))
    assert (alone["n_datasets"] == 1).all()
    assert (alone["change"] == alone["change_own"]).all()
    assert (alone["p"] == alone["rank_p"]).all()
    assert alone[["tau2", "i2", "without_p", "predicted_low"]].isna().all(axis=None)


def test_a_run_goes_on_from_finished_shards_to_the_same_bytes(run, obs, caplog):
    _, folder = run(obs)
    before = (folder / "d.csv").read_bytes()
    files = sorted((folder / "shards").iterdir())
    assert len(files) == 7
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:100])
    kept = {path: path.stat().st_mtime_ns for path in files[2:]}
    status, _ = run(obs)
    assert status == 0
    assert (folder / "d.csv").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in files[2:]} == kept
    assert "is damaged" in caplog.text
    # Other settings are other shards.
    run(obs, "proportions.min_cells=60")
    assert len(list((folder / "shards").iterdir())) == 2 * len(files)


def test_cells_that_are_not_primary_do_not_count(run, obs):
    first = tables.read(run(obs)[1] / "d.csv", DATASETS)
    twice = pd.concat([obs, obs.assign(is_primary_data=False)])
    status, folder = run(twice)
    assert status == 0
    pd.testing.assert_frame_equal(tables.read(folder / "d.csv", DATASETS), first)


def test_a_donor_in_two_datasets_counts_once_where_most_cells_are(run, obs, caplog):
    lent = obs[obs["donor_id"] == "d0-0"].iloc[:200].assign(dataset_id="set1")
    status, folder = run(pd.concat([obs, lent]))
    assert status == 0
    found = tables.read(folder / "d.csv", DATASETS)
    lung = found[
        (found["tissue"] == "lung") & (found["metric"] == "gini") & (found["cells"] == "all")
    ]
    assert (lung["n_reference"] == 5).all()
    assert "1 samples of donors stand in several datasets, the first of donor d0-0" in caplog.text


def test_a_dataset_with_one_donor_is_listed_and_ends_nothing(run, obs):
    lone = obs[(obs["dataset_id"] != "set2") | (obs["donor_id"] == "d2-0")]
    status, folder = run(lone)
    assert status == 0
    skipped = tables.read(folder / "n.csv", DATASETS_NOT_COMPARED)
    assert set(skipped["dataset"]) == {"set2"}
    assert skipped["reason"].str.contains("no cell|needs 2 donors in each group").all()
    assert "set2" not in set(tables.read(folder / "d.csv", DATASETS)["dataset"])


def test_ages_that_are_none_are_left_out_and_said(run, obs, caplog):
    some = obs["donor_id"] == "d0-0"
    table = obs.assign(development_stage=obs["development_stage"].where(~some, "adult stage"))
    status, folder = run(table)
    assert status == 0
    assert "600 of 42000 cells have no age that is understood" in caplog.text
    found = tables.read(folder / "d.csv", DATASETS)
    assert found.loc[found["dataset"] == "set0", "n_reference"].unique().tolist() == [4]
    assert run(table, "atlas.datasets.census.age_months={adult stage: 360}")[0] == 0
    found = tables.read(folder / "d.csv", DATASETS)
    assert found.loc[found["dataset"] == "set0", "n_reference"].unique().tolist() == [5]


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        (lambda t: t.drop(columns="donor_id"), [], "column donor_id is not in"),
        (lambda t: t.drop(columns="dataset_id"), [], "column dataset_id is not in"),
        (lambda t: t.assign(dataset_id=None), [], "have no dataset in column dataset_id"),
        (lambda t: t.assign(disease="COVID-19"), [], "has 'normal' in column disease; values"),
        (lambda t: t.assign(development_stage="adult stage"), [], "has an age that is understood"),
        (lambda t: t[t["donor_id"] == "d0-0"], [], "none of 1 datasets"),
        (lambda t: t.assign(cell_type="unknown"), [], "has a cell type"),
        (lambda t: t.iloc[:0], [], "no cell"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, obs, caplog, change, settings, said):
    caplog.clear()
    status, folder = run(change(obs), *settings)
    assert status == 1
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert said in errors[0]
    assert "\n" not in errors[0]
    assert not (folder / "d.csv").exists()


def test_an_atlas_without_datasets_has_no_such_stage(params, tmp_path, caplog):
    assert params["datasets"] == {}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params), encoding="utf-8")
    words = ["--params", str(path), "--collection", "census", "--scratch", str(tmp_path)]
    words += ["--out", str(tmp_path / "o"), "--not-compared", str(tmp_path / "n")]
    assert datasets.main(words) == 1
    assert "has no datasets 'census': it names none" in caplog.text


@pytest.mark.parametrize("n", [2, 3, 4, 7, 20, 41])
def test_the_variance_of_a_median_is_that_of_simulated_ones(n):
    drawn = np.median(np.random.default_rng(n).normal(size=(200_000, n)), axis=1).var()
    # Over these n the largest difference seen was 0.5%.
    assert datasets.median_variance(n) == pytest.approx(drawn, rel=0.012)


def test_the_mean_solves_its_equation_and_is_that_of_statsmodels():
    from statsmodels.stats.meta_analysis import combine_effects

    rng = np.random.default_rng(5)
    n_apart = 0
    for _ in range(40):
        variances = rng.uniform(0.2, 2, 6)
        changes = rng.normal(scale=2, size=6)
        found = pooled.mean(changes, variances)
        weights = 1 / (variances + found.tau2)
        assert found.change == pytest.approx(np.average(changes, weights=weights), abs=1e-12)
        t = found.change * math.sqrt(weights.sum())
        assert found.p() == pytest.approx(2 * stats.t.sf(abs(t), 5), abs=1e-12)
        spread = weights @ (changes - found.change) ** 2
        # Over these 40 the largest distance from 5 was 1e-13.
        assert spread == pytest.approx(5, abs=1e-9) if found.tau2 else spread <= 5
        theirs = combine_effects(changes, variances, method_re="pm", maxiter=500, atol=1e-6)
        assert found.q == pytest.approx(theirs.q, abs=1e-9)
        assert found.i2 == pytest.approx(max(theirs.i2, 0), abs=1e-9)
        # It answers 0 too where rounding takes its last step past the solution.
        if theirs.tau2 > 0:
            n_apart += 1
            assert found.tau2 == pytest.approx(theirs.tau2, rel=1e-6)
            assert np.allclose(found.weights, theirs.weights_rel_re, rtol=1e-6)
    assert n_apart > 20


def test_where_nothing_changes_a_mean_is_small_p_as_often_as_it_says():
    """Ten datasets of three to eight donors, whose true changes differ about 0."""
    rng = np.random.default_rng(1)
    p = []
    for _ in range(400):
        sizes = rng.integers(3, 9, (10, 2))
        rows = []
        for n, m in sizes:
            x, y = rng.normal(size=n), rng.normal(size=m) + rng.normal(scale=0.5)
            spread = math.sqrt((x.var() * n + y.var() * m) / (n + m - 2))
            rows.append([n, m, False, spread, np.median(y) - np.median(x)])
        table = pd.DataFrame(
            rows, columns=["n_reference", "n_compared", "paired", "spread", "change"]
        )
        variances = pooled.sampling_variance(table)
        p.append(pooled.mean(table["change"].to_numpy(), variances).p())
    low, high = stats.binom.interval(0.999, 400, 0.05)
    assert low <= sum(value <= 0.05 for value in p) <= high


def test_large_groups_are_compared_by_normal_theory(obs):
    rng = np.random.default_rng(2)
    group = np.repeat(["reference", "compared"], 60)
    table = pd.DataFrame(
        {"group": group, "block": None, "gini": rng.normal(size=120) + (group == "compared")}
    )
    found = datasets.compare(table, "gini", confidence=0.95)
    assert not found["exact"]
    assert found["change_low"] < 1 < found["change_high"]
    values = [table.loc[table["group"] == name, "gini"] for name in ("compared", "reference")]
    assert found["rank_p"] == stats.mannwhitneyu(*values, method="asymptotic").pvalue
    small = table.groupby("group").head(20)
    assert datasets.compare(small.reset_index(drop=True), "gini", confidence=0.95)["exact"]


def test_a_tissue_without_any_difference_is_not_pooled():
    row = {"dataset": "a", "tissue": "lung", "cells": "all", "metric": "gini", "paired": False}
    row |= dict.fromkeys(["reference_median", "compared_median", "change", "change_low"], 0.0)
    row |= {"n_reference": 3, "n_compared": 3, "change_high": 0.0, "spread": 0.0, "rank_p": 1.0}
    table = pd.DataFrame([row | {"rank_q": 1.0, "exact": True}])
    found, shrunken = pooled.pooled(table, confidence=0.95)
    assert found.empty
    assert shrunken.empty
    about = Study("census", "local", simulated=False, notice="")
    assert forest.draw(found, shrunken, about).texts
