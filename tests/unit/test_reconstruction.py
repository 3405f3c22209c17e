"""Faults of a reconstruction: made by hand, on real arms, and against the known artefacts."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import yaml

from stages.base import study, tables
from stages.cells import counts, multiverse, proportions, reconstruction
from stages.cells.reconstruction import Arm, Fault
from stages.cells.settings import Reconstruction
from stages.cells.tables.multiverse import MULTIVERSE_CHOICES
from stages.cells.tables.proportions import PROPORTIONS
from stages.cells.tables.reconstruction import RECONSTRUCTION
from stages.measurement.concentration import effective_number, gini

SETTINGS = Reconstruction(exchanged_shares=[0.1, 0.5], exchanges=3, draws=200, seed=1)


@pytest.fixture(scope="module")
def arms(settings):
    return tuple(
        study.Arm(spec.cohort, spec.platform, spec.constants.tissue, spec.evidence)
        for spec in settings.atlas.cells.values()
    )


@pytest.fixture(scope="module")
def samples(tms_counts, settings):
    rows, _ = proportions.proportions(tms_counts, settings.proportions)
    return rows[(rows["platform"] == "droplet") & rows["tissue"].isin(["Kidney", "Lung"])]


@pytest.fixture(scope="module")
def found(tms_counts, few_draws, samples):
    droplet = tms_counts[tms_counts["platform"] == "droplet"]
    of = droplet[droplet["tissue"].isin(samples["tissue"])]
    _, choices = multiverse.multiverse(of, few_draws)
    return reconstruction.reconstruction(samples, choices, SETTINGS)


def row(found, tissue, fault):
    rows = found[(found["tissue"] == tissue) & (found["fault"] == fault)]
    assert len(rows) == 1
    return rows.iloc[0]


def hand_made():
    """Return three young animals of two ages and two old ones, of three types."""
    cells = [[60, 30, 10], [50, 30, 20], [40, 40, 20], [80, 15, 5], [90, 10, 0]]
    months = np.array([1.0, 3.0, 3.0, 24.0, 24.0])
    return Arm(np.array(cells, float), months, months > 20)


def test_the_known_artefacts(found):
    # Of the reference's README.
    kidney, lung = row(found, "Kidney", "none"), row(found, "Lung", "none")
    assert [round(kidney["d_gini_median"], 3), round(kidney["d_number_median"], 2)] == [
        0.026,
        -0.86,
    ]
    assert [round(lung["d_gini_median"], 4), round(lung["d_number_median"], 2)] == [0.0006, -1.11]
    # The lung without the animal of 8,014 cells; the kidney at 24 months alone.
    without = row(found, "Lung", "without_largest")
    assert [round(without["d_gini_min"], 3), round(without["d_number_min"], 2)] == [-0.017, -0.18]
    assert without["keeps_direction"] == 0
    ages = row(found, "Kidney", "ages")
    assert [round(ages["d_gini_min"], 3), round(ages["d_number_min"], 1)] == [-0.059, -5.1]
    assert 0 < ages["keeps_direction"] < 1


def test_a_merge_is_the_change_with_both_animals_as_one():
    arm = hand_made()
    merges = reconstruction.faults(arm, SETTINGS, np.random.default_rng(0))["merge"]
    # Of one age only; and two old animals cannot be one, since one is too few.
    assert [fault.removed for fault in merges] == [(1, 2), (3, 4)]
    assert merges[0].added.tolist() == [[90, 70, 40]]
    changes = reconstruction._changes(arm, [(fault,) for fault in merges])
    young = np.array([[60, 30, 10], [90, 70, 40]])
    expected = [
        np.median(f(arm.counts[3:])) - np.median(f(young))
        for f in (lambda x: gini(x, components="present"), effective_number)
    ]
    np.testing.assert_allclose(changes, [expected], atol=1e-12)


def test_cells_are_neither_made_nor_lost():
    arm = hand_made()
    for kind, found in reconstruction.faults(arm, SETTINGS, np.random.default_rng(0)).items():
        assert found, kind
        for fault in found:
            before, after = arm.counts[list(fault.removed)], fault.added
            np.testing.assert_array_equal(after.sum(axis=0), before.sum(axis=0))
            assert (after >= 0).all()
            if kind.startswith("exchange"):
                np.testing.assert_array_equal(after.sum(axis=1), before.sum(axis=1))


def test_exchanging_half_makes_both_animals_alike_and_none_changes_nothing():
    pair = np.array([[4000.0, 0.0], [0.0, 4000.0]])
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(reconstruction.exchange(pair, 0.0, rng), pair)
    np.testing.assert_array_equal(
        reconstruction.exchange(pair, 0.1, rng), [[3600, 400], [400, 3600]]
    )
    half = reconstruction.exchange(np.array([[3000.0, 1000.0], [1000.0, 3000.0]]), 0.5, rng)
    # Mean 2,000, standard deviation 27.
    np.testing.assert_allclose(half, 2000, atol=150)


def test_no_fault_changes_nothing_and_too_few_animals_compare_nothing():
    arm = hand_made()
    nothing = np.empty((0, 3))
    changes = reconstruction._changes(arm, [(), (Fault((3,), nothing),), (Fault((0,), nothing),)])
    assert len(changes) == 2
    assert (changes[0] != changes[1]).any()


def test_several_faults_are_of_different_animals():
    arm = hand_made()
    rng = np.random.default_rng(0)
    single = reconstruction.faults(arm, SETTINGS, rng)
    sets = list(reconstruction.several(single, len(arm.old), 100, rng))
    assert len(sets) == 100
    assert max(map(len, sets)) == 2
    for faults in sets:
        animals = [animal for fault in faults for animal in fault.removed]
        assert len(animals) == len(set(animals))


def test_another_arm_moves_no_digit(tms_counts, few_draws, samples, found):
    of = tms_counts[(tms_counts["tissue"] == "Kidney") & (tms_counts["platform"] == "droplet")]
    _, choices = multiverse.multiverse(of, few_draws)
    alone = reconstruction.reconstruction(samples, choices, SETTINGS)
    both = found[found["tissue"] == "Kidney"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, both)


def test_spread_is_in_order_and_more_faults_move_more(found):
    RECONSTRUCTION.validate(found)
    for name in ("d_gini", "d_number"):
        assert (found[f"{name}_min"] <= found[f"{name}_median"]).all()
        assert (found[f"{name}_median"] <= found[f"{name}_max"]).all()
    for tissue in ("Kidney", "Lung"):
        width = [
            row(found, tissue, fault)["d_gini_max"] - row(found, tissue, fault)["d_gini_min"]
            for fault in ("none", "exchange_0.1", "exchange_0.5", "several")
        ]
        assert width == sorted(width)
        assert width[0] == 0


def test_only_reconstructed_arms_are_asked(few_draws, arms, tmp_path, params, tms_counts):
    rows, _ = proportions.proportions(tms_counts, few_draws.proportions)
    both = rows[rows["tissue"].isin(["Marrow", "Spleen"]) & (rows["platform"] == "droplet")]
    of = tms_counts[tms_counts["tissue"].isin(["Marrow", "Spleen"])]
    _, choices = multiverse.multiverse(of[of["platform"] == "droplet"], few_draws)
    tables.write(both, PROPORTIONS, tmp_path / "proportions.csv")
    tables.write(choices, MULTIVERSE_CHOICES, tmp_path / "choices.csv")
    about = study.Study("demo", "demo", simulated=True, notice="Simulated.", arms=arms)
    (tmp_path / "study.json").write_text(json.dumps(asdict(about)), encoding="utf-8")
    params = params | {"reconstruction": SETTINGS.model_dump()}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    files = ("proportions", "choices", "out")
    words = [w for name in files for w in (f"--{name}", f"{tmp_path}/{name}.csv")]
    words += ["--study", f"{tmp_path}/study.json", "--params", f"{tmp_path}/params.yaml"]
    assert reconstruction.main(words) == 0
    table = tables.read(tmp_path / "out.csv", RECONSTRUCTION)
    assert set(table["tissue"]) == {"Spleen"}
    assert set(both["tissue"]) == {"Marrow", "Spleen"}
    assert list(table.columns[:3]) == counts.TISSUE
