"""Cells become tokens as the published models read them, or one line says why they cannot.

Expected values are computed by the loops at the head of each part: written from the description of
the encodings, one gene after another, and sharing nothing with the code.
"""

import hashlib
import json
import math
import os
import pickle
import tracemalloc
from collections import Counter

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import sparse

from stages.base.errors import AtlasError, CheckpointError
from stages.inputs import encode as stage
from stages.inputs.demo import legacy
from stages.inputs.encoders import dictionaries, encoded, matrix, scgpt, vocabulary
from stages.inputs.encoders.encoding import Tally, encode
from stages.inputs.encoders.presets import PRESETS
from stages.inputs.encoders.settings import Encoding
from stages.inputs.encoders.vocabulary import CLS, EOS, MASK, PAD, Vocabulary
from stages.measurement.streams import stream

IDS = [f"ENSG{number:011d}" for number in range(1, 13)]
SYMBOLS = [f"GENE{number}" for number in range(1, 13)]
V1_SPECIAL = {PAD: 0, MASK: 1}
V2_SPECIAL = V1_SPECIAL | {CLS: 2, EOS: 3}
SHA256 = {
    "token_dictionary.pkl": "ab9dc40973fa5224d77b793e2fd114cacf3d08423ed9c4c49caf0ba9c7f218f1",
    "gene_median_dictionary.pkl": "b3b589bb5ec75040d05fc44dd6bf0184cf87f3c362cf158d196a6ed3b7fe5f39",  # noqa: E501
    "gene_name_id_dict.pkl": "55e67962e79c0039a6c32d43c5c99f38e51964bbcfa32f736150ee1e285c438c",
}


def geneformer_like(special=V2_SPECIAL, medians=None, synonyms=None):
    ids = {gene: number for number, gene in enumerate(IDS, start=len(special))}
    given_medians = dict(zip(IDS, medians or [1.0 + place for place in range(12)], strict=True))
    return Vocabulary(ids, special, given_medians, synonyms)


def scgpt_like():
    ids = {symbol: number for number, symbol in enumerate(SYMBOLS)}
    return Vocabulary(ids, {PAD: 12, CLS: 13, "<eoc>": 14})


def h5ad(path, x, genes, *, cells=None, **parts):
    cells = cells or [f"cell{row}" for row in range(x.shape[0])]
    parts.setdefault("obs", pd.DataFrame(index=cells))
    parts.setdefault("var", pd.DataFrame(index=genes))
    ad.AnnData(X=x, **parts).write_h5ad(path)
    return path


def all_of(path, vocab, tally=None, rows=None, **encoding):
    """Return each cell's tokens without padding, and the values beside them, by its name."""
    found = {}
    for part in encode(path, vocab, Encoding(**encoding), tally=tally, rows=rows):
        for row, (cell, length) in enumerate(
            zip(part.cells["cell"], part.cells["length"], strict=True)
        ):
            assert (part.ids[row, length:] == vocab.pad).all()
            values = None if part.values is None else part.values[row, :length].tolist()
            found[cell] = (part.ids[row, :length].tolist(), values)
    return found


def tokens_of(path, vocab, **encoding):
    return {cell: ids for cell, (ids, _) in all_of(path, vocab, **encoding).items()}


COUNTS = np.random.default_rng(5).poisson(0.8, size=(40, 12)).astype(np.float32)


# --- dictionaries --------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path):
    """Return what writes pickles as the published ones are: NumPy numbers, protocol 4."""

    def written(special=V2_SPECIAL, n_genes=12, **extra):
        genes = IDS[:n_genes]
        ids = special | {gene: np.int16(len(special) + i) for i, gene in enumerate(genes)}
        content = {
            "tokens": ids | extra.pop("tokens", {}),
            "medians": {gene: np.float64(1 + i) for i, gene in enumerate(genes)}
            | extra.pop("medians", {}),
        } | extra
        for name, dictionary in content.items():
            (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(dictionary, protocol=4))
        return {name: tmp_path / f"{name}.pkl" for name in content}

    return written


def test_the_true_dictionaries_of_v1_entry_by_entry(real_input):
    folder = real_input("geneformer_v1")
    tokens, medians, names = (folder / name for name in SHA256)
    found, n_dropped = dictionaries.geneformer(tokens, medians, names=names, sha256=SHA256)
    # These bytes are known (SHA256), so the plain reader may read them.
    of_tokens, of_medians, of_names = (
        pickle.loads((folder / name).read_bytes()) for name in SHA256
    )
    assert len(found) == len(of_tokens) == 25426
    assert {**found.genes, **found.special} == {name: int(i) for name, i in of_tokens.items()}
    assert found.medians == {gene: float(median) for gene, median in of_medians.items()}
    kept = {name.upper(): gene for name, gene in of_names.items() if gene in of_tokens}
    assert found.synonyms == kept
    assert n_dropped == 19003
    assert n_dropped + len(kept) == len(of_names) == 40248
    assert found.special == V1_SPECIAL
    assert {type(i) for i in found.genes.values()} == {int}
    assert {type(median) for median in found.medians.values()} == {float}


def test_a_vocabulary_comes_back_as_it_was_written(published, tmp_path):
    paths = published(names={"GENE1": IDS[0], "gene2": IDS[1], "GONE": "ENSG99999999999"})
    made, n_dropped = dictionaries.geneformer(
        paths["tokens"], paths["medians"], names=paths["names"]
    )
    vocabulary.write(made, tmp_path)
    assert vocabulary.read(tmp_path) == made
    assert n_dropped == 1
    assert made.synonyms == {"GENE1": IDS[0], "GENE2": IDS[1]}
    assert made.names == [PAD, MASK, CLS, EOS, *IDS]


def test_the_mapping_overrules_the_names(published):
    paths = published(names={"A": IDS[0], "B": IDS[1]}, mapping={"A": IDS[2], IDS[3]: IDS[3]})
    made, n_dropped = dictionaries.geneformer(
        paths["tokens"], paths["medians"], names=paths["names"], mapping=paths["mapping"]
    )
    assert (made.synonyms, n_dropped) == ({"A": IDS[2], "B": IDS[1]}, 0)


class _Calls:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def _poisons(marker):
    touch = f"touch {marker}"
    scalar = np.float64(1).__reduce__()[0]
    return {
        "a command": pickle.dumps({"a": _Calls(os.system, touch)}),
        "a command, textually": f"(S'{touch}'\nios\nsystem\n.".encode(),
        "inside an allowed call": pickle.dumps(
            {"a": _Calls(scalar, np.dtype("f8"), _Calls(os.system, touch))}
        ),
        "as a key": pickle.dumps({_Calls(os.system, touch): 1}),
        "built in": pickle.dumps({"a": _Calls(eval, f"__import__('os').system({touch!r})")}),
        "a function of numpy": pickle.dumps({"a": _Calls(np.savetxt, str(marker), [1.0])}),
        # STACK_GLOBAL of numpy and a way on from what is allowed.
        "through a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x1ddtype.__base__.__subclasses__\x93.",
        "an array": pickle.dumps({"a": np.ones(2)}),
        "a class": pickle.dumps({"a": Counter("a")}),
    }


