"""Hold the analysis of the heads' effects to known truths, identities and the published table."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from stages.base import tables
from stages.base.errors import SettingsError, StageError, TableError
from stages.heads import classes, companion, distribution, importance
from stages.heads.components import components
from stages.heads.settings import Classes, Distribution
from stages.heads.tables.classes import HEAD_CLASSES
from stages.heads.tables.companion import COMPANION_AGREEMENT
from stages.heads.tables.distribution import HEAD_DISTRIBUTION, HEAD_GRANULARITY
from stages.heads.tables.importance import HEAD_IMPORTANCE
from stages.measurement import concentration, effects
from stages.measurement.effects import Effects, State

PUBLISHED_CLASSES = Classes(critical_relative=5e-4, silent_relative=1e-4, min_z=0.0)
FITS = Distribution(confidence=0.95, draws=200, seed=3, tail_min_relative=1e-4)


def part(delta, step=16, kind="head", condition="zero", loss_base=3.0):
    """Return effects, from (n_sequences, n_heads) or with draws before."""
    delta = np.asarray(delta, dtype=float)
    delta = delta if delta.ndim == 3 else delta[np.newaxis]
    _, n, n_components = delta.shape
    rows = [(i // 4, i % 4, 0) if kind == "head" else (i, 0, i) for i in range(n_components)]
    state = State("heads", f"step{step}", float(step), "nats per token")
    base = np.full(n, loss_base)
    return Effects(state, kind, condition, components(kind, rows), np.arange(n), delta, base)


@pytest.fixture
def folder(tmp_path):
    """Return a folder of the effects of two steps, with all kinds and a random condition."""
    rng = np.random.default_rng(0)
    for step in (16, 32):
        parts = [
            part(rng.normal(0.1, 1, (6, 8)), step),
            part(rng.normal(0.1, 1, (3, 6, 8)), step, condition="resample"),
            part(rng.normal(1, 1, (6, 2)), step, kind="layer"),
            part(rng.normal(1, 1, (6, 5)), step, kind="noise", condition="gaussian"),
        ]
        effects.write(tmp_path / f"step{step}.parquet", parts)
    return tmp_path


# Importance


def test_importance_has_the_mean_and_both_standard_errors():
    rng = np.random.default_rng(1)
    delta = rng.normal(size=(3, 7, 5))
    table = importance.importance([part(delta, condition="resample")])
    HEAD_IMPORTANCE.validate(table)
    assert table["delta_loss_nats"].to_numpy() == pytest.approx(delta.mean(axis=(0, 1)))
    over_sequences = stats.sem(delta.mean(axis=0), axis=0)
    over_draws = stats.sem(delta.mean(axis=1), axis=0)
    assert table["standard_error_nats"].to_numpy() == pytest.approx(over_sequences)
    assert table["standard_error_draws_nats"].to_numpy() == pytest.approx(over_draws)
    assert table.sort_values("rank")["delta_loss_nats"].abs().is_monotonic_decreasing
    single = importance.importance([part(delta[:1])])
    assert single["standard_error_draws_nats"].isna().all()


# Classes


def of_effects(relative, steps, errors=None):
    """Return importance with these effects over a loss of 2, (n_steps, n_heads)."""
    parts = []
    for step, values in zip(steps, np.asarray(relative) * 2.0, strict=True):
        table = importance.importance([part(np.tile(values, (3, 1)), step=step, loss_base=2.0)])
        parts.append(table.assign(standard_error_nats=np.nan if errors is None else errors))
    return HEAD_IMPORTANCE.validate(pd.concat(parts, ignore_index=True))


#             born   emergent growing transient never  negative emergent
RELATIVE = [[1e-3, 0.0, 3e-4, 0.0, 2e-4, 5e-5], [0, 0, 0, 2e-3, 4e-4, 0], [9e-4] * 3 + [0] * 2]
RELATIVE[2] = [9e-4, 6e-4, 7e-4, 1e-4, 5e-4, -6e-4]
EXPECTED = ["born_critical", "emergent", "growing", "transient", "never_critical", "emergent"]


def test_classes_are_what_the_docstring_says():
    table = classes.classes(of_effects(RELATIVE, [1, 2, 4]), PUBLISHED_CLASSES)
    HEAD_CLASSES.validate(table)
    assert table["head_class"].tolist() == EXPECTED
    assert table["n_critical_states"].tolist() == [2, 1, 1, 1, 0, 1]
    first = ["step1", "step4", "step4", "step2", "", "step4"]
    assert table["first_critical_state"].fillna("").tolist() == first
    assert table["state_largest"].tolist() == [f"step{n}" for n in (1, 4, 4, 2, 4, 4)]
    assert table["relative_largest"].iloc[5] == pytest.approx(-6e-4)


def test_an_effect_within_its_error_is_not_critical():
    noisy = of_effects(RELATIVE, [1, 2, 4], errors=1.0)
    strict = PUBLISHED_CLASSES.model_copy(update={"min_z": 2.0})
    assert (classes.classes(noisy, strict)["head_class"] == "never_critical").all()
    sure = of_effects(RELATIVE, [1, 2, 4], errors=0.0)
    assert classes.classes(sure, strict)["head_class"].tolist() == EXPECTED


def test_thresholds_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="no head may be both silent and critical"):
        Classes(critical_relative=1e-4, silent_relative=1e-3, min_z=0)


# Distribution


@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_fits_are_those_of_scipy_and_find_what_was_drawn(scale):
    rng = np.random.default_rng(12)
    x = scale * (0.3 + stats.t.rvs(2.0, size=2000, random_state=rng))
    normal, laplace, student = distribution.fits(x)
    assert (normal.location, normal.scale) == pytest.approx(stats.norm.fit(x))
    assert (laplace.location, laplace.scale) == pytest.approx(stats.laplace.fit(x))
    freedom, location, unit = stats.t.fit(x / scale)
    # Observed: equal to scipy's simplex search to 1e-4, and never less likely.
    assert student.shape == pytest.approx(freedom, rel=1e-3)
    assert student.location == pytest.approx(location * scale, rel=1e-2)
    assert student.scale == pytest.approx(unit * scale, rel=1e-3)
    at = stats.t.logpdf(x, student.shape, student.location, student.scale).sum()
    assert student.log_likelihood == pytest.approx(at, rel=1e-9)
    assert student.log_likelihood > max(normal.log_likelihood, laplace.log_likelihood)


def test_families_are_compared_on_the_same_effects():
    """Student's t was said to fit best where all effects were positive and gamma fitted better."""
    rng = np.random.default_rng(9)
    x = rng.lognormal(-5, 1.2, size=300)
    fitted = {fit.family: fit for fit in distribution.fits(x)}
    shape, _, scale = stats.lognorm.fit(x, floc=0)
    assert fitted["lognormal"].shape == pytest.approx(shape, rel=1e-6)
    assert fitted["lognormal"].scale == pytest.approx(scale, rel=1e-6)
    at = stats.lognorm.logpdf(x, shape, scale=scale).sum()
    assert fitted["lognormal"].log_likelihood == pytest.approx(at, rel=1e-9)
    at = stats.gamma.logpdf(x, fitted["gamma"].shape, scale=fitted["gamma"].scale).sum()
    assert fitted["gamma"].log_likelihood == pytest.approx(at, rel=1e-9)
    table = distribution.distribution(of_effects([x], [8]), FITS).set_index("family")
    assert table.loc["lognormal", "delta_aic"] == 0
    assert table.loc["gamma", "aic"] < table.loc["student_t", "aic"]
    assert {fit.family for fit in distribution.fits(np.append(x, -1e-6))} == {
        "normal",
        "laplace",
        "student_t",
    }


