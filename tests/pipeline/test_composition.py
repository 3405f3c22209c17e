"""The composition room on cells made by hand: what it promises and what it says to bad input."""

import copy
import math

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pandera.errors import SchemaError

from stages.base import tables
from stages.base.columns import schema, text
from stages.base.errors import AtlasError, SettingsError, TableError
from stages.cells import concordance, contrast, counts, describe, drivers, metrics
from stages.cells import proportions as proportions_stage
from stages.cells.recovery import recovery
from stages.cells.tables.drivers import NUMBER_OF_TYPES
from stages.cells.tables.truth import TRUTH
from stages.inputs.tables import COUNTS, UNKNOWN_ANIMAL
from stages.measurement.concentration import effective_number, gini

SEX_OF = {"f": "female", "m": "male"}


def cells(*samples, cohort="tms", platform="facs", tissue="Kidney"):
    """Return counts: a sample is (animal, age group, {type: cells}), its first letter the sex."""
    months = {"reference": 3.0, "other": 18.0, "compared": 24.0}
    rows = [
        [
            *(cohort, platform, tissue, animal, SEX_OF.get(animal[0])),
            *(None, months[group], None, group, kind, n),
        ]
        for animal, group, kinds in samples
        for kind, n in kinds.items()
    ]
    return pd.DataFrame(rows, columns=list(COUNTS.columns))


def random_cells(rng, *, n_reference=4, n_compared=4, types="abcdef", **where):
    samples = []
    for group, n, power in (("reference", n_reference, 1.0), ("compared", n_compared, 2.0)):
        for i in range(n):
            shares = rng.dirichlet(np.full(len(types), 3.0)) ** power
            drawn = rng.multinomial(rng.integers(80, 200), shares / shares.sum())
            kinds = {kind: int(k) for kind, k in zip(types, drawn, strict=True) if k}
            samples.append((f"{'fm'[i % 2]}{group}{i}", group, kinds))
    return cells(*samples, **where)


@pytest.fixture
def run(settings):
    """Run the room up to the metrics."""

    def go(counted, **changed):
        shares, _ = proportions_stage.proportions(counted, settings.proportions)
        rules = settings.metrics.model_copy(update=changed)
        return shares, metrics.metrics(shares, rules)

    return go


class TestDescribe:
    def test_sex_that_cannot_be_told_from_age_is_flagged(self):
        kinds = {"a": 60}
        told = cells(
            ("f1", "reference", kinds), ("m1", "reference", kinds), ("m2", "compared", kinds)
        )
        hidden = cells(("f1", "reference", kinds), ("m2", "compared", kinds), tissue="Lung")
        pooled = cells(
            ("m1/2", "reference", kinds),
            ("f1", "reference", kinds),
            ("m3", "compared", kinds),
            tissue="Skin",
        )
        described = describe.samples(pd.concat([told, hidden, pooled]), pooled_pattern="/")
        found = describe.confounding(described).groupby("tissue")["sex_confounded"].first()
        # A pool of males does not make young males comparable.
        assert found.to_dict() == {"Kidney": False, "Lung": True, "Skin": True}

    def test_cells_and_types_are_counted_and_unannotated_ones_apart(self):
        counted = cells(("f1", "reference", {"a": 5, "b": 3, None: 2}))
        row = describe.samples(counted, pooled_pattern="/").iloc[0]
        assert (row.n_cells, row.n_unannotated, row.n_types) == (10, 2, 2)


