"""Models that lie on this computer, in parts, to the paper: named states and one alone."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from stages.base import tables
from stages.features.tables.annotate import ANNOTATED
from stages.features.tables.steer import STEERING
from stages.features.tables.trace import TRACED
from stages.heads.tables.importance import HEAD_IMPORTANCE
from stages.inputs.mini import tokenizer as tokenizers
from stages.measurement.effects import read
from stages.measurement.tables import CHANGES, MEASURED
from tests.clones import FEW_OF_CELLS, FEW_OF_HEADS, REPRO, copy_of, must, stages_run

N_SEQUENCES, SEQ_LEN, VOCAB = 8, 32, 400
SETTINGS = {
    "atlas.cells.mine.raw": "cells.csv.gz",
    "model.local": "weights",
    "model.text.path": "text.txt",
    "model.text.n_sequences": N_SEQUENCES,
    "model.text.reference_sequences": 64,
    "model.text.seq_len": SEQ_LEN,
    "model.text.min_characters": 20,
    "sweep.noise.draws": 4,
}
# Features of the language model, by one setting, and few of them.
FEATURES = """
    features.of=model autoencoders.judged=4 autoencoders.seeds=1 autoencoders.training.features=48
    autoencoders.training.batch=128
    combine.min_sequences=5 combine.sets=2 trace.min_sequences=5 trace.nulls=4 trace.sequences=8
