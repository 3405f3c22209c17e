"""Checkpoints from a server on loopback that speaks as the Hub does, and sometimes lies."""

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from stages.base.errors import CheckpointError
from stages.inputs.hub import __main__ as command
from stages.inputs.hub import verify
from stages.inputs.hub.download import alone
from stages.inputs.published import download
from stages.inputs.settings import HubModel, Model

REPO = "EleutherAI/tiny"
SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
# As the published files write it: options of older versions of transformers.
CONFIG = json.dumps(
    SIZES
    | {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "hidden_act": "gelu",
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "use_parallel_residual": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
).encode()
TOKENIZER = b'{"version": "1.0"}'


def weights(drift: float, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return float16 weights whose embedding lies `drift` away from that of step 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)).state_dict()
    generator = torch.Generator().manual_seed(seed + 1)
    del state["lm_head.weight"]
    embedding = state["gpt_neox.embed_in.weight"]
    move = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(1))
    embedding = embedding + drift * embedding.norm() * move / move.norm()
    state["gpt_neox.embed_in.weight"] = embedding
    state["embed_out.weight"] = torch.randn(64, 16, generator=generator)
    return {name: tensor.half() for name, tensor in state.items()}


def as_bin(state: dict[str, torch.Tensor], path: Path) -> bytes:
    """Return pytorch_model.bin with the masks that older versions of transformers kept in it."""
    state = dict(state)
    for layer in range(SIZES["num_hidden_layers"]):
        prefix = f"gpt_neox.layers.{layer}.attention"
        state[f"{prefix}.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.uint8).tril()
        state[f"{prefix}.masked_bias"] = torch.tensor(-1e9).half()
    torch.save(state, path)
    return path.read_bytes()


def commit_of(branch: str) -> str:
    return hashlib.sha1(branch.encode(), usedforsecurity=False).hexdigest()


@dataclass
class Hub(ThreadingHTTPServer):
    """Serves ``/<repo>/resolve/<revision>/<file>`` for branches and commits."""

    repo: str = REPO
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    """By file name: close the connection after so many bytes, once."""
    corrupt: set[str] = field(default_factory=set)
    """Names of files that come with other bytes than they are marked with."""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    stall: tuple[str, int] = ("", 0)
    """Name of a file that stops coming after so many bytes, and how many."""

    def __post_init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Answer until the block ends."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            thread.join()
            self.server_close()

    def put(self, step: int, **files: bytes) -> None:
        names = {"config": "config.json", "tokenizer": "tokenizer.json", "bin": "pytorch_model.bin"}
        names |= {"safetensors": "model.safetensors"}
        content = {"config": CONFIG, "tokenizer": TOKENIZER} | files
        self.files[f"step{step}"] = {names[key]: body for key, body in content.items()}


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub = self.server
        hub.asked.append((self.command, self.path, self.headers.get("Range")))
        hub.agents.add(self.headers.get("User-Agent", ""))
        prefix = f"/{hub.repo}/resolve/"
        if not self.path.startswith(prefix):
            self._refuse("RepoNotFound")
            return
        revision, _, name = self.path.removeprefix(prefix).partition("/")
        branches = {commit_of(branch): branch for branch in hub.files}
        branch = branches.get(revision, revision)
        if branch not in hub.files:
            self._refuse("RevisionNotFound")
            return
        content = hub.files[branch].get(name)
        if content is None:
            self._refuse("EntryNotFound", commit=commit_of(branch))
            return
        start = 0
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit_of(branch))
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            end = hub.cut.pop(name, len(content))
            if name in hub.corrupt:
                content = content[::-1]
            if name == hub.stall[0]:
                self.wfile.write(content[start : hub.stall[1]])
                self.wfile.flush()
                # As long as whoever asked is alive.
                self.rfile.read(1)
                return
            self.wfile.write(content[start:end])
            if end < len(content):
                self.close_connection = True

    def _refuse(self, code: str, *, commit: str = "") -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub(tmp_path):
    server = Hub()
    for step in (0, 1, 2):
        server.put(step, bin=as_bin(weights(0.1 * step, seed=step), tmp_path / "x.bin"))
    with server.serving():
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def conf(repository):
    path = repository / "conf" / "model" / "pythia-410m-deduped.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture
