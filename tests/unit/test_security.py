"""What a file from elsewhere may do: nothing but be read. Rules over the code, and real attacks.

The rules hold for every module of the project; `TestRules` shows of each that it can fail. Most are
ruff's (S, and what pyproject.toml bans); the rest is walked for here. Attacks
that other tests make already are not repeated here: code in a downloaded checkpoint (test_hub.py),
members that leave an archive's folder, redirects out of TLS (test_download.py).
"""

import ast
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from stages.base import compose
from stages.base.errors import AblationError, AtlasError, CheckpointError, SettingsError, StageError
from stages.base.settings import load, parse
from stages.inputs.hub import verify
from stages.inputs.published import archives, checksums
from stages.inputs.settings import RemoteFile
from stages.models.load import load_model
from stages.models.text import read_tokens
from stages.report import claims, source

ROOT = Path(__file__).parents[2]
PACKAGES = ("clonal", "stages", "benchmarks", "tools")

# --- rules over the code -------------------------------------------------------------------------

FORBIDDEN_METHODS = {"extract", "extractall", "to_pickle"}
MUST_BE = {
    # Keyword of any call: the only value it may have.
    "allow_pickle": False,
    "shell": False,
    "trust_remote_code": False,
    "verify": True,
    "weights_only": True,
}
PLAIN_HTTP = re.compile(r"http://(?!127\.0\.0\.1|localhost)[A-Za-z0-9]")


def _imported(tree: ast.AST) -> dict[str, str]:
    """Return what each imported name stands for: ``np`` for ``numpy``."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    return names


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """Return the full name of ``torch.load`` or of a name imported from there, else nothing."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (base := _dotted(node.value, names)):
        return f"{base}.{node.attr}"
    return ""


def _of_call(call: ast.Call, names: dict[str, str]) -> Iterator[str]:
    called = _dotted(call.func, names)
    if isinstance(call.func, ast.Attribute) and call.func.attr in FORBIDDEN_METHODS:
        yield f"calls .{call.func.attr}()"
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    for keyword, value in given.items():
        if keyword in MUST_BE and not (
            isinstance(value, ast.Constant) and value.value is MUST_BE[keyword]
        ):
            yield f"{called or 'a call'} with {keyword} other than {MUST_BE[keyword]}"
    if called == "torch.load" and "weights_only" not in given:
        yield "torch.load without weights_only=True"
    if called.startswith("subprocess.") and call.args:
        command = call.args[0]
        if isinstance(command, ast.JoinedStr | ast.BinOp) or (
            isinstance(command, ast.Constant) and isinstance(command.value, str)
        ):
            yield f"{called} with a string for a command"


def faults(code: str) -> list[str]:
    """Return what a module does that none of this project may."""
    tree = ast.parse(code)
    names = _imported(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += _of_call(node, names)
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and PLAIN_HTTP.search(node.value)
        ):
            found.append("names an address without TLS")
    return found