@pytest.mark.parametrize("poison", sorted(_poisons("m")))
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(poison, tmp_path):
    marker = tmp_path / "ran"
    path = tmp_path / "token_dictionary.pkl"
    path.write_bytes(_poisons(marker)[poison])
    with pytest.raises(CheckpointError, match=r"would run \S+, which no dictionary") as error:
        dictionaries.read_pickle(path)
    assert "\n" not in str(error.value)
    assert not marker.exists()


def test_the_poison_is_one(tmp_path):
    poisons = _poisons(tmp_path / "ran")
    for name in ("a command", "a command, textually", "inside an allowed call", "built in"):
        try:
            pickle.loads(poisons[name])
        except (TypeError, ValueError):  # what came of the command is no number
            assert name == "inside an allowed call"
        (tmp_path / "ran").unlink()  # fails if nothing ran


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps({"a": 1})[:-4], "no pickle"),
        (b"", "no pickle"),
        (b"\x80\x04\x95", "no pickle"),
        (b"\x80\x04}\x8c\x01a\x8c\x01bb.", "no pickle"),  # BUILD on a dictionary
        (b"<html>", "no pickle"),
        (pickle.dumps([1, 2]), "no dictionary"),
        (pickle.dumps({1: 2}), "no dictionary"),
    ],
)
def test_a_damaged_pickle_is_one_line(content, says, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as error:
        dictionaries.read_pickle(path)
    assert "\n" not in str(error.value)


def test_a_number_in_a_pickle_is_no_length_of_memory(tmp_path):
    # What is kept under this number takes 32 GiB in the reader that is written in C.
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04}r\xff\xff\xff\x7f.")
    assert dictionaries.read_pickle(path) == {}


@pytest.mark.parametrize("code", ["O", "V8", "S8", "M8[ns]", "c16", "f8,f8"])
def test_a_number_is_of_a_kind_of_numbers(code, tmp_path):
    class Posing:
        def __reduce__(self):
            return np.float64(0).__reduce__()[0], (np.dtype(code), b"\0" * 8)

    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a": Posing()}, protocol=4))
    with pytest.raises(CheckpointError, match=r"no pickle of a dictionary|no dictionary of genes"):
        dictionaries.read_pickle(path)


@pytest.mark.parametrize("text", [b"0123456789", bytes(range(256))])
@given(data=st.data())
def test_no_bytes_get_past_the_reader(text, data, tmp_path_factory):
    """Cut and changed files are read as a dictionary of names or refused: nothing else comes."""
    whole = pickle.dumps({"a": np.float64(1), "b": np.int16(2)}, protocol=4)
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:place] + bytes([data.draw(st.sampled_from(text))]) + whole[place + 1 :]
    path = tmp_path_factory.getbasetemp() / "changed.pkl"
    path.write_bytes(changed)
    try:
        content = dictionaries.read_pickle(path)
    except CheckpointError:
        return
    assert all(type(key) is str for key in content)


def test_other_bytes_than_expected_are_not_read(published):
    paths = published()
    with pytest.raises(CheckpointError, match=r"has the sha256 [0-9a-f]{64}, not 0{64}"):
        dictionaries.geneformer(paths["tokens"], paths["medians"], sha256={"medians.pkl": "0" * 64})
    with pytest.raises(CheckpointError, match=r"gone\.pkl does not exist"):
        dictionaries.read_pickle(paths["tokens"].with_name("gone.pkl"))


def test_dictionaries_of_two_versions_are_refused(published, tmp_path):
    paths = published(V1_SPECIAL)
    old = paths["medians"].rename(tmp_path / "old.pkl")
    new = published(V2_SPECIAL, n_genes=10)["tokens"]
    with pytest.raises(CheckpointError, match=r"two versions \(V1 and V2 do not mix\)"):
        dictionaries.geneformer(new, old)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"vocab_size": 14}))
    paths = published(V1_SPECIAL, n_genes=10)
    with pytest.raises(CheckpointError, match=r"is of V1 and has 12 ids.*has vocab_size 14"):
        dictionaries.geneformer(paths["tokens"], paths["medians"], config=config)
    paths = published(V2_SPECIAL, n_genes=10)
    assert len(dictionaries.geneformer(paths["tokens"], paths["medians"], config=config)[0]) == 14


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokens": {IDS[0]: np.int16(5)}}, "ids are not 0 to 15"),
        ({"tokens": {IDS[0]: np.int16(99)}}, "ids are not 0 to 15"),
        ({"tokens": {IDS[0]: 4.0}}, "an id is a whole number"),
        ({"tokens": {IDS[0]: True}}, "an id is a whole number"),
        ({"medians": {IDS[0]: np.float64(0)}}, "a median is above 0"),
        ({"medians": {IDS[0]: float("nan")}}, "a median is above 0"),
        ({"medians": {IDS[0]: "1"}}, "a median is a number"),
        ({"medians": {"ENSG9": 1.0}}, "name other genes: ENSG9"),
        ({"special": {PAD: 0, MASK: 1, CLS: 2}}, "V1 has <pad> and <mask>, V2 also"),
        ({"special": {MASK: 0}}, "V1 has <pad> and <mask>, V2 also"),
    ],
)
def test_what_no_dictionary_may_say(change, says, published):
    paths = published(**change)
    with pytest.raises(CheckpointError, match=says):
        dictionaries.geneformer(paths["tokens"], paths["medians"])


def test_the_true_list_of_scgpt(real_input, tmp_path):
    path = real_input("scgpt/default_census_vocab.json")
    found, n_added = dictionaries.scgpt(path)
    listed = json.loads(path.read_text())
    assert dict(found.genes) == listed
    assert found.special == {PAD: 60694, CLS: 60695, "<eoc>": 60696}
    assert (len(found), n_added, found.genes["A1BG"]) == (60697, 3, 0)
    whole = tmp_path / "vocab.json"
    whole.write_text(json.dumps(listed | dict(found.special)))
    assert dictionaries.scgpt(whole) == (found, 0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"A": 0, "B": 1, "A": 2}', "'A' stands in it twice"),
        ('{"A": 0, "<pad>": 1}', "all are needed, or none"),
        ('{"A": 0, "B": 0}', "ids are not 0 to 4"),
        ('{"A": 0.0}', "an id is a whole number"),
        ('{"A": true}', "an id is a whole number"),
        ("[1]", "no JSON object"),
        ('{"A": 0', "is no JSON"),
    ],
)
def test_a_wrong_list_of_scgpt_is_one_line(text, says, tmp_path):
    path = tmp_path / "vocab.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=says):
        dictionaries.scgpt(path)


# --- Geneformer ----------------------------------------------------------------------------------


