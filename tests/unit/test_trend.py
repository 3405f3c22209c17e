"""Trends over all ages, against scipy and against every arrangement."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from stages.cells import contrast, counts, metrics, proportions, trend
from stages.cells.settings import Trend
from stages.cells.tables.trend import TREND
from stages.measurement.resampling import benjamini_hochberg

SETTINGS = Trend(confidence=0.95, max_permutations=20000, seed=1)


@pytest.fixture(scope="module")
def measured(tms_counts, few_draws):
    samples, _ = proportions.proportions(tms_counts, few_draws.proportions)
    return metrics.metrics(samples, few_draws.metrics)


@pytest.fixture(scope="module")
def found(measured):
    return trend.trend(measured, SETTINGS)


def follow(months, values, **changes):
    return trend.follow(
        np.array(months, float),
        np.array(values, float),
        settings=SETTINGS.model_copy(update=changes),
        rng=np.random.default_rng(0),
    )


def test_two_ages_give_the_mann_whitney_test(measured, settings, found):
    aged, _ = contrast.contrast(measured, settings.contrast)
    key = [*counts.TISSUE, "cells", "metric"]
    both = found[found["n_ages"] == 2].merge(aged, on=key)
    assert len(both) > 40
    # Both count the same arrangements.
    np.testing.assert_allclose(both["p"], both["rank_p"], rtol=1e-12)


def test_correlation_and_slope_are_those_of_scipy(measured, found):
    for _, row in found.iterrows():
        at = (measured[[*counts.TISSUE, "cells"]] == row[[*counts.TISSUE, "cells"]]).all(axis=1)
        months, values = measured.loc[at, "age_months"], measured.loc[at, row["metric"]]
        assert row["spearman"] == pytest.approx(stats.spearmanr(months, values)[0], abs=1e-9)
        assert row["n_animals"] == at.sum()
        slope = stats.theilslopes(values, months, alpha=0.95)
        assert row["slope_low"] <= row["slope"] == slope.slope <= row["slope_high"]
    assert len(found) == 22 * 4


def test_every_animal_counts_also_those_in_between(found):
    marrow = found[(found["tissue"] == "Marrow") & (found["cells"] == "all")]
    n = marrow.groupby("platform")[["n_animals", "n_ages"]].first()
    assert n.loc["droplet"].tolist() == [17, 6]
    assert n.loc["facs"].tolist() == [11, 3]
    # 17 animals of six ages are too many arrangements to count.
    assert marrow.groupby("platform")["exact"].first().tolist() == [False, True]


def test_p_counts_every_order_of_the_animals():
    months, values = [1, 1, 3, 18, 24, 24], [0.2, 0.4, 0.3, 0.5, 0.9, 0.7]
    observed = stats.spearmanr(months, values)[0]
    orders = [stats.spearmanr(months, list(x))[0] for x in itertools.permutations(values)]
    share = np.mean(np.abs(orders) >= abs(observed) - 1e-9)
    exact = follow(months, values)
    assert exact["exact"]
    assert exact["p"] == pytest.approx(share, abs=1e-12)
    drawn = follow(months, values, max_permutations=100)
    assert not drawn["exact"]
    assert drawn["p"] >= 1 / 101


def test_arrangements_are_all_and_all_different():
    ways = trend.arrangements([2, 1, 3])
    assert len(ways) == 60
    assert all(sorted(way) == list(range(6)) for way in ways.tolist())
    sets = {tuple(map(frozenset, (way[:2], way[2:3], way[3:]))) for way in ways}
    assert len(sets) == 60


def test_p_is_adjusted_over_the_tissues_of_a_platform(found):
    family = found[
        (found["platform"] == "droplet") & (found["cells"] == "all") & (found["metric"] == "gini")
    ]
    assert len(family) == 8
    np.testing.assert_allclose(family["q"], benjamini_hochberg(family["p"]), rtol=1e-12)


def test_an_atlas_without_old_animals_has_no_trend(measured):
    empty = trend.trend(measured[measured["group"] == "reference"], SETTINGS)
    assert empty.empty
    TREND.validate(empty)
    assert pd.api.types.is_float_dtype(empty["p"])
