"""A sweep of heads on a Dask cluster of two processes, parts of which are killed on the way."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from stages.base.files import write_text
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
    assert f"{n_done} of 17 shards were finished before" in caplog.text
    assert len(sweep.done_twice()) <= 1


@pytest.fixture
def cluster(sweep):
    """Start a scheduler and two workers; give the function and end them all."""
    running = []

    def start(*security: str) -> tuple[str, list[subprocess.Popen[bytes]]]:
        kind = "tls" if security else "tcp"
        at = sweep.folder / f"scheduler{len(running)}.json"
        options = ["--interface", "lo", "--no-dashboard", "--protocol", kind, *security]
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
