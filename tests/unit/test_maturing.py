"""The one table, the question asked of it, and the figure of all systems side by side."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from stages.base import study, tables
from stages.base.settings import parse
from stages.measurement import effects, measured
from stages.measurement.effects import Effects, State
from stages.measurement.settings import Measured, System
from stages.measurement.tables import MEASURED
from stages.plane import maturing, room_seeds
from stages.plane.figures import lorenz
from stages.plane.tables import LORENZ, MATURING, MATURING_ANSWERS, MOSTLY_NOISE
from stages.report import maturing as report
from stages.report.reading import Tables
from stages.report.writing import TEMPLATES, Templates

PARAMS = Measured(confidence=0.95, draws=200, seed=1)
ABOUT = study.Study("x", "demo", simulated=False, notice="")
N = 24


def system(**changes):
    told = {"room": "heads", "group": "m", "effects": "effects", "states": ["step0", "step9"]}
    return System(**told | {"kinds": ["head"], "untrained": "step0"} | changes)


def part(state, size, exposure, *, noise=0.01, seed=0):
    """Return effects of 12 replicates whose means are `size`, up to noise."""
    rng = np.random.default_rng([seed, len(state)])
    names = pd.Index([f"L0H{i}" for i in range(len(size))], name="component")
    known = pd.DataFrame({"exposure": exposure}, index=names)
    draws = size * (1 + noise * rng.normal(size=(1, 12, len(size))))
    of = State("s", state, float(state[4:]), "nats", "exposure")
    return Effects(of, "head", "zero", known, np.arange(12), draws)


def made(kind, seed=0, *, noise=0.01):
    """Return both states of a training.

    falls
        A few components take over, whatever their exposure.
    exposed
        Effects are proportional to an exposure that comes to lie in a few.
    nothing
        No change but chance.
    """
    rng = np.random.default_rng(seed)
    even = np.exp(rng.normal(0, 0.3, N))
    unequal = np.exp(rng.normal(0, 2.0, N))
    flat, chance = np.exp(rng.normal(0, 0.2, N)), np.exp(rng.normal(0, 0.02, N))
    first = even * chance
    last, exposure = {
        "falls": (unequal, flat),
        "exposed": (unequal * even, unequal),
        "nothing": (even * np.exp(rng.normal(0, 0.02, N)), flat),
    }[kind]
    before = flat if kind != "exposed" else np.exp(rng.normal(0, 0.2, N))
    start = first if kind != "exposed" else before * even
    return [
        part("step0", start, before, noise=noise, seed=seed),
        part("step9", last, exposure, noise=noise, seed=seed),
    ]


def rows(kind, seeds, *, noise=0.01):
    """Return the one table of trainings from some seeds, and the effects of the first."""
    every = [made(kind, seed, noise=noise) for seed in seeds]
    tables_ = [
        measured.measured(states, system(), measured.metrics_of("heads"), PARAMS)[0]
        for states in every
    ]
    found = [
        maturing.wide(table, seed=seed, untrained="step0")
        for table, seed in zip(tables_, seeds, strict=True)
    ]
    return pd.concat(found, ignore_index=True), every[0]


def asked(kind, seeds, **options):
    table, ours = rows(kind, seeds, **options)
    return pd.DataFrame(maturing.answers(table, ours, {"step0": 0.5}, PARAMS)).set_index("start")


@pytest.fixture(scope="module")
def falls():
    return rows("falls", range(5))


def test_the_one_table_has_the_numbers_by_hand():
    metric = ["gini", "effective_number", "effective_share"]
    long = pd.DataFrame(
        {"system": "s", "group": "m", "series": "head", "condition": "zero", "state": "step0",
         "metric": [*metric, "sum_abs"], "value": [0.375, 3.13, 0.7825, 9.0]}
    ).reindex(columns=list(MEASURED.columns))  # fmt: skip
    long = long.assign(position=0.0, n_components=4, n_replicates=7, noise_share=0.25)
    long = long.assign(floor=[0.4, 3.0, 0.75, 1.0], exposure_removed=[0.1, 3.5, 0.875, 1.0])
    long = long.assign(replicates_low=[0.3, 3.0, 0.7, 8], replicates_high=[0.4, 3.2, 0.8, 10])
    [row] = maturing.wide(long, seed=5, untrained="step0").to_dict("records")
    assert (row["gini"], row["effective_number"], row["effective_share"]) == (0.375, 3.13, 0.7825)
    assert (row["gini_floor"], row["effective_share_exposure_removed"]) == (0.4, 0.875)
    assert (row["effective_share_low"], row["effective_share_high"]) == (0.7, 0.8)
    assert (row["seed"], row["trained"], row["n_components"]) == (5, False, 4)
    MATURING.validate(pd.DataFrame([row]))


def test_the_test_over_trainings_is_students_and_the_sign_test():
    changes = np.array([-0.3, -0.1, 0.05, -0.25])
    found = maturing.tested(changes, 0.95)
    expected = stats.ttest_1samp(changes, 0).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx(expected)
    assert found["change"] == pytest.approx(changes.mean())
    # Three of four: 2 * (1 + 4) / 16.
    assert (found["n"], found["n_fall"], found["p_sign"]) == (4, 3, pytest.approx(0.625))
    none = maturing.tested(np.array([]), 0.95)
    assert none["n"] == 0
    assert math.isnan(none["change"])


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [("falls", "yes"), ("exposed", "falls, not beyond exposure"), ("nothing", "not told")],
)
def test_the_answer_over_trainings_is_what_was_planted(kind, verdict):
    row = asked(kind, range(5)).loc["first"]
    assert row["verdict"] == verdict
    assert (row["over"], row["left_over"], row["n"]) == ("trainings", "trainings", 5)
    assert row["p_smallest"] == 2 / 2**5
    if kind != "nothing":
        assert row["n_fall"] == 5
        assert row["high"] < 0
    # What is left of a pure exposure keeps its evenness.
    if kind == "exposed":
        assert abs(row["left_change"]) < 0.1 < -row["change"]


def test_the_change_is_that_of_the_measured_table(falls):
    table, ours = falls
    [row] = maturing.answers(table, ours, {}, PARAMS)
    wide = table.pivot(index="seed", columns="state", values="effective_share")
    assert row["change"] == pytest.approx(np.log(wide["step9"] / wide["step0"]).mean())
    assert row["share_first"] == wide.loc[0, "step0"]
    assert row["verdict"] == "yes"


def test_one_training_has_an_interval_over_its_replicates_and_says_so():
    row = asked("falls", [3]).loc["first"]
    assert (row["over"], row["left_over"], row["n"]) == ("replicates", "replicates", 1)
    assert row["low"] < row["change"] < row["high"] < 0
    assert row["p_smallest"] == 1
    assert row["verdict"] == "yes"
    # Two trainings are no sample either: the interval stays that of ours.
    two = asked("falls", [3, 4]).loc["first"]
    assert (two["over"], two["n"], two["change"]) == ("replicates", 2, row["change"])
    assert (two["low"], two["high"]) == (row["low"], row["high"])


def test_an_exposure_of_one_training_is_no_answer_over_trainings(falls):
    table, ours = falls
    alone = table["seed"].eq(0)
    column = "effective_share_exposure_removed"
    table = table.assign(**{column: table[column].where(alone)})
    [row] = maturing.answers(table, ours, {}, PARAMS)
    assert (row["over"], row["left_over"], row["left_n"]) == ("trainings", "replicates", 1)
    assert row["verdict"] == "falls, beyond exposure in one training"


def test_one_replicate_has_no_interval_and_one_state_no_change():
    table, ours = rows("falls", [0])
    one = [dataclasses.replace(p, draws=p.draws[:, :1], replicates=p.replicates[:1]) for p in ours]
    [row] = maturing.answers(table, one, {}, PARAMS)
    assert (row["verdict"], row["over"]) == ("no interval", None)
    [row] = maturing.answers(table[table["state"] == "step9"], ours[1:], {}, PARAMS)
    assert (row["verdict"], row["n"]) == ("one state", 0)


def test_a_state_that_is_mostly_noise_is_no_start(falls):
    table, ours = falls
    middle = part("step5", np.exp(np.linspace(0, 1, N)), np.ones(N) + np.arange(N))
    states = [ours[0], middle, ours[1]]
    more = table[table["state"] == "step9"].assign(state="step5", position=5.0)
    table = pd.concat([table, more], ignore_index=True)
    noisy = table["state"] == "step0"
    table.loc[noisy, "noise_share"] = MOSTLY_NOISE + 0.1
    first, later = maturing.answers(table, states, {"step0": 0.9, "step5": 0.01}, PARAMS)
    assert (first["start"], first["state_first"], first["verdict"]) == ("first", "step0", "noise")
    assert (later["start"], later["state_first"]) == ("beyond noise", "step5")
    assert later["p_first"] == 0.01
    # Noise at the end leaves no start at all that would help.
    table.loc[table["state"] == "step9", "noise_share"] = MOSTLY_NOISE + 0.1
    assert {row["verdict"] for row in maturing.answers(table, states, {}, PARAMS)} == {"noise"}


def test_cells_are_asked_over_tissues_of_real_arms():
    arms = (study.Arm("tms", "facs", None, study.ANNOTATION),)
    arms += (study.Arm("made", "facs", None, study.SIMULATED),)
    about = dataclasses.replace(ABOUT, arms=arms)
    shares = {"a": (0.5, 0.4), "b": (0.6, 0.45), "c": (0.7, 0.6)}
    made_ = [
        {"system": "cells", "group": group, "series": tissue, "condition": "all", "state": state,
         "effective_share": share}
        for group, factor in (("tms facs", 1), ("made facs", 0.1))
        for tissue, both in shares.items()
        for state, share in zip(("reference", "compared"), (both[0], both[1] * factor), strict=True)
    ]  # fmt: skip
    table = pd.DataFrame(made_).reindex(columns=list(MATURING.columns))
    [row] = maturing.of_cells(table, about, 0.95)
    changes = [math.log(last / first) for first, last in shares.values()]
    assert row["change"] == pytest.approx(np.mean(changes))
    assert (row["over"], row["n"], row["verdict"]) == ("tissues", 3, "falls, exposure not tested")
    assert list(maturing.of_cells(table.iloc[:0], about, 0.95)) == []


@pytest.fixture
def folder(tmp_path, params, monkeypatch):
    """Return what lays out a study of one system, and runs the stage in it."""
    monkeypatch.chdir(tmp_path)
    states = made("falls")
    for one in states:
        effects.write(tmp_path / f"effects/{one.state.name}.parquet", [one])
    of = system()
    table, _, _ = measured.measured(states, of, measured.metrics_of("heads"), PARAMS)
    tables.write(table, MEASURED, tmp_path / "measured/toy.csv")
    tables.write(tables.empty(MEASURED), MEASURED, tmp_path / "measured/cells.csv")
    changed = params | {"systems": {"toy": of.model_dump(mode="json")}}
    changed["measured"] = PARAMS.model_dump()
    changed["model"] = changed["model"] | {"name": "m"}
    changed["room_seeds"] = {"model": [1, 2, 3], "cellmodel": []}
    recipe = room_seeds.rooms_recipe(parse(changed), "model")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
    about = dataclasses.asdict(ABOUT) | {"arms": []}
    (tmp_path / "study.json").write_text(json.dumps(about), encoding="utf-8")
    header = ",".join(maturing.PROPORTIONS.columns)
    (tmp_path / "proportions.csv").write_text(header + "\n", encoding="utf-8")

    def run(seeds=()):
        for seed in seeds:
            other, _, _ = measured.measured(
                made("falls", seed), of, measured.metrics_of("heads"), PARAMS
            )
            tables.write(other, MEASURED, tmp_path / f"seeds/m/seed{seed}/measured/toy.csv")
            made_by = json.dumps({"recipe": recipe})
            (tmp_path / f"seeds/m/seed{seed}/made_by.json").write_text(made_by, encoding="utf-8")
        words = ["--measured", "measured", "--proportions", "proportions.csv", "--seeds", "seeds"]
        words += ["--study", "study.json", "--out", "maturing.csv"]
        words += ["--answers", "maturing_answers.csv", "--lorenz", "lorenz_curves.csv"]
        assert maturing.main(words) == 0
        return tables.read(tmp_path / "maturing_answers.csv", MATURING_ANSWERS)

    return run


def test_the_stage_goes_without_further_seeds_and_takes_those_that_fit(folder, tmp_path):
    [row] = folder().to_dict("records")
    assert (row["n"], row["over"], row["components"]) == (1, "replicates", "toy")
    [row] = folder(seeds=(1, 2, 3)).to_dict("records")
    assert (row["n"], row["over"], row["verdict"]) == (4, "trainings", "yes")
    assert tables.read(tmp_path / "maturing.csv", MATURING)["seed"].nunique() == 4
    path = tmp_path / "seeds/m/seed2/made_by.json"
    made_by = json.loads(path.read_text(encoding="utf-8"))
    made_by["recipe"]["rooms"]["pairs"]["seed"] += 1
    path.write_text(json.dumps(made_by), encoding="utf-8")
    shutil.copytree(path.parent, tmp_path / "seeds/m/seedling")
    [row] = folder().to_dict("records")
    assert row["n"] == 3


def test_the_curves_have_the_gini_of_the_table(folder, tmp_path):
    folder()
    table = tables.read(tmp_path / "maturing.csv", MATURING).set_index("state")
    curves = tables.read(tmp_path / "lorenz_curves.csv", LORENZ)
    assert set(curves["state"]) == {"step0", "step9"}
    for state, of in curves.groupby("state"):
        area = np.trapezoid(of["held"], of["share"])
        # Read off at 101 points instead of at 24 corners: observed within 2e-3.
        assert 1 - 2 * area == pytest.approx(table.loc[state, "gini"], abs=5e-3)
    area = np.trapezoid(lorenz.half_normal(), lorenz.SHARES)
    assert 1 - 2 * area == pytest.approx(2**0.5 - 1, abs=1e-3)


def test_the_figure_draws_every_training_and_fits_its_page(folder, tmp_path, drawn_texts):
    folder(seeds=(1, 2))
    read = (
        ("maturing", MATURING),
        ("maturing_answers", MATURING_ANSWERS),
        ("lorenz_curves", LORENZ),
    )
    figure = lorenz.draw(
        *(tables.read(tmp_path / f"{name}.csv", schema) for name, schema in read), about=ABOUT
    )
    upper, lower = figure.axes
    labels = [line.get_label() for line in lower.lines]
    assert (labels.count("this run"), labels.count("training")) == (1, 2)
    assert {"last state", "untrained"} <= {line.get_label() for line in upper.lines}
    for text, box in drawn_texts(figure):
        assert box.x0 >= figure.bbox.x0 - 1, text.get_text()
        assert box.x1 <= figure.bbox.x1 + 1, text.get_text()
    empty = (tables.empty(schema) for _, schema in read)
    assert "No system was measured." in {
        t.get_text() for t in lorenz.draw(*empty, about=ABOUT).texts
    }


def test_words_and_figures_of_the_second_part_keep_to_their_number(folder, tmp_path, settings):
    folder(seeds=(1, 2))
    pairs = settings.cell_pairs.model_copy(update={"states": []})
    rooms = {"spectra": {"genes": {}}, "features": {}, "operators": {}}
    values = rooms | {"pairs": {}, "settings": settings, "significant": 0.05}
    values["maturing"] = report.context(
        Tables(tmp_path), rooms, settings.model_copy(update={"cell_pairs": pairs}), None
    )
    said = Templates().fill("sections/second.md.j2", values)
    assert "**Yes** (@fig-lorenz" in said
    assert "no known truth" in said
    row = next(line for line in Templates().fill("tables/maturing.md.j2", values).splitlines()
               if line.startswith("| toy of m"))  # fmt: skip
    assert row.endswith("| 3 of 3 | 0.25 (0.25) | yes |")
    # With every sentence and cell that it may have, more than any paper will show.
    text = (TEMPLATES / "sections" / "second.md.j2").read_text(encoding="utf-8")
    assert len(text.split()) < 3000
    assert text.count("](figures/") == 2
    assert text.count("{% filter table") == 1
