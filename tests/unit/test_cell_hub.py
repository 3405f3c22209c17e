"""Models of cells from a server that speaks as the Hub does, and from folders; and what is refused.

The tiny ones lie in the layouts of the published ones (``tests/published_cells.py``).
"""

import hashlib
import json
import pickle
import shutil
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from stages.base import compose
from stages.base.errors import CheckpointError
from stages.inputs.cell_hub import __main__ as command
from stages.inputs.encoders import vocabulary
from stages.inputs.settings import CellModel, HubCellModel
from stages.models.load import load_model
from tests import published_cells
from tests.published_cells import DICTIONARIES, FOLDERS, IDS, MEDIANS, RETIRED, SPECIAL, SYMBOLS
from tests.unit.test_hub import Hub, commit_of
from tests.unit.test_scgpt import VOCABULARY

GENEFORMER, SCGPT = "ctheodoris/Geneformer", "perturblab/scgpt-human"
NAMES = {"v1": "geneformer-v1-10m", "v2": "geneformer-v2-104m", "scgpt": "scgpt-human"}
WEIGHTS = {
    "v1": f"{FOLDERS['v1']}/model.safetensors",
    "v2": f"{FOLDERS['v2']}/model.safetensors",
    "scgpt": "best_model.pt",
}
KINDS = list(NAMES)
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def model(repository):
    """Return what makes the settings of a published model, with nothing pinned."""

    def made(kind: str = "v2", **changes: Any) -> HubCellModel:
        path = repository / "conf" / "cellmodel" / f"{NAMES[kind]}.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        paths = {role: {"path": of["path"]} for role, of in content["dictionaries"].items()}
        encoding = content["cells"]["encoding"] | {"max_length": 40}
        cells = content["cells"] | {"h5ad": "counts.h5ad", "encoding": encoding}
        content |= {"files": {}, "dictionaries": paths, "cells": cells}
        return TypeAdapter(CellModel).validate_python(content | changes)

    return made


@pytest.fixture
def published(tmp_path):
    """Return the folder of a model, in its repository's layout."""

    def written(kind: str = "v2", **changes: Any):
        folder = tmp_path / "published"
        if kind == "scgpt":
            return published_cells.scgpt(folder, **changes)
        return published_cells.geneformer(folder, kind, **changes)

    return written


@pytest.fixture
def serve():
    """Return what serves a folder as the only branch, `main`."""
    hub = Hub()

    def from_folder(folder) -> Hub:
        hub.repo = GENEFORMER if (folder / "geneformer").exists() else SCGPT
        hub.files["main"] = published_cells.files_of(folder)
        return hub

    with hub.serving():
        yield from_folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "models" / "tiny"


def make(model, out, endpoint=NOWHERE):
    command.make(model, out=out, downloads=out.parents[1] / "downloads", endpoint=endpoint)


def fails(model, out, endpoint=NOWHERE):
    with pytest.raises(CheckpointError) as caught:
        make(model, out, endpoint)
    message = str(caught.value)
    assert "\n" not in message
    assert not out.exists()
    assert list(out.parent.glob("*")) == []
    return message


