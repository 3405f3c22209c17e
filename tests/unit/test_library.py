"""The library face: the numbers of the stages, on tables and ``AnnData``, documented by a page."""

import doctest
import re
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse, stats

import clonal
from stages.cells import contrast, metrics, proportions
from stages.inputs import cells
from stages.inputs.obs import read_obs
from stages.inputs.settings import CellsFile
from stages.measurement import concentration, effects, measured
from stages.measurement.metrics import OF_EFFECTS
from stages.measurement.settings import Measured, System

TYPES = np.array(["B", "T", "M", "stem"])
COLUMNS = {"sample": "mouse", "cell_type": "type"}


def table_of_cells(n_mice=8, n_cells=200, seed=0) -> pd.DataFrame:
    """Return cells of mice, half of them old and less even, with text as categories."""
    rng = np.random.default_rng(seed)
    parts = []
    for mouse in range(n_mice):
        old = mouse >= n_mice // 2
        shares = rng.dirichlet([60, 10, 9, 1] if old else [30, 20, 18, 12])
        parts.append(
            pd.DataFrame(
                {
                    "mouse": f"m{mouse}",
                    "age": "24m" if old else "3m",
                    "sex": "female" if mouse % 2 else "male",
                    "weight": 20.0 + mouse,
                    "type": rng.choice(TYPES, size=n_cells + 10 * mouse, p=shares),
                }
            )
        )
    obs = pd.concat(parts, ignore_index=True).rename(index=str)
    return obs.astype(dict.fromkeys(["mouse", "age", "sex", "type"], "category"))


def as_anndata(obs) -> ad.AnnData:
    return ad.AnnData(sparse.csr_matrix((len(obs), 2), dtype=np.float32), obs=obs.copy())


def composition(given, **more):
    return clonal.tl.composition(given, **COLUMNS | {"covariates": ["age", "sex"]} | more)


def compare(given, **more):
    words = {"group": "age", "reference": "3m", "compared": "24m", "block": "sex"}
    return clonal.tl.compare(given, **words | more)


@pytest.fixture(scope="module")
def obs():
    return table_of_cells()


@pytest.fixture(scope="module")
def samples(obs):
    return composition(obs)


# Samples


def test_every_number_of_all_cells_is_that_of_the_counts(obs, samples):
    counts = pd.crosstab(obs["mouse"], obs["type"])
    found = samples[samples["cells"] == "all"].set_index("sample")
    assert found.index.tolist() == counts.index.tolist()
    for name, row in counts.iterrows():
        weights = row[row > 0].to_numpy()
        one = found.loc[name]
        assert one["n_cells"] == weights.sum()
        assert one["gini"] == concentration.gini(weights)
        assert one["gini_corrected"] == concentration.gini_corrected(weights)
        number = concentration.effective_number(weights, estimator="chao_shen")
        assert one["effective_number_chao_shen"] == number
        assert one["hill_2"] == pytest.approx(1 / ((weights / weights.sum()) ** 2).sum())


def test_equal_cells_are_those_of_the_smallest_sample(obs, samples):
    """The mean richness of draws without replacement is known exactly (Hurlbert 1971)."""
    counts = pd.crosstab(obs["mouse"], obs["type"])
    few = composition(obs, min_cells=1, draws=4000, seed=1)
    few = few[few["cells"] == "rarefied"].set_index("sample")
    depth = counts.sum(axis=1).min()
    assert set(few["n_cells"]) == {depth} == {200}
    n = counts.sum(axis=1).to_numpy()[:, np.newaxis]
    expected = stats.hypergeom.sf(0, n, counts, depth).sum(axis=1)
    # Of 4,000 draws; observed 0.0024.
    assert few["richness"].to_numpy() == pytest.approx(expected, abs=0.02)
    assert not samples.equals(composition(obs, seed=1))
    pd.testing.assert_frame_equal(samples, composition(obs))


