"""Caloric restriction: the libraries as shipped, what is rescued, and what two of them can show."""

import gzip
import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from pydantic import ValidationError
from scipy import sparse

from stages.base import tables
from stages.base.errors import AtlasError, FigureError
from stages.base.settings import load, parse
from stages.base.study import Study
from stages.cells import clustering, libraries, restriction
from stages.cells.figures import restriction_rescue
from stages.cells.settings import Metrics, Rarefaction, Restriction
from stages.cells.tables.proportions import PROPORTIONS
from stages.cells.tables.restriction import (
    CONDITIONS,
    RESTRICTION,
    RESTRICTION_LIBRARIES,
    RESTRICTION_TESTS,
)
from stages.inputs.demo import __main__ as demo
from stages.inputs.demo import model
from stages.inputs.settings import Libraries, SimulatedFile
from stages.measurement import concentration

ROOT = Path(__file__).parents[2]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
KEY = "rat-marrow"
NAMES = ["BM-M-Y", "BM-F-Y", "BM-M-O", "BM-F-O", "BM-M-CR", "BM-F-CR"]
GENES = ["Cd3e", "Cd79a", "Lyz2", "Hbb"]
PLANTED = 0.6
"""The part of the drift of the mean composition that restriction takes back in the demo."""

HEAD = "%%MatrixMarket matrix coordinate {} general\n"


def spec_of(folder: Path, **changes) -> Libraries:
    return Libraries.model_validate(PARAMS["atlas"]["libraries"][KEY] | {"raw": folder} | changes)


def put(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode()))


def mtx(counts: np.ndarray) -> str:
    """Return the text of genes x cells."""
    cells = sparse.coo_matrix(counts)
    lines = [
        f"{i + 1} {j + 1} {v:g}\n" for i, j, v in zip(cells.row, cells.col, cells.data, strict=True)
    ]
    return HEAD.format("real") + f"{cells.shape[0]} {cells.shape[1]} {cells.nnz}\n" + "".join(lines)


