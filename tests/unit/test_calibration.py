"""Calibration: the rule of emphasis by hand, the simulated studies against the real pipeline."""

import math

import numpy as np
import pandas as pd
import pytest

from stages.base import tables
from stages.base.settings import parse
from stages.cells import calibration, contrast, metrics, proportions
from stages.cells.calibration import Arm
from stages.cells.figures import power
from stages.cells.tables.calibration import ARMS, CALIBRATION, RULES
from stages.cells.tables.proportions import PROPORTIONS
from stages.inputs.tables import COUNTS
from stages.measurement.concentration import gini

SHARES = np.array([0.42, 0.25, 0.13, 0.09, 0.06, 0.03, 0.02])
MARROW = Arm("tms", "facs", "Marrow", (5, 4), SHARES, 80.0, np.array([150, 200, 260, 400]))


@pytest.fixture(scope="module")
def draft(params):
    """Return settings of few designs."""
    rules = {"studies": 1000, "designs": [[3, 3], [4, 3], [12, 12]], "gini_shifts": [0.2]}
    changed = params["calibration"] | rules | {"cohorts": ["tms", "nowhere"]}
    return parse(params | {"calibration": changed})


@pytest.fixture(scope="module")
def table(draft):
    """Return what is found of studies that vary like MARROW."""
    rows = pd.DataFrame(calibration.calibration(draft, [MARROW]))
    return CALIBRATION.validate(rows[list(CALIBRATION.columns)])


def row(table, design, shift, rule):
    """Return the row of a design, shift and rule."""
    key = {"n_reference": design[0], "n_compared": design[1], "gini_shift": shift, "rule": rule}
    [found] = table[(table[list(key)] == list(key.values())).all(axis=1)].to_dict("records")
    return found


def changes(*rows):
    """Return the columns of CONTRAST that the rule reads: p, low and high of each metric."""
    named = [("tms", "facs", "Lung", "all", metric) for metric in contrast.PLANE]
    columns = ["cohort", "platform", "tissue", "cells", "metric"]
    columns += ["rank_p", "change_low", "change_high"]
    return pd.DataFrame([[*n, *r] for n, r in zip(named, rows, strict=True)], columns=columns)


@pytest.mark.parametrize(
    ("gini_row", "number_row", "emphasised"),
    [
        ((0.05, 0.01, 0.2), (0.01, -3.0, -1.0), True),
        ((0.051, 0.01, 0.2), (0.01, -3.0, -1.0), False),
        ((0.05, 0.0, 0.2), (0.01, -3.0, -1.0), False),
        ((0.05, 0.01, 0.2), (0.01, -3.0, 0.0), False),
        ((0.05, 0.01, 0.2), (0.2, -3.0, -1.0), False),
        ((0.9, -0.1, 0.2), (0.9, -3.0, 1.0), False),
    ],
)
def test_a_direction_is_emphasised_by_interval_and_test_of_both_metrics(
    gini_row, number_row, emphasised
):
    found = contrast.emphasised(changes(gini_row, number_row).set_index(pd.Index([7, 3])))
    assert found.to_dict() == {7: emphasised, 3: emphasised}


@pytest.mark.parametrize(
    ("design", "p", "emphasised"),
    [
        ((3, 3), 2 / 20, False),
        ((4, 3), 2 / 35, False),
        ((5, 2), 2 / 21, False),
        ((4, 4), 2 / 70, True),
        ((5, 4), 2 / 126, True),
    ],
)
def test_the_rule_cannot_fire_where_no_p_is_small_enough(design, p, emphasised):
    """No two animals of different age overlap, by far."""
    groups = [np.arange(n, dtype=float)[np.newaxis] for n in design]
    young = {"gini": 0.01 * groups[0], "effective_number": 20 + 0.1 * groups[0]}
    old = {"gini": 0.9 + 0.01 * groups[1], "effective_number": 2 + 0.1 * groups[1]}
    found = calibration.compare(young, old, confidence=0.95)
    assert found["rank_p"].tolist() == pytest.approx([p, p])
    assert ((found["change_low"] > 0) | (found["change_high"] < 0)).all()
    assert (found["quadrant"] == "crystallize").all()
    assert found["emphasised"].tolist() == [emphasised, emphasised]