def test_all_types_of_the_tissue_may_be_components():
    obs = pd.DataFrame({"mouse": list("aaabbb"), "type": list("xxyxyz"), "organ": list("kkklll")})
    given = COLUMNS | {"min_cells": 1}
    ginis = {}
    for components in ("present", "all"):
        table = clonal.tl.composition(obs, components=components, **given)
        ginis[components] = table.loc[table["cells"] == "all", "gini"].tolist()
    assert ginis["present"] == pytest.approx([1 / 6, 0])
    assert ginis["all"] == pytest.approx([concentration.gini([2, 1, 0]), 0])
    # Each tissue has types of its own.
    by_tissue = clonal.tl.composition(obs, tissue="organ", components="all", **given)
    assert (
        by_tissue[["tissue", "sample"]].to_numpy().tolist() == [["k", "a"]] * 2 + [["l", "b"]] * 2
    )
    assert by_tissue["gini"].tolist() == pytest.approx([1 / 6, 1 / 6, 0, 0])


def test_text_and_categories_are_measured_alike(obs, samples):
    text = obs.astype(dict.fromkeys(["mouse", "type"], object))
    pd.testing.assert_frame_equal(composition(text), samples)
    kept = obs[obs["mouse"] != "m0"]
    assert "m0" in kept["mouse"].cat.categories
    assert set(composition(kept)["sample"]) == set(samples["sample"]) - {"m0"}
    shuffled = obs.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(composition(shuffled), samples)


def test_what_is_left_out_is_said_once(obs):
    few = obs.astype(dict.fromkeys(["mouse", "type"], object)).copy()
    few.iloc[:3, few.columns.get_loc("type")] = [None, "nan", " "]
    few.iloc[3, few.columns.get_loc("mouse")] = None
    few.loc[few["mouse"] == "m2", "mouse"] = "m2/m3"
    few = pd.concat([few, few[few["mouse"] == "m4"].head(9).assign(mouse="m9")])
    message = (
        r"^left out: 1 cells of 1 samples \(the animal is not stated\); "
        r"3 cells of 1 samples \(cells without a cell type\); "
        r"220 cells of 1 samples \(the label matches /: several animals in one library\); "
        r"9 cells of 1 samples \(fewer than 50 annotated cells\)$"
    )
    with pytest.warns(UserWarning, match=message) as said:
        found = composition(few, pooled_pattern="/")
    assert len(said) == 1
    assert said[0].filename == __file__
    assert set(found["sample"]) == {"m0", "m1", "m3", "m4", "m5", "m6", "m7"}


# Groups


def test_ranks_are_those_of_another_implementation(samples):
    found = compare(samples)
    assert "within_block_p" in found
    n_checked = 0
    for row in found.itertuples():
        of = samples[samples["cells"] == row.cells].groupby("age", observed=True)[row.metric]
        young, old = of.get_group("3m"), of.get_group("24m")
        assert row.change == pytest.approx(old.median() - young.median())
        if row.metric == "richness":  # ties, for which scipy has no exact test
            continue
        other = stats.mannwhitneyu(old, young, method="exact")
        assert (row.rank_statistic, row.rank_p) == pytest.approx((other.statistic, other.pvalue))
        n_checked += 1
    assert n_checked == 10
    assert set(found["quadrant"]) == {"crystallize"}


def test_blocks_of_one_sample_of_each_group_are_pairs(samples):
    pairs = samples.assign(donor=[f"d{i % 4}" for i in range(len(samples))])
    found = compare(pairs, pair="donor", block=None)
    assert found["paired"].all()
    n_checked = 0
    for row in found[found["metric"].isin(["gini", "effective_number"])].itertuples():
        of = pairs[pairs["cells"] == row.cells].set_index("donor")
        young, old = (of.loc[of["age"] == age, row.metric] for age in ("3m", "24m"))
        assert row.change == pytest.approx((old - young).median())
        assert row.rank_p == pytest.approx(stats.wilcoxon(old - young, method="exact").pvalue)
        n_checked += 1
    assert n_checked == 4


