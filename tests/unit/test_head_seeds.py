"""Trainings of several seeds, every baseline, and ways of removal side by side."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from stages.audit import trainings
from stages.base import compose
from stages.base.errors import SettingsError
from stages.base.settings import parse
from stages.heads import recipes, removal_kinds, seeds
from stages.heads.components import components
from stages.heads.metrics import METRICS
from stages.heads.settings import RemovalKinds, Seeds
from stages.heads.tables.removal_kinds import HEAD_REMOVALS
from stages.heads.tables.seeds import HEAD_BASELINES, HEAD_OVER_SEEDS, HEAD_SEEDS
from stages.measurement import concentration, effects, measured
from stages.measurement.effects import Effects, State
from stages.measurement.settings import Measured, System

STEPS = (0, 16, 64)
KEYS = components("head", [(layer, head, 0) for layer in range(3) for head in range(4)])
MEASURED = Measured(confidence=0.9, draws=60, seed=1)
OWN = Seeds(others=[1, 2], halvings=60, draws=40, seed=2)


def training(seed, condition="zero"):
    """Simulate heads that are alike at first, then apart, then less so."""
    rng = np.random.default_rng([seed, len(condition)])
    parts = []
    for step, spread in zip(STEPS, (0.2, 2.0, 1.0), strict=True):
        mean = np.exp(spread * rng.normal(size=12)) * np.where(rng.random(12) < 0.8, 1, -1)
        drawn = mean + 0.3 * rng.normal(size=(1, 16, 12))
        state = State("heads", f"step{step}", float(step), "nats per token")
        parts.append(
            Effects(state, "head", condition, KEYS, np.arange(16), drawn, np.full(16, 4.0))
        )
    return parts


@pytest.fixture(scope="module")
def three():
    trained = {seed: training(seed) for seed in (0, 1, 2)}
    found = seeds.seeds(trained, MEASURED, OWN)
    schemas = (HEAD_SEEDS, HEAD_OVER_SEEDS, HEAD_BASELINES)
    return trained, [schema.validate(table) for table, schema in zip(found, schemas, strict=True)]


def of(table, effects, estimator, metric):
    which = (table["effects"] == effects) & (table["estimator"] == estimator)
    return table[which & (table["metric"] == metric)]


def test_as_measured_it_has_the_digits_of_what_is_measured(three):
    trained, (each, _, baselines) = three
    system = System(room="heads", group="m", effects="e", states=[f"step{n}" for n in STEPS])
    whole, changes, _ = measured.measured(trained[0], system, METRICS, MEASURED)
    n_checked = 0
    for metric in ("gini", "effective_number"):
        ours = of(each[each["seed"] == 0], "absolute", "plug_in", metric)
        theirs = whole[whole["metric"] == metric]
        names = {"value": "value", "low": "replicates_low", "high": "replicates_high"}
        names |= {name: name for name in ("floor", "floor_low", "floor_high")}
        for mine, its in names.items():
            assert ours[mine].tolist() == theirs[its].tolist()
        change = of(baselines, "absolute", "plug_in", metric)
        same = changes[changes["metric"] == metric]
        assert change["state_first"].tolist() == same["state_first"].tolist()
        for mine, its in (("change", "change"), *((e, f"replicates_{e}") for e in ("low", "high"))):
            assert change[mine].tolist() == same[its].tolist()
            n_checked += 1
    assert n_checked == 6


def test_harmful_effects_are_those_above_zero(three):
    trained, (each, _, _) = three
    rows = of(each, "harmful", "plug_in", "gini").set_index(["seed", "state"])
    for seed, parts in trained.items():
        for part in parts:
            harm = np.maximum(part.values.mean(axis=0), 0)
            value = rows.loc[(seed, part.state.name), "value"]
            assert value == pytest.approx(concentration.gini(harm), abs=1e-12)


def test_means_and_changes_over_seeds_have_students_interval(three):
    _, (each, over, baselines) = three
    values = of(each, "absolute", "split_half", "gini").pivot(
        index="seed", columns="state", values="value"
    )
    rows = of(over, "absolute", "split_half", "gini").set_index("state")
    pairs = of(baselines, "absolute", "split_half", "gini")
    pairs = pairs.set_index(["state_first", "state_last"])
    low, high = stats.ttest_1samp(values["step64"], 0).confidence_interval(0.9)
    assert rows.loc["step64", ["low", "high"]].tolist() == pytest.approx([low, high])
    change = values["step64"] - values["step16"]
    low, high = stats.ttest_1samp(change, 0).confidence_interval(0.9)
    row = pairs.loc[("step16", "step64")]
    assert [row["mean_low"], row["mean_high"]] == pytest.approx([low, high])
    assert (row["n_seeds"], row["n_rise"]) == (3, (change > 0).sum())
    assert len(pairs) == 3


def test_each_training_has_one_peak_and_the_states_count_them(three):
    _, (each, over, _) = three
    for keys, rows in each.groupby(["seed", *seeds.WHAT]):
        best = rows["value"].idxmin() if keys[-1] == "effective_number" else rows["value"].idxmax()
        assert rows.index[rows["is_peak"]].tolist() == [best]
    assert (over.groupby(seeds.WHAT)["n_peaks"].sum() == 3).all()


def test_a_training_alone_has_no_interval_over_seeds():
    each, over, baselines = seeds.seeds({None: training(0)[:1]}, MEASURED, OWN)
    assert HEAD_SEEDS.validate(each)["seed"].isna().all()
    assert HEAD_OVER_SEEDS.validate(over)[["low", "high"]].isna().all(axis=None)
    assert HEAD_BASELINES.validate(baselines).empty


def test_too_few_sequences_have_no_halves():
    few = [
        Effects(part.state, part.kind, part.condition, KEYS, np.arange(1), part.draws[:, :1])
        for part in training(0)
    ]
    each, _, _ = seeds.seeds({None: few}, MEASURED, OWN)
    assert of(each, "absolute", "split_half", "gini")["value"].isna().all()
    assert of(each, "absolute", "plug_in", "gini")["value"].notna().all()
    assert each["floor"].isna().all()


def test_a_number_without_draws_enough_has_no_interval():
    draws = np.append(np.linspace(0.4, 0.6, 90), np.full(10, np.nan))
    assert np.isnan(seeds.interval(0.5, draws, 0.9)).all()
    low, high = seeds.interval(0.5, draws[:94], 0.9)
    assert (low, high) == pytest.approx((0.41, 0.59), abs=0.002)
    assert np.isnan(seeds.interval(np.nan, draws[:90], 0.9)).all()


# Trainings


@pytest.fixture(scope="module")
def settings():
    return parse(yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8")))


def test_the_committed_seeds_are_of_the_demos_recipe_and_are_read_beside_it(settings, tmp_path):
    """A recipe changed without `make seeds` would leave the paper with one seed, in silence."""
    model = settings.model
    ours = tmp_path / "ours"
    kept = [
        seed
        for seed in settings.seeds.others
        if recipes.folder_of(Path("reports/seeds"), seed).exists()
    ]
    assert kept == settings.seeds.others
    first = recipes.folder_of(Path("reports/seeds"), kept[0])
    ours.mkdir()
    for state in model.checkpoints:
        (ours / f"{state}.parquet").write_bytes((first / f"{state}.parquet").read_bytes())
    found = seeds.read_trainings(ours, Path("reports/seeds"), settings)
    assert list(found) == [model.train.seed, *kept]
    # Other weights: no two trainings have a head's effect in common.
    last = np.stack([parts[-1].values.mean(axis=0) for parts in list(found.values())[1:]])
    assert len(np.unique(last, axis=0)) == len(kept)
    weights = {
        effects.provenance(recipes.folder_of(Path("reports/seeds"), seed) / "step0.parquet")[
            "weights_sha256"
        ]
        for seed in kept
    }
    assert len(weights) == len(kept)


def test_seeds_of_another_recipe_are_left_out(settings, tmp_path):
    folder = recipes.folder_of(tmp_path, 1)
    folder.mkdir()
    made = {"recipe": recipes.recipe(settings)}
    path = folder / recipes.STATEMENT_FILE
    path.write_text(json.dumps(made), encoding="utf-8")
    assert recipes.same_recipe(folder, settings)
    assert trainings.is_made(folder, recipes.recipe(settings))
    made["recipe"]["train"]["steps"] = 7
    path.write_text(json.dumps(made), encoding="utf-8")
    assert not recipes.same_recipe(folder, settings)
    with pytest.raises(SettingsError, match=r"made with train\.steps = 7, conf/ now says 2048"):
        trainings.is_made(folder, recipes.recipe(settings))
    assert not recipes.same_recipe(tmp_path, settings)
    assert recipes.recipe(SimpleNamespace(model=None, sweep=None)) == {}


def test_seeds_differ_in_the_seed_alone():
    one, other = (trainings.settings_of(seed, Path("conf")) for seed in (1, 2))
    found = compose.differences(*(of.model_dump(mode="json") for of in (one, other)))
    assert found == {"model.train.seed": (1, 2)}
    assert recipes.recipe(one) == recipes.recipe(other)


# Ways of removal


def test_ways_of_removal_are_compared_on_the_same_sequences():
    parts = [p for way in ("zero", "mean", "resample") for p in training(5, way)]
    zero, mean = (
        {p.state.name: np.abs(p.values.mean(axis=0)) for p in parts if p.condition == way}
        for way in ("zero", "mean")
    )
    asked = removal_kinds.asked([p for p in parts if p.condition == "zero"])
    assert asked == ["step16", "step64"]
    params = RemovalKinds(
        perturbations=["zero", "mean", "resample"], resamplings=1, confidence=0.9, draws=80, seed=4
    )
    kept = [p for p in parts if p.state.name in asked]
    table = HEAD_REMOVALS.validate(removal_kinds.removal_kinds(kept, params, last="step64"))
    assert len(table) == 2 * (3 * 3 + 3 * 2)
    rows = table.set_index(["state", "perturbation", "metric"]).sort_index()
    gini = rows.loc[("step64", "mean", "gini"), "value"]
    assert float(gini.iloc[0]) == pytest.approx(concentration.gini(mean["step64"]))
    beside = table[table["metric"] == "spearman"].set_index(["state", "perturbation", "beside"])
    expected = stats.spearmanr(zero["step16"], mean["step16"]).statistic
    assert beside.loc[("step16", "zero", "mean"), "value"] == pytest.approx(expected)
    assert beside.loc[("step16", "mean", "zero"), "value"] == pytest.approx(expected)
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    assert table.groupby("state")["is_last"].first().tolist() == [False, True]


def test_where_the_last_state_is_the_most_concentrated_it_is_asked_once():
    assert removal_kinds.asked(training(5)[:2]) == ["step16"]
    flat = pd.Series([1.0] * 12).to_numpy()
    same = [
        Effects(p.state, p.kind, p.condition, KEYS, np.arange(2), np.tile(0 * flat, (1, 2, 1)))
        for p in training(5)
    ]
    assert removal_kinds.asked(same) == ["step64"]