def test_simulated_studies_are_compared_as_the_pipeline_does(settings):
    """The same counts through proportions, metrics and contrast, tissue by tissue."""
    young, old = calibration.draw(
        MARROW, (5, 4), shift=0.1, studies=6, rng=np.random.default_rng(4)
    )
    rows = []
    for group, months, cells in (("reference", 3.0, young), ("compared", 24.0, old)):
        for (study, animal, kind), n in np.ndenumerate(cells):
            if n:
                who = ["tms", "facs", f"{study}", f"{group}{animal}", "male", None, months]
                who += [None, group]
                rows.append([*who, f"type {kind}", int(n)])
    counted = COUNTS.validate(pd.DataFrame(rows, columns=list(COUNTS.columns)))
    shares, excluded = proportions.proportions(counted, settings.proportions)
    assert excluded.empty
    compared, _ = contrast.contrast(metrics.metrics(shares, settings.metrics), settings.contrast)
    plane = compared[(compared["cells"] == "all") & compared["metric"].isin(contrast.PLANE)]
    measured = [metrics.measure(cells, components="present") for cells in (young, old)]
    found = calibration.compare(*measured, confidence=settings.contrast.confidence)
    found["tissue"] = found["tissue"].astype(str)
    both = plane.merge(found, on=["tissue", "metric"], suffixes=("", "_simulated"))
    assert len(both) == 12
    for name in ("change", "change_low", "change_high", "rank_p"):
        # The same functions: observed 0.
        assert both[name].to_numpy() == pytest.approx(both[f"{name}_simulated"].to_numpy(), abs=0)
    for name in ("quadrant", "emphasised"):
        assert both[name].tolist() == both[f"{name}_simulated"].tolist()
    assert 0 < both["emphasised"].sum() < 12


def test_without_a_change_hardly_anything_is_emphasised(table):
    """The defect: at 4 against 3 the interval alone leaves out zero too often."""
    interval = row(table, (4, 3), 0.0, "gini_interval")
    assert interval["rate_low"] > 0.05
    assert row(table, (3, 3), 0.0, "gini_ranks")["n_called"] == 0
    # With ties one of the 35 ways to divide the animals can be extreme; observed in 1 of 1000.
    assert row(table, (4, 3), 0.0, "gini_ranks")["rate_high"] < 0.01
    for design in ((5, 4), (12, 12)):
        found = row(table, design, 0.0, "emphasised")
        assert found["rate_high"] < 0.05
        # Most of them would be given a direction all the same.
        assert row(table, design, 0.0, "direction")["rate_low"] > 0.5
        median = found["gini_change_median"]
        assert median == pytest.approx(0, abs=0.02)


def test_a_large_planted_change_is_found_among_many_animals_only(table):
    assert row(table, (12, 12), 0.2, "emphasised")["rate"] > 0.95
    assert row(table, (3, 3), 0.2, "emphasised")["n_called"] == 0
    found = row(table, (12, 12), 0.2, "direction")
    # Planted 0.2 in the mean composition; the rarest types go unseen among few cells.
    assert found["gini_change_median"] == pytest.approx(0.2, abs=0.08)
    assert found["effective_number_change_median"] < 0


def test_table_names_designs_of_the_settings_and_of_the_arms(table, draft):
    sizes = table[["n_reference", "n_compared", "n_arms"]].drop_duplicates()
    found = sizes.itertuples(index=False, name=None)
    assert list(found) == [(3, 3, 0), (4, 3, 0), (5, 4, 1), (12, 12, 0)]
    assert (table["n_studies"] >= draft.calibration.studies).all()
    assert set(table["rule"]) == set(RULES)
    smallest = row(table, (4, 3), 0.0, "emphasised")["rank_p_smallest"]
    assert smallest == pytest.approx(2 / 35)


def test_other_arms_move_no_study(draft):
    lung = MARROW._replace(tissue="Lung", shares=SHARES[:5] / SHARES[:5].sum())
    of_two = draft.model_copy(
        update={"calibration": draft.calibration.model_copy(update={"studies": 2000})}
    )
    alone = calibration.simulate([MARROW], (5, 4), 0.1, draft)
    both = calibration.simulate([MARROW, lung], (5, 4), 0.1, of_two)
    own = both[both["tissue"] < 1000]
    assert own["change"].tolist() == alone["change"].tolist()