def test_directions_turn_with_the_reference(samples):
    forth, back = compare(samples), compare(samples, reference="24m", compared="3m")
    assert back["change"].to_numpy() == pytest.approx(-forth["change"].to_numpy())
    assert set(back["quadrant"]) == {"disperse"}
    assert (back["reference"] + back["compared"]).unique().tolist() == ["24m3m"]


def test_tissues_are_compared_each_and_adjusted_over_all(obs):
    two = pd.concat([obs.assign(organ="kidney"), table_of_cells(seed=1).assign(organ="lung")])
    few = obs[obs["mouse"].isin(["m0", "m1", "m7"])].assign(organ="skin")
    table = composition(pd.concat([two, few]), tissue="organ")
    message = "^1 of 3 tissues are not compared: skin has 2 and 1, needs 2 animals in each group$"
    with pytest.warns(UserWarning, match=message):
        found = compare(table)
    assert set(found["tissue"]) == {"kidney", "lung"}
    gini = found[(found["metric"] == "gini") & (found["cells"] == "all")].set_index("tissue")
    assert gini["rank_q"].to_numpy() == pytest.approx(stats.false_discovery_control(gini["rank_p"]))
    # Of the kidney alone there is nothing to adjust; the rest is the same.
    alone = compare(composition(obs))
    assert "rank_q" not in alone
    kidney = found[found["tissue"] == "kidney"].drop(columns=["tissue", "rank_q"])
    whole = [name for name in alone if name not in ("change_low", "change_high")]
    both = [one[one["cells"] == "all"].reset_index(drop=True)[whole] for one in (kidney, alone)]
    pd.testing.assert_frame_equal(*both)


def test_intervals_and_permutations_are_as_asked_for(samples):
    wide, narrow = compare(samples), compare(samples, confidence=0.6)
    for ends in ("change", "shift"):
        width = [(one[f"{ends}_high"] - one[f"{ends}_low"]).sum() for one in (wide, narrow)]
        assert width[0] > width[1] > 0
    assert wide["within_block_exact"].all()
    drawn = [compare(samples, max_permutations=20, seed=seed) for seed in (0, 0, 1)]
    assert not drawn[0]["within_block_exact"].any()
    pd.testing.assert_frame_equal(drawn[0], drawn[1])
    assert not drawn[0]["within_block_p"].equals(drawn[2]["within_block_p"])


def test_the_marrow_of_the_study_comes_out_as_by_its_stages(marrow_cells, repository, settings):
    local = yaml.safe_load((repository / "conf" / "atlas" / "local.yaml").read_text("utf-8"))
    spec = CellsFile.model_validate(local["cells"]["mine"] | {"raw": str(marrow_cells)})
    read = read_obs(marrow_cells, cells.wanted_columns(spec))
    counted = cells.count(read, spec, name="mine", atlas="local")
    shares, _ = proportions.proportions(counted, settings.proportions)
    # Random draws hang on these names.
    by_stage = metrics.metrics(shares.assign(cohort="", platform=""), settings.metrics)
    aged, _ = contrast.contrast(by_stage, settings.contrast)

    adata = as_anndata(read.rename(index=str).astype("category"))
    with pytest.warns(UserWarning, match=r"of 1 samples \(the label matches \[/\|\+\]"):
        clonal.tl.composition(
            adata,
            sample="mouse.id",
            cell_type="cell_ontology_class",
            tissue="tissue",
            covariates=["age", "sex"],
            min_cells=settings.proportions.min_cells,
            pooled_pattern=settings.proportions.pooled_pattern,
            draws=settings.metrics.rarefaction.draws,
            seed=settings.metrics.rarefaction.seed,
        )
    ours = adata.uns["clonal"]["composition"]
    same = ["cells", "n_cells", *by_stage.columns[by_stage.columns.get_loc("n_cells") + 1 :]]
    pd.testing.assert_frame_equal(ours[same], by_stage[same])

    compare(adata, seed=settings.contrast.seed, max_permutations=settings.contrast.max_permutations)
    found = adata.uns["clonal"]["compare"]
    gini, number = (
        found[(found["cells"] == "all") & (found["metric"] == name)].iloc[0]
        for name in ("gini", "effective_number")
    )
    assert (gini["n_reference"], gini["n_compared"]) == (5, 4)
    # Published +0.088 and -2.19, from the same cells.
    assert gini["change"] == pytest.approx(0.0875, abs=5e-5)
    assert number["change"] == pytest.approx(-2.186, abs=5e-4)
    assert gini["quadrant"] == "crystallize"
    theirs = aged.drop(columns=["cohort", "platform"])
    ours = found.drop(columns=["reference", "compared"])
    assert len(theirs.columns) == len(ours.columns)
    assert theirs.to_numpy().tolist() == ours.to_numpy().tolist()


