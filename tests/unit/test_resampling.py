"""Hold the exact methods against brute force, an outside library and their own promises.

The promises are tried over repeated draws.
"""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stages.measurement import resampling as r

numbers = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=6)


@given(st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=5))
def test_exact_bootstrap_of_the_median_is_the_full_enumeration(values):
    support, probability = r.median_distribution(values)
    drawn = Counter(float(np.median(t)) for t in itertools.product(values, repeat=len(values)))
    assert support.tolist() == sorted(drawn)
    for value, p in zip(support, probability, strict=True):
        assert p == pytest.approx(drawn[value] / len(values) ** len(values), abs=1e-12)


def test_bootstrap_interval_agrees_with_many_random_draws():
    rng = np.random.default_rng(5)
    young, old = rng.normal(size=8), rng.normal(1.0, size=7)
    found = r.bootstrap_median_change(young, old, confidence=0.9)
    draws = np.median(rng.choice(old, (200_000, 7)), axis=1)
    draws -= np.median(rng.choice(young, (200_000, 8)), axis=1)
    assert found.estimate == np.median(old) - np.median(young)
    # Both ends are atoms of a discrete distribution: the share beyond each is at most the tail.
    assert (draws < found.low - 1e-12).mean() <= 0.05 + 0.002
    assert (draws > found.high + 1e-12).mean() <= 0.05 + 0.002
    assert (draws <= found.low + 1e-12).mean() >= 0.05 - 0.002
    assert (draws >= found.high - 1e-12).mean() >= 0.05 - 0.002


@pytest.mark.parametrize(
    ("n_reference", "n_compared", "least"), [(4, 3, 0.89), (5, 4, 0.92), (6, 5, 0.94)]
)
def test_coverage_of_the_bootstrap_interval_is_the_one_stated(n_reference, n_compared, least):
    rng = np.random.default_rng(13)
    hits = 0
    for _ in range(800):
        young, old = rng.normal(size=n_reference), rng.normal(size=n_compared)
        found = r.bootstrap_median_change(young, old, confidence=0.95)
        hits += found.low <= 0 <= found.high
    # Stated: 0.92, 0.95, 0.97; four standard errors of 800 draws are 0.03.
    assert hits / 800 >= least


@given(numbers, numbers)
def test_bootstrap_interval_mirrors_when_groups_are_exchanged(young, old):
    one = r.bootstrap_median_change(young, old, confidence=0.95)
    other = r.bootstrap_median_change(old, young, confidence=0.95)
    assert (one.low, one.high) == (-other.high, -other.low)
    assert one.low <= one.estimate <= one.high


@given(numbers, numbers, st.sampled_from([0.5, 0.9, 0.95]))
def test_ends_of_the_bootstrap_interval_are_those_of_the_full_enumeration(young, old, confidence):
    young, old = young[:4], old[:4]
    found = r.bootstrap_median_change(young, old, confidence=confidence)
    medians = [
        np.median(list(itertools.product(group, repeat=len(group))), axis=1)
        for group in (young, old)
    ]
    changes = np.sort(np.subtract.outer(medians[1], medians[0]).ravel())
    share = np.arange(1, changes.size + 1) / changes.size
    at = np.searchsorted(share, (1 - confidence) / 2 - 1e-9)
    assert (found.low, found.high) == (changes[at], changes[::-1][at])


def test_many_studies_are_compared_as_one_by_one():
    rng = np.random.default_rng(9)
    # Rounded: some studies have ties, some have none.
    young, old = rng.normal(size=(60, 4)).round(1), rng.normal(1, size=(60, 3)).round(1)
    changes = np.array(r.bootstrap_median_changes(young, old, confidence=0.95)).T
    ranks = np.array(r.mann_whitneys(young, old)).T
    ties = 0
    for x, y, change, test in zip(young, old, changes, ranks, strict=True):
        one = r.bootstrap_median_change(x, y, confidence=0.95)
        assert change.tolist() == [one.estimate, one.low, one.high]
        alone = r.mann_whitney(x, y)
        assert test.tolist() == [alone.statistic, alone.p, alone.p_smallest]
        ties += len({*x, *y}) < 7
    assert 0 < ties < 60


@pytest.mark.parametrize(("k", "n"), [(0, 5), (1, 4), (6, 6), (22, 25), (44, 400)])
def test_interval_of_a_share_leaves_each_tail_its_part(k, n):
    """At either end the observed number or one further off has a probability of 2.5%."""
    found = r.proportion_interval(k, n, confidence=0.95)
    exact = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert (found.estimate, found.low, found.high) == (k / n, exact.low, exact.high)
    at_low, at_high = stats.binom.sf(k - 1, n, found.low), stats.binom.cdf(k, n, found.high)
    assert (found.low, at_low) == (0, 1) if k == 0 else at_low == pytest.approx(0.025)
    assert (found.high, at_high) == (1, 1) if k == n else at_high == pytest.approx(0.025)