def write_library(folder: Path, number: int, name: str, genes: list[str], counts) -> None:
    """Write one library as the archive ships it; `counts` is cells x genes."""
    stem = f"GSM{4331822 + number}_{name}"
    listed = "".join(f"ENSRNOG{i:05d}\t{gene}\n" for i, gene in enumerate(genes))
    put(folder / f"{stem}_genes.tsv.gz", listed)
    put(folder / f"{stem}_barcodes.tsv.gz", "".join(f"AAAC{i}-1\n" for i in range(len(counts))))
    put(folder / f"{stem}_matrix.mtx.gz", mtx(np.asarray(counts).T))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return six small libraries; the third lists one gene more, the fourth in another order."""
    folder = tmp_path / "rat"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        genes, counts = list(GENES), np.arange(12).reshape(3, 4) + number
        if number == 2:
            genes, counts = [*genes, "Pecam1"], np.column_stack([counts, [9, 9, 9]])
        if number == 3:
            genes, counts = genes[::-1], counts[:, ::-1]
        write_library(folder, number, name, genes, counts)
    return folder


# --- the files as shipped ------------------------------------------------------------------------


def test_libraries_are_joined_by_the_names_of_their_genes(folder):
    found = libraries.read(spec_of(folder))
    assert list(found.var_names) == GENES
    assert list(dict.fromkeys(found.obs["animal"])) == NAMES
    expected = np.concatenate([np.arange(12).reshape(3, 4) + number for number in range(6)])
    np.testing.assert_array_equal(found.X.toarray(), expected)
    assert list(found.obs.columns) == clustering.OBS
    known = found.obs.drop_duplicates("animal").set_index("animal")
    assert known["sex"].tolist() == ["male", "female"] * 3
    assert known["age_months"].tolist() == [5, 5, 27, 27, 27, 27]
    assert known["condition"].tolist() == [name for name in CONDITIONS for _ in range(2)]
    assert known["group"].tolist() == ["reference"] * 2 + ["compared"] * 4
    assert known["cell_type"].isna().all()


def test_rows_of_one_name_are_summed(folder):
    genes = ["Cd3e", "Cd79a", "Lyz2", "Hbb", "Lyz2"]
    write_library(folder, 0, NAMES[0], genes, [[1, 2, 3, 4, 50], [0, 0, 0, 1, 0]])
    found = libraries.read(spec_of(folder))
    np.testing.assert_array_equal(found.X[:2].toarray(), [[1, 2, 53, 4], [0, 0, 0, 1]])


def test_cells_with_few_counts_are_left_out_and_counted(folder, caplog):
    caplog.set_level("INFO", logger="stages")
    # The first cells of the libraries have 6, 10, 14, ... counts.
    found = libraries.read(spec_of(folder, min_counts=11))
    assert found.n_obs == 18 - 2
    assert "BM-M-Y: 1 of 3 cells left out, with fewer than 11 counts" in caplog.text
    assert "the libraries list 4 to 5 genes, 4 of them in all" in caplog.text


def test_other_tissues_and_other_files_of_the_atlas_are_passed_over(folder):
    write_library(folder, 100, "Liver-M-Y", GENES, [[1, 2, 3, 4]])
    put(folder / "GSM4321717_BM_all_rawcounts.p.txt.gz", "bulk")
    assert libraries.read(spec_of(folder)).n_obs == 18


def name_of(part: str, library: str = "BM-F-O") -> str:
    return f"GSM{4331822 + NAMES.index(library)}_{library}_{part}.gz"


def drop(folder):
    (folder / name_of("matrix.mtx")).unlink()


def drop_library(folder):
    for path in folder.glob("*BM-F-CR*"):
        path.unlink()


def cut(folder):
    path = folder / name_of("matrix.mtx")
    path.write_bytes(path.read_bytes()[:-20])


def cut_lines(folder):
    path = folder / name_of("matrix.mtx")
    put(path, "".join(gzip.decompress(path.read_bytes()).decode().splitlines(keepends=True)[:-3]))


def cut_barcodes(folder):
    path = folder / name_of("barcodes.tsv")
    path.write_bytes(path.read_bytes()[:-9])


def fewer_barcodes(folder):
    put(folder / name_of("barcodes.tsv"), "AAAC-1\n")


def islets(folder):
    """GSE141784."""
    put(folder / "GSM4213199_NOD_4w_2849_matrix.mtx.gz", "x")


def mouse(folder):
    put(folder / name_of("genes.tsv"), "".join(f"ENSMUSG{i}\t{g}\n" for i, g in enumerate(GENES)))


def identifiers(folder):
    put(folder / name_of("genes.tsv"), "".join(f"{g}\tid{i}\n" for i, g in enumerate(GENES)))


def symbols_only(folder):
    put(folder / name_of("genes.tsv"), "".join(f"{gene}\n" for gene in GENES))


def no_cells(folder):
    write_library(folder, NAMES.index("BM-F-O"), "BM-F-O", GENES, np.zeros((0, 4)))


def silent(folder):
    write_library(folder, NAMES.index("BM-F-O"), "BM-F-O", GENES, np.zeros((2, 4)))


def logarithms(folder):
    write_library(folder, NAMES.index("BM-F-O"), "BM-F-O", GENES, np.full((2, 4), 0.69))


def negative(folder):
    write_library(folder, NAMES.index("BM-F-O"), "BM-F-O", GENES, np.full((2, 4), -1))


def pattern(folder):
    put(folder / name_of("matrix.mtx"), HEAD.format("pattern") + "4 3 1\n1 1\n")


def twice(folder):
    shutil.copy(folder / name_of("genes.tsv"), folder / "GSM1_BM-F-O_genes.tsv.gz")


def mixed(folder):
    (folder / name_of("genes.tsv")).rename(folder / "GSM1_BM-F-O_genes.tsv.gz")


FAULTS = {
    drop: "lacks matrix of library BM-F-O: needed are GSM<n>_BM-F-O_matrix.mtx.gz",
    drop_library: "lacks barcodes and genes and matrix of library BM-F-CR",
    cut: "BM-F-O_matrix.mtx.gz is truncated or damaged (Compressed file ended",
    cut_lines: "BM-F-O_matrix.mtx.gz is truncated or damaged (Truncated file",
    cut_barcodes: "BM-F-O_barcodes.tsv.gz is truncated or damaged",
    fewer_barcodes: "has 4 genes x 3 cells, but its lists name 4 genes and 1 cells",
    islets: "GSM4213199_NOD_4w_2849_matrix.mtx.gz, which is no library of the rat atlas GSE137869",
    mouse: "lists ENSMUSG0, a gene of another species: this is not the rat atlas GSE137869",
    identifiers: "the libraries have 0 gene names in common, of 4 in BM-M-Y",
    symbols_only: "line 1 has 1 columns, not 2",
    no_cells: "library BM-F-O has no cells",
    silent: "no cell of library BM-F-O has 1 counts (2 cells)",
    logarithms: "BM-F-O_matrix.mtx.gz holds no counts: it has the fraction 0.69",
    negative: "BM-F-O_matrix.mtx.gz holds no counts: it has the negative value -1",
    pattern: "a Matrix Market file of kind coordinate pattern general",
    twice: "holds the genes of library BM-F-O twice",
    mixed: "the files of library BM-F-O are of different samples, GSM1 and GSM4331825",
    shutil.rmtree: "does not exist. Run dvc repro acquire",
}


@pytest.mark.parametrize("damage", FAULTS, ids=lambda damage: damage.__name__)
def test_bad_files_are_refused_in_one_line(folder, damage):
    damage(folder)
    with pytest.raises(AtlasError, match=re.escape(FAULTS[damage])) as refused:
        libraries.read(spec_of(folder))
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith(".")


def test_another_series_is_refused_by_name():
    with pytest.raises(ValidationError, match="GSE141784 is a time course of pancreatic islets"):
        spec_of(Path("x"), accession="GSE141784")
    with pytest.raises(ValidationError, match="GSE1 is another data set; the rat atlas"):
        spec_of(Path("x"), accession="GSE1")
    with pytest.raises(ValidationError, match="it names Y, O; give the age of Y, O and CR"):
        spec_of(Path("x"), age_months={"Y": 5, "O": 27})


# --- what is rescued -----------------------------------------------------------------------------


def test_libraries_are_taken_together_in_four_ways():
    matrix = np.zeros((3, 2, 3))
    matrix[:] = [[4, 0, 0], [4, 4, 0]]
    found = restriction.over_libraries(matrix, components="all")["effective_number"]
    pooled = concentration.effective_number([8, 4, 0])
    np.testing.assert_allclose(found, np.repeat([[1.5], [pooled], [1], [2]], 3, axis=1))
    # One present component has Gini 0; of three, with two empty ones, 2/3.
    gini = restriction.over_libraries(matrix, components="present")["gini"]
    np.testing.assert_allclose(gini[2:, 0], [0, 0], atol=1e-15)
    gini = restriction.over_libraries(matrix, components="all")["gini"]
    np.testing.assert_allclose(gini[2:, 0], [2 / 3, 1 / 3])


def test_rescue_is_towards_the_young_whichever_way_the_drift_goes():
    draws = np.array([[0.0, 1.0, 0.5], [0.0, 1.0, 1.5], [0.0, 2.0, 1.0], [0.0, 1.0, 0.8]])
    for sign in (1, -1):
        found = restriction.rescue(sign * np.array([0.0, 1.0, 0.4]), sign * draws, confidence=0.9)
        assert found["drift"] == sign
        assert found["rescue"] == pytest.approx(sign * 0.6)
        assert found["rescue_fraction"] == pytest.approx(0.6)
        assert found["rescue_probability"] == 0.75
        low, high = np.quantile([0.5, -0.5, 0.5, 0.2], [0.05, 0.95])
        assert found["rescue_fraction_low"] == pytest.approx(low)
        assert found["rescue_fraction_high"] == pytest.approx(high)


def test_a_drift_that_may_be_zero_bounds_no_fraction():
    draws = np.array([[0.0, 1.0, 0.5], [0.0, -1.0, 0.5]])
    found = restriction.rescue(np.array([0.0, 0.1, 0.05]), draws, confidence=0.95)
    assert found["rescue_fraction"] == pytest.approx(0.5)
    assert np.isnan([found["rescue_fraction_low"], found["rescue_fraction_high"]]).all()
    none = restriction.rescue(np.array([0.1, 0.1, 0.0]), draws, confidence=0.95)
    assert np.isnan(none["rescue_fraction"])


def test_exchanging_libraries_is_counted_out():
    values = np.array([[0.1, 0.25], [0.7, 0.4], [0.35, 0.3]])
    found = pd.DataFrame(restriction.exchanged(values)).set_index(["contrast", "strata"])
    for contrast, (first, second) in restriction.CONTRASTS.items():
        pair = values[[CONDITIONS.index(first), CONDITIONS.index(second)]]
        pooled = pair.ravel()
        null = [
            pooled[list(taken)].mean() - np.delete(pooled, list(taken)).mean()
            for taken in itertools.combinations(range(4), 2)
        ]
        observed = pair[1].mean() - pair[0].mean()
        row = found.loc[(contrast, "all")]
        assert row["difference"] == pytest.approx(observed)
        assert row["p"] == pytest.approx(np.mean(np.abs(null) >= abs(observed) - 1e-12))
        by_sex = pair[1] - pair[0]
        flips = [np.mean(by_sex * signs) for signs in itertools.product([1, -1], repeat=2)]
        row = found.loc[(contrast, "within_sex")]
        assert row["p"] == pytest.approx(np.mean(np.abs(flips) >= abs(observed) - 1e-12))
        assert found.loc[(contrast, "male"), "difference"] == pytest.approx(by_sex[0])
    smallest = found.xs("drift")["p_smallest"]
    assert smallest.to_dict() == pytest.approx(
        {"all": 1 / 3, "within_sex": 1 / 2, "male": 1, "female": 1}
    )
    assert found.xs("rescue")["n_arrangements"].tolist() == [6, 4, 2, 2]


def test_every_condition_needs_one_library_of_each_sex():
    samples = pd.DataFrame({"animal": ["a", "b"], "sex": ["male", "female"]})
    condition = pd.Series({"a": "young", "b": "young"})
    with pytest.raises(AtlasError, match="there are 0 male libraries of condition old"):
        restriction.in_order(samples, condition)


RULES = Metrics(
    category_set="present",
    fixed_categories=[],
    rarefaction=Rarefaction(draws=400, depth=None, seed=1),
)


def compared(matrix: np.ndarray):
    """Compare six libraries given as (conditions, sexes, clusters)."""
    rows = []
    for (i, name), (j, sex) in itertools.product(
        enumerate(CONDITIONS), enumerate(restriction.SEXES)
    ):
        for cluster in np.flatnonzero(matrix[i, j]):
            n = matrix[i, j, cluster]
            who = ["rat", "droplet", "Marrow", f"{name}-{sex}", sex, None, 5.0, name, "compared"]
            rows.append([*who, str(cluster), int(n), n / matrix[i, j].sum()])
    table = PROPORTIONS.validate(pd.DataFrame(rows, columns=list(PROPORTIONS.columns)))
    animals = table["animal"].unique()
    return restriction.compare(
        table,
        pd.Series([name.partition("-")[0] for name in animals], index=animals),
        rules=RULES,
        settings=Restriction(confidence=0.95, draws=50, seed=1),
        rng=np.random.default_rng(1),
    )


def test_equal_cells_undo_what_the_number_of_cells_does():
    """The old have the same shares, but so few cells that rare clusters are missed."""
    rng = np.random.default_rng(3)
    shares = np.full(60, 1 / 60)
    matrix = np.stack([rng.multinomial(n, shares, size=2) for n in (4000, 120, 4000)])
    _, found, _ = compared(matrix)
    effective = found[(found["metric"] == "effective_number") & (found["libraries"] == "pooled")]
    drift = effective.set_index("cells")["drift"]
    # Observed: -7.5 from all cells, -0.3 from equal ones.
    assert drift["all"] < -5
    assert abs(drift["rarefied"]) < 2
    n_cells = effective.set_index("cells")["n_cells"]
    assert n_cells["rarefied"] == 6 * matrix.sum(axis=-1).min()
    assert n_cells["all"] == matrix.sum()


def simulated(drifts, concentration, n_studies, rng):
    """Draw studies of six libraries of 700 cells by the demo's model of the rat marrow."""
    of = model.cohort("rat", "droplet")
    mean = model.compositions(of)["Marrow"].mean(np.array(drifts))
    shares = np.repeat(mean[:, np.newaxis], 2, axis=1)
    for _ in range(n_studies):
        p = shares
        if concentration:
            gammas = rng.standard_gamma(concentration * shares)
            p = gammas / gammas.sum(axis=-1, keepdims=True)
        matrix = rng.multinomial(700, p).astype(np.float64)
        bootstrap = restriction.resampled(
            matrix, n_cells=np.full((3, 2), 700.0), draws=300, rng=rng
        )
        values, draws = (
            restriction.over_libraries(x, components="present")["effective_number"]
            for x in (matrix, bootstrap)
        )
        # The mean of the libraries.
        yield restriction.rescue(values[..., 0, :], draws[..., 0, :], confidence=0.95)