class TestProportions:
    def test_every_cell_is_in_a_sample_or_in_the_list_of_exclusions(self, settings):
        counted = cells(
            ("f1", "reference", {"a": 50, "b": 30, None: 7}),
            ("m5/6", "reference", {"a": 90, None: 2}),
            ("m7", "compared", {"a": 49}),
            (UNKNOWN_ANIMAL, "compared", {"b": 200}),
        )
        kept, excluded = proportions_stage.proportions(counted, settings.proportions)
        assert kept["n_cells"].sum() + excluded["n_cells"].sum() == counted["n_cells"].sum()
        assert dict(zip(kept["cell_type"], kept["proportion"], strict=True)) == {
            "a": 0.625,
            "b": 0.375,
        }
        listed = {(row.animal, row.rule): row.n_cells for row in excluded.itertuples()}
        assert listed == {
            ("f1", "unannotated"): 7,
            ("m5/6", "unannotated"): 2,
            ("m5/6", "pooled_label"): 90,
            ("m7", "too_few_cells"): 49,
            (UNKNOWN_ANIMAL, "unknown_animal"): 200,
        }

    def test_an_empty_tissue_is_listed_and_the_others_go_on(self, settings, run):
        rng = np.random.default_rng(8)
        empty = cells(
            ("f1", "reference", {None: 80}), ("m1", "compared", {None: 90}), tissue="Skin"
        )
        counted = pd.concat([random_cells(rng), empty])
        kept, excluded = proportions_stage.proportions(counted, settings.proportions)
        assert set(kept["tissue"]) == {"Kidney"}
        assert excluded.loc[excluded["tissue"] == "Skin", "n_cells"].tolist() == [80, 90]
        _, measured = run(counted)
        table, _ = contrast.contrast(measured, settings.contrast)
        assert set(table["tissue"]) == {"Kidney"}

    def test_all_cells_unannotated_is_said_with_the_rules_that_took_them(self, settings):
        counted = cells(("f1", "reference", {None: 80}), ("m1", "compared", {None: 90}))
        with pytest.raises(AtlasError, match="no sample is left of 170 cells: 170 unannotated"):
            proportions_stage.proportions(counted, settings.proportions)

    def test_a_sample_in_two_files_is_refused(self, tmp_path):
        counted = cells(("f1", "reference", {"a": 50}))
        for name in ("one", "two"):
            tables.write(counted, COUNTS, tmp_path / f"{name}.csv")
        with pytest.raises(AtlasError, match="tms facs Kidney animal f1: their cells would count"):
            counts.read_all(tmp_path, ["one", "two"])

    def test_a_file_left_over_from_other_settings_is_refused(self, tmp_path):
        for name in ("one", "two"):
            counted = cells(("f1", "reference", {"a": 50}), tissue=name)
            tables.write(counted, COUNTS, tmp_path / f"{name}.csv")
        with pytest.raises(AtlasError, match=r"holds two\.csv, which atlas\.cells does not name"):
            counts.read_all(tmp_path, ["one"])


