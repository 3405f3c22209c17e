"""The simulated cohorts: known truth as planned, true layouts, and the same bytes every time."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.io
import yaml
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from stages.base import tables
from stages.base.errors import AtlasError
from stages.base.files import file_hash
from stages.cells import truth
from stages.cells.settings import Proportions
from stages.cells.tables.clusters import ALL_TYPES
from stages.cells.tables.truth import PLANTED, TRUTH
from stages.inputs import cells
from stages.inputs.demo import __main__ as demo
from stages.inputs.demo import expression, layouts, legacy, model
from stages.inputs.obs import read_obs
from stages.inputs.settings import DemoAtlas
from stages.measurement.concentration import effective_number, gini

ROOT = Path(__file__).parents[2]
POOLED = ROOT.parent / "shared" / "reference" / "tms_pooled_composition.csv"
RULES = Proportions(min_cells=50, pooled_pattern="[/|+]")
CRYSTALLIZE = {"Marrow", "Kidney", "Limb_Muscle"}
DISPERSE = {"Lung", "Spleen"}
COHORTS = [("tms", "facs"), ("tms", "droplet"), ("kimmel", "droplet"), ("rat", "droplet")]


def atlas_at(folder: Path) -> DemoAtlas:
    """Return the demo atlas with its files in another folder."""
    content = yaml.safe_load((ROOT / "conf" / "atlas" / "demo.yaml").read_text(encoding="utf-8"))
    moved = [(content["acquire"], "out"), (content["cells"], "raw"), (content["graphs"], "raw")]
    for entries, key in moved:
        for entry in entries.values():
            entry[key] = str(folder / Path(entry[key]).name)
    return DemoAtlas.model_validate(content)


@pytest.fixture(scope="session")
def atlas(tmp_path_factory) -> DemoAtlas:
    """Every demo file, simulated once at its true size (about 10 s in all)."""
    made = atlas_at(tmp_path_factory.mktemp("demo"))
    for name, spec in made.acquire.items():
        demo.simulate(name, spec, seed=made.seed)
    return made


@pytest.fixture(scope="session")
def counts(atlas) -> dict[str, pd.DataFrame]:
    return {
        name: cells.count(
            read_obs(spec.raw, cells.wanted_columns(spec)), spec, name=name, atlas="demo"
        )
        for name, spec in atlas.cells.items()
        if spec.evidence == "simulated"
    }


# --- the tables that hold the truth -------------------------------------------------------------


def test_compositions_sum_to_one_and_state_their_source():
    table = model.composition_table()
    assert table["source"].str.contains("TMS pooled counts|chosen").all()
    sums = table.groupby(["cohort", "platform", "tissue"])[["young_mean", "old_mean"]].sum()
    # Observed: at most 0.00002 from 1, since shares are rounded to five digits.
    assert np.abs(sums - 1).to_numpy().max() < 1e-4
    assert len(sums) == 14
    assert not table.duplicated(["cohort", "platform", "tissue", "cell_type"]).any()


def test_shares_called_pooled_are_the_published_ones():
    if not POOLED.exists():
        pytest.skip(f"{POOLED} is not on this computer")
    pooled = pd.read_csv(POOLED)
    table = model.composition_table()
    n_checked = 0
    for column, word in (("young_mean", "young"), ("old_mean", "old")):
        stated = table["source"].str.extract(
            rf"{word}: TMS pooled counts, (facs|droplet) (\d+m)(?:;|$| \()"
        )
        for row in table[stated[0].notna()].index:
            platform, age = stated.loc[row]
            entry = table.loc[row]
            there = pooled[
                (pooled["platform"] == platform)
                & (pooled["age"] == age)
                & (pooled["tissue"] == entry["tissue"])
            ]
            n = there.loc[there["cell_ontology_class"] == entry["cell_type"], "n_cells"].sum()
            # Rare types are left out: at most 2 percent of the cells of a tissue.
            assert entry[column] == pytest.approx(n / there["n_cells"].sum(), rel=0.02, abs=1e-5)
            n_checked += 1
    assert n_checked > 100


@pytest.mark.parametrize(("cohort", "platform"), COHORTS)
def test_planted_signs_of_the_mean_compositions(cohort, platform):
    found = model.compositions(model.cohort(cohort, platform))
    assert found
    for tissue, composition in found.items():
        d_gini = gini(composition.old) - gini(composition.young)
        d_number = effective_number(composition.old) - effective_number(composition.young)
        sign = 1 if tissue in CRYSTALLIZE else -1
        assert tissue in CRYSTALLIZE | DISPERSE
        assert sign * d_gini > 0.04, tissue
        assert sign * d_number < -0.4, tissue


@pytest.mark.parametrize(("cohort", "platform"), COHORTS[:3])
def test_kidney_disperses_at_the_substate_level(cohort, platform):
    kidney = model.compositions(model.cohort(cohort, platform))["Kidney"]
    fine = []
    for which, shares in enumerate((kidney.young, kidney.old)):
        parts = [model.substates("Kidney", name)[which] for name in kidney.cell_types]
        fine.append(
            np.concatenate([share * part for share, part in zip(shares, parts, strict=True)])
        )
    assert gini(fine[1]) < gini(fine[0]) - 0.05
    assert effective_number(fine[1]) > effective_number(fine[0]) + 5


@pytest.mark.parametrize(
    ("tissue", "cell_type", "sign"),
    [
        ("Kidney", "podocyte", 1),
        ("Kidney", "macrophage", -1),
        ("Lung", "NK cell", -1),
        ("Spleen", "B cell", -1),
        ("Spleen", "T cell", 1),
    ],
)
def test_planted_signs_within_types(tissue, cell_type, sign):
    young, old = model.substates(tissue, cell_type)
    assert young.sum() == pytest.approx(1)
    assert old.sum() == pytest.approx(1)
    assert sign * (gini(old) - gini(young)) > 0.1
    assert sign * (effective_number(old) - effective_number(young)) < 0


def test_substates_of_types_without_rows_do_not_change():
    young, old = model.substates("Limb_Muscle", "B cell")
    assert young.tolist() == old.tolist() == [0.6, 0.25, 0.15]


def test_drift_is_linear_between_the_ages_and_rescued_in_part():
    droplet = {a.age: a.drift for a in model.animals(model.cohort("tms", "droplet"))}
    assert droplet["1m"] == droplet["3m"] == 0
    assert droplet["24m"] == droplet["30m"] == 1
    assert droplet["18m"] == pytest.approx(15 / 21)
    rat = {a.animal: a.drift for a in model.animals(model.cohort("rat", "droplet"))}
    assert rat["BM-F-CR"] == pytest.approx(0.4)
    assert rat["BM-F-O"] == 1
    assert list(rat) == ["BM-M-Y", "BM-M-O", "BM-M-CR", "BM-F-Y", "BM-F-O", "BM-F-CR"]


def test_enough_unpooled_animals_of_every_age():
    for platform in ("facs", "droplet"):
        animals = model.animals(model.cohort("tms", platform))
        unpooled = pd.Series([a.age for a in animals if "/" not in a.animal]).value_counts()
        assert unpooled.min() >= 4
    sexes = {(a.age, a.sex) for a in model.animals(model.cohort("tms", "facs"))}
    assert ("24m", "female") not in sexes
    assert {("3m", "female"), ("3m", "male"), ("24m", "male")} <= sexes


def test_draws_have_the_moments_of_the_dirichlet_multinomial():
    of = model.cohort("tms", "facs")
    composition = model.compositions(of)["Limb_Muscle"]
    n, animals = 200, 40_000
    drawn = model.draw_counts(
        of, composition, np.zeros(animals), np.full(animals, n), np.random.default_rng(1)
    )
    p = composition.young
    inflation = (n + of.concentration) / (1 + of.concentration)
    assert (drawn.sum(axis=1) == n).all()
    # Observed: 0.5 percent off in the means, 1.4 percent in the variances.
    np.testing.assert_allclose(drawn.mean(axis=0), n * p, rtol=0.02)
    np.testing.assert_allclose(drawn.var(axis=0), n * p * (1 - p) * inflation, rtol=0.05)


# --- determinism --------------------------------------------------------------------------------


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): file_hash(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


AGAIN = """
import sys
from pathlib import Path
import yaml
from stages.inputs.demo.__main__ import simulate
from stages.inputs.settings import SimulatedFile
out = Path(sys.argv[1])
atlas = yaml.safe_load(Path("conf/atlas/demo.yaml").read_text(encoding="utf-8"))
for name in reversed(atlas["acquire"]):
    entry = atlas["acquire"][name]
    spec = SimulatedFile(**entry | {"out": out / Path(entry["out"]).name})
    simulate(name, spec, seed=atlas["seed"])