def test_resampling_cells_knows_nothing_of_animals():
    """The interval over cells is right where animals do not differ, and only there.

    Observed over 300 studies: it holds the truth in 95 percent without and in 46 percent with the
    demo's variation between animals. Where restriction does nothing, the probability of a rescue
    exceeds 0.975 in 4 and in 26 percent (over 400).
    """
    rng = np.random.default_rng(5)
    between = model.cohort("rat", "droplet").concentration
    means = model.compositions(model.cohort("rat", "droplet"))["Marrow"].mean(
        np.array([0, 1, 1 - PLANTED])
    )
    young, old, restricted = concentration.effective_number(means)
    truth = (old - restricted) / (old - young)
    assert truth == pytest.approx(PLANTED, abs=0.01)
    held, sure = {}, {}
    for variation in (None, between):
        studies = pd.DataFrame(simulated([0, 1, 1 - PLANTED], variation, 150, rng))
        low, high = studies["rescue_fraction_low"], studies["rescue_fraction_high"]
        held[variation] = ((low <= truth) & (truth <= high)).mean()
        idle = pd.DataFrame(simulated([0, 1, 1], variation, 150, rng))
        sure[variation] = (idle["rescue_probability"] > 0.975).mean()
    assert held[None] > 0.88
    assert held[between] < 0.65
    assert sure[None] < 0.1
    assert sure[between] > 0.15


