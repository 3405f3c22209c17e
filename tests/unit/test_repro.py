"""Stages in lanes, and what stands in the place of DVC's own, beside what DVC does."""

import copy
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from dvc.fs import LocalFileSystem
from dvc.repo import Repo
from dvc.utils.serialize import YAMLFileCorruptedError, dumps_yaml, loads_yaml, parse_yaml

from stages.base import hasten, repro
from tests.clones import copy_of


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
    assert hasten.spliced(dumps_yaml(locked), {name: entry}) == dumps_yaml(whole)


def test_a_new_stage_comes_last(locked):
    entry = _changed(next(iter(locked["stages"].values())))
    added = {"new@a b": entry, "another": {"cmd": "true"}}
    whole = locked | {"stages": locked["stages"] | added}
    assert hasten.spliced(dumps_yaml(locked), added) == dumps_yaml(whole)
    assert hasten.spliced(dumps_yaml(whole), added) == dumps_yaml(whole)


@pytest.mark.parametrize("before", [None, "stages: {}\nschema: '2.0'\n"])
def test_a_file_that_is_not_there_or_is_written_otherwise_is_left_to_dvc(
    tmp_path, monkeypatch, before
):
    path, asked = tmp_path / "dvc.lock", []
    if before:
        path.write_text(before, encoding="utf-8")
    monkeypatch.setattr(hasten, "_by_dvc", lambda *words, **options: asked.append((words, options)))
    lock = SimpleNamespace(path=str(path))
    hasten._dump_stages(lock, ["stage"], with_files=True)
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

    def test_what_took_longest_is_begun_first_and_what_needs_a_failure_never(
        self, monkeypatch, tmp_path
    ):
        log = tmp_path / "began"

        def make(words, fd):
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{words[-1]}\n")
            sys.exit(255 if words[-1] == "bad" else 0)

        lane = repro.Lane
        found = [lane(["short"]), lane(["bad"], (lane(["never"]),)), lane(["long"], (lane(["x"]),))]
        monkeypatch.setattr(repro, "_make", make)
        monkeypatch.setattr(repro, "_taken", lambda: {"long": 3.0, "x": 4.0, "bad": 5.0})
        monkeypatch.setattr(repro.os, "cpu_count", lambda: 1)
        assert repro._side_by_side(found, []) == 255
        assert log.read_text(encoding="utf-8").split() == ["long", "bad", "x", "short"]

    def test_where_nothing_has_changed_no_lane_is_begun_and_what_rests_on_a_change_is(self):
        lane = repro.Lane
        after = (lane(["c", "d"], (lane(["e"]),)), lane(["f"]))
        found = [lane(["a", "b"], after), lane(["g"])]
        assert repro.left(found, lambda name: False) == []
        assert repro.left(found, lambda name: name == "b") == found[:1]
        assert repro.left(found, lambda name: name in "dg") == [after[0], found[1]]

    def test_what_joins_lanes_is_made_after_them_and_not_after_a_failure(self, monkeypatch, small):
        asked, given, prepared, status = [], [], [], 255
        monkeypatch.setattr(repro, "dvc", lambda words: asked.append(words) or 0)
        monkeypatch.setattr(repro.warm, "prepare", prepared.append)
        monkeypatch.setattr(
            repro, "_side_by_side", lambda found, *_: given.append(_names(found)) or status
        )
        monkeypatch.setattr(repro.warm, "started", lambda: nullcontext(None))
        assert repro.main(["joined"]) == 255
        assert asked == [["repro", "--single-item", "study"]]
        assert sorted(given[-1]) == ["one@a", "one@b", "other"]
        status = 0
        assert repro.main(["joined"]) == 0
        assert asked[1:] == [asked[0], ["repro", "--single-item", "study", "joined"]]
        assert len(prepared) == 2
        # Three stages are few.
        assert repro.main(["one"]) == 0
        assert sorted(given[-1]) == ["one@a", "one@b"]
        assert len(prepared) == 2
        # Where files may be missing, DVC looks at what they come from as well.
        assert repro.main(["--allow-missing", "joined"]) == 0
        assert asked[-1] == ["repro", "--allow-missing", "joined"]
        # What is no stage is DVC's to refuse.
        assert repro.main(["joined", "none"]) == 0
        assert asked[-1] == ["repro", "joined", "none"]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Be where DVC has two systems and what joins them, none of it made."""
    graph = """
stages:
  study: {cmd: echo, outs: [study]}
  one: {foreach: [a, b], do: {cmd: python -m stages.cells.one, deps: [study], outs: ["${item}"]}}
  other: {cmd: python -m stages.heads.other, deps: [study], outs: [c]}
  joined: {cmd: python -m stages.plane.joined, deps: [a, b, c], outs: [d]}
"""
    Repo.init(str(tmp_path), no_scm=True).close()
    (tmp_path / "dvc.yaml").write_text(graph, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_weights_that_are_fetched_are_those_that_the_demo_trains(
    repository, monkeypatch, tmp_path
):
    """A glob found none of them, and a fresh clone trained a model of other weights."""
    asked = []
    monkeypatch.setattr(repro, "dvc", lambda words: asked.append(words) or 0)
    monkeypatch.chdir(copy_of(repository, tmp_path))
    repro._fetch_weights(None)
    names = ["trained@pythia-mini", "cell_trained@cell-mini", "autoencoders@cell-mini"]
    assert asked == [["pull", "--quiet", "--allow-missing", *names]]
    # One that would be trained anew is none of them.
    settings = Path("params.yaml")
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace("steps: 4096", "steps: 4095"), encoding="utf-8")
    repro._fetch_weights(None)
    assert "cell_trained@cell-mini" not in asked[1]


@pytest.fixture(scope="module")
def text(repository):
    return (repository / "dvc.lock").read_text(encoding="utf-8")


class TestDvc:
    """What takes the place of DVC's own gives what that gives."""

    def test_entries_of_a_lock_file_are_parsed_as_the_whole_is(self, text, locked):
        found = hasten._parse(text, "dvc.lock")
        assert found == parse_yaml(text, "dvc.lock")
        # Whoever changes what it was given changes it for no other.
        next(iter(found["stages"].values())).clear()
        first = next(iter(locked["stages"]))
        assert hasten._parse(text, "dvc.lock")["stages"][first] == locked["stages"][first]

    def test_what_else_stands_there_is_parsed_and_a_fault_said(self, text):
        more = f"{text}datasets:\n- name: one\n"
        assert hasten._parse(more, "dvc.lock") == parse_yaml(more, "dvc.lock")
        for wrong in (f"{text}  a: [1\n", f"{hasten.HEAD}\t"):
            with pytest.raises(YAMLFileCorruptedError):
                hasten._parse(wrong, "dvc.lock")

    def test_settings_are_read_by_name_as_dvc_finds_them(self, repository):
        path, fs = str(repository / "params.yaml"), LocalFileSystem()
        names = ["sweep", "model.train.seed", "model.checkpoints", "conf_digest"]
        for asked in (names, [*names, "nothing.there"], ["model.checkpoints.0"], None):
            found = hasten._read_params(fs, path, asked, flatten=True)
            assert found == hasten._read_by_dvc(fs, path, asked, flatten=True)
        assert list(hasten._read_params(fs, path, names, flatten=True)) == names


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