class TestMetrics:
    def test_components_are_those_present_tissue_wide_or_fixed(self, run):
        counted = cells(
            ("f1", "reference", {"a": 50, "b": 30, "c": 15, "d": 5}),
            ("m1", "compared", {"a": 50, "e": 50}),
        )
        found = {}
        for name, fixed in (("present", []), ("tissue", []), ("fixed", list("abcdefghij"))):
            _, table = run(counted, category_set=name, fixed_categories=fixed)
            row = table[(table["cells"] == "all") & (table["animal"] == "f1")].iloc[0]
            found[name] = (round(row.gini, 12), round(row.effective_number, 6))
        assert found["present"] == (0.375, 3.133404)
        assert found["tissue"] == (0.5, 3.133404)
        assert found["fixed"] == (0.75, 3.133404)

    def test_a_type_outside_the_fixed_categories_is_named(self, run):
        counted = cells(("f1", "reference", {"a": 50, "zebra cell": 30}))
        with pytest.raises(SettingsError, match="fixed_categories lacks zebra cell"):
            run(counted, category_set="fixed", fixed_categories=["a"])

    def test_rarefaction_to_all_cells_changes_nothing(self, run):
        kinds = {"a": 40, "b": 30, "c": 10}
        _, table = run(cells(("f1", "reference", kinds), ("m1", "compared", kinds)))
        # Both samples have 80 cells: every draw takes all of them.
        values = table.drop(columns=["cells", "n_cells"]).groupby("animal")
        for _, rows in values:
            numbers = rows.select_dtypes("number").to_numpy()
            np.testing.assert_allclose(numbers[0], numbers[1], rtol=1e-12)

    def test_rarefied_richness_is_the_hypergeometric_expectation(self, run):
        kinds = {"a": 100, "b": 20, "c": 4}
        _, table = run(cells(("f1", "reference", kinds), ("m1", "compared", {"a": 60})))
        found = table[(table["cells"] == "rarefied") & (table["animal"] == "f1")].iloc[0]
        n, depth = 124, 60
        missed = [math.comb(n - k, depth) / math.comb(n, depth) for k in kinds.values()]
        expected = sum(1 - p for p in missed)
        # 500 draws: observed standard error 0.012.
        assert found.richness == pytest.approx(expected, abs=0.05)
        assert found.n_cells == depth

    def test_depth_above_the_smallest_sample_is_refused(self, run, settings):
        deep = settings.metrics.rarefaction.model_copy(update={"depth": 70})
        with pytest.raises(SettingsError, match="depth 70 is above the 60 cells"):
            run(cells(("f1", "reference", {"a": 60})), rarefaction=deep)

    def test_order_of_rows_and_of_tissues_changes_nothing(self, run):
        rng = np.random.default_rng(5)
        counted = pd.concat([random_cells(rng), random_cells(rng, tissue="Lung")])
        _, one = run(counted)
        _, other = run(counted.sample(frac=1, random_state=1))
        pd.testing.assert_frame_equal(one, other)


class TestAging:
    def test_the_change_is_the_difference_of_the_medians_and_names_the_quadrant(
        self, run, settings
    ):
        shares, measured = run(random_cells(np.random.default_rng(1), n_reference=5, n_compared=4))
        table, skipped = contrast.contrast(measured, settings.contrast)
        assert skipped.empty
        per_animal = shares.groupby(["animal", "group"])["n_cells"]
        by_group = per_animal.apply(gini).groupby("group").median()
        row = table[(table["cells"] == "all") & (table["metric"] == "gini")].iloc[0]
        assert row.change == pytest.approx(by_group["compared"] - by_group["reference"], abs=1e-14)
        assert row.quadrant == "crystallize"
        assert (row.n_reference, row.n_compared) == (5, 4)

    def test_one_animal_in_a_group_is_listed_and_not_compared(self, run, settings):
        rng = np.random.default_rng(2)
        both = pd.concat([random_cells(rng), random_cells(rng, n_compared=1, tissue="Lung")])
        _, measured = run(both)
        table, skipped = contrast.contrast(measured, settings.contrast)
        assert set(table["tissue"]) == {"Kidney"}
        assert skipped[["tissue", "n_reference", "n_compared"]].to_numpy().tolist() == [
            ["Lung", 4, 1]
        ]

    def test_nothing_comparable_leaves_the_table_empty_and_says_why(self, run, settings):
        _, measured = run(random_cells(np.random.default_rng(2), n_compared=1))
        table, left_out = contrast.contrast(measured, settings.contrast)
        assert table.empty
        assert left_out[["n_reference", "n_compared"]].to_numpy().tolist() == [[4, 1]]
        assert left_out["reason"].tolist() == ["needs 2 animals in each group"]

    def test_quadrants(self, run, settings):
        rows = [("K", 0.1, -1.0), ("L", -0.1, 1.0), ("M", 0.1, 1.0), ("N", 0.0, -1.0)]
        table = pd.DataFrame(
            [
                {"cohort": "c", "platform": "p", "tissue": name, "cells": "all"}
                | {"metric": metric, "change": change}
                for name, dg, dn in rows
                for metric, change in (("gini", dg), ("effective_number", dn))
            ]
        )
        named = dict(zip(table["tissue"], contrast.quadrants(table), strict=True))
        assert named == {"K": "crystallize", "L": "disperse", "M": "mixed", "N": "mixed"}

    def test_adjusted_values_are_taken_over_the_tissues_of_an_arm(self, run, settings):
        rng = np.random.default_rng(3)
        parts = [random_cells(rng, tissue=name) for name in ("A", "B", "C")]
        parts.append(random_cells(rng, platform="droplet"))
        _, measured = run(pd.concat(parts))
        table, _ = contrast.contrast(measured, settings.contrast)
        table = table[(table["metric"] == "gini") & (table["cells"] == "all")]
        alone = table[table["platform"] == "droplet"].iloc[0]
        assert alone.rank_q == alone.rank_p
        facs = table[table["platform"] == "facs"].sort_values("rank_p")
        largest = facs.iloc[-1]
        assert largest.rank_q == largest.rank_p
        assert (facs["rank_q"] >= facs["rank_p"]).all()