# --- the demo's marrow ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(params, tmp_path_factory) -> Path:
    """Return the folder in which the stages wrote what they make of the demo's libraries."""
    folder = tmp_path_factory.mktemp("rat")
    raw = folder / "raw"
    spec = SimulatedFile(out=raw, cohort="rat", platform="droplet", tissue="Marrow", layout="mtx")
    demo.simulate(KEY, spec, seed=20260101)
    of_rat = {KEY: params["atlas"]["libraries"][KEY] | {"raw": str(raw)}}
    content = params | {"atlas": params["atlas"] | {"libraries": of_rat}}
    settings = parse(content)
    text = yaml.safe_dump(settings.model_dump(mode="json"))
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    args = ["--params", str(folder / "params.yaml")]
    assert libraries.main([*args, "--file", KEY, "--out", str(folder / f"{KEY}.h5ad")]) == 0
    assert run(folder, folder / "tables") == 0
    return folder


def run(folder: Path, out: Path) -> int:
    return restriction.main(
        [
            f"--params={folder / 'params.yaml'}",
            f"--graphs={folder}",
            f"--scratch={out}-clusterings",
            f"--libraries={out / 'libraries.csv'}",
            f"--tests={out / 'tests.csv'}",
            f"--out={out / 'rescue.csv'}",
        ]
    )


