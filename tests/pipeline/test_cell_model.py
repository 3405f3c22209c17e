"""Models of cells in their published layouts, from a folder to the concentration of their heads.

Expected values are those of hand: the encoding one gene after another, effects by whole forward
passes that share nothing with the engine but which genes are hidden.
"""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file, save_file
from scipy import sparse
from transformers import BertForMaskedLM

from stages.base import compose, tables
from stages.base.settings import load
from stages.inputs import encode
from stages.inputs.cell_hub import __main__ as cell_hub
from stages.inputs.encoders import encoded, measured, vocabulary
from stages.measurement.effects import read
from stages.measurement.tables import MEASURED
from stages.models.architectures import architecture_of
from stages.models.load import load_model
from tests import published_cells
from tests.published_cells import DICTIONARIES, FOLDERS, IDS, MEDIANS, RETIRED
from tests.unit import test_scgpt

N_CELLS, N_FILE, WIDTH = 24, 70, 24
NOVEL = "ENSG77777777777"
"""A gene that no model here knows."""
GENES = [*(f"{gene}.7" for gene in IDS), RETIRED, NOVEL]
COMMON = {
    "cellmodel.cells.h5ad": "counts.h5ad",
    "cellmodel.cells.n_cells": N_CELLS,
    "cellmodel.cells.reference_cells": N_CELLS,
    "cellmodel.cells.n_encoded": "null",
    "cellmodel.cells.encoding.max_length": WIDTH,
    "cellmodel.local": "published",
    "cell_heads.perturbations": "[zero]",
    "measured.draws": 20,
}
STAGES = ("cell_downloaded", "encode", "cell_heads", "measured")
PATHS = ", ".join(f"{role}: {{path: {path}}}" for role, path in DICTIONARIES["v2"].items())
# The file of conf/cellmodel/ that is chosen, and what is not that of the published files.
CASES = {
    "geneformer": (
        "geneformer-v2-104m",
        COMMON | {"cellmodel.files": "{}", "cellmodel.dictionaries": f"{{{PATHS}}}"},
    ),
    "scgpt": (
        "cells-local",
        COMMON
        | {
            "cellmodel.cells.encoding.preset": "scgpt",
            "cellmodel.cells.encoding.gene_column": "feature_name",
        },
    ),
}


def counts() -> sparse.csr_matrix:
    """Return counts of cells; the last but one has none, the last no gene that is known."""
    rng = np.random.default_rng(7)
    expected = rng.gamma(0.7, 3, size=len(GENES))
    drawn = rng.poisson(expected * rng.uniform(0.3, 2, size=(N_FILE, 1)))
    drawn[-2:] = 0
    drawn[-1, GENES.index(NOVEL)] = 3
    return sparse.csr_matrix(drawn.astype(np.float32))


def h5ad(path: Path, x: sparse.csr_matrix, genes: list[str] = GENES) -> Path:
    names = [f"GENE{number}" for number in range(len(genes) - 1)] + ["NOVEL"]
    var = pd.DataFrame({"feature_name": pd.Categorical(names)}, index=genes)
    obs = pd.DataFrame(index=[f"cell{row}" for row in range(x.shape[0])])
    ad.AnnData(X=x, obs=obs, var=var).write_h5ad(path)
    return path