def naive_ranks(counts, vocab, *, room, logged=False):
    """Return the ids of one cell: counts by Ensembl id, the total over all of them."""
    total = sum(counts.values())
    pairs = []
    for gene, count in counts.items():
        if gene in vocab.genes and count > 0:
            value = count / total * 10_000
            value = math.log1p(value) if logged else value
            pairs.append((-value / vocab.medians[gene], vocab.genes[gene]))
    ids = [token for _, token in sorted(pairs)[:room]]
    return [vocab.special[CLS], *ids, vocab.special[EOS]] if CLS in vocab.special else ids


@pytest.fixture(scope="module")
def kang(real_input):
    path = real_input("kang_ifn_pbmc_subset.h5ad")
    return path, ad.read_h5ad(path).to_df()


@pytest.fixture(scope="module")
def true_v1(real_input):
    folder = real_input("geneformer_v1")
    tokens, medians, names = (folder / name for name in SHA256)
    return dictionaries.geneformer(tokens, medians, names=names)[0]


@pytest.fixture(scope="module")
def true_scgpt(real_input):
    return dictionaries.scgpt(real_input("scgpt/default_census_vocab.json"))[0]


def test_real_cells_in_geneformer_v1(kang, true_v1):
    path, table = kang
    tally = Tally()
    found = all_of(path, true_v1, tally, preset="geneformer-v1", genes="symbols")
    assert len(found) == len(table) == 1556
    n_checked = 0
    for cell in table.index[::40]:
        # Symbols by the dictionary; where there are none, the symbol stays and counts in the total.
        counts = {
            true_v1.synonyms.get(gene.upper(), gene): n for gene, n in table.loc[cell].items()
        }
        assert len(counts) == table.shape[1]
        expected = naive_ranks(counts, true_v1, room=2048)
        assert found[cell][0] == expected
        n_checked += len(expected)
    assert n_checked > 8000
    assert tally.genes == {
        "known": 1108,
        "renamed by a synonym": 1108,
        "dropped: not in the vocabulary": 159,
    }
    assert tally.cells == {
        "read": 1556,
        "kept": 1556,
        "dropped: no counts": 0,
        "dropped: no gene that the model knows": 0,
    }


@pytest.mark.parametrize("preset", ["geneformer-v1", "geneformer-v2"])
@given(
    counts=st.lists(st.lists(st.integers(0, 4), min_size=14, max_size=14), min_size=1, max_size=4),
    medians=st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=12, max_size=12),
    max_length=st.integers(3, 20),
)
def test_any_cell_is_ranked_as_by_hand(preset, counts, medians, max_length, tmp_path_factory):
    vocab = geneformer_like(V1_SPECIAL if preset == "geneformer-v1" else V2_SPECIAL, medians)
    genes = [*reversed(IDS), "ENSG99999999999", "ENSG99999999998"]
    x = np.array(counts, dtype=np.float32)
    path = h5ad(tmp_path_factory.getbasetemp() / "any.h5ad", x, genes)
    tally = Tally()
    found = all_of(path, vocab, tally, preset=preset, max_length=max_length)
    room = max_length - (0 if preset == "geneformer-v1" else 2)
    n_known = (x[:, :12] > 0).sum(axis=1)
    assert set(found) == {f"cell{row}" for row in np.flatnonzero(n_known)}
    for cell, (ids, _) in found.items():
        own = dict(zip(genes, counts[int(cell.removeprefix("cell"))], strict=True))
        assert ids == naive_ranks(own, vocab, room=room)
    assert tally.n_truncated == (n_known > room).sum()
    assert tally.cells["dropped: no counts"] == (x.sum(axis=1) == 0).sum()
    assert (
        tally.cells["dropped: no gene that the model knows"]
        == ((x.sum(axis=1) > 0) & (n_known == 0)).sum()
    )


def test_equal_values_stand_in_the_order_of_their_ids(tmp_path):
    x = np.ones((1, 12), dtype=np.float32)
    path = h5ad(tmp_path / "x.h5ad", x, list(reversed(IDS)))
    found = tokens_of(path, geneformer_like(medians=[2.0] * 12), preset="geneformer-v2")
    assert found == {"cell0": [2, *range(4, 16), 3]}


def test_the_total_is_of_all_genes(tmp_path):
    # No rank of Geneformer's shows it, but that behind a logarithm does.
    vocab = geneformer_like(medians=[1.2, 1.0] + [1.0] * 10)
    x = np.array([[2, 1, 997]], dtype=np.float32)
    path = h5ad(tmp_path / "x.h5ad", x, [IDS[0], IDS[1], "ENSG99999999999"])
    for total, first in ((1000, 0), (3, 1)):
        values = [math.log1p(2 / total * 1e4) / 1.2, math.log1p(1 / total * 1e4)]
        assert np.argmax(values) == first
    assert tokens_of(path, vocab, preset="geneformer-as-traced") == {"cell0": [2, 4, 5, 3]}


def test_as_traced_against_its_loop(tmp_path):
    rng = np.random.default_rng(1)
    logs = np.log1p(rng.poisson(1.0, size=(30, 12)) * rng.uniform(1, 20, size=(30, 1))).astype(
        np.float64
    )
    vocab = geneformer_like(medians=rng.uniform(0.5, 5, size=12).tolist())
    path = h5ad(tmp_path / "x.h5ad", logs, IDS)
    found = tokens_of(path, vocab, preset="geneformer-as-traced", max_length=9)
    official = tokens_of(path, vocab, preset="geneformer-as-traced", max_length=14)
    n_other = 0
    for row, own in enumerate(logs):
        counts = dict(zip(IDS, own.tolist(), strict=True))
        if sum(own):
            assert found[f"cell{row}"] == naive_ranks(counts, vocab, room=7, logged=True)
            n_other += official[f"cell{row}"] != naive_ranks(counts, vocab, room=12)
    # That it deviates is the point of it.
    assert n_other > 10


def test_published_limits_are_the_models():
    assert {name: preset.max_length for name, preset in PRESETS.items()} == {
        "geneformer-v1": 2048,
        "geneformer-v2": 4096,
        "geneformer-as-traced": 2048,
        "scgpt": 1200,
        "scgpt-as-mapped": 512,
    }
    assert {name for name, preset in PRESETS.items() if preset.deviates} == {
        "geneformer-as-traced",
        "scgpt-as-mapped",
    }
    assert all("not as in" in p.statement for p in PRESETS.values() if p.deviates)


@pytest.mark.parametrize(
    ("preset", "vocab"),
    [
        ("geneformer-v1", geneformer_like(V2_SPECIAL)),
        ("geneformer-v2", geneformer_like(V1_SPECIAL)),
        ("geneformer-as-traced", geneformer_like(V1_SPECIAL)),
        ("geneformer-v1", scgpt_like()),
        ("geneformer-v2", scgpt_like()),
        ("scgpt", geneformer_like(V2_SPECIAL)),
        ("scgpt-as-mapped", geneformer_like(V1_SPECIAL)),
    ],
)
def test_a_vocabulary_of_another_model_is_refused(preset, vocab, tmp_path):
    path = h5ad(tmp_path / "x.h5ad", COUNTS, IDS)
    with pytest.raises(CheckpointError, match=rf"the preset {preset} .* is of (Geneformer|scGPT)"):
        next(encode(path, vocab, Encoding(preset=preset)))