def model(conf) -> Callable[..., HubModel]:
    def made(**changes: Any) -> HubModel:
        states = ["step0", "step1", "step2"]
        text = conf["text"] | {"seq_len": 32}
        content = conf | {"repo": REPO, "checkpoints": states, "revisions": {}, "text": text}
        content |= changes
        return TypeAdapter(Model).validate_python(content)

    return made


@pytest.fixture
def out(tmp_path):
    return tmp_path / "models" / "tiny"


def make(model, *, out, endpoint):
    downloads = out.parents[1] / "downloads"
    command.make(model, out=out, downloads=downloads, endpoint=endpoint)


def _fails(model, out, hub):
    with pytest.raises(CheckpointError) as caught:
        make(model, out=out, endpoint=hub.url)
    message = str(caught.value)
    assert "\n" not in message
    assert not out.exists()
    assert list(out.parent.glob("*")) == []
    return message


def test_checkpoints_come_as_they_are_and_are_recorded(hub, model, out):
    make(model(), out=out, endpoint=hub.url)
    record = json.loads((out / "checkpoints.json").read_text())
    assert [entry["state"] for entry in record] == ["step0", "step1", "step2"]
    for entry in record:
        step = entry["state"]
        content = hub.files[step]["pytorch_model.bin"]
        assert (out / step / "pytorch_model.bin").read_bytes() == content
        assert entry["commit"] == commit_of(step)
        assert (entry["repo"], entry["revision"]) == (REPO, step)
        assert entry["files"] == [_said("pytorch_model.bin", content)]
    # float16 rounds the drifts of 0, 0.1 and 0.2: observed 2e-6.
    drifts = [entry["embedding_drift"] for entry in record]
    assert drifts == pytest.approx([0, 0.1, 0.2], abs=1e-4)
    loaded = AutoModelForCausalLM.from_pretrained(out / "step2", dtype=torch.float32)
    expected = weights(0.2, seed=2)["embed_out.weight"].float()
    assert torch.equal(loaded.get_output_embeddings().weight, expected)
    # All but the first file of a checkpoint is asked of the commit that the first resolved to.
    asked = {path for _, path, _ in hub.asked if path.endswith(".bin")}
    assert asked == {f"/{REPO}/resolve/{commit_of(f'step{i}')}/pytorch_model.bin" for i in range(3)}