def test_normal_effects_choose_the_normal_family():
    # Quantiles, not draws: a sample of normal numbers may well look like another family's.
    x = stats.norm.ppf((np.arange(200) + 0.5) / 200)
    table = distribution.distribution(of_effects([x], [8]), FITS).set_index("family")
    HEAD_DISTRIBUTION.validate(table.reset_index()[list(HEAD_DISTRIBUTION.columns)])
    assert table.loc["normal", "delta_aic"] == 0
    # The third parameter buys nothing: at most the 2 that it costs.
    assert 0 < table.loc["student_t", "delta_aic"] <= 2.01


@pytest.mark.parametrize("shape", [0.4, 1.0, 6.0])
def test_gamma_shape_is_that_of_scipy_and_weights_are_repeats(shape):
    rng = np.random.default_rng(14)
    x = rng.gamma(shape, 1e-3, size=200)
    assert float(distribution.gamma_shape(x)) == pytest.approx(
        stats.gamma.fit(x / 1e-3, floc=0)[0], rel=1e-6
    )
    weights = rng.integers(0, 3, size=(4, 200)).astype(float)
    repeated = [distribution.gamma_shape(np.repeat(x, w.astype(int))) for w in weights]
    assert distribution.gamma_shape(x, weights) == pytest.approx(np.array(repeated), rel=1e-9)
    assert math.isnan(float(distribution.gamma_shape(np.array([2.0, 2.0]))))


