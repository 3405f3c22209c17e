"""A sweep of heads on a Dask cluster of two processes, parts of which are killed on the way."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from stages.base.errors import StageError
from stages.base.files import write_text
from stages.compute import cluster as cluster_room
from stages.compute.settings import Compute
from stages.heads import ablate
from tests.unit import slow_sweep

pytest.importorskip("distributed", reason="needs requirements-dask.txt")
N_LAYERS, N_HEADS = 4, 2


@pytest.fixture(scope="module")
def study(repository, tmp_path_factory):
    """Return a folder with a checkpoint, two texts and settings: 17 shards."""
    folder = tmp_path_factory.mktemp("study")
    content = yaml.safe_load((repository / "params.yaml").read_text(encoding="utf-8"))
    content["sweep"] |= {"perturbations": ["zero", "mean", "mean_positional"], "layers": True}
    write_text(folder / "params.yaml", yaml.safe_dump(content))
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=90,
        hidden_size=32,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        intermediate_size=32,
        max_position_embeddings=16,
        tie_word_embeddings=False,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder / "step64")
    drawn = np.random.default_rng(0)
    for name in ("tokens", "reference"):
        np.save(folder / f"{name}.npy", drawn.integers(0, 90, (6, 16)).astype("int32"))
    return folder


class Sweep:
    """A sweep in a process of its own, and what its workers say."""

    def __init__(self, repository: Path, study: Path, folder: Path) -> None:
        self.study, self.folder, self.repository = study, folder, repository
        self.said, self.out = folder / "said", folder / "out.parquet"

    def start(self, *, seconds: float = 0.3, **compute: object) -> subprocess.Popen[str]:
        write_text(self.folder / "compute.yaml", yaml.safe_dump({"name": "dask"} | compute))
        return subprocess.Popen(
            [sys.executable, "-m", "tests.unit.slow_sweep", *self.words()],
            env=self.environment(seconds),
            cwd=self.repository,
            stderr=subprocess.PIPE,
            text=True,
        )

    def here(self, monkeypatch: pytest.MonkeyPatch) -> bytes:
        """Sweep in this process and return the bytes of the effects."""
        for name, value in self.environment(0).items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("COMPUTE_FILE")
        monkeypatch.setattr(ablate, "removed", slow_sweep.removed)
        assert ablate.main(self.words()) == 0
        return self.out.read_bytes()

    def words(self) -> list[str]:
        words = [
            *("--params", self.study / "params.yaml"),
            *("--checkpoint", self.study / "step64", "--state", "step64", "--device", "cpu"),
            *("--tokens", self.study / "tokens.npy", "--reference", self.study / "reference.npy"),
            *("--scratch", self.folder / "scratch", "--out", self.out),
        ]
        return [str(word) for word in words]

    def environment(self, seconds: float) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": str(self.repository),
            "COMPUTE_FILE": str(self.folder / "compute.yaml"),
            "SAID": str(self.said),
            "SECONDS_EACH": str(seconds),
            "no_proxy": "127.0.0.1",
        }

    def lines(self) -> list[list[str]]:
        text = self.said.read_text(encoding="utf-8") if self.said.exists() else ""
        return [line.split() for line in text.splitlines()]

    def until(self, process: subprocess.Popen[str], n_done: int) -> list[list[str]]:
        """Wait until so many shards are done and two more are being worked on."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            done = Counter(line[0] for line in self.lines())
            if done["end"] >= n_done and done["begin"] >= done["end"] + 2:
                return self.lines()
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        raise AssertionError

    def done_twice(self) -> list[str]:
        ends = Counter(label for word, label, _ in self.lines() if word == "end")
        return [label for label, times in ends.items() if times > 1]


@pytest.fixture
def sweep(repository, study, tmp_path):
    return Sweep(repository, study, tmp_path)


