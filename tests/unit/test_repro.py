"""What is written of dvc.lock after a stage, beside what DVC itself writes."""

import copy
from types import SimpleNamespace

import pytest
from dvc.utils.serialize import dumps_yaml, loads_yaml

from stages.base import repro


@pytest.fixture(scope="module")
def locked(repository):
    found = loads_yaml((repository / "dvc.lock").read_text(encoding="utf-8"))
    # DVC needs seconds for all of it.
    return found | {"stages": dict(list(found["stages"].items())[:16])}


def _changed(entry):
    entry = copy.deepcopy(entry)
    entry["outs"][0] |= {"md5": "0" * 32, "path": "a: 'path' # that is quoted"}
    entry["params"] = {"params.yaml": {"a": None, "b": [1e-05, {"c": "two\nlines"}], "d": "1.0"}}
    return entry


@pytest.mark.parametrize("place", [0, 8, -1])
def test_a_stage_is_put_in_its_place_as_dvc_does(locked, place):
    name = list(locked["stages"])[place]
    entry = _changed(locked["stages"][name])
    whole = locked | {"stages": locked["stages"] | {name: entry}}
    assert repro.spliced(dumps_yaml(locked), {name: entry}) == dumps_yaml(whole)


def test_a_new_stage_comes_last(locked):
    entry = _changed(next(iter(locked["stages"].values())))
    added = {"new@a b": entry, "another": {"cmd": "true"}}
    whole = locked | {"stages": locked["stages"] | added}
    assert repro.spliced(dumps_yaml(locked), added) == dumps_yaml(whole)
    assert repro.spliced(dumps_yaml(whole), added) == dumps_yaml(whole)


@pytest.mark.parametrize("before", [None, "stages: {}\nschema: '2.0'\n"])
def test_a_file_that_is_not_there_or_is_written_otherwise_is_left_to_dvc(
    tmp_path, monkeypatch, before
):
    path, asked = tmp_path / "dvc.lock", []
    if before:
        path.write_text(before, encoding="utf-8")
    monkeypatch.setattr(repro, "_by_dvc", lambda *words, **options: asked.append((words, options)))
    lock = SimpleNamespace(path=str(path))
    repro._dump_stages(lock, ["stage"], with_files=True)
    assert asked == [((lock, ["stage"]), {"with_files": True})]