# --- names of genes ------------------------------------------------------------------------------


def test_versions_are_stripped_and_doubles_summed_and_all_is_counted(tmp_path):
    genes = [
        f"{IDS[0]}.12", IDS[0], IDS[1].lower(), f"{IDS[2]}.3_PAR_Y", "ENSMUSG00000000001", "ACTB",
        "", "ENSG99999999999.1", "ENSG00000099999",
    ]  # fmt: skip
    vocab = geneformer_like(medians=[1.0] * 12, synonyms={"ENSG00000099999": IDS[3]})
    # Neither column of the first gene alone would come first.
    x = np.array([[2, 2, 3, 9, 9, 9, 9, 9, 1]], dtype=np.float32)
    tally = Tally()
    found = all_of(h5ad(tmp_path / "x.h5ad", x, genes), vocab, tally, preset="geneformer-v2")
    assert found["cell0"][0] == [2, 4, 5, 7, 3]
    assert tally.n_genes == 9
    assert tally.genes == {
        "known": 4,
        "summed into another": 1,
        "version stripped": 1,
        "renamed by a synonym": 1,
        "dropped: no name": 1,
        "dropped: no Ensembl id": 1,
        "dropped: of another species": 1,
        "dropped: not in the vocabulary": 2,
    }


def test_an_unknown_symbol_is_dropped_and_not_the_gene_of_id_0(tmp_path):
    x = np.array([[5, 3, 1]], dtype=np.float32)
    path = h5ad(tmp_path / "x.h5ad", x, ["NOGENE", "GENE3", "gene1"])
    tally = Tally()
    found = all_of(path, scgpt_like(), tally, preset="scgpt-as-mapped")
    assert found == {"cell0": ([2], [3.0])}
    assert tally.genes == {"known": 1, "dropped: not in the vocabulary": 2}


MOUSE_IDS = [f"ENSMUSG{number:011d}" for number in range(12)]


@pytest.mark.parametrize(
    ("genes", "encoding", "says"),
    [
        (SYMBOLS, {"preset": "geneformer-v2"}, "no Ensembl ids.*--genes symbols"),
        (MOUSE_IDS, {"preset": "geneformer-v2"}, "ids of another species.*orthologues"),
        (MOUSE_IDS, {"preset": "scgpt"}, "ids of another species.*orthologues"),
        (IDS, {"preset": "scgpt"}, "Ensembl ids, not symbols.*--gene-column"),
        (IDS, {"preset": "geneformer-v2", "genes": "symbols"}, "Say so: --genes ids"),
        ([f"Actb{i}" for i in range(12)], {"preset": "scgpt"}, "symbols of mouse"),
        (
            [name.title() for name in SYMBOLS],
            {"preset": "geneformer-v2", "genes": "symbols"},
            "symbols of mouse",
        ),
        ([f"UNKNOWN{i}" for i in range(12)], {"preset": "scgpt"}, "no gene of .* is in the voc"),
        ([f"ENSG9{i:010d}" for i in range(12)], {"preset": "geneformer-v2"}, "no gene of"),
    ],
)
def test_genes_of_another_kind_are_one_line(genes, encoding, says, tmp_path):
    synonyms = dict(zip(SYMBOLS, IDS, strict=True))
    geneformer = encoding["preset"].startswith("geneformer")
    vocab = geneformer_like(synonyms=synonyms) if geneformer else scgpt_like()
    with pytest.raises(AtlasError, match=says) as error:
        next(encode(h5ad(tmp_path / "x.h5ad", COUNTS, genes), vocab, Encoding(**encoding)))
    assert "\n" not in str(error.value)


def test_symbols_are_mapped_only_with_synonyms(tmp_path):
    path = h5ad(tmp_path / "x.h5ad", COUNTS, SYMBOLS)
    by_symbol = Encoding(preset="geneformer-v2", genes="symbols")
    with pytest.raises(AtlasError, match="no synonyms to map symbols by"):
        next(encode(path, geneformer_like(), by_symbol))
    vocab = geneformer_like(synonyms=dict(zip(SYMBOLS, IDS, strict=True)))
    found = tokens_of(path, vocab, preset="geneformer-v2", genes="symbols")
    by_id = h5ad(tmp_path / "y.h5ad", COUNTS, IDS)
    assert found == tokens_of(by_id, vocab, preset="geneformer-v2")


def test_a_list_of_symbols_may_hold_ids_and_small_letters(tmp_path):
    # Genes without a symbol stand there by their id, versioned or not.
    names = ["gene1", "GENE2", "GENE3", f"{IDS[3]}.7", IDS[4], "NOGENE"]
    x = np.arange(1, 7, dtype=np.float32)[None]
    path = h5ad(tmp_path / "x.h5ad", x, names)
    vocab = geneformer_like(
        medians=[1.0] * 12, synonyms=dict(zip(SYMBOLS[:3], IDS[:3], strict=True))
    )
    tally = Tally()
    found = all_of(path, vocab, tally, preset="geneformer-v2", genes="symbols")
    assert found == {"cell0": ([2, 8, 7, 6, 5, 4, 3], None)}
    assert tally.genes == {
        "known": 5,
        "renamed by a synonym": 3,
        "version stripped": 1,
        "dropped: not in the vocabulary": 1,
    }


def test_a_file_of_cellxgene(tmp_path):
    """X holds logarithms, raw the counts of more genes; symbols are a category."""
    genes = pd.DataFrame({"feature_name": pd.Categorical(SYMBOLS)}, index=IDS)
    cells = pd.DataFrame(index=[f"cell{row}" for row in range(40)])
    table = ad.AnnData(X=COUNTS, obs=cells, var=genes)
    table.raw = table
    table = table[:, :8].copy()
    table.X = np.log1p(table.X)
    path = tmp_path / "x.h5ad"
    table.write_h5ad(path)
    plain = h5ad(tmp_path / "y.h5ad", COUNTS, SYMBOLS)
    found = all_of(path, scgpt_like(), preset="scgpt", counts="raw", gene_column="feature_name")
    assert found == all_of(plain, scgpt_like(), preset="scgpt")


@pytest.mark.parametrize("as_category", [False, True])
def test_genes_are_named_by_a_column(as_category, tmp_path):
    names = pd.Series(SYMBOLS, index=IDS, dtype="category" if as_category else object)
    path = h5ad(tmp_path / "x.h5ad", COUNTS, IDS, var=pd.DataFrame({"feature_name": names}))
    plain = h5ad(tmp_path / "y.h5ad", COUNTS, SYMBOLS)
    found = all_of(path, scgpt_like(), preset="scgpt", gene_column="feature_name")
    assert found == all_of(plain, scgpt_like(), preset="scgpt")
    with pytest.raises(AtlasError, match=r"column symbol is not in .*feature_name"):
        next(encode(path, scgpt_like(), Encoding(preset="scgpt", gene_column="symbol")))


