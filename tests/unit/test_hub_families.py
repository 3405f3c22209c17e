"""Every family from a folder and in parts: true layouts, random weights, and what can be wrong."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForPreTraining,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from stages.base.errors import CheckpointError
from stages.inputs.hub import __main__ as command
from stages.inputs.hub import verify
from stages.inputs.settings import HubModel, Model

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
GROUPED = SIZES | {"num_key_value_heads": 1}
OF_GPT2 = {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
# BERT as it is published: with the heads of its two training tasks.
MODELS: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertForPreTraining(BertConfig(**SIZES)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**OF_GPT2)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, tie_word_embeddings=True)),
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**GROUPED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=12)),
}
EMBEDDINGS = {
    "bert": "bert.embeddings.word_embeddings.weight",
    "gpt2": "transformer.wte.weight",
    "gpt_neox": "gpt_neox.embed_in.weight",
}
TEXT = {"protocol": "file", "path": "x", "n_sequences": 1, "reference_sequences": 1, "seq_len": 32}


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Return a function that saves a model of a family, whole or in parts, once."""
    root = tmp_path_factory.mktemp("families")

    def folder(family: str, *, parts: bool = False) -> Path:
        path = root / f"{family}-{parts}"
        if not path.exists():
            with torch.random.fork_rng():
                torch.manual_seed(0)
                made = MODELS[family]()
            made.save_pretrained(path, max_shard_size="6KB" if parts else "1GB")
            (path / "tokenizer.json").write_text('{"version": "1.0"}', encoding="utf-8")
        return path

    return folder


@pytest.fixture
def copied(saved, tmp_path):
    """Return a copy of such a folder, to be spoilt."""

    def copy(family: str, **how: bool) -> Path:
        return Path(shutil.copytree(saved(family, **how), tmp_path / "copy"))

    return copy


def settings(local: Path, *states: str, **more: Any) -> HubModel:
    content = {"name": "local", "source": "hub", "demo": False, "notice": None, "repo": None}
    content |= {"folder": "models/local", "checkpoints": list(states) or ["main"], "text": TEXT}
    model: HubModel = TypeAdapter(Model).validate_python(content | {"local": str(local)} | more)
    return model


def make(local: Path, out: Path, *states: str, **more: Any) -> list[dict[str, Any]]:
    command.make(settings(local, *states, **more), out=out, downloads=out.parent / "downloads")
    record: list[dict[str, Any]] = json.loads((out / "checkpoints.json").read_text())
    return record