"""
FIGURES = ("head_trajectories", "head_effects", "head_heatmap", "lorenz", "pythia_overlay_v2")


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB,
            n_embd=32,
            n_layer=3,
            n_head=4,
            n_positions=SEQ_LEN,
            initializer_range=0.3,  # wide, so that every head has an effect far above rounding
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=64,
            max_position_embeddings=SEQ_LEN,
            initializer_range=0.3,
            tie_word_embeddings=False,
        )
    )


NAMED = ("ATLAS=local", "MODEL=local", "CELLMODEL=none")
# What builds it, its states, and where its heads are mixed.
CASES = {
    "gpt2 alone": (gpt2, ["main"], "transformer.h.{}.attn.c_proj"),
    "llama named": (llama, ["warm_up", "final-2"], "model.layers.{}.self_attn.o_proj"),
}


@pytest.fixture(scope="module")
def clone(repository, marrow_cells, tmp_path_factory):
    """Return a copy with real cells of one tissue and a text."""
    folder = copy_of(repository, tmp_path_factory.mktemp("any") / "clone")
    shutil.copyfile(marrow_cells, folder / "cells.csv.gz")
    texts = [(repository / name).read_text("utf-8") for name in ("README.md", "CONTRIBUTING.md")]
    (folder / "text.txt").write_text("".join(texts), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=CASES)
def study(request, clone):
    """Return the copy on which everything was made from such a model; the cells only once."""
    build, states, projection = CASES[request.param]
    lines = (clone / "text.txt").read_text(encoding="utf-8").splitlines()
    learnt = tokenizers.learn(lines, vocab_size=VOCAB)
    # What an earlier list of states left is refused, as an error says.
    for left in ("weights", "data/interim/local"):
        shutil.rmtree(clone / left, ignore_errors=True)
    for seed, state in enumerate(states):
        # A state alone is the folder itself.
        weights = clone / "weights" / (state if len(states) > 1 else "")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            build().save_pretrained(weights, max_shard_size="40KB")
        assert len(list(weights.glob("model-*.safetensors"))) > 1
        tokenizers.save(learnt, weights)
    given = SETTINGS | {"model.checkpoints": f"[{','.join(states)}]"}
    words = " ".join(f"{key}={value}" for key, value in given.items())
    words += FEW_OF_CELLS + FEW_OF_HEADS + FEATURES * (len(states) > 1)
    said = must(clone, "make", "reproduce", *NAMED, f"SET={words}")
    ran = stages_run(said)
    assert [name for name in ran if name.startswith("ablate@")] == [f"ablate@{s}" for s in states]
    assert "render" in ran
    return clone, states, projection


def test_every_state_is_recorded_and_measured(study):
    folder, states, _ = study
    record = json.loads((folder / "models/local/checkpoints.json").read_text(encoding="utf-8"))
    assert [entry["state"] for entry in record] == states
    assert all(len(entry["files"]) > 1 for entry in record)
    measured = tables.read(folder / "reports/tables/measured/heads.csv", MEASURED)
    positions = measured.drop_duplicates("state").set_index("state")["position"]
    assert positions.to_dict() == {name: float(i) for i, name in enumerate(states)}
    changes = tables.read(folder / "reports/tables/changes/heads.csv", CHANGES)
    assert changes["state_last"].unique().tolist() == states[1:]
    importance = tables.read(folder / "reports/tables/head_importance.csv", HEAD_IMPORTANCE)
    of_heads = importance[importance["unit"] == "head"]
    assert of_heads.groupby("state", sort=False).size().to_dict() == dict.fromkeys(states, 12)


def test_the_effects_are_those_of_a_hook_on_the_whole_model(study):
    folder, states, projection = study
    tokens = torch.from_numpy(
        np.load(folder / "data/interim/local/tokens/tokens.npy").astype(np.int64)
    )
    assert tokens.shape == (N_SEQUENCES, SEQ_LEN)
    for state in states:
        model = AutoModelForCausalLM.from_pretrained(folder / "models/local" / state).eval()

        @torch.inference_mode()
        def losses(model=model):
            logits = model(tokens).logits[:, :-1].double()
            return F.cross_entropy(logits.mT, tokens[:, 1:], reduction="none").mean(dim=-1)

        base = losses()
        parts = read(folder / f"data/interim/local/effects/{state}.parquet")
        (found,) = (part for part in parts if part.kind == "head")
        expected = []
        for layer, head in found.components[["layer", "head"]].itertuples(index=False):

            def empty(_, arguments, head=head):
                heads = arguments[0].clone()
                heads[..., 8 * head : 8 * (head + 1)] = 0
                return (heads,)

            mixing = model.get_submodule(projection.format(layer))
            handle = mixing.register_forward_pre_hook(empty)
            expected.append((losses() - base).numpy())
            handle.remove()
        assert found.values == pytest.approx(np.array(expected).T, abs=1e-5)
        assert np.abs(expected).max() > 1e-2


def test_the_paper_says_what_there_is(study):
    folder, states, _ = study
    paper = " ".join((folder / "reports/paper.qmd").read_text(encoding="utf-8").split())
    one = len(states) == 1
    assert (f"One state of the model was measured, {states[0]}: there is no change" in paper) == one
    follows = rf"follows \d+ heads of \S+ from {states[0]} to {states[-1]}, while"
    assert bool(re.search(follows, paper)) == (not one)
    assert ("{#fig-plane" in paper) == (not one)
    html = " ".join((folder / "reports/_output/paper.html").read_text(encoding="utf-8").split())
    assert "there is no change to show" in html or not one
    for name in FIGURES:
        assert (folder / f"reports/figures/fig_{name}.png").stat().st_size > 10_000
    plots = pd.read_csv(folder / "reports/plots/trajectory.csv")
    assert plots["state"].unique().tolist() == states
    numbers = json.loads((folder / "reports/headline.json").read_text(encoding="utf-8"))
    assert ("gini_first" in numbers["heads"]) == (not one)


def test_features_of_a_language_model_are_traced_and_named_by_how_tokens_are_written(study):
    folder, states, _ = study
    if len(states) == 1:
        pytest.skip("features are asked for of the other model")
    of = folder / "reports/tables/features"
    traced = tables.read(of / "traced.csv", TRACED)
    assert len(traced) >= 3
    assert {"kind", "place"} <= set(tables.read(of / "annotated.csv", ANNOTATED)["collection"])
    assert tables.read(of / "steering.csv", STEERING).empty
    paper = (folder / "reports/paper.qmd").read_text(encoding="utf-8")
    assert "Sparse autoencoders of the last state of local" in paper


def test_heads_alone_need_no_more_than_their_own_paper(study):
    folder, _, _ = study
    assert stages_run(must(folder, "make", "heads")) == ["study", "heads_alone@heads"]
    paper = " ".join((folder / "reports/heads.qmd").read_text(encoding="utf-8").split())
    assert 'title: "Over how many attention heads is the function of a model spread?"' in paper
    for word in ("young", "tissue", "mice", "animals", "contrast.csv"):
        assert not re.search(rf"\b{word}", paper), word
    assert (folder / "reports/_output/heads.pdf").stat().st_size > 20_000


def test_nothing_runs_a_second_time(study):
    folder, _, _ = study
    assert not stages_run(must(folder, *REPRO))


def test_one_more_state_runs_that_alone_and_what_shows_all(study):
    folder, states, _ = study
    if len(states) == 1:
        pytest.skip("a folder of one state has no room for another")
    must(folder, "python", "-c", _ANOTHER, "weights/final-2", "weights/last")
    given = SETTINGS | {"model.checkpoints": f"[{','.join([*states, 'last'])}]"}
    words = [f"{key}={value}" for key, value in given.items()]
    words += f"{FEW_OF_CELLS} {FEW_OF_HEADS} {FEATURES}".split()
    must(folder, "python", "-m", "stages.base.compose", "--set", *words)
    ran = stages_run(must(folder, *REPRO, "importance"))
    of_states = [name for name in ran if "@" in name]
    assert of_states == ["downloaded@local", "attribution@last", "ablate@last"]


def test_weights_that_were_exchanged_in_their_place_are_noticed(study):
    folder, states, _ = study
    if len(states) == 1:
        pytest.skip("where one state lies, there is none to exchange it for")
    shutil.rmtree(folder / "weights" / states[0])
    must(folder, "python", "-c", _ANOTHER, "weights/last", f"weights/{states[0]}")
    shutil.copyfile(
        folder / "weights/final-2/tokenizer.json", folder / f"weights/{states[0]}/tokenizer.json"
    )
    ran = stages_run(must(folder, *REPRO, "importance"))
    of_states = [name for name in ran if "@" in name]
    assert of_states == ["downloaded@local", f"attribution@{states[0]}", f"ablate@{states[0]}"]


# Another model in the same layout.
_ANOTHER = """
import sys
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
model.get_input_embeddings().weight.data.mul_(1.5)
model.save_pretrained(sys.argv[2], max_shard_size="40KB")
"""