def test_a_column_of_codes_as_anndata_0_7_wrote_it(tmp_path):
    path = h5ad(tmp_path / "x.h5ad", COUNTS, IDS)
    with h5py.File(path, "a") as file:
        names = file.create_dataset("var/__categories/symbol", data=list(reversed(SYMBOLS)))
        codes = file.create_dataset("var/symbol", data=np.arange(12, dtype=np.int8)[::-1])
        codes.attrs["categories"] = names.ref
    plain = h5ad(tmp_path / "y.h5ad", COUNTS, SYMBOLS)
    found = all_of(path, scgpt_like(), preset="scgpt", gene_column="symbol")
    assert found == all_of(plain, scgpt_like(), preset="scgpt")


# --- scGPT ---------------------------------------------------------------------------------------


def naive_bins(values, drawn):
    """Return the bins of one cell's expressed values, given a number in 0..1 for each."""
    edges = np.quantile(values, [place / 49 for place in range(50)])
    bins = []
    for value, u in zip(values, drawn, strict=True):
        n_up_to = sum(edge <= value for edge in edges)
        n_below = sum(edge < value for edge in edges)
        bins.append(math.ceil(u * (n_below - n_up_to) + n_up_to))
    return bins


def test_bins_by_hand():
    # 50 values apart are the edges themselves: value i is of bin i and no other.
    values = np.arange(1.0, 51.0)[::-1]
    assert scgpt.binned(values, seed=0, cell="c").tolist() == list(range(50, 0, -1))
    # Of two values the lower is the first edge, the higher the last; the others lie between.
    assert scgpt.binned(np.array([3.0, 9.0]), seed=0, cell="c").tolist() == [1, 50]


def test_a_tie_is_spread_evenly_over_all_the_bins_it_spans():
    bins = scgpt.binned(np.ones(50_000), seed=3, cell="c").astype(int)
    of_bin = np.bincount(bins, minlength=51)
    assert of_bin[0] == 0
    # 1,000 of each are expected, sd 31; seen: 921 to 1,063.
    assert 850 < of_bin[1:].min() <= of_bin[1:].max() < 1150


def test_real_cells_in_scgpt(kang, true_scgpt):
    path, table = kang
    found = all_of(path, true_scgpt, preset="scgpt", seed=11)
    n_checked = 0
    for cell in table.index[::100]:
        own = {
            true_scgpt.genes[g]: n
            for g, n in table.loc[cell].items()
            if g in true_scgpt.genes and n
        }
        ids, values = zip(*sorted(own.items()), strict=True)
        drawn = stream(11, "scgpt", "bins", cell).random(len(values))
        assert found[cell] == ([60695, *ids], [-2, *naive_bins(values, drawn)])
        n_checked += len(ids)
    assert n_checked > 3000


def test_a_logarithm_changes_no_bin():
    counts = np.random.default_rng(2).negative_binomial(1, 0.2, size=(200, 300)) + 1.0
    for row, cell in enumerate(counts):
        logged = np.log1p(cell / cell.sum() * 1e4)
        name = f"c{row}"
        assert np.array_equal(
            scgpt.binned(cell, seed=0, cell=name), scgpt.binned(logged, seed=0, cell=name)
        )


def test_a_long_cell_keeps_its_bins_and_loses_genes_at_random(tmp_path):
    x = np.tile(np.arange(1, 13, dtype=np.float32), (600, 1))
    path = h5ad(tmp_path / "x.h5ad", x, SYMBOLS)
    whole = all_of(path, scgpt_like(), preset="scgpt")
    tally = Tally()
    cut = all_of(path, scgpt_like(), tally, preset="scgpt", max_length=5)
    assert tally.n_truncated == 600
    seen = Counter()
    for cell, (ids, values) in cut.items():
        assert (ids[0], values[0], len(ids)) == (13, -2, 5)
        assert len(set(ids)) == 5
        beside = dict(zip(*whole[cell], strict=True))
        assert values == [beside[token] for token in ids]
        seen.update(ids[1:])
    # Each gene stays in a third of the cells: 200 of 600, sd 11.5; seen: 179 to 222.
    assert set(seen) == set(range(12))
    assert 150 < min(seen.values()) <= max(seen.values()) < 250


def test_a_seed_decides_and_so_does_the_name(tmp_path):
    path = h5ad(tmp_path / "x.h5ad", np.ones((2, 12), np.float32), SYMBOLS)
    found = all_of(path, scgpt_like(), preset="scgpt", seed=1)
    assert found == all_of(path, scgpt_like(), preset="scgpt", seed=1)
    assert found["cell0"] != all_of(path, scgpt_like(), preset="scgpt", seed=2)["cell0"]
    assert found["cell0"] != found["cell1"]


@pytest.mark.parametrize("preset", ["scgpt", "geneformer-v2"])
def test_a_cell_does_not_depend_on_its_neighbours(preset, tmp_path, monkeypatch):
    vocab, genes = (scgpt_like(), SYMBOLS) if preset == "scgpt" else (geneformer_like(), IDS)
    cells = [f"cell{row}" for row in range(len(COUNTS))]
    path = h5ad(tmp_path / "x.h5ad", sparse.csr_matrix(COUNTS), genes)
    reversed_path = h5ad(
        tmp_path / "y.h5ad", sparse.csr_matrix(COUNTS[::-1]), genes, cells=cells[::-1]
    )
    together = all_of(path, vocab, preset=preset, max_length=6)
    assert len(together) == 40
    assert all_of(reversed_path, vocab, preset=preset, max_length=6) == together
    alone = all_of(path, vocab, preset=preset, max_length=6, rows=[17])
    assert alone == {"cell17": together["cell17"]}
    monkeypatch.setattr(matrix, "ENTRIES_AT_ONCE", 10)
    monkeypatch.setattr(matrix, "CELLS_AT_ONCE", 10)
    assert all_of(path, vocab, preset=preset, max_length=6) == together


def test_as_mapped_against_its_loop(tmp_path):
    values = np.log1p(COUNTS)
    path = h5ad(tmp_path / "x.h5ad", values, SYMBOLS)
    found = all_of(path, scgpt_like(), preset="scgpt-as-mapped", max_length=4)
    assert len(found) == 40
    for row, own in enumerate(values):
        top = sorted((-value, i) for i, value in enumerate(own.tolist()) if value > 0)[:4]
        assert found[f"cell{row}"] == ([i for _, i in top], [-value for value, _ in top])
    part = next(encode(path, scgpt_like(), Encoding(preset="scgpt-as-mapped")))
    beyond = np.arange(part.ids.shape[1]) >= part.cells["length"].to_numpy()[:, None]
    assert beyond.any()
    assert (part.values[beyond] == 0).all()
    part = next(encode(h5ad(path, COUNTS, SYMBOLS), scgpt_like(), Encoding(preset="scgpt")))
    beyond = np.arange(part.ids.shape[1]) >= part.cells["length"].to_numpy()[:, None]
    assert (part.values[beyond] == -2).all()
    assert (part.ids[beyond] == 12).all()


