"""Hold the plane of cells and heads to known vectors, and its test to its level and power."""

import itertools
import json
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from stages.base import study, tables
from stages.cells import contrast, medians
from stages.cells.design import Design
from stages.cells.settings import Contrast, Medians
from stages.cells.tables.metrics import METRICS
from stages.drawing import style
from stages.heads.components import components
from stages.heads.metrics import METRICS as OF_HEADS
from stages.heads.tables.seeds import HEAD_SEEDS
from stages.measurement import measured, nulls
from stages.measurement.effects import Effects, State
from stages.measurement.metrics import REGISTRY, measure
from stages.measurement.settings import Measured, System
from stages.measurement.tables import CHANGES, MEASURED
from stages.plane import axes as second_axis
from stages.plane import directions, plane, same_direction, splits, vectors
from stages.plane.figures import overlay
from stages.plane.settings import Plane
from stages.plane.tables import PLANE, PLANE_DIRECTIONS, SCALES, SPLITS

SETTINGS = Plane(
    beside=["cells"],
    references=["heads"],
    trainings="mini",
    confidence=0.95,
    max_permutations=20000,
    seed=1,
)
MEDIANS = Medians(confidence=0.95, draws=400, max_permutations=20000, seed=1)
MEASURE = Measured(confidence=0.95, draws=400, seed=1)


def two_groups(young, old):
    """Return both groups in one array, and which are where."""
    places = np.split(np.arange(len(young) + len(old)), [len(young)])
    return np.concatenate([young, old]), Design(*places, paired=False)


REAL = study.Study("x", "local", simulated=False, notice="")
STEPS = (16, 64, 256, 1024)
SYSTEM = System(
    room="heads", group="mini", effects="effects", states=[f"step{step}" for step in STEPS]
)


def samples(young, old, tissue="T", platform="facs"):
    """Return metrics of animals at places (gini, effective number) of 10 components each."""
    rows = sample_rows(young, old, tissue, platform)
    return METRICS.validate(pd.DataFrame(rows, columns=list(METRICS.columns)))


def sample_rows(young, old, tissue="T", platform="facs"):
    rows = []
    for group, values in (("reference", young), ("compared", old)):
        for i, (gini, number) in enumerate(values):
            key = [
                "tms",
                platform,
                tissue,
                f"{group}{i}",
                "male",
                None,
                3.0 if group == "reference" else 24,
                None,
            ]
            chosen = [gini, gini * 10 / 9, number, number, number, 10, 0.5, 10, number, number]
            rows.append([*key, group, "all", 500, *chosen, number])
    return rows


def animals(rng, n, centre, spread=0.05):
    """Return places about a centre, effective number falling as Gini rises (correlation -0.95)."""
    common, own = rng.normal(size=(2, n))
    gini = np.clip(centre[0] + spread * common, 0, 0.9)
    number = centre[1] - 20 * spread * (0.95 * common + 0.31 * own)
    return np.column_stack([gini, np.clip(number, 1, 10)])


def read_as(measured_tables):
    """Return what was measured as the plane reads it."""
    return vectors.System(*measured_tables)


def tissue(young, old, scale="raw", settings=MEDIANS):
    system = read_as(medians.medians(samples(young, old), settings))
    found = vectors.trails({"cells": system}, SETTINGS)
    return next(one for one in found if one.scale == scale)