@pytest.fixture(scope="module")
def rescue(written) -> pd.DataFrame:
    return tables.read(written / "tables" / "rescue.csv", RESTRICTION)


@pytest.fixture(scope="module")
def reference(written) -> float:
    return load(written / "params.yaml").clusters.reference


def test_the_planted_rescue_of_the_demo_is_recovered(rescue, reference):
    """Observed at resolution 0.8, 19 clusters: 0.61 (0.21 to 0.97) and 0.46 (0.22 to 0.69).

    At 0.2, 16 clusters, that of the effective number (0.11 to 0.55) misses the truth.
    """
    both = rescue[rescue["libraries"].isin(["mean", "pooled"])]
    assert len(both) == 5 * 2 * 2 * 2
    assert (both["rescue_fraction"] > 0).all()
    assert (both["rescue_probability"] > 0.9).all()
    assert (both.loc[both["metric"] == "gini", "drift_low"] > 0).all()
    assert (both.loc[both["metric"] == "effective_number", "drift_high"] < 0).all()
    at = both[both["resolution"] == reference]
    assert len(at) == 8
    assert (at["rescue_fraction_low"] < PLANTED).all()
    assert (at["rescue_fraction_high"] > PLANTED).all()
    assert (rescue["interval_resamples"] == "cells").all()


