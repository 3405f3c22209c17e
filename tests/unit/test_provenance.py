"""Provenance: a small graph run by DVC in a real repository, and what is said of its outputs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from stages.audit import printed, provenance
from stages.audit.lock import Output, Stage
from stages.base import record
from stages.base.errors import ProvenanceError
from stages.report.writing import Templates

WORK = '''
"""Copy one file to a folder, with a number; change this file meanwhile if asked to."""

from pathlib import Path

import yaml

from stages.base import cli


def _run(args):
    settings = yaml.safe_load(Path("params.yaml").read_text())["tiny"]
    Path(args.out).mkdir(parents=True)
    Path(args.out, "copy.txt").write_text(Path(args.source).read_text() + str(settings["seed"]))
    if settings["edit"]:
        Path(__file__).write_text(Path(__file__).read_text() + "# Later.\\n")


parser = cli.parser(__doc__)
parser.add_argument("--source")
parser.add_argument("--out")
raise SystemExit(cli.run(parser, _run))
'''
GRAPH = """
stages:
  tiny:
    foreach: {a: source.txt, b: source.txt}
    do:
      cmd: python stages/tiny/work.py --source ${item} --out made/${key}
      deps: ['${item}', stages/tiny]
      params: [tiny]
      outs: ['made/${key}']
  provenance:
    cmd: python -m stages.audit.provenance --record provenance.json --out texts
    deps: [made]
    outs: [texts, provenance.json: {cache: false, persist: true}]
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, repository):
    """Return a repository of git and DVC with a graph of two stages and their provenance."""
    folder = tmp_path_factory.mktemp("tiny")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_"))}
    environment |= {
        "PYTHONPATH": str(repository),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
    }

    def run(*command, ok=True):
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        output = done.stdout + done.stderr
        assert (done.returncode == 0) is ok, output
        return output

    def repro(*words, ok=True):
        output = run(sys.executable, "-m", "dvc", "repro", *words, ok=ok)
        return SimpleNamespace(ran=re.findall(r"Running stage '([^']+)'", output), output=output)

    def commit():
        run("git", "add", ".")
        run("git", "-c", "user.name=a", "-c", "user.email=a@b.org", "commit", "-qm", "x")
        return run("git", "rev-parse", "HEAD").strip()

    def settings(*, seed=1, edit=False):
        content = {"tiny": {"seed": seed, "edit": edit, "precision": "float32"}}
        (folder / "params.yaml").write_text(yaml.safe_dump(content))

    (folder / "stages/tiny").mkdir(parents=True)
    (folder / "stages/tiny/work.py").write_text(WORK)
    (folder / "dvc.yaml").write_text(GRAPH)
    (folder / "source.txt").write_text("a source ")
    (folder / ".gitignore").write_text("made\ntexts\n.provenance\n__pycache__\n*.pyc\n")
    (folder / ".dvcignore").write_text("__pycache__\n.provenance\n")
    settings()
    run("git", "init", "-q")
    run(sys.executable, "-m", "dvc", "init", "-q")
    made = SimpleNamespace(folder=folder, repro=repro, commit=commit, settings=settings)
    made.read = lambda: json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    made.text = lambda name: (folder / "texts" / name).read_text(encoding="utf-8")
    made.first_commit = commit()
    assert repro().ran == ["tiny@a", "tiny@b", "provenance"]
    made.first = (folder / "provenance.json").read_text(encoding="utf-8")
    return made