def part(step, delta, base=4.0):
    """Return effects of heads of one step, (n_sequences, n_heads) or with draws before."""
    delta = delta if delta.ndim == 3 else delta[np.newaxis]
    _, n, n_heads = delta.shape
    return Effects(
        State("heads", f"step{step}", float(step), "nats"),
        "head",
        "zero",
        components("head", [(i // 8, i % 8, 0) for i in range(n_heads)]),
        np.arange(n),
        delta,
        np.full(n, base),
    )


def head_parts(steps=STEPS, n_heads=16, n_sequences=24):
    """Simulate heads that become unequal along training."""
    rng = np.random.default_rng(0)
    size = np.exp(rng.normal(0, 1.5, n_heads))
    return [
        part(step, 0.1 * size**power + 0.01 * rng.normal(size=(n_sequences, n_heads)))
        for step, power in zip(steps, np.linspace(0.1, 1, len(steps)), strict=True)
    ]


def along(parts, settings=MEASURE):
    return measured.measured(parts, SYSTEM, OF_HEADS, settings)


def heads_at(*values, scale="raw"):
    """Return heads without uncertainty at these places."""
    places = np.array(values, dtype=float)
    drawn = np.repeat(places[:, np.newaxis], MEDIANS.draws, axis=1)
    n = len(places)
    return vectors.Trail(
        key=("heads", "mini", "head", "zero"),
        scale=scale,
        states=[f"step{i}" for i in range(n)],
        positions=list(map(float, range(n))),
        values=places,
        draws={"replicates": drawn, "components": drawn},
        permuted=None,
        ends={},
        noise=[0.0] * n,
        n=[5] * n,
    )


def made(n_tissues=4, parts=None):
    """Return both tables of simulated cells and heads."""
    rng = np.random.default_rng(3)
    parts = head_parts() if parts is None else parts
    metrics = pd.concat(
        [
            samples(
                animals(rng, 5, (0.4, 6)),
                animals(rng, 4, (0.4 + shift, 6 - 10 * shift)),
                f"Tissue_{i}",
                platform,
            )
            for platform in ("facs", "droplet")
            for i, shift in enumerate(np.linspace(-0.2, 0.2, n_tissues))
        ],
        ignore_index=True,
    )
    systems = {"cells": medians.medians(metrics, MEDIANS), "heads": along(parts)}
    for table, change, _ in systems.values():
        MEASURED.validate(table)
        CHANGES.validate(change)
    found = vectors.trails({name: read_as(one) for name, one in systems.items()}, SETTINGS)
    same = PLANE_DIRECTIONS.validate(same_direction.same_direction(found, SETTINGS))
    return SimpleNamespace(
        metrics=metrics,
        parts=parts,
        systems=systems,
        plane=PLANE.validate(plane.plane(found, SETTINGS)),
        same=same,
        splits=SPLITS.validate(splits.splits(same, REAL, confidence=0.95)),
    )


@pytest.fixture(scope="module")
def both():
    return made()


# Angles


@pytest.mark.parametrize(
    ("vector", "angle", "signed"),
    [((1, 0), 0, 0), ((0, 1), 90, 90), ((0, -2), 90, -90), ((-3, 0), 180, 180), ((1, -1), 45, -45)],
)
def test_angles_of_known_vectors(vector, angle, signed):
    young = np.array([[0.4, 5.0]] * 3)
    change = tissue(young, young + 0.1 * np.array(vector))
    row = same_direction.same_direction([change, heads_at((0, 0), (2, 0))], SETTINGS).iloc[0]
    # Differences of floats near 5: observed below 1e-12 degrees.
    assert row["angle_degrees"] == pytest.approx(angle, abs=1e-9)
    assert row["angle_replicates_low"] == pytest.approx(angle, abs=1e-6)
    assert row["angle_components_high"] == pytest.approx(angle, abs=1e-6)
    one = plane.plane([change], SETTINGS).iloc[0]
    assert one["angle_degrees"] == pytest.approx(signed, abs=1e-9)


def test_turns_are_antisymmetric_and_do_not_depend_on_length():
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 200, 2))
    turned = directions.turn(start, end)
    cosine = (start * end).sum(1) / np.hypot(*start.T) / np.hypot(*end.T)
    assert np.cos(np.radians(turned)) == pytest.approx(cosine)
    assert directions.turn(end, start) == pytest.approx(-turned)
    assert directions.turn(3 * start, 0.1 * end) == pytest.approx(turned)


def test_an_interval_runs_over_the_half_circle_and_not_the_long_way_round():
    draws = directions.wrap(180 + np.linspace(-10, 10, 1001))
    low, high = directions.interval(178.0, draws, confidence=0.9, mirrored=False)
    assert (low, high) == pytest.approx((171, 189))
    mirrored = directions.interval(178.0, draws, confidence=0.9, mirrored=True)
    assert mirrored == pytest.approx((178 - 11, 178 + 11))
    assert directions.unsigned(low, high) == pytest.approx((171, 180))


def test_a_zero_vector_has_no_direction():
    young = np.array([[0.3, 5.0]] * 3)
    still = tissue(young, young)
    row = plane.plane([still], SETTINGS).iloc[0]
    assert np.isnan(row[["angle_degrees", "angle_low"]].to_numpy(float)).all()
    assert row["quadrant"] == "mixed"
    same = same_direction.same_direction([still, heads_at((0, 0), (1, 0))], SETTINGS).iloc[0]
    assert np.isnan(same["angle_degrees"])
    assert np.isnan(same["own_angle_p"])
    assert same["p"] == 1


# Vectors of cells


def test_vectors_are_the_changes_of_the_ageing_table(both):
    params = Contrast(
        metrics=["gini", "gini_corrected", "effective_number"],
        confidence=0.95,
        max_permutations=100,
        seed=1,
    )
    table, _ = contrast.contrast(both.metrics, params)
    cells = both.plane[both.plane["system"] == "cells"]
    n_checked = 0
    for scale, metric, column in (
        ("raw", "gini", "d_gini"),
        ("raw", "effective_number", "d_effective"),
        ("corrected", "gini_corrected", "d_gini"),
    ):
        ours = cells[cells["scale"] == scale].set_index(["group", "series"])
        theirs = table[table["metric"] == metric]
        theirs = theirs.assign(group="tms " + theirs["platform"]).set_index(["group", "tissue"])
        for end in ("", "_low", "_high"):
            expected = theirs[f"change{end}"].loc[ours.index].tolist()
            assert ours[f"{column}{end}"].tolist() == expected
            n_checked += len(ours)
        if scale == "raw":
            assert ours["quadrant"].tolist() == theirs["quadrant"].loc[ours.index].tolist()
    assert n_checked == 72


def test_components_of_any_category_set_follow_from_both_ginis():
    young = np.array([[0.3, 5.0], [0.0, 10.0], [0.5, 2.0]])
    table = samples(young, young)
    assert medians.effective_share(table)[:3] == pytest.approx(young[:, 1] / 10)
    # 15 categories of which 10 have cells: the Gini is over all of them.
    padded = table.assign(gini=0.42, gini_corrected=0.42 * 15 / 14)
    assert medians.effective_share(padded) == pytest.approx(table["effective_number"] / 15)


def test_draws_keep_both_metrics_of_an_animal_together():
    rng = np.random.default_rng(2)
    gini = rng.uniform(0.2, 0.6, 7)
    line = np.column_stack([gini, 9 - 10 * gini])
    one = tissue(line, line[:5] + np.array([0.1, -1]))
    drawn = one.draws["replicates"][1] - one.draws["replicates"][0]
    assert drawn[:, 1] == pytest.approx(-10 * drawn[:, 0])


@pytest.mark.slow
def test_intervals_of_coordinates_and_angles_cover_a_known_vector():
    rng = np.random.default_rng(5)
    truth = np.array([0.15, -1.5])
    angle = float(directions.direction(truth))
    settings = MEDIANS.model_copy(update={"draws": 300, "max_permutations": 20})
    rows = []
    for i in range(300):
        young = animals(rng, 9, (0.4, 6))
        old = animals(rng, 9, (0.4 + truth[0], 6 + truth[1]))
        rows += sample_rows(young, old, tissue=f"T{i}")
    studies = METRICS.validate(pd.DataFrame(rows, columns=list(METRICS.columns)))
    system = read_as(medians.medians(studies, settings))
    trails = vectors.trails({"cells": system}, SETTINGS)
    table = plane.plane([one for one in trails if one.scale == "raw"], SETTINGS)
    table = table.drop_duplicates(list(plane.KEY))
    assert len(table) == 300
    held = []
    for _, found in table.iterrows():
        turned = float(directions.wrap(np.array(angle - found["angle_degrees"])))
        held.append(
            [
                found["d_gini_low"] <= truth[0] <= found["d_gini_high"],
                found["d_effective_low"] <= truth[1] <= found["d_effective_high"],
                found["angle_low"] <= found["angle_degrees"] + turned <= found["angle_high"],
            ]
        )
    # Of 300: 0.95 has a standard error of 0.013; the bootstrap of a median is conservative.
    coverage = np.mean(held, axis=0)
    assert (coverage > 0.91).all()
    assert (coverage < 1).all()


# Vectors of heads


def test_vectors_of_heads_are_those_of_the_trajectory(both):
    moved = both.plane[
        (both.plane["system"] == "heads") & (both.plane["bootstrap"] == "components")
    ]
    table, change, _ = along(both.parts)
    change = change[change["state_first"] == "step16"].set_index(["state_last", "metric"])
    value = table.set_index(["metric", "position"])["value"]
    n_checked = 0
    for scale, axes in SCALES.items():
        rows = moved[moved["scale"] == scale].set_index("position")
        assert rows.index.tolist() == list(STEPS[1:])
        for column, metric in zip(("d_gini", "d_effective"), axes, strict=True):
            expected = [value[metric, step] - value[metric, STEPS[0]] for step in STEPS[1:]]
            assert rows[column].tolist() == pytest.approx(expected, rel=1e-12)
            total = change.loc[("step1024", metric), "change"]
            assert rows[column].iloc[-1] == pytest.approx(total, rel=1e-12)
            n_checked += 1
    assert n_checked == 6
    named = moved[moved["scale"] != "shape"]["quadrant"]
    assert (named == "crystallize").all()
    assert moved[moved["scale"] == "shape"]["quadrant"].isna().all()
    shares = table[table["metric"] == "gini"]["noise_share"]
    assert moved["noise_share_first"].unique() == pytest.approx(shares.iloc[0])


@pytest.mark.slow
def test_intervals_over_sequences_cover_a_known_vector_of_heads():
    rng = np.random.default_rng(12)
    n = 48
    size = [0.1 * np.exp(rng.normal(0, 1.5, n)) ** power for power in (0.3, 1)]
    truth = measure(size[1]) - measure(size[0])
    known = truth[[[one.name for one in OF_HEADS].index(name) for name in SCALES["corrected"]]]
    angle = float(directions.direction(known))
    settings = MEASURE.model_copy(update={"draws": 200})
    held = []
    for _ in range(100):
        parts = [
            part(step, mean + (0.05 + mean) * rng.normal(size=(1, 32, n)))
            for step, mean in zip((1, 2), size, strict=True)
        ]
        trails = vectors.trails({"heads": read_as(along(parts, settings))}, SETTINGS)
        rows = plane.plane([one for one in trails if one.scale == "corrected"], SETTINGS)
        found = rows[rows["bootstrap"] == "replicates"].iloc[0]
        turned = float(directions.wrap(np.array(angle - found["angle_degrees"])))
        held.append(
            [
                found["d_gini_low"] <= known[0] <= found["d_gini_high"],
                found["d_effective_low"] <= known[1] <= found["d_effective_high"],
                found["angle_low"] <= found["angle_degrees"] + turned <= found["angle_high"],
            ]
        )
    # Observed 0.92 to 0.97 of 200; a standard error of 100 is 0.03.
    assert (np.mean(held, axis=0) > 0.86).all()


def test_checkpoints_without_any_effect_have_no_place():
    parts = head_parts()
    silent = part(8, 0 * parts[0].draws)
    moving = vectors.trails({"heads": read_as(along([silent, *parts]))}, SETTINGS)
    assert [one.positions for one in moving] == [list(STEPS)] * 3


# The test of one direction


def test_permuted_vectors_are_those_of_a_loop():
    rng = np.random.default_rng(6)
    young, old = rng.normal(size=(3, 2)), rng.normal(size=(2, 2))
    found = np.subtract(*medians.permuted(*two_groups(young, old), MEDIANS, rng)[::-1])
    pooled = np.concatenate([young, old])
    expected = []
    for taken in itertools.combinations(range(5), 2):
        rest = [i for i in range(5) if i not in taken]
        expected.append(np.median(pooled[list(taken)], 0) - np.median(pooled[rest], 0))
    assert found == pytest.approx(np.array(expected))
    pairs = nulls.exchanged_states(np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]))
    assert sorted(pairs[:, 0]) == [-3, -2, -1, 1, 2, 3]