# --- matrices ------------------------------------------------------------------------------------


def _contiguous(path, x, genes):
    h5ad(path, x, genes)
    with h5py.File(path) as file:
        assert file["X"].chunks is None
    return path


def _chunked(path, x, genes):
    cells = pd.DataFrame(index=[f"cell{row}" for row in range(len(x))])
    table = ad.AnnData(X=x, obs=cells, var=pd.DataFrame(index=genes))
    table.write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        assert file["X"].chunks is not None
    return path


def _legacy(path, x, genes):
    names = pd.Index([f"cell{row}" for row in range(len(x))], name="index")
    var = pd.DataFrame({"n": 1}, index=pd.Index(genes, name="index"))
    obs = pd.DataFrame({"n": 1}, index=names)
    legacy.write(path, x=sparse.csr_matrix(x), obs=obs, var=var)
    return path


def _unsorted(path, x, genes):
    rows = sparse.csr_matrix(x)
    order = np.concatenate(
        [np.arange(i, j)[::-1] for i, j in zip(rows.indptr[:-1], rows.indptr[1:], strict=True)]
    )
    flipped = sparse.csr_matrix((rows.data[order], rows.indices[order], rows.indptr), rows.shape)
    return h5ad(path, flipped, genes)


def _with_zeros(path, x, genes):
    """Store every value of a sparse matrix, zeros too."""
    places = np.tile(np.arange(x.shape[1]), len(x))
    ends = np.arange(len(x) + 1) * x.shape[1]
    return h5ad(path, sparse.csr_matrix((x.ravel(), places, ends), x.shape), genes)


LAYOUTS = {
    "dense": _contiguous,
    "chunked": _chunked,
    "csr": lambda path, x, genes: h5ad(path, sparse.csr_matrix(x), genes),
    "csc": lambda path, x, genes: h5ad(path, sparse.csc_matrix(x), genes),
    "whole numbers": lambda path, x, genes: h5ad(path, x.astype(np.int32), genes),
    "unsorted": _unsorted,
    "stored zeros": _with_zeros,
    "anndata 0.6": _legacy,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [None, [0, 1, 2, 7, 8, 39]])
