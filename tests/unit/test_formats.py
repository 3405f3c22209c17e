"""Layouts of tables of cells: those that are read, and the one line that says what to do else."""

import bz2
import gzip
import io
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from datetime import date
from pathlib import Path

import anndata as ad
import h5py
import hypothesis.strategies as st
import mudata
import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given

from stages.base.errors import AtlasError
from stages.inputs import obs
from stages.inputs.formats import parquet, stored, text
from stages.inputs.obs import N_CELLS, count_obs, distinct, read_obs

pytestmark = [
    # They tell what writing zarr will be like in later versions; nothing that is read warns.
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning"),
    pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update:FutureWarning"),
]

ROOT = Path(__file__).parents[2]
TEXT = '"id";age;extra\n007;3,x;x\nNA;3.0;\n;24m;y\n'
TEXT_ROWS = [("3,x", "007"), ("3.0", "NA"), ("24m", None)]


@pytest.fixture
def data() -> ad.AnnData:
    """Four cells whose columns are of every kind that anndata 0.12 writes."""
    table = pd.DataFrame(
        {
            "age": pd.Categorical(["3m", "18m", None, "3m"], ["18m", "3m", "1m"], ordered=True),
            "group": pd.Categorical([3, 24, 3, None]),
            "animal": ["a", "b", "c", "a"],
            "batch": pd.array([1, None, 2, 1], dtype="Int64"),
            "female": pd.array([True, None, False, True], dtype="boolean"),
            "score": np.array([1.5, np.nan, 2, 1.5], np.float32),
            "count": [1, 2, 3, 1],
            "doublet": [True, False, True, True],
            "note": pd.array(["x", None, "y", "x"], dtype="string"),
        },
        index=list("pqrs"),
    )
    made = ad.AnnData(X=np.ones((4, 2), np.float32), obs=table)
    made.obs["animal"] = made.obs["animal"].astype(object)
    return made


def write(data: ad.AnnData, path: Path, *, version: int = 2) -> Path:
    kept = {"zarr_write_format": version, "allow_write_nullable_strings": True}
    with ad.settings.override(**kept):
        # The columns of text stay text.
        if path.suffix == ".zarr":
            data.write_zarr(path, convert_strings_to_categoricals=False)
        else:
            data.write_h5ad(path, convert_strings_to_categoricals=False)
    return path


def rows(table: pd.DataFrame) -> list[tuple[object, ...]]:
    texts = [[None if pd.isna(v) else str(v) for v in table[name]] for name in table]
    return list(zip(*texts, strict=True))