class TestConcordance:
    def test_parts_of_a_tissue_are_put_together_before_they_are_measured(self, settings):
        kinds = {"a": 60, "b": 20}
        heart = cells(("f1", "reference", kinds), tissue="Heart")
        aorta = cells(("f1", "reference", {"b": 40, "c": 40}), tissue="Aorta")
        shares, _ = proportions_stage.proportions(pd.concat([heart, aorta]), settings.proportions)
        merged = concordance.merge_tissues(shares, settings.concordance.tissue_map)
        assert set(merged["tissue"]) == {"Heart_and_Aorta"}
        found = dict(zip(merged["cell_type"], merged["proportion"], strict=True))
        assert found == {"a": 60 / 160, "b": 60 / 160, "c": 40 / 160}

    def test_a_part_alone_is_not_the_whole(self, settings):
        """An aorta was compared with heart and aorta where a platform had no heart."""
        aorta = cells(("f1", "reference", {"b": 40, "c": 40}), tissue="Aorta")
        whole = cells(("d1", "reference", {"b": 90}), tissue="Heart_and_Aorta", platform="droplet")
        shares, _ = proportions_stage.proportions(pd.concat([aorta, whole]), settings.proportions)
        merged = concordance.merge_tissues(shares, settings.concordance.tissue_map)
        assert merged[["platform", "tissue"]].values.tolist() == [["droplet", "Heart_and_Aorta"]]

    def test_mapped_tissues_take_part(self, run, settings):
        rng = np.random.default_rng(4)
        parts = [random_cells(rng, tissue=name) for name in ("Heart", "Aorta", "Lung")]
        parts += [
            random_cells(rng, tissue=name, platform="droplet")
            for name in ("Heart_and_Aorta", "Lung")
        ]
        shares, measured = run(pd.concat(parts))
        aged, _ = contrast.contrast(measured, settings.contrast)
        changes = concordance.changes_on_common_tissues(shares, aged, settings)
        table = concordance.concordance(changes, settings.concordance)
        assert set(table["tissue"]) == {"Heart_and_Aorta", "Lung"}
        # A tissue that both platforms name alike is compared as it stands in the ageing table.
        lung = table[(table["tissue"] == "Lung") & (table["metric"] == "gini")].iloc[0]
        same = aged[(aged["tissue"] == "Lung") & (aged["metric"] == "gini")]
        same = same[(same["cells"] == "all") & (same["platform"] == "facs")]
        assert lung.change_first == same["change"].iloc[0]

    def test_platforms_without_a_common_tissue_give_an_empty_table(self, run, settings):
        rng = np.random.default_rng(4)
        _, measured = run(random_cells(rng))
        aged, _ = contrast.contrast(measured, settings.contrast)
        table = concordance.concordance(aged, settings.concordance)
        assert table.empty
        found = concordance.summary(table, settings.concordance, rng=rng)
        assert found["n_tissues"].tolist() == [0, 0]
        assert found["spearman"].isna().all()


compositions = st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(lambda x: sum(x) > 0)