def run(folder: Path, *words: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_", "HF_"))}
    own = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    own |= {"HF_HOME": str(folder / "huggingface"), "HF_HUB_OFFLINE": "1", "DVC_NO_ANALYTICS": "1"}
    kept.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=kept | own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{words}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def made(repository, tmp_path_factory):
    """Return what makes a folder in which the heads of such a model were measured, once.

    Geneformer goes through DVC; of scGPT the same command lines are run one after another, which
    takes an eighth of the time.
    """
    folders: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind in folders:
            return folders[kind]
        folder = folders[kind] = tmp_path_factory.mktemp(kind)
        write = published_cells.geneformer if kind == "geneformer" else published_cells.scgpt
        write(folder / "published")
        h5ad(folder / "counts.h5ad", counts())
        for name in ("conf", "stages"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(repository / name, folder / name, ignore=ignored)
        shutil.copy2(repository / "dvc.yaml", folder)
        chosen, settings = CASES[kind]
        words = ["--cellmodel", chosen, "--set", *(f"{k}={v}" for k, v in settings.items())]
        if kind == "geneformer":
            (folder / ".dvc").mkdir()
            (folder / ".dvc" / "config").write_text(
                "[core]\n no_scm = true\n check_update = false\n"
            )
            run(folder, "stages.base.compose", *words)
            said = run(folder, "stages.base.repro", "measured@cell_heads")
            assert all(f"'{name}@" in said for name in STAGES)
        else:
            with chdir(folder):
                assert compose.main(words) == 0
                for name in STAGES:
                    assert _called(name, "cell_heads" if name == "measured" else chosen) == 0, name
        return folder

    return of


def _called(stage: str, item: str) -> int:
    """Run a stage in the present folder as its line in dvc.yaml says."""
    graph = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))

    def value(found: re.Match[str]) -> str:
        at = {**params, "item": item, "key": item}
        for part in re.findall(r"\w+", found[1]):
            at = at[int(part) if part.isdigit() else part]
        return str(at)

    words = re.sub(r"\$\{([^}]+)\}", value, graph[stage]["do"]["cmd"]).split()
    assert words[:2] == ["python", "-m"]
    package = Path(*words[2].split(".")).is_dir()
    module = importlib.import_module(words[2] + (".__main__" if package else ""))
    return module.main(words[3:])


@pytest.fixture
def geneformer(made):
    return made("geneformer")


@pytest.fixture
def scgpt(made):
    return made("scgpt")


def by_rank(row: np.ndarray) -> list[int]:
    """Return the ids of a cell: its known genes by count over total and median, framed."""
    values = {}
    for gene, count in zip(GENES, row, strict=True):
        known = IDS[0] if gene == RETIRED else gene.partition(".")[0]
        if count and known in MEDIANS:
            values[known] = values.get(known, 0) + count / row.sum() * 10_000
    ranked = sorted(values, key=lambda gene: (-values[gene] / MEDIANS[gene], IDS.index(gene)))
    return [2, *(4 + IDS.index(gene) for gene in ranked[: WIDTH - 2]), 3]


def test_geneformers_cells_are_ranked_as_by_hand(geneformer):
    cells = encoded.read(geneformer / "data/interim/geneformer-v2-104m/cells")
    assert cells.cells["row"].tolist() == list(range(N_FILE - 2))
    rows = counts().toarray()
    truncated = 0
    for ids, length, row in zip(cells.ids, cells.cells["length"], rows, strict=False):
        assert ids[:length].tolist() == by_rank(row)
        truncated += length == WIDTH
    assert 0 < truncated < N_FILE - 2


@pytest.mark.parametrize("kind", CASES)
def test_cells_that_were_left_out_are_counted(kind, made):
    folder = made(kind) / "data/interim" / CASES[kind][0] / "cells"
    said = json.loads((folder / "encoding.json").read_text(encoding="utf-8"))
    assert said["cells"] == {
        "read": N_FILE,
        "kept": N_FILE - 2,
        "dropped: no counts": 1,
        "dropped: no gene that the model knows": 1,
    }
    assert said["genes"]["known"] == 31
    assert said["genes"]["dropped: not in the vocabulary"] == 1
    if kind == "geneformer":
        assert said["genes"]["version stripped"] == 30
        assert said["genes"]["summed into another"] == 1


def test_scgpts_cells_have_a_bin_beside_each_gene(scgpt):
    cells = encoded.read(scgpt / "data/interim/cells-local/cells")
    known = vocabulary.read(scgpt / "models/cells-local/main")
    rows = counts().toarray()
    n_checked = 0
    for ids, bins, length, row in zip(
        cells.ids, cells.values, cells.cells["length"], rows, strict=False
    ):
        assert (ids[0], bins[0]) == (known.special["<cls>"], -2)
        assert (bins[length:] == -2).all()
        expressed = row[:-1][row[:-1] > 0]
        edges = np.quantile(expressed, np.linspace(0, 1, 50))
        for token, value in zip(ids[1:length], bins[1:length], strict=True):
            count = row[token]
            # Of a value that several edges equal, any of their bins.
            least, most = (edges < count).sum(), (edges <= count).sum()
            assert count > 0
            assert least <= value <= most
            assert value >= 1
            n_checked += 1
    assert n_checked > 1000