def test_interval_of_the_gamma_shape_covers():
    rng = np.random.default_rng(15)
    n_runs, inside = 120, 0
    for _ in range(n_runs):
        row = distribution._gamma_row("gamma_tail", rng.gamma(0.6, 1.0, 100), 0.0, FITS, rng)
        inside += row["shape_low"] <= 0.6 <= row["shape_high"]
    # Nominal 95%; observed 0.93. Four standard errors of that over 120 runs are 0.10.
    assert inside / n_runs >= 0.82


def test_too_few_or_equal_effects_are_not_fitted():
    assert distribution.distribution(of_effects([[1.0, 2.0, 3.0]], [1]), FITS).empty
    assert distribution.distribution(of_effects([[1.0] * 8], [1]), FITS).empty


def test_granularity_has_a_row_for_each_unit_present(folder):
    table = importance.importance(effects.read_states(folder, ["step16", "step32"]))
    found = distribution.granularity(table)
    HEAD_GRANULARITY.validate(found)
    assert len(found) == 2 * 4
    row = found[(found["state"] == "step16") & (found["unit"] == "layer")].iloc[0]
    of_layers = table[(table["state"] == "step16") & (table["unit"] == "layer")]["delta_loss_nats"]
    assert row["n"] == 2
    assert row["mean_abs_delta_nats"] == pytest.approx(of_layers.abs().mean())
    assert row["share_deleterious"] == (of_layers > 0).mean()


# The companion study


EMBEDDED = Path(__file__).parents[2] / "data" / "embedded" / "spiro2026_heads.csv"


def as_importance(parts):
    """Return importance without errors of effects of one replicate."""
    twice = [
        replace(
            one,
            draws=one.draws.repeat(2, axis=1),
            replicates=np.arange(2),
            baseline=np.repeat(one.baseline, 2),
        )
        for one in parts
    ]
    return importance.importance(twice).assign(standard_error_nats=np.nan)


@pytest.fixture(scope="module")
def published():
    return as_importance(companion.published(EMBEDDED))


# Recomputed independently from the published file (Gini and effective number over 144 heads).
PUBLISHED = {
    512: (0.6003, 71.02, 6.826265, 8),
    1000: (0.7844, 35.24, 4.941354, 18),
    2000: (0.7744, 39.87, 4.061312, 33),
    4000: (0.7117, 54.02, 3.547698, 44),
    8000: (0.7273, 34.91, 3.292888, 59),
    16000: (0.7166, 29.15, 3.139512, 72),
    64000: (0.7366, 22.80, 2.939300, 86),
    143000: (0.7452, 25.48, 2.891820, 95),
}


def test_published_trajectory_is_that_of_the_same_metric_code(published):
    heads = published[published["unit"] == "head"]
    sizes = heads.groupby("position")["delta_loss_nats"].agg(lambda x: list(x.abs()))
    table = pd.DataFrame(
        {
            "gini": sizes.map(concentration.gini),
            "effective_number": sizes.map(concentration.effective_number),
        }
    )
    found = {}
    for step, group in heads.groupby("position"):
        over = (group["delta_loss_nats"].abs() / group["loss_base"] > 5e-4).sum()
        gini, number = table.loc[step, ["gini", "effective_number"]]
        base = group["loss_base"].iloc[0]
        assert len(group) == 144
        found[step] = (round(gini, 4), round(number, 2), round(base, 6), over)
    assert found == PUBLISHED
    change_gini, change_number = (
        table[metric].iloc[-1] - table[metric].iloc[0] for metric in ("gini", "effective_number")
    )
    assert round(change_gini, 3) == 0.145
    assert round(change_number, 1) == -45.5


def test_published_classes_are_found_and_never_critical_holds_the_transient(published):
    table = classes.classes(published, PUBLISHED_CLASSES)
    counts = table["head_class"].value_counts().to_dict()
    assert (counts["born_critical"], counts["emergent"], counts["growing"]) == (6, 56, 33)
    # The companion counts 49 heads as never critical; 14 of them were, at an earlier checkpoint.
    assert (counts["never_critical"], counts["transient"]) == (35, 14)


def test_published_tails_are_found(published):
    table = distribution.distribution(published, FITS)
    row = table.set_index(["unit", "family", "position"]).loc
    # Published: median of the bootstrap 1.77 [1.23, 2.84] and 0.63 [0.41, 1.35].
    assert row[("head", "gamma_tail_cut", 512), "shape"] == pytest.approx(1.70, abs=0.01)
    assert row[("head", "gamma_tail_cut", 143000), "shape"] == pytest.approx(0.605, abs=0.001)
    assert row[("head", "gamma_tail_cut", 143000), "shape_low"] == pytest.approx(0.41, abs=0.03)


def test_the_head_that_matters_most_is_the_published_one(published):
    first = published[(published["state"] == "step143000") & (published["rank"] == 1)].iloc[0]
    assert first["component"] == "L8H9"
    assert first["delta_loss_nats"] > 0


