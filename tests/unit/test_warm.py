"""A stage that is forked from a process with its libraries beside the same one started anew."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.base import warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stages start by themselves here")

MODULE = """
import json, multiprocessing, os, signal, sys, time
from stages import STARTED

def double(n):
    return 2 * n

def where(n, device):
    import torch
    name = open("/proc/self/comm").read().strip()
    return n, name, torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]

def kill(n, stage, device):
    with open(f"of{n}", "x") as file:
        file.write(f"{os.getpid()} {os.getppid()}")
    while not (os.path.exists("of1") and os.path.exists("of2")):
        time.sleep(0.01)
    os.kill(stage, signal.SIGKILL)
    time.sleep(60)

if __name__ == "__main__":
    said = {"argv": sys.argv, "variable": os.environ["VARIABLE"], "folder": os.getcwd()}
    print(json.dumps(said | {"path": sys.path[0], "name": __spec__.name}))
    match sys.argv[1]:
        case "workers":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.map(double, [21]))
        case "share":
            from stages.compute.run import run
            print(run(where, [(1,), (2,)], on=["cpu", "cpu"]))
        case "orphan":
            from stages.compute.run import run
            run(kill, [(n, os.getpid()) for n in (1, 2)], on=["cpu", "cpu"])
        case "warm":
            name = open("/proc/self/comm").read().strip()
            print("torch" in sys.modules, name, STARTED > float(sys.argv[2]))
        case "raise":
            raise ValueError("a mistake")
        case "say":
            sys.exit("a word at the end")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case status:
            sys.exit(int(status))
"""


@pytest.fixture(scope="module")
def asked(repository, tmp_path_factory):
    """Return the folder and the descriptor of one process for all, and its environment."""
    folder, before = tmp_path_factory.mktemp("a folder"), Path.cwd()
    (folder / "double.py").write_text(MODULE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(repository))
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        env = dict(os.environ) | {"VARIABLE": "a value"}
        with warm.started() as fd:
            # The first ones start by themselves, those of a shell not among them.
            for cmd in ["double 0", "double 0 > a"] * warm.FEW:
                assert warm.run(fd, f"python -m {cmd}", str(folder), env) is None
            yield fd, folder, env
    assert Path.cwd() == before


@pytest.mark.parametrize("words", ["0", "3 --out 'a b.csv'", "workers", "raise", "say", "kill"])
def test_it_says_and_ends_as_it_does_alone(asked, words, capfd):
    fd, folder, env = asked
    cmd = f"python -m double {words}"
    alone = subprocess.run(shlex.split(cmd), env=env, capture_output=True, text=True, check=False)
    assert warm.run(fd, cmd, str(folder), env) == alone.returncode
    out, err = capfd.readouterr()
    assert out == alone.stdout
    assert err.splitlines()[-1:] == alone.stderr.splitlines()[-1:]


def test_it_imports_when_it_is_told_to_and_runs_nothing_by_that(asked, capfd):
    _, folder, env = asked
    before = _children()
    with warm.started() as fd:
        (server,) = _children() - before
        maps = Path(f"/proc/{server}/maps")
        assert "libtorch" not in maps.read_text()
        warm.prepare(fd)
        until = time.monotonic() + 120
        while "libtorch" not in maps.read_text():
            assert time.monotonic() < until
            time.sleep(0.05)
        assert warm.run(fd, "python -m double 7", str(folder), env) == 7
    out, err = capfd.readouterr()
    assert (len(out.splitlines()), err) == (1, "")


def _children() -> set[int]:
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(pid) for pid in found.split()}


def test_it_has_the_libraries_its_own_name_and_its_own_start(asked, capfd):
    fd, folder, env = asked
    assert warm.run(fd, f"python -m double warm {folder.stat().st_mtime}", str(folder), env) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "True double True"


def test_what_few_stages_need_is_there_once_one_did(asked, capfd):
    fd, folder, env = asked
    (folder / "needs.py").write_text(
        "import sys\nprint(*(name in sys.modules for name in ('scanpy', 'umap.umap_')))\n"
        "if sys.argv[1:]: import scanpy\n",
        encoding="utf-8",
    )
    for words in ("", " scanpy", ""):
        assert warm.run(fd, f"python -m needs{words}", str(folder), env) == 0
    assert capfd.readouterr().out.splitlines() == ["False False", "False False", "True False"]


def test_its_workers_are_forked_and_have_one_thread_each(asked, capfd):
    fd, folder, env = asked
    assert warm.run(fd, "python -m double share", str(folder), env) == 0
    found = [(n, "workers", 1, "1") for n in (1, 2)]
    assert capfd.readouterr().out.splitlines()[-1] == str(found)


def test_none_is_left_where_it_was_killed(asked):
    fd, folder, env = asked
    assert warm.run(fd, "python -m double orphan", str(folder), env) == -signal.SIGKILL
    processes = {n for of in (1, 2) for n in (folder / f"of{of}").read_text("utf-8").split()}
    assert len(processes) == 3  # two workers, and what they were forked from
    deadline = time.monotonic() + 30
    while left := [n for n in processes if Path(f"/proc/{n}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_it_runs_the_code_that_lies_there_now(asked, capfd):
    fd, folder, env = asked
    for n in (1, 22):
        (folder / "edited.py").write_text(f"print({n})\n", encoding="utf-8")
        assert warm.run(fd, "python -m edited", str(folder), env) == 0
        assert capfd.readouterr().out == f"{n}\n"


@pytest.mark.parametrize("cmd", ["python -m double 0 > a", "python double.py", "true -m double"])
def test_what_is_no_module_of_this_python_starts_by_itself(asked, cmd):
    fd, folder, env = asked
    assert warm.run(fd, cmd, str(folder), env) is None
    assert warm.run(fd, "python -m double 0", str(folder.parent), env) is None


def test_where_that_process_is_gone_a_stage_starts_by_itself(asked, monkeypatch):
    _, folder, env = asked
    monkeypatch.setattr(warm, "FEW", 0)
    with warm.started() as fd:
        pass
    assert warm.run(fd, "python -m double 0", str(folder), env) is None


PORTABLE = """
import stages
import numpy, scipy.linalg, torch, threadpoolctl
from numpy._core._multiarray_umath import __cpu_features__ as features
assert torch.backends.cpu.get_cpu_capability() == "AVX2", torch.backends.cpu.get_cpu_capability()
assert not [name for name, on in features.items() if on and name in ("X86_V4", "AVX512_ICL")]
kinds = {one["architecture"] for one in threadpoolctl.threadpool_info()
         if one["internal_api"] == "openblas"}
assert kinds == {"Haswell"}, kinds
"""


def test_no_library_computes_in_a_way_of_its_own_on_this_processor(repository):
    if " avx2 " not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        pytest.skip("this processor has no AVX2: what is computed on it has bytes of its own")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NPY_", "OPENBLAS", "ATEN"))}
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", PORTABLE],
        cwd=repository, env=kept, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
