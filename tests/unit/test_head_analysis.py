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
from stages.heads import (
    classes,
    companion,
    distribution,
    effects,
    importance,
    measures,
    noise_floor,
    trajectory,
)
from stages.heads.settings import Classes, Distribution, NoiseFloor, Trajectory
from stages.heads.tables.classes import HEAD_CLASSES
from stages.heads.tables.companion import COMPANION_AGREEMENT
from stages.heads.tables.distribution import HEAD_DISTRIBUTION, HEAD_GRANULARITY
from stages.heads.tables.effects import EFFECTS_PER_SEQUENCE
from stages.heads.tables.importance import HEAD_IMPORTANCE
from stages.heads.tables.trajectory import (
    HEAD_CHANGE,
    HEAD_METRICS,
    HEAD_NOISE_FLOOR,
    HEAD_TRAJECTORY,
)

SHARED = Path(__file__).parents[3] / "shared"
FLOOR = NoiseFloor(confidence=0.95, draws=400, seed=1)
ALONG = Trajectory(confidence=0.95, draws=400, seed=2)
PUBLISHED_CLASSES = Classes(critical_relative=5e-4, silent_relative=1e-4, min_z=0.0)
FITS = Distribution(confidence=0.95, draws=200, seed=3, tail_min_relative=1e-4)
HALF_NORMAL = math.sqrt(2) - 1