def test_p_values_of_known_arrangements():
    """Gini of 2 against 3 animals: only the observed of 10 arrangements is as extreme."""
    young, old = np.array([[0.1, 5], [0.2, 5], [0.3, 5]]), np.array([[0.7, 5], [0.8, 5]])
    row = same_direction.same_direction(
        [tissue(young, old), heads_at((0, 0), (1, 0), (2, 0))], SETTINGS
    ).iloc[0]
    assert row["own_p"] == row["own_p_smallest"] == 0.1
    assert row["own_exact"]
    # Last minus first is the longest of 6 ordered pairs; half of them point the same way.
    assert row["reference_p"] == row["reference_p_smallest"] == pytest.approx(1 / 6)
    assert row["reference_angle_p"] == 0.5
    assert row["p"] == row["q"] == row["reference_p"]
    assert row["product"] == pytest.approx(1.1)
    away = same_direction.same_direction(
        [tissue(old, young), heads_at((0, 0), (1, 0))], SETTINGS
    ).iloc[0]
    assert away["angle_degrees"] == pytest.approx(180)
    assert away["p"] == 1


def test_drawn_arrangements_agree_with_counted_ones_and_are_never_zero():
    rng = np.random.default_rng(7)
    young, old = animals(rng, 8, (0.4, 6)), animals(rng, 8, (0.45, 5.5))
    heads = heads_at(*((i, -10 * i) for i in range(5)))
    few = MEDIANS.model_copy(update={"max_permutations": 12000})
    counted, drawn = (
        same_direction.same_direction([tissue(young, old, settings=one), heads], SETTINGS).iloc[0]
        for one in (MEDIANS, few)
    )
    assert counted["own_exact"]
    assert not drawn["own_exact"]
    # Of 12,000 draws a share has a standard error of at most 0.005.
    assert drawn["own_p"] == pytest.approx(counted["own_p"], abs=0.02)
    apart = same_direction.one_sided(
        np.array([9.0, 0]), np.array([1.0, 0]), np.zeros((99, 2)), exact=False
    )[0]
    assert apart.p == apart.p_smallest == 0.01


