"""Guessing what a table of cells means: what is sure, what is said to be unsure, what it counts."""

import numpy as np
import pandas as pd
import pytest
import yaml

from stages.inputs import cells, describe
from stages.inputs.obs import columns_of, count_obs
from stages.inputs.settings import CellsFile


def table(**columns):
    n = 40
    return pd.DataFrame({name: np.resize(values, n) for name, values in columns.items()})


def entry_of(path):
    said = describe.describe(path)
    comments = [line for line in said.splitlines() if line.startswith("#")]
    return yaml.safe_load(said)["cells"]["mine"], comments


def counted(entry):
    spec = CellsFile.model_validate(entry)
    obs = count_obs(spec.raw, cells.wanted_columns(spec))
    return cells.count(obs, spec, name="mine", atlas="local")


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet", "xlsx", "h5ad"])
def test_what_it_writes_counts_the_cells(tmp_path, kind):
    ad = pytest.importorskip("anndata")
    obs = table(
        donor_id=["d1", "d2", "d3", "d4"],
        cell_type=["B", "T", "Unknown"],
        treatment=["stim", "stim", "control", "control"],
        sex=["male"],
        n_genes=["100"],
    )
    path = tmp_path / f"cells.{kind}"
    if kind == "parquet":
        obs.to_parquet(path)
    elif kind == "xlsx":
        obs.to_excel(path, index=False)
    elif kind == "h5ad":
        named = obs.set_axis(obs.index.astype(str))
        ad.AnnData(np.zeros((len(obs), 1)), obs=named).write_h5ad(path)
    else:
        obs.to_csv(path, index=False)
    assert set(obs.columns) <= set(columns_of(path))
    entry, comments = entry_of(path)
    assert entry["columns"] == {
        "animal": "donor_id",
        "cell_type": "cell_type",
        "condition": "treatment",
        "sex": "sex",
        "tissue": None,
    }
    # The control is the reference, whichever label comes first.
    assert entry["groups"] == {"reference": ["control"], "compared": ["stim"]}
    assert entry["unannotated"] == ["Unknown"]
    assert any("state it under constants" in line for line in comments)
    found = counted(entry)
    assert found["n_cells"].sum() == len(obs)
    assert set(found["group"]) == {"reference", "compared"}
    assert set(found["cell_type"].dropna()) == {"B", "T"}


def test_ages_make_groups_and_plain_numbers_are_asked_about(tmp_path):
    obs = table(mouse=["a", "b", "c", "d"], age=["2", "24", "12", "adult"], celltype=["B", "T"])
    obs.to_csv(tmp_path / "cells.csv", index=False)
    entry, comments = entry_of(tmp_path / "cells.csv")
    assert entry["age_unit"] == "months"
    assert entry["age_months"] == {"adult": 0}
    assert entry["groups"] == {
        "reference": {"up_to": "2 months"},
        "compared": {"from": "24 months"},
    }
    assert any("say whether they are months" in line for line in comments)
    assert any("say how many months adult are" in line for line in comments)
    assert counted(entry)["n_cells"].sum() == len(obs)


def test_the_real_marrow_is_understood(marrow_cells):
    entry, comments = entry_of(marrow_cells)
    assert entry["columns"] == {
        "animal": "mouse.id",
        "cell_type": "cell_ontology_class",
        "age": "age",
        "tissue": "tissue",
        "sex": "sex",
    }
    assert any("ages are 3m, 18m, 24m" in line for line in comments)


def test_a_table_without_a_name_that_says_anything_is_one_line(tmp_path, caplog):
    table(x=["1"], y=["2"]).to_csv(tmp_path / "cells.csv", index=False)
    assert describe.main([str(tmp_path / "cells.csv")]) == 1
    assert "they are x, y. Name them in conf/atlas/local.yaml" in caplog.text
    assert describe.main([str(tmp_path / "nowhere.csv")]) == 1
    assert "nowhere.csv does not exist" in caplog.text
