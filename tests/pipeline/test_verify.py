"""`make verify` on a real repository of git and DVC, from commit to verdict."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stages.audit import lock
from stages.audit.verification import main

TABLES = """
from pathlib import Path
Path("counts.csv").write_text("tissue,n\\nKidney,4\\nLung,6\\n")
Path("notes").mkdir(exist_ok=True)
Path("notes/a.md").write_text("one\\n")
Path("notes/b.md").write_text("two\\n")
"""
MEANS = """
from pathlib import Path
rows = [line.split(",") for line in Path("counts.csv").read_text().splitlines()[1:]]
factor = float(Path("factor.txt").read_text())
lines = [f"{tissue},{int(n) * factor!r}" for tissue, n in rows]
Path("means.csv").write_text("\\n".join(["tissue,mean", *lines]) + "\\n")
"""
# No two machines train the same.
WEIGHTS = """
import os
from pathlib import Path
Path("weights.txt").write_text(os.urandom(8).hex())
"""
GRAPH = """
stages:
  trained:
    cmd: python weights.py
    deps: [weights.py]
    outs: [weights.txt]
  counts:
    cmd: python counts.py
    deps: [counts.py]
    outs: [counts.csv, notes]
  means:
    cmd: python means.py
    deps: [means.py, factor.txt, counts.csv]
    outs: [means.csv]
"""


def _environment(home):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # No settings of the person who runs the tests.
    return kept | {"PATH": path, "HOME": str(home), "DVC_NO_ANALYTICS": "1"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Return a repository whose stages were run, committed and pushed, and what runs there."""
    home = tmp_path_factory.mktemp("a päth with spaces")
    folder = home / "study"
    folder.mkdir()

    def run(*words):
        done = subprocess.run(
            words, cwd=folder, env=_environment(home), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"

    def commit(said):
        run("git", "add", "-A")
        run("git", "-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "-qm", said)

    run("git", "init", "-q")
    run("dvc", "init", "-q")
    settings = "[core]\n    remote = artifacts\n['remote \"artifacts\"']\n    url = ../artifacts\n"
    (folder / ".dvc/config").write_text(settings, encoding="utf-8")
    texts = {"counts.py": TABLES, "means.py": MEANS, "weights.py": WEIGHTS}
    texts |= {"dvc.yaml": GRAPH, "factor.txt": "0.5\n"}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    run("dvc", "repro", "-q")
    run("dvc", "push", "-q")
    commit("first")
    return folder, run, commit


@pytest.fixture
def verify(study, monkeypatch, capfd, caplog):
    """Return what runs the command line there and gives its status, table and messages."""
    monkeypatch.chdir(study[0])
    caplog.set_level(logging.INFO, logger="stages")

    def go(*words):
        rc = main([str(word) for word in words])
        out, said = capfd.readouterr()
        return rc, out.splitlines(), said

    return go


def _files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_commit_is_recomputed_and_confirmed_and_a_changed_number_is_reported(
    study, verify, caplog, tmp_path
):
    folder, run, commit = study
    before = _files(folder / ".dvc/cache")
    # What is verified is the commit: neither this change nor a full cache makes a difference.
    (folder / "factor.txt").write_text("0.75\n", encoding="utf-8")
    again, written = tmp_path / "again", tmp_path / "report.json"
    rc, table, said = verify("--keep", again, "--json", written)
    assert rc == 0
    assert "Running stage 'counts'" in said
    assert "Running stage 'means'" in said
    assert "the working tree differs in factor.txt" in caplog.text
    assert table == [
        "identical             counts.csv",
        "identical             means.csv",
        "identical             notes",
        "identical             weights.txt",
        "4 outputs: 4 identical",
    ]
    assert "Running stage 'trained'" not in said
    assert json.loads(written.read_text(encoding="utf-8"))["counts"]["identical"] == 4
    assert _files(folder / ".dvc/cache") == before
    # Where all users may write, or none, as on a root that is read-only, nothing of DVC's is kept.
    assert (again / ".dvc/tmp/site").is_dir()

    # A number is changed in the committed table: the lock names it, the remote has it.
    (folder / "factor.txt").write_text("0.5\n", encoding="utf-8")
    (folder / "means.csv").write_text("tissue,mean\nKidney,2.0\nLung,3.25\n", encoding="utf-8")
    run("dvc", "commit", "-q", "-f", "means")
    run("dvc", "push", "-q")
    commit("changed")
    rc, table, _ = verify("--recomputed", again)
    assert rc == 1
    assert table[0] == "differs               means.csv"
    assert table[1].strip() == (
        "mean in row 2: 3.25 committed, 3.0 recomputed, off by 0.25, tolerance 0 (1 of 2 differ)"
    )
    assert table[-1] == "4 outputs: 1 differs, 3 identical"
    assert "error: means.csv cannot be confirmed" in caplog.text

    # The workspace has the changed number too: it is the commit before that it contradicts.
    rc, table, _ = verify("--recomputed", ".", "--against", "HEAD~1")
    assert rc == 1
    assert "mean in row 2: 3.0 committed, 3.25 recomputed" in table[1]


def test_a_folder_is_compared_file_by_file_and_damage_in_a_cache_is_noticed(
    study, verify, tmp_path
):
    folder = study[0]
    # DVC believes what lies in a cache; the true bytes are in the remote.
    (md5,) = [
        out.md5 for stage in lock.read(folder) for out in stage.outputs if out.path == "counts.csv"
    ]
    kept = folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    kept.chmod(0o644)
    kept.write_bytes(kept.read_bytes().replace(b"6", b"7"))
    again = tmp_path / "again"
    (again / "notes").mkdir(parents=True)
    (again / "counts.csv").write_text("tissue,n\nKidney,4\nLung,7\n", encoding="utf-8")
    (again / "notes/a.md").write_text("one and a half\n", encoding="utf-8")
    (again / "notes/c.md").write_text("three\n", encoding="utf-8")
    rc, table, _ = verify("--recomputed", again)
    assert rc == 1
    found = dict(reversed(line.split()) for line in table[:-1] if not line.startswith(" "))
    assert found == {
        "counts.csv": "differs",
        "means.csv": "missing",
        "notes/a.md": "differs",
        "notes/b.md": "missing",
        "notes/c.md": "differs",
        "weights.txt": "missing",
    }
    assert "n in row 2: 6 committed, 7 recomputed" in table[1]


def test_weights_are_trained_again_where_that_is_what_is_asked(study, verify):
    rc, table, said = verify("--only", "trained")
    assert rc == 1
    assert re.findall(r"Running stage '([^']+)'", said) == ["trained"]
    assert table[0] == "differs               weights.txt"
    assert table[-1] == "1 outputs: 1 differs"


def test_what_is_not_there_to_verify_is_one_line(verify, caplog, tmp_path, monkeypatch):
    assert verify("--recomputed", tmp_path / "nowhere")[0] == 1
    assert "nowhere is no folder" in caplog.text
    assert verify("--recomputed", ".", "--against", "v9")[0] == 1
    assert "error: v9 is no commit, branch or tag here" in caplog.text
    assert verify("--only", "mean")[0] == 1
    assert "the commit has no stage 'mean'. Its stages are counts, means, trained." in caplog.text
    monkeypatch.chdir(tmp_path)
    assert verify()[0] == 1
    assert "is not the top folder of a repository with git and DVC" in caplog.text