# Effects


@pytest.fixture(scope="module")
def states():
    rng = np.random.default_rng(3)
    return {
        name: pd.DataFrame(rng.normal(size=(12, 7)) + power, columns=list("abcdefg"))
        for name, power in (("first", np.ones(7)), ("last", np.arange(7.0)))
    }


def test_effects_are_measured_by_the_stage(states):
    exposure = np.arange(1.0, 8.0)
    values, changes = clonal.tl.measured(
        states, exposure=exposure, confidence=0.8, draws=100, seed=5
    )
    parts = [
        effects.Effects(
            effects.State("box", name, float(position), "nats", "size"),
            "component",
            "",
            pd.DataFrame({"size": exposure}, index=table.columns),
            np.arange(12),
            table.to_numpy()[np.newaxis],
        )
        for position, (name, table) in enumerate(states.items())
    ]
    by_stage = measured.measured(
        parts,
        System(room="heads", group="", effects="effects", states=list(states)),
        OF_EFFECTS,
        Measured(confidence=0.8, draws=100, seed=5),
    )
    for ours, theirs in zip((values, changes), by_stage, strict=False):
        assert len(ours.columns) > 12
        pd.testing.assert_frame_equal(ours, theirs[list(ours.columns)])
    ginis = [concentration.gini(table.mean().abs()) for table in states.values()]
    gini = changes.set_index("metric").loc["gini"]
    assert gini["change"] == pytest.approx(ginis[1] - ginis[0])


def test_layers_of_an_anndata_are_states(states):
    layers = {name: sparse.csr_matrix(table) for name, table in states.items()}
    adata = ad.AnnData(states["last"].to_numpy(), layers=layers)
    assert clonal.tl.measured(adata, layers=["first", "last"], draws=50) is None
    found = adata.uns["clonal"]["measured"]
    values, changes = clonal.tl.measured(states, draws=50)
    pd.testing.assert_frame_equal(found["values"], values)
    pd.testing.assert_frame_equal(found["changes"], changes)
    alone, none = clonal.tl.measured(adata, draws=50, copy=True)
    assert (set(alone["state"]), len(none)) == ({"X"}, 0)
    # Each state is measured by itself: only its name moves the random digits.
    last = values[values["state"] == "last"].set_index("metric")
    assert alone.set_index("metric")["value"].equals(last["value"])


def test_one_table_is_one_state(states):
    values, changes = clonal.tl.measured(states["last"], metrics=["gini"], draws=50)
    assert values["value"].tolist() == [concentration.gini(states["last"].mean().abs())]
    assert changes.empty
    assert "exposure_alone" not in values


# AnnData


def test_results_lie_in_uns_and_nothing_else_changes(obs, samples):
    adata, before = as_anndata(obs), as_anndata(obs)
    adata.uns["neighbors"] = {"params": 1}
    assert composition(adata) is None
    assert compare(adata, key_added="ages") is None
    assert set(adata.uns) == {"neighbors", "clonal"}
    assert set(adata.uns["clonal"]) == {"composition", "ages"}
    pd.testing.assert_frame_equal(adata.uns["clonal"]["composition"], samples)
    pd.testing.assert_frame_equal(adata.uns["clonal"]["ages"], compare(samples))
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert (adata.X != before.X).nnz == 0

    pd.testing.assert_frame_equal(composition(before, copy=True), samples)
    assert not before.uns
    given = obs.copy()
    composition(given)
    pd.testing.assert_frame_equal(given, obs)