def _said(name: str, content: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    return {"name": name, "size_bytes": len(content), "sha256": sha256}


def test_safetensors_are_preferred(hub, model, out, tmp_path):
    save_file(weights(0.1, seed=1), tmp_path / "x.safetensors", metadata={"format": "pt"})
    content = (tmp_path / "x.safetensors").read_bytes()
    hub.put(1, bin=b"never read", safetensors=content)
    make(model(), out=out, endpoint=hub.url)
    assert not (out / "step1" / "pytorch_model.bin").exists()
    assert (out / "step1" / "model.safetensors").read_bytes() == content


def test_a_pinned_commit_is_asked_for(hub, model, out):
    pins = {"step1": {"commit": commit_of("step1")}}
    make(model(revisions=pins), out=out, endpoint=hub.url)
    assert not [path for _, path, _ in hub.asked if "/resolve/step1/" in path]
    assert json.loads((out / "checkpoints.json").read_text())[1]["revision"] == commit_of("step1")


def test_weights_with_another_sha256_than_the_settings_say(hub, model, out):
    pins = {"step1": {"sha256": {"pytorch_model.bin": "0" * 64}}}
    message = _fails(model(revisions=pins), out, hub)
    assert "checkpoint step1: the sha256 of pytorch_model.bin is" in message
    assert f"conf/model/pythia-410m-deduped.yaml says {'0' * 64}" in message


def test_a_second_run_downloads_nothing_again(hub, model, out):
    make(model(), out=out, endpoint=hub.url)
    first = (out / "checkpoints.json").read_bytes()
    hub.asked.clear()
    make(model(), out=out, endpoint=hub.url)
    assert not [path for method, path, _ in hub.asked if method == "GET"]
    assert (out / "checkpoints.json").read_bytes() == first


def test_a_connection_that_breaks_is_taken_up_again(hub, model, out):
    hub.cut["pytorch_model.bin"] = 5500
    make(model(), out=out, endpoint=hub.url)
    name = f"/{REPO}/resolve/{commit_of('step0')}/pytorch_model.bin"
    assert [path for method, path, _ in hub.asked if method == "GET"].count(name) == 2
    content = hub.files["step0"]["pytorch_model.bin"]
    assert (out / "step0" / "pytorch_model.bin").read_bytes() == content


def test_a_second_process_is_refused(hub, model, out):
    downloads = out.parents[1] / "downloads"
    with alone(downloads, "pythia-410m-deduped"):
        assert "another process downloads pythia-410m-deduped" in _fails(model(), out, hub)


def test_a_killed_download_goes_on_where_it_stopped(hub, model, out):
    content = hub.files["step0"]["pytorch_model.bin"]
    folder = out.parents[1] / "downloads" / "hub" / REPO / commit_of("step0")
    folder.mkdir(parents=True)
    part = folder / "pytorch_model.bin.part"
    part.write_bytes(content[:5000])
    url = f"{hub.url}/{REPO}/resolve/{commit_of('step0')}/pytorch_model.bin"
    etag = f'"{hashlib.sha256(content).hexdigest()}"'
    state = download.PartState(url=url, etag=etag, last_modified=None, size_bytes=len(content))
    download.state_path(part).write_text(json.dumps(dataclasses.asdict(state)))
    make(model(), out=out, endpoint=hub.url)
    assert [asked for _, _, asked in hub.asked if asked] == ["bytes=5000-"]
    assert (out / "step0" / "pytorch_model.bin").read_bytes() == content


def test_bytes_that_changed_on_their_way_are_refused(hub, model, out):
    hub.corrupt.add("pytorch_model.bin")
    message = _fails(model(), out, hub)
    assert "was damaged on its way, and was deleted. Run again." in message
    hub.corrupt.clear()
    make(model(), out=out, endpoint=hub.url)


def test_what_had_come_before_a_failure_is_not_fetched_again(hub, model, out):
    served = hub.files.pop("step2")
    _fails(model(), out, hub)
    hub.files["step2"] = served
    hub.asked.clear()
    make(model(), out=out, endpoint=hub.url)
    fetched = {path for method, path, _ in hub.asked if method == "GET"}
    assert fetched
    assert all(commit_of("step2") in path or "/step2/" in path for path in fetched)


def test_a_cache_or_a_folder_does_without_network(hub, model, out, monkeypatch, tmp_path):
    make(model(), out=out, endpoint=hub.url)
    expected = {path.name: path.read_bytes() for path in (out / "step1").iterdir()}
    local = tmp_path / "by-hand"
    out.rename(local)
    hub.asked.clear()
    # Nobody listens there.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    make(model(), out=out, endpoint="http://127.0.0.1:9")
    assert {path.name: path.read_bytes() for path in (out / "step1").iterdir()} == expected
    make(model(local=str(local)), out=out.with_name("b"), endpoint="http://127.0.0.1:9")
    again = out.with_name("b")
    assert {path.name: path.read_bytes() for path in (again / "step1").iterdir()} == expected
    assert json.loads((again / "checkpoints.json").read_text())[1]["commit"] is None
    assert hub.asked == []


def test_without_network_one_line_says_what_to_put_where(model, out, hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = _fails(model(), out, hub)
    assert message.startswith(f"cannot fetch config.json of {REPO} at step0: it is not in the")
    assert "into FOLDER/step0/ by hand and set model.local to FOLDER" in message
    assert hub.asked == []


def test_a_folder_that_lacks_a_step(model, out, hub, tmp_path):
    message = _fails(model(local=str(tmp_path / "nothing")), out, hub)
    assert (
        "step0 has no config.json. Put there what EleutherAI/tiny has at its revision step0"
        in message
    )


def test_a_missing_revision(hub, model, out):
    message = _fails(model(checkpoints=["step0", "step3"]), out, hub)
    assert message.startswith(f"{REPO} has no revision step3 (for step3). Correct")


def test_a_missing_repository(hub, model, out):
    assert "the Hub has no repository a/b" in _fails(model(repo="a/b"), out, hub)


def test_a_revision_without_weights(hub, model, out):
    hub.put(1)
    message = _fails(model(), out, hub)
    assert "at step1 has none of model.safetensors, pytorch_model.bin" in message


def test_a_branch_that_serves_the_weights_of_another(hub, model, out):
    hub.files["step1"] = hub.files["step2"]
    assert _fails(model(), out, hub) == (
        "checkpoint step1 has the sha256 of step2: the branch serves the wrong weights. "
        "Pin a commit or drop it from model.checkpoints."
    )


def test_a_branch_that_serves_a_wrong_step_under_other_bytes(hub, model, out, tmp_path):
    # The first checkpoint's embedding, saved anew with something else changed.
    hub.put(2, bin=as_bin(weights(0.0, seed=9), tmp_path / "x.bin"))
    message = _fails(model(), out, hub)
    assert (
        "checkpoint step2 is nearer to step0 than step1 is (embedding drift 0 after 0.1)" in message
    )


def test_a_small_return_of_the_embedding_is_no_fault():
    states = ["step0", "step1", "step2"]
    verify.check_drift(states, [0, 0.5, 0.46], max_drop=0.1)
    with pytest.raises(CheckpointError, match=r"raise model\.max_drift_drop"):
        verify.check_drift(states, [0, 0.5, 0.44], max_drop=0.1)


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_a_truncated_file(hub, model, out, tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    if kind == "bin":
        content = as_bin(weights(0.1), path)
    else:
        save_file(weights(0.1), path)
        content = path.read_bytes()
    hub.put(1, **{kind: content[:-100]})
    message = _fails(model(), out, hub)
    assert "checkpoint step1: " in message
    assert f"({len(content) - 100} bytes) is truncated or no file of weights" in message


def test_code_in_a_weight_file_is_not_run(hub, model, out, tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "evil"),))

    torch.save({"a": Evil()}, tmp_path / "x.bin")
    for content in ((tmp_path / "x.bin").read_bytes(), pickle.dumps(Evil())):
        hub.put(1, bin=content)
        shutil.rmtree(out.parents[1] / "downloads", ignore_errors=True)
        assert "checkpoint step1: pytorch_model.bin" in _fails(model(), out, hub)
    assert not (tmp_path / "evil").exists()


def _wrong(name: str, value: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = weights(0.1)
    if value is None:
        del state[name]
    else:
        state[name] = value
    return state


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            _wrong("embed_out.weight", torch.zeros(64, 8)),
            "embed_out.weight of pytorch_model.bin has shape (64, 8), its config.json says (64, ",
        ),
        (_wrong("embed_out.weight", None), "lacks lm_head.weight (0 more such names)"),
        (
            _wrong("embed_out.bias", torch.zeros(64)),
            "embed_out.bias of pytorch_model.bin is unknown",
        ),
        (_wrong("embed_out.weight", torch.full((64, 16), torch.nan)), "holds nan or infinity"),
    ],
    ids=["shape", "missing", "unknown", "nan"],
)
def test_weights_that_do_not_fit_their_configuration(hub, model, out, tmp_path, state, said):
    hub.put(1, bin=as_bin(state, tmp_path / "x.bin"))
    assert said in _fails(model(), out, hub)


