"""Spectra of items: identities, planted structure, rows of zeros, and known dimensions."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import linalg, stats

from stages.base.errors import RepresentationError
from stages.inputs.known import Known
from stages.measurement import concentration, effects, measured
from stages.measurement.effects import State
from stages.measurement.settings import Measured, System
from stages.spectra import matrices, separation, spectrum
from stages.spectra.dimension import two_nn
from stages.spectra.metrics import METRICS
from stages.spectra.settings import Separation, Spectrum
from stages.spectra.tables.spectrum import SPECTRUM
from tests.made_spectra import N_TOKENS, harvested, planted

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "spectra"
STATE = State("spectra", "step1", 1.0, spectrum.UNIT)
PARAMS = Spectrum(
    min_count=2,
    shuffles=20,
    zero_share=0.5873,
    neighbours_among=500,
    confidence=0.95,
    seed=1,
)


@pytest.fixture
def rng():
    return np.random.default_rng(20260601)


# Numbers of a spectrum


@pytest.mark.parametrize(
    ("squares", "rank", "participation", "share"),
    [
        (np.ones(7), 7, 7, 1 / 7),  # orthonormal
        (np.array([3.0, 0, 0]), 1, 1, 1),  # one direction
        # p = 1/2, 1/4, 1/4: entropy 1.5 ln 2, sum of squares 3/8.
        (np.array([2.0, 1.0, 1.0]), 2**1.5, 8 / 3, 0.5),
    ],
)
def test_numbers_by_hand(squares, rank, participation, share):
    found = spectrum.numbers(squares)
    assert found["effective_rank"] == pytest.approx(rank, rel=1e-12)
    assert found["participation_ratio"] == pytest.approx(participation, rel=1e-12)
    assert found["sv1_share"] == pytest.approx(share)


def test_directions_of_a_planted_spectrum_and_of_scipy(rng):
    squares = np.array([9.0, 4.0, 1.0, 0.25, 0.01])
    matrix = planted(rng, 60, squares, mean=rng.normal(size=5) * 100)
    found = spectrum.directions(matrix)
    # Seen: 2e-12, of a mean of 100.
    assert np.allclose(found.squares, squares, rtol=1e-9, atol=1e-10)
    _, singular, rows = linalg.svd(matrix - matrix.mean(axis=0), full_matrices=False)
    assert np.allclose(found.squares, singular**2, rtol=1e-9)
    assert np.allclose(np.abs(found.directions @ rows.T), np.eye(5), atol=1e-6)
    assert np.allclose((found.along**2).sum(axis=0), squares, rtol=1e-9, atol=1e-10)
    assert np.allclose(spectrum.squares(found.centred)[::-1], squares, rtol=1e-9, atol=1e-10)
    # What a direction is does not depend on which of its ends came out.
    assert (found.directions[np.arange(5), np.abs(found.directions).argmax(axis=1)] > 0).all()


def test_squares_of_a_wide_matrix(rng):
    wide = rng.normal(size=(4, 9))
    assert np.allclose(spectrum.squares(wide)[::-1], linalg.svdvals(wide) ** 2)


# Items and their parts


def test_means_over_parts_are_those_over_all(tmp_path, rng):
    matrix, counts = rng.normal(size=(30, 6)), rng.integers(2, 40, size=30)
    folder = harvested(tmp_path / "items", rng, matrix, counts, noise=0.5)
    items = matrices.read(folder, min_count=1)
    assert items.counts.tolist() == counts.tolist()
    assert items.n_never_met == N_TOKENS - 30
    # float32: seen 3e-7.
    assert np.abs(items.matrix(0) - matrix).max() < 1e-5
    deviations = items.deviations(0, items.matrix(0))
    assert deviations.shape == (4, 30, 6)
    assert np.abs(deviations.mean(axis=0)).max() < 1e-12
    assert np.abs(deviations).max() > 0.1


def test_rare_items_are_left_out_and_counted(tmp_path, rng):
    matrix, counts = rng.normal(size=(30, 6)), np.full(30, 9)
    counts[[3, 17]] = 1, 4
    items = matrices.read(harvested(tmp_path / "items", rng, matrix, counts), min_count=5)
    assert (len(items), items.n_rare) == (28, 2)
    assert items.tokens.tolist() == [n for n in range(30) if n not in {3, 17}]
    assert np.abs(items.matrix(-1) - np.delete(matrix, [3, 17], axis=0)).max() < 1e-5
    with pytest.raises(RepresentationError, match=r"0 items of .* were met 99 times or more"):
        matrices.read(tmp_path / "items", min_count=99)


def test_pseudo_values_average_to_the_spectrum_and_are_its_derivative(tmp_path, rng):
    matrix, counts = planted(rng, 50, np.array([9.0, 4.0, 2.0, 1.0])), rng.integers(8, 40, 50)
    items = matrices.read(harvested(tmp_path / "x", rng, matrix, counts, noise=0.05), min_count=1)
    own = items.matrix(0)
    found, deviations = spectrum.directions(own), items.deviations(0, own)
    values = spectrum.pseudo_values(found, deviations)
    assert np.allclose(values.mean(axis=0), found.squares, rtol=1e-12)
    # Directions turn with the matrix; to first order the squares do not see it.
    step = 1e-5
    for part, deviation in enumerate(deviations):
        moved = spectrum.directions(own + step * deviation).squares
        slope = (moved - found.squares) / step
        # Seen: 2e-5 of the largest slope.
        assert np.allclose(slope, values[part] - found.squares, atol=1e-3 * np.abs(slope).max())


def test_measured_effective_number_is_the_effective_rank(tmp_path, rng):
    squares = np.array([9.0, 4.0, 2.0, 1.0, 0.5, 0.1])
    matrix, counts = planted(rng, 80, squares), rng.integers(8, 40, 80)
    folder = harvested(tmp_path / "x", rng, matrix, counts, noise=0.02)
    parts, table = spectrum.spectra(matrices.read(folder, min_count=2), STATE, PARAMS)
    SPECTRUM.validate(table)
    effects.write(tmp_path / "effects" / "step1.parquet", parts)
    read = effects.read_states(tmp_path / "effects", ["step1"])
    system = System(room="spectra", group="x", effects=tmp_path / "effects", states=["step1"])
    draws = Measured(confidence=0.95, draws=100, seed=1)
    found, _, _ = measured.measured(read, system, METRICS, draws)
    of = found[found["series"] == "L0"].set_index("metric")["value"]
    own = table[(table["layer"] == "L0") & (table["matrix"] == "items")].iloc[0]
    expected = concentration.effective_number(squares)
    assert own["effective_rank"] == pytest.approx(expected, rel=1e-4)  # float32
    for metric, column in (
        ("effective_number", "effective_rank"),
        ("hill_2", "participation_ratio"),
    ):
        assert of[metric] == pytest.approx(own[column], rel=1e-9)
    ends = found[(found["series"] == "L0") & (found["metric"] == "effective_number")].iloc[0]
    assert ends["replicates_low"] < own["effective_rank"] < ends["replicates_high"]
    names = [part.components.index.tolist() for part in read]
    assert names[0] == ["s1", "s2", "s3", "s4", "s5", "s6"]


def test_noise_share_is_the_noise_that_was_added(tmp_path, rng):
    n, width, noise = 300, 8, 0.3
    truth, counts = rng.normal(size=(n, width)), np.full(n, 400)
    # Parts of equal size with independent noise: each mean is off by noise / sqrt(parts).
    folder = harvested(tmp_path / "x", rng, truth, counts, parts=16, noise=noise)
    _, table = spectrum.spectra(matrices.read(folder, min_count=2), STATE, PARAMS)
    own = table[(table["layer"] == "L0") & (table["matrix"] == "items")].iloc[0]
    expected = noise**2 / 16 * n * width / ((truth - truth.mean(axis=0)) ** 2).sum()
    assert own["noise_share"] == pytest.approx(expected, rel=0.05)


def test_nulls_stand_beside_the_items(tmp_path, rng):
    squares = np.array([60.0, 10.0, 5.0, 1.0, 1.0, 1.0])
    matrix, counts = planted(rng, 2000, squares * 10, mean=3.0), np.full(2000, 20)
    items = matrices.read(harvested(tmp_path / "x", rng, matrix, counts, n_items=2007), min_count=2)
    _, table = spectrum.spectra(items, STATE, PARAMS)
    of = table[table["layer"] == "L0"].set_index("matrix")
    # Permuted columns have nothing in common: their variances are the squares.
    shuffled = of.loc["column shuffle"]
    alone = concentration.effective_number(matrix.var(axis=0))
    assert shuffled["effective_rank"] == pytest.approx(alone, rel=0.02)
    assert of.loc["items", "effective_rank"] < alone - 0.3
    assert shuffled["effective_rank_low"] < shuffled["effective_rank"]
    assert shuffled["effective_rank"] < shuffled["effective_rank_high"]
    # Not centred, the mean vector is a direction: 2,000 rows x 6 x 9 = 108,000 of 108,780.
    assert of.loc["not centred", "sv1_share"] == pytest.approx(108000 / 108780, abs=2e-3)
    zeros = of.loc["zero rows"]
    assert zeros["n_zero_rows"] == round(2000 * 0.5873 / 0.4127) == 2846
    whole = np.concatenate([matrix, np.zeros((2846, 6))])
    expected = linalg.svdvals(whole - whole.mean(axis=0)) ** 2
    rank = concentration.effective_number(expected)
    assert zeros["effective_rank"] == pytest.approx(rank, rel=1e-4)
    assert (of["n_never_met"] == 7).all()


# Rows of zeros


def test_rows_of_zeros_and_a_growing_mean_make_the_published_fall(rng):
    """Of 4,941 published rows 2,902 were zero, and the effective rank fell from 23.6 to 1.64.

    The spectrum of the other rows is the same throughout: only their mean vector grows.
    """
    width, n, share = 512, 2039, 2902 / 4941
    flat = np.exp(-np.arange(width) / 90)
    residual = planted(rng, n, flat / flat.sum())
    away = rng.normal(size=width)
    away /= np.linalg.norm(away)
    ranks, first, own = [], [], []
    for sv1 in (0.537, 0.934):
        # The covariance of both: share of zeros f, mean m, residual variance 1 / n in all.
        size = np.sqrt(sv1 / (1 - sv1) / (n * share))
        rows = residual + size * away
        found = spectrum.numbers(spectrum.directions(spectrum.with_zero_rows(rows, share)).squares)
        ranks.append(found["effective_rank"])
        first.append(found["sv1_share"])
        own.append(spectrum.numbers(spectrum.directions(rows).squares)["effective_rank"])
    assert own[0] == pytest.approx(own[1], rel=1e-9)
    assert 230 < own[0] < 260
    assert first == pytest.approx([0.537, 0.934], abs=0.01)
    assert ranks == pytest.approx([24.2, 1.8], abs=1.5)


def test_the_mean_alone_is_what_a_flat_spectrum_gives(rng):
    n, width, share = 4000, 20, 0.6
    mean = rng.normal(size=width)
    rows = planted(rng, n, np.ones(width), mean=mean)
    whole = spectrum.directions(spectrum.with_zero_rows(rows, share)).squares
    n_all = round(n / (1 - share))
    assert np.allclose(np.sort(spectrum.mean_alone(rows, share))[::-1] * n_all, whole, rtol=2e-3)


def test_published_spectra_say_that_zeros_made_the_fall():
    """What the study's own later result file holds (iter_0046, iter_0047)."""
    if not REFERENCE.exists():
        pytest.skip("the published result files are not here")
    first = json.loads((REFERENCE / "iter_0046_h02_sv_spectrum.json").read_text())
    later = json.loads((REFERENCE / "iter_0047_h01_zero_norm_validity.json").read_text())
    assert first["0"]["effective_rank"] == pytest.approx(23.61, abs=0.005)
    assert first["11"]["effective_rank"] == pytest.approx(1.64, abs=0.005)
    assert later["n_total"] - later["n_nonzero_l11"] == 2902
    assert (later["n_total"], 2902 / later["n_total"]) == (4941, pytest.approx(0.5873, abs=5e-5))
    both = later["svd_comparison"]
    assert both["0"]["eff_rank_all"] == pytest.approx(23.6, abs=0.5)
    assert [round(both[layer]["eff_rank_nonzero"]) for layer in ("0", "11")] == [236, 48]
    nonzero = [later["layers"][layer]["id_all_layers_nonzero"] for layer in ("0", "11")]
    assert nonzero == pytest.approx([34.7, 20.3], abs=0.05)
    seeds = json.loads((REFERENCE / "iter_0046_h01_id_crossseed_bootstrap.json").read_text())
    of = seeds["cross_seed_results"]["seed42"]
    assert [of[0], of[-1]] == pytest.approx([32.6, 19.2], abs=0.05)