def record_of(out):
    return json.loads((out / "checkpoints.json").read_text(encoding="utf-8"))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- what comes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_geneformer_comes_with_its_genes_and_without_a_pickle(kind, model, published, serve, out):
    folder = published(kind)
    hub = serve(folder)
    make(model(kind), out, hub.url)
    served = hub.files["main"]
    written = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    names = ["config.json", "model.safetensors", "vocabulary.json"]
    assert sorted(written) == ["checkpoints.json", *(f"main/{name}" for name in names)]
    for name in names[:2]:
        assert written[f"main/{name}"].read_bytes() == served[f"{FOLDERS[kind]}/{name}"]
    known = vocabulary.read(out / "main")
    first = len(SPECIAL[kind])
    assert known.special == SPECIAL[kind]
    assert known.genes == {gene: first + i for i, gene in enumerate(IDS)}
    assert known.medians == pytest.approx(MEDIANS, abs=0)
    assert known.synonyms == dict(zip(SYMBOLS, IDS, strict=True)) | {RETIRED: IDS[0]}
    (entry,) = record_of(out)
    assert (entry["repo"], entry["revision"], entry["commit"]) == (
        GENEFORMER,
        "main",
        commit_of("main"),
    )
    (weights,) = entry["weights"]
    content = served[WEIGHTS[kind]]
    assert weights == {
        "name": "model.safetensors",
        "size_bytes": len(content),
        "sha256": sha256(content),
    }
    said = {file["role"]: file["sha256"] for file in entry["dictionaries"]}
    assert said == {role: sha256(served[name]) for role, name in DICTIONARIES[kind].items()}
    assert entry["vocabulary"] == {
        "size": len(known),
        "synonyms": 31,
        "synonyms_without_a_token": 1,
    }
    asked = {path for _, path, _ in hub.asked}
    assert not [path for path in asked if "training_args" in path]
    # All but the first file is asked of the commit that the branch resolved to.
    of_branch = [path for path in asked if "/resolve/main/" in path]
    assert of_branch == [f"/{GENEFORMER}/resolve/main/{FOLDERS[kind]}/config.json"]
    whole = BertForMaskedLM.from_pretrained(folder / FOLDERS[kind])
    loaded = load_model(out / "main")
    for (name, weight), (_, other) in zip(
        sorted(whole.named_parameters()), sorted(loaded.named_parameters()), strict=True
    ):
        assert torch.equal(weight, other), name


