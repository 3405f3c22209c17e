"""Growth costs nothing: a table, a metric and a system are added, and DVC is asked what would run.

The added system is a kind of component that nothing here knows: three parts, their effects in two
states, a metric of its own, and no other change.
"""

import json
import re

import pandas as pd
import pytest
import yaml

from stages.base import tables
from stages.measurement.tables import CHANGES, MEASURED
from stages.plane.tables import PLANE, PLANE_DIRECTIONS
from tests.clones import REPRO, copy_of, must

METRICS = '''"""What the effects of toys are measured by: two of all, and one of their own."""

from stages.measurement.metrics import OF_EFFECTS, Metric

LARGEST = Metric(
    "largest", lambda x, _: x.max(axis=-1), lambda _: 0.0, lambda _: 1e9, "effect", "Largest"
)
METRICS = (*OF_EFFECTS, LARGEST)
'''
WIDGETS = '''"""Write the effects of three components in two states."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from stages.measurement.effects import Effects, State, write

for step, mean in ((1, [1.0, 1.0, 1.0]), (2, [9.0, 1.0, 1.0])):
    names = pd.DataFrame(index=pd.Index(["a", "b", "c"], name="component"))
    drawn = np.array(mean) + 0.01 * np.random.default_rng(step).normal(size=(1, 6, 3))
    part = Effects(
        State("toy", f"step{step}", float(step), "nats"), "toy", "none", names, np.arange(6), drawn
    )
    write(Path(sys.argv[1]) / f"step{step}.parquet", [part])
'''
SCHEMA = '''"""A table that nobody reads yet."""

from stages.base.columns import schema, text

ADDED = schema("added", {"name": text()}, ["name"])
'''
STAGE = """
  widgets:
    desc: Make the effects of three components.
    cmd: python -m stages.toy.widgets data/interim/toy
    deps: [stages/toy/widgets.py, stages/measurement/effects.py]
    outs: [data/interim/toy]
"""
SYSTEM = """  toy:
    group: box
    room: toy
    effects: data/interim/toy
    states: [step1, step2]
    kinds: []
    untrained: null
"""
# What is said of the settings, and what must show every measured system.
AGGREGATES = {"study", "plane", "maturing", "axes", "explorer"}
ROOMS_OF_BEFORE = re.compile(
    r"acquire|cells|describe|proportions|metrics|contrast|medians|concordance|drivers|neighbours|"
    r"stability|trained|downloaded|tokens|attribution|ablate|control_variate|importance|classes|"
    r"distribution|screen|measured@heads"
)


@pytest.fixture(scope="module")
def grown(repository, tmp_path_factory):
    """Return a copy to which all three were added, and what DVC would run before and after."""
    folder = copy_of(repository, tmp_path_factory.mktemp("growth"))
    before = _changed(folder)
    room = folder / "stages" / "toy"
    room.mkdir()
    for name, text in (("__init__", '"""Toys."""\n'), ("metrics", METRICS), ("widgets", WIDGETS)):
        (room / f"{name}.py").write_text(text, encoding="utf-8")
    (folder / "stages/heads/tables/added.py").write_text(SCHEMA, encoding="utf-8")
    graph = folder / "dvc.yaml"
    text = graph.read_text(encoding="utf-8")
    graph.write_text(text.replace("\n  plane:\n", f"{STAGE}\n  plane:\n"), encoding="utf-8")
    conf = folder / "conf" / "config.yaml"
    text = conf.read_text(encoding="utf-8")
    conf.write_text(text.replace("systems:\n", f"systems:\n{SYSTEM}"), encoding="utf-8")
    must(folder, "python", "-m", "stages.base.compose")
    return folder, before, _changed(folder)


def _changed(folder):
    """Return what DVC says has changed of each stage since it was locked."""
    said = must(folder, "dvc", "status", "--json")
    return json.loads(said[said.index("{") :])


def test_only_what_is_new_would_run_and_what_shows_every_system(grown):
    _, before, after = grown
    new = {stage for stage, found in after.items() if found != before.get(stage)}
    assert {"widgets", "measured@toy"} <= new
    assert new - {"widgets", "measured@toy"} <= AGGREGATES
    assert not [name for name in new if ROOMS_OF_BEFORE.fullmatch(name)]


def test_it_is_measured_and_stands_in_the_plane_without_a_change_elsewhere(grown):
    folder, _, _ = grown
    forced = ("--single-item", "--force", "widgets", "measured@toy")
    must(folder, *REPRO, *forced)
    table = tables.read(folder / "reports/tables/measured/toy.csv", MEASURED)
    assert set(table["metric"]) > {"gini", "largest"}
    assert (table["n_components"] == 3).all()
    changes = tables.read(folder / "reports/tables/changes/toy.csv", CHANGES)
    largest = changes.set_index("metric").loc["largest"]
    assert largest["change"] == pytest.approx(8, abs=0.05)
    # The plane of the toy alone: what else there is was measured in another folder.
    systems = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))["systems"]
    for name in {"cells", *systems} - {"toy"}:
        for kind, schema in (("measured", MEASURED), ("changes", CHANGES)):
            tables.write(tables.empty(schema), schema, folder / f"reports/tables/{kind}/{name}.csv")
        drawn = pd.read_parquet(folder / "data/interim/draws/toy.parquet").iloc[:0]
        drawn.to_parquet(folder / f"data/interim/draws/{name}.parquet")
    words = ["--measured", "reports/tables/measured", "--changes", "reports/tables/changes"]
    words += ["--draws", "data/interim/draws", "--out", "p.csv", "--directions", "d.csv"]
    must(folder, "python", "-m", "stages.plane.plane", *words)
    rows = tables.read(folder / "p.csv", PLANE)
    assert set(rows["system"]) == {"toy"}
    assert (rows.loc[rows["scale"] != "shape", "quadrant"] == "crystallize").all()
    assert tables.read(folder / "d.csv", PLANE_DIRECTIONS).empty
