"""The published model's true shape through the graph, from a folder in the Hub's layout."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from stages.measurement.effects import read

STEP = 512
HEADS = [(0, 0), (11, 7), (12, 3), (23, 15)]
N_SEQUENCES, SEQ_LEN = 2, 64
# As the published config.json writes it: options of older versions of transformers.
CONFIG = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "vocab_size": 50304,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 2048,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_parallel_residual": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
PUBLISHED_BYTES = 911_449_213
SETTINGS = [
    "model.local=hub",
    f"model.checkpoints=[step{STEP}]",
    "model.text.protocol=file",
    "model.text.path=text.txt",
    f"model.text.n_sequences={N_SEQUENCES}",
    f"model.text.seq_len={SEQ_LEN}",
    "model.text.reference_sequences=1",
    f"sweep.heads={[list(pair) for pair in HEADS]}".replace(" ", ""),
    "sweep.layers=false",
    "sweep.noise.alphas=[]",
]
# Loaded by every Python that the run starts: whoever looks for an address or connects to one is
# written down and refused.
GUARD = """
import os, sys

def refuse(event, arguments):
    local = event == "socket.connect" and not isinstance(arguments[1], tuple)
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname"} and not local:
        with open(os.environ["NETWORK_LOG"], "a", encoding="utf-8") as log:
            log.write(f"{sys.argv} {event} {arguments}\\n")
        raise OSError("no network in this test")

sys.addaudithook(refuse)
"""


def _weights() -> dict[str, torch.Tensor]:
    """Return random float16 weights under their published names, and the masks of old versions."""
    with torch.device("meta"):
        shapes = GPTNeoXForCausalLM(GPTNeoXConfig(**CONFIG)).state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in shapes.items():
        # Wider than before training, so that every head has an effect far above rounding.
        drawn = torch.randn(tensor.shape, generator=generator).mul_(0.05)
        if name.endswith(("layernorm.weight", "layer_norm.weight")):
            drawn += 1
        state[name.replace("lm_head", "embed_out")] = drawn.half()
    seq = CONFIG["max_position_embeddings"]
    for layer in range(CONFIG["num_hidden_layers"]):
        prefix = f"gpt_neox.layers.{layer}.attention"
        state[f"{prefix}.bias"] = torch.ones(1, 1, seq, seq, dtype=torch.uint8).tril_()
        state[f"{prefix}.masked_bias"] = torch.tensor(-1e9).half()
    return state


def _environment(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_", "HF_"))}
    return kept | {
        # `python` in dvc.yaml is the one that runs the tests.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "guard"),
        "NETWORK_LOG": str(folder / "network.log"),
        "HF_HOME": str(folder / "huggingface"),
        "DVC_NO_ANALYTICS": "1",
    }


def _run(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=_environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{words}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def study(request, repository, real_input, tmp_path_factory):
    """Return a folder in which one checkpoint of the published shape was ablated."""
    tokenizer, text = map(real_input, ("gpt_neox_20b_tokenizer.json", "wikitext2_valid.txt"))
    folder = tmp_path_factory.mktemp("published")
    # Two gigabytes, which pytest would keep for three runs.
    request.addfinalizer(lambda: shutil.rmtree(folder))
    hub = folder / "hub" / f"step{STEP}"
    hub.mkdir(parents=True)
    # The branches of early steps hold no safetensors.
    torch.save(_weights(), hub / "pytorch_model.bin")
    (hub / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    shutil.copyfile(tokenizer, hub / "tokenizer.json")
    lines = text.read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "text.txt").write_text("".join(lines[:40]), encoding="utf-8")
    for name in ("conf", "stages"):
        shutil.copytree(
            repository / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy2(repository / "dvc.yaml", folder)
    (folder / "guard").mkdir()
    (folder / "guard" / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    (folder / ".dvc").mkdir()
    # Links: a gigabyte less to copy.
    (folder / ".dvc" / "config").write_text(
        "[core]\n    no_scm = true\n    check_update = false\n[cache]\n    type = hardlink,copy\n"
    )
    chosen = ["--atlas", "demo", "--model", "pythia-410m-deduped"]
    _run(folder, "stages.base.compose", *chosen, "--set", *SETTINGS)
    _run(folder, "stages.base.repro", "ablate")
    return folder


@pytest.fixture(scope="module")
def effects(study):
    path = study / "data/interim/pythia-410m-deduped/effects" / f"step{STEP}.parquet"
    (part,) = read(path)
    return part


def test_the_checkpoint_is_of_the_published_size_and_recorded_by_its_sha256(study):
    weights = study / "hub" / f"step{STEP}" / "pytorch_model.bin"
    # Another version of PyTorch wrote its index: observed 7 kB less.
    assert weights.stat().st_size == pytest.approx(PUBLISHED_BYTES, rel=1e-4)
    models = study / "models" / "pythia-410m-deduped"
    (record,) = json.loads((models / "checkpoints.json").read_text(encoding="utf-8"))
    with weights.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size = weights.stat().st_size
    said = {"name": "pytorch_model.bin", "size_bytes": size, "sha256": sha256}
    assert record["files"] == [said]
    assert (record["state"], record["commit"]) == (f"step{STEP}", None)
    assert record["repo"] == "EleutherAI/pythia-410m-deduped"


def test_the_effects_are_those_of_the_asked_heads_on_every_sequence(effects):
    assert (effects.state.name, effects.kind, effects.condition) == (f"step{STEP}", "head", "zero")
    known = effects.components
    assert list(zip(known["layer"], known["head"], strict=True)) == list(HEADS)
    assert effects.values.shape == (N_SEQUENCES, len(HEADS))


def test_the_effects_are_those_of_zeroed_columns_in_the_whole_model(study, effects):
    folder = study / "models" / "pythia-410m-deduped" / f"step{STEP}"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    path = study / "data/interim/pythia-410m-deduped/tokens/tokens.npy"
    tokens = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.int64))
    assert tokens.shape == (N_SEQUENCES, SEQ_LEN)

    @torch.inference_mode()
    def losses() -> torch.Tensor:
        logits = model(tokens).logits[:, :-1].double()
        return F.cross_entropy(logits.mT, tokens[:, 1:], reduction="none").mean(dim=-1)

    base = losses()
    n_checked = 0
    for layer, head in HEADS:
        weight = model.gpt_neox.layers[layer].attention.dense.weight.data
        columns = slice(64 * head, 64 * (head + 1))
        saved = weight[:, columns].clone()
        weight[:, columns] = 0
        expected = (losses() - base).numpy()
        weight[:, columns] = saved
        at = effects.components.index.get_loc(f"L{layer}H{head}")
        found = effects.values[:, at]
        # Observed: 4e-7, of effects of up to 2e-2.
        assert found == pytest.approx(expected, abs=5e-6)
        assert np.abs(expected).max() > 1e-3
        n_checked += len(found)
    assert n_checked == len(HEADS) * N_SEQUENCES


def test_nothing_was_asked_of_the_network(study):
    log = study / "network.log"
    assert not log.exists(), log.read_text(encoding="utf-8")
    # The guard does see who tries.
    code = "import urllib.request as r\ntry: r.urlopen('http://127.0.0.1:9')\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", code], env=_environment(study), check=True)
    assert "127.0.0.1" in log.read_text(encoding="utf-8")
    log.unlink()