def test_scgpt_comes_with_its_genes(model, published, serve, out):
    folder = published("scgpt")
    make(model("scgpt"), out, serve(folder).url)
    assert sorted(path.name for path in (out / "main").iterdir()) == [
        "args.json",
        "best_model.pt",
        "vocabulary.json",
    ]
    known = vocabulary.read(out / "main")
    assert {**known.genes, **known.special} == VOCABULARY
    # Read by its own list of genes, which lies there no longer.
    given = torch.load(folder / "best_model.pt", weights_only=True)
    for name, weight in load_model(out / "main").named_parameters():
        assert torch.equal(weight, given[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_that_breaks_is_taken_up_again(kind, model, published, serve, out):
    hub = serve(published(kind))
    hub.cut[WEIGHTS[kind]] = 9000
    make(model(kind), out, hub.url)
    got = [(path, at) for method, path, at in hub.asked if method == "GET"]
    parts = [at for path, at in got if path.endswith(f"/{WEIGHTS[kind]}")]
    assert len(parts) == 2
    (found,) = (out / "main").glob(WEIGHTS[kind].rpartition("/")[2])
    assert found.read_bytes() == hub.files["main"][WEIGHTS[kind]]
    # Nothing is fetched twice.
    hub.asked.clear()
    make(model(kind), out, hub.url)
    assert not [path for method, path, _ in hub.asked if method == "GET"]


@pytest.mark.parametrize("name", [WEIGHTS["v2"], DICTIONARIES["v2"]["medians"]])
def test_bytes_that_changed_on_their_way_are_refused(name, model, published, serve, out):
    hub = serve(published())
    hub.corrupt.add(name)
    message = fails(model(), out, hub.url)
    assert message.startswith(f"checkpoint main: the sha256 of {name} is ")
    assert "it was damaged on its way, and was deleted. Run again." in message
    hub.corrupt.clear()
    make(model(), out, hub.url)


def test_offline_the_cache_is_enough_and_nothing_else_is_asked(
    model, published, serve, out, monkeypatch
):
    hub = serve(published())
    for name in (f"{FOLDERS['v2']}/config.json", WEIGHTS["v2"], *DICTIONARIES["v2"].values()):
        huggingface_hub.hf_hub_download(GENEFORMER, name, endpoint=hub.url)
    hub.asked.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    make(model(), out)
    assert hub.asked == []
    assert record_of(out)[0]["commit"] == commit_of("main")


@pytest.mark.parametrize(
    ("kind", "config"), [("v2", f"{FOLDERS['v2']}/config.json"), ("scgpt", "args.json")]
)
def test_without_network_one_line_says_what_to_put_where(kind, config, model, out, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = fails(model(kind), out)
    assert message.startswith(f"cannot fetch {config} of ")
    assert "the weights and the dictionaries into FOLDER/main/ by hand" in message
    assert f"cellmodel.local to FOLDER in conf/cellmodel/{NAMES[kind]}.yaml" in message


def test_a_dictionary_that_is_not_in_the_cache_is_named(model, published, serve, out, monkeypatch):
    hub = serve(published())
    huggingface_hub.hf_hub_download(GENEFORMER, f"{FOLDERS['v2']}/config.json", endpoint=hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fails(model(), out).startswith(f"cannot fetch {DICTIONARIES['v2']['tokens']} of")


def test_a_commit_is_asked_for(model, published, serve, out):
    hub = serve(published())
    make(model(commit=commit_of("main")), out, hub.url)
    assert not [path for _, path, _ in hub.asked if "/resolve/main/" in path]
    assert record_of(out)[0]["revision"] == commit_of("main")
    message = fails(model(commit="0" * 40), out.with_name("other") / "tiny", hub.url)
    assert message.startswith(f"{GENEFORMER} has no revision {'0' * 40} (for main). Correct cell")


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        (f"{FOLDERS['v2']}/config.json", "it is no checkpoint. Correct cellmodel.commit in"),
        (
            DICTIONARIES["v2"]["mapping"],
            "ensembl_mapping_dict_gc104M.pkl, which conf/cellmodel/geneformer-v2-104m.yaml names.",
        ),
        (WEIGHTS["v2"], "at main has none of Geneformer-V2-104M/model.safetensors, Geneformer-V2-"),
    ],
)
def test_a_revision_that_lacks_a_file(left_out, said, model, published, serve, out):
    hub = serve(published())
    del hub.files["main"][left_out]
    assert said in fails(model(), out, hub.url)


# --- folders -------------------------------------------------------------------------------------


def _flat(folder, kind):
    """Return a folder with all files of the model directly in it."""
    flat = folder.with_name("flat")
    flat.mkdir()
    for path in [*(folder / FOLDERS[kind]).glob("*.*"), *folder.rglob("*.pkl")]:
        shutil.copyfile(path, flat / path.name)
    return flat


@pytest.mark.parametrize("layout", ["clone", "flat", "named", "found"])
def test_a_folder_does_without_network(layout, model, published, out):
    folder = published()
    wanted = (folder / WEIGHTS["v2"]).read_bytes()
    settings = {}
    if layout in {"flat", "found"}:
        folder = _flat(folder, "v2")
    if layout == "found":
        settings = {"dictionaries": {}, "subfolder": None, "repo": None}
    if layout == "named":
        folder = folder.rename(folder.parent / "main").parent
    make(model(local=str(folder), **settings), out)
    assert (out / "main" / "model.safetensors").read_bytes() == wanted
    (entry,) = record_of(out)
    assert entry["commit"] is None
    assert entry["vocabulary"]["synonyms"] == 31


def test_what_was_written_is_read_again(model, published, out):
    """A folder with vocabulary.json needs no dictionaries: models that were saved here."""
    make(model(local=str(published())), out)
    again = out.with_name("again")
    bare = {"dictionaries": {}, "subfolder": None, "repo": None}
    make(model(local=str(out), **bare), again)
    assert vocabulary.read(again / "main") == vocabulary.read(out / "main")


def test_several_states_of_one_folder(model, tmp_path, out):
    root = tmp_path / "states"
    for seed, name in enumerate(("early", "late")):
        published_cells.geneformer(root / name, seed=seed)
    make(model(local=str(root), checkpoints=["early", "late"]), out)
    assert [entry["state"] for entry in record_of(out)] == ["early", "late"]
    shutil.rmtree(root / "late")
    shutil.copytree(root / "early", root / "late")
    message = fails(model(local=str(root), checkpoints=["early", "late"]), out.parent / "b" / "c")
    assert message.startswith("checkpoint early has the sha256 of late")
    assert message.endswith("Pin a commit or drop it from cellmodel.checkpoints.")
    message = fails(
        model(local=str(root / "early"), checkpoints=["early", "late"]), out.parent / "b" / "c"
    )
    assert "is one state and cellmodel.checkpoints names 2" in message


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("v2", "has no Geneformer-V2-104M/config.json. Put there what ctheodoris/Geneformer has"),
        ("scgpt", "has no args.json. Put there what perturblab/scgpt-human has at its revision"),
    ],
)
def test_a_folder_that_holds_nothing(kind, said, model, tmp_path, out):
    assert said in fails(model(kind, local=str(tmp_path)), out)