@pytest.mark.parametrize("config", [b"{", b"[]", b"{}"])
def test_a_file_that_is_no_configuration(hub, model, out, config):
    hub.put(1, config=config, bin=hub.files["step1"]["pytorch_model.bin"])
    assert "config.json is no configuration of a language model" in _fails(model(), out, hub)


def test_a_family_whose_heads_cannot_be_removed(hub, model, out):
    hub.put(1, config=b'{"model_type": "t5"}', bin=b"never read")
    message = _fails(model(), out, hub)
    assert (
        "is of the family 't5', whose heads cannot be removed here. Known: bert, gpt2," in message
    )
    assert not [path for _, path, _ in hub.asked if path.endswith("step1/pytorch_model.bin")]


def test_a_text_longer_than_the_model_has_positions_is_told_before_weights_come(hub, model, out):
    text = {"protocol": "file", "path": "x", "n_sequences": 1, "reference_sequences": 1}
    message = _fails(model(text=text | {"seq_len": 33}), out, hub)
    assert message.startswith("model.text.seq_len 33 is above the 32 positions of the model (")
    assert not [path for _, path, _ in hub.asked if path.endswith(".bin")]


def test_no_tokenizer_anywhere(hub, model, out):
    for files in hub.files.values():
        del files["tokenizer.json"]
    assert "no checkpoint of pythia-410m-deduped has tokenizer.json" in _fails(model(), out, hub)