def test_an_entry_says_what_made_the_output(tiny):
    found = json.loads(tiny.first)
    assert set(found["stages"]) == {"tiny@a", "tiny@b"}
    entry = found["stages"]["tiny@a"]
    lock = yaml.safe_load((tiny.folder / "dvc.lock").read_text())["stages"]["tiny@a"]
    (out,) = lock["outs"]
    assert out["md5"].endswith(".dir")
    assert entry["outputs"] == {"made/a": {"md5": out["md5"], "size": out["size"]}}
    deps = {dep["path"]: dep["md5"] for dep in lock["deps"]}
    assert entry["inputs"] == {"source.txt": deps["source.txt"]}
    # DVC's own hash of the folder, from the files as they are here.
    assert record.md5_of("stages/tiny", record.code_hashes(tiny.folder)) == deps["stages/tiny"]
    assert entry["code"] == record.short_hash({"stages/tiny": deps["stages/tiny"]})
    assert entry["params"] == record.short_hash(lock["params"]["params.yaml"])
    assert entry["command"] == "python stages/tiny/work.py --source source.txt --out made/a"
    assert entry["seeds"] == {"tiny.seed": 1}
    assert entry["precision"] == {"tiny.precision": "float32"}
    run = entry["run"]
    assert (run["commit"], run["changed"]) == (tiny.first_commit, [])
    assert found["environments"][run["environment"]]["packages"]["dvc"]
    row = tiny.text("table.md").splitlines()[2]
    assert row.startswith(f"| `tiny` (2) | {tiny.first_commit[:7]} | {entry['code'][:7]} | ")
    assert "| 1, float32 |" in row
    assert "The 2 runs, begun on " in tiny.text("runs.md")
    assert "All ran on the files of their commit." in tiny.text("runs.md")


def test_nothing_runs_again(tiny):
    assert tiny.repro().ran == []


def test_a_run_that_writes_the_same_bytes_changes_nothing(tiny):
    code = tiny.folder / "stages/tiny/work.py"
    code.write_text(WORK + "# A comment.\n")
    tiny.commit()
    assert tiny.repro().ran == ["tiny@a", "tiny@b"]
    tiny.repro("-sf", "provenance")
    assert (tiny.folder / "provenance.json").read_text(encoding="utf-8") == tiny.first


def test_other_bytes_have_another_run_and_the_first_come_back_with_theirs(tiny):
    tiny.settings(seed=2)
    assert tiny.repro().ran == ["tiny@a", "tiny@b", "provenance"]
    found = tiny.read()["stages"]["tiny@b"]
    assert found["seeds"] == {"tiny.seed": 2}
    assert found["run"]["commit"] != tiny.first_commit
    # dvc.lock and provenance.json, which every run changes, are not among them.
    assert found["run"]["changed"] == ["params.yaml"]
    assert f"| {found['run']['commit'][:7]}+ |" in tiny.text("table.md")
    assert "In 2 runs (marked +) tracked files differed from the commit: `params.yaml`." in (
        tiny.text("runs.md")
    )
    tiny.settings()
    # From DVC's cache: no stage runs, and the last note of each is of other outputs.
    assert tiny.repro().ran == ["provenance"]
    assert (tiny.folder / "provenance.json").read_text(encoding="utf-8") == tiny.first


def test_what_was_fetched_has_no_run(tiny):
    (tiny.folder / ".provenance").rename(tiny.folder / "elsewhere")
    (tiny.folder / "provenance.json").unlink()
    tiny.repro("-s", "provenance")
    assert {entry["run"] for entry in tiny.read()["stages"].values()} == {None}
    assert "| fetched |" in tiny.text("table.md")
    assert tiny.text("runs.md") == "None of the 2 stages ran where this was written.\n"
    (tiny.folder / "elsewhere/.described.json").rename(
        tiny.folder / ".provenance" / ".described.json"
    )
    # A run that is known counts for more than none.
    tiny.repro("-sf", "provenance")
    assert (tiny.folder / "provenance.json").read_text(encoding="utf-8") == tiny.first


def test_code_that_changes_while_a_stage_runs_is_an_error(tiny):
    tiny.settings(seed=3, edit=True)
    failed = tiny.repro(ok=False)
    assert failed.ran[-1] == "provenance"
    assert (
        "error: stages/tiny/work.py changed while the stage tiny@a ran, so it cannot be said what "
        "its outputs come from. Run it again: dvc repro -f tiny@a." in failed.output
    )


def _stage(name="one", *, md5="1", params=None):
    return Stage(
        name=name,
        command="python -m x",
        inputs={"stages/x": "d", "data.csv": "2"},
        outputs=(Output("out.csv", md5, size=3),),
        params={"x": {"seed": 1}} if params is None else params,
    )


