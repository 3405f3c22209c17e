"""Reading columns of obs: every layout agrees with anndata, and no damaged file gets through."""

import gzip
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stages.base.errors import AtlasError
from stages.inputs.demo import legacy
from stages.inputs.obs import read_obs

COLUMNS = ["mouse.id", "age", "cell", "cell_ontology_class", "n_counts"]


@pytest.fixture
def table() -> pd.DataFrame:
    """Six cells, with missing values, categories in text order and one that no cell has."""
    return pd.DataFrame(
        {
            "age": pd.Categorical(
                ["3m", "3m", "18m", "24m", "24m", "3m"], categories=["18m", "1m", "24m", "3m"]
            ),
            "mouse.id": pd.Categorical(["3-M-5/6", "3-M-8", "18-F-50", "24-M-58", "24-M-58", "x"]),
            "cell_ontology_class": pd.Categorical(["B cell", "nan", None, "T cell", "B cell", "é"]),
            "cell": ["c1", "c2", "c3", "c4", "c5", "c6"],
            "n_counts": np.array([1.5, 2, 3, 4, 5, 6], dtype=np.float32),
        },
        index=pd.Index([f"cell{i}" for i in range(6)], name="index"),
    )


def write_legacy(path: Path, table: pd.DataFrame) -> Path:
    x = sparse.csr_matrix(np.eye(len(table), 2, dtype=np.float32))
    var = pd.DataFrame({"n_cells": [1, 1]}, index=pd.Index(["g1", "g2"], name="index"))
    legacy.write(path, x=x, obs=table, var=var, raw_x=x, raw_var=var)
    return path


def write_modern(path: Path, table: pd.DataFrame) -> Path:
    ad.AnnData(X=np.ones((len(table), 2), np.float32), obs=table).write_h5ad(path)
    return path


@pytest.mark.parametrize("write", [write_legacy, write_modern])
def test_both_layouts_agree_exactly_with_anndata(write, table, tmp_path):
    path = write(tmp_path / "cells.h5ad", table)
    expected = ad.read_h5ad(path).obs[COLUMNS].reset_index(drop=True)
    found = read_obs(path, COLUMNS)
    pd.testing.assert_frame_equal(found, expected)
    assert list(found["age"].cat.categories) == ["18m", "1m", "24m", "3m"]
    assert found["cell_ontology_class"].isna().sum() == 1


def test_the_layouts_are_what_they_are_called(table, tmp_path):
    with h5py.File(write_legacy(tmp_path / "l.h5ad", table)) as file:
        assert isinstance(file["obs"], h5py.Dataset)
        assert file["obs"]["age"].tolist() == [3, 3, 0, 2, 2, 3]
    with h5py.File(write_modern(tmp_path / "m.h5ad", table)) as file:
        assert isinstance(file["obs"], h5py.Group)


@pytest.mark.parametrize("write", [write_legacy, write_modern])
def test_the_expression_matrix_is_not_needed(write, table, tmp_path):
    path = write(tmp_path / "cells.h5ad", table)
    with h5py.File(path, "a") as file:
        for name in [key for key in file if key not in {"obs", "uns"}]:
            del file[name]
    assert read_obs(path, ["age"])["age"].tolist() == table["age"].tolist()


def test_layout_of_anndata_0_7_is_decoded(tmp_path):
    path = tmp_path / "cells.h5ad"
    with h5py.File(path, "w") as file:
        obs = file.create_group("obs")
        names = obs.create_dataset("__categories/age", data=["18m", "3m"])
        codes = obs.create_dataset("age", data=np.array([1, 0, -1], np.int8))
        codes.attrs["categories"] = names.ref
        obs.attrs["column-order"] = ["age"]
    assert read_obs(path, ["age"])["age"].tolist()[:2] == ["3m", "18m"]
    assert read_obs(path, ["age"])["age"].isna().tolist() == [False, False, True]


def test_legacy_categories_in_one_group_and_fixed_length_text(tmp_path):
    path = tmp_path / "cells.h5ad"
    records = np.array(
        [(b"c1", 1, b"a"), (b"c2", 0, b"b")],
        dtype=[("index", "S2"), ("age", "i1"), ("cell", "S1")],
    )
    with h5py.File(path, "w") as file:
        file["obs"] = records
        file["uns/__categories/age"] = np.array([b"18m", b"3m"])
    found = read_obs(path, ["age", "cell"])
    assert found["age"].tolist() == ["3m", "18m"]
    assert found["cell"].tolist() == ["a", "b"]


def test_one_legacy_category_may_be_a_scalar(table, tmp_path):
    path = write_legacy(tmp_path / "cells.h5ad", table.assign(age=pd.Categorical(["3m"] * 6)))
    with h5py.File(path, "a") as file:
        del file["uns/age_categories"]
        file["uns/age_categories"] = "3m"
    assert set(read_obs(path, ["age"])["age"]) == {"3m"}