@pytest.mark.parametrize("planted", [5.0, 40.0])
def test_concentration_of_animals_is_found_again(planted):
    rng = np.random.default_rng(1)
    other = SHARES[::-1]
    # The groups differ in the mean, and that is no difference between animals.
    many = [rng.multinomial(300, rng.dirichlet(planted * mean, 4000)) for mean in (SHARES, other)]
    # Observed within 2%.
    assert calibration.concentration_of([g.astype(float) for g in many]) == pytest.approx(
        planted, rel=0.06
    )
    # Of few animals it is not biased: 1 / (1 + c) is, on average, as planted; observed within 4%.
    few = [
        calibration.concentration_of(
            [
                rng.multinomial(300, rng.dirichlet(planted * mean, 4)).astype(float)
                for mean in (SHARES, other)
            ]
        )
        for _ in range(800)
    ]
    assert np.mean(1 / (1 + np.array(few))) == pytest.approx(1 / (1 + planted), rel=0.1)


def test_animals_that_differ_by_chance_alone_have_no_finite_concentration():
    same = np.tile([30.0, 20.0, 10.0], (3, 1))
    found = calibration.concentration_of([same, same])
    assert math.isinf(found)
    young, _ = calibration.draw(
        MARROW._replace(concentration=found, n_cells=np.array([10**6])),
        (4, 4),
        shift=0.0,
        studies=2,
        rng=np.random.default_rng(0),
    )
    # Four standard errors of a share of 0.42 of a million cells.
    assert np.abs(young / 10**6 - SHARES).max() < 0.002


@pytest.mark.parametrize("by", [0.0, 0.05, 0.3])
def test_the_planted_change_is_that_of_the_mean_composition(by):
    found = calibration.flatter(SHARES, by=by)
    assert found.sum() == pytest.approx(1)
    assert gini(found) == pytest.approx(gini(SHARES) - by, abs=1e-9)
    assert (np.diff(found) < 0).all()


def test_arms_are_what_the_proportions_say():
    rows = []
    for animal, group, counted in (
        ("a", "reference", (60, 40)),
        ("b", "reference", (80, 20)),
        ("c", "compared", (100, 100)),
        ("d", "compared", (90, 110)),
        ("e", "other", (1, 99)),
    ):
        months = {"reference": 3.0, "other": 18.0, "compared": 24.0}[group]
        for kind, n in zip("xy", counted, strict=True):
            sample = ["tms", "facs", "Lung", animal, "male", None, months, None, group]
            rows.append([*sample, kind, n, n / sum(counted)])
    table = pd.DataFrame(rows, columns=list(PROPORTIONS.columns))
    other = table[table["animal"] != "b"].assign(tissue="Heart")
    [arm] = calibration.arms(pd.concat([table, other]), ["tms"])
    assert (arm.tissue, arm.design) == ("Lung", (2, 2))
    assert arm.shares.tolist() == pytest.approx([(0.7 + 0.475) / 2, (0.3 + 0.525) / 2])
    assert arm.n_cells.tolist() == [100, 100, 200, 200]
    described = ARMS.validate(calibration.described([arm]))
    assert described["gini"].iloc[0] == pytest.approx(0.5 - (0.3 + 0.525) / 2)
    assert calibration.arms(table, ["kimmel"]) == []


def test_a_cohort_that_is_not_there_leaves_empty_tables_and_a_figure_in_words(draft):
    assert list(calibration.calibration(draft, [])) == []
    ARMS.validate(calibration.described([]).astype(tables.empty(ARMS).dtypes))
    figure = power.draw(tables.empty(CALIBRATION))
    assert "No arm has enough animals" in figure.texts[0].get_text()


def test_power_shows_every_rate(table, legible):
    figure = power.draw(table)
    null, planted = figure.axes[:2] if figure.axes[1].get_title(loc="left") else figure.axes[::2]
    marks = [c.get_offsets() for c in null.collections if len(c.get_offsets()) == 4]
    rates = np.concatenate(marks)[:, 1]
    shown = table[(table["gini_shift"] == 0) & table["rule"].isin(power.RULES)]
    assert sorted(rates) == sorted(shown["rate"])
    assert "planted" in planted.get_title(loc="left")
    boxes = legible(figure, "Simulated demo data")
    assert any("quadrant not mixed" in text.get_text() for text, _ in boxes)