def test_results_survive_a_file(obs, states, tmp_path):
    some = obs.assign(batch=np.where(obs["mouse"] == "m0", None, "b1"))
    adata = as_anndata(some)
    adata.layers.update({name: np.full(adata.shape, i + 1.0) for i, name in enumerate(states)})
    composition(adata, covariates=["age", "sex", "weight", "batch"])
    compare(adata)
    clonal.tl.measured(adata, layers=list(states), draws=20)
    adata.write_h5ad(tmp_path / "measured.h5ad")
    read = ad.read_h5ad(tmp_path / "measured.h5ad")
    kept, found = adata.uns["clonal"], read.uns["clonal"]
    for name in ("composition", "compare"):
        pd.testing.assert_frame_equal(found[name], kept[name])
    for name in ("values", "changes"):
        pd.testing.assert_frame_equal(found["measured"][name], kept["measured"][name])
    again = compare(read, copy=True)
    pd.testing.assert_frame_equal(again, kept["compare"])


def test_a_part_of_an_anndata_is_measured(obs, samples):
    part = as_anndata(obs)[(obs["mouse"] != "m0").to_numpy()]
    with pytest.warns(ad.ImplicitModificationWarning):
        composition(part)
    assert set(part.uns["clonal"]["composition"]["sample"]) == set(samples["sample"]) - {"m0"}


# What is not allowed

