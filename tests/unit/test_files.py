"""Outputs appear whole or not at all, also where a writer is killed or two write at once."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from stages.base.files import PARTIAL, atomic_folder, atomic_path, write_text

HALF_WAY = """
import sys
from pathlib import Path
from stages.base import files
with getattr(files, sys.argv[1])(Path(sys.argv[2])) as temporary:
    file = temporary if sys.argv[1] == "atomic_path" else temporary / "part"
    file.write_text("half")
    print("half", flush=True)
    sys.stdin.read()
    file.write_text("whole")
"""


@pytest.fixture
def half_way(repository) -> Iterator:
    """Return a function that starts another process and stops it half-way through its output."""
    running = []

    def start(how, path):
        words = [sys.executable, "-c", HALF_WAY, how.__name__, str(path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        running.append(subprocess.Popen(words, cwd=repository, **pipes))
        assert running[-1].stdout.readline() == b"half\n"
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def _left(path):
    return sorted(one for one in path.parent.iterdir() if one.name.endswith(PARTIAL))


@pytest.mark.parametrize("how", [atomic_path, atomic_folder])
def test_what_a_killed_writer_left_goes_with_the_next(half_way, tmp_path, how):
    path = tmp_path / "[a] table.csv"
    killed = half_way(how, path)
    killed.kill()
    killed.wait()
    assert not path.exists()
    assert len(_left(path)) == 1
    write_text(tmp_path / "table.csv", "another output beside it")
    assert len(_left(path)) == 1
    with how(path) as temporary:
        assert _left(path) == [temporary.parent]
        (temporary if how is atomic_path else temporary / "part").write_text("whole")
    assert path.exists()
    assert _left(path) == []


@pytest.mark.parametrize("how", [atomic_path, atomic_folder])
def test_what_another_still_writes_is_left_to_it(half_way, tmp_path, how):
    path = tmp_path / "table"
    other = half_way(how, path)
    with how(path) as temporary:
        assert len(_left(path)) == 2
        (temporary if how is atomic_path else temporary / "part").write_text("ours")
    assert len(_left(path)) == 1
    other.communicate()
    assert other.returncode == 0
    assert (path if how is atomic_path else path / "part").read_text() == "whole"
    assert _left(path) == []


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "before")
    with pytest.raises(ValueError, match="half-way"), atomic_path(path) as temporary:
        temporary.write_text("half")
        msg = "half-way"
        raise ValueError(msg)
    assert path.read_text(encoding="utf-8") == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["table.csv"]


def test_git_and_dvc_are_told_of_what_is_unfinished(repository):
    for name in (".gitignore", ".dvcignore"):
        lines = (repository / name).read_text(encoding="utf-8").splitlines()
        assert f"*{PARTIAL}/" in lines