def test_legacy_codes_without_names_are_an_error_not_numbers(table, tmp_path):
    path = write_legacy(tmp_path / "cells.h5ad", table)
    with h5py.File(path, "a") as file:
        del file["uns/age_categories"]
    with pytest.raises(AtlasError, match="whole numbers without category names"):
        read_obs(path, ["age"])


def test_legacy_codes_beyond_the_names_are_an_error(table, tmp_path):
    path = write_legacy(tmp_path / "cells.h5ad", table)
    with h5py.File(path, "a") as file:
        del file["uns/age_categories"]
        file["uns/age_categories"] = ["3m", "18m"]
    with pytest.raises(AtlasError, match="has the code 3 but only 2 category names"):
        read_obs(path, ["age"])


@pytest.mark.parametrize("name", ["c.csv", "c.csv.gz", "c.tsv", "no_suffix"])
def test_text_tables_are_read_as_text_by_content(name, tmp_path):
    lines = "mouse.id,age,extra\n007,3,x\nNA,3.0,\n,24m,y\n"
    if name.endswith("tsv"):
        lines = lines.replace(",", "\t")
    data = ("\ufeff" + lines).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    found = read_obs(path, ["age", "mouse.id"])
    assert list(found.columns) == ["age", "mouse.id"]
    assert found["age"].tolist() == ["3", "3.0", "24m"]
    assert found["mouse.id"].tolist()[:2] == ["007", "NA"]
    assert found["mouse.id"].isna().tolist() == [False, False, True]


def test_parquet_gives_text(tmp_path):
    path = tmp_path / "cells.parquet"
    frame = pd.DataFrame(
        {"age": [3, 24], "animal": pd.Categorical(["a", None]), "other": [1.0, 2.0]}
    )
    frame.to_parquet(path)
    found = read_obs(path, ["animal", "age"])
    assert found["age"].tolist() == ["3", "24"]
    assert found["animal"].isna().tolist() == [False, True]
    assert found["animal"][0] == "a"


@pytest.mark.parametrize("write", [write_legacy, write_modern])
def test_a_missing_column_is_named_with_those_there_are(write, table, tmp_path):
    path = write(tmp_path / "cells.h5ad", table)
    with pytest.raises(AtlasError) as caught:
        read_obs(path, ["age", "donor"], change="conf/atlas/x.yaml: cells.y.columns")
    message = str(caught.value)
    assert message.startswith(f"column donor is not in {path}. Its columns are: ")
    assert "cell_ontology_class" in message
    assert message.endswith("Change conf/atlas/x.yaml: cells.y.columns.")
    assert "index" not in message


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_missing_column_of_a_table(suffix, tmp_path):
    path = tmp_path / f"cells.{suffix}"
    frame = pd.DataFrame({"age": ["3m"]})
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    with pytest.raises(AtlasError, match=r"column donor is not in .* Its columns are: age\."):
        read_obs(path, ["donor"])


def truncate_front(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:600])


def truncate_middle(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("write", [write_legacy, write_modern])
@pytest.mark.parametrize("cut", [truncate_front, truncate_middle])
def test_a_truncated_h5ad(write, cut, table, tmp_path):
    path = write(tmp_path / "cells.h5ad", table)
    cut(path)
    with pytest.raises(AtlasError, match="is damaged or not a table of cells") as caught:
        read_obs(path, ["age"])
    assert "\n" not in str(caught.value)


BAD = {
    "web page": (b"\n<!DOCTYPE html><html><body>202</body></html>", "is a web page"),
    "error of a bucket": (b'<?xml version="1.0"?><Error/>', "is a web page"),
    "empty": (b"", "is empty"),
    "text": (b"age,sex\n3m,male\n", "is not HDF5"),
    "binary": (b"\x89PNG\r\n\0\0\0", "is not HDF5"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_h5ad(kind, tmp_path):
    content, reason = BAD[kind]
    path = tmp_path / "cells.h5ad"
    path.write_bytes(content)
    with pytest.raises(AtlasError, match=reason) as caught:
        read_obs(path, ["age"])
    assert "\n" not in str(caught.value)


def test_a_truncated_gzip(tmp_path):
    path = tmp_path / "cells.csv.gz"
    data = gzip.compress(b"age,sex\n" + b"3m,male\n" * 1000)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(AtlasError, match="is damaged"):
        read_obs(path, ["age"])


def test_a_truncated_parquet(tmp_path):
    path = tmp_path / "cells.parquet"
    pd.DataFrame({"age": ["3m"] * 100}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(AtlasError, match="is damaged"):
        read_obs(path, ["age"])


def test_a_column_that_is_there_twice(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text("age,age\n3m,4m\n")
    with pytest.raises(AtlasError, match="more than one column age"):
        read_obs(path, ["age"])
