"""The heads of a model of cells: which cells are read, what figure and paper say of them."""

import numpy as np
import pandas as pd
import pytest
import yaml

from stages.base import tables
from stages.base.errors import AtlasError
from stages.heads.components import components
from stages.heads.figures import cell_model as figure
from stages.heads.joint_removal import joint_removal
from stages.heads.tables.joint_removal import JOINT_REMOVAL
from stages.inputs.encoders.measured import chosen, held_out
from stages.inputs.settings import CellInput
from stages.measurement import measured
from stages.measurement.effects import Effects, State
from stages.measurement.tables import MEASURED
from stages.operators.tables.gates import OPERATOR_GATES
from stages.report import manuscript
from stages.representations.tables.probes import PROBES
from tests import made_spectra

STATES = ("step0", "step64", "step4096")
N_LAYERS, N_HEADS, N_CELLS = 2, 3, 30


def _cells(params, **changed):
    return CellInput.model_validate(params["cellmodel"]["cells"] | changed)


class TestCells:
    @pytest.fixture
    def frame(self):
        return pd.DataFrame({"donor": [f"D{number % 5 + 6:02d}" for number in range(1000)]})

    def test_those_held_out_are_drawn_and_no_cell_twice(self, params, frame):
        asked = _cells(params)
        rows, others = chosen(frame, asked)
        assert (len(rows), len(others)) == (asked.n_cells, asked.reference_cells)
        assert not set(rows) & set(others)
        assert set(frame["donor"].iloc[[*rows, *others]]) <= set(asked.held_out["donor"])
        assert (np.diff(rows) > 0).all()
        again, _ = chosen(frame, asked)
        assert (rows == again).all()
        other, _ = chosen(frame, _cells(params, seed=asked.seed + 1))
        assert (rows != other).any()

    def test_without_any_held_out_all_count(self, params, frame):
        assert held_out(frame, _cells(params, held_out={})).all()

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"n_cells": 900}, "400 encoded cells may be measured, 1092 are needed"),
            ({"held_out": {"node": ["HSC"]}}, "held_out names the column node; the cells have"),
            ({"held_out": {"donor": ["X"]}}, "no cell is held out by"),
        ],
    )
    def test_too_few_or_none_are_one_line(self, params, frame, changed, said):
        with pytest.raises(AtlasError, match=said):
            chosen(frame, _cells(params, **changed))


def _effects(rng, number, state, redundant):
    """Return effects of single heads and of all of a layer: with `redundant`, far more together."""
    of = State("cell_heads", state, float(state.removeprefix("step")), "nats per gene", "size")
    size = 1e-5 if state == "step0" else 0.02
    rows = [(layer, head, 0) for layer in range(N_LAYERS) for head in range(N_HEADS)]
    parts = []
    for condition in ("zero", "mean"):
        draws = size * (np.arange(1, 7) + rng.standard_normal((1, N_CELLS, len(rows))))
        known = components("head", rows)
        known["size"] = np.arange(1.0, 7.0)
        base = np.full(N_CELLS, 7.0 - number)
        numbers = np.arange(N_CELLS)
        parts.append(Effects(of, "head", condition, known, numbers, draws, base))
        sums = draws.reshape(1, N_CELLS, N_LAYERS, N_HEADS).sum(axis=3)
        together = components("attention", [(layer, 0, 0) for layer in range(N_LAYERS)])
        joint = sums * (3.0 if redundant else 1.0)
        parts.append(Effects(of, "attention", condition, together, numbers, joint, base))
    return parts


def _probes():
    rows = []
    for number, state in enumerate(STATES):
        of = {"source": "model", "name": state, "position": float(state.removeprefix("step"))}
        value = 7.0 - number
        rows.append(of | {"layer": None, "measure": "loss", "value": value})
        rows += [
            of | {"layer": layer, "measure": measure, "value": 0.5 + 0.1 * number + 0.01 * at}
            for at, layer in enumerate(("embedding", "L0", "L1"))
            for measure in ("label", "order")
        ]
    rows += [
        {"source": "frequency", "name": name, "measure": "loss", "value": value}
        for name, value in (("rank", 6.5), ("rank, no gene twice", 6.25))
    ]
    rows += [
        {"source": "expression", "name": name, "measure": measure, "value": value}
        for name, value in (("PCA-10", 0.55), ("PCA-50", 0.65))
        for measure in ("label", "order")
    ]
    found = pd.DataFrame(rows, columns=list(PROBES.columns))
    found["low"], found["high"] = found["value"] - 0.02, found["value"] + 0.02
    found["n_cells"] = 100
    return found