def _measured(folder: Path, name: str):
    """Return the text that the heads were measured on, as the engine hides genes in it."""
    asked = load(folder / "params.yaml").cellmodel.cells
    cells = encoded.read(folder / "data/interim" / name / "cells")
    checkpoint = folder / "models" / name / "main"
    rows, _ = measured.chosen(cells.cells, asked)
    architecture = architecture_of(load_model(checkpoint))
    known = vocabulary.read(checkpoint)
    return measured.text(cells, known, architecture, rows, seed=asked.seed)


def _effects(folder: Path, name: str):
    parts = read(folder / f"data/interim/{name}/effects/main.parquet")
    (part,) = (part for part in parts if (part.kind, part.condition) == ("head", "zero"))
    return part


def _gini(values: np.ndarray) -> float:
    differences = np.abs(values[:, None] - values).sum()
    return float(differences / (2 * len(values) ** 2 * values.mean()))


def _check_measured(folder: Path, part) -> None:
    """Compare the table with the definition of the Gini coefficient."""
    found = tables.read(folder / "reports/tables/measured/cell_heads.csv", MEASURED)
    rows = found[(found["metric"] == "gini") & found["series"].str.contains("head")]
    rows = rows[rows["condition"] == "zero"]
    assert len(rows) == 1
    row = rows.iloc[0]
    assert row["value"] == pytest.approx(_gini(np.abs(part.values.mean(axis=0))), abs=1e-12)
    assert (row["n_replicates"], row["n_components"]) == part.values.shape
    assert row["baseline"] == pytest.approx(part.baseline.mean(), abs=1e-9)


def test_geneformers_heads_are_those_of_a_hook_on_the_whole_model(geneformer):
    name = "geneformer-v2-104m"
    text, part = _measured(geneformer, name), _effects(geneformer, name)
    assert part.state.unit == "nats per gene"
    model = BertForMaskedLM.from_pretrained(geneformer / "published" / FOLDERS["v2"]).eval()

    @torch.inference_mode()
    def losses():
        logits = model(text.inputs, attention_mask=text.attended.long()).logits.double()
        each = F.cross_entropy(logits.mT, text.targets, reduction="none")
        return (each * text.scored).sum(dim=1) / text.scored.sum(dim=1)

    base = losses()
    assert part.baseline == pytest.approx(base.numpy(), abs=1e-5)
    expected = []
    for layer, head in part.components[["layer", "head"]].itertuples(index=False):

        def empty(_, arguments, head=head):
            heads = arguments[0].clone()
            heads[..., 8 * head : 8 * (head + 1)] = 0
            return (heads,)

        mixing = model.bert.encoder.layer[layer].attention.output.dense
        handle = mixing.register_forward_pre_hook(empty)
        expected.append((losses() - base).numpy())
        handle.remove()
    # Observed: 9e-7, of effects of up to 1.7.
    assert part.values == pytest.approx(np.array(expected).T, abs=1e-5)
    assert np.abs(expected).max() > 1e-2
    _check_measured(geneformer, part)


def test_scgpts_heads_are_those_of_the_formula(scgpt):
    name = "cells-local"
    text, part = _measured(scgpt, name), _effects(scgpt, name)
    assert part.state.unit == "squared bins per gene"
    weights = torch.load(scgpt / "published" / "best_model.pt", weights_only=True)

    def losses(weights):
        predicted, _ = test_scgpt.by_hand(weights, text.inputs, text.values, text.attended)
        squares = (predicted - text.target_values).square().masked_fill(~text.scored, 0)
        return (squares.sum(dim=1) / text.scored.sum(dim=1)).numpy()

    base = losses(weights)
    assert part.baseline == pytest.approx(base, rel=1e-5)
    heads = [(0, 0), (1, 3), (2, 2)]
    for layer, head in heads:
        mixing = f"{test_scgpt.LAYERS}.{layer}.self_attn.out_proj.weight"
        columns = slice(test_scgpt.D_HEAD * head, test_scgpt.D_HEAD * (head + 1))
        without = weights | {mixing: weights[mixing].clone()}
        without[mixing][:, columns] = 0
        expected = losses(without) - base
        found = part.values[:, part.components.index.get_loc(f"L{layer}H{head}")]
        # Observed: 4e-4, of losses of up to 2,400 in float32.
        assert found == pytest.approx(expected, abs=2e-3)
        assert np.abs(expected).max() > 1
    _check_measured(scgpt, part)


