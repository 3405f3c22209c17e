"""What is written of dvc.lock after a stage, beside what DVC itself writes."""

import copy
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from dvc.repo import Repo
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


# Of a library that DVC walks its index with.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


@pytest.fixture(scope="module")
def graph(repository):
    with Repo(str(repository)) as repo:
        return repo.index.graph


def _names(lanes):
    return [name for lane in lanes for name in [*lane.names, *_names(lane.then)]]


class TestLanes:
    """What is made side by side needs nothing of one another."""

    def test_each_stage_is_in_one_lane_after_what_it_needs(self, graph):
        lanes = repro.lanes(graph)
        assert len(lanes) >= 3
        made = _names(lanes)
        assert len(made) == len(set(made))
        by_name = {stage.addressing: stage for stage in graph}

        def follow(lane, before):
            before = set(before)
            for name in lane.names:
                needed = {stage.addressing for stage in graph.successors(by_name[name])}
                assert needed <= before, f"{name} is made before {needed - before}"
                before.add(name)
            for after in lane.then:
                follow(after, before)

        for lane in lanes:
            follow(lane, {repro.FIRST})

    def test_together_they_are_every_stage_of_a_system_and_none_that_joins_them(self, graph):
        made = set(_names(repro.lanes(graph)))
        assert made == {s.addressing for s in graph if repro._belongs_to_one_system(s)}
        assert {"plane", "render", "study"} <= {s.addressing for s in graph} - made

    def test_what_is_made_of_one_model_by_several_rooms_is_made_side_by_side(self, graph):
        (lane,) = [of for of in repro.lanes(graph) if "cell_trained@cell-mini" in of.names]
        assert "cell_heads@cell-mini" not in lane.names
        apart = {"cell_heads@cell-mini", "cell_pairs@cell-mini", "trace@cell-mini"}
        assert [len(apart & set(of.names)) for of in lane.then if apart & set(of.names)] == [1] * 3

    def test_what_took_longest_is_begun_first_and_what_needs_a_failure_never(self, monkeypatch):
        began = []

        def status(words):
            began.append(words[-1])
            return 255 if words[-1] == "bad" else 0

        lane = repro.Lane
        found = [lane(["short"]), lane(["bad"], (lane(["never"]),)), lane(["long"], (lane(["x"]),))]
        monkeypatch.setattr(repro, "_status", status)
        monkeypatch.setattr(repro, "lanes", lambda graph: found)
        monkeypatch.setattr(repro, "left", lambda found, changed: found)
        monkeypatch.setattr(repro, "_taken", lambda: {"long": 3.0, "x": 4.0, "bad": 5.0})
        monkeypatch.setattr(repro.os, "cpu_count", lambda: 1)
        assert repro._side_by_side([], []) == 255
        assert began == ["long", "bad", "x", "short"]

    def test_where_nothing_has_changed_no_lane_is_begun_and_what_rests_on_a_change_is(self):
        lane = repro.Lane
        after = (lane(["c", "d"], (lane(["e"]),)), lane(["f"]))
        found = [lane(["a", "b"], after), lane(["g"])]
        assert repro.left(found, lambda name: False) == []
        assert repro.left(found, lambda name: name == "b") == found[:1]
        assert repro.left(found, lambda name: name in "dg") == [after[0], found[1]]

    def test_a_lane_that_fails_ends_the_run_before_what_joins_them(self, monkeypatch, graph):
        asked = []
        monkeypatch.setattr(repro, "dvc", lambda words: asked.append(words) or 0)
        monkeypatch.setattr(repro, "_side_by_side", lambda targets, options, fd: 255)
        monkeypatch.setattr(repro.warm, "started", lambda: nullcontext(None))
        assert repro.main(["--allow-missing", "render"]) == 255
        assert asked == [["repro", "--allow-missing", "study"]]


def test_the_weights_that_are_fetched_are_those_that_the_demo_trains(repository, monkeypatch):
    """A glob found none of them, and a fresh clone trained a model of other weights."""
    asked = []
    monkeypatch.setattr(repro, "dvc", lambda words: asked.append(words) or 0)
    monkeypatch.chdir(repository)
    assert repro.main(["--weights"]) == 0
    names = ["trained@pythia-mini", "cell_trained@cell-mini", "autoencoders@cell-mini"]
    assert asked == [["pull", "--quiet", "--allow-missing", *names]]


def test_what_no_stage_makes_and_is_not_there_is_named(tmp_path, monkeypatch):
    graph = """
stages:
  first: {cmd: echo, deps: [raw.csv], outs: [folder/a, b]}
  second: {cmd: echo, deps: [folder, b/inside, here.csv, gone.csv]}
"""
    Repo.init(str(tmp_path), no_scm=True).close()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text(graph, encoding="utf-8")
    (tmp_path / "here.csv").touch()
    with Repo(str(tmp_path)) as repo:
        made = [out.fs_path for stage in repo.index.stages for out in stage.outs]
        found = {Path(path).name: by for path, by in repro.absent(repo.index.stages, made).items()}
    assert found == {"raw.csv": "first", "gone.csv": "second"}