class TestDrivers:
    @given(compositions, compositions)
    def test_contributions_sum_to_the_whole_change(self, young, old):
        p, q = (np.array(x) / sum(x) for x in (young, old))
        by_gini = drivers.gini_contributions(p, q)
        by_number = drivers.effective_number_contributions(p, q)
        assert by_gini.sum() == pytest.approx(gini(q) - gini(p), abs=1e-13)
        whole = effective_number(q) - effective_number(p)
        # Quadrature with logarithms at both ends: observed 2e-14 at most.
        assert by_number.sum() == pytest.approx(whole, abs=1e-12)
        still = p == q
        assert (by_gini[still] == 0).all()
        assert (by_number[still] == 0).all()

    def test_against_integration_by_brute_force(self):
        rng = np.random.default_rng(9)
        p, q = rng.dirichlet(np.full(8, 0.5), 2)
        t = (np.arange(200_000) + 0.5)[:, np.newaxis] / 200_000
        way = (1 - t) * p + t * q
        rank = way.argsort(axis=1).argsort(axis=1) + 1
        slope = (2 * rank - 9) / 8 - np.asarray(gini(way))[:, np.newaxis]
        np.testing.assert_allclose(
            drivers.gini_contributions(p, q), (q - p) * slope.mean(axis=0), atol=1e-5
        )
        number = np.asarray(effective_number(way))[:, np.newaxis]
        slope = number * (-np.log(way) - np.log(number))
        np.testing.assert_allclose(
            drivers.effective_number_contributions(p, q), (q - p) * slope.mean(axis=0), atol=1e-5
        )

    def test_types_that_appear_have_a_row_of_their_own(self, run, settings):
        kinds, more = {"a": 50, "b": 50}, {"a": 50, "b": 50, "c": 1}
        counted = cells(
            *((f"m{i}", "reference", kinds) for i in range(3)),
            *((f"m{i + 3}", "compared", more) for i in range(3)),
        )
        shares, measured = run(counted)
        table = drivers.drivers(measured, shares, settings.drivers).set_index("cell_type")
        whole = gini([50, 50, 1]) - gini([50, 50])
        assert table["gini_contribution"].sum() == pytest.approx(whole, abs=1e-14)
        # Over three types all along the Gini falls as the third appears; their number raises it.
        assert table.loc[NUMBER_OF_TYPES, "gini_contribution"] == pytest.approx(1 / 3)
        assert table.loc["c", "gini_contribution"] < 0

    def test_log_ratio_changes_are_relative(self, run, settings):
        young, old = {"a": 100, "b": 100, "c": 100}, {"a": 400, "b": 100, "c": 100}
        counted = cells(
            *((f"m{i}", "reference", young) for i in range(3)),
            *((f"m{i + 3}", "compared", old) for i in range(3)),
        )
        shares, measured = run(counted)
        table = drivers.drivers(measured, shares, settings.drivers).set_index("cell_type")
        rise = math.log(400.5 / 100.5)
        assert table.loc["a", "clr_change"] == pytest.approx(rise * 2 / 3)
        assert table.loc["b", "clr_change"] == pytest.approx(-rise / 3)


class TestRecovery:
    def test_truth_inside_and_outside(self, run, settings):
        _, measured = run(random_cells(np.random.default_rng(1)))
        aged, _ = contrast.contrast(measured, settings.contrast)
        row = aged[(aged["metric"] == "gini") & (aged["cells"] == "all")].iloc[0]
        for value, covered in ((row.change, True), (row.change_high + 0.01, False)):
            truth = pd.DataFrame(
                [["tms", "facs", "Kidney", "gini", value, value]],
                columns=list(TRUTH.columns),
            )
            assert recovery(truth, aged)["covered"].tolist() == [covered]

    def test_real_inputs_have_no_truth(self, run, settings):
        _, measured = run(random_cells(np.random.default_rng(1)))
        aged, _ = contrast.contrast(measured, settings.contrast)
        assert recovery(tables.empty(TRUTH), aged).empty