def _ruff(*words: str, code: str | None = None) -> list[str]:
    """Return the rules of this kind that ruff, with the project's settings, finds broken."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise"]
    done = subprocess.run(
        [*command, *words], cwd=ROOT, input=code, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return re.findall(r"^\S+:\d+:\d+: (S\d+|TID251) ", done.stdout, flags=re.MULTILINE)


def _modules() -> list[Path]:
    return sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


class TestRules:
    @pytest.mark.parametrize(
        ("code", "fault"),
        [
            ("import torch\ntorch.load(p)", "torch.load without weights_only=True"),
            ("import torch as t\nt.load(p, weights_only=False)", "weights_only other than True"),
            ("from torch import load\nload(p, weights_only=x)", "weights_only other than True"),
            ("model.from_pretrained(p, trust_remote_code=True)", "trust_remote_code other"),
            ("import numpy as np\nnp.load(p, allow_pickle=True)", "allow_pickle other than False"),
            ("import subprocess\nsubprocess.run(c, shell=True)", "shell other than False"),
            ("import subprocess\nsubprocess.run(f'ls {x}')", "with a string for a command"),
            ("tar.extractall(folder)", "calls .extractall()"),
            ("archive.extract(member, folder)", "calls .extract()"),
            ("requests.get(u, verify=False)", "verify other than True"),
            ("URL = 'http://example.org/a'", "without TLS"),
        ],
    )
    def test_a_rule_finds_what_it_forbids(self, code, fault):
        assert any(fault in one for one in faults(code)), faults(code)

    @pytest.mark.parametrize(
        ("code", "rule"),
        [
            ("import pickle\npickle.load(f)", "S301"),
            ("import pickle\nread = pickle.loads", "TID251"),
            ("from pickle import loads", "TID251"),
            ("import joblib", "TID251"),
            ("import cloudpickle as c", "TID251"),
            ("from dill import load", "TID251"),
            ("import marshal", "TID251"),
            ("import shelve", "TID251"),
            ("import pandas as pd\npd.read_pickle(p)", "S301"),
            ("import yaml\nyaml.load(t, Loader=yaml.Loader)", "TID251"),
            ("import yaml\nyaml.unsafe_load(t)", "TID251"),
            ("from yaml import full_load", "TID251"),
            ("import os\nos.system('ls')", "S605"),
            ("from os import popen\npopen('ls')", "S605"),
            ("import subprocess\nsubprocess.getoutput(c)", "S605"),
            ("import subprocess\nsubprocess.run(c, shell=True)", "S602"),
            ("import os\nos.execv(p, a)", "S606"),
            ("import os\nos.spawnv(m, p, a)", "S606"),
            ("eval(text)", "S307"),
            ("exec(text)", "S102"),
            ("import tempfile\ntempfile.mktemp()", "S306"),
            ("import ssl\nssl._create_unverified_context()", "S323"),
            ("import shutil\nshutil.unpack_archive(p)", "TID251"),
        ],
    )
    def test_ruff_finds_the_others(self, code, rule):
        assert rule in _ruff("--stdin-filename", "stages/code.py", "-", code=code)

    def test_ruff_finds_none_in_the_project(self):
        # Four comments silence it: verification reads drawings that the study made itself, an
        # unpickler refuses all but numbers (test_encoders.py attacks it), the templates make
        # Markdown and no HTML, and the explorer holds the project's own code.
        assert _ruff("--ignore-noqa", *PACKAGES) == ["S314", "TID251", "S704", "S701"]

    def test_what_is_allowed_is_no_fault(self):
        code = """
import pickle, subprocess, torch, yaml
import numpy as np
try:
    torch.load(p, weights_only=True); np.load(p); np.load(p, allow_pickle=False)
    yaml.safe_load(text); network.eval(); subprocess.run([name, "--version"], check=True)
except (pickle.UnpicklingError, yaml.YAMLError):
    here = "http://127.0.0.1:9/a"