def zipped(path: Path, members: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def error_of(path: Path, columns: tuple[str, ...] = ("age",), modality: str | None = None) -> str:
    with pytest.raises(AtlasError) as caught:
        read_obs(path, columns, modality=modality)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


# --- AnnData and MuData --------------------------------------------------------------------------


@pytest.mark.parametrize("rows_at_once", [2, stored.ROWS_AT_ONCE])
@pytest.mark.parametrize(("name", "version"), [("c.h5ad", 2), ("c.zarr", 2), ("c.zarr", 3)])
def test_every_kind_of_column_agrees_with_anndata(
    name, version, rows_at_once, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(stored, "ROWS_AT_ONCE", rows_at_once)
    path = write(data, tmp_path / name, version=version)
    read = ad.read_zarr if name.endswith("zarr") else ad.read_h5ad
    expected = read(path).obs.reset_index(drop=True)
    assert len(expected.dtypes.unique()) == 9
    pd.testing.assert_frame_equal(read_obs(path, list(expected)), expected)


@pytest.mark.parametrize("inside", [".", "c.zarr"])
def test_a_zipped_zarr(inside, data, tmp_path):
    write(data, tmp_path / "c.zarr")
    root = tmp_path if inside == "c.zarr" else tmp_path / "c.zarr"
    shutil.make_archive(str(tmp_path / "c"), "zip", root, inside)
    found = read_obs(tmp_path / "c.zip", ["animal", "age"])
    assert rows(found) == [("a", "3m"), ("b", "18m"), ("c", None), ("a", "3m")]


def test_other_columns_and_matrices_of_a_zarr_are_not_needed(data, tmp_path):
    path = write(data, tmp_path / "c.zarr")
    for other in [path / "X", path / "var", path / "obs" / "note"]:
        shutil.rmtree(other)
    assert read_obs(path, ["animal"])["animal"].tolist() == ["a", "b", "c", "a"]


def test_a_zarr_of_which_an_array_was_not_copied_or_that_holds_no_obs(data, tmp_path):
    zarr.open_group(tmp_path / "none.zarr", mode="w")
    assert "has no table obs" in error_of(tmp_path / "none.zarr")
    path = write(data, tmp_path / "c.zarr")
    shutil.rmtree(path / "obs" / "age" / "codes")
    assert "is damaged" in error_of(path)


def muon(data: ad.AnnData, path: Path) -> Path:
    other = ad.AnnData(
        X=np.ones((2, 1), np.float32),
        obs=pd.DataFrame({"cell_type": ["T cell", "B cell"]}, index=["p", "q"]),
        var=pd.DataFrame(index=["CD4"]),
    )
    both = mudata.MuData({"rna": data[:, :].copy(), "prot": other})
    both.obs["batch"] = pd.Categorical(["1", "1", "2", "2"])
    with ad.settings.override(allow_write_nullable_strings=True):
        both.write(path)
    return path


@pytest.mark.parametrize("name", ["c.h5mu", "c.zarr"])
def test_a_mudata_has_an_obs_for_each_modality_and_one_of_the_whole(name, data, tmp_path):
    del data.obs["note"]
    path = muon(data, tmp_path / name)
    assert rows(read_obs(path, ["cell_type"], modality="prot")) == [("T cell",), ("B cell",)]
    found = read_obs(path, ["age", "animal"], modality="rna")
    assert rows(found) == [("3m", "a"), ("18m", "b"), (None, "c"), ("3m", "a")]
    # Of the whole: its own columns, and those of the modalities by their names.
    assert rows(read_obs(path, ["batch"])) == [("1",), ("1",), ("2",), ("2",)]
    assert rows(count_obs(path, ["cell_type"], modality="prot")) == [
        ("T cell", "1"),
        ("B cell", "1"),
    ]


def test_a_modality_must_be_named_where_there_are_some_and_only_there(data, tmp_path):
    del data.obs["note"]
    path = muon(data, tmp_path / "c.h5mu")
    assert "MuData with the modalities prot, rna" in error_of(path, ("cell_type",))
    assert "no modality 'atac': allowed are prot, rna" in error_of(path, ("age",), "atac")
    assert "it is no MuData" in error_of(write(data, tmp_path / "c.h5ad"), ("age",), "rna")
    (tmp_path / "c.csv").write_text("age\n3m\n")
    assert "it is no MuData" in error_of(tmp_path / "c.csv", ("age",), "rna")


@pytest.mark.parametrize("name", ["c.h5ad", "c.zarr"])
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("age", ("categorical", "0.9.0")),
        ("age", ("interval-array", "0.1.0")),
        ("age/categories", ("string-array", "0.9.0")),
        ("animal", ("string-array", "0.9.0")),
        ("", ("dataframe", "0.9.0")),
    ],
)
def test_an_encoding_of_a_newer_anndata_is_one_line(name, place, said, data, tmp_path):
    path = write(data, tmp_path / name)
    root = (
        zarr.open_group(path, use_consolidated=False) if name == "c.zarr" else h5py.File(path, "a")
    )
    element = root[f"obs/{place}".rstrip("/")]
    element.attrs["encoding-type"], element.attrs["encoding-version"] = said
    if name == "c.h5ad":
        root.close()
    message = error_of(path, ("age", "animal"))
    assert f"is stored as {said[0]} {said[1]}, which is not known here" in message
    assert "newer than 0.12.19" in message
    assert (f"column {place.split('/')[0]}" if place else "obs of") in message
    # Other columns can be read all the same.
    if place:
        assert len(read_obs(path, ["count"])) == 4