def test_signs_of_steps_are_those_of_a_loop():
    """Four steps of a path; the null is the sum with every choice of their signs."""
    path = heads_at((0.0, 0.0), (1.0, -1.0), (3.0, -2.0), (2.5, -2.5), (2.0, -1.0))
    steps = np.diff(path.values, axis=0)
    young = np.array([[0.3, 5.0]] * 3)
    n_checked = 0
    for way in ((1.0, -1.0), (1.0, 0.5), (-1.0, 0.2)):
        vector = 0.1 * np.array(way)
        row = same_direction.same_direction([tissue(young, young + vector), path], SETTINGS).iloc[0]
        observed, reached = float(path.vector @ vector), 0
        for signs in itertools.product((1, -1), repeat=4):
            total = sum(
                sign * float(step @ vector) for sign, step in zip(signs, steps, strict=True)
            )
            reached += total >= observed - 1e-12
        assert row["steps_p"] == reached / 16
        n_checked += 1
    assert n_checked == 3
    one = same_direction.same_direction(
        [tissue(young, young + np.array([0.1, -1.0])), heads_at((0, 0), (1, -10), (2, -20))],
        SETTINGS,
    ).iloc[0]
    assert one["steps_p"] == one["steps_p_smallest"] == 0.25


def trainings(vectors_of, n_heads=16):
    """Return the table of trainings that start at one place and have these raw vectors."""
    rows = [
        {"seed": seed, "effects": effects, "estimator": "plug_in", "metric": metric}
        | {"state": f"step{at}", "position": at, "value": sign * (start + at * moved)}
        | {"n_heads": n_heads, "n_sequences": 5, "is_peak": False}
        for seed, vector in enumerate(vectors_of)
        for at in (0, 1)
        # Harmful effects alone are another matter.
        for effects, sign in (("absolute", 1), ("harmful", -1))
        for metric, start, moved in zip(SCALES["raw"], (0.4, 12.0), vector, strict=True)
    ]
    return HEAD_SEEDS.validate(pd.DataFrame(rows).reindex(columns=list(HEAD_SEEDS.columns)))


def test_signs_of_trainings_are_those_of_a_loop():
    found = [(0.1, -10.0), (0.2, -5.0), (-0.05, 4.0), (0.02, -0.1), (0.15, -7.0)]
    young = np.array([[0.3, 5.0]] * 3)
    vector = np.array([0.1, -1.0])
    moved = [tissue(young, young + vector), heads_at((0, 0), (1, -10))]
    row = same_direction.same_direction(moved, SETTINGS, trainings(found)).iloc[0]
    products = [0.1 * gini - number for gini, number in found]
    reached = sum(
        sum(sign * one for sign, one in zip(signs, products, strict=True)) >= sum(products) - 1e-12
        for signs in itertools.product((1, -1), repeat=5)
    )
    assert 1 < reached < 32
    assert row["trainings_p"] == reached / 32
    assert row["trainings_p_smallest"] == 1 / 32
    assert (row["n_trainings"], row["n_trainings_close"]) == (5, 4)
    assert row["p_trainings"] == max(row["own_p"], row["trainings_p"])
    # A training that was not measured in both states is none.
    whole = trainings(found)
    part = whole[(whole["seed"] != 2) | (whole["state"] != "step1")]
    assert same_direction.same_direction(moved, SETTINGS, part)["n_trainings"].tolist() == [4]
    # On every scale they are placed as the heads are measured.
    effects = np.random.default_rng(3).exponential(size=(2, 16))
    at = {name: measure(effects, [REGISTRY[name]])[:, 0] for name in set().union(*SCALES.values())}
    start = np.array([0.4, 12.0])
    begun = measure(np.abs(effects), [REGISTRY[name] for name in SCALES["raw"]])
    table = trainings([tuple(begun[1] - begun[0])])
    table["value"] += np.where(table["metric"] == "gini", *(begun[0] - start))
    n_checked = 0
    for scale, names in SCALES.items():
        of = heads_at((0, 0), (1, 1), scale=scale)
        [vector] = vectors.training_vectors(table[table["effects"] == "absolute"], of)
        expected = [at[name][1] - at[name][0] for name in names]
        assert vector == pytest.approx(np.array(expected), rel=1e-9)
        n_checked += 1
    assert n_checked == 3
    # Without trainings, or with those of another model, there is nothing to say.
    other = SETTINGS.model_copy(update={"trainings": "other"})
    for alone in (
        same_direction.same_direction(moved, SETTINGS),
        same_direction.same_direction(moved, other, trainings(found)),
    ):
        assert alone["n_trainings"].tolist() == [0]
        assert alone[["trainings_p", "p_trainings", "q_trainings"]].isna().all(axis=None)