"""
        assert faults(code) == []
        assert _ruff("--stdin-filename", "stages/code.py", "-", code=code) == []

    def test_no_module_breaks_one(self):
        found = {
            str(path.relative_to(ROOT)): faults(path.read_text(encoding="utf-8"))
            for path in _modules()
        }
        assert len(found) > 100
        assert {name: faults for name, faults in found.items() if faults} == {}

    def test_members_are_read_in_one_place_alone(self):
        reads = [
            path.relative_to(ROOT).as_posix()
            for path in _modules()
            if re.search(r"\.extractfile\(|ZipFile\([^)]*\)\.open", path.read_text())
        ]
        assert reads == ["stages/inputs/published/archives.py"]

    def test_settings_name_addresses_with_tls_alone(self):
        files = [*sorted((ROOT / "conf").rglob("*.yaml")), ROOT / "params.yaml", ROOT / "dvc.yaml"]
        texts = [path.read_text(encoding="utf-8") for path in files]
        assert sum(text.count("https://") for text in texts) > 5
        assert [str(f) for f, text in zip(files, texts, strict=True) if "http://" in text] == []


# --- settings that reach a shell, or the network -------------------------------------------------

# Each is refused below, or is a number or a choice by its type, if it is more than one plain word.
WORDS = {
    "atlas.name",
    "atlas.source",
    "cellmodel.checkpoints[0]",
    "cellmodel.folder",
    "cellmodel.known",
    "clusters.reference",
    "features.checkpoints",
    "features.known",
    "features.reads",
    "features.study",
    "item",
    "item.state",
    "key",
    "model.folder",
    "model.name",
    "plane.confidence",
}


def test_commands_are_made_of_words_that_the_settings_restrict(repository):
    graph = yaml.safe_load((repository / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    commands = [(stage.get("do") or stage)["cmd"] for stage in graph.values()]
    used = {name for command in commands for name in re.findall(r"\$\{([^}]+)\}", command)}
    assert "key" in used
    assert used <= WORDS


# An option is one only where a word begins; names stand in the middle of paths.
FIRST = ("atlas.acquire", "atlas.cells", "atlas.graphs", "atlas.libraries", "model.folder")
OF_CELLS = ("folder", "checkpoints", "known")
PATHS = ("cellmodel.folder", "cellmodel.known", "features.checkpoints", "features.known")
SHELL = ("a;touch b", "$(id)", "a b", "`id`", "a|b", "a\nb", "'")


@pytest.mark.parametrize(
    ("place", "word"),
    [
        *((place, word) for place in (*FIRST, "atlas.name", "model.name") for word in SHELL),
        *(
            (f"cellmodel.{key}", word)
            for key in ("folder", "checkpoints", "known")
            for word in SHELL
        ),
        *((f"features.{key}", word) for key in ("checkpoints", "known") for word in SHELL),
        *(
            (place, "-rf")
            for place in ("cellmodel.folder", "cellmodel.known", "features.checkpoints")
        ),
        *((place, "-rf") for place in FIRST),
    ],
)
def test_a_word_that_a_shell_would_understand_is_refused(params, place, word):
    group, key = place.split(".")
    section = dict(params[group])
    if isinstance(section[key], dict):
        first = next(iter(section[key].values()))
        section[key] = {**section[key], word: first}
    elif isinstance(section[key], list):
        section[key] = [word, *section[key]]
    else:
        section[key] = word
    with pytest.raises(SettingsError) as caught:
        parse({**params, group: section})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://a.org/x", "ftp://a.org/x", "file:///x", "http://127.0.0.1.a.org/"]
)
def test_an_address_without_tls_is_refused(url):
    with pytest.raises(ValidationError, match="urls"):
        RemoteFile(out=Path("x"), filename="x", urls=[url], format="csv")
    assert RemoteFile(out=Path("x"), filename="x", urls=["http://127.0.0.1:9/x"], format="csv")


class _Redirecting(BaseHTTPRequestHandler):
    """Sends every request for an article elsewhere, where a checksum lies."""

    def do_GET(self) -> None:
        body = json.dumps({"id": 3, "name": "x.h5ad", "computed_md5": "0" * 32}).encode()
        if self.path == "/elsewhere":
            self.send_response(200)
        else:
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            body = b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve():
    """Return a function that serves a handler on this computer and gives its server."""
    servers: list[ThreadingHTTPServer] = []

    def start(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_checksum_that_was_redirected_is_not_believed(serve):
    server = serve(_Redirecting)
    file = TypeAdapter(RemoteFile).validate_python(
        {
            "out": "x.h5ad",
            "filename": "x.h5ad",
            "format": "h5ad",
            "figshare": {"article": 1, "version": 1, "id": 3},
        }
    )
    base = f"http://127.0.0.1:{server.server_address[1]}"
    assert checksums.ask_figshare(file, figshare_api=base) is None
    direct = checksums._listed(f"{base}/elsewhere", 3)
    assert direct is not None
    assert direct["computed_md5"] == "0" * 32


# --- files that would run code -------------------------------------------------------------------


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.marker,)


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "harmed"


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    folder = tmp_path / "step1"
    config = GPTNeoXConfig(
        vocab_size=32,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        tie_word_embeddings=False,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    return folder


def test_the_harm_is_real(marker):
    pickle.loads(pickle.dumps(Harm(marker)))
    assert marker.is_dir()


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_code_in_weights_is_not_run_when_a_model_is_loaded(checkpoint, marker, kind):
    (checkpoint / "model.safetensors").unlink()
    path = checkpoint / "pytorch_model.bin"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"weight": Harm(marker)}, protocol=2))
    else:
        torch.save({"weight": Harm(marker)}, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(AblationError) as caught:
        load_model(checkpoint)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_code_beside_a_checkpoint_is_not_run(checkpoint, marker):
    (checkpoint / "harm.py").write_text(
        "import os\n"
        f"os.mkdir({str(marker)!r})\n"
        "from transformers import GPTNeoXConfig as Config, GPTNeoXForCausalLM as Model\n"
    )
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    config["auto_map"] = {"AutoConfig": "harm.Config", "AutoModelForCausalLM": "harm.Model"}
    path.write_text(json.dumps(config))
    # A known architecture is read by the library's own class.
    assert verify.expected(path).shapes
    assert load_model(checkpoint).config.model_type == "gpt_neox"
    path.write_text(json.dumps(config | {"model_type": "harm"}))
    with pytest.raises(CheckpointError, match="is of the family 'harm', whose heads"):
        verify.expected(path)
    with pytest.raises(AblationError, match="'harm'"):
        load_model(checkpoint)
    assert not marker.exists()


def test_objects_in_an_array_of_tokens_are_refused(tmp_path, marker):
    path = tmp_path / "tokens.npy"
    np.save(path, np.array([[Harm(marker)]], dtype=object), allow_pickle=True)
    for _ in range(2):
        with pytest.raises(AblationError, match="is no array of tokens"):
            read_tokens(path, "evaluation")
        path.write_bytes(pickle.dumps(Harm(marker)))
    assert not marker.exists()


# Read by each reader of YAML in turn; each gives one line.
def _read_params(folder: Path) -> None:
    load(folder / "x.yaml")


def _read_claims(folder: Path) -> None:
    claims.read(folder / "x.yaml")


def _read_conf(folder: Path) -> None:
    shutil.copytree(ROOT / "conf", folder / "conf")
    (folder / "conf" / "atlas" / "x.yaml").write_bytes((folder / "x.yaml").read_bytes())
    compose.compose(folder / "conf", ["atlas=x"])


def _read_project(folder: Path) -> None:
    (folder / "paper.qmd").write_text("# Title\n")
    (folder / "_quarto.yml").write_bytes((folder / "x.yaml").read_bytes())
    source.read_source(folder, "paper.qmd")


@pytest.mark.parametrize("read", [_read_params, _read_claims, _read_conf, _read_project])
@pytest.mark.parametrize("tag", ["object/apply:os.mkdir", "object/new:os.mkdir"])
def test_an_object_in_yaml_is_refused_with_one_line(tmp_path, marker, read, tag):
    (tmp_path / "x.yaml").write_text(f"name: !!python/{tag} [{marker}]\n", encoding="utf-8")
    with pytest.raises(StageError, match="could not determine a constructor") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


# --- archives ------------------------------------------------------------------------------------


def _tar(path: Path, *members: tuple[str, bytes, str]) -> None:
    """Write members of a name, a type and, for a link, where it leads."""
    with tarfile.open(path, "w") as tar:
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            content = b"x" if kind == tarfile.REGTYPE else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("a", tarfile.LNKTYPE, "/etc/passwd")], "member 'a' is a link or device"),
        ([("a", tarfile.FIFOTYPE, "")], "member 'a' is a link or device"),
        ([("a", tarfile.CHRTYPE, "")], "member 'a' is a link or device"),
        # A folder that leads outside, and then a file in it.
        ([("a", tarfile.SYMTYPE, ".."), ("a/evil", tarfile.REGTYPE, "")], "'a' is a link"),
        # A file of the name of a link: the one would be written through the other.
        ([("a", tarfile.SYMTYPE, "../evil"), ("a", tarfile.REGTYPE, "")], "'a' is a link"),
        ([("a/../../evil", tarfile.REGTYPE, "")], "would be written outside"),
        ([("C:/evil", tarfile.REGTYPE, "")], "would be written outside"),
    ],
    ids=["hard", "fifo", "device", "through-a-link", "over-a-link", "hidden-parent", "drive"],
)
def test_a_tar_that_leads_elsewhere_is_refused(tmp_path, members, said):
    _tar(tmp_path / "x.tar", *members)
    (tmp_path / "new").mkdir()
    with pytest.raises(AtlasError, match=said):
        archives.unpack(tmp_path / "x.tar", tmp_path / "new", kind="tar")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "x.tar"]


@pytest.mark.parametrize(
    ("name", "mode", "said"),
    [
        ("a", 0o120777, "is a link or device"),
        ("../evil", 0o100644, "would be written outside"),
        ("/evil", 0o100644, "would be written outside"),
        ("a\\..\\..\\evil", 0o100644, "would be written outside"),
    ],
    ids=["link", "parent", "absolute", "backslash"],
)
def test_a_zip_that_leads_elsewhere_is_refused(tmp_path, name, mode, said):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, mode << 16
        archive.writestr(info, "/etc/passwd")
    (tmp_path / "new").mkdir()
    with pytest.raises(AtlasError, match=said):
        archives.unpack(tmp_path / "x.zip", tmp_path / "new", kind="zip")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "x.zip"]


# --- nothing reports home ------------------------------------------------------------------------


def test_telemetry_of_the_hub_is_off_whichever_stage_is_imported():
    """Also where transformers imports the Hub's client: any stage imports the package first."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "DO_NOT"))}
    printed = "print(huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY)"
    for first, off in (("import stages.base.cli", "True"), ("", "False")):
        done = subprocess.run(
            [sys.executable, "-c", f"{first}\nimport huggingface_hub.constants\n{printed}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
            env=environment,
        )
        assert done.stdout.split() == [off]


class _Listening(BaseHTTPRequestHandler):
    """Notes who called."""

    def _note(self) -> None:
        self.server.heard.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST = _note

    def log_message(self, format: str, *args: object) -> None:
        pass


def _dvc_calls_home(folder: Path, config: str, serve) -> set[str]:
    """Run ``dvc version``, which asks for updates and reports, and return what it asked for."""
    server = serve(_Listening)
    server.heard = []
    base = f"http://127.0.0.1:{server.server_address[1]}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DVC_") and k != "CI"}
    environment = kept | {
        "DVC_ANALYTICS_ENDPOINT": f"{base}/analytics",
        "DVC_UPDATER_ENDPOINT": f"{base}/update",
        # Neither the settings nor the habits of whoever runs the tests.
        "DVC_GLOBAL_CONFIG_DIR": str(folder / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(folder / "system"),
        "DVC_SITE_CACHE_DIR": str(folder / "site"),
        "DVC_DAEMON_LOGFILE": str(folder / "daemon.log"),
        "HOME": str(folder),
        "NO_PROXY": "127.0.0.1",
        # DVC starts them by a path inside its package, whose types.py may pass for Python's.
        "PYTHONSAFEPATH": "1",
    }
    command = [sys.executable, "-m", "dvc"]
    quiet = environment | {"DVC_NO_ANALYTICS": "1"}
    subprocess.run([*command, "init", "-q", "--no-scm"], cwd=folder, env=quiet, check=True)
    (folder / ".dvc" / "config").write_text(config, encoding="utf-8")
    (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    subprocess.run(
        [*command, "version"], cwd=folder, env=environment, check=True, capture_output=True
    )
    # Both are sent by processes of their own. The command opens their log before it ends; where
    # there is none, there is nothing to wait for.
    waits = 300 if (folder / "daemon.log").exists() else 0
    for _ in range(waits):
        if len(set(server.heard)) == 2:
            break
        time.sleep(0.1)
    return set(server.heard)


def test_dvc_neither_reports_nor_asks_for_updates(repository, tmp_path, serve):
    config = (repository / ".dvc" / "config").read_text(encoding="utf-8")
    # What would be heard if the repository did not say otherwise.
    loud, still = tmp_path / "loud", tmp_path / "still"
    loud.mkdir()
    still.mkdir()
    asked = re.sub(r"(?m)^\s*(analytics|check_update) = false\n", "", config)
    assert asked.count("false") == config.count("false") - 2
    assert _dvc_calls_home(loud, asked, serve) == {"/analytics", "/update"}
    assert _dvc_calls_home(still, config, serve) == set()
    assert (loud / "daemon.log").exists()
    assert not (still / "daemon.log").exists()


# --- the public continuous integration -----------------------------------------------------------


class TestWorkflows:
    @pytest.fixture(params=["ci", "image"])
    def text(self, request, repository) -> str:
        path = repository / ".github" / "workflows" / f"{request.param}.yml"
        return path.read_text(encoding="utf-8")

    @pytest.fixture
    def workflow(self, text) -> dict:
        return yaml.safe_load(text)

    def test_every_action_is_pinned_by_commit_and_says_its_version(self, text):
        lines = [line for line in text.splitlines() if re.search(r"\buses:", line)]
        assert lines
        pinned = re.compile(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
        assert [line for line in lines if not pinned.search(line)] == []

    def test_nothing_may_be_written_and_no_credentials_stay(self, workflow):
        assert workflow["permissions"] == {"contents": "read"}
        for job in workflow["jobs"].values():
            assert "permissions" not in job
            assert job["timeout-minutes"] <= 120
            for step in job["steps"]:
                if "actions/checkout@" in step.get("uses", ""):
                    assert step["with"]["persist-credentials"] is False

    def test_what_others_write_reaches_no_shell(self, workflow, text):
        assert "secrets." not in text
        assert "pull_request_target" not in text
        for job in workflow["jobs"].values():
            for step in job["steps"]:
                assert "${{" not in step.get("run", "")