# --- bad inputs, each one line -------------------------------------------------------------------


@pytest.fixture
def refuses(geneformer, tmp_path, caplog):
    """Return what runs a stage that must fail, and gives the one line that it says."""

    def fails(stage, words: list[str], out: Path) -> str:
        caplog.clear()
        assert stage.main(words) == 1
        errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(errors) == 1
        assert "\n" not in errors[0]
        assert not out.exists()
        assert list(out.parent.iterdir()) == []
        return errors[0]

    def bring(**changes) -> str:
        params = yaml.safe_load((geneformer / "params.yaml").read_text(encoding="utf-8"))
        params["cellmodel"] |= changes
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        out = tmp_path / "made" / "model"
        out.parent.mkdir(exist_ok=True)
        words = ["--params", str(tmp_path / "params.yaml"), "--out", str(out)]
        return fails(cell_hub, [*words, "--downloads", str(tmp_path / "downloads")], out)

    def read_cells(cells: Path, *words: str) -> str:
        out = tmp_path / "made" / "cells"
        out.parent.mkdir(exist_ok=True)
        model = geneformer / "models/geneformer-v2-104m/main"
        words = ("--preset", "geneformer-v2", "--vocabulary", str(model), *words)
        return fails(encode, ["--h5ad", str(cells), "--out", str(out), *words], out)

    bring.cells = read_cells
    return bring


def test_dictionaries_of_two_versions(refuses, tmp_path):
    folder = published_cells.geneformer(tmp_path / "mixed")
    published_cells.geneformer(tmp_path / "mixed", "v1")
    mixed = {role: {"path": DICTIONARIES["v2"][role]} for role in ("tokens", "medians")}
    mixed["tokens"] = {"path": DICTIONARIES["v1"]["tokens"]}
    said = refuses(local=str(folder), dictionaries=mixed)
    assert "they are of two versions (V1 and V2 do not mix)" in said


@pytest.mark.parametrize("what", ["missing", "extra"])
def test_weights_that_lack_or_add_one(what, refuses, tmp_path):
    folder = published_cells.geneformer(tmp_path / "other")
    path = folder / FOLDERS["v2"] / "model.safetensors"
    weights = load_file(path)
    if what == "missing":
        del weights["bert.encoder.layer.0.attention.self.query.weight"]
    else:
        weights["bert.encoder.layer.0.adapter.weight"] = torch.zeros(2)
    save_file(weights, path)
    said = refuses(local=str(folder))
    told = {"missing": "it lacks bert.encoder.layer.0.attention.self.query.weight"}
    assert told.get(what, "bert.encoder.layer.0.adapter.weight of model.safetensors is") in said


def test_another_id_of_the_padding(refuses, tmp_path):
    folder = published_cells.geneformer(tmp_path / "other", pad_token_id=2)
    assert "pad_token_id 2, and the dictionary gives <pad> the id 0" in refuses(local=str(folder))


def test_counts_that_are_none(refuses, tmp_path):
    path = h5ad(tmp_path / "logged.h5ad", counts().log1p())
    said = refuses.cells(path)
    assert "holds no raw counts" in said
    assert "as after log1p" in said


def test_symbols_where_ids_are_asked_for(refuses, tmp_path):
    path = h5ad(tmp_path / "symbols.h5ad", counts(), [*published_cells.SYMBOLS, "A", "B"])
    said = refuses.cells(path)
    assert "no Ensembl ids. Name the column of var that has them (--gene-column), or have" in said


def test_genes_of_mouse(refuses, tmp_path):
    mouse = [f"ENSMUSG{number:011d}" for number in range(len(GENES))]
    said = refuses.cells(h5ad(tmp_path / "mouse.h5ad", counts(), mouse))
    assert "ids of another species, and the model knows human genes" in said