# The intrinsic dimension


@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_dimension_of_a_cube_in_many_dimensions(rng, dimension):
    points = rng.uniform(size=(3000, dimension)) @ rng.normal(size=(dimension, 40))
    found = two_nn(points, rng)
    # Edges make it a little too low.
    assert found.value == pytest.approx(dimension, rel=0.06)
    assert found.error == pytest.approx(dimension / np.sqrt(3000), rel=0.6)


def test_dimension_is_that_of_scikit_dimension():
    rng = np.random.default_rng(0)
    plane = rng.uniform(size=(2000, 2)) @ rng.normal(size=(2, 30))
    cube = rng.uniform(size=(2000, 5)) @ rng.normal(size=(5, 20))
    gaussian = rng.normal(size=(2000, 10))
    # TwoNN(discard_fraction=0.1) of scikit-dimension 0.5.0; it divides by n, not n + 1.
    for points, theirs in ((plane, 1.98375120), (cube, 4.99454218), (gaussian, 9.69373665)):
        assert two_nn(points, rng).value == pytest.approx(theirs, rel=2e-3)


def test_dimension_of_a_swiss_roll_and_of_a_sphere(rng):
    turn, along = rng.uniform(5, 14, 4000), rng.uniform(0, 20, 4000)
    roll = np.stack([turn * np.cos(turn), along, turn * np.sin(turn)], axis=1)
    assert two_nn(roll, rng).value == pytest.approx(2, abs=0.12)
    ball = rng.normal(size=(4000, 6))
    sphere = ball / np.linalg.norm(ball, axis=1, keepdims=True)
    assert two_nn(sphere, rng).value == pytest.approx(5, abs=0.4)