@pytest.mark.parametrize("entries", [1 << 22, 20])
def test_every_layout_gives_the_same_rows(layout, rows, entries, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(matrix, "ENTRIES_AT_ONCE", entries)
    monkeypatch.setattr(matrix, "ENTRIES_OF_A_BAND", 2 * entries)
    monkeypatch.setattr(matrix, "CELLS_AT_ONCE", max(1, entries // 2))
    path = LAYOUTS[layout](tmp_path / "x.h5ad", COUNTS, IDS)
    wanted = range(40) if rows is None else rows
    with matrix.opened(path) as source:
        assert source.genes == IDS
        chunks = list(source.chunks(rows))
    assert np.concatenate([chunk.rows for chunk in chunks]).tolist() == list(wanted)
    assert [cell for chunk in chunks for cell in chunk.cells] == [f"cell{row}" for row in wanted]
    read = np.vstack([chunk.counts.toarray() for chunk in chunks])
    assert np.array_equal(read, COUNTS[list(wanted)])
    totals = np.concatenate([chunk.totals for chunk in chunks])
    assert np.array_equal(totals, COUNTS[list(wanted)].sum(axis=1))
    assert all(chunk.counts.has_sorted_indices for chunk in chunks)
    assert all((chunk.counts.data > 0).all() for chunk in chunks)
    assert (len(chunks) > 1) == (entries == 20)
    assert ("stored by genes (CSC)" in caplog.text) == (layout == "csc" and len(chunks) > 2)


@given(
    lengths=st.lists(st.integers(0, 30), max_size=40),
    limit=st.integers(1, 50),
)
def test_pieces_are_whole_in_order_and_no_larger_than_need_be(lengths, limit):
    rows = np.arange(len(lengths))
    pieces = matrix._split(rows, np.array(lengths, dtype=np.int64), limit)
    assert [row for piece in pieces for row in piece] == rows.tolist()
    for piece in pieces:
        # The row that crosses the limit is the last.
        assert sum(lengths[row] for row in piece[:-1]) < limit
    assert all(len(piece) for piece in pieces)


def test_a_file_is_never_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(matrix, "ENTRIES_AT_ONCE", 1 << 18)
    path = tmp_path / "x.h5ad"
    genes = IDS + [f"ENSG8{number:010d}" for number in range(5_000 - 12)]
    h5ad(path, np.zeros((1, 5_000), np.float32), genes)
    with h5py.File(path, "a") as file:
        del file["X"], file["obs/_index"]
        x = file.create_dataset("X", (4_000, 5_000), np.float32, chunks=(64, 5_000), compression=1)
        x.attrs["encoding-type"], x.attrs["encoding-version"] = "array", "0.2.0"
        x[:, :12] = 1
        file["obs/_index"] = [f"c{row}" for row in range(4_000)]
    vocab, encoding = geneformer_like(), Encoding(preset="geneformer-v2")
    tracemalloc.start()
    sizes = [len(part) for part in encode(path, vocab, encoding)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(sizes) == 4_000
    assert len(sizes) > 50
    # The matrix takes 80 MB; seen: 4 MB.
    assert peak < 16e6


# --- what is no counts ---------------------------------------------------------------------------


def _with_raw(path, x, raw):
    table = ad.AnnData(
        X=raw,
        obs=pd.DataFrame(index=[f"cell{row}" for row in range(len(x))]),
        var=pd.DataFrame(index=IDS),
    )
    table.raw = table
    table.X = x
    table.write_h5ad(path)
    return path


def test_logarithms_are_refused_and_the_counts_pointed_at(tmp_path):
    path = _with_raw(tmp_path / "x.h5ad", np.log1p(COUNTS), COUNTS)
    row, column = (int(where[0]) for where in np.nonzero(COUNTS))
    with pytest.raises(AtlasError) as error:
        list(encode(path, geneformer_like(), Encoding(preset="geneformer-v2")))
    value = np.log1p(COUNTS)[row, column]
    assert (
        f"X of {path} holds no raw counts: cell cell{row} has {value:.6g} of {IDS[column]}"
        in str(error.value)
    )
    assert "as after log1p" in str(error.value)
    assert str(error.value).endswith("Counts lie in raw/X: --counts raw.")
    plain = h5ad(tmp_path / "y.h5ad", COUNTS, IDS)
    expected = tokens_of(plain, geneformer_like(), preset="geneformer-v2")
    for counts in ("raw", "auto"):
        tally = Tally()
        found = all_of(path, geneformer_like(), tally, preset="geneformer-v2", counts=counts)
        assert {cell: ids for cell, (ids, _) in found.items()} == expected
        assert tally.counts == "raw/X"


def test_counts_in_a_layer(tmp_path, caplog):
    caplog.set_level("INFO")
    layers = {"a": np.log1p(COUNTS), "raw_counts": sparse.csr_matrix(COUNTS), "z": COUNTS * 2}
    path = h5ad(tmp_path / "x.h5ad", np.log1p(COUNTS), IDS, layers=layers)
    plain = h5ad(tmp_path / "y.h5ad", COUNTS, IDS)
    expected = all_of(plain, geneformer_like(), preset="geneformer-v2")
    for counts in ("layer:raw_counts", "auto"):
        found = all_of(path, geneformer_like(), preset="geneformer-v2", counts=counts)
        assert found == expected
    assert "counts are taken from layers/raw_counts" in caplog.text
    with pytest.raises(
        AtlasError, match=r"has no layer:b; matrices in it are: X, layer:raw_counts"
    ):
        next(encode(path, geneformer_like(), Encoding(preset="geneformer-v2", counts="layer:b")))
    with pytest.raises(AtlasError, match="--counts layer:raw_counts"):
        next(encode(path, geneformer_like(), Encoding(preset="geneformer-v2")))


@pytest.mark.parametrize(
    ("value", "preset", "says"),
    [
        (-1.0, "geneformer-v2", r"cell cell39 has -1 of ENSG00000000012\. .*whole numbers"),
        (2.5, "geneformer-v2", r"cell cell39 has 2\.5 of .*There are none elsewhere"),
        (np.nan, "geneformer-v2", "cell cell39 has nan"),
        (np.inf, "geneformer-v2", "cell cell39 has inf"),
        (2.5, "scgpt", "holds no raw counts"),
        (-1.0, "geneformer-as-traced", "no expression: cell cell39 has -1 .*z-scores"),
        (np.nan, "scgpt-as-mapped", "no expression: cell cell39 has nan"),
    ],
)
@pytest.mark.parametrize("build", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_one_wrong_value_in_the_last_cell_is_found(value, preset, says, build, tmp_path):
    x = COUNTS.copy()
    x[-1, -1] = value
    scgpt_preset = preset.startswith("scgpt")
    path = h5ad(tmp_path / "x.h5ad", build(x), SYMBOLS if scgpt_preset else IDS)
    vocab = scgpt_like() if scgpt_preset else geneformer_like()
    says = says.replace(IDS[11], SYMBOLS[11]) if scgpt_preset else says
    with pytest.raises(AtlasError, match=says) as error:
        list(encode(path, vocab, Encoding(preset=preset)))
    assert "\n" not in str(error.value)


def test_auto_finds_nothing(tmp_path):
    path = h5ad(tmp_path / "x.h5ad", np.log1p(COUNTS), IDS)
    with pytest.raises(AtlasError, match="none of X has whole numbers"):
        next(encode(path, geneformer_like(), Encoding(preset="geneformer-v2", counts="auto")))


def _index_too_high(file):
    file["X/indices"][3] = 12


def _pointers_cut(file):
    pointers = file["X/indptr"][:-5]
    del file["X/indptr"]
    file["X/indptr"] = pointers


def _genes_lost(file):
    names = file["var/_index"][:-1]
    del file["var/_index"]
    file["var/_index"] = names


def _no_kind(file):
    file["X"].attrs["encoding-type"] = "coo_matrix"


@pytest.mark.parametrize("damage", [_index_too_high, _pointers_cut, _genes_lost, _no_kind])
def test_a_damaged_file_is_one_line(damage, tmp_path):
    path = h5ad(tmp_path / "x.h5ad", sparse.csr_matrix(COUNTS), IDS)
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(AtlasError, match="is damaged or no h5ad with expression") as error:
        list(encode(path, geneformer_like(), Encoding(preset="geneformer-v2")))
    assert "\n" not in str(error.value)


def test_what_is_no_h5ad(tmp_path):
    encoding = Encoding(preset="geneformer-v2")
    with pytest.raises(AtlasError, match="does not exist"):
        next(encode(tmp_path / "x.h5ad", geneformer_like(), encoding))
    (tmp_path / "x.h5ad").write_text("no")
    with pytest.raises(AtlasError, match="is no h5ad file"):
        next(encode(tmp_path / "x.h5ad", geneformer_like(), encoding))
    path = h5ad(tmp_path / "y.h5ad", COUNTS, IDS)
    for rows in ([3, 2], [40], [-1], [1, 1]):
        with pytest.raises(AtlasError, match="ascending and each once"):
            list(encode(path, geneformer_like(), encoding, rows=rows))


# --- files ---------------------------------------------------------------------------------------


def test_parts_of_any_width_are_padded_alike(tmp_path):
    parts = [
        encoded.Encoded(
            np.array([[1, 2], [3, 7]], np.int32),
            pd.DataFrame({"cell": ["a", "b"], "length": [2, 1]}),
            np.array([[0.5, 1], [2, -2]], np.float32),
        ),
        encoded.Encoded(
            np.array([[4, 5, 6]], np.int32),
            pd.DataFrame({"cell": ["c"], "length": [3]}),
            np.array([[3, 4, 5]], np.float32),
        ),
    ]
    args = {"n_cells": 9, "width": 8, "pad": 7, "pad_value": -2.0}
    assert encoded.write(tmp_path / "out", parts, dict, **args) == 3
    found = encoded.read(tmp_path / "out")
    assert found.ids.tolist() == [[1, 2, 7], [3, 7, 7], [4, 5, 6]]
    assert found.values.tolist() == [[0.5, 1, -2], [2, -2, -2], [3, 4, 5]]
    assert found.cells["cell"].tolist() == ["a", "b", "c"]
    np.save(tmp_path / "out" / "ids.npy", found.ids[:2])
    with pytest.raises(AtlasError, match="2 rows of ids and 3 of cells"):
        encoded.read(tmp_path / "out")
    (tmp_path / "out" / "ids.npy").unlink()
    with pytest.raises(AtlasError, match="holds no encoded cells"):
        encoded.read(tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "does not exist"),
        ("{", "is no vocabulary"),
        ("[]", "is no vocabulary"),
        ('{"genes": {}}', "is no vocabulary"),
        ('{"genes": {"A": 0}, "special": {"<pad>": 2}}', "ids are not 0 to 1"),
        ('{"genes": {"A": 0}, "special": {"<cls>": 1}}', "names no <pad>"),
        ('{"genes": {"A": 0}, "special": {"<pad>": 1}, "medians": {}}', "no median for A"),
        ('{"genes": {"A": 0}, "special": {"<pad>": 1}, "medians": {"A": 0}}', "median of A is 0"),
    ],
)
def test_a_damaged_vocabulary_is_one_line(text, says, tmp_path):
    if text is not None:
        (tmp_path / "vocabulary.json").write_text(text)
    with pytest.raises(CheckpointError, match=says):
        vocabulary.read(tmp_path)


# --- settings and the stage ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"preset": "geneformer"}, "no preset; allowed are geneformer-v1"),
        ({"preset": "geneformer-v1", "max_length": 2049}, "at least 1 and at most 2048"),
        ({"preset": "geneformer-v2", "max_length": 2}, "at least 3"),
        ({"preset": "scgpt", "genes": "ids"}, "by symbols alone"),
        ({"preset": "scgpt", "counts": "layer:"}, "allowed are X, raw, auto and layer:NAME"),
        ({"preset": "scgpt", "columns": ["length"]}, "none named cell, row or"),
        ({"preset": "scgpt", "columns": ["a", "a"]}, "each once"),
        ({"preset": "scgpt", "binning": 3}, "binning"),
    ],
)
def test_settings_that_cannot_be(given, says):
    with pytest.raises(ValidationError, match=says):
        Encoding(**given)
    assert Encoding(preset="scgpt", max_length=3000).width == 3000


@pytest.fixture
def command(tmp_path):
    """Return what runs the stage on a file of cells with donors, two of them without genes."""
    x = COUNTS.copy()
    x[5] = 0
    x[7, :10] = 0
    x[7, 10:] = 3
    obs = pd.DataFrame(
        {"donor": pd.Categorical(["a", "b"] * 20), "age": np.arange(40)},
        index=[f"cell{row}" for row in range(40)],
    )
    genes = [*IDS[:10], "ENSG99999999999", "ENSG99999999998"]
    path = h5ad(tmp_path / "x.h5ad", x, genes, obs=obs)
    vocabulary.write(geneformer_like(), tmp_path / "model")

    def run(*words, preset="geneformer-v2"):
        base = ["--h5ad", str(path), "--vocabulary", str(tmp_path / "model"), "--preset", preset]
        return stage.main([*base, "--out", str(tmp_path / "out"), *words])

    return run


def test_the_stage_writes_a_folder_that_says_what_it_is(command, tmp_path):
    assert command("--columns", "donor,age", "--max-length", "6") == 0
    folder = tmp_path / "out"
    assert sorted(path.name for path in folder.iterdir()) == [
        "cells.parquet",
        "encoding.json",
        "ids.npy",
    ]
    cells = encoded.read(folder)
    assert cells.values is None
    left = [row for row in range(40) if row not in {5, 7}]
    assert cells.cells["row"].tolist() == left
    assert cells.cells["cell"].tolist() == [f"cell{row}" for row in left]
    assert cells.cells["age"].tolist() == left
    assert cells.cells["donor"].tolist() == ["ab"[row % 2] for row in left]
    expected = tokens_of(
        tmp_path / "x.h5ad", geneformer_like(), preset="geneformer-v2", max_length=6
    )
    for row, (cell, length) in enumerate(
        zip(cells.cells["cell"], cells.cells["length"], strict=True)
    ):
        assert cells.ids[row, :length].tolist() == expected[cell]
    lengths = cells.cells["length"]
    said = json.loads((folder / "encoding.json").read_text())
    assert said["cells"] == {
        "read": 40,
        "kept": 38,
        "dropped: no counts": 1,
        "dropped: no gene that the model knows": 1,
    }
    assert said["genes"] == {"in the file": 12, "known": 10, "dropped: not in the vocabulary": 2}
    assert said["median_length"] == lengths.median()
    n_known = (np.delete(COUNTS, [5, 7], axis=0)[:, :10] > 0).sum(axis=1)
    assert said["share_truncated"] == (n_known > 4).mean()
    assert 0 < said["share_truncated"] < 1
    assert (said["counts_from"], said["width"]) == ("X", 6)
    assert said["deviates_from_the_model"] is False
    model = (tmp_path / "model" / "vocabulary.json").read_bytes()
    assert said["vocabulary"] == {"size": 16, "sha256": hashlib.sha256(model).hexdigest()}


def test_the_stage_writes_the_same_bytes_again(command, tmp_path):
    bytes_of = []
    path = h5ad(tmp_path / "x.h5ad", COUNTS, SYMBOLS)
    vocabulary.write(scgpt_like(), tmp_path / "model")
    for _ in range(2):
        assert command(preset="scgpt") == 0
        bytes_of.append({p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()})
    assert bytes_of[0] == bytes_of[1]
    found = encoded.read(tmp_path / "out")
    assert (found.ids[:, 0] == 13).all()
    assert (found.values[:, 0] == -2).all()
    assert len(found) == len(all_of(path, scgpt_like(), preset="scgpt"))


def test_only_the_named_cells(command, tmp_path, caplog):
    names = tmp_path / "names.txt"
    names.write_text("cell30\ncell2\n")
    assert command("--rows", str(names), "--columns", "donor,age") == 0
    cells = encoded.read(tmp_path / "out").cells
    assert cells["cell"].tolist() == ["cell2", "cell30"]
    assert cells["row"].tolist() == cells["age"].tolist() == [2, 30]
    for text, says in (
        ("cell2\nnone\n", "has no cell 'none' (1 of 2 are not there)"),
        ("cell2\ncell2\n", "has 'cell2' more than once"),
        ("\n", "names no cell"),
    ):
        names.write_text(text)
        assert command("--rows", str(names)) == 1
        assert says in caplog.text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max-length", "9999"], "max_length is 9999; for geneformer-v2 at least 3 and at most"),
        (["--counts", "layers"], "--counts is 'layers': allowed are X, raw, auto and layer:NAME"),
        (["--genes", "names"], "--genes is 'names': Input should be 'ids' or 'symbols'"),
        (["--seed", "-1"], "--seed is -1: "),
        (["--columns", "nothing"], "column nothing is not in"),
        (["--gene-column", "nothing"], "column nothing is not in"),
        (["--counts", "raw"], "has no raw; matrices in it are: X"),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing(words, says, command, tmp_path, caplog):
    assert command(*words) == 1
    (said,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert said.getMessage().startswith("error: ")
    assert says in said.getMessage()
    assert "\n" not in said.getMessage()
    assert said.exc_info is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "x.h5ad"]


def test_no_cell_left_is_an_error_and_a_former_folder_stays(command, tmp_path, caplog):
    assert command() == 0
    before = (tmp_path / "out" / "ids.npy").read_bytes()
    h5ad(tmp_path / "x.h5ad", COUNTS * 0, IDS)
    assert command() == 1
    assert "no cell is left" in caplog.text
    assert (tmp_path / "out" / "ids.npy").read_bytes() == before


def test_a_command_without_cells(tmp_path, caplog):
    words = ["--vocabulary", str(tmp_path), "--preset", "scgpt", "--out", str(tmp_path / "out")]
    assert stage.main(words) == 1
    assert "no cells are given; name an h5ad with raw counts: --h5ad" in caplog.text