def test_agreement_is_perfect_with_itself_and_finds_one_changed_head(published):
    theirs = companion.published(EMBEDDED)
    same = companion.agreement(published, theirs)
    COMPANION_AGREEMENT.validate(same)
    assert len(same) == 8
    assert (same["n_heads"] == 144).all()
    assert same["spearman"].to_numpy() == pytest.approx(np.ones(8))
    assert (same[["largest_difference_nats", "gini_difference"]] == 0).all(axis=None)
    other = published.copy()
    at = (other["layer"] == 5) & (other["head"] == 3) & (other["state"] == "step8000")
    other.loc[at, "delta_loss_nats"] += 0.5
    changed = companion.agreement(other, theirs).set_index("state").loc["step8000"]
    assert (changed["largest_layer"], changed["largest_head"]) == (5, 3)
    assert changed["largest_difference_nats"] == pytest.approx(0.5)
    assert changed["gini_difference"] > 0


def companion_file(tmp_path, *rows):
    path = tmp_path / "heads.csv"
    lines = ["checkpoint,layer,head,loss_base,loss_ablated", *rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_steps_of_other_heads_are_refused(tmp_path):
    path = companion_file(tmp_path, "1,0,0,2.0,3.0", "1,0,1,2.0,3.0", "2,0,0,2.0,3.0")
    with pytest.raises(TableError, match="holds other heads at step 2 than at the first"):
        companion.published(path)


def test_only_states_with_two_common_heads_or_more_are_compared(tmp_path):
    rows = [f"{step},0,{head},2.0,3.0" for step in (1, 8) for head in (0, 1)]
    theirs = companion.published(companion_file(tmp_path, *rows))
    ours = of_effects(RELATIVE, [1, 2, 4])
    assert companion.agreement(ours, theirs)["state"].tolist() == ["step1"]
    assert companion.agreement(ours.assign(perturbation="mean"), theirs).empty


@pytest.mark.parametrize(("model", "n_compared"), [("pythia-410m-deduped", 1), ("other", 0)])
def test_ours_are_set_beside_those_of_the_same_model_alone(
    tmp_path, monkeypatch, settings, model, n_compared
):
    chosen = SimpleNamespace(model=SimpleNamespace(name=model), systems=settings.systems)
    monkeypatch.setattr(companion, "load", lambda path: chosen)
    rows = [f"{step},0,{head},2.0,3.0" for step in (1, 8) for head in (0, 1)]
    tables.write(of_effects(RELATIVE, [1, 2, 4]), HEAD_IMPORTANCE, tmp_path / "in.csv")
    words = {"importance": tmp_path / "in.csv", "published": companion_file(tmp_path, *rows)}
    words |= {"effects": tmp_path / "effects", "out": tmp_path / "x.csv"}
    assert companion.main([f"--{name}={value}" for name, value in words.items()]) == 0
    assert len(tables.read(tmp_path / "x.csv", COMPANION_AGREEMENT)) == n_compared
    [first, last] = effects.read_states(tmp_path / "effects", ["step1", "step8"])
    assert first.values.tolist() == last.values.tolist() == [[1.0, 1.0]]
    assert first.components.index.tolist() == ["L0H0", "L0H1"]


# The command lines


def test_stages_run_from_effects_to_tables(folder, tmp_path, monkeypatch):
    settings = SimpleNamespace(
        model=SimpleNamespace(checkpoints=["step16", "step32"]),
        classes=PUBLISHED_CLASSES,
        distribution=FITS,
    )
    for module in (importance, classes, distribution):
        monkeypatch.setattr(module, "load", lambda path: settings)
    out = tmp_path / "out"

    def run(module, **options):
        words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        assert module.main(words) == 0

    run(importance, effects=folder, out=out / "importance.csv")
    run(classes, importance=out / "importance.csv", out=out / "classes.csv")
    run(
        distribution,
        importance=out / "importance.csv",
        out=out / "distribution.csv",
        granularity=out / "granularity.csv",
    )
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(before) == 4
    run(importance, effects=folder, out=out / "importance.csv")
    assert (out / "importance.csv").read_bytes() == before["importance.csv"]
    read = tables.read(out / "importance.csv", HEAD_IMPORTANCE)
    assert (
        read.loc[read["unit"] == "noise", "component"].tolist() == [f"N{i}" for i in range(5)] * 2
    )
    (folder / "step64.parquet").touch()
    assert importance.main([f"--effects={folder}", f"--out={out / 'importance.csv'}"]) == 1
    assert (out / "importance.csv").read_bytes() == before["importance.csv"]


def test_errors_are_those_of_a_stage():
    assert issubclass(TableError, StageError)
    assert issubclass(SettingsError, StageError)