def test_copies_of_a_point_have_no_first_distance(rng):
    points = rng.uniform(size=(2000, 3))
    zeros = np.zeros((2900, 3))
    assert two_nn(np.concatenate([points, zeros]), rng).value == pytest.approx(3, abs=0.25)
    assert np.isnan(two_nn(zeros, rng).value)


# What directions separate

ASKED = Separation(n_axes=3, pole_share=0.25, permutations=99, seed=1)


def of_classes(rng, *, shuffle):
    """Items whose second direction is a class, and whose first is log frequency."""
    n = 240
    label = np.repeat([0, 1, 2, 3], n // 4)
    frequency = rng.permutation(np.linspace(1, 6, n))
    matrix = rng.normal(size=(n, 12)) * 0.3
    matrix[:, 0] += 4 * (frequency - frequency.mean())
    matrix[:, 1] += 4.0 * (label == 2)
    if shuffle:
        label = rng.permutation(label)
    names = [str(number) for number in range(n)]
    sets = {
        f"class{number}": frozenset(str(i) for i in np.flatnonzero(label == number))
        for number in range(4)
    }
    edges = pd.DataFrame(columns=["factor", "target", "sign"])
    return matrix, np.exp(frequency).round().astype(int) + 3, Known({"class": sets}, edges), names


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_planted_class_is_found_and_a_permuted_one_is_not(tmp_path, rng, shuffle):
    matrix, counts, of, names = of_classes(rng, shuffle=shuffle)
    items = matrices.read(harvested(tmp_path / "x", rng, matrix, counts), min_count=1)
    assert items.names == names
    table = separation.separation(items, of, "step1", 1.0, ASKED)
    table = table[table["layer"] == "L0"].set_index(["family", "statistic", "axis"])
    assert table.loc[("frequency", "rho", 1), "value"] > 0.99
    found = table.loc[("class", "auroc", 2)]
    pole = table.loc[("class", "same pole", 2)]
    if shuffle:
        assert found["value"] < 0.65
        assert min(found["p"], pole["p"]) > 0.01
        return
    assert (found["set"], found["value"], found["p"]) == (
        "class2",
        pytest.approx(1, abs=0.01),
        0.01,
    )
    assert found["beyond_frequency"] == pytest.approx(found["value"], abs=0.02)
    # All pairs of one set are in the upper pole.
    assert pole["value"] > pole["expected"] + 0.1
    assert pole["p"] == 0.01
    # The axis of frequency has no class.
    assert table.loc[("class", "auroc", 1), "p"] > 0.01


def test_a_class_that_is_only_frequent_is_nothing_beyond_frequency(tmp_path, rng):
    matrix, counts, _, names = of_classes(rng, shuffle=True)
    often = frozenset(names[i] for i in np.argsort(counts)[-60:])
    sets = {"often": often, "others": frozenset(names) - often}
    edges = pd.DataFrame(columns=["factor", "target", "sign"])
    items = matrices.read(harvested(tmp_path / "x", rng, matrix, counts), min_count=1)
    table = separation.separation(items, Known({"class": sets}, edges), "step1", 1.0, ASKED)
    first = table[(table["axis"] == 1) & (table["statistic"] == "auroc")].iloc[0]
    assert first["value"] > 0.99
    assert abs(first["beyond_frequency"] - 0.5) < 0.15


def test_same_pole_by_hand():
    # Of set a, one pair of three is in the upper pole; of set b, its one pair is in the lower.
    inside = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]], dtype=float)
    along = np.array([[6.0], [5.0], [3.0], [1.0], [2.0], [4.0]])
    found = separation.same_pole(inside, separation.poles(along, 1 / 3))
    assert found.tolist() == [pytest.approx(2 / 4)]


def test_frequency_is_the_rank_correlation_of_scipy(tmp_path, rng):
    matrix, counts, of, _ = of_classes(rng, shuffle=False)
    items = matrices.read(harvested(tmp_path / "x", rng, matrix, counts), min_count=1)
    table = separation.separation(items, of, "s", 1.0, ASKED)
    row = table[(table["family"] == "frequency") & (table["axis"] == 2)].iloc[0]
    along = spectrum.directions(items.matrix(-1)).along[:, 1]
    assert row["value"] == pytest.approx(abs(stats.spearmanr(along, counts).statistic))
