"""The note of a stage: what it holds, what was noted when, and that it never stops a stage."""

import hashlib
import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from stages.base import record

TINY = '''
"""Write a file; change this file while running; fail if asked to."""

from pathlib import Path

from stages.base import cli
from stages.base.errors import StageError


def _run(args):
    Path(args.out).write_text("made")
    Path("stages/code.py").write_text("x = 2")
    if args.fail:
        raise StageError("no")


parser = cli.parser(__doc__)
parser.add_argument("--out")
parser.add_argument("--fail", action="store_true")
raise SystemExit(cli.run(parser, _run))
'''


@pytest.fixture
def project(tmp_path, repository):
    """Return a folder of git with a tiny stage, and what runs it there."""
    for name, content in (
        ("stages/code.py", "x = 1"),
        ("stages/code.pyc", "not hashed"),
        ("conf/config.yaml", "a: 1"),
        ("params.yaml", "a: 1\n"),
        ("tiny.py", TINY),
        ("data.csv", "1"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", *identity, *words]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def run(*words, status=0, stage="tiny@a b", **variables):
        environment = os.environ | {"PYTHONPATH": str(repository), "DVC_STAGE": stage} | variables
        command = [sys.executable, "tiny.py", "--out", "out.txt", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        path = tmp_path / ".provenance" / "tiny@a%20b.json"
        note = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return done.stderr, note

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    return tmp_path, git, run


def test_a_note_holds_what_was_there_at_the_start(project):
    folder, git, run = project
    _, note = run()
    assert note["stage"] == "tiny@a b"
    assert note["arguments"] == ["--out", "out.txt"]
    assert (note["commit"], note["changed"]) == (git("rev-parse", "HEAD"), [])
    assert (folder / "stages/code.py").read_text() == "x = 2"
    assert note["files"] == {
        path: hashlib.md5(content).hexdigest()
        for path, content in (
            ("stages/code.py", b"x = 1"),
            ("conf/config.yaml", b"a: 1"),
            ("params.yaml", b"a: 1\n"),
        )
    }
    assert note["params"] == "a: 1\n"
    environment = note["environment"]
    assert environment["packages"]["numpy"] == version("numpy")
    assert environment["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert environment["cores"] >= 1
    # Python itself with what the command line imports takes more than this.
    assert note["wall_seconds"] > 0.01
    assert note["peak_memory_mib"] > 5


def test_only_tracked_files_count_as_changed_and_all_of_them(project):
    folder, git, run = project
    run()
    (folder / "data.csv").unlink()
    (folder / "new file.py").write_text("y = 1")
    (folder / "added.py").write_text("y = 1")
    git("add", "added.py")
    assert run()[1]["changed"] == ["added.py", "data.csv", "stages/code.py"]


def test_without_a_commit_or_git_nothing_is_claimed(project, tmp_path_factory):
    folder, git, run = project
    git("checkout", "-q", "--orphan", "other")
    assert (run()[1]["commit"], run()[1]["changed"]) == (None, None)
    (folder / ".git").rename(folder / "other.git")
    assert (run()[1]["commit"], run()[1]["changed"]) == (None, None)
    (folder / "other.git").rename(folder / ".git")
    empty = tmp_path_factory.mktemp("no git")
    assert run(PATH=str(empty))[1]["commit"] is None


def test_a_stage_that_fails_leaves_no_note(project):
    _, note = project[2]("--fail", status=1)
    assert note is None


def test_a_note_that_cannot_be_written_is_one_line_and_no_error(project):
    folder, _, run = project
    (folder / ".provenance").write_text("in the way")
    stderr, note = run()
    assert note is None
    (line,) = stderr.splitlines()
    assert line.startswith("warning: no provenance of tiny@a b is kept (.provenance")


def test_nothing_is_noted_of_what_dvc_does_not_run(project):
    folder, _, run = project
    run(stage="")
    assert not (folder / ".provenance").exists()


def test_outputs_are_those_that_dvc_holds_for_writing(project):
    folder, _, run = project
    (folder / "made").mkdir()
    (folder / "made/a").write_text("a")
    held = {"write": {f"{folder}/{name}": {"pid": 1, "cmd": "x"} for name in ("out.txt", "made")}}
    (folder / ".dvc/tmp").mkdir(parents=True)
    (folder / ".dvc/tmp/rwlock").write_text(json.dumps(held))
    outputs = run()[1]["outputs"]
    listing = f'[{{"md5": "{hashlib.md5(b"a").hexdigest()}", "relpath": "a"}}]'
    assert outputs == {
        "out.txt": {"md5": hashlib.md5(b"made").hexdigest(), "size": 4},
        "made": {"md5": f"{hashlib.md5(listing.encode()).hexdigest()}.dir", "size": 1},
    }


def test_graphics_cards_are_read_from_the_driver(tmp_path):
    for number, name in enumerate(("NVIDIA H200", "NVIDIA A100-SXM4-80GB")):
        (tmp_path / f"000{number}").mkdir()
        text = f"Model: \t\t {name}\nIRQ:   \t\t 0\nGPU UUID: \t GPU-0\n"
        (tmp_path / f"000{number}/information").write_text(text)
    assert record.gpus(tmp_path) == ["NVIDIA H200", "NVIDIA A100-SXM4-80GB"]
    assert record.gpus(tmp_path / "none") == []


def test_every_package_named_is_pinned(repository):
    lines = (repository / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines}
    assert set(record.PACKAGES) <= pinned


def test_a_list_that_another_lane_is_just_writing_is_read_again(tmp_path, monkeypatch):
    path = tmp_path / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(parents=True)
    whole = json.dumps({"write": {str(tmp_path / "reports/a.csv"): {}}})
    path.write_text(whole[:9])
    monkeypatch.setattr(record.time, "sleep", lambda _: path.write_text(whole))
    assert record._locked_for_writing(tmp_path) == ("reports/a.csv",)


def test_a_list_that_never_becomes_whole_is_no_list(tmp_path, monkeypatch):
    path = tmp_path / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    monkeypatch.setattr(record, "BETWEEN_S", 0)
    assert record._locked_for_writing(tmp_path) == ()