def test_many_signs_are_drawn_from_a_stream_of_their_own():
    rng = np.random.default_rng(11)
    steps = rng.normal((0.1, -1), (0.1, 1.0), size=(10, 2))
    path = heads_at(*np.vstack([np.zeros(2), np.cumsum(steps, axis=0)]))
    young = np.array([[0.3, 5.0]] * 3)
    moved = [tissue(young, young + np.array([0.1, -1.0])), path]
    few = SETTINGS.model_copy(update={"max_permutations": 1000})
    counted, drawn, again = (
        same_direction.same_direction(moved, one)["steps_p"].iloc[0] for one in (SETTINGS, few, few)
    )
    assert drawn == again
    # Of 1,000 draws a share has a standard error of at most 0.016.
    assert drawn == pytest.approx(counted, abs=0.05)
    assert drawn != counted


def test_shares_of_splits_are_those_of_a_loop():
    """Every split of two young and two old animals, by hand."""
    animals_ = [(0.1, 7.0), (0.45, 3.0), (0.5, 6.0), (0.3, 4.0)]
    heads = heads_at((0, 0), (1.0, -10.0))
    row = same_direction.same_direction(
        [tissue(np.array(animals_[:2]), np.array(animals_[2:])), heads], SETTINGS
    ).iloc[0]
    close = quadrant = 0
    for old in itertools.combinations(range(4), 2):
        gini, number = (
            sum(animals_[i][axis] for i in old) / 2
            - sum(animals_[i][axis] for i in range(4) if i not in old) / 2
            for axis in (0, 1)
        )
        close += gini * 1.0 + number * -10.0 > 0
        quadrant += gini > 0 > number
    assert 0 < quadrant < close < 6
    assert (row["split_right_angle"], row["split_quadrant"]) == (close / 6, quadrant / 6)


def test_counts_under_random_splits_are_those_of_all_joint_splits():
    """Three tissues, every choice of one split in each: the distribution of the count."""
    rng = np.random.default_rng(13)
    heads = heads_at((0, 0), (1.0, -10.0))
    trails_ = [heads]
    places = []
    for i in range(3):
        young, old = animals(rng, 3, (0.4, 6)), animals(rng, 2, (0.5, 5))
        system = read_as(medians.medians(samples(young, old, f"T{i}"), MEDIANS))
        trails_ += [
            one for one in vectors.trails({"cells": system}, SETTINGS) if one.scale == "raw"
        ]
        places.append(np.vstack([young, old]))
    same = same_direction.same_direction(trails_, SETTINGS)
    found = SPLITS.validate(splits.splits(same, REAL, confidence=0.9))
    n_checked = 0
    for criterion in ("right_angle", "quadrant"):
        agree = []
        for of in places:
            agree.append([])
            for taken in itertools.combinations(range(5), 2):
                rest = [k for k in range(5) if k not in taken]
                gini, number = np.median(of[list(taken)], 0) - np.median(of[rest], 0)
                close = gini - 10 * number > 0
                agree[-1].append(close if criterion == "right_angle" else gini > 0 > number)
        counts = np.sort([sum(one) for one in itertools.product(*agree)])
        observed = sum(of[-1] for of in agree)
        row = found[(found["criterion"] == criterion) & (found["among"] == "real")].iloc[0]
        assert row["n_agree"] == observed
        assert row["expected"] == pytest.approx(counts.mean())
        assert row["p"] == pytest.approx((counts >= observed).mean())
        # The smallest numbers with at least these shares of all counts at or below them.
        for end, share in (("low", 0.05), ("high", 0.95)):
            expected = next(k for k in range(4) if (counts <= k).mean() >= share)
            assert row[f"expected_{end}"] == expected
        n_checked += 1
    assert n_checked == 2


def test_counts_part_real_tissues_from_simulated(both):
    arms = (study.Arm("tms", "facs", None, "reconstructed"),)
    arms += (study.Arm("tms", "droplet", None, "simulated"),)
    about = study.Study("x", "x", simulated=True, notice="Simulated: x", arms=arms)
    found = SPLITS.validate(splits.splits(both.same, about, confidence=0.95))
    corrected = found[(found["scale"] == "corrected") & (found["criterion"] == "quadrant")]
    by = corrected.set_index("among")["n_agree"]
    assert set(by.index) == {"real", "simulated", "tms facs", "tms droplet"}
    facs = both.same[(both.same["scale"] == "corrected") & (both.same["group"] == "tms facs")]
    assert by["real"] == by["tms facs"] == facs["same_quadrant"].sum()
    assert set(corrected["n_series"]) == {4}