class TestMannWhitney:
    def test_without_ties_is_scipys_exact_p(self):
        rng = np.random.default_rng(2)
        for sizes in [(2, 2), (4, 5), (8, 8), (3, 10)]:
            young, old = rng.normal(size=sizes[0]), rng.normal(0.7, size=sizes[1])
            found = r.mann_whitney(young, old)
            expected = stats.mannwhitneyu(old, young, method="exact")
            assert found.statistic == expected.statistic
            assert found.p == pytest.approx(expected.pvalue, abs=1e-14)

    @given(numbers, numbers)
    def test_with_ties_is_the_full_enumeration(self, young, old):
        found = r.mann_whitney(young, old)
        ranks = stats.rankdata(young + old)
        centre = len(old) * (len(ranks) + 1) / 2
        sums = [
            sum(ranks[list(taken)]) for taken in itertools.combinations(range(len(ranks)), len(old))
        ]
        off = np.abs(np.array(sums) - centre)
        observed = abs(sum(ranks[len(young) :]) - centre)
        assert found.p == pytest.approx(np.mean(off >= observed - 1e-9), abs=1e-12)
        assert found.p_smallest == pytest.approx(np.mean(off >= off.max() - 1e-9), abs=1e-12)

    def test_two_against_two_cannot_be_significant(self):
        assert r.mann_whitney([1, 2], [3, 4]).p_smallest == pytest.approx(1 / 3)

    def test_all_equal_says_nothing(self):
        assert r.mann_whitney([1, 1, 1], [1, 1]).p == 1


class TestShiftInterval:
    def test_is_the_set_of_shifts_that_the_exact_test_does_not_reject(self):
        rng = np.random.default_rng(11)
        young, old = rng.normal(size=5), rng.normal(2.0, size=6)
        found = r.shift_interval(young, old, confidence=0.95)
        for shift, inside in [
            (found.low - 1e-6, False),
            (found.low + 1e-6, True),
            (found.high - 1e-6, True),
            (found.high + 1e-6, False),
        ]:
            accepted = r.mann_whitney(young + shift, old).p > 0.05
            assert accepted == inside

    def test_coverage_over_repeated_draws_is_at_least_the_level(self):
        rng = np.random.default_rng(12)
        hits = 0
        for _ in range(1500):
            young, old = rng.exponential(size=4), 0.8 + rng.exponential(size=5)
            found = r.shift_interval(young, old, confidence=0.95)
            hits += found.low <= 0.8 <= found.high
        # Attained level 0.9683 at 4 against 5; three standard errors of 1500 draws are 0.0136.
        assert found.confidence == pytest.approx(1 - 2 * 2 / 126)
        assert hits / 1500 >= found.confidence - 0.0136

    def test_too_few_animals_give_no_interval(self):
        found = r.shift_interval([1, 2, 3], [4, 5, 6], confidence=0.95)
        assert found.estimate == 3
        assert math.isnan(found.low) and math.isnan(found.high)


class TestStratifiedPermutation:
    def test_one_stratum_is_the_plain_permutation_test(self):
        rng = np.random.default_rng(3)
        young, old = rng.normal(size=5), rng.normal(1.5, size=4)
        found = r.stratified_permutation([young], [old], max_permutations=1000, rng=rng)
        expected = stats.permutation_test(
            (old, young),
            lambda x, y: abs(np.median(x) - np.median(y)),
            alternative="greater",
            n_resamples=np.inf,
            vectorized=False,
        )
        assert found.exact
        assert found.p == pytest.approx(expected.pvalue, abs=1e-14)

    def test_a_difference_between_the_sexes_is_not_taken_for_age(self):
        rng = np.random.default_rng(4)
        # Males are 10 higher and mostly old; age itself does nothing.
        young = [rng.normal(0, 1, 6), rng.normal(10, 1, 2)]
        old = [rng.normal(0, 1, 2), rng.normal(10, 1, 6)]
        pooled = r.mann_whitney(np.concatenate(young), np.concatenate(old))
        within = r.stratified_permutation(young, old, max_permutations=10_000, rng=rng)
        assert pooled.p < 0.2 < within.p

    def test_random_draws_come_near_the_exact_p_and_are_never_zero(self):
        rng = np.random.default_rng(6)
        young, old = [rng.normal(size=6)], [rng.normal(1.0, size=6)]
        exact = r.stratified_permutation(young, old, max_permutations=10_000, rng=rng)
        drawn = r.stratified_permutation(young, old, max_permutations=900, rng=rng)
        assert exact.exact and not drawn.exact
        assert drawn.p == pytest.approx(exact.p, abs=4 * math.sqrt(exact.p / 900))
        assert drawn.p_smallest == 1 / 901

    def test_smallest_p_is_reached_by_complete_separation(self):
        rng = np.random.default_rng(8)
        found = r.stratified_permutation(
            [[1.0, 2.0], [1.0]], [[9.0, 9.5], [9.0]], max_permutations=100, rng=rng
        )
        # 6 x 2 arrangements; the observed one and its mirror image are the most extreme.
        assert found.p == found.p_smallest == pytest.approx(2 / 12)

    def test_no_stratum_is_an_error(self):
        with pytest.raises(ValueError, match="at least one stratum"):
            r.stratified_permutation([], [], max_permutations=10, rng=np.random.default_rng())


def test_benjamini_hochberg_leaves_missing_tests_out():
    found = r.benjamini_hochberg([0.01, math.nan, 0.02, 0.5])
    np.testing.assert_allclose(found, [0.03, math.nan, 0.03, 0.5])


def test_group_weights_are_shares_of_draws_with_replacement():
    weights = r.group_weights(5, 1000, np.random.default_rng(0))
    assert weights.shape == (1000, 5)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert set(np.unique(weights * 5).round(9)) <= {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [[1.0]]])
def test_bad_groups_are_named(bad):
    with pytest.raises(ValueError, match="reference"):
        r.mann_whitney(bad, [1.0, 2.0])