def test_telemetry_and_conversion_are_off_for_whoever_imports_this():
    program = (
        "import stages.inputs.hub.download, os; from huggingface_hub import constants;"
        "print(constants.HF_HUB_DISABLE_TELEMETRY, os.environ['DISABLE_SAFETENSORS_CONVERSION'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["True", "1"]


def test_every_published_model_states_its_checkpoints(repository):
    names = []
    for path in sorted((repository / "conf" / "model").glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.stem == "local":
            with pytest.raises(ValidationError, match="neither repo nor local is given"):
                TypeAdapter(Model).validate_python(
                    content | {"text": content["text"] | {"path": "x"}}
                )
            continue
        parsed = TypeAdapter(Model).validate_python(content)
        assert parsed.name == path.stem
        if isinstance(parsed, HubModel):
            assert list(parsed.revisions) == parsed.checkpoints
            assert parsed.text.n_sequences * parsed.text.seq_len == 25 * 4 * 2048
            names.append(parsed.name)
    assert "pythia-410m-deduped" in names


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("repo", "pythia", "should match pattern"),
        ("revisions", {"step512": {"commit": "main"}}, "should match pattern"),
        ("revisions", {"a/b": {"commit": None}}, "should match pattern"),
        ("checkpoints", [], "at least 1 item"),
        ("checkpoints", [512], "a state has a name; write step512"),
        ("checkpoints", ["a b"], "should match pattern"),
        ("checkpoints", ["main", "main"], "named twice"),
        ("checkpoints", ["step8", "main", "step4"], "must ascend"),
        ("source", "web", "'mini', 'hub'"),
    ],
)
def test_settings_that_cannot_be(conf, key, value, said):
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(Model).validate_python(conf | {key: value})


def as_parts(state: dict[str, torch.Tensor], folder: Path) -> dict[str, bytes]:
    """Return weights as two parts with their index, as large models are published."""
    parts = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    placed = {name: parts[i % 2] for i, name in enumerate(sorted(state))}
    for part in parts:
        held = {name: state[name].contiguous() for name in state if placed[name] == part}
        save_file(held, folder / part, metadata={"format": "pt"})
    made = {part: (folder / part).read_bytes() for part in parts}
    index = {"metadata": {"total_size": 1}, "weight_map": placed}
    return made | {"model.safetensors.index.json": json.dumps(index).encode()}


@pytest.fixture
def in_parts(hub, tmp_path):
    """Let the Hub serve step 1 in parts; return them."""
    made = as_parts(weights(0.1, seed=1), tmp_path)
    hub.files["step1"] = {"config.json": CONFIG, "tokenizer.json": TOKENIZER, **made}
    return made


def test_weights_in_parts_come_with_their_index_and_are_recorded_each(hub, model, out, in_parts):
    make(model(), out=out, endpoint=hub.url)
    entry = json.loads((out / "checkpoints.json").read_text())[1]
    parts = {name: body for name, body in in_parts.items() if name.endswith(".safetensors")}
    assert entry["files"] == [_said(name, body) for name, body in sorted(parts.items())]
    assert entry["embedding_drift"] == pytest.approx(0.1, abs=1e-4)
    for name, body in in_parts.items():
        assert (out / "step1" / name).read_bytes() == body
    loaded = AutoModelForCausalLM.from_pretrained(out / "step1", dtype=torch.float32)
    expected = weights(0.1, seed=1)["embed_out.weight"].float()
    assert torch.equal(loaded.get_output_embeddings().weight, expected)
    hub.asked.clear()
    make(model(), out=out, endpoint=hub.url)
    assert not [path for method, path, _ in hub.asked if method == "GET"]


def test_a_part_that_broke_off_comes_again_and_the_others_do_not(hub, model, out, in_parts):
    first, second, _ = sorted(in_parts)
    hub.cut[second] = 1500
    make(model(), out=out, endpoint=hub.url)
    root = f"/{REPO}/resolve/{commit_of('step1')}"
    got = [path for method, path, _ in hub.asked if method == "GET"]
    assert (got.count(f"{root}/{first}"), got.count(f"{root}/{second}")) == (1, 2)
    assert (out / "step1" / second).read_bytes() == in_parts[second]