@pytest.mark.slow
def test_level_without_a_change_and_power_with_one():
    rng = np.random.default_rng(8)
    reference = np.array([1.0, -10.0])

    def p(shift):
        young, old = animals(rng, 5, (0.4, 6)), animals(rng, 5, (0.4 + shift, 6 - 10 * shift))
        null = np.subtract(*medians.permuted(*two_groups(young, old), MEDIANS, rng)[::-1])
        observed = np.median(old, 0) - np.median(young, 0)
        return [test.p for test in same_direction.one_sided(observed, reference, null, exact=True)]

    null = np.array([p(0.0) for _ in range(600)])
    for level in (0.05, 0.25, 0.5, 0.75):
        share = (null <= level).mean(axis=0)
        # Standard errors of 600 are at most 0.02; ties make the test conservative.
        assert (share <= level + 0.05).all()
        assert (share >= level - 0.1).all()
    planted = np.array([p(0.25) for _ in range(100)])
    assert (planted[:, 0] <= 0.05).mean() > 0.9
    assert (planted[:, 1] <= 0.05).mean() < 0.6, "the angle alone has little power, as is said"


def test_q_is_adjusted_within_an_arm(both):
    n_checked = 0
    for _, rows in both.same.groupby(["group", "scale"]):
        assert (rows["q"] >= rows["p"] - 1e-12).all()
        assert rows["q"].min() <= len(rows) * rows["p"].min() + 1e-12
        n_checked += 1
    assert n_checked == 6
    assert (both.same["p"] == both.same[["own_p", "reference_p"]].max(axis=1)).all()


# What cannot be compared


def test_a_tissue_with_one_animal_is_left_out():
    young = np.array([[0.3, 5.0], [0.4, 4.0]])
    table, changes, draws = medians.medians(samples(young, young[:1], "Heart"), MEDIANS)
    assert table.empty
    assert changes.empty
    assert draws.empty


def test_a_system_that_is_added_needs_no_change_here(both):
    """Three components of a kind that nobody foresaw, in two states: a path like any other."""
    rng = np.random.default_rng(9)
    parts = [
        Effects(
            State("toy", f"step{step}", step, "widgets"),
            "toy",
            "none",
            pd.DataFrame(index=pd.Index(["a", "b", "c"], name="component")),
            np.arange(6),
            np.array(mean) + 0.01 * rng.normal(size=(1, 6, 3)),
        )
        for step, mean in ((1, [1.0, 1.0, 1.0]), (2, [9.0, 1.0, 1.0]))
    ]
    toy = System(room="toy", group="box", effects="effects", states=["step1", "step2"])
    systems = both.systems | {"toy": measured.measured(parts, toy, OF_HEADS, MEASURE)}
    found = vectors.trails({name: read_as(one) for name, one in systems.items()}, SETTINGS)
    rows = PLANE.validate(plane.plane(found, SETTINGS))
    added = rows[(rows["system"] == "toy") & (rows["bootstrap"] == "replicates")]
    assert added["scale"].tolist() == list(SCALES)
    assert added["quadrant"].tolist()[:2] == ["crystallize"] * 2
    same = PLANE_DIRECTIONS.validate(same_direction.same_direction(found, SETTINGS))
    beside = same[same["system"] == "toy"]
    # Two states can be exchanged in two ways only.
    assert beside["own_p_smallest"].tolist() == [0.5] * 3
    assert beside["split_quadrant"].isna().all(), "nothing that can be split"
    others = same[same["system"] != "toy"].reset_index(drop=True)
    pd.testing.assert_frame_equal(others, both.same, check_dtype=False)
    legend = overlay.draw(rows, both.splits, about=REAL).legends[0]
    assert "box toys since step 1" in [text.get_text() for text in legend.get_texts()]


def test_one_checkpoint_leaves_the_tissues_alone(caplog):
    caplog.set_level("INFO")
    alone = made(1, head_parts(STEPS[:1]))
    assert "1 of 1 states have a place, 2 are needed" in " ".join(caplog.messages)
    assert set(alone.plane["system"]) == {"cells"}
    assert alone.same.empty


def test_nothing_to_compare_makes_empty_tables():
    assert PLANE.validate(plane.plane([], SETTINGS)).empty
    assert PLANE_DIRECTIONS.validate(same_direction.same_direction([], SETTINGS)).empty


def written(folder, both, params):
    """Write what the stage reads, and return its options."""
    for name, (table, changes, draws) in both.systems.items():
        tables.write(table, MEASURED, folder / "measured" / f"{name}.csv")
        tables.write(changes, CHANGES, folder / "changes" / f"{name}.csv")
        measured.write_draws(draws, folder / "draws" / f"{name}.parquet")
    params = params | {
        "plane": SETTINGS.model_dump(),
        "systems": {"heads": params["systems"]["heads"]},
    }
    (folder / "params.yaml").write_text(json.dumps(params))
    options = {
        "params": "params.yaml",
        "measured": "measured",
        "changes": "changes",
        "draws": "draws",
        "out": "plane.csv",
        "directions": "plane_directions.csv",
    }
    return [f"--{name}={folder / file}" for name, file in options.items()]


def test_stage_writes_the_same_tables_twice_and_names_what_is_missing(
    both, params, tmp_path, caplog
):
    words = written(tmp_path, both, params)
    outs = [tmp_path / "plane.csv", tmp_path / "plane_directions.csv"]
    assert plane.main(words) == 0
    first = [path.read_bytes() for path in outs]
    read = tables.read(outs[0], PLANE)
    pd.testing.assert_frame_equal(read, both.plane, check_dtype=False)
    assert plane.main(words) == 0
    assert [path.read_bytes() for path in outs] == first
    for gone in ("measured/cells.csv", "changes/heads.csv"):
        moved = (tmp_path / gone).rename(tmp_path / "away")
        caplog.clear()
        assert plane.main(words) == 1
        assert len(caplog.messages) == 1
        assert gone.rsplit("/", maxsplit=1)[-1] in caplog.messages[0]
        assert "dvc repro" in caplog.messages[0]
        moved.rename(tmp_path / gone)
    (tmp_path / "measured" / "left.csv").touch()
    caplog.clear()
    assert plane.main(words) == 1
    assert "holds left.csv, which the settings name neither" in caplog.messages[0]