def part(delta, step=16, unit="head", perturbation="zero", loss_base=3.0):
    """Return effects as they are read, from (n_sequences, n_heads) or with draws before."""
    delta = np.asarray(delta, dtype=float)
    delta = delta if delta.ndim == 3 else delta[np.newaxis]
    _, n_sequences, n = delta.shape
    parts = pd.DataFrame({"layer": np.arange(n) // 4, "head": np.arange(n) % 4, "draw": 0})
    base = np.full(n_sequences, loss_base)
    return effects.Effects(step, unit, perturbation, parts, np.arange(n_sequences), base, delta)


def rows(step, delta, unit="head", perturbation="zero"):
    """Return effects as they are written: (n_draws, n_sequences, n_components)."""
    _, n_sequences, _ = delta.shape
    draw, sequence, component = (grid.ravel() for grid in np.indices(delta.shape))
    base = 3 + np.arange(n_sequences) / 10
    noise = unit == "noise"
    table = pd.DataFrame(
        {
            "step": step,
            "unit": unit,
            "perturbation": perturbation,
            "layer": -1 if noise else component // 4 if unit == "head" else component,
            "head": component % 4 if unit == "head" else -1,
            "draw": component if noise else draw,
            "sequence": sequence,
            "loss_base": base[sequence],
            "loss_ablated": base[sequence] + delta.ravel(),
        }
    )
    table["delta_loss_nats"] = table["loss_ablated"] - table["loss_base"]
    return table.sort_values([*EFFECTS_PER_SEQUENCE.columns][:7], ignore_index=True)


@pytest.fixture
def folder(tmp_path):
    """Return a folder of the effects of two steps, with all units and a random perturbation."""
    rng = np.random.default_rng(0)
    for step in (16, 32):
        parts = [
            rows(step, rng.normal(0.1, 1, (1, 6, 8))),
            rows(step, rng.normal(0.1, 1, (3, 6, 8)), perturbation="resample"),
            rows(step, rng.normal(1, 1, (1, 6, 2)), unit="layer"),
            rows(step, rng.normal(1, 1, (1, 6, 5)), unit="noise", perturbation="gaussian"),
        ]
        pd.concat(parts).to_parquet(tmp_path / f"step{step}.parquet", index=False)
    return tmp_path


def change(folder, step, edit):
    path = folder / f"step{step}.parquet"
    edit(pd.read_parquet(path)).to_parquet(path, index=False)


# Reading


def test_effects_are_read_as_full_arrays_by_step_unit_and_perturbation(folder):
    parts = effects.read(folder, [16, 32])
    found = [(p.step, p.unit, p.perturbation, p.delta.shape) for p in parts]
    one = [
        ("head", "zero", (1, 6, 8)),
        ("head", "resample", (3, 6, 8)),
        ("layer", "zero", (1, 6, 2)),
        ("noise", "gaussian", (1, 6, 5)),
    ]
    assert found == [(step, *rest) for step in (16, 32) for rest in one]
    table = pd.read_parquet(folder / "step32.parquet")
    n_checked = 0
    for p in parts[4:]:
        of_kind = table[(table["unit"] == p.unit) & (table["perturbation"] == p.perturbation)]
        for _, row in of_kind.iterrows():
            key = ["layer", "head", "draw"] if p.unit == "noise" else ["layer", "head"]
            where = (p.components[key] == row[key].astype(int)).all(axis=1).to_numpy().argmax()
            draw = 0 if p.unit == "noise" else row["draw"]
            assert p.delta[draw, row["sequence"], where] == row["delta_loss_nats"]
            n_checked += 1
    assert n_checked == len(table)


def test_order_of_the_rows_does_not_matter(folder):
    before = effects.read(folder, [16, 32])
    change(folder, 16, lambda t: t.sample(frac=1, random_state=1))
    for one, other in zip(before, effects.read(folder, [16, 32]), strict=True):
        assert (one.delta == other.delta).all()
        assert (one.loss_base == other.loss_base).all()


def _nan(table):
    # A nan in both columns, as a model with nan weights writes it.
    table.loc[3, ["loss_ablated", "delta_loss_nats"]] = np.nan
    return table


def _infinite(table):
    table.loc[3, ["loss_ablated", "delta_loss_nats"]] = np.inf
    return table


def _shifted(table):
    return table.assign(delta_loss_nats=table["delta_loss_nats"] + 1e-6)


def _two_baselines(table):
    table.loc[0, ["loss_base", "loss_ablated"]] += 1
    return table.assign(delta_loss_nats=table["loss_ablated"] - table["loss_base"])


BAD = {
    "nan": (_nan, "delta_loss_nats|loss_ablated"),
    "infinite": (_infinite, "holds inf in loss_ablated"),
    "not a difference": (_shifted, "differs from loss_ablated - loss_base by 1e-06"),
    "two baselines": (_two_baselines, "several baseline losses"),
    "a row missing": (lambda t: t.iloc[1:], "47 rows are not 1 draws x 6 sequences"),
    "a row twice": (lambda t: pd.concat([t, t.iloc[:1]]), "unique"),
    "one sequence": (lambda t: t[t["sequence"] == 0], "one sequence has no standard error"),
    "another step": (lambda t: t.assign(step=64), "holds effects of step 64"),
    "no rows": (lambda t: t.iloc[:0], "holds no effects"),
    "unknown unit": (lambda t: t.assign(unit="neuron"), "column unit, value 'neuron'"),
    "a column missing": (lambda t: t.drop(columns="draw"), "no column draw"),
    "fewer sequences": (lambda t: t[t["sequence"] < 5], "on 6 sequences and 8 components"),
    "fewer heads": (lambda t: t[t["layer"] != 1], "16 on 6 and 4, or on others"),
    "no layers": (lambda t: t[t["unit"] != "layer"], "layer zero was measured at step 32"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_effects_stop_with_one_clear_line(folder, name):
    edit, message = BAD[name]
    change(folder, 16, edit)
    with pytest.raises(TableError, match=message) as error:
        effects.read(folder, [16, 32])
    assert "\n" not in str(error.value)


def test_steps_come_from_the_list_and_never_from_the_folder(folder):
    with pytest.raises(TableError, match=r"has no step64\.parquet: every step of model"):
        effects.read(folder, [16, 32, 64])
    with pytest.raises(TableError, match=r"holds step32\.parquet, which .* does not list"):
        effects.read(folder, [16])
    with pytest.raises(TableError, match=r"has no step16\.parquet"):
        effects.read(folder / "nowhere", [16])
    (folder / "step16.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(TableError, match="not a readable Parquet file"):
        effects.read(folder, [16, 32])


def test_effects_without_heads_have_no_trajectory():
    with pytest.raises(TableError, match="hold no head"):
        effects.heads([part(np.ones((3, 4)), unit="layer")])


def test_the_sweep_writes_what_the_analysis_reads():
    sweep = pytest.importorskip("stages.heads.sweep")
    assert sweep.SCHEMA.names == list(EFFECTS_PER_SEQUENCE.columns)


# Importance


def test_importance_has_the_mean_and_both_standard_errors():
    rng = np.random.default_rng(1)
    delta = rng.normal(size=(3, 7, 5))
    table = importance.importance([part(delta, perturbation="resample")])
    HEAD_IMPORTANCE.validate(table)
    assert table["delta_loss_nats"].to_numpy() == pytest.approx(delta.mean(axis=(0, 1)))
    over_sequences = stats.sem(delta.mean(axis=0), axis=0)
    over_draws = stats.sem(delta.mean(axis=1), axis=0)
    assert table["standard_error_nats"].to_numpy() == pytest.approx(over_sequences)
    assert table["standard_error_draws_nats"].to_numpy() == pytest.approx(over_draws)
    assert table.sort_values("rank")["delta_loss_nats"].abs().is_monotonic_decreasing
    single = importance.importance([part(delta[:1])])
    assert single["standard_error_draws_nats"].isna().all()


# The floor of noise


def test_floor_of_equal_independent_heads_is_that_of_the_half_normal():
    noise = np.random.default_rng(2).normal(size=(400, 300))
    table = noise_floor.noise_floor([part(noise)], FLOOR).set_index("metric")
    gini = table.loc["gini"]
    # Observed: 0.4142 and 0.4141; the sample's own covariance moves the first by up to 0.004.
    assert gini["floor"] == pytest.approx(HALF_NORMAL, abs=0.006)
    assert gini["floor_independent"] == pytest.approx(HALF_NORMAL, abs=0.006)
    total = table.loc["sum_abs_delta_nats", "floor"]
    # E|N(0, 1/n)| = sqrt(2 / (pi n)); observed within 1%.
    assert total == pytest.approx(300 * math.sqrt(2 / (math.pi * 400)), rel=0.03)


def test_floor_does_not_know_the_true_effects():
    noise = np.random.default_rng(3).normal(size=(20, 8))
    floors = [
        noise_floor.noise_floor([part(noise + shift)], FLOOR)["floor"].to_numpy()
        for shift in (0.0, np.arange(8.0))
    ]
    assert floors[0] == pytest.approx(floors[1], rel=1e-9)


def test_floor_keeps_the_correlation_of_the_heads():
    rng = np.random.default_rng(4)
    common = np.repeat(rng.normal(size=(60, 1)), 20, axis=1)
    floor = noise_floor.noise_floor([part(common)], FLOOR).set_index("metric").loc["gini"]
    # Heads that move as one are equal whatever the noise; independent ones would not be.
    assert floor["floor_high"] < 1e-9
    assert floor["floor_independent"] == pytest.approx(0.4, abs=0.05)


def test_noise_alone_lies_within_its_floor_at_the_stated_rate():
    rng = np.random.default_rng(5)
    n_runs, inside = 150, np.zeros(len(HEAD_METRICS))
    params = FLOOR.model_copy(update={"draws": 300})
    for step in range(n_runs):
        noise = rng.normal(size=(64, 24)) + 0.5 * rng.normal(size=(64, 1))
        table = noise_floor.noise_floor([part(noise, step=step)], params)
        within = table["observed"].between(table["floor_low"], table["floor_high"])
        inside += within.to_numpy()
    # Nominal 95%; observed 0.95 to 0.98. Four standard errors of 0.95 over 150 runs are 0.07.
    assert (inside / n_runs >= 0.88).all(), inside / n_runs


def test_a_step_has_the_same_floor_whatever_other_steps_there_are():
    rng = np.random.default_rng(6)
    parts = [part(rng.normal(size=(10, 6)), step=step) for step in (1, 2)]
    both = noise_floor.noise_floor(parts, FLOOR)
    alone = noise_floor.noise_floor(parts[1:], FLOOR)
    pd.testing.assert_frame_equal(both[both["step"] == 2].reset_index(drop=True), alone)


# Trajectory


def along(parts, params=ALONG):
    floor = noise_floor.noise_floor(parts, FLOOR)
    HEAD_NOISE_FLOOR.validate(floor)
    table, change_table = trajectory.trajectory(parts, floor, params)
    return HEAD_TRAJECTORY.validate(table), HEAD_CHANGE.validate(change_table)


def test_trajectory_has_the_metrics_of_the_mean_effects():
    rng = np.random.default_rng(7)
    parts = [part(rng.normal(size=(12, 8)), step=step) for step in (4, 8, 16)]
    table, change_table = along(parts)
    values = table.pivot(index="step", columns="metric", values="value")
    for p in parts:
        expected = measures.measure(p.per_sequence.mean(axis=0))
        assert values.loc[p.step, list(HEAD_METRICS)].to_numpy() == pytest.approx(expected)
    assert values["effective_share"].to_numpy() == pytest.approx(
        values["effective_number"].to_numpy() / 8
    )
    assert values["gini_corrected"].to_numpy() == pytest.approx(values["gini"].to_numpy() * 8 / 7)
    changes = change_table.set_index("metric")["change"]
    for metric in HEAD_METRICS:
        assert changes[metric] == pytest.approx(values[metric].iloc[-1] - values[metric].iloc[0])


def test_interval_over_sequences_holds_the_plain_one_and_its_mirror_image():
    draws = np.linspace(0.0, 1.0, 1001)
    ends = trajectory.intervals(np.array(0.2), draws, draws, 0.9)
    low, high, plain_low, plain_high, *_ = ends
    assert (plain_low, plain_high) == pytest.approx((0.05, 0.95))
    assert (low, high) == pytest.approx((2 * 0.2 - 0.95, 0.95))


def test_change_is_resampled_jointly():
    """Noise that both steps share, as sequences do, is no uncertainty of the change."""
    rng = np.random.default_rng(8)
    shared = rng.normal(size=(30, 6)) + np.arange(1, 7)
    _, change_table = along([part(shared, step=1), part(2 * shared, step=2)])
    gini = change_table.set_index("metric").loc["gini"]
    ends = [gini[f"{kind}_{end}"] for kind in ("sequences", "heads") for end in ("low", "high")]
    assert np.abs(ends).max() < 1e-12


def test_one_step_has_no_change_and_equal_sequences_no_width():
    table, change_table = along([part(np.tile([1.0, 2.0, 3.0, 10.0], (5, 1)))])
    assert change_table.empty
    gini = table.set_index("metric").loc["gini"]
    assert gini["sequences_low"] == pytest.approx(gini["value"])
    assert gini["sequences_high"] == pytest.approx(gini["value"])
    assert gini["heads_low"] < gini["value"] <= gini["heads_high"]
    assert gini["noise_share"] == 0


def test_a_model_without_effects_has_no_concentration():
    table, _ = along([part(np.zeros((4, 6)), step=step) for step in (1, 2)])
    values = table.set_index(["step", "metric"])["value"]
    assert values.drop("sum_abs_delta_nats", level="metric").isna().all()
    assert (values.xs("sum_abs_delta_nats", level="metric") == 0).all()


def test_a_floor_of_other_effects_is_refused():
    rng = np.random.default_rng(9)
    one, other = (part(rng.normal(size=(5, 4))) for _ in range(2))
    floor = noise_floor.noise_floor([other], FLOOR)
    with pytest.raises(TableError, match=r"noise floor is not that of these effects \(gini"):
        trajectory.trajectory([one], floor, ALONG)
    with pytest.raises(TableError, match="noise floor is not that"):
        trajectory.trajectory([replace(one, step=3)], floor, ALONG)


@pytest.mark.parametrize(("noise", "share", "least"), [(0.1, 0.08, 0.87), (1.0, 0.39, 0.77)])
def test_intervals_over_sequences_cover_known_truths(noise, share, least):
    """State how often the 95% intervals hold the truth: well with little noise, less with much."""
    rng = np.random.default_rng(10)
    n_runs, n_heads, n = 150, 48, 32
    metrics = [HEAD_METRICS.index(m) for m in ("gini", "effective_number")]
    total = HEAD_METRICS.index("sum_abs_delta_nats")
    covered, shares, plain = np.zeros(len(HEAD_METRICS)), [], np.zeros(5)
    for _ in range(n_runs):
        true = np.exp(rng.normal(0, 1.2, n_heads)) * np.where(rng.random(n_heads) < 0.8, 1, -1)
        spread = noise * math.sqrt(n) * np.median(np.abs(true)) + 0.3 * np.abs(true)
        common = rng.normal(size=(n, 1))
        own = rng.standard_t(5, (n, n_heads)) / math.sqrt(5 / 3)
        p = part(true + spread * (0.5 * common + math.sqrt(0.75) * own))
        drawn = trajectory.resample([p], draws=200, rng=rng)
        ends = trajectory.intervals(drawn.values[0], drawn.sequences[0], drawn.heads[0], 0.95)
        goal = measures.measure(true)
        covered += (ends[0] <= goal) & (goal <= ends[1])
        plain += (ends[2] <= goal) & (goal <= ends[3])
        floor = noise_floor.floor_draws(p.per_sequence, draws=50, rng=rng)
        shares.append(np.median(floor[:, total]) / drawn.values[0, total])
    assert np.mean(shares) == pytest.approx(share, abs=0.03)
    # Observed with little noise: 0.95 to 0.97; with two fifths of noise: 0.88 for concentrations
    # (the plain interval: 0.46) and 1.00 for the sum. `least` is four standard errors below.
    assert (covered[metrics] / n_runs >= least).all(), covered / n_runs
    assert covered[total] / n_runs >= 0.85
    assert (covered >= plain).all()
    if noise == 1.0:
        assert (plain[metrics] / n_runs < 0.75).all(), plain / n_runs


def test_change_of_the_sum_is_covered():
    rng = np.random.default_rng(11)
    n_runs, inside = 200, 0
    first, last = 0.3 * np.ones(20), np.linspace(0.2, 3, 20)
    for _ in range(n_runs):
        noise = rng.normal(size=(40, 20))
        pair = [part(first + noise * 0.4, step=1), part(last + noise, step=2)]
        drawn = trajectory.resample(pair, draws=200, rng=rng)
        moved = drawn.sequences[-1] - drawn.sequences[0]
        got = drawn.values[-1] - drawn.values[0]
        ends = trajectory.intervals(got, moved, moved, 0.95)[:, 4]
        inside += ends[0] <= last.sum() - first.sum() <= ends[1]
    # Nominal 95%; observed 0.945. Four standard errors of that over 200 runs are 0.06.
    assert inside / n_runs >= 0.87


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
    assert table["n_critical_steps"].tolist() == [2, 1, 1, 1, 0, 1]
    assert table["first_critical_step"].fillna(-1).tolist() == [1, 4, 4, 2, -1, 4]
    assert table["step_largest"].tolist() == [1, 4, 4, 2, 4, 4]
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
    table = importance.importance(effects.read(folder, [16, 32]))
    found = distribution.granularity(table)
    HEAD_GRANULARITY.validate(found)
    assert len(found) == 2 * 4
    row = found[(found["step"] == 16) & (found["unit"] == "layer")].iloc[0]
    of_layers = table[(table["step"] == 16) & (table["unit"] == "layer")]["delta_loss_nats"]
    assert row["n"] == 2
    assert row["mean_abs_delta_nats"] == pytest.approx(of_layers.abs().mean())
    assert row["share_deleterious"] == (of_layers > 0).mean()


# The companion study


@pytest.fixture(scope="module")
def published_file():
    path = SHARED / "reference" / "companion" / "all_ablations.csv"
    if not path.exists():
        pytest.skip(f"{path.name} of the companion study does not travel with the project")
    return path


@pytest.fixture(scope="module")
def published(published_file):
    return companion.read_companion(published_file)


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
    table = measures.of_importance(published).xs("zero", level="perturbation")
    heads = published[published["unit"] == "head"]
    found = {}
    for step, group in heads.groupby("step"):
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
    row = table.set_index(["unit", "family", "step"]).loc
    # Published: median of the bootstrap 1.77 [1.23, 2.84] and 0.63 [0.41, 1.35]; Student's t of
    # layers 0.85.
    assert row[("head", "gamma_tail_cut", 512), "shape"] == pytest.approx(1.70, abs=0.01)
    assert row[("head", "gamma_tail_cut", 143000), "shape"] == pytest.approx(0.605, abs=0.001)
    assert row[("head", "gamma_tail_cut", 143000), "shape_low"] == pytest.approx(0.41, abs=0.03)
    assert row[("layer", "student_t", 143000), "shape"] == pytest.approx(0.855, abs=0.001)
    assert row[("noise", "normal", 143000), "delta_aic"] == 0


def test_units_and_directions_of_the_companion(published):
    counts = published.groupby("unit").size().to_dict()
    assert counts == {"head": 8 * 144, "layer": 8 * 24, "noise": 8 * 30}
    noise = published[published["unit"] == "noise"]
    assert sorted(noise["draw"].unique()) == list(range(30))
    last = published[(published["unit"] == "head") & (published["step"] == 143000)]
    first = last[last["rank"] == 1].iloc[0]
    assert (first["layer"], first["head"]) == (8, 9)
    assert first["delta_loss_nats"] > 0


def test_agreement_is_perfect_with_itself_and_finds_one_changed_head(published):
    same = companion.agreement(published, published)
    COMPANION_AGREEMENT.validate(same)
    assert len(same) == 8
    assert (same["n_heads"] == 144).all()
    assert same["spearman"].to_numpy() == pytest.approx(np.ones(8))
    assert (same[["largest_difference_nats", "gini_difference"]] == 0).all(axis=None)
    other = published.copy()
    at = (other["layer"] == 5) & (other["head"] == 3) & (other["step"] == 8000)
    other.loc[at, "delta_loss_nats"] += 0.5
    changed = companion.agreement(other, published).set_index("step").loc[8000]
    assert (changed["largest_layer"], changed["largest_head"]) == (5, 3)
    assert changed["largest_difference_nats"] == pytest.approx(0.5)
    assert changed["gini_difference"] > 0


HEADER = ",".join([*companion._COLUMNS, "elapsed_sec"])


def companion_file(tmp_path, *lines):
    path = tmp_path / "all_ablations.csv"
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return path


def test_a_header_alone_compares_nothing(tmp_path):
    nothing = companion.read_companion(companion_file(tmp_path))
    assert nothing.empty
    table = companion.agreement(of_effects(RELATIVE, [1, 2, 4]), nothing)
    assert table.empty
    tables.write(table, COMPANION_AGREEMENT, tmp_path / "out.csv")
    assert tables.read(tmp_path / "out.csv", COMPANION_AGREEMENT).empty


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("512,head,0,0,-1,2.0,3.0,0.5,1", "delta is not"),
        ("512,head,0,0,-1,2.0,3.0,,1", "delta is not"),
        ("512,neuron,0,0,-1,2.0,3.0,-0.5,1", "'neuron' as perturbation_type"),
    ],
)
def test_another_file_than_the_published_one_is_refused(tmp_path, line, message):
    with pytest.raises(TableError, match=message):
        companion.read_companion(companion_file(tmp_path, line))


def test_a_missing_or_foreign_companion_file_is_refused(tmp_path):
    with pytest.raises(TableError, match="does not exist"):
        companion.read_companion(tmp_path / "none.csv")
    path = tmp_path / "page.csv"
    path.write_text("<html>\n", encoding="utf-8")
    with pytest.raises(TableError, match="has no column checkpoint"):
        companion.read_companion(path)


def test_only_steps_with_two_common_heads_or_more_are_compared(tmp_path, caplog):
    lines = [f"{step},head,0,{head},-1,2.0,3.0,-0.5,1" for step, head in ((1, 0), (1, 1), (2, 0))]
    path = companion_file(tmp_path, *lines)
    theirs, ours = companion.read_companion(path), of_effects(RELATIVE, [1, 2, 4])
    assert companion.agreement(ours, theirs)["step"].tolist() == [1]
    # Heads removed in another way are no fault of the study: nothing is compared, and that is said.
    tables.write(ours.assign(perturbation="mean"), HEAD_IMPORTANCE, tmp_path / "in.csv")
    words = ["--importance", tmp_path / "in.csv", "--published", path, "--out", tmp_path / "x.csv"]
    with caplog.at_level("INFO", logger="stages"):
        assert companion.main([str(word) for word in words]) == 0
    assert "nothing is compared" in caplog.text
    assert tables.read(tmp_path / "x.csv", COMPANION_AGREEMENT).empty


# The command lines


def test_stages_run_from_effects_to_tables(folder, tmp_path, monkeypatch):
    settings = SimpleNamespace(
        model=SimpleNamespace(checkpoints=[16, 32]),
        noise_floor=FLOOR,
        trajectory=ALONG,
        classes=PUBLISHED_CLASSES,
        distribution=FITS,
    )
    for module in (importance, noise_floor, trajectory, classes, distribution):
        monkeypatch.setattr(module, "load", lambda path: settings)
    out = tmp_path / "out"

    def run(module, **options):
        words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        assert module.main(words) == 0

    run(importance, effects=folder, out=out / "importance.csv")
    run(noise_floor, effects=folder, out=out / "floor.csv")
    run(
        trajectory,
        effects=folder,
        noise_floor=out / "floor.csv",
        out=out / "trajectory.csv",
        change=out / "change.csv",
    )
    run(classes, importance=out / "importance.csv", out=out / "classes.csv")
    run(
        distribution,
        importance=out / "importance.csv",
        out=out / "distribution.csv",
        granularity=out / "granularity.csv",
    )
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(before) == 7
    run(noise_floor, effects=folder, out=out / "floor.csv")
    assert (out / "floor.csv").read_bytes() == before["floor.csv"]
    read = tables.read(out / "trajectory.csv", HEAD_TRAJECTORY)
    assert len(read) == 2 * 2 * len(HEAD_METRICS)
    (folder / "step64.parquet").touch()
    assert importance.main([f"--effects={folder}", f"--out={out / 'importance.csv'}"]) == 1
    assert (out / "importance.csv").read_bytes() == before["importance.csv"]


def test_errors_are_those_of_a_stage():
    assert issubclass(TableError, StageError)
    assert issubclass(SettingsError, StageError)
