"""Who is compared with whom: groups, pairs and blocks, in the samples and in the comparison."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stages.base.errors import AtlasError
from stages.cells import contrast, counts, drivers, medians, metrics, proportions
from stages.cells.design import design, strata
from stages.inputs import cells
from stages.inputs.settings import CellsFile
from stages.inputs.tables import COUNTS
from stages.measurement import resampling

COLUMNS = {"animal": "donor", "condition": "stim", "cell_type": "type"}
GROUPS = {"reference": ["ctrl"], "compared": ["stim"]}


def spec_of(**changes) -> CellsFile:
    content = {
        "raw": "cells.csv",
        "cohort": "kang",
        "platform": "droplet",
        "columns": COLUMNS,
        "constants": {"tissue": "PBMC"},
        "groups": GROUPS,
    }
    return CellsFile.model_validate(content | changes)


def count(obs, **changes):
    return COUNTS.validate(cells.count(obs, spec_of(**changes), name="mine", atlas="local"))


def donors(numbers, conditions=("ctrl", "stim")):
    """Return cells of donors: by donor and condition, numbers of cells of each type."""
    rows = []
    for (donor, condition), of in zip(
        itertools.product(range(len(numbers) // len(conditions)), conditions), numbers, strict=True
    ):
        for kind, n in zip("abc", of, strict=True):
            rows += [(f"d{donor}", condition, kind)] * n
    return pd.DataFrame(rows, columns=["donor", "stim", "type"])


NUMBERS = [(60, 20, 20), (40, 40, 20), (70, 20, 10), (50, 30, 20), (50, 30, 20), (34, 33, 33)]


@pytest.fixture(scope="module")
def paired(settings):
    """Return proportions and metrics of three donors under two conditions."""
    shares, _ = proportions.proportions(count(donors(NUMBERS)), settings.proportions)
    few = settings.metrics.rarefaction.model_copy(update={"draws": 5})
    measured = metrics.metrics(shares, settings.metrics.model_copy(update={"rarefaction": few}))
    return shares, measured


def test_a_donor_under_two_conditions_is_a_pair_of_samples():
    table = count(donors(NUMBERS)).drop_duplicates("animal")
    assert table["animal"].tolist() == [
        f"d{donor} ({condition})" for donor in range(3) for condition in ("ctrl", "stim")
    ]
    assert table["block"].tolist() == ["d0", "d0", "d1", "d1", "d2", "d2"]
    assert table["group"].tolist() == ["reference", "compared"] * 3
    assert table["age_months"].isna().all()


def test_donors_under_one_condition_each_are_no_pairs():
    obs = donors(NUMBERS[:4])
    obs["donor"] += obs["stim"]
    table = count(obs).drop_duplicates("animal").reset_index(drop=True)
    assert table["block"].isna().all()
    assert not design(table).paired


def test_a_third_condition_is_in_neither_group():
    table = count(donors(NUMBERS, conditions=("ctrl", "stim", "washed")))
    of = table.drop_duplicates("animal").set_index("condition")["group"].to_dict()
    assert of == {"ctrl": "reference", "stim": "compared", "washed": "other"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"groups": {"reference": ["ctrl"], "compared": ["stimm"]}}, "no cell of cells.csv has "),
        ({"animal_pattern": "[0-9]{3}"}, "finds nothing in 'd0' of column donor of cells.csv"),
    ],
)
def test_bad_groups_and_patterns_are_one_line(changes, said):
    with pytest.raises(AtlasError) as caught:
        count(donors(NUMBERS), **changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cells_without_a_condition_are_refused():
    obs = donors(NUMBERS)
    obs.loc[3, "stim"] = None
    with pytest.raises(AtlasError, match="1 of 600 cells have no condition in column stim"):
        count(obs)


def test_a_part_of_a_name_can_be_the_donor():
    obs = donors(NUMBERS)
    obs["donor"] = obs["stim"] + obs["donor"].str[1:]
    table = count(obs, animal_pattern="[0-9]+").drop_duplicates("animal")
    assert table["block"].tolist() == ["0", "0", "1", "1", "2", "2"]


def test_labels_of_no_type_are_warned_of_and_can_be_named(caplog):
    obs = donors(NUMBERS)
    obs["type"] = obs["type"].replace("c", "Unassigned")
    assert "Unassigned" in set(count(obs)["cell_type"])
    assert "123 cells are of type 'Unassigned'" in caplog.text
    caplog.clear()
    assert set(count(obs, unannotated=["Unassigned"])["cell_type"].dropna()) == {"a", "b"}
    assert not caplog.records


def test_a_paired_change_is_the_median_of_the_differences(paired, settings):
    _, measured = paired
    table, left_out = contrast.contrast(measured, settings.contrast)
    assert left_out.empty
    every = measured[measured["cells"] == "all"].set_index(["block", "group"])["gini"].unstack()
    differences = (every["compared"] - every["reference"]).to_numpy()
    row = table[(table["cells"] == "all") & (table["metric"] == "gini")].iloc[0]
    assert row["paired"]
    assert row["change"] == pytest.approx(np.median(differences))
    assert (row["change_low"], row["change_high"]) == pytest.approx(
        (differences.min(), differences.max())
    )
    # All three fall: of eight ways to exchange within pairs, two are as extreme.
    assert row["rank_p"] == row["rank_p_smallest"] == row["within_block_p"] == 0.25
    assert row["within_block_n"] == 6


def test_a_pair_without_its_partner_says_nothing(paired, settings):
    _, measured = paired
    fewer = measured[measured["animal"] != "d2 (stim)"]
    table, _ = contrast.contrast(fewer, settings.contrast)
    assert set(table["n_reference"]) == set(table["n_compared"]) == {2}
    one = fewer[fewer["block"].isin(["d0", "d2"])]
    table, left_out = contrast.contrast(one, settings.contrast)
    assert table.empty
    assert left_out["reason"].tolist() == ["needs 2 complete pairs"]


def test_contributions_of_pairs_sum_to_the_mean_difference(paired, settings):
    shares, measured = paired
    rules = settings.drivers.model_copy(update={"draws": 50})
    found = drivers.drivers(measured, shares, rules)
    every = measured[measured["cells"] == "all"].set_index(["block", "group"]).unstack()
    for metric in ("gini", "effective_number"):
        whole = (every[metric]["compared"] - every[metric]["reference"]).mean()
        assert found[f"{metric}_contribution"].sum() == pytest.approx(whole, abs=1e-9)


def test_draws_of_pairs_keep_partners_together(paired, settings):
    _, measured = paired
    _, changes, drawn = medians.medians(measured, settings.medians)
    wide = drawn[drawn["condition"] == "all"].pivot_table(
        index=["sampling", "draw"], columns="state", values="gini"
    )
    moved = (wide["compared"] - wide["reference"]).round(12)
    row = changes[(changes["condition"] == "all") & (changes["metric"] == "gini")].iloc[0]
    every = measured[measured["cells"] == "all"].set_index(["block", "group"])["gini"].unstack()
    differences = (every["compared"] - every["reference"]).to_numpy()
    assert set(moved["replicates"]) <= set(differences.round(12))
    assert len(moved["permuted"]) == 8
    assert moved["permuted"].max() == pytest.approx(-moved["permuted"].min())
    assert row["change"] == pytest.approx(np.median(differences))


def samples(groups, sexes, blocks):
    return pd.DataFrame({"group": groups, "sex": sexes, "block": blocks}, dtype=object)


def test_strata_are_sexes_and_blocks_that_hold_both_groups():
    table = samples(
        ["reference", "reference", "compared", "compared", "compared", "other"],
        ["male", "female", "male", "male", "female", "female"],
        ["x", "x", "x", "y", "x", "x"],
    )
    found = design(table)
    assert not found.paired
    parts = [(one.tolist(), other.tolist()) for one, other in strata(table, found)]
    assert parts == [([1], [4]), ([0], [2])]
    alone = [
        (one.tolist(), other.tolist()) for one, other in strata(table.assign(block=None), found)
    ]
    assert alone == [([1], [4]), ([0], [2, 3])]


def test_one_library_of_each_condition_in_every_batch_makes_pairs():
    table = samples(["reference", "compared"] * 2, ["male"] * 4, ["x", "x", "y", "y"])
    assert design(table).paired
    assert not design(table.assign(block=["x", "x", "y", None])).paired


numbers = st.lists(
    st.floats(-100, 100, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-3),
    min_size=1,
    max_size=9,
)


@given(numbers)
def test_signed_rank_is_that_of_all_signs(differences):
    found = resampling.signed_rank(differences)
    kept = np.array([x for x in differences if x != 0])
    ranks = stats.rankdata(np.abs(kept))
    sums = np.array(
        [ranks[list(signs)].sum() for signs in itertools.product([False, True], repeat=len(kept))]
    )
    away = np.abs(sums - ranks.sum() / 2)
    assert found.statistic == pytest.approx(ranks[kept > 0].sum())
    expected = (away >= abs(found.statistic - ranks.sum() / 2) - 1e-9).mean()
    assert found.p == pytest.approx(expected)
    assert found.p_smallest == pytest.approx((away >= away.max() - 1e-9).mean())


def test_signed_rank_agrees_with_scipy_where_there_are_no_ties():
    differences = np.random.default_rng(0).normal(0.3, 1, 12)
    expected = stats.wilcoxon(differences, method="exact").pvalue
    assert resampling.signed_rank(differences).p == pytest.approx(expected)


@pytest.mark.parametrize("n", [6, 9])
def test_the_interval_holds_the_shifts_that_the_test_keeps(n):
    differences = np.random.default_rng(n).normal(size=n)
    found = resampling.signed_shift_interval(differences, confidence=0.95)
    for shift, inside in (
        (found.low + 1e-6, True),
        (found.high - 1e-6, True),
        (found.low - 1e-6, False),
        (found.high + 1e-6, False),
    ):
        kept = resampling.signed_rank(differences - shift).p > 1 - found.confidence + 1e-9
        assert kept == inside
    assert found.confidence >= 0.95


def test_five_pairs_have_no_interval_at_this_level():
    found = resampling.signed_shift_interval([1.0, 2.0, 3.0, 4.0, 5.0], confidence=0.95)
    assert np.isnan([found.low, found.high]).all()


def test_who_is_known_of_a_sample_is_what_the_tables_hold():
    assert [*counts.TISSUE, "animal", *counts.WHO] == counts.SAMPLE
    assert set(counts.SAMPLE) < set(COUNTS.columns)