def test_columns_of_unequal_length_are_not_cut(data, tmp_path):
    path = write(data, tmp_path / "c.h5ad")
    with h5py.File(path, "a") as file:
        del file["obs/count"]
        file["obs/count"] = [1, 2, 3]
    assert "columns of obs have 3 and 4 rows" in error_of(path, ("count", "age"))


# --- text, Excel, Parquet ------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, "zip"])
def test_text_in_any_encoding_and_compression(encoding, pack, tmp_path):
    path, content = tmp_path / "cells", TEXT.encode(encoding)
    if pack == "zip":
        zipped(path, {"a/": "", "a/cells.csv": content, "__MACOSX/a/._cells.csv": "x"})
    else:
        path.write_bytes(pack(content))
    assert rows(read_obs(path, ["age", "id"])) == TEXT_ROWS


def test_pieces_of_a_text_are_put_together(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "BLOCK_BYTES", 64)
    path = tmp_path / "cells.csv"
    lines = [f"{i % 7},x{i % 5 or ''}" for i in range(200)]
    path.write_text("\n".join(["age,kind", *lines]))
    assert rows(read_obs(path, ["age", "kind"])) == [tuple(line.split(",")) for line in lines]
    counted = count_obs(path, ["kind", "age"])
    expected = Counter(tuple(line.split(",")[::-1]) for line in lines)
    assert {row[:2]: int(row[2]) for row in rows(counted)} == expected