def test_a_download_of_parts_that_was_killed_goes_on_where_it_stopped(hub, model, out, tmp_path):
    """A process of its own, killed while the server holds the second part back."""
    # Of more than one piece of a download, so that some of it lies on the disk.
    sizes = SIZES | {"vocab_size": 16384}
    state = GPTNeoXForCausalLM(GPTNeoXConfig(**sizes)).state_dict()
    in_parts = as_parts(state, tmp_path)
    config = json.dumps(json.loads(CONFIG) | sizes).encode()
    hub.files["step1"] = {"config.json": config, "tokenizer.json": TOKENIZER, **in_parts}
    first, second, _ = sorted(in_parts)
    folder = out.parents[1] / "downloads" / "hub" / REPO / commit_of("step1")
    params = out.parents[1] / "model.json"
    params.write_text(model(checkpoints=["step1"]).model_dump_json())
    program = (
        "import sys; from pathlib import Path; from pydantic import TypeAdapter\n"
        "from stages.inputs.hub.__main__ import make; from stages.inputs.settings import Model\n"
        "model = TypeAdapter(Model).validate_json(Path(sys.argv[1]).read_text())\n"
        "make(model, out=Path(sys.argv[2]), downloads=Path(sys.argv[3]), endpoint=sys.argv[4])\n"
    )
    hub.stall = (second, 300_000)
    words = [sys.executable, "-c", program, params, out, folder.parents[3], hub.url]
    environment = os.environ | {"HF_HOME": str(out.parents[1] / "hf"), "HF_HUB_DISABLE_XET": "1"}
    with subprocess.Popen(
        list(map(str, words)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            part, until = folder / f"{second}.part", time.monotonic() + 120
            while not (part.exists() and part.stat().st_size >= 262144):
                assert process.poll() is None, process.stdout.read().decode()[-2000:]
                assert time.monotonic() < until
                time.sleep(0.05)
        finally:
            process.kill()
    hub.stall = ("", 0)
    assert (folder / first).exists()
    assert not out.exists()
    hub.asked.clear()
    make(model(checkpoints=["step1"]), out=out, endpoint=hub.url)
    asked = {path.rpartition("/")[2]: at for method, path, at in hub.asked if method == "GET"}
    assert first not in asked
    assert asked[second] == "bytes=262144-"
    assert (out / "step1" / second).read_bytes() == in_parts[second]


def test_a_part_that_changed_on_its_way_is_refused(hub, model, out, in_parts):
    second = sorted(in_parts)[1]
    hub.corrupt.add(second)
    message = _fails(model(), out, hub)
    assert message.startswith(f"checkpoint step1: the sha256 of {second} is")
    assert "was damaged on its way, and was deleted. Run again." in message
    hub.corrupt.clear()
    make(model(), out=out, endpoint=hub.url)


def test_a_part_that_the_repository_lacks(hub, model, out, in_parts):
    second = sorted(in_parts)[1]
    del hub.files["step1"][second]
    message = _fails(model(), out, hub)
    assert f"has no {second}, which its model.safetensors.index.json names." in message


def test_a_pinned_part(hub, model, out, in_parts):
    second = sorted(in_parts)[1]
    pins = {"step1": {"sha256": {second: "0" * 64}}}
    message = _fails(model(revisions=pins), out, hub)
    assert message.startswith(f"checkpoint step1: the sha256 of {second} is")
    assert f"conf/model/pythia-410m-deduped.yaml says {'0' * 64}" in message


def test_parts_in_the_cache_alone(hub, model, out, in_parts, monkeypatch, tmp_path):
    for name in [*in_parts, "config.json", "tokenizer.json"]:
        huggingface_hub.hf_hub_download(REPO, name, revision="step1", endpoint=hub.url)
    hub.asked.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    make(model(checkpoints=["step1"]), out=out, endpoint="http://127.0.0.1:9")
    assert hub.asked == []
    second = sorted(in_parts)[1]
    (cached,) = (tmp_path / "cache").rglob(second)
    cached.unlink()
    shutil.rmtree(out)
    message = _fails(model(checkpoints=["step1"]), out, hub)
    assert message.startswith(f"cannot fetch {second} of {REPO} at {commit_of('step1')}")


def test_revisions_of_any_name(hub, model, out, tmp_path):
    hub.files["v1.0"] = hub.files.pop("step0")
    hub.files["stage1-step150-tokens1B"] = hub.files.pop("step1")
    names = ["v1.0", "stage1-step150-tokens1B", "final"]
    pins = {"final": {"commit": commit_of("step2")}}
    make(model(checkpoints=names, revisions=pins), out=out, endpoint=hub.url)
    record = json.loads((out / "checkpoints.json").read_text())
    assert [entry["state"] for entry in record] == names
    assert record[2]["revision"] == record[2]["commit"] == commit_of("step2")
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == sorted(names)