def test_dictionaries_that_are_not_named_are_found_or_asked_for(model, published, out):
    flat = _flat(published(), "v2")
    bare = {"dictionaries": {}, "subfolder": None, "local": str(flat)}
    shutil.copyfile(flat / "token_dictionary_gc104M.pkl", flat / "token_dictionary_gc95M.pkl")
    assert "token_dictionary_gc104M.pkl and token_dictionary_gc95M.pkl. Name the one" in fails(
        model(**bare), out
    )
    for path in flat.glob("token_dictionary*"):
        path.unlink()
    assert "has no token_dictionary*.pkl, nor vocabulary.json" in fails(model(**bare), out)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"files": {"model.safetensors": {"sha256": "0" * 64}}}, "model.safetensors ("),
        ({"files": {"config.json": {"size_bytes": 1}}}, "config.json ("),
        (
            {"dictionaries": {"medians": {"sha256": "0" * 64}}},
            "gene_median_dictionary_gc104M.pkl (",
        ),
    ],
)
def test_other_bytes_than_are_pinned(changes, said, model, published, out):
    local = published()
    if "dictionaries" in changes:
        paths = {role: {"path": path} for role, path in DICTIONARIES["v2"].items()}
        paths["medians"] |= changes["dictionaries"]["medians"]
        changes = {"dictionaries": paths}
    message = fails(model(local=str(local), **changes), out)
    assert message.startswith(said)
    assert "conf/cellmodel/geneformer-v2-104m.yaml says " in message


def test_a_pin_of_a_file_that_never_came(model, published, out):
    pins = {"pytorch_model.bin": {"sha256": "0" * 64}}
    message = fails(model(local=str(published()), files=pins), out)
    assert "pins pytorch_model.bin, and what came is config.json, model.safetensors." in message


def test_versions_do_not_mix(model, published, tmp_path, out):
    folder, other = published(), published_cells.geneformer(tmp_path / "other", "v1")
    shutil.copytree(other / "geneformer", folder / "geneformer", dirs_exist_ok=True)
    of_v1 = {role: {"path": path} for role, path in DICTIONARIES["v1"].items()}
    message = fails(model(local=str(folder), dictionaries=of_v1), out)
    assert "token_dictionary_gc30M.pkl is of V1 and has 32 ids" in message
    assert "vocab_size 34: they are of two versions (V1 and V2 do not mix)" in message
    # All of V1, under the preset of V2.
    v1 = model(local=str(other), dictionaries=of_v1, subfolder=FOLDERS["v1"])
    message = fails(v1, out)
    assert "the preset geneformer-v2 needs <cls>, which the vocabulary of 32 ids has not" in message
    # One gene more in the medians.
    more = {gene: np.float64(1) for gene in [*IDS, RETIRED]}
    (folder / DICTIONARIES["v2"]["medians"]).write_bytes(published_cells.pickled(more))
    assert f"name other genes: {RETIRED} and 0 more are in one" in fails(
        model(local=str(folder)), out
    )


@pytest.mark.parametrize("role", ["tokens", "medians", "names", "mapping"])
def test_a_poisoned_dictionary_runs_nothing(role, model, published, tmp_path, out):
    folder = published()
    path = folder / DICTIONARIES["v2"][role]
    evil = pickle.loads(path.read_bytes()) | {"x": published_cells.Evil(tmp_path / "evil")}
    path.write_bytes(published_cells.pickled(evil))
    message = fails(model(local=str(folder)), out)
    assert "which no dictionary of genes needs; nothing was run" in message
    assert not (tmp_path / "evil").exists()


def test_a_wrong_id_of_the_padding(model, published, tmp_path, out):
    folder = published(pad_token_id=1)
    message = fails(model(local=str(folder)), out)
    assert "config.json says pad_token_id 1, and the dictionary gives <pad> the id 0" in message
    # What a mirror of scGPT says: A1BG would be padding.
    mirror = published_cells.scgpt(tmp_path / "mirror", pad_token_id=0)
    message = fails(model("scgpt", local=str(mirror)), out)
    assert "args.json says pad_token_id 0, and the dictionary gives <pad> the id 40" in message