BAD = {
    "a column": (
        lambda obs: composition(obs, sample="donor"),
        "column 'donor' is not in the table of cells. Its columns are: mouse, age, sex, weight",
    ),
    "no sample": (
        lambda obs: composition(obs, min_cells=10_000),
        "no sample in column mouse has 10000 cells: of 1880 cells 1880 have a type in column type.",
    ),
    "no cells": (lambda obs: composition(obs.iloc[:0]), "no sample in column mouse has 50 cells"),
    "min_cells": (lambda obs: composition(obs, min_cells=0), "min_cells 0 is not allowed: input"),
    "draws": (lambda obs: composition(obs, draws=0), "draws 0 is not allowed: input should be"),
    "pattern": (
        lambda obs: composition(obs, pooled_pattern="("),
        "pooled_pattern '(' is not allowed: '(' is not a regular expression",
    ),
    "components": (
        lambda obs: composition(obs, components="tissue"),
        "components 'tissue' is unknown: allowed are present, all",
    ),
    "two values": (
        lambda obs: composition(obs.assign(sex=["x"] + ["y"] * (len(obs) - 1))),
        "sample 'm0' has more than one sex: 'x', 'y'. Correct the table",
    ),
    "a name that is taken": (
        lambda obs: composition(obs.assign(gini=1), covariates=["gini"]),
        "covariate 'gini' has the name of a column of the result; rename it",
    ),
    "no tissue": (
        lambda obs: composition(obs.assign(organ=None), tissue="organ"),
        "1880 of 1880 cells have no tissue in column organ",
    ),
    "not measured": (
        lambda obs: compare(as_anndata(obs)),
        "adata.uns['clonal'] has no 'composition': call clonal.tl.composition first",
    ),
    "a covariate": (
        lambda obs: compare(composition(obs), block="batch"),
        "column 'batch' is not in the table of samples; name covariates in composition. Its",
    ),
    "a group": (
        lambda obs: compare(composition(obs), compared="18m"),
        "no sample has '18m' in column age; values there are: '3m', '24m'",
    ),
    "one group": (
        lambda obs: compare(composition(obs), compared="3m"),
        "reference and compared are both '3m': give two values of age",
    ),
    "few samples": (
        lambda obs: compare(composition(obs[obs["mouse"].isin(["m0", "m1", "m7"])])),
        "1 of 1 tissues are not compared: has 2 and 1, needs 2 animals in each group",
    ),
    "a sample twice": (
        lambda obs: compare(pd.concat([composition(obs)] * 2)),
        "sample 'm0' occurs twice in the table of samples; each may occur once",
    ),
    "a pair of three": (
        lambda obs: compare(composition(obs), pair="sex"),
        "sex 'male' has two samples of one group; a pair has one of each. Name it as block",
    ),
    "no pair": (
        lambda obs: compare(composition(obs).assign(donor=None), pair="donor"),
        "sample 'm0' has no donor: every sample of either group needs one for pairs",
    ),
    "a metric": (
        lambda obs: compare(composition(obs), metrics=["gini", "effective_number", "simpson"]),
        "metrics.2 'simpson' is not allowed: input should be 'gini', ",
    ),
    "no plane": (
        lambda obs: compare(composition(obs), metrics=["gini"]),
        "metrics ['gini'] is not allowed: ['effective_number'] missing: the quadrant needs",
    ),
    "confidence": (
        lambda obs: compare(composition(obs), confidence=95),
        "confidence 95 is not allowed: input should be less than 1",
    ),
    "no states": (lambda _: clonal.tl.measured({}), "effects hold no state: give at least one"),
    "a name of a state": (
        lambda _: clonal.tl.measured({"a state": np.ones((3, 4))}),
        "states.0 'a state' is not allowed: string should match pattern",
    ),
    "text": (
        lambda _: clonal.tl.measured({"a": [["x"]]}),
        "the effects of a are no table of numbers (could not convert string to float: 'x')",
    ),
    "nan": (
        lambda _: clonal.tl.measured({"a": [[np.nan, 1.0]]}),
        "the effects of a hold nan: at least one is needed, and only finite ones",
    ),
    "nothing": (
        lambda _: clonal.tl.measured({"a": np.ones((0, 3))}),
        "the effects of a have the shape (0, 3): at least one is needed",
    ),
    "other components": (
        lambda _: clonal.tl.measured({"a": np.ones((3, 4)), "b": np.ones((3, 5))}),
        "the effects of b, of shape (3, 5), have other replicates or components than those of a",
    ),
    "an exposure": (
        lambda _: clonal.tl.measured({"a": np.ones((3, 4))}, exposure=[1, 2]),
        "exposure of shape (2,) is not allowed: give a number of at least 0 for each of the 4",
    ),
    "a metric of effects": (
        lambda _: clonal.tl.measured({"a": np.ones((3, 4))}, metrics=["simpson"]),
        "metric 'simpson' is unknown: allowed are gini, gini_corrected",
    ),
    "a layer": (
        lambda obs: clonal.tl.measured(as_anndata(obs), layers=["counts"]),
        "layer 'counts' is not in the AnnData; its layers are: (none)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_allowed_is_one_line(name, obs):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}") as error:
        call(obs)
    assert "\n" not in str(error.value)


def test_what_fails_leaves_uns_as_it_was(obs):
    adata = as_anndata(obs)
    with pytest.raises(ValueError, match="has more than one weight"):
        composition(adata, sample="sex", covariates=["weight"])
    assert not adata.uns


@pytest.mark.parametrize("call", [composition, compare, clonal.tl.measured])
def test_something_else_is_no_table(call):
    with pytest.raises(TypeError, match=r"^a ndarray is no table: give an AnnData or a DataFrame$"):
        call(np.ones((2, 2)))


# The package


def test_an_import_is_light():
    heavy = ("torch", "transformers", "scanpy", "anndata", "hydra", "dvc", "matplotlib")
    code = f"import sys, clonal; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_no_stage_knows_of_it(repository):
    texts = [path.read_text(encoding="utf-8") for path in (repository / "stages").rglob("*.py")]
    assert any(re.search(r"^from stages\b", text, re.MULTILINE) for text in texts)
    assert not any(re.search(r"^\s*(from|import) clonal\b", text, re.MULTILINE) for text in texts)


def test_the_page_is_true_word_for_word(repository):
    page = (repository / "docs" / "library.md").read_text(encoding="utf-8")
    code = "".join(re.findall(r"^```pycon\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL))
    test = doctest.DocTestParser().get_doctest(code, {}, "library.md", "docs/library.md", 0)
    assert len(test.examples) > 20
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.REPORT_UDIFF)
    runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