def _seeds(states):
    rows = [
        {"seed": seed, "effects": "absolute", "estimator": "plug_in", "metric": metric}
        | {"state": state, "position": float(state.removeprefix("step")), "value": 0.5 + seed / 10}
        for seed in (0, 1)
        for metric in ("gini", "effective_number")
        for state in states
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def written(settings, tmp_path):
    """Return what writes the tables of a model of cells."""

    def go(folder, *, redundant=True, states=STATES):
        rng = np.random.default_rng(0)
        parts = [
            part
            for number, state in enumerate(states)
            for part in _effects(rng, number, state, redundant)
        ]
        system = settings.systems["cell_heads"].model_copy(update={"states": list(states)})
        few = settings.measured.model_copy(update={"draws": 50})
        found, _, _ = measured.measured(parts, system, measured.metrics_of("heads"), few)
        probes = _probes()
        probes = probes[(probes["source"] != "model") | probes["name"].isin(states)]
        tables.write(found, MEASURED, folder / "measured" / "cell_heads.csv")
        both = joint_removal(parts, settings.joint_removal)
        tables.write(both, JOINT_REMOVAL, folder / "cell_model" / "joint_removal.csv")
        tables.write(probes, PROBES, folder / "cell_model" / "probes.csv")
        made_spectra.write(folder, tmp_path / "genes", settings, "cell_spectra", states, genes=True)
        # Cells without kinds of a ruler: the paper does not speak of operators.
        nothing = tables.empty(OPERATOR_GATES)
        tables.write(nothing, OPERATOR_GATES, folder / "cell_model" / "operator_gates.csv")
        return found, both, probes

    return go


@pytest.mark.parametrize("states", [STATES, STATES[-1:]])
def test_the_figure_draws_every_way_of_removal_and_fits_its_page(
    written, tmp_path, states, drawn_texts
):
    found, both, probes = written(tmp_path, states=states)
    drawn = figure.draw(found, _seeds(states), both, probes)
    seen = {text.get_text() for text, _ in drawn_texts(drawn)}
    assert {
        "zero",
        "mean",
        "noise alone",
        "zero, another training",
        "PCA-10",
        "PCA-50",
        "all at once",
    } <= seen
    page = drawn.bbox
    for text, box in drawn_texts(drawn):
        assert box.x0 >= page.x0 - 1, text.get_text()
        assert box.x1 <= page.x1 + 1, text.get_text()


def test_cells_without_labels_have_a_panel_that_says_so(written, tmp_path, drawn_texts):
    found, both, probes = written(tmp_path)
    drawn = figure.draw(found, _seeds(STATES), both, probes[probes["measure"] == "loss"])
    seen = [text.get_text() for text, _ in drawn_texts(drawn)]
    assert seen.count("not in these cells") == 2


@pytest.mark.parametrize("redundant", [True, False])
def test_the_paper_says_what_was_found(study_folder, written, params, tmp_path, redundant):
    study_folder(["facs"], simulated=True)
    written(tmp_path / "tables", redundant=redundant)
    changed = yaml.safe_load((tmp_path / "params.yaml").read_text(encoding="utf-8"))
    changed["cellmodel"] = params["cellmodel"] | {"checkpoints": list(STATES)}
    changed["features"]["names"] = []
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
    stated = (
        '{"name": "cell-mini", "source": "mini", "simulated": true, "notice": "Demo model: no."}'
    )
    (tmp_path / "cellmodel.json").write_text(stated, encoding="utf-8")
    words = ["--cells", "cells.json", "--heads", "heads.json", "--overrides", "overrides.json"]
    words += ["--cellmodel", "cellmodel.json", "--planted", "planted.csv"]
    assert manuscript.main([*words, "--tables", "tables", "--paper", "paper.qmd"]) == 0
    text = " ".join((tmp_path / "paper.qmd").read_text(encoding="utf-8").split())
    assert "costs it 5.00 nats in step 4,096 and 7.00 in step 0" in text
    assert "pays 6.25" in text
    assert "finds the kind of a cell in a share of 0.72" in text
    assert "PCA-10 of the expression 0.55" in text
    said = "**Heads make up for one another**: in 2 of 2 layers"
    assert (said in text) == redundant
    assert ("In no layer do all heads together cost clearly more" in text) != redundant
    assert "![A model of cells." in text
    # Of the planted spectra the first direction grows, and rows of zeros are not needed for it.
    assert "60 genes have" in text
    assert "For scGPT's genes @kendiukhov2026geometry gave 23.6 in the first layer and 1.6" in text
    assert "59% were zero" in text
    assert "| edges within a programme |" in text
    assert "{#fig-spectra" in text
    assert "maps between genes {#sec-operators}" not in text


def test_a_paper_without_a_model_of_cells_does_not_speak_of_one(study_folder, tmp_path):
    study_folder(["facs"], simulated=True)
    words = ["--cells", "cells.json", "--heads", "heads.json", "--overrides", "overrides.json"]
    words += ["--planted", "planted.csv", "--tables", "tables", "--paper", "paper.qmd"]
    assert manuscript.main(words) == 0
    text = (tmp_path / "paper.qmd").read_text(encoding="utf-8").lower()
    assert "model of cells" not in text
    assert "60 tokens have an effective rank of" in " ".join(text.split())
    assert "fig-spectra" not in text
