"""Directions under every choice, against the study's stages, known answers and a plain oracle."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from stages.base import study
from stages.cells import contrast, counts, metrics, multiverse, proportions
from stages.cells.figures import multiverse_directions
from stages.cells.multiverse import KINDS, OF_NUMBERS, PUBLISHED
from stages.cells.tables.multiverse import MULTIVERSE, MULTIVERSE_CHOICES
from stages.drawing import evidence
from stages.measurement.concentration import QUADRANTS

# Of the reference's README: medians, types present, old minus young, by who is young and old.
KNOWN = {
    ("droplet", "Kidney", "published", ""): (5, 6, 0.026, -0.86),
    ("droplet", "Kidney", "compared", "only 24"): (5, 2, -0.059, -5.1),
    ("droplet", "Kidney", "compared", "from 30"): (5, 4, 0.038, -0.47),
    ("facs", "Kidney", "min_cells", "1"): (6, 4, -0.0005, 0.469),
    ("facs", "Limb_Muscle", "published", ""): (6, 4, -0.0174, 0.129),
    ("droplet", "Limb_Muscle", "published", ""): (4, 6, 0.035, -0.47),
    ("facs", "Lung", "published", ""): (6, 4, 0.042, -2.00),
    ("droplet", "Lung", "published", ""): (4, 4, 0.0006, -1.11),
    ("facs", "Spleen", "published", ""): (6, 4, -0.009, -0.23),
    ("droplet", "Spleen", "published", ""): (3, 6, -0.067, 1.39),
    ("facs", "Marrow", "published", ""): (5, 4, 0.0875, -2.186),
    ("droplet", "Marrow", "published", ""): (4, 7, 0.0379, -0.530),
}


@pytest.fixture(scope="module")
def found(tms_counts, few_draws):
    return multiverse.multiverse(tms_counts, few_draws)


@pytest.fixture(scope="module")
def samples(tms_counts, settings):
    return proportions.proportions(tms_counts, settings.proportions)[0]


@pytest.mark.parametrize("key", KNOWN, ids=" ".join)
def test_known_answers(found, key):
    _, choices = found
    platform, tissue, kind, choice = key
    at = (choices["platform"] == platform) & (choices["tissue"] == tissue)
    row = choices[at & (choices["kind"] == kind) & (choices["choice"].fillna("") == choice)]
    assert len(row) == 1
    n_reference, n_compared, d_gini, d_number = KNOWN[key]
    assert row[["n_reference", "n_compared"]].to_numpy().tolist() == [[n_reference, n_compared]]
    # Half a unit of the last printed digit.
    digits = [len(str(value).partition(".")[2]) for value in (d_gini, d_number)]
    assert row["d_gini"].iloc[0] == pytest.approx(d_gini, abs=0.51 * 10 ** -digits[0])
    assert row["d_number"].iloc[0] == pytest.approx(d_number, abs=0.51 * 10 ** -digits[1])


def test_published_choices_give_the_study_s_own_changes(found, samples, few_draws):
    table, choices = found
    aged, _ = contrast.contrast(metrics.metrics(samples, few_draws.metrics), few_draws.contrast)
    for cells, kind in (("all", PUBLISHED), ("rarefied", "cells")):
        mine = choices[choices["kind"] == kind].set_index(counts.TISSUE)
        assert len(mine) == len(table) == 22
        for metric, column in (("gini", "d_gini"), ("effective_number", "d_number")):
            of = aged[(aged["cells"] == cells) & (aged["metric"] == metric)]
            theirs = of.set_index(counts.TISSUE)["change"].loc[mine.index]
            # The order of summation may differ; 0 was seen.
            np.testing.assert_allclose(mine[column], theirs, rtol=0, atol=1e-12)


def _gini(shares, n):
    ordered = np.sort(np.concatenate([shares, np.zeros(n - len(shares))]))
    total = 2 * np.sum(np.arange(1, n + 1) * ordered) / (n * ordered.sum())
    return total - (n + 1) / n


def _number(cells, name):
    shares = cells / cells.sum()
    entropy = -np.sum(shares * np.log(shares))
    match name:
        case "effective_number":
            return np.exp(entropy)
        case "effective_number_miller_madow":
            return np.exp(entropy + (len(cells) - 1) / (2 * cells.sum()))
        case "hill_0":
            return len(cells)
        case "hill_2":
            return 1 / np.sum(shares**2)
    return None


def _by_hand(rows, analysis):
    """Return both changes of one analysis of all cells, by loops over animals."""
    values = {}
    n_types = rows["cell_type"].nunique()
    for (_, months, sex, group), of in rows.groupby(["animal", "age_months", "sex", "group"]):
        cells = of["n_cells"].to_numpy(float)
        n = n_types if analysis["gini"] == "gini_tissue" else len(cells)
        gini = _gini(cells, n)
        if analysis["gini"] == "gini_corrected":
            gini *= n / (n - 1)
        if analysis["sex"] not in ("all", sex):
            continue
        for age in ("reference", "compared"):
            word, _, limit = analysis[age].rpartition(" ")
            bound = float(limit) if word else np.nan
            inside = {
                "": group == age,
                "up to": months <= bound,
                "from": months >= bound,
                "only": months == bound,
            }
            if inside[word]:
                values.setdefault(age, []).append((gini, _number(cells, analysis["number"])))
    centre = np.median if analysis["statistic"] == "median" else np.mean
    return centre(values["compared"], axis=0) - centre(values["reference"], axis=0)


@pytest.mark.parametrize("tissue", ["Marrow", "Kidney"])
def test_any_analysis_is_what_a_plain_loop_gives(samples, few_draws, tissue):
    rows = samples[(samples["platform"] == "droplet") & (samples["tissue"] == tissue)]
    analyses = multiverse.arm({50: rows}, few_draws.metrics.rarefaction)
    plain = analyses[
        (analyses["cells"] == "all") & (analyses["number"] != "effective_number_chao_shen")
    ]
    assert plain["compared"].nunique() > 2
    for analysis in plain.sample(60, random_state=1).to_dict("records"):
        d_gini, d_number = _by_hand(rows, analysis)
        # Seen: 2e-15.
        assert analysis["d_gini"] == pytest.approx(d_gini, abs=1e-12)
        assert analysis["d_number"] == pytest.approx(d_number, abs=1e-12)
    assert len(plain) > 60


def test_shares_are_of_distinct_analyses_and_sum_to_one(found, samples, few_draws):
    table, choices = found
    np.testing.assert_allclose(table[list(QUADRANTS)].sum(axis=1), 1, atol=1e-12)
    rows = samples[(samples["platform"] == "droplet") & (samples["tissue"] == "Limb_Muscle")]
    analyses = multiverse.arm({50: rows}, few_draws.metrics.rarefaction)
    # All 1m are male, all 3m female: males are the animals of 1 month, and one analysis with them.
    one = analyses[(analyses["reference"] == "up to 1") & (analyses["sex"] == "all")]
    other = analyses[(analyses["reference"] == PUBLISHED) & (analyses["sex"] == "male")]
    assert set(one["animals"]) == set(other["animals"])
    inner = 2 * 3 * 5 * 2
    row = table[(table["platform"] == "droplet") & (table["tissue"] == "Limb_Muscle")].iloc[0]
    assert row["n_choices"] == analyses["animals"].nunique() * inner < len(analyses)
    turning = choices.merge(table, on=counts.TISSUE, suffixes=("", "_published"))
    turned = turning[turning["direction"] != turning["direction_published"]]
    assert turned.groupby(counts.TISSUE).size().sum() == table["n_turning"].sum() > 0


def test_no_choice_of_ages_stands_twice():
    animals = pd.DataFrame({"age_months": [1.0, 3.0, 3.0, 18.0, 21.0, 24.0, 30.0]})
    animals["group"] = ["reference"] * 3 + ["other"] * 2 + ["compared"] * 2
    animals["condition"] = None
    young, old = multiverse.ages(animals, "reference"), multiverse.ages(animals, "compared")
    assert [name for name, _ in young] == ["published", "up to 1", "only 3"]
    assert [name for name, _ in old] == ["published", "from 18", "from 21", "from 30", "only 24"]
    assert len({who.tobytes() for _, who in old}) == len(old)


def test_an_arm_without_two_animals_of_a_group_is_left_out(tms_counts, few_draws):
    marrow = tms_counts["tissue"] == "Marrow"
    lone = tms_counts[(tms_counts["platform"] == "facs") & marrow]
    lone = lone[(lone["group"] != "compared") | (lone["animal"] == "24_58_M")]
    assert all(table.empty for table in multiverse.multiverse(lone, few_draws))
    droplet = tms_counts[(tms_counts["platform"] == "droplet") & marrow]
    table, _ = multiverse.multiverse(pd.concat([lone, droplet]), few_draws)
    assert table["platform"].tolist() == ["droplet"]


@pytest.fixture(scope="module")
def about(settings):
    arms = [
        study.Arm(spec.cohort, spec.platform, spec.constants.tissue, spec.evidence)
        for spec in settings.atlas.cells.values()
    ]
    return study.Study("demo", "demo", simulated=True, notice="Simulated.", arms=tuple(arms))


class TestFigure:
    def test_text_is_legible_inside_the_page_and_marks_reconstructed_arms(
        self, found, about, legible
    ):
        boxes = legible(multiverse_directions.draw(*found, about), "Simulated demo data")
        said = [text.get_text() for text, _ in boxes]
        assert not any("_" in text for text in said)
        assert said.count("Kidney\N{DAGGER}") == 2
        assert said.count("Marrow") == 2
        assert "old from 30 mo" in said
        assert "cells \N{GREATER-THAN OR EQUAL TO} 100" in said

    def test_its_words_fit_a_page_of_one_arm_and_few_choices(self, found, about, legible):
        table, choices = (frame[frame["tissue"] == "Marrow"].copy() for frame in found)
        few = choices[choices["kind"].isin(["published", "cells", "statistic"])]
        boxes = legible(multiverse_directions.draw(table, few, about), "Simulated demo data")
        said = " ".join(text.get_text() for text, _ in boxes)
        assert "full: by the main choices" in said
        assert said.count("dot: no such choice") == 1

    def test_it_stays_on_a_page_with_more_arms(self, found, about, legible):
        cohorts = ("tms", "tms-simulated", "third")
        arms = [*about.arms, *(replace(arm, cohort="third") for arm in about.arms)]
        more = [pd.concat([frame.assign(cohort=cohort) for cohort in cohorts]) for frame in found]
        figure = multiverse_directions.draw(*more, replace(about, arms=tuple(arms)))
        legible(figure, "Simulated demo data")

    def test_a_turned_direction_stands_out(self, found, about):
        table, _ = found
        patches = multiverse_directions.draw(*found, about).axes[0].patches
        strong = [one for one in patches if one.get_alpha() == 1.0]
        pale = [one for one in patches if one.get_alpha() == multiverse_directions.PALE]
        assert len(strong) == len(table) + table["n_turning"].sum()
        assert len(pale) == (table["n_single"] - table["n_turning"]).sum()

    def test_the_bar_of_an_arm_is_its_shares(self, found, about):
        table, choices = found
        one = table[(table["platform"] == "facs") & (table["tissue"] == "Kidney")]
        of = choices.merge(one[counts.TISSUE])
        figure = multiverse_directions.draw(one, of, about)
        bars = [p for p in figure.axes[0].patches if p.get_alpha() is None][: len(QUADRANTS)]
        shares = [bar.get_width() / multiverse_directions.BAR_MM for bar in bars]
        assert shares == pytest.approx(one[list(QUADRANTS)].iloc[0].tolist())

    def test_simulated_arms_are_shown_only_where_there_is_no_other(self, found, about):
        table, _ = found
        simulated = table.assign(cohort="tms-simulated")
        both = pd.concat([simulated, table])
        pd.testing.assert_frame_equal(evidence.real(both, about), table)
        pd.testing.assert_frame_equal(evidence.real(simulated, about), simulated)


def test_tables_follow_their_schemas(found):
    table, choices = found
    MULTIVERSE.validate(table)
    MULTIVERSE_CHOICES.validate(choices)
    assert choices["kind"].iloc[0] == PUBLISHED
    assert set(choices["kind"]) <= {PUBLISHED, *KINDS}
    assert set(OF_NUMBERS) <= set(choices["kind"])
