"""The numbers and curves for DVC: those of the tables, whole without some of them."""

import json

import pandas as pd
import pytest

from stages.base import tables
from stages.cells.tables.restriction import RESTRICTION
from stages.report import headline
from stages.report.reading import Tables


@pytest.fixture
def written(study_folder, tmp_path):
    """Return what writes all tables of a study, runs the stage and reads its outputs."""

    def go(platforms, **options):
        study_folder(platforms, **options)
        words = ["--cells", "cells.json", "--heads", "heads.json", "--tables", "tables"]
        assert headline.main([*words, "--metrics", "headline.json", "--plots", "plots"]) == 0
        numbers = json.loads((tmp_path / "headline.json").read_text(encoding="utf-8"))
        curves = {path.stem: pd.read_csv(path) for path in (tmp_path / "plots").iterdir()}
        return numbers, curves

    return go


def test_numbers_are_those_of_the_tables(written, cluster_tables, tmp_path):
    found, curves = written(["facs", "droplet"], simulated=True, clusters=cluster_tables.filled)
    read = Tables(tmp_path / "tables")
    assert "cells" not in found
    assert found["simulated"] == {"crystallize": 2, "disperse": 0, "mixed": 0}
    along = read.head_trajectory[read.head_trajectory["metric"] == "gini"].set_index("position")
    assert found["heads"]["gini_last"] == along.loc[8, "value"]
    assert found["heads"]["noise_share_last"] == along.loc[8, "noise_share"]
    # Half way back from old to young, in composition.
    assert 0.3 < found["restriction"]["rescue_effective_number"] < 0.8
    assert found["plane"]["tissues"] == 2
    assert found["truth"] == {"changes": 1, "signs_found": 1, "intervals_hold": 1}
    assert found["inputs"] == {"simulated": True}
    # That on Pythia, from the published effects.
    assert found["claims"]["reproduced"] == 1
    assert sum(found["claims"].values()) == read.claims["id"].nunique()
    assert list(curves["trajectory"]["position"]) == [1, 1, 8, 8]
    assert set(curves["plane"]["name"]) == {
        "step 8",
        "Limb Muscle (TMS FACS)",
        "Limb Muscle (TMS droplet)",
    }


def test_a_state_alone_is_the_last(written, cluster_tables):
    found, curves = written(
        ["facs"], simulated=False, clusters=cluster_tables.filled, states={"main": 0.3}
    )
    assert set(found["heads"]) == {"gini_last", "effective_number_last", "noise_share_last"}
    assert "plane" not in found
    assert set(curves["trajectory"]["state"]) == {"main"}
    assert set(curves["plane"]["system"]) == {"cells"}


def test_plots_of_simulated_inputs_say_so(written, cluster_tables):
    _, curves = written(["facs"], simulated=True, clusters=cluster_tables.filled)
    assert set(curves) == {"trajectory", "changes", "plane"}
    for table in curves.values():
        assert set(table["notice"]) == {headline.SIMULATED}


def test_what_the_inputs_do_not_have_is_left_out(written, cluster_tables):
    found, curves = written(["facs"], simulated=False, clusters=cluster_tables.empty)
    assert set(found) == {"inputs", "cells", "heads", "claims"}
    assert curves["plane"].empty
    assert curves["changes"]["notice"].isna().all()


def test_an_undefined_fraction_is_left_out(written, cluster_tables, settings, tmp_path):
    written(["facs"], simulated=True, clusters=cluster_tables.filled)
    table = cluster_tables.filled.restriction.copy()
    table.loc[table["metric"] == "gini", "rescue_fraction"] = float("nan")
    tables.write(table, RESTRICTION, tmp_path / "tables/restriction.csv")
    found = headline.headline(
        Tables(tmp_path / "tables"),
        settings,
        headline.study.Study("x", "local", simulated=False, notice=""),
        headline.study.Study("y", "local", simulated=False, notice=""),
    )
    assert set(found["restriction"]) == {"rescue_effective_number"}