# The figure


@pytest.mark.parametrize("case", ["both", "crowded", "cells", "heads"])
def test_text_is_legible_inside_the_page_and_names_do_not_cover_one_another(case, both):
    # The published study's size: many tissues.
    of = made(11) if case == "crowded" else both
    rows, counted = of.plane, of.splits
    if case in ("cells", "heads"):
        rows, counted = rows[rows["system"] == case], counted.iloc[:0]
    figure = overlay.draw(rows, counted, about=REAL)
    figure.draw_without_rendering()
    texts = [text for axes in figure.axes[:2] for text in axes.texts]
    boxes = [text.get_tightbbox() for text in texts]
    assert min(text.get_fontsize() for text in texts) >= style.SMALLEST_PT
    names = [text.get_text() for text in texts]
    n_tissues = rows[(rows["system"] == "cells") & (rows["scale"] == "shape")].shape[0]
    of_tissues = [name for name in names if "Tissue" in name]
    assert len(of_tissues) == 2 * min(n_tissues, overlay.MOST_NAMED)
    assert all(name.startswith(("FACS ", "droplet ")) for name in of_tissues)
    # The last state, and the furthest where it is another.
    assert ("step 1024" in names) == (case != "cells")
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    covered = []
    extents = [type(text).__mro__[1].get_window_extent(text) for text in texts]
    for (a, one), (b, two) in itertools.combinations(zip(names, extents, strict=True), 2):
        wide = min(one.x1, two.x1) - max(one.x0, two.x0)
        high = min(one.y1, two.y1) - max(one.y0, two.y0)
        if min(wide, high) > 2:
            covered.append((a, b))
    assert covered == []
    width, height = figure.get_size_inches() * style.MM_PER_INCH
    assert width <= style.DOUBLE_MM + 1e-6
    assert height <= style.PAGE_MM + 1e-6


def test_the_furthest_state_is_named_where_it_is_not_the_last(both):
    back = both.plane.copy()
    last = (back["system"] == "heads") & (back["state"] == "step1024")
    back.loc[last, ["d_gini", "d_effective"]] *= 0.5
    names = [text.get_text() for text in overlay.draw(back, both.splits, about=REAL).axes[0].texts]
    assert {"step 256", "step 1024"} <= set(names)


def test_crosses_points_and_path_are_those_of_the_table(both):
    figure = overlay.draw(both.plane, both.splits, about=REAL)
    n_checked = 0
    for axes, scale in zip(figure.axes, ("corrected", "shape"), strict=False):
        rows = both.plane[both.plane["scale"] == scale]
        lines = {tuple(map(tuple, line.get_xydata().tolist())) for line in axes.lines}
        points = {tuple(p.get_offsets()[0]) for p in axes.collections if len(p.get_offsets()) == 1}
        last = (rows["system"] == "heads") & (rows["state"] == "step1024")
        for row in rows[(rows["system"] == "cells") | last].to_dict("records"):
            x, y = row["d_gini"], row["d_effective"]
            assert ((row["d_gini_low"], y), (row["d_gini_high"], y)) in lines
            assert ((x, row["d_effective_low"]), (x, row["d_effective_high"])) in lines
            assert (x, y) in points or row["system"] == "heads"
            n_checked += 1
        path = rows[(rows["bootstrap"] == "replicates") & (rows["system"] == "heads")]
        places = [(0.0, 0.0), *path[["d_gini", "d_effective"]].itertuples(index=False, name=None)]
        assert tuple(places) in lines
    # Eight tissues, and the heads over sequences and over heads, twice.
    assert n_checked == 20


def test_counts_of_the_figure_are_those_of_the_table(both):
    axes = overlay.draw(both.plane, both.splits, about=REAL).axes[2]
    said = [text.get_text() for text in axes.texts]
    rows = both.splits.set_index(["among", "scale", "criterion"]).loc["real"]
    expected = []
    for key in (("corrected", "right_angle"), ("shape", "quadrant")):
        row = rows.loc[key]
        expected.append(f"{row['n_agree']} of 8, p {style.p_value(row['p'])}")
    assert said == expected
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["a: less than 90° from mini", "b: in the quadrant of mini"]


def test_real_arms_alone_are_drawn_and_reconstructed_ones_bear_a_dagger(both):
    arms = (study.Arm("tms", "facs", None, "reconstructed"),)
    arms += (study.Arm("tms", "droplet", None, "simulated"),)
    about = study.Study("x", "demo", simulated=True, notice="Simulated: x", arms=arms)
    figure = overlay.draw(both.plane, both.splits, about=about)
    names = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(name for name in names if "Tissue" in name) == [
        f"FACS Tissue {i}\N{DAGGER}" for i in range(4)
    ]
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    words += [text.get_text() for text in figure.texts]
    assert "\N{DAGGER} animals reconstructed" in words


def test_an_empty_plane_is_said_in_words():
    figure = overlay.draw(tables.empty(PLANE), tables.empty(SPLITS), about=REAL)
    assert "No tissue was compared" in figure.texts[0].get_text()


def test_command_line_writes_the_same_bytes_twice_with_the_notice(both, tmp_path):
    tables.write(both.plane, PLANE, tmp_path / "plane.csv")
    tables.write(both.splits, SPLITS, tmp_path / "splits.csv")
    for name, simulated in (("cells", False), ("heads", True)):
        about = {"name": name, "source": "demo", "simulated": simulated}
        about["notice"] = "Demo model: x" if simulated else ""
        (tmp_path / f"{name}.json").write_text(json.dumps(about))
    words = [f"--{name}={tmp_path / name}.csv" for name in ("plane", "splits")]
    words += [f"--study={tmp_path}/cells.json", f"--study-heads={tmp_path}/heads.json"]
    words += [f"--study-cellmodel={tmp_path}/heads.json"]
    for folder in ("a", "b"):
        assert overlay.main([*words, f"--out={tmp_path / folder}"]) == 0
    for suffix in ("png", "svg"):
        name = f"fig_pythia_overlay_v2.{suffix}"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    svg = (tmp_path / "a" / "fig_pythia_overlay_v2.svg").read_text(encoding="utf-8")
    assert svg.count("Demo model") == 1