def _note(**changes):
    environment = {
        "cores": 4,
        "cpu": "CPU",
        "gpus": [],
        "memory_gib": 8.0,
        "packages": {"numpy": "2.0", "torch": None},
        "python": "3.11.1",
        "system": "Linux x86_64",
    }
    return {
        "changed": [],
        "commit": "0123456789",
        "environment": environment,
        "files": {"stages/x": "d", "stages/y": "e"},
        "gpu": None,
        "outputs": {"out.csv": {"md5": "1", "size": 3}},
        "params": "x: {seed: 1}\n",
        "peak_memory_mib": 10,
        "started": "2026-01-02T03:04:05+00:00",
        "wall_seconds": 1.25,
    } | changes


def _printed(name, found):
    return Templates().fill(f"provenance/{name}.md.j2", printed.context(found))


def _described(stages, notes):
    return provenance.provenance(stages, notes, {}, {}, own="provenance.json")


def test_a_setting_that_changes_while_a_stage_runs_is_an_error():
    with pytest.raises(ProvenanceError, match=r"^x in params.yaml changed while the stage one ran"):
        _described([_stage()], {"one": _note(params="x: {seed: 2}\n")})


def test_a_note_of_other_outputs_is_not_taken():
    other = {"out.csv": {"md5": "0", "size": 3}}
    found = _described([_stage()], {"one": _note(outputs=other)})
    assert found["one"]["run"] is None
    # Of a large output only the size was noted.
    large = {"out.csv": {"md5": None, "size": 3}}
    assert _described([_stage()], {"one": _note(outputs=large)})["one"]["run"]
    none = _described([_stage()], {"one": _note(outputs={})})
    assert none["one"]["run"] is None


def test_groups_of_unlike_members_say_so():
    stages = [_stage("g@a"), _stage("g@b", params={}), _stage("g@c"), _stage("h", params={})]
    notes = {"g@a": _note(), "g@b": _note(commit=None, changed=None), "h": _note(gpu="H200")}
    found = _described(stages, notes)
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in _printed("table", found).splitlines()[2:]
    ]
    assert [row[:2] for row in rows] == [["`g` (3)", "several"], ["`h`", "0123456"]]
    assert rows[0][2] == record.short_hash({"stages/x": "d"}, 7)
    of_params = {name: found[name]["params"] for name in ("g@a", "g@b", "g@c")}
    assert rows[0][3] == record.short_hash(of_params, 7)
    shown = [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in rows[0][5:]]
    assert shown == ["1", "02 Jan 03:04", "2.5 s"]
    assert (rows[1][3], rows[1][5]) == ("\N{EN DASH}", "\N{EN DASH}")
    said = _printed("runs", found)
    assert "CPU, 4 cores, 8 GiB of memory, no graphics card, Linux x86_64, Python 3.11.1 with" in (
        said
    )
    assert "Of 1 run the commit is not known." in said
    assert "Stages that computed on a graphics card: H200 (1)." in said
    assert "The outputs of 1 stage were fetched" in said


def test_two_machines_are_both_described():
    other = _note()["environment"] | {"gpus": ["NVIDIA H200"], "cores": 16}
    stages = [_stage("one"), _stage("two")]
    found = _described(stages, {"one": _note(), "two": _note(environment=other)})
    said = _printed("runs", found)
    assert "on 2 machines or sets of packages: CPU, 4 cores" in said
    assert "16 cores, 8 GiB of memory, NVIDIA H200, Linux" in said


def test_a_damaged_record_is_one_line(tmp_path):
    path = tmp_path / "provenance.json"
    assert provenance.read(path) == {}
    found = _described([_stage()], {"one": _note()})
    provenance.write(found, path)
    assert provenance.read(path) == {"one": [found["one"]]}
    text = path.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    for damaged in ("<<<<<<< HEAD\n" + text, text.replace('"run"', '"ran"'), "[]"):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(ProvenanceError, match=r"is damaged .*git checkout"):
            provenance.read(path)