def _without(weights, name):
    del weights[name]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda w: _without(w, "bert.encoder.layer.1.output.dense.bias"),
            "checkpoint main: it lacks bert.encoder.layer.1.output.dense.bias (0 more such names)",
        ),
        (
            lambda w: w.update({"bert.encoder.layer.2.output.dense.bias": torch.zeros(16)}),
            "bert.encoder.layer.2.output.dense.bias of model.safetensors is unknown",
        ),
        (
            lambda w: w.update({"bert.embeddings.word_embeddings.weight": torch.zeros(33, 16)}),
            "has shape (33, 16), its config.json says (34, 16)",
        ),
        (
            lambda w: w.update({"cls.predictions.bias": torch.full((34,), torch.nan)}),
            "cls.predictions.bias of model.safetensors holds nan or infinity",
        ),
    ],
    ids=["missing", "extra", "shape", "nan"],
)
def test_weights_that_are_not_geneformers(change, said, model, published, out):
    folder = published()
    weights = load_file(folder / WEIGHTS["v2"])
    change(weights)
    save_file(weights, folder / WEIGHTS["v2"], metadata={"format": "pt"})
    assert said in fails(model(local=str(folder)), out)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: _without(w, "decoder.fc.4.bias"), "decoder.fc.4.bias is not among the weights"),
        (
            lambda w: w.update({"bin_encoder.weight": torch.zeros(2)}),
            "bin_encoder.weight is no weight of the model that args.json makes",
        ),
        (
            lambda w: w.update({"encoder.embedding.weight": torch.zeros(44, 48)}),
            "the weights embed 44 genes and special tokens, the vocabulary beside them has 43",
        ),
        (
            lambda w: w.update({"decoder.fc.4.bias": torch.full((1,), torch.inf)}),
            "decoder.fc.4.bias holds 1 values that are nan or infinite",
        ),
    ],
    ids=["missing", "extra", "vocabulary", "infinite"],
)
def test_weights_that_are_not_scgpts(change, said, model, published, out):
    folder = published("scgpt")
    weights = torch.load(folder / "best_model.pt", weights_only=True)
    change(weights)
    torch.save(weights, folder / "best_model.pt")
    assert said in fails(model("scgpt", local=str(folder)), out)


def test_code_in_scgpts_weights_is_not_run(model, published, tmp_path, out):
    folder = published("scgpt")
    torch.save({"a": published_cells.Evil(tmp_path / "evil")}, folder / "best_model.pt")
    message = fails(model("scgpt", local=str(folder)), out)
    assert "best_model.pt" in message
    assert "is truncated or no file of weights" in message
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"n_bins": 41}, "args.json says n_bins 41; the preset scgpt writes 51."),
        ({"pad_value": 0}, "args.json says pad_value 0; the preset scgpt writes -2."),
        ({"nheads": 5}, "says 5 heads for a width of 48, which is no multiple of it"),
    ],
)
def test_an_scgpt_of_other_values(args, said, model, published, out):
    assert said in fails(model("scgpt", local=str(published("scgpt", **args))), out)


def test_cells_longer_than_the_model_has_positions_are_told_before_weights_come(
    model, published, serve, out
):
    hub = serve(published(max_position_embeddings=39))
    message = fails(model(), out, hub.url)
    assert message.startswith("cellmodel.cells.encoding.max_length 40 is above the 39 positions")
    assert not [path for _, path, _ in hub.asked if path.endswith("model.safetensors")]


def test_another_family(model, published, out):
    folder = published()
    published_cells.changed(folder / FOLDERS["v2"] / "config.json", model_type="gpt2")
    assert "is of the family 'gpt2'; a Geneformer is 'bert'" in fails(model(local=str(folder)), out)


@pytest.mark.parametrize("content", ["{", "[]"])
@pytest.mark.parametrize("kind", ["v2", "scgpt"])
def test_a_file_that_is_no_configuration(kind, content, model, published, out):
    folder = published(kind)
    name = "args.json" if kind == "scgpt" else f"{FOLDERS['v2']}/config.json"
    (folder / name).write_text(content)
    assert name.rpartition("/")[2] in fails(model(kind, local=str(folder)), out)