def test_the_tables_agree_with_each_other(written, rescue, reference):
    each = tables.read(written / "tables" / "libraries.csv", RESTRICTION_LIBRARIES)
    tests = tables.read(written / "tables" / "tests.csv", RESTRICTION_TESTS)
    assert (tests["p"] >= tests["p_smallest"]).all()
    assert tests["p"].min() >= 1 / 3
    at = rescue[(rescue["resolution"] == reference) & (rescue["cells"] == "all")]
    of_all = each[(each["resolution"] == reference) & (each["cells"] == "all")]
    n_checked = 0
    for metric in restriction.METRICS:
        mean = of_all.groupby("condition")[metric].mean()
        row = at[(at["metric"] == metric) & (at["libraries"] == "mean")].iloc[0]
        assert row[list(CONDITIONS)].to_dict() == pytest.approx(mean.to_dict())
        exchanged = tests[
            (tests["resolution"] == reference)
            & (tests["cells"] == "all")
            & (tests["metric"] == metric)
            & (tests["strata"] == "all")
        ].set_index("contrast")["difference"]
        for contrast in restriction.CONTRASTS:
            assert exchanged[contrast] == pytest.approx(row[contrast])
            n_checked += 1
    assert n_checked == 4


def test_the_same_seed_gives_the_same_tables_and_another_one_other_intervals(written, tmp_path):
    assert run(written, tmp_path) == 0
    for path in sorted((written / "tables").iterdir()):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
    content = yaml.safe_load((written / "params.yaml").read_text(encoding="utf-8"))
    content["restriction"] |= {"seed": 7, "draws": 100}
    content["clusters"] |= {"resolutions": [0.8]}
    graph = clustering.read_graph(written / f"{KEY}.h5ad")
    _, other, _ = restriction.restriction(graph, parse(content), scratch=tmp_path)
    mine = tables.read(written / "tables" / "rescue.csv", RESTRICTION)
    key = ["cells", "metric", "libraries"]
    both = mine[mine["resolution"] == 0.8].merge(other, on=key, suffixes=("", "_other"))
    everything = both[both["cells"] == "all"]
    assert len(everything) == 8
    assert (everything["drift"] == everything["drift_other"]).all()
    assert (everything["drift_low"] != everything["drift_low_other"]).all()