def test_an_atlas_of_another_study_is_compared_on_its_own_platforms(settings):
    file = next(iter(settings.atlas.cells.values()))
    files = {
        f"{cohort}-{platform}": file.model_copy(update={"cohort": cohort, "platform": platform})
        for cohort, platform in (("a", "x"), ("b", "x"), ("b", "y"), ("b", "z"))
    }
    other = settings.atlas.model_copy(update={"cells": files})
    found = concordance.of_atlas(settings.model_copy(update={"atlas": other})).concordance
    assert (found.cohort, found.platforms) == ("b", ["x", "y"])
    assert concordance.of_atlas(settings).concordance == settings.concordance


class TestTables:
    def test_numbers_survive_to_the_last_digit_and_nan_is_a_name(self, tmp_path):
        counted = cells(("nan", "reference", {"NA": 50}))
        counted["age_months"] = 0.1 + 0.2
        path = tmp_path / "counts.csv"
        tables.write(counted, COUNTS, path)
        again = tables.read(path, COUNTS)
        assert again["age_months"].iloc[0] == 0.1 + 0.2
        assert (again["animal"].iloc[0], again["cell_type"].iloc[0]) == ("nan", "NA")

    @pytest.mark.parametrize("nullable", [True, False])
    @pytest.mark.parametrize(
        "values",
        [["a", "nan"], ["a", None], [None, np.nan], [1, "a"], [1.5, 2.0], [True, None], []],
    )
    def test_text_is_what_pandera_makes_of_it(self, values, nullable):
        found = []
        for column in (text(nullable=nullable), pa.Column(str, nullable=nullable, coerce=True)):
            for values_of in (values, pd.Categorical(values)):
                given = pd.DataFrame({"x": pd.Series(values_of, dtype=None if values else object)})
                try:
                    made = schema("some", {"x": column}, ["x"]).validate(given)["x"]
                    found.append((str(made.dtype), made.where(made.notna(), None).tolist()))
                except SchemaError as error:
                    found.append((error.reason_code, error.failure_cases["failure_case"].tolist()))
        assert str(found[:2]) == str(found[2:])

    @pytest.mark.parametrize(
        ("column", "value", "said"),
        [
            ("n_cells", -3, "column n_cells, value -3"),
            ("n_cells", None, "n_cells"),
            ("group", "ancient", "column group, value 'ancient'"),
            ("age_months", -1.0, "age_months"),
        ],
    )
    def test_negative_missing_and_unknown_values_are_named(self, column, value, said, tmp_path):
        counted = cells(("f1", "reference", {"a": 50}))
        counted[column] = [value]
        path = tmp_path / "counts.csv"
        with pytest.raises(TableError, match=said):
            tables.write(counted, COUNTS, path)
        assert not path.exists()

    @pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "not a table"])
    def test_a_file_that_is_no_such_table_is_named(self, text, tmp_path):
        path = tmp_path / "counts.csv"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(TableError, match=r"counts\.csv"):
            tables.read(path, COUNTS)

    def test_a_missing_table_says_how_to_make_it(self, tmp_path):
        with pytest.raises(TableError, match=r"does not exist\. Run the stage that writes it"):
            tables.read(tmp_path / "counts.csv", COUNTS)


class TestCommandLine:
    def test_a_bad_table_ends_with_one_line_and_no_output(self, params, tmp_path, caplog):
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(copy.deepcopy(params)))
        (tmp_path / "metrics.csv").write_text("cohort,platform\ntms,facs\n", encoding="utf-8")
        out = tmp_path / "contrast.csv"
        words = ["--params", str(tmp_path / "params.yaml")]
        words += ["--metrics", str(tmp_path / "metrics.csv")]
        words += ["--out", str(out), "--not-compared", str(tmp_path / "not.csv")]
        assert contrast.main(words) == 1
        assert "metrics.csv" in caplog.text
        assert "Traceback" not in caplog.text
        assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "params.yaml"]