# --- settings ------------------------------------------------------------------------------------


def test_every_published_model_composes_and_pins_what_is_known(repository, tmp_path):
    names = sorted(path.stem for path in (repository / "conf" / "cellmodel").glob("*.yaml"))
    assert set(NAMES.values()) <= set(names)
    params = tmp_path / "params.yaml"
    given = {"none": [], "cell-mini": [], "cells-local": ["cellmodel.local=/m"]}
    for name in names:
        words = ["--conf", str(repository / "conf"), "--params", str(params), "--cellmodel", name]
        single = given.get(name, [])
        if name not in {"none", "cell-mini"}:
            assert compose.main(words) == 1
            single = [*single, "cellmodel.cells.h5ad=/counts.h5ad"]
        assert compose.main([*words, *(["--set", *single] if single else [])]) == 0
        composed = yaml.safe_load(params.read_text(encoding="utf-8"))
        of = composed["cellmodel"]
        assert of["name"] == name
        brought = {"mini": ([name], []), "hub": ([], [name]), "none": ([], [])}[of["source"]]
        assert (composed["cell_trained"], composed["cell_downloaded"]) == brought
        if of["source"] == "hub" and of["repo"]:
            (weights,) = set(of["files"]) - {"args.json"}
            assert set(of["files"][weights]) == {"sha256", "size_bytes"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"repo": None}, "neither repo nor local is given; name a folder: SET=cellmodel.local="),
        ({"repo": "scgpt"}, "should match pattern"),
        ({"subfolder": "../x"}, "should match pattern"),
        ({"commit": "main"}, "should match pattern"),
        ({"commit": "0" * 40, "checkpoints": ["a", "b"]}, "commit is of one state and checkpoints"),
        ({"dictionaries": {}}, "dictionaries names none; the preset geneformer-v2 needs medians"),
        (
            {"dictionaries": {"vocab": {"path": "vocab.json"}}},
            "dictionaries names vocab; the preset geneformer-v2 needs medians and tokens",
        ),
        ({"dictionaries": {"tokens": {"path": "/etc/x"}}}, "should match pattern"),
        ({"dictionaries": {"genes": {"path": "x"}}}, "Input should be 'tokens', 'medians'"),
        ({"files": {"model.safetensors": {"md5": "x"}}}, "Extra inputs are not permitted"),
        ({"files": {"folder/model.safetensors": {}}}, "should match pattern"),
        ({"source": "web"}, "'mini', 'hub', 'none'"),
    ],
)
def test_settings_that_cannot_be(changes, said, model):
    with pytest.raises(ValidationError, match=said):
        model(**changes)


def test_a_model_that_is_trained_here_is_not_downloaded(repository, tmp_path, caplog):
    words = ["--params", str(repository / "params.yaml"), "--out", str(tmp_path / "out")]
    assert command.main(words) == 1
    assert "which downloads nothing. Compose another:" in caplog.text


# --- the published dictionaries ------------------------------------------------------------------


def test_the_true_dictionaries_of_v1_are_those_that_are_pinned(
    repository, model, real_input, tmp_path, out
):
    folder = real_input("geneformer_v1")
    path = repository / "conf" / "cellmodel" / "geneformer-v1-10m.yaml"
    pinned = yaml.safe_load(path.read_text(encoding="utf-8"))["dictionaries"]
    # The inputs of the tests lack it.
    del pinned["mapping"]
    local = tmp_path / "local"
    sizes = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes |= {"vocab_size": 25426, "max_position_embeddings": 40, "intermediate_size": 4}
    BertForMaskedLM(BertConfig(**sizes)).save_pretrained(local)
    for of in pinned.values():
        name = of["path"].rpartition("/")[2]
        shutil.copyfile(folder / name.replace("_gc30M", ""), local / name)
    make(model("v1", local=str(local), dictionaries=pinned), out)
    assert record_of(out)[0]["vocabulary"] == {
        "size": 25426,
        "synonyms": 21245,
        "synonyms_without_a_token": 19003,
    }
    published_cells.changed(local / "config.json", vocab_size=20275)
    message = fails(model("v1", local=str(local), dictionaries=pinned), out.parent / "b" / "c")
    assert "is of V1 and has 25426 ids, and the model of" in message