def fails(local: Path, out: Path, *states: str, **more: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        make(local, out, *states, **more)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert not out.exists()
    return message


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def configure(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")
    return folder


@pytest.mark.parametrize("parts", [False, True], ids=["whole", "parts"])
@pytest.mark.parametrize("family", MODELS)
def test_a_folder_of_any_family_is_a_state(family, parts, saved, tmp_path):
    local, out = saved(family, parts=parts), tmp_path / "models"
    (entry,) = make(local, out)
    weights = sorted(local.glob("*.safetensors"))
    assert (len(weights) > 2) == parts
    assert [(one["name"], one["sha256"]) for one in entry["files"]] == [
        (path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in weights
    ]
    assert (entry["state"], entry["commit"], entry["embedding_drift"]) == ("main", None, 0)
    loader = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    before, after = (loader.from_pretrained(path).state_dict() for path in (local, out / "main"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("family", MODELS)
def test_the_embedding_of_every_family_is_found(family, saved):
    folder = saved(family)
    known = verify.expected(folder / "config.json")
    assert known.embedding == EMBEDDINGS.get(family, "model.embed_tokens.weight")
    found = verify.check_weights([folder / "model.safetensors"], known, state="main")
    assert torch.equal(found, load_file(folder / "model.safetensors")[known.embedding])
    assert known.max_positions == 32


def test_states_are_folders_in_the_order_of_their_list(saved, copied, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(saved("gpt2"), root / "warm_up")
    spoilt = edit(copied("gpt2"), lambda t: t["transformer.wte.weight"].mul_(2))
    shutil.copytree(spoilt, root / "a-final")
    record = make(root, tmp_path / "models", "warm_up", "a-final")
    assert [entry["state"] for entry in record] == ["warm_up", "a-final"]
    assert [entry["embedding_drift"] for entry in record] == pytest.approx([0, 1])
    # What comes back is a fault along a training alone, which these names do not speak of.
    shutil.copytree(saved("gpt2"), root / "back")
    edit(root / "back", lambda t: t["transformer.ln_f.bias"].add_(1))
    assert len(make(root, tmp_path / "again", "warm_up", "a-final", "back")) == 3
    at = {"warm_up": 0, "a-final": 10, "back": 20}
    message = fails(root, tmp_path / "third", *at, positions=at)
    assert message.startswith("checkpoint back is nearer to warm_up than a-final is")


def test_one_folder_is_not_several_states(saved, tmp_path):
    assert "is one state and model.checkpoints names 2" in fails(
        saved("llama"), tmp_path / "m", "main", "other"
    )


def test_names_and_buffers_of_old_files_are_known(copied, tmp_path):
    def as_published(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
        tensors["h.1.attn.masked_bias"] = torch.tensor(-1e4)

    (entry,) = make(edit(copied("gpt2"), as_published), tmp_path / "models")
    assert entry["embedding_drift"] == 0


def test_the_layer_norms_of_old_berts_are_known(copied, tmp_path):
    def as_published(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "LayerNorm" in name]:
            new = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            tensors[new.replace("LayerNorm.bias", "LayerNorm.beta")] = tensors.pop(name)
        tensors["bert.embeddings.position_ids"] = torch.arange(32)[None]

    make(edit(copied("bert"), as_published), tmp_path / "models")


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama-tied"])
def test_tied_weights_may_be_there_if_they_are_the_same(family, copied, tmp_path):
    folder = copied(family)
    known = verify.expected(folder / "config.json")
    (name, source) = next(item for item in known.tied.items() if item[0].endswith("weight"))
    edit(folder, lambda t: t.update({name: t[source].clone()}))
    make(folder, tmp_path / "models")
    edit(folder, lambda t: t[name].add_(1))
    assert fails(folder, tmp_path / "again").startswith(
        f"checkpoint main: {name} is not {source}, to which its config.json ties it."
    )


def test_an_output_embedding_that_is_not_tied_must_be_there(copied, tmp_path):
    folder = edit(copied("llama"), lambda t: t.pop("lm_head.weight"))
    message = fails(folder, tmp_path / "models")
    assert message.startswith("checkpoint main: it lacks lm_head.weight (0 more such names)")
    make(configure(folder, tie_word_embeddings=True), tmp_path / "again")


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("gpt2", {"n_head": 3}, "describes no gpt2 model that could be built ("),
        ("gpt_neox", {"num_attention_heads": 3}, "describes no gpt_neox model that could be built"),
        ("bert", {"num_attention_heads": 3}, "describes no bert model that could be built ("),
        ("qwen3", {"num_attention_heads": 4}, "has shape (16, 24), its config.json says (16, 48)"),
        ("llama", {"num_key_value_heads": 2}, "has shape (8, 16), its config.json says (16, 16)"),
        ("gpt2", {"n_layer": 3}, "it lacks transformer.h.2."),
        ("gpt2", {"n_layer": 1}, "transformer.h.1."),
        ("olmo2", {"vocab_size": 60}, "has shape (64, 16), its config.json says (60, 16)"),
        ("llama", {"model_type": "olmo2"}, "it lacks model.layers.0."),
        ("llama", {"model_type": "t5"}, "is of the family 't5', whose heads cannot be removed"),
    ],
)
def test_a_config_that_lies(family, changes, said, copied, tmp_path):
    assert said in fails(configure(copied(family), **changes), tmp_path / "models")


def test_a_config_whose_heads_do_not_divide_its_width_says_so(copied, tmp_path):
    folder = configure(copied("gpt_neox"), num_attention_heads=3)
    assert re.search(r"built \(.*(divisible|multiple).*\)", fails(folder, tmp_path / "models"))


def test_a_text_beyond_the_positions_of_the_model(saved, tmp_path):
    message = fails(saved("bert"), tmp_path / "m", text=TEXT | {"seq_len": 33})
    assert message.startswith("model.text.seq_len 33 is above the 32 positions of the model (")


def _index(folder: Path, **placed: str | None) -> Path:
    path = folder / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    content["weight_map"] |= placed
    content["weight_map"] = {name: file for name, file in content["weight_map"].items() if file}
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_a_part_that_is_missing(copied, tmp_path):
    folder = copied("gpt2", parts=True)
    part = sorted(folder.glob("model-*.safetensors"))[1]
    part.unlink()
    assert f"has no {part.name}. Put there" in fails(folder, tmp_path / "models")


def test_a_part_that_is_truncated(copied, tmp_path):
    folder = copied("llama", parts=True)
    part = sorted(folder.glob("model-*.safetensors"))[-1]
    part.write_bytes(part.read_bytes()[:-8])
    assert f"{part.name} ({part.stat().st_size} bytes) is truncated" in fails(
        folder, tmp_path / "m"
    )


@pytest.mark.parametrize("file", ["../model-00001-of-00002.safetensors", "/etc/hosts", "x.bin"])
def test_an_index_that_names_a_file_elsewhere(file, copied, tmp_path):
    folder = _index(copied("llama", parts=True), **{"lm_head.weight": file})
    said = f"names {file!r} as the file of lm_head.weight; only .safetensors files beside it"
    assert said in fails(folder, tmp_path / "models")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}'])
def test_an_index_that_is_none(content, copied, tmp_path):
    folder = copied("llama", parts=True)
    (folder / "model.safetensors.index.json").write_text(content)
    assert "index.json is no index of weights" in fails(folder, tmp_path / "models")


def test_an_index_that_names_nothing(copied, tmp_path):
    folder = copied("llama", parts=True)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    assert "index.json names no file of weights." in fails(folder, tmp_path / "models")


def test_a_part_that_holds_other_tensors_than_its_index_says(copied, tmp_path):
    folder = copied("llama", parts=True)
    first, last = (sorted(folder.glob("model-*.safetensors"))[i].name for i in (0, -1))
    placed = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    moved = next(name for name, file in placed.items() if file == last)
    message = fails(_index(folder, **{moved: first}), tmp_path / "models")
    assert message.startswith(f"checkpoint main: {first} lacks {moved}, other than model.safetens")
    message = fails(_index(folder, **{moved: None}), tmp_path / "models")
    assert f"holds {moved}, other than" in message or f"lacks {moved}" in message


def test_parts_of_the_older_kind(copied, tmp_path):
    folder = copied("gpt_neox")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    placed = {}
    for i, name in enumerate(sorted(tensors)):
        placed[name] = f"pytorch_model-0000{1 + i % 2}-of-00002.bin"
    for file in set(placed.values()):
        torch.save({name: tensors[name] for name in tensors if placed[name] == file}, folder / file)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}), encoding="utf-8")
    (entry,) = make(folder, tmp_path / "models")
    assert [one["name"] for one in entry["files"]] == sorted(set(placed.values()))
    assert (tmp_path / "models" / "main" / index.name).exists()