def test_a_text_of_a_header_alone_has_its_columns_and_no_cells(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text("age,id\n")
    for found in (read_obs(path, ["id"]), count_obs(path, ["id"])):
        assert found.columns[0] == "id"
        assert found.empty


def excel(path: Path, *lines: list[object]) -> Path:
    book = openpyxl.Workbook()
    for line in lines:
        book.active.append(line)
    book.create_sheet("other").append(["nothing"])
    book.save(path)
    return path


def test_the_first_sheet_of_excel(tmp_path):
    lines = [["id", "age", None], ["007", 3, "x"], ["NA", 3.5, 1], [None, "24m", True]]
    found = read_obs(excel(tmp_path / "cells.xlsx", *lines), ["age", "id"])
    assert rows(found) == [("3", "007"), ("3.5", "NA"), ("24m", None)]


def test_excel_without_a_column_or_with_dates(tmp_path):
    path = excel(tmp_path / "cells.xlsx", ["id", "age"], [date(2024, 8, 3), 3])
    assert "column tissue is not in" in error_of(path, ("tissue",))
    assert "column id" in (message := error_of(path, ("id",)))
    assert "holds the date 2024-08-03" in message
    assert read_obs(path, ["age"])["age"].tolist() == ["3"]


def test_parquet_of_any_values_is_text(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_AT_ONCE", 2)
    path = tmp_path / "cells"
    table = pa.table(
        {
            "whole": pa.array([1, None, 3]),
            "part": [1.0, float("nan"), 2.5],
            "coded": pa.array(["x", None, "x"]).dictionary_encode(),
            "plain": ["u", "v", "w"],
            "bytes": [b"q", b"r", b"s"],
            "yes": [True, False, None],
            "many": [[1], [2], []],
        }
    )
    pq.write_table(table, path, row_group_size=2)
    expected = [
        ("1", "1.0", "x", "u", "q", "True"),
        (None, None, None, "v", "r", "False"),
        ("3", "2.5", "x", "w", "s", None),
    ]
    assert rows(read_obs(path, table.schema.names[:-1])) == expected
    assert "column many" in (message := error_of(path, ("many",)))
    assert "one value a cell is read" in message


MEMORY = """
import sys
from pathlib import Path
import pyarrow as pa
from stages.inputs.obs import count_obs
print(len(count_obs(Path(sys.argv[1]), list("abcde"))))
print(pa.default_memory_pool().max_memory() >> 20)
"""


def test_a_large_parquet_is_read_a_piece_at_a_time(tmp_path):
    """Six million rows of five columns; observed: 29 MiB, and 142 where pyarrow reads ahead."""
    rng = np.random.default_rng(0)
    names = pa.array([f"d{number}" for number in range(400)])
    schema = pa.schema([(column, pa.dictionary(pa.int32(), pa.string())) for column in "abcde"])
    path = tmp_path / "large.parquet"
    with pq.ParquetWriter(path, schema) as writer:
        for _ in range(120):
            codes = rng.integers(0, 400, 50_000).astype("int32")
            columns = [pa.DictionaryArray.from_arrays(codes, names)] * 5
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    words = [sys.executable, "-c", MEMORY, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    n_rows, largest = map(int, done.stdout.split())
    assert n_rows == 400
    assert largest < 60


# --- many files as one ---------------------------------------------------------------------------


def test_folders_of_parquet_that_name_a_value(tmp_path):
    table = pa.table({"age": ["3m", "3m", "24m"], "tissue": ["Lung", "Liver", "Lung"]})
    pq.write_to_dataset(table, tmp_path / "cells", partition_cols=["tissue"])
    (tmp_path / "cells" / "._part.parquet").write_bytes(b"\0")
    found = read_obs(tmp_path / "cells", ["age", "tissue"])
    assert sorted(rows(found)) == [("24m", "Lung"), ("3m", "Liver"), ("3m", "Lung")]


def test_a_folder_a_pattern_and_a_list_of_h5ad(data, tmp_path):
    folder = tmp_path / "cells"
    folder.mkdir()
    first = write(data, folder / "1.h5ad")
    data.obs["age"] = pd.Categorical(["24m", "18m", "18m", "24m"])
    data.obs["group"] = pd.Categorical(["old", "old", "young", "young"])
    second = write(data, folder / "2.h5ad")
    (folder / "README.md").write_text("two files")
    expected = ["3m", "18m", None, "3m", "24m", "18m", "18m", "24m"]
    for path in (folder, folder / "*.h5ad", [first, second]):
        found = read_obs(path, ["age", "group"])
        assert [age for age, _ in rows(found)] == expected
        assert [group for _, group in rows(found)][-2:] == ["young", "young"]
        counted = count_obs(path, ["age", "group"])
        assert counted[N_CELLS].sum() == 8
        assert dict(counted.dtypes.items()) == {**found.dtypes, N_CELLS: np.dtype("int64")}
    assert "column donor is not in" in error_of_one_of(folder, second, ("donor",))


def error_of_one_of(folder: Path, file: Path, columns: tuple[str, ...]) -> str:
    with h5py.File(folder / "1.h5ad", "a") as first:
        first["obs"].attrs["column-order"] = ["age", "donor"]
        first["obs/donor"] = first["obs/count"][()]
    with pytest.raises(AtlasError, match=re.escape(str(file))) as caught:
        read_obs(folder, columns)
    return str(caught.value)


def test_a_folder_of_two_kinds_or_of_none(data, tmp_path):
    assert "It holds: nothing" in error_of(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    assert "It holds: notes.txt. Give the file" in error_of(tmp_path)
    write(data, tmp_path / "1.h5ad")
    pd.DataFrame({"age": ["3m"]}).to_parquet(tmp_path / "1.parquet")
    assert "holds both h5ad and Parquet" in error_of(tmp_path)
    assert "does not exist" in error_of(tmp_path / "*.csv")


# --- counting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["c.h5ad", "c.zarr", "c.csv", "c.parquet"])
def test_counting_gives_the_rows_that_reading_gives(name, data, tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(parquet, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(obs, "ROWS_KEPT", 1)
    path, columns = tmp_path / name, list(data.obs)
    if name in {"c.h5ad", "c.zarr"}:
        write(data, path)
    elif name == "c.csv":
        data.obs.to_csv(path)
    else:
        data.obs.drop(columns="group").astype({"age": str}).to_parquet(path)
        columns.remove("group")
    read, counted = read_obs(path, columns), count_obs(path, columns)
    assert {row[:-1]: int(row[-1]) for row in rows(counted)} == Counter(rows(read))
    for column in columns:
        assert counted[column].dtype == read[column].dtype


VALUES = st.one_of(
    st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=30).map(pd.Categorical),
    st.lists(st.sampled_from(["a", "1", None, "nan"]), min_size=1, max_size=30),
    st.lists(st.sampled_from([1.0, 2.5, float("nan")]), min_size=1, max_size=30),
    st.lists(st.sampled_from([1, 2, None]), min_size=1, max_size=30).map(
        lambda values: pd.array(values, dtype="Int64")
    ),
    st.lists(st.booleans(), min_size=1, max_size=30),
)


@given(st.lists(VALUES, min_size=1, max_size=4), st.integers(1, 10))
def test_distinct_rows_are_those_of_a_counter_however_they_come(columns, size):
    length = min(map(len, columns))
    table = pd.DataFrame({f"c{i}": pd.Series(v[:length]) for i, v in enumerate(columns)})
    whole = distinct(table)
    assert {row[:-1]: int(row[-1]) for row in rows(whole)} == Counter(rows(table))
    assert list(whole.dtypes[:-1]) == list(table.dtypes)
    # Counted in pieces and put together, they are the same.
    parts = [distinct(table.iloc[at : at + size]) for at in range(0, length, size)]
    assert Counter(rows(distinct(pd.concat(parts)))) == Counter(rows(whole))


# --- what is no table of cells -------------------------------------------------------------------


def test_matrices_of_10x_say_that_a_table_is_needed(tmp_path):
    for name, place in (("v3.h5", "matrix"), ("v2.h5", "mm10")):
        with h5py.File(tmp_path / name, "w") as file:
            file[f"{place}/barcodes"] = [b"AAAC-1"]
            file[f"{place}/data"] = [1]
        assert "matrix of counts of 10x Genomics" in (message := error_of(tmp_path / name))
        assert "a row for each barcode" in message
    folder = tmp_path / "filtered"
    folder.mkdir()
    (folder / "GSM1_matrix.mtx.gz").write_bytes(gzip.compress(b"%%MatrixMarket matrix\n"))
    assert "a row for each barcode" in error_of(folder)
    assert "a row for each barcode" in error_of(folder / "GSM1_matrix.mtx.gz")


def test_a_loom_comes_with_the_line_that_exports_it(tmp_path):
    path = tmp_path / "cells.loom"
    with h5py.File(path, "w") as file:
        file["row_attrs/Gene"] = [b"A"]
        file["col_attrs/Age"] = np.array(["3m", "24m"], dtype=h5py.string_dtype())
        file["col_attrs/Class"] = np.array([b"T cell", b"B cell"])
        file["col_attrs/Size"] = [1.5, 2.5]
        file["col_attrs/Embedding"] = np.zeros((2, 2))
    code = re.search(r'python -c "(.*)", and give', error_of(path))[1]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    found = read_obs(tmp_path / "cells.csv", ["Age", "Class", "Size"])
    assert rows(found) == [("3m", "T cell", "1.5"), ("24m", "B cell", "2.5")]


def test_an_h5seurat_and_other_hdf5(tmp_path):
    with h5py.File(tmp_path / "c.h5seurat", "w") as file:
        for name in ("assays", "meta.data", "cell.names"):
            file.create_group(name)
    assert 'LoadH5Seurat("' in error_of(tmp_path / "c.h5seurat")
    with h5py.File(tmp_path / "c.h5ad", "w") as file:
        file["x"] = [1]
    assert "It holds: x." in (message := error_of(tmp_path / "c.h5ad"))
    assert "Fetch" not in message


R_FILES = {
    "saveRDS": b"X\n\0\0\0\x03\0\4\1\2",
    "saveRDS as text": b"A\n3\n263168\n",
    "save": b"RDX3\nX\n\0\0\0\3",
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("kind", R_FILES)
def test_a_file_of_r_says_how_to_export(kind, pack, tmp_path):
    path = tmp_path / "cells"
    path.write_bytes(pack(R_FILES[kind]))
    message = error_of(path)
    read = f'get(load("{path}")[1])' if kind == "save" else f'readRDS("{path}")'
    assert f"Rscript -e 'x <- {read}; write.csv(" in message
    assert "x@meta.data" in message
    assert "SummarizedExperiment::colData(x)" in message
    assert "Fetch" not in message


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("https://example.org/a/cells.h5ad", "curl -LO https://example.org/a/cells.h5ad"),
        ("s3://bucket/cells.h5ad", "with its own tool"),
    ],
)
def test_an_address_is_to_be_downloaded(given, said):
    with pytest.raises(AtlasError, match=re.escape(f"{given} is an address")) as caught:
        read_obs(Path(given), ["age"])
    assert said in str(caught.value)


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("cells.csv"))
    return file.getvalue()


AGAIN = "Fetch or write it again."
MANY = b"age\n" + b"3m\n" * 10_000
BAD = {
    "web page": (b"\n<!DOCTYPE html><html>", f"is a web page.*{AGAIN}"),
    "packed web page": (gzip.compress(b"<html>"), f"is a web page.*{AGAIN}"),
    "empty": (b"", f"is empty.*{AGAIN}"),
    "packed and empty": (gzip.compress(b""), f"is empty.*{AGAIN}"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid x\n", "git lfs pull"),
    "picture": (b"\x89PNG\r\n\0\0\0", r"neither HDF5, .* nor text .* Export its table of cells"),
    "tar": (tar(), "is a tar archive. Unpack it"),
    "packed tar": (gzip.compress(tar()), "is a tar archive. Unpack it"),
    "packed h5ad": (gzip.compress(b"\x89HDF\r\n\x1a\n"), "no text is in it. Unpack it"),
    "cut zip": (b"PK\x03\x04\x14\0\0\0", f"was cut off. {AGAIN}"),
    "cut gzip": (gzip.compress(MANY)[:-20], f"is damaged.*{AGAIN}"),
    "cut bz2": (bz2.compress(MANY)[:-20], f"is damaged.*{AGAIN}"),
    "cut xz": (lzma.compress(MANY)[:-20], f"is damaged.*{AGAIN}"),
    "old Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", r"\.xls\). Save it as .xlsx or CSV"),
    "Latin-1 header": ("age,é\n3m,x\n".encode("latin-1"), "UTF-16. Write it again as UTF-8"),
    "Latin-1 value": ("age,b\né,x\n".encode("latin-1"), "UTF-16. Write it again as UTF-8"),
    "ragged": (b"age,sex\n3m,male\n3m,male,more\n", r"Expected 2 columns, got 3.*write\.csv\(\)"),
    "cut row": (b"age,sex\n3m,male\n3m", "Expected 2 columns, got 1.*cut off: fetch the file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_table_is_one_line(kind, tmp_path):
    content, said = BAD[kind]
    path = tmp_path / "cells.csv"
    path.write_bytes(content)
    assert re.search(said, message := error_of(path)), message
    if AGAIN not in said:
        assert AGAIN not in message


def test_an_archive_of_several_files_names_them(tmp_path):
    path = zipped(tmp_path / "cells.zip", {"a.csv": "age\n3m\n", "b.csv": "age\n"})
    assert "archive of 2 files (a.csv, b.csv)" in error_of(path)
    assert "archive of 0 files" in error_of(zipped(tmp_path / "none.zip", {}))


def test_a_missing_file(tmp_path):
    assert "does not exist. Fetch it with dvc repro" in error_of(tmp_path / "none.h5ad")