# The second axis


def test_the_excess_is_zero_for_a_lognormal_and_negative_where_the_ends_are_unequal():
    rng = np.random.default_rng(4)
    excess = REGISTRY["effective_excess"]
    for spread in (0.5, 1.0, 1.5):
        drawn = np.exp(rng.normal(0, spread, 200_000))
        # Of a sample this large: observed below 0.002.
        assert abs(excess.of(drawn, "all")) < 0.005
    # A few that hold most, or many that hold next to nothing; and inequality by degrees.
    by_largest, by_smallest = np.array([60.0] + [1.0] * 99), np.array([1.0] * 60 + [0.001] * 40)
    assert excess.of(by_largest, "all") < -0.1
    assert excess.of(by_smallest, "all") < -0.1
    assert excess.of(np.arange(1.0, 101) ** 5, "all") > 0.02
    assert excess.of(np.full(7, 3.0), "all") == pytest.approx(0, abs=1e-12)
    # Neither scale nor order counts, and a whole that is copied stays what it is.
    other = rng.permutation(5 * by_largest)
    assert excess.of(other, "all") == pytest.approx(excess.of(by_largest, "all"))
    assert excess.of(np.tile(by_largest, 2), "all") == pytest.approx(excess.of(by_largest, "all"))


def test_medians_of_the_excess_are_those_of_the_animals():
    rng = np.random.default_rng(5)
    young, old = animals(rng, 5, (0.4, 6)), animals(rng, 4, (0.5, 5))
    table = medians.medians(samples(young, old), MEDIANS)[0]
    found = table[table["metric"] == "effective_excess"].set_index("state")["value"]
    for state, of in (("reference", young), ("compared", old)):
        sigma = np.array([2**0.5 * NormalDist().inv_cdf((1 + gini) / 2) for gini in of[:, 0]])
        expected = np.median(of[:, 1] / 10 - np.exp(-(sigma**2) / 2))
        assert found[state] == pytest.approx(expected)


def test_candidates_of_a_vector_by_hand():
    found = second_axis.described(np.array([50.0, 30.0, 15.0, 5.0]))
    share = np.array([0.5, 0.3, 0.15, 0.05])
    number = np.exp(-(share * np.log(share)).sum())
    tail = share[1:] / 0.5
    assert found["gini_corrected"] == pytest.approx(0.5)
    assert found["effective_share"] == pytest.approx(number / 4)
    assert found["top_share"] == 0.5
    assert found["hill_ratio_2"] == pytest.approx(1 / (share**2).sum() / number)
    assert found["hill_ratio_inf"] == pytest.approx(2 / number)
    assert found["tail_evenness"] == pytest.approx(-(tail * np.log(tail)).sum() / np.log(3))
    # The mean of 25 is two thirds of the way from 15 to 30.
    assert found["lorenz_asymmetry"] == pytest.approx((2 + 2 / 3) / 4 + 0.2 + 2 / 3 * 0.3)


def test_an_axis_of_one_group_alone_has_no_change():
    rng = np.random.default_rng(6)
    names = [
        {"cohort": "c", "platform": "facs", "tissue": tissue, "group": "reference"}
        for tissue in "AABBCC"
    ]
    table = second_axis.samples((name, rng.exponential(size=8)) for name in names)
    found = second_axis.axes(table, {})
    assert (found["n_changes"] == 0).all()
    assert found["r_change"].isna().all()
    assert (found["n"] == 6).all()


def test_what_an_axis_says_by_other_implementations():
    rng = np.random.default_rng(6)
    names = [
        {"cohort": "c", "platform": platform, "tissue": tissue, "group": age}
        for platform in ("facs", "droplet")
        for tissue in "ABC"
        for age in ("reference", "compared")
        for _ in range(3)
    ]
    table = second_axis.samples((name, rng.exponential(size=8) ** 2) for name in names)
    found = second_axis.axes(table, {}).set_index("candidate").loc["top_share"]
    assert found["n"] == 36
    assert found["r"] == pytest.approx(
        stats.pearsonr(table["gini_corrected"], table["top_share"])[0]
    )
    # Equal groups: the intraclass correlation from the F ratio of a one-way analysis of variance.
    keys = ["platform", "tissue", "group"]
    ratio = stats.f_oneway(*(of["top_share"] for _, of in table.groupby(keys)))[0]
    assert found["intraclass"] == pytest.approx((ratio - 1) / (ratio + 2))
    middle = table.groupby(keys)[["gini_corrected", "top_share"]].median()
    moved = middle.xs("compared", level=2) - middle.xs("reference", level=2)
    assert found["r_change"] == pytest.approx(stats.pearsonr(*moved.to_numpy().T)[0])
    sides = [middle.loc[name, "top_share"] for name in ("droplet", "facs")]
    assert found["r_platforms"] == pytest.approx(stats.pearsonr(*sides)[0])
    # A curve is explained by itself, and no worse by two axes than by one.
    assert (
        second_axis.explained(np.stack(list(table["curve"])), np.stack(list(table["curve"])))
        > 1 - 1e-9
    )
    assert 0 < found["curves_gini"] < found["curves_both"] < 1