"""


def test_another_process_in_another_order_gives_the_same_bytes(atlas, tmp_path):
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", AGAIN, str(tmp_path)], check=True, cwd=ROOT, env=environment
    )
    folder = next(iter(atlas.acquire.values())).out.parent
    first, second = digests(folder), digests(tmp_path)
    assert len(first) == 5 + 18
    assert first == second


def test_another_seed_gives_other_bytes(atlas, tmp_path):
    spec = atlas.acquire["kimmel-spleen"]
    other = spec.model_copy(update={"out": tmp_path / "other.h5ad"})
    demo.simulate("kimmel-spleen", other, seed=atlas.seed + 1)
    assert file_hash(other.out) != file_hash(spec.out)


def test_the_demo_stays_small(atlas):
    folder = next(iter(atlas.acquire.values())).out.parent
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    # Observed 34 MB.
    assert size < 40e6


# --- layouts ------------------------------------------------------------------------------------


def test_facs_is_in_the_current_layout(atlas):
    path = atlas.acquire["tms-facs"].out
    with h5py.File(path) as file:
        assert isinstance(file["obs"], h5py.Group)
    data = ad.read_h5ad(path)
    assert list(data.obs.columns) == layouts.FACS_COLUMNS
    assert len(data.obs.columns) == 15
    assert list(data.obs["age"].cat.categories) == ["18m", "24m", "3m"]
    assert set(data.obs["FACS.selection"][data.obs["age"] == "3m"]) == {"nan"}
    label = data.obs["cell_ontology_class"]
    assert label.isna().sum() > 0
    assert (label == "nan").sum() > 0
    assert 0.02 < (label.isna() | (label == "nan")).mean() < 0.04
    check_processed(data)


def test_droplet_is_in_the_legacy_layout_and_decodes_exactly(atlas):
    path = atlas.acquire["tms-droplet"].out
    with h5py.File(path) as file:
        assert isinstance(file["obs"], h5py.Dataset)
        assert isinstance(file["var"], h5py.Dataset)
        assert file["obs"].dtype.names[0] == "index"
        assert file["obs"].dtype["age"].kind == "i"
        assert file["uns/age_categories"].asstr()[()].tolist() == [
            "18m",
            "1m",
            "21m",
            "24m",
            "30m",
            "3m",
        ]
        assert file["X"].attrs["h5sparse_format"] == "csr"
        assert {"raw.X", "raw.var"} <= set(file)
    data = ad.read_h5ad(path)
    assert list(data.obs.columns) == layouts.DROPLET_COLUMNS
    assert {"3-M-5/6", "3-M-8/9", "1-M-62", "30-M-2"} <= set(data.obs["mouse.id"])
    assert 0.02 < (data.obs["cell_ontology_class"] == "nan").mean() < 0.04
    check_processed(data)
    wanted = ["age", "mouse.id", "sex", "tissue", "cell_ontology_class", "cell", "n_counts"]
    found = read_obs(path, wanted)
    pd.testing.assert_frame_equal(found, data.obs[wanted].reset_index(drop=True))


def check_processed(data: ad.AnnData) -> None:
    """X is scaled and sparse, raw.X holds the counts, names are unique, nothing is made up."""
    assert list(data.var.columns) == [
        "n_cells",
        "means",
        "dispersions",
        "dispersions_norm",
        "highly_variable",
    ]
    assert not data.obsm
    raw = data.raw.X
    assert raw.shape == data.shape
    assert raw.shape[1] == 600
    assert np.array_equal(raw.data, np.rint(raw.data))
    np.testing.assert_array_equal(np.asarray(raw.sum(axis=1)).ravel(), data.obs["n_counts"])
    np.testing.assert_array_equal(np.diff(raw.indptr), data.obs["n_genes"])
    assert data.X.dtype == np.float32
    assert data.X.data.min() > 0
    assert data.X.data.max() <= 10
    assert np.array_equal(data.X.indices, raw.indices)
    assert data.obs_names.is_unique
    assert not (data.obs_names == data.obs["cell"]).any()


def test_processed_expression_equals_the_textbook_steps():
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (50, 600)).astype(np.float32))
    x, var = layouts.processed(counts)
    dense = counts.toarray().astype(float)
    logged = np.log1p(1e4 * dense / dense.sum(axis=1, keepdims=True))
    expected = np.minimum(logged / logged.std(axis=0, ddof=1), 10)
    # Rounding to 1/1024 moves a value by at most 1/2048.
    np.testing.assert_allclose(x.toarray(), expected, atol=1 / 2048 + 1e-6)
    np.testing.assert_array_equal(var["n_cells"], (dense > 0).sum(axis=0))


def test_kimmel_holds_counts_and_its_ten_columns(atlas):
    for tissue in ("kidney", "lung", "spleen"):
        data = ad.read_h5ad(atlas.acquire[f"kimmel-{tissue}"].out)
        assert list(data.obs.columns) == layouts.KIMMEL_COLUMNS
        assert data.raw is None
        assert np.array_equal(data.X.data, np.rint(data.X.data))
        assert set(data.obs["age"]) == {"young", "old"}
        groups = data.obs.groupby("animal", observed=True)["age"].first().value_counts()
        assert groups["young"] == 4
        assert groups["old"] == 3
        assert data.obs_names.str.fullmatch(r"[ACGT]{16}-1-\d").all()
        assert data.obs["percent_mito"].between(0, 1).all()
    assert set(data.obs["cell_type"]) == {"B cell", "T cell", "macrophage", "natural killer cell"}


def test_rat_libraries_are_as_the_archive_ships_them(atlas):
    folder = atlas.acquire["rat-marrow"].out
    libraries = sorted({path.name.rsplit("_", 1)[0] for path in folder.iterdir()})
    assert libraries == [
        "GSM4331822_BM-M-Y",
        "GSM4331823_BM-M-O",
        "GSM4331824_BM-M-CR",
        "GSM4331825_BM-F-Y",
        "GSM4331826_BM-F-O",
        "GSM4331827_BM-F-CR",
    ]
    genes = {}
    for library in libraries:
        with gzip.open(folder / f"{library}_matrix.mtx.gz", "rb") as file:
            matrix = scipy.io.mmread(file)
        listed = pd.read_csv(folder / f"{library}_genes.tsv.gz", sep="\t", header=None)
        barcodes = pd.read_csv(folder / f"{library}_barcodes.tsv.gz", header=None)[0]
        assert matrix.shape == (len(listed), len(barcodes))
        assert listed.shape[1] == 2
        assert 600 <= len(barcodes) <= 800
        assert barcodes.is_unique
        assert matrix.dtype.kind == "i"
        assert matrix.sum() > 0
        genes[library] = set(listed[1])
    extra = genes.pop("GSM4331823_BM-M-O")
    assert all(extra - others == {"Pecam1"} for others in genes.values())
    header = (folder / f"{libraries[0]}_genes.tsv.gz").read_bytes()[:10]
    assert header[3:8] == bytes(5), "no name and no time in the gzip header"


def test_the_legacy_writer_agrees_with_anndata_on_any_table(tmp_path):
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical(["b", None, "a"], categories=["b", "a", "never"]),
            "name": ["x", "y", "é"],
            "whole": [1, 2, 3],
            "flag": [True, False, True],
        },
        index=pd.Index(["c1", "c2", "c3"], name="index"),
    )
    var = pd.DataFrame({"n": [1.5, 2.5]}, index=pd.Index(["g1", "g2"], name="index"))
    x = sparse.csr_matrix(np.array([[0, 1.5], [2, 0], [0, 0]], np.float32))
    legacy.write(tmp_path / "a.h5ad", x=x, obs=obs, var=var, raw_x=2 * x, raw_var=var)
    data = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(data.obs, obs)
    pd.testing.assert_frame_equal(data.var, var)
    np.testing.assert_array_equal(data.X.toarray(), x.toarray())
    np.testing.assert_array_equal(data.raw.X.toarray(), 2 * x.toarray())


# --- from files to counts -----------------------------------------------------------------------


def test_counts_hold_the_traps(counts):
    facs, droplet = counts["simulated-facs"], counts["simulated-droplet"]
    for table in (facs, droplet):
        assert set(table["tissue"]) == CRYSTALLIZE | DISPERSE
        assert table["cell_type"].isna().any()
        sizes = table.dropna(subset="cell_type").groupby(["tissue", "animal"])["n_cells"].sum()
        assert (sizes < 50).sum() == 3
        assert sizes.max() <= 900
    assert facs["animal"].nunique() == 15
    assert droplet["animal"].nunique() == 26
    assert droplet["animal"].str.contains("/").any()


def test_simulated_animals_lie_around_their_means(counts):
    table = counts["kimmel-lung"]
    composition = model.compositions(model.cohort("kimmel", "droplet"))["Lung"]
    for group, mean in (("reference", composition.young), ("compared", composition.old)):
        pooled = table[table["group"] == group].groupby("cell_type")["n_cells"].sum()
        share = (pooled / pooled.sum()).reindex(list(composition.cell_types), fill_value=0)
        # Observed: at most 0.032 over three or four animals.
        assert np.abs(share.to_numpy() - mean).max() < 0.08


def test_leiden_finds_the_types_and_then_the_substates(atlas):
    data = ad.read_h5ad(atlas.acquire["kimmel-lung"].out)
    assert data.n_obs < 3000
    sc.pp.normalize_total(data, target_sum=1e4)
    sc.pp.log1p(data)
    sc.pp.pca(data, n_comps=30, random_state=0)
    sc.pp.neighbors(data, random_state=0)
    agreement = {}
    for resolution in (0.1, 1.0):
        sc.tl.leiden(
            data,
            resolution=resolution,
            flavor="igraph",
            n_iterations=2,
            directed=False,
            random_state=0,
        )
        agreement[resolution] = {
            level: adjusted_rand_score(data.obs["leiden"], data.obs[level])
            for level in ("cell_type", "subtype")
        }
    # Observed adjusted Rand index at 0.1: types 0.78, substates 0.78; at 1.0: 0.75 and 0.82. The
    # graph of neighbours is not the same on every machine: hence the room.
    assert agreement[0.1]["cell_type"] > 0.6
    assert agreement[1.0]["subtype"] > 0.6
    assert agreement[1.0]["subtype"] > agreement[0.1]["subtype"]
    assert agreement[1.0]["cell_type"] < agreement[0.1]["cell_type"] + 0.05


# --- truth --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def true_changes(atlas) -> pd.DataFrame:
    return TRUTH.validate(truth.truth(atlas, RULES))


def test_truth_covers_every_tissue_and_has_the_planted_signs(true_changes):
    assert len(true_changes) == 2 * 13
    sign = true_changes["tissue"].isin(CRYSTALLIZE).map({True: 1, False: -1})
    sign = sign * true_changes["metric"].map({"gini": 1, "effective_number": -1})
    for column in ("change_of_mean_composition", "change_of_medians"):
        assert (true_changes[column] * sign > 0).all()
    of_gini = true_changes[true_changes["metric"] == "gini"]["change_of_medians"].abs()
    assert of_gini.between(0.03, 0.12).all()


def test_truth_is_settled_to_its_stated_error(atlas, true_changes):
    fewer = truth.truth(atlas, RULES, n_animals=8_000)
    difference = (fewer["change_of_medians"] - true_changes["change_of_medians"]).abs()
    # Observed 0.002 and 0.025.
    assert difference[fewer["metric"] == "gini"].max() < 0.005
    assert difference[fewer["metric"] == "effective_number"].max() < 0.1


def test_the_simulated_cohorts_show_the_true_signs(counts, true_changes):
    """What the pipeline will find: the difference of the medians, tissue by tissue."""
    n_right = n_all = 0
    for table in counts.values():
        table = table.dropna(subset="cell_type")
        table = table[~table["animal"].str.contains("/")]
        key = ["cohort", "platform", "tissue", "group", "animal"]
        by_sample = table.groupby(key)["n_cells"]
        for metric, function in (("gini", gini), ("effective_number", effective_number)):
            values = by_sample.apply(function)[by_sample.sum() >= RULES.min_cells]
            medians = values.groupby(key[:4]).median().unstack("group")
            change = (medians["compared"] - medians["reference"]).rename("change").reset_index()
            merged = change.merge(true_changes[true_changes["metric"] == metric])
            n_right += int((merged["change"] * merged["change_of_medians"] > 0).sum())
            n_all += len(merged)
    assert n_all == 26
    # Observed: all 26 with the seed of the demo; other seeds may lose one tissue.
    assert n_right >= 24


def test_what_is_planted_is_stated_of_every_clustered_tissue(settings):
    """Kidney turns between types and substates; what is worked out by hand from substates.csv."""
    atlas = settings.atlas
    found = PLANTED.validate(truth.planted(atlas))
    arms = found.drop_duplicates(["cohort", "platform", "tissue"])
    assert len(arms) == len(atlas.graphs) + len(atlas.libraries) == 8
    whole = found[found["cell_type"] == ALL_TYPES]
    kidney = whole[whole["tissue"] == "Kidney"]
    assert set(kidney.loc[kidney["components"] == "types", "direction"]) == {"crystallize"}
    assert set(kidney.loc[kidney["components"] == "substates", "direction"]) == {"disperse"}
    key = ["tissue", "cell_type", "metric"]
    within = found[found["cell_type"] != ALL_TYPES].drop_duplicates(key).set_index(key)
    assert within.loc[("Kidney", "podocyte", "gini"), "direction"] == "crystallize"
    # Gini of (0.85, 0.07, 0.05, 0.03) is 0.63, of (0.28, 0.26, 0.24, 0.22) is 0.05.
    assert within.loc[("Kidney", "macrophage", "gini"), "change"] == pytest.approx(0.05 - 0.62)
    assert within.loc[("Marrow", "macrophage", "effective_number"), "change"] == 0
    assert within.loc[("Marrow", "macrophage", "effective_number"), "direction"] == "none"
    rat = found["cohort"] == "rat"
    restricted = whole[rat.reindex(whole.index)]
    assert restricted["drift_taken_back"].tolist() == pytest.approx([0.6] * 4)
    assert restricted["rescue_fraction"].between(0.55, 0.65).all()
    assert found.loc[~rat, ["drift_taken_back", "rescue_fraction"]].isna().all(axis=None)


def test_truth_of_real_inputs_is_empty_tables(tmp_path):
    params = tmp_path / "params.yaml"
    composed = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    local = yaml.safe_load((ROOT / "conf" / "atlas" / "local.yaml").read_text(encoding="utf-8"))
    params.write_text(yaml.safe_dump(composed | {"atlas": local, "conf_digest": "0"}))
    out, planted = tmp_path / "truth.csv", tmp_path / "planted.csv"
    words = ["--out", str(out), "--planted", str(planted)]
    assert truth.main(["--params", str(params), *words]) == 0
    assert tables.read(out, TRUTH).empty
    assert tables.read(planted, PLANTED).empty
    assert demo.main(["--params", str(params), "--file", "x"]) == 1


# --- bad settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cohort": "kimmel", "layout": "legacy"}, "kimmel is not simulated in the layout legacy"),
        ({"cohort": "rat", "layout": "anndata"}, "rat is not simulated in the layout anndata"),
        ({"cohort": "kimmel", "tissue": "Heart"}, "allowed for kimmel are Kidney, Lung, Spleen"),
        ({"cohort": "kimmel", "platform": "facs"}, "no cohort kimmel on facs: allowed are tms on"),
    ],
)
def test_what_cannot_be_simulated(changes, reason, atlas, tmp_path):
    spec = atlas.acquire["kimmel-lung"].model_copy(update=changes | {"out": tmp_path / "x.h5ad"})
    with pytest.raises(AtlasError, match=reason):
        demo.simulate("x", spec, seed=1)
    assert not list(tmp_path.iterdir())


def test_the_command_names_an_unknown_file(tmp_path, caplog):
    params = tmp_path / "params.yaml"
    composed = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    content = yaml.safe_load((ROOT / "conf" / "atlas" / "demo.yaml").read_text(encoding="utf-8"))
    params.write_text(yaml.safe_dump(composed | {"atlas": content, "conf_digest": "0"}))
    assert demo.main(["--params", str(params), "--file", "nope"]) == 1
    assert "no file 'nope' to simulate: allowed are kimmel-kidney" in caplog.text


def test_programmes_depend_on_the_name_alone():
    first = expression.profile("B cell", 1)
    assert np.array_equal(first, expression.profile("B cell", 1))
    assert first.sum() == pytest.approx(1)
    assert not np.array_equal(first, expression.profile("T cell", 1))
    assert len(set(expression.GENES)) == 600