@pytest.fixture(scope="module")
def whole(repository, study, tmp_path_factory):
    """Return the bytes of a local run."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return Sweep(repository, study, tmp_path_factory.mktemp("whole")).here(monkeypatch)


PROCESSES = {"scheduler": "dask", "cluster": "processes", "workers": 2}


def test_a_worker_that_is_killed_costs_its_shard(sweep, whole):
    process = sweep.start(**PROCESSES)
    lines = sweep.until(process, 3)
    begun = {label: int(pid) for word, label, pid in lines if word == "begin"}
    ended = {label for word, label, _ in lines if word == "end"}
    os.kill(next(pid for label, pid in begun.items() if label not in ended), signal.SIGKILL)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert sweep.out.read_bytes() == whole
    assert sweep.done_twice() == []
    begins = Counter(label for word, label, _ in sweep.lines() if word == "begin")
    assert sum(begins.values()) == len(begins) + 1


def test_a_client_that_is_killed_leaves_its_shards(sweep, whole, monkeypatch, caplog):
    caplog.set_level("INFO")
    process = sweep.start(**PROCESSES)
    sweep.until(process, 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    n_done = len(list((sweep.folder / "scratch" / "step64").glob("*.npz")))
    assert n_done >= 3
    assert sweep.here(monkeypatch) == whole
    assert f"{n_done} of 21 shards were finished before" in caplog.text
    assert len(sweep.done_twice()) <= 1


@pytest.fixture
def cluster(sweep):
    """Start a scheduler and two workers; give the function and end them all."""
    running = []

    def start(*security: str) -> tuple[str, list[subprocess.Popen[bytes]]]:
        kind = "tls" if security else "tcp"
        at = sweep.folder / f"scheduler{len(running)}.json"
        options = ["--host", f"{kind}://127.0.0.1", "--no-dashboard", *security]
        worker = ["--nthreads", "1", "--no-nanny", "--scheduler-file", str(at), *security]
        begun = [
            subprocess.Popen(
                [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]],
                env=sweep.environment(0.3),
                cwd=sweep.repository,
                stderr=subprocess.DEVNULL,
            )
            for words in (
                ["dask_scheduler", "--port", "0", "--scheduler-file", str(at), *options],
                *[["dask_worker", "--no-dashboard", *worker]] * 2,
            )
        ]
        running.extend(begun)
        deadline = time.monotonic() + 300
        while not (at.exists() and at.read_text(encoding="utf-8").endswith("}")):
            assert begun[0].poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return yaml.safe_load(at.read_text(encoding="utf-8"))["address"], begun

    yield start
    for process in running:
        process.kill()
        process.wait()


def test_a_scheduler_that_is_killed_is_one_line_and_another_goes_on(
    sweep, whole, cluster, monkeypatch
):
    address, (scheduler, *_) = cluster()
    process = sweep.start(scheduler="dask", cluster="address", address=address)
    sweep.until(process, 3)
    scheduler.kill()
    said = process.communicate()[1]
    assert process.returncode == 1
    assert f"error: the scheduler {address} is lost. Run again: finished shards are kept." in said
    assert "Traceback" not in said
    assert sweep.here(monkeypatch) == whole
    assert len(sweep.done_twice()) <= 1


ASK = (
    "import math\n"
    "import dask\n"
    "from stages.base import cli\n"
    "from stages.compute import run\n"
    "raise SystemExit(cli.run(cli.parser(''), lambda _: print(run.run({}, [({},)])), []))\n"
)


def answer(sweep: Sweep, work: str, word: str, **compute: object) -> subprocess.CompletedProcess:
    """Have a process of its own ask workers for ``work(word)``."""
    write_text(sweep.folder / "compute.yaml", yaml.safe_dump({"scheduler": "dask"} | compute))
    return subprocess.run(
        [sys.executable, "-c", ASK.format(work, word)],
        env=sweep.environment(0),
        cwd=sweep.repository,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_tls_scheduler_refuses_a_client_of_another_authority(sweep, cluster, tmp_path):
    ours, theirs = (certified(tmp_path / name) for name in ("ours", "theirs"))
    files = [f"--{name}={path}" for name, path in zip(TLS, ours, strict=True)]
    address, _ = cluster(*files)
    assert address.startswith("tls://")
    answers = {}
    for whose, paths in (("ours", ours), ("theirs", theirs)):
        tls = dict(zip(("ca_file", "cert", "key"), map(str, paths), strict=True))
        chosen = {"cluster": "address", "address": address, "tls": tls}
        answers[whose] = answer(sweep, "math.sqrt", "9", **chosen)
    assert answers["ours"].stdout.strip() == "[3.0]", answers["ours"].stderr
    assert answers["theirs"].returncode == 1
    assert f"error: the Dask scheduler {address} cannot be had" in answers["theirs"].stderr
    assert answers["theirs"].stdout == ""


def test_workers_that_a_stage_starts_have_no_profiler(sweep):
    said = answer(sweep, "dask.config.get", "'distributed.worker.profile.enabled'", workers=1)
    assert said.stdout.strip() == "[False]", said.stderr


TLS = ("tls-ca-file", "tls-cert", "tls-key")


def certified(folder: Path) -> list[Path]:
    """Make an authority and what it certifies; return its file, the certificate and the key."""
    now = datetime.now(UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, of)]) for of in ("ca", "dask")]
    folder.mkdir()
    paths = [folder / name for name in ("ca.pem", "cert.pem", "key.pem")]
    for number, path in enumerate(paths[:2]):
        certificate = (
            x509.CertificateBuilder()
            .subject_name(names[number])
            .issuer_name(names[0])
            .public_key(keys[number].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=number == 0, path_length=None), critical=True)
            .sign(keys[0], hashes.SHA256())
        )
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[2].write_bytes(
        keys[1].private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def test_what_a_cluster_needs_and_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    chosen = Compute(scheduler="dask", cluster="slurm", workers=2)
    with pytest.raises(StageError, match=r"need the package dask-jobqueue, which is not installed"):
        cluster_room.run(chosen, abs, [(1,)], device=None, told=print)