def test_the_command_refuses_in_one_line_and_writes_nothing(written, tmp_path, caplog):
    args = [f"--params={written / 'params.yaml'}", f"--out={tmp_path / 'graph.h5ad'}"]
    assert libraries.main([*args, "--file", "nope"]) == 1
    assert "names no libraries 'nope': allowed are rat-marrow." in caplog.text
    raw = tmp_path / "raw"
    shutil.copytree(written / "raw", raw)
    next(raw.glob("*BM-M-O_matrix*")).unlink()
    content = yaml.safe_load((written / "params.yaml").read_text(encoding="utf-8"))
    content["atlas"]["libraries"][KEY]["raw"] = str(raw)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    out = tmp_path / f"{KEY}.h5ad"
    args = [f"--params={tmp_path / 'params.yaml'}", f"--file={KEY}", f"--out={out}"]
    assert libraries.main(args) == 1
    assert "lacks matrix of library BM-M-O" in caplog.text
    assert not out.exists()


def test_a_graph_of_other_cells_is_refused(written, tmp_path):
    graph = clustering.read_graph(written / f"{KEY}.h5ad")
    graph.obs["condition"] = None
    with pytest.raises(AtlasError, match="no graph of libraries"):
        restriction.restriction(graph, load(written / "params.yaml"), scratch=tmp_path)


# --- the figure ----------------------------------------------------------------------------------

DEMO = Study(name="demo", source="demo", simulated=True, notice="Simulated demo data: x")


@pytest.fixture(scope="module")
def of_figure(written) -> dict[str, pd.DataFrame]:
    folder = written / "tables"
    return {
        "rescue": tables.read(folder / "rescue.csv", RESTRICTION),
        "libraries": tables.read(folder / "libraries.csv", RESTRICTION_LIBRARIES),
        "tests": tables.read(folder / "tests.csv", RESTRICTION_TESTS),
    }


@pytest.mark.parametrize("wild", [False, True])
def test_text_of_the_figure_is_legible_and_apart(of_figure, reference, wild, legible):
    rescue = of_figure["rescue"].copy()
    if wild:
        males = rescue["libraries"] == "male"
        rescue.loc[males, "rescue_fraction"] = -30.0
        rescue.loc[males, ["rescue_fraction_low", "rescue_fraction_high"]] = [-80.0, 90.0]
        rescue.loc[rescue["libraries"] == "female", "rescue_fraction"] = np.nan
    figure = restriction_rescue.draw(**of_figure | {"rescue": rescue}, reference=reference)
    boxes = legible(figure, "Simulated demo data")
    assert not any("_" in text.get_text() for text, _ in boxes)
    words = " ".join(text.get_text() for text, _ in boxes)
    assert "Whiskers resample cells, not animals" in words
    assert "2 against 2, no two-sided p could be below 0.33, and within sexes none below" in words


def test_figure_refuses_a_resolution_that_was_not_computed(of_figure):
    with pytest.raises(FigureError, match=r"no resolution 0\.77: it has 0\.2, 0\.4, 0\.8"):
        restriction_rescue.draw(**of_figure, reference=0.77)


def test_figure_is_the_same_bytes_each_time(written, reference, tmp_path):
    study = tmp_path / "study.json"
    study.write_text(
        '{"name": "demo", "source": "demo", "simulated": true, "notice": "Simulated demo data: x"}'
    )
    for name in ("a", "b"):
        folder = written / "tables"
        args = [f"--{table}={folder / table}.csv" for table in ("rescue", "libraries", "tests")]
        args += [f"--study={study}", f"--reference={reference}", f"--out={tmp_path / name}"]
        assert restriction_rescue.main(args) == 0
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["fig_calico_cr_rescue.png", "fig_calico_cr_rescue.svg"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
