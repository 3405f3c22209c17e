"""Hold the one table of effects and the one measurement to known truths and identities."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from stages.base import tables
from stages.base.errors import TableError
from stages.measurement import effects, measured, metrics, nulls
from stages.measurement.effects import Effects, State
from stages.measurement.settings import Measured, System
from stages.measurement.streams import stream
from stages.measurement.tables import CHANGES, MEASURED

PARAMS = Measured(confidence=0.95, draws=400, seed=1)
METRICS = metrics.OF_EFFECTS
NAMES = [metric.name for metric in METRICS]
HALF_NORMAL = math.sqrt(2) - 1
KINDS = [("direction", "none"), ("part", "cut"), ("part", "swapped")]


def part(values, step=16, kind="part", condition="cut", baseline=3.0, **more):
    """Return effects, from (n_replicates, n_components) or with draws before."""
    values = np.asarray(values, dtype=float)
    values = values if values.ndim == 3 else values[np.newaxis]
    _, n, n_components = values.shape
    names = pd.Index([f"P{i}" for i in range(n_components)], name="component")
    return Effects(
        State("toy", f"step{step}", float(step), "nats", more.pop("exposure", None)),
        kind,
        condition,
        pd.DataFrame({"number": np.arange(n_components), **more}, index=names),
        np.arange(n),
        values,
        None if baseline is None else np.full(n, baseline),
    )


def measure_all(parts, params=PARAMS, **system):
    states = list(dict.fromkeys(one.state.name for one in parts))
    of = System(room="heads", group="box", effects="effects", states=states, **system)
    table, changes, draws = measured.measured(parts, of, METRICS, params)
    return MEASURED.validate(table), CHANGES.validate(changes), draws


@pytest.fixture
def folder(tmp_path):
    """Return a folder of the effects of two states, of several kinds, one of them random."""
    rng = np.random.default_rng(0)
    for step in (16, 32):
        parts = [
            part(rng.normal(0.1, 1, (6, 12)), step),
            part(rng.normal(0.1, 1, (3, 6, 12)), step, condition="swapped"),
            part(rng.normal(1, 1, (6, 5)), step, kind="direction", condition="none"),
        ]
        effects.write(tmp_path / f"step{step}.parquet", parts, provenance={"made": "here"})
    return tmp_path


# The one table


def test_effects_are_read_as_they_were_written(tmp_path):
    rng = np.random.default_rng(1)
    parts = [
        part(rng.normal(size=(2, 5, 12)), exposure="size", size=rng.random(12)),
        part(
            rng.normal(size=(5, 3)),
            kind="whole",
            baseline=None,
            exposure="size",
            label=["x", "y", "z"],
        ),
    ]
    effects.write(tmp_path / "step16.parquet", parts)
    found = effects.read(tmp_path / "step16.parquet")
    for one, other in zip(found, parts, strict=True):
        assert one.state == other.state
        assert (one.kind, one.condition) == (other.kind, other.condition)
        pd.testing.assert_frame_equal(one.components, other.components)
        assert np.array_equal(one.draws, other.draws)
    assert np.array_equal(found[0].baseline, parts[0].baseline)
    assert found[1].baseline is None
    assert np.array_equal(found[0].exposure, parts[0].components["size"])
    assert found[1].exposure is None
    assert found[0].values == pytest.approx(parts[0].draws.mean(axis=0))
    before = (tmp_path / "step16.parquet").read_bytes()
    effects.write(tmp_path / "step16.parquet", found[::-1])
    assert (tmp_path / "step16.parquet").read_bytes() == before


def test_states_come_from_the_list_and_never_from_the_folder(folder):
    found = effects.read_states(folder, ["step16", "step32"])
    assert [(p.state.name, p.kind, p.condition) for p in found] == [
        (state, *kind) for state in ("step16", "step32") for kind in KINDS
    ]
    assert effects.provenance(folder / "step16.parquet") == {"made": "here"}
    with pytest.raises(TableError, match=r"has no step64\.parquet"):
        effects.read_states(folder, ["step16", "step32", "step64"])
    with pytest.raises(TableError, match=r"holds step32\.parquet, which the settings do not list"):
        effects.read_states(folder, ["step16"])
    with pytest.raises(TableError, match=r"has no step16\.parquet"):
        effects.read_states(folder / "nowhere", ["step16"])
    (folder / "step32.parquet").rename(folder / "step64.parquet")
    with pytest.raises(TableError, match="holds effects of step32, not of step64"):
        effects.read_states(folder, ["step16", "step64"])
    (folder / "step64.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(TableError, match="not a readable Parquet file"):
        effects.read_states(folder, ["step16", "step64"])


def test_states_without_a_position_stand_where_the_settings_list_them(tmp_path):
    for name, at in (("warm_up", np.nan), ("step8", 8.0), ("main", np.nan)):
        one = part(np.ones((3, 2)) + np.arange(3)[:, np.newaxis])
        state = replace(one.state, name=name, position=at)
        effects.write(tmp_path / f"{name}.parquet", [replace(one, state=state)])
    names = ["warm_up", "step8", "main"]
    found = effects.read_states(tmp_path, names)
    assert [one.state.name for one in found] == names
    assert [one.state.position for one in found] == [0.0, 1.0, 2.0]
    (tmp_path / "warm_up.parquet").unlink()
    (tmp_path / "main.parquet").unlink()
    (alone,) = effects.read_states(tmp_path, ["step8"])
    assert alone.state.position == 8.0


def _set(column, value, row=3):
    def edit(table):
        table.loc[row, column] = value
        return table

    return edit


BAD = {
    "nan": (_set("effect", np.nan), "holds nan as an effect"),
    "infinite": (_set("effect", np.inf), "holds inf as an effect"),
    "two baselines": (_set("baseline", 9.0), "several baselines"),
    "two attributes": (_set("number", 9), "has several values of one attribute"),
    "a row missing": (lambda t: t.iloc[1:], "29 rows are not 1 draws x 6 replicates x 5"),
    "a row twice": (lambda t: pd.concat([t, t.iloc[:1]]), "each once"),
    "no rows": (lambda t: t.iloc[:0], "holds no effects"),
    "a column missing": (lambda t: t.drop(columns="draw"), "have no column draw"),
    "fewer replicates": (lambda t: t[t["replicate"] < 5], "on 5 replicates|on 6 replicates"),
    "fewer components": (lambda t: t[t["component"] != "P1"], "or on others; all states"),
    "no direction": (lambda t: t[t["kind"] != "direction"], "direction none was measured at"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_effects_stop_with_one_clear_line(folder, name):
    edit, message = BAD[name]
    path = folder / "step16.parquet"
    table = pq.read_table(path)
    changed = pa.Table.from_pandas(edit(table.to_pandas()), preserve_index=False)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(TableError, match=message) as error:
        effects.read_states(folder, ["step16", "step32"])
    assert "\n" not in str(error.value)


def test_a_table_of_something_else_is_refused(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "step1.parquet")
    with pytest.raises(TableError, match="have no column kind"):
        effects.read(tmp_path / "step1.parquet")
    with pytest.raises(TableError, match="do not exist"):
        effects.read(tmp_path / "step2.parquet")
    with pytest.raises(TableError, match="the effects of 2 states"):
        effects.write(tmp_path / "x.parquet", [part(np.ones((2, 2)), step) for step in (1, 2)])


# Streams and metrics


def test_a_stream_hangs_on_its_names_alone():
    draw = lambda *names: stream(7, *names).integers(1 << 40)  # noqa: E731
    assert draw("a", "b") == draw("a", "b")
    assert len({draw("a", "b"), draw("b", "a"), draw("ab"), draw("a"), draw("a", "b", 1)}) == 5
    assert stream(8, "a").integers(1 << 40) != draw("a")


def test_every_metric_lies_within_its_bounds_and_reaches_them():
    rng = np.random.default_rng(2)
    n_checked = 0
    for metric in metrics.REGISTRY.values():
        # Of these the bounds are not reached by equal weights or a single one.
        whole = "miller" in metric.name or "chao" in metric.name or "excess" in metric.name
        for n in (2, 7, 40):
            weights = rng.integers(0, 9, (200, n)).astype(float)
            weights = weights[weights.sum(axis=1) > 0]
            values = metric.of(weights, "all")
            known = values[np.isfinite(values)]
            assert known.min() >= metric.least(n) - 1e-9
            assert known.max() <= metric.most(n) + 1e-9
            equal, single = np.ones(n), np.eye(n)[0]
            if not whole and metric.unit != "effect":
                ends = {float(metric.of(one[np.newaxis], "all")[0]) for one in (equal, single)}
                found = {round(end, 9) for end in ends if math.isfinite(end)}
                assert found & {round(metric.least(n), 9), round(metric.most(n), 9)}
            n_checked += 1
    assert n_checked == 3 * len(metrics.REGISTRY)


# The floor of noise


def rows_of(parts, params=PARAMS):
    return measure_all(parts, params)[0].set_index("metric")


def test_floor_of_equal_independent_components_is_that_of_the_half_normal():
    gini = rows_of([part(np.random.default_rng(2).normal(size=(400, 300)))])
    # Observed: 0.4142 and 0.4141; the sample's own covariance moves the first by up to 0.004.
    assert gini.loc["gini", "floor"] == pytest.approx(HALF_NORMAL, abs=0.006)
    assert gini.loc["gini", "floor_independent"] == pytest.approx(HALF_NORMAL, abs=0.006)
    # E|N(0, 1/n)| = sqrt(2 / (pi n)); observed within 1%.
    expected = 300 * math.sqrt(2 / (math.pi * 400))
    assert gini.loc["sum_abs", "floor"] == pytest.approx(expected, rel=0.03)
    share = gini.loc["sum_abs", "floor"] / gini.loc["sum_abs", "value"]
    assert gini["noise_share"].tolist() == pytest.approx([share] * len(NAMES))


def test_floor_does_not_know_the_true_effects():
    noise = np.random.default_rng(3).normal(size=(20, 8))
    floors = [rows_of([part(noise + shift)])["floor"] for shift in (0.0, np.arange(8.0))]
    assert floors[0].to_numpy() == pytest.approx(floors[1].to_numpy(), rel=1e-9)


def test_floor_keeps_the_correlation_of_the_components():
    rng = np.random.default_rng(4)
    common = np.repeat(rng.normal(size=(60, 1)), 20, axis=1)
    gini = rows_of([part(common)]).loc["gini"]
    # Components that move as one are equal whatever the noise; independent ones would not be.
    assert gini["floor_high"] < 1e-9
    assert gini["floor_independent"] == pytest.approx(0.4, abs=0.05)


def test_what_replicates_do_not_change_has_no_floor():
    effect = np.array([1.0, 0.3, 0.1])
    # Replicates that are the same but for the last digit, which another processor may turn.
    same = effect * (1 + np.random.default_rng(8).integers(-2, 3, (20, 3)) * 2.0**-53)
    assert np.ptp(same, axis=0).max() > 0
    gini = rows_of([part(same)]).loc["gini"]
    assert np.isnan(gini[["floor", "floor_low", "floor_high"]].to_numpy(float)).all()
    assert np.isnan(gini["floor_independent"])
    assert gini["noise_share"] == 0
    assert gini["p"] == gini["p_smallest"]


def test_noise_alone_lies_within_its_floor_at_the_stated_rate():
    rng = np.random.default_rng(5)
    n_runs, inside = 150, np.zeros(len(NAMES))
    params = PARAMS.model_copy(update={"draws": 300})
    for step in range(n_runs):
        noise = rng.normal(size=(64, 24)) + 0.5 * rng.normal(size=(64, 1))
        table = rows_of([part(noise, step)], params)
        inside += table["value"].between(table["floor_low"], table["floor_high"]).to_numpy()
    # Nominal 95%; observed 0.95 to 0.98. Four standard errors of 0.95 over 150 runs are 0.07.
    assert (inside / n_runs >= 0.88).all(), inside / n_runs


def test_a_state_has_the_same_floor_whatever_other_states_and_kinds_there_are():
    rng = np.random.default_rng(6)
    parts = [part(rng.normal(size=(10, 6)), step) for step in (1, 2)]
    more = [replace(one, kind="another") for one in parts]
    both, _, _ = measure_all([*more, *parts])
    alone, _, _ = measure_all(parts[1:])
    same = both[(both["series"] == "part") & (both["state"] == "step2")].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, alone)


# Exposure


def test_effects_that_are_all_exposure_leave_nothing_behind():
    rng = np.random.default_rng(7)
    size = np.exp(rng.normal(size=60))
    noise = 1e-9 * rng.normal(size=(8, 60))
    table = rows_of([part(3 * size**2 + noise, exposure="size", size=size)])
    assert set(table["exposure"]) == {"size"}
    value, alone, left = table.loc["gini", ["value", "exposure_alone", "exposure_removed"]]
    assert alone == pytest.approx(value, abs=1e-6)
    assert left < 1e-6
    # An exposure that has nothing to do with the effects predicts next to nothing.
    other = rows_of([part(3 * size**2 + noise, exposure="size", size=rng.permutation(size))])
    value, alone, left = other.loc["gini", ["value", "exposure_alone", "exposure_removed"]]
    assert alone < 0.5 * value
    assert left == pytest.approx(value, abs=0.1)


@pytest.mark.parametrize("size", [np.ones(5), np.array([0, 0, 0, 1.0, 2.0])])
def test_an_exposure_that_cannot_be_fitted_predicts_nothing(size):
    table = rows_of([part(np.arange(1.0, 6) + np.zeros((3, 5)), exposure="size", size=size)])
    assert table[["exposure_alone", "exposure_removed"]].isna().all(axis=None)


def test_a_component_without_effect_or_exposure_is_left_out_of_the_line():
    predicted, left = nulls.by_exposure(np.array([0.0, 2, 4, 8, 5]), np.array([1.0, 1, 2, 4, 0]))
    assert predicted == pytest.approx([0, 2, 4, 8, 0])
    assert left == pytest.approx([0, 1, 1, 1, 0])


def test_each_row_of_effects_has_a_line_of_its_own_to_the_last_digit():
    rng = np.random.default_rng(5)
    exposure = np.append(rng.uniform(1, 9, size=30), 0.0)
    effects = rng.normal(size=(2, 20, 31)) * (rng.random((2, 20, 31)) > 0.1)
    effects[0, :9] = rng.normal(size=(9, 31))
    effects[1, 3, 2:] = 0
    found = nulls.by_exposure(effects, exposure)
    assert np.isnan(found[0]).all(axis=-1).sum() == 1
    for row in np.ndindex(2, 20):
        for of_all, alone in zip(found, nulls.by_exposure(effects[row], exposure), strict=True):
            np.testing.assert_array_equal(of_all[row], alone)


# Values, intervals and changes


def test_values_are_the_metrics_of_the_mean_effects():
    rng = np.random.default_rng(7)
    parts = [part(rng.normal(size=(12, 8)), step) for step in (4, 8, 16)]
    table, changes, _ = measure_all(parts, untrained="step4")
    values = table.pivot(index="state", columns="metric", values="value")
    for p in parts:
        expected = metrics.measure(np.abs(p.values.mean(axis=0)))
        assert values.loc[p.state.name, NAMES].to_numpy() == pytest.approx(expected)
    assert values["effective_share"].to_numpy() == pytest.approx(
        values["effective_number"].to_numpy() / 8
    )
    assert values["gini_corrected"].to_numpy() == pytest.approx(values["gini"].to_numpy() * 8 / 7)
    # Of any two states, in their order.
    pairs = changes[["state_first", "state_last"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [["step4", "step8"], ["step4", "step16"], ["step8", "step16"]]
    for row in changes.itertuples():
        moved = values.loc[row.state_last, row.metric] - values.loc[row.state_first, row.metric]
        assert row.change == pytest.approx(moved)
    untrained = table.pivot(index="state", columns="metric", values="untrained")
    assert (untrained == values.loc["step4"]).all(axis=None)


def test_interval_over_replicates_holds_the_plain_one_and_its_mirror_image():
    draws = np.linspace(0.0, 1.0, 1001)
    low, high, plain_low, plain_high, *_ = measured.intervals(np.array(0.2), draws, draws, 0.9)
    assert (plain_low, plain_high) == pytest.approx((0.05, 0.95))
    assert (low, high) == pytest.approx((2 * 0.2 - 0.95, 0.95))


def test_change_is_resampled_jointly():
    """Noise that both states share, as sequences do, is no uncertainty of the change."""
    rng = np.random.default_rng(8)
    shared = rng.normal(size=(30, 6)) + np.arange(1, 7)
    _, changes, draws = measure_all([part(shared, 1), part(2 * shared, 2)])
    gini = changes.set_index("metric").loc["gini"]
    names = [f"{kind}_{end}" for kind in ("replicates", "components") for end in ("low", "high")]
    assert np.abs(gini[names].to_numpy(float)).max() < 1e-12
    # The draws of both states stand beside each other for whoever needs several metrics of one.
    of_states = [draws[draws["state"] == state]["gini"].to_numpy() for state in ("step1", "step2")]
    assert of_states[0] == pytest.approx(of_states[1])


def test_one_state_has_no_change_and_equal_replicates_no_width():
    table, changes, _ = measure_all([part(np.tile([1.0, 2.0, 3.0, 10.0], (5, 1)))])
    assert changes.empty
    gini = table.set_index("metric").loc["gini"]
    assert gini["replicates_low"] == pytest.approx(gini["value"])
    assert gini["replicates_high"] == pytest.approx(gini["value"])
    assert gini["components_low"] < gini["value"] <= gini["components_high"]
    assert gini["noise_share"] == 0


def test_a_single_replicate_has_a_value_and_no_floor():
    gini = rows_of([part([[1.0, 2.0, 3.0, 10.0]])]).loc["gini"]
    assert gini["value"] == pytest.approx(0.4375)
    assert np.isnan(gini[["floor", "p", "noise_share"]].to_numpy(float)).all()


def test_a_system_without_effects_has_no_concentration():
    table, _, _ = measure_all([part(np.zeros((4, 6)), step) for step in (1, 2)])
    values = table.set_index(["state", "metric"])["value"]
    assert values.drop("sum_abs", level="metric").isna().all()
    assert (values.xs("sum_abs", level="metric") == 0).all()


@pytest.mark.parametrize(("noise", "share", "least"), [(0.1, 0.08, 0.87), (1.0, 0.39, 0.77)])
def test_intervals_over_replicates_cover_known_truths(noise, share, least):
    """State how often the 95% intervals hold the truth: well with little noise, less with much."""
    rng = np.random.default_rng(10)
    n_runs, n_components, n = 150, 48, 32
    shown = [NAMES.index(name) for name in ("gini", "effective_number")]
    total = NAMES.index("sum_abs")
    covered, shares, plain = np.zeros(len(NAMES)), [], np.zeros(len(NAMES))
    for _ in range(n_runs):
        true = np.exp(rng.normal(0, 1.2, n_components))
        true *= np.where(rng.random(n_components) < 0.8, 1, -1)
        spread = noise * math.sqrt(n) * np.median(np.abs(true)) + 0.3 * np.abs(true)
        common = rng.normal(size=(n, 1))
        own = rng.standard_t(5, (n, n_components)) / math.sqrt(5 / 3)
        p = part(true + spread * (0.5 * common + math.sqrt(0.75) * own))
        drawn = measured.resample([p], METRICS, draws=200, rng=rng)
        ends = measured.intervals(drawn.values[0], drawn.replicates[0], drawn.components[0], 0.95)
        goal = metrics.measure(np.abs(true))
        covered += (ends[0] <= goal) & (goal <= ends[1])
        plain += (ends[2] <= goal) & (goal <= ends[3])
        floor = nulls.floor_draws(p.values, METRICS, draws=50, rng=rng)
        shares.append(np.median(floor[:, total]) / drawn.values[0, total])
    assert np.mean(shares) == pytest.approx(share, abs=0.03)
    # Observed with little noise: 0.95 to 0.97; with two fifths of noise: 0.88 for concentrations
    # (the plain interval: 0.46) and 1.00 for the sum. `least` is four standard errors below.
    assert (covered[shown] / n_runs >= least).all(), covered / n_runs
    assert covered[total] / n_runs >= 0.85
    assert (covered >= plain).all()
    if noise == 1.0:
        assert (plain[shown] / n_runs < 0.75).all(), plain / n_runs


def test_change_of_the_sum_is_covered():
    rng = np.random.default_rng(11)
    n_runs, inside = 200, 0
    first, last = 0.3 * np.ones(20), np.linspace(0.2, 3, 20)
    for _ in range(n_runs):
        noise = rng.normal(size=(40, 20))
        pair = [part(first + noise * 0.4, 1), part(last + noise, 2)]
        drawn = measured.resample(pair, METRICS, draws=200, rng=rng)
        moved = drawn.replicates[-1] - drawn.replicates[0]
        got = drawn.values[-1] - drawn.values[0]
        ends = measured.intervals(got, moved, moved, 0.95)[:, NAMES.index("sum_abs")]
        inside += ends[0] <= last.sum() - first.sum() <= ends[1]
    # Nominal 95%; observed 0.945. Four standard errors of that over 200 runs are 0.06.
    assert inside / n_runs >= 0.87


# The command line


def test_the_stage_writes_the_same_files_twice(folder, params, tmp_path, caplog):
    own = {"room": "heads", "group": "m", "effects": str(folder), "states": ["step16", "step32"]}
    content = params | {"systems": {"heads": own | {"kinds": ["part"]}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    words = [f"--params={tmp_path / 'params.yaml'}", "--system=heads"]
    outs = [tmp_path / "out" / name for name in ("m.csv", "c.csv", "d.parquet")]
    words += [
        f"--{name}={out}" for name, out in zip(("out", "changes", "draws"), outs, strict=True)
    ]
    assert measured.main(words) == 0
    before = [out.read_bytes() for out in outs]
    assert measured.main(words) == 0
    assert [out.read_bytes() for out in outs] == before
    assert set(tables.read(outs[0], MEASURED)["series"]) == {"part"}
    content["systems"]["heads"]["kinds"] = ["neuron"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert measured.main(words) == 1
    assert "hold no neuron" in caplog.text
    assert [out.read_bytes() for out in outs] == before
