"""Residual streams are those of transformers, padding is in none of them, and a killed run goes on.

Expected values come from the full forward of transformers and from loops written by hand.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)

from stages.base.errors import AblationError, RepresentationError
from stages.base.files import file_hash
from stages.inputs.encode import encode_file
from stages.inputs.encoders import encoded, vocabulary
from stages.inputs.encoders.encoded import Encoded
from stages.inputs.encoders.encoding import EMPTY, KEPT, NO_GENE, encode
from stages.inputs.encoders.settings import Encoding
from stages.inputs.encoders.vocabulary import CLS, EOS, MASK, PAD, Vocabulary
from stages.models import scgpt
from stages.models.architectures import FAMILIES, architecture_of
from stages.models.load import load_model
from stages.models.text import Text, cell_text
from stages.representations import arrays, disk, embed, gather, harvest, sequences
from stages.representations.embed import layer_of
from stages.representations.shards import Shards
from stages.representations.streams import streams

SPECIAL = {PAD: 0, MASK: 1, CLS: 2, EOS: 3}
N_GENES, N_LAYERS, WIDTH, N_CELLS, ROOM = 40, 3, 32, 23, 20
GENES = [f"ENSG{number:011d}" for number in range(N_GENES)]
SYMBOLS = [f"GENE{number}" for number in range(N_GENES)]
N_IDS = N_GENES + len(SPECIAL)
ABSENT = N_IDS - 1
"""A gene that no cell has."""
CPU = torch.device("cpu")
SIZES = {
    "vocab_size": N_IDS,
    "hidden_size": WIDTH,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
}
SEEN = {torch.float64: 1e-12, torch.float32: 5e-5}
"""Largest differences seen: 9e-15 and, where states go up to 40, 2e-5; of BERT 2e-6."""


def shaken(model, seed=0):
    """Return a model without a bias of 0 or a norm of 1, where mistakes would not show."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.2)
    return model.eval()


def geneformer(folder, special=SPECIAL, seed=0):
    torch.manual_seed(seed)
    names = {gene: number for number, gene in enumerate(GENES, start=len(special))}
    medians = {gene: 1.0 + number for number, gene in enumerate(GENES)}
    config = BertConfig(**SIZES | {"vocab_size": len(names) + len(special), "hidden_act": "relu"})
    shaken(BertForMaskedLM(config)).save_pretrained(folder)
    vocabulary.write(Vocabulary(names, special, medians), folder)
    return folder


def scgpt_folder(folder):
    folder.mkdir()
    special = {PAD: N_GENES, CLS: N_GENES + 1, "<eoc>": N_GENES + 2}
    vocabulary.write(Vocabulary({name: n for n, name in enumerate(SYMBOLS)}, special), folder)
    sizes = {"embsize": WIDTH, "d_hid": WIDTH, "nheads": 4, "nlayers": N_LAYERS, "n_bins": 51}
    args = sizes | {"max_seq_len": 24, "pad_value": -2, "mask_value": -1}
    (folder / "args.json").write_text(json.dumps(args))
    torch.manual_seed(0)
    named = json.loads((folder / "vocabulary.json").read_text())
    model = shaken(scgpt.ScGPTModel(scgpt.config_of(args, named, "here")))
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


def write_cells(folder, model, *, n_cells=N_CELLS, values=False, seed=3):
    """Write cells of 1 to 18 genes between <cls> and <eos>; none has the gene ABSENT."""
    random, known = np.random.default_rng(seed), vocabulary.read(model)
    genes = [number for number in known.genes.values() if number != ABSENT]
    n_genes = random.integers(1, ROOM - 1, n_cells)
    n_genes[0], n_genes[1] = ROOM - 2, 1
    ids = np.full((n_cells, ROOM), known.pad, dtype=np.int32)
    after = [known.special[EOS]] if EOS in known.special else []
    lengths = n_genes + 1 + len(after)
    for row, n in enumerate(n_genes):
        drawn = random.permutation(genes)[:n]
        ids[row, : lengths[row]] = [known.special[CLS], *drawn, *after]
    table = pd.DataFrame({"cell": [f"c{row}" for row in range(n_cells)], "length": lengths})
    beside = None
    if values:
        beside = np.where(ids < N_GENES, random.integers(1, 51, ids.shape), -2).astype(np.float32)
    sha256 = file_hash(model / vocabulary.VOCABULARY_FILE)
    encoded.write(
        folder,
        [Encoded(ids, table, beside)],
        lambda: {"vocabulary": {"sha256": sha256}},
        n_cells=n_cells,
        width=ROOM,
        pad=known.pad,
    )
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_cells(folder / "cells", geneformer(folder / "model"))
    return folder


@pytest.fixture(scope="module")
def cells(study):
    return encoded.read(study / "cells")


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    torch.manual_seed(0)
    shaken(GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES))).save_pretrained(folder / "model")
    tokens = np.random.default_rng(0).integers(0, N_IDS - 1, (7, 12)).astype(np.uint16)
    np.save(folder / "tokens.npy", tokens)
    return folder


@pytest.fixture
def run(study, tmp_path):
    """Return what harvests the study into `tmp_path`."""

    def harvested(*words, model=study / "model", cells=study / "cells", out="out"):
        return harvest.main(
            [
                *("--checkpoint", str(model), "--cells", str(cells)),
                *("--scratch", str(tmp_path / "scratch"), "--out", str(tmp_path / out)),
                *("--device", "cpu", *words),
            ]
        )

    return harvested


@pytest.fixture
def small_shards(monkeypatch):
    """Make many shards of these few cells."""
    monkeypatch.setattr(harvest, "SHARD_POSITIONS", 60)


@torch.no_grad()
def hidden_states(model, cells, inputs=None):
    """Return what transformers says, one cell at a time without padding: by cell, (layers, seq)."""
    found = []
    for row, length in enumerate(cells.cells["length"]):
        ids = torch.tensor(np.asarray(cells.ids[row, :length] if inputs is None else inputs[row]))
        states = model(ids[None, :length].long(), output_hidden_states=True).hidden_states
        found.append(torch.cat(states).numpy())
    return found


def bytes_in(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def genes_of(cells, row):
    return [int(i) for i in cells.ids[row, : cells.cells["length"][row]] if i >= len(SPECIAL)]


# --- the stream ----------------------------------------------------------------------------------


def stream_of(model, text, positions):
    """Return the stream behind all layers, by sequence and layer, without padding."""
    layers = range(-1, N_LAYERS)
    lengths = text.attended.sum(dim=1) if text.attended is not None else None
    found = {}
    for batch in streams(architecture_of(model), text, layers, device=CPU, positions=positions):
        for place, number in enumerate(batch.sequences.tolist()):
            assert number not in found
            end = None if lengths is None else int(lengths[number])
            found[number] = np.stack([batch.states[layer][place, :end].numpy() for layer in layers])
    assert sorted(found) == list(range(len(text)))
    return [found[number] for number in sorted(found)]


@pytest.mark.parametrize("dtype", SEEN)
@pytest.mark.parametrize("positions", [None, 1, 64], ids=["fitted", "one a batch", "few a batch"])
def test_the_stream_is_that_of_transformers_at_any_batch_size(study, cells, dtype, positions):
    model = load_model(study / "model", dtype=dtype)
    lengths = cells.cells["length"].to_numpy()
    text = sequences.whole_cells(cells.ids, lengths, None, architecture_of(model))
    expected = hidden_states(model, cells)
    for mine, theirs in zip(stream_of(model, text, positions), expected, strict=True):
        assert np.abs(mine - theirs).max() < SEEN[dtype]


@pytest.mark.parametrize("dtype", SEEN)
@pytest.mark.parametrize("model_type", [name for name in FAMILIES if name not in {"bert", "scgpt"}])
@torch.no_grad()
def test_the_stream_of_a_causal_model_is_that_of_transformers(model_type, dtype):
    torch.manual_seed(0)
    sizes = SIZES | {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    if model_type not in {"gpt_neox", "gpt2"}:
        sizes["num_key_value_heads"] = 2
        # Its norms go down to float32 in any precision.
        dtype = torch.float32
    config = AutoConfig.for_model(model_type, **sizes)
    model = shaken(AutoModelForCausalLM.from_config(config)).to(dtype)
    tokens = torch.randint(N_IDS, (7, 12), generator=torch.Generator().manual_seed(1))
    states = model(tokens, output_hidden_states=True).hidden_states
    found = torch.from_numpy(np.stack(stream_of(model, Text(tokens, tokens), 30)))
    for layer in range(-1, N_LAYERS):
        mine = found[:, layer + 1]
        if layer == N_LAYERS - 1:
            # There transformers has applied the final norm.
            mine = architecture_of(model).normalise(mine)
        assert float((mine - states[layer + 1]).abs().max()) < SEEN[dtype]


def test_what_stands_on_padding_changes_nothing(study, cells):
    model = load_model(study / "model", dtype=torch.float64)
    lengths = cells.cells["length"].to_numpy()
    other = np.array(cells.ids)
    other[np.arange(ROOM) >= lengths[:, None]] = ABSENT
    texts = [
        sequences.whole_cells(ids, lengths, None, architecture_of(model))
        for ids in (cells.ids, other)
    ]
    one, two = (stream_of(model, text, 200) for text in texts)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    inside = np.arange(ROOM) < lengths[:, None]
    batches = streams(architecture_of(model), texts[1], [1], device=CPU, positions=200)
    means = gather.means(batches, inside, [1], WIDTH)[0]
    expected = [states[2].mean(axis=0) for states in one]
    assert np.abs(means - expected).max() < 1e-12


def test_batches_hold_little_padding(study, cells):
    model = architecture_of(load_model(study / "model"))
    lengths = cells.cells["length"].to_numpy()
    text = sequences.whole_cells(cells.ids, lengths, None, model)
    run = sum(
        batch.states[0].shape[0] * batch.states[0].shape[1]
        for batch in streams(model, text, [0], device=CPU, positions=64)
    )
    assert run < 1.25 * lengths.sum() < 0.8 * cells.ids.size


def test_when_memory_runs_out_it_goes_on_with_less(study, cells, monkeypatch, caplog):
    caplog.set_level("INFO")
    model = load_model(study / "model", dtype=torch.float64)
    architecture = architecture_of(model)
    lengths = cells.cells["length"].to_numpy()
    text = sequences.whole_cells(cells.ids, lengths, None, architecture)
    expected = stream_of(model, text, 400)
    real = type(architecture).run
    room = 100

    def narrow(self, block, hidden, attended=None):
        if hidden.shape[0] * hidden.shape[1] > room:
            raise torch.OutOfMemoryError
        return real(self, block, hidden, attended)

    monkeypatch.setattr(type(architecture), "run", narrow)
    found = stream_of(model, text, 400)
    assert "out of memory; going on with" in caplog.text
    for mine, theirs in zip(found, expected, strict=True):
        assert np.abs(mine - theirs).max() < 1e-12
    room = 5
    with pytest.raises(AblationError, match="one sequence of 20 tokens does not fit"):
        stream_of(model, text, 400)


# --- harvests ------------------------------------------------------------------------------------


def test_rows_of_positions(run, study, cells, tmp_path, caplog):
    caplog.set_level("INFO")
    assert run("--kind", "positions") == 0
    found = arrays.read(tmp_path / "out")
    expected = hidden_states(load_model(study / "model"), cells)
    assert found.layers == (-1, 0, 1, 2)
    row = 0
    for cell in range(N_CELLS):
        for position in range(1, int(cells.cells["length"][cell]) - 1):
            assert found.rows["cell"][row] == cell
            assert found.rows["position"][row] == position
            assert found.rows["token"][row] == cells.ids[cell, position]
            for layer in found.layers:
                difference = found.layer(layer)[row] - expected[cell][layer + 1, position]
                assert np.abs(difference).max() < SEEN[torch.float32]
            row += 1
    assert row == len(found)
    assert not found.rows["masked"].any()
    size = f"{row * WIDTH * 4 / 1e9:.3g} GB a layer, 4 layers"
    assert f"positions of {N_CELLS} sequences: {row} rows of 32 numbers (float32)" in caplog.text
    assert size in caplog.text
    assert found.statement["n_sequences"] == N_CELLS
    assert "hidden_states[l + 1]" in found.statement["layer_convention"]


def test_means_of_items_against_a_loop(run, study, cells, tmp_path, small_shards):
    assert run("--kind", "item_mean", "--layers", "embedding,1") == 0
    found = arrays.read(tmp_path / "out")
    states = hidden_states(load_model(study / "model", dtype=torch.float64), cells)
    n_checked = 0
    for layer in found.layers:
        for row, token in enumerate(found.rows["token"]):
            met = [
                states[cell][layer + 1, position]
                for cell in range(N_CELLS)
                for position in range(int(cells.cells["length"][cell]))
                if cells.ids[cell, position] == token
            ]
            assert found.rows["count"][row] == len(met)
            assert np.abs(found.layer(layer)[row] - np.mean(met, axis=0)).max() < 5e-5
            n_checked += 1
    occurring = {gene for cell in range(N_CELLS) for gene in genes_of(cells, cell)}
    assert ABSENT not in occurring
    assert found.rows["token"].tolist() == sorted(occurring)
    assert found.names[found.rows["token"][0]] in GENES
    assert (len(found.names), found.names[2]) == (N_IDS, CLS)
    assert n_checked == 2 * len(occurring) > 50


def test_means_of_items_in_parts_make_up_those_of_all(run, tmp_path, small_shards):
    assert run("--kind", "item_mean", out="whole") == 0
    assert run("--kind", "item_mean", "--parts", "3", out="parts") == 0
    whole, parts = arrays.read(tmp_path / "whole"), arrays.read(tmp_path / "parts")
    assert (whole.rows["part"] == 0).all()
    assert set(parts.rows["part"].tolist()) == {0, 1, 2}
    assert parts.statement["parts"] == 3
    for row, token in enumerate(whole.rows["token"]):
        of = parts.rows["token"] == token
        times = parts.rows["count"][of]
        assert times.sum() == whole.rows["count"][row]
        mean = (times[:, None] * parts.layer(1)[of]).sum(axis=0) / times.sum()
        # float32: seen 5e-7.
        assert np.abs(mean - whole.layer(1)[row]).max() < 1e-5
    # Sequence i is of part i mod 3: the first part alone is what every third cell gives.
    assert run("--kind", "item_mean", "--limit", "1", out="one") == 0
    one = arrays.read(tmp_path / "one")
    assert set(one.rows["token"]) <= set(parts.rows["token"][parts.rows["part"] == 0])


def test_parts_are_of_items_alone(run, caplog):
    assert run("--kind", "cell_mean", "--parts", "3") == 1
    assert "--parts 3 is for --kind item_mean, 1 or more. Leave it out." in caplog.text


def test_chosen_cells_are_read_alone(study, cells):
    model = load_model(study / "model")
    found = sequences.of_cells(
        study / "cells",
        study / "model",
        architecture_of(model),
        reading="whole",
        rows=np.array([1, 4, 6]),
    )
    assert np.array_equal(found.ids, cells.ids[[1, 4, 6]])
    assert found.lengths.tolist() == cells.cells["length"].iloc[[1, 4, 6]].tolist()


@pytest.mark.parametrize("kind", ["cell_mean", "cls"])
def test_rows_of_cells(run, study, cells, tmp_path, kind):
    assert run("--kind", kind, "--limit", "9", "--layers", "2,0") == 0
    found = arrays.read(tmp_path / "out")
    states = hidden_states(load_model(study / "model", dtype=torch.float64), cells)
    assert found.layers == (0, 2)
    assert found.rows["cell"].tolist() == list(range(9))
    for cell in range(9):
        for layer in found.layers:
            own = states[cell][layer + 1]
            expected = own[0] if kind == "cls" else own[1:-1].mean(axis=0)
            assert np.abs(found.layer(layer)[cell] - expected).max() < 5e-5


def test_masked_inputs_are_the_masks_that_models_are_measured_on(
    run, study, cells, tmp_path, small_shards
):
    assert run("--kind", "positions", "--inputs", "masked") == 0
    found = arrays.read(tmp_path / "out")
    model = load_model(study / "model")
    text = cell_text(
        cells.ids, architecture=architecture_of(model), pad=0, special=[0, 1, 2, 3], mask=1
    )
    states = hidden_states(model, cells, inputs=text.inputs)
    assert found.rows["masked"].sum() == text.scored.sum() >= N_CELLS
    for row in range(len(found)):
        cell, position = found.rows["cell"][row], found.rows["position"][row]
        assert found.rows["masked"][row] == text.scored[cell, position]
        assert found.rows["token"][row] == cells.ids[cell, position]
        assert np.abs(found.layer(1)[row] - states[cell][2, position]).max() < 5e-5
    # The mean of a gene is over where the model sees it.
    assert run("--kind", "item_mean", "--inputs", "masked", out="items") == 0
    items = arrays.read(tmp_path / "items")
    visible = found.rows["token"][~found.rows["masked"]]
    assert items.rows["token"].tolist() == sorted(set(visible.tolist()))
    assert items.rows["count"].tolist() == np.unique(visible, return_counts=True)[1].tolist()


def test_masks_are_drawn_by_block(run, study, cells, tmp_path, monkeypatch):
    for module in (sequences, harvest):
        monkeypatch.setattr(module, "MASK_BLOCK", 8)
    assert run("--kind", "positions", "--inputs", "masked") == 0
    found = arrays.read(tmp_path / "out")
    architecture = architecture_of(load_model(study / "model"))
    for block, first in enumerate(range(0, N_CELLS, 8)):
        text = cell_text(
            cells.ids[first : first + 8],
            architecture=architecture,
            pad=0,
            special=[0, 1, 2, 3],
            mask=1,
            seed=45_000 + block,
        )
        inside = (found.rows["cell"] >= first) & (found.rows["cell"] < first + 8)
        at = (found.rows["cell"][inside] - first, found.rows["position"][inside])
        assert np.array_equal(found.rows["masked"][inside], text.scored.numpy()[at])
    assert len(list((tmp_path / "scratch").glob("*.npz"))) == 3


def test_a_language_model(language, tmp_path):
    words = [
        *("--checkpoint", str(language / "model"), "--tokens", str(language / "tokens.npy")),
        *("--scratch", str(tmp_path / "scratch"), "--kind", "item_mean", "--device", "cpu"),
    ]
    assert harvest.main([*words, "--out", str(tmp_path / "out"), "--skip", "1"]) == 0
    found = arrays.read(tmp_path / "out")
    tokens = np.load(language / "tokens.npy")
    which, times = np.unique(tokens[:, 1:], return_counts=True)
    assert found.rows["token"].tolist() == which.tolist()
    assert found.rows["count"].tolist() == times.tolist()
    assert found.names is None
    model = load_model(language / "model", dtype=torch.float64)
    with torch.no_grad():
        states = model(torch.from_numpy(tokens.astype(np.int64)), output_hidden_states=True)
    layer = states.hidden_states[2].numpy()[:, 1:]
    means = [layer[tokens[:, 1:] == token].mean(axis=0) for token in which]
    assert np.abs(found.layer(1) - means).max() < 5e-5


def test_a_model_that_reads_values(run, tmp_path):
    model = scgpt_folder(tmp_path / "scgpt")
    folder = write_cells(tmp_path / "valued", model, values=True)
    assert run("--kind", "cls", model=model, cells=folder) == 0
    found, cells = arrays.read(tmp_path / "out"), encoded.read(folder)
    whole = load_model(model, dtype=torch.float64)
    for row, length in enumerate(cells.cells["length"]):
        ids = torch.tensor(cells.ids[row, :length]).long()[None]
        hidden = whole.enter(ids, torch.tensor(cells.values[row, :length]).double()[None])
        for layer, block in enumerate(whole.transformer_encoder.layers):
            hidden = block(hidden, None)
            assert np.abs(found.layer(layer)[row] - hidden[0, 0].numpy()).max() < 5e-5
    assert run("--kind", "positions", "--inputs", "masked", model=model, cells=folder) == 0
    masked = arrays.read(tmp_path / "out")
    assert 0 < masked.rows["masked"].sum() < len(masked)
    plain = arrays.read(tmp_path / "out").rows["token"]
    assert set(plain.tolist()) <= set(range(N_GENES))


@pytest.mark.parametrize("kind", arrays.KINDS)
def test_shards_and_batches_change_nothing_but_rounding(run, tmp_path, kind, monkeypatch):
    assert run("--kind", kind) == 0
    one = arrays.read(tmp_path / "out")
    monkeypatch.setattr(harvest, "SHARD_POSITIONS", 40)
    shutil.rmtree(tmp_path / "scratch")
    assert run("--kind", kind, "--batch", "25", out="other") == 0
    two = arrays.read(tmp_path / "other")
    # 2e-6 at most.
    for layer in one.layers:
        assert np.abs(one.layer(layer) - two.layer(layer)).max() < 5e-5
    for name, column in one.rows.items():
        assert np.array_equal(column, two.rows[name])


def test_half_precision_is_rounded_and_no_more(run, tmp_path):
    assert run("--kind", "positions", "--dtype", "float16") == 0
    half = arrays.read(tmp_path / "out")
    assert run("--kind", "positions", out="whole") == 0
    whole = arrays.read(tmp_path / "whole")
    for layer in half.layers:
        assert half.layer(layer).dtype == np.float16
        assert np.array_equal(half.layer(layer), whole.layer(layer).astype(np.float16))


@pytest.mark.parametrize("kind", ["positions", "item_mean"])
def test_too_large_for_half_precision_is_one_line(study, run, tmp_path, caplog, kind):
    shutil.copytree(study / "model", tmp_path / "large")
    model = load_model(tmp_path / "large")
    model.bert.encoder.layer[0].output.LayerNorm.weight.mul_(1e6)
    model.save_pretrained(tmp_path / "large")
    assert run("--kind", kind, "--dtype", "float16", model=tmp_path / "large") == 1
    assert "too large for float16, which ends at 6.55e+04. Take --dtype float32" in caplog.text
    assert not (tmp_path / "out").exists()
    assert run("--kind", kind, model=tmp_path / "large") == 0


# --- what survives -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["positions", "item_mean"])
def test_kill_9_then_finish(run, study, tmp_path, kind, repository, small_shards):
    words = ["--kind", kind, "--layers", "all"]
    assert run(*words, out="expected") == 0
    shutil.rmtree(tmp_path / "scratch")
    code = (
        "import sys, time\n"
        "from stages.representations import harvest\n"
        "harvest.SHARD_POSITIONS = 60\n"
        "real = harvest.Source.batches\n"
        "def slow(*arguments):\n"
        "    time.sleep(0.05)\n"
        "    return real(*arguments)\n"
        "harvest.Source.batches = slow\n"
        "raise SystemExit(harvest.main(sys.argv[1:]))\n"
    )
    command = [
        *(sys.executable, "-c", code, *words, "--device", "cpu"),
        *("--checkpoint", str(study / "model"), "--cells", str(study / "cells")),
        *("--scratch", str(tmp_path / "scratch"), "--out", str(tmp_path / "out")),
    ]
    env = os.environ | {"PYTHONPATH": str(repository)}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=repository, env=env) as process:
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "scratch").glob("*.npz"))) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "scratch").glob("*.npz")}
    assert run(*words) == 0
    assert bytes_in(tmp_path / "out") == bytes_in(tmp_path / "expected")
    if kind == "positions":
        assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize("kind", ["positions", "item_mean"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "swapped"])
def test_a_damaged_shard_is_said_and_made_again(
    kind, damage, run, tmp_path, caplog, small_shards, monkeypatch
):
    assert run("--kind", kind) == 0
    expected = bytes_in(tmp_path / "out")
    first, last = (sorted((tmp_path / "scratch").glob("*.npz"))[at] for at in (-2, -1))
    content = last.read_bytes()
    match damage:
        case "truncated":
            last.write_bytes(content[:-40])
        case "flipped":
            middle = len(content) // 2
            changed = bytes([content[middle] ^ 1])
            last.write_bytes(content[:middle] + changed + content[middle + 1 :])
        case "empty":
            last.write_bytes(b"")
        case "swapped":
            last.write_bytes(first.read_bytes())
    made = []
    real = harvest.Source.batches
    monkeypatch.setattr(
        harvest.Source, "batches", lambda *words: made.append(words[1]) or real(*words)
    )
    assert run("--kind", kind) == 0
    assert f"{last.name} is damaged" in caplog.text
    assert len(made) == 1
    assert bytes_in(tmp_path / "out") == expected


def test_finished_work_is_found_again_and_only_for_the_same(run, tmp_path, monkeypatch):
    assert run("--kind", "cell_mean") == 0
    shutil.rmtree(tmp_path / "out")
    made = []
    real = harvest.Source.batches
    monkeypatch.setattr(
        harvest.Source, "batches", lambda *words: made.append(words[1]) or real(*words)
    )
    assert run("--kind", "cell_mean") == 0
    assert not made
    for change in ("--inputs masked", "--layers 1", "--limit 5", "--dtype float16"):
        made.clear()
        assert run("--kind", "cell_mean", *change.split()) == 0
        assert made, change


def test_a_second_run_says_that_it_waits(run, tmp_path, caplog):
    caplog.set_level("INFO")
    with Shards(tmp_path / "scratch", {}).alone():
        waiting = threading.Thread(target=run, args=("--kind", "cls"))
        waiting.start()
        deadline = time.monotonic() + 60
        while "another run works in" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not (tmp_path / "out").exists()
    waiting.join(timeout=60)
    assert len(arrays.read(tmp_path / "out")) == N_CELLS


def test_a_harvest_that_does_not_fit_is_refused_before_it_starts(
    run, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(disk, "free_bytes", lambda _: 100_000)
    made = []
    monkeypatch.setattr(harvest.Source, "batches", lambda *words: made.append(words))
    assert run("--kind", "positions") == 1
    assert "are needed at" in caplog.text
    assert "0.0001 GB are free. Take fewer --layers, --dtype float16" in caplog.text
    assert not made
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_is_one_line(run, tmp_path, caplog, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arrays.os, "posix_fallocate", full)
    assert run("--kind", "positions") == 1
    assert f"{tmp_path / 'out'}: No space left on device" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scratch"]


def test_folders_on_one_disk_are_counted_together(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda _: 15)
    disk.check({tmp_path / "a": 7, tmp_path / "b" / "c": 8})
    with pytest.raises(RepresentationError, match=r"^1\.6e-08 GB are needed at"):
        disk.check({tmp_path / "a": 8, tmp_path / "b": 8})


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--layers", "0,3"], "--layers names '3', which is no layer of this model or comes twice"),
        (["--layers", "0,0"], "--layers names '0', which is no layer"),
        (["--layers", ""], "--layers names '', which is no layer"),
        (["--limit", "0"], "--limit 0 leaves no cell"),
        (["--skip", "2"], "sequence 1 has no position that is kept"),
        (["--tokens", "x.npy"], "one of --cells (encoded cells) and --tokens"),
    ],
)
def test_what_is_refused_is_one_line(run, words, says, caplog, tmp_path):
    assert run("--kind", "cell_mean", *words) == 1
    assert says in caplog.text
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    assert "\n" not in caplog.records[-1].getMessage()
    assert not (tmp_path / "out").exists()


def test_cells_of_another_vocabulary_are_refused(run, tmp_path, caplog):
    other = geneformer(tmp_path / "v1", {PAD: 0, MASK: 1})
    assert run("--kind", "cell_mean", model=other) == 1
    assert "were encoded with another vocabulary than that in" in caplog.text


def test_no_cls_is_one_line(run, study, tmp_path, caplog):
    other = geneformer(tmp_path / "v1", {PAD: 0, MASK: 1})
    shutil.copytree(study / "cells", tmp_path / "cells")
    sha256 = file_hash(other / vocabulary.VOCABULARY_FILE)
    (tmp_path / "cells" / "encoding.json").write_text(
        json.dumps({"vocabulary": {"sha256": sha256}})
    )
    np.save(tmp_path / "cells" / "ids.npy", np.full((N_CELLS, ROOM), 5, dtype=np.int32))
    assert run("--kind", "cls", model=other, cells=tmp_path / "cells") == 1
    assert "the sequences do not begin with <cls>" in caplog.text


def test_ids_beyond_the_vocabulary_are_one_line(run, study, tmp_path, caplog):
    shutil.copytree(study / "cells", tmp_path / "cells")
    ids = np.load(tmp_path / "cells" / "ids.npy")
    ids[3, 1] = N_IDS
    np.save(tmp_path / "cells" / "ids.npy", ids)
    assert run("--kind", "positions", cells=tmp_path / "cells") == 1
    assert f"there is an id {N_IDS}, the model's end at {N_IDS - 1}" in caplog.text


def test_a_causal_model_reads_nothing_masked(language, tmp_path, caplog):
    words = ["--checkpoint", str(language / "model"), "--tokens", str(language / "tokens.npy")]
    words += ["--scratch", str(tmp_path), "--out", str(tmp_path / "out"), "--kind", "positions"]
    assert harvest.main([*words, "--inputs", "masked"]) == 1
    assert "predicts the next token and hides none" in caplog.text


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "L1.npy").unlink(), "holds no residual streams"),
        (lambda folder: (folder / "L1.npy").write_bytes(b"no"), "holds no residual streams"),
        (lambda folder: (folder / "harvest.json").write_text("[]"), "holds no residual streams"),
        (lambda folder: np.save(folder / "L1.npy", np.ones((3, 2))), "L1.npy holds float64 of the"),
        (lambda folder: np.save(folder / "cell.npy", np.arange(2)), "cell.npy holds int64 of the"),
    ],
)
def test_a_damaged_folder_is_one_line(run, tmp_path, damage, says):
    assert run("--kind", "cell_mean") == 0
    damage(tmp_path / "out")
    with pytest.raises(RepresentationError, match=says) as raised:
        arrays.read(tmp_path / "out")
    assert str(raised.value).endswith("Remove it and harvest again.")
    assert "\n" not in str(raised.value)


def test_a_layer_that_was_not_harvested_is_one_line(run, tmp_path):
    assert run("--kind", "cell_mean", "--layers", "embedding,1") == 0
    with pytest.raises(RepresentationError, match="L0 was not harvested; there are embedding, L1"):
        arrays.read(tmp_path / "out").layer(0)


# --- vectors of cells ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def h5ad(tmp_path_factory):
    """Write cells of which row 2 has no counts and row 4 only a gene that no model knows."""
    path = tmp_path_factory.mktemp("h5ad") / "cells.h5ad"
    counts = np.random.default_rng(1).poisson(0.5, (9, N_GENES + 1)).astype(np.float32)
    counts[2], counts[4, :-1], counts[4, -1] = 0, 0, 7
    obs = pd.DataFrame({"batch": list("aabbccddd")}, index=[f"c{row}" for row in range(9)])
    named = [*GENES, "ENSG99999999999"]
    var = pd.DataFrame({"symbol": [*SYMBOLS, "NOGENE"]}, index=named)
    ad.AnnData(counts, obs=obs, var=var, uns={"title": "kept"}).write_h5ad(path)
    return path


@pytest.fixture
def embedded(h5ad, study, tmp_path):
    def run(*words, model=study / "model", file=h5ad):
        given = ["--cellmodel", str(model), "--h5ad", str(file), "--out", str(tmp_path / "o.h5ad")]
        return embed.main([*given, "--device", "cpu", *words])

    return run


def vectors_by_hand(h5ad, model, layer, pool):
    """Return the vector of each cell by its row, one forward pass of transformers a cell."""
    known, whole = vocabulary.read(model), load_model(model, dtype=torch.float64)
    encoding, found = Encoding(preset="geneformer-v2", max_length=32), {}
    for part in encode(h5ad, known, encoding):
        for row, states in zip(part.cells["row"], hidden_states(whole, part), strict=True):
            own = states[layer + 1]
            found[row] = own[0] if pool == "cls" else own[1:-1].mean(axis=0)
    return found


@pytest.mark.parametrize(
    ("words", "layer", "pool"),
    [
        ([], 1, "mean"),
        (["--layer", "-1"], 2, "mean"),
        (["--layer", "0", "--pool", "cls"], 0, "cls"),
        (["--layer", "embedding"], -1, "mean"),
    ],
)
def test_vectors_of_cells(embedded, h5ad, study, tmp_path, words, layer, pool, caplog):
    caplog.set_level("INFO")
    assert embedded(*words, "--key", "X_geneformer", "--batch", "50") == 0
    before, after = ad.read_h5ad(h5ad), ad.read_h5ad(tmp_path / "o.h5ad")
    found = after.obsm["X_geneformer"]
    assert found.dtype == np.float32
    expected = vectors_by_hand(h5ad, study / "model", layer, pool)
    assert sorted(expected) == [0, 1, 3, 5, 6, 7, 8]
    for row in range(9):
        if row in expected:
            assert np.abs(found[row] - expected[row]).max() < 5e-5
        else:
            assert np.isnan(found[row]).all()
    status = after.obs["geneformer_status"].tolist()
    assert status[2] == EMPTY
    assert status[4] == NO_GENE
    assert status.count(KEPT) == 7
    said = after.uns["X_geneformer"]
    assert said["hidden_states_index"] == layer + 1
    assert f"hidden_states[{layer + 1}] of transformers" in said["layer_says"]
    assert f"emb_layer {layer - N_LAYERS + 1} and" in said["layer_says"]
    assert said["layer_says"] in caplog.text
    assert (said["pool"], said["preset"]) == (pool, "geneformer-v2")
    # Nothing else has changed.
    assert np.array_equal(before.X, after.X)
    assert after.uns["title"] == "kept"
    assert after.obs.drop(columns="geneformer_status").equals(before.obs)
    assert "2 were dropped" in caplog.text


def test_vectors_of_scgpt_are_cls_of_the_last_block_of_length_1(embedded, h5ad, tmp_path):
    model = scgpt_folder(tmp_path / "scgpt")
    assert embedded("--key", "X_scgpt", "--gene-column", "symbol", model=model) == 0
    after = ad.read_h5ad(tmp_path / "o.h5ad")
    whole, known = load_model(model, dtype=torch.float64), vocabulary.read(model)
    n_checked = 0
    encoding = Encoding(preset="scgpt", max_length=24, gene_column="symbol")
    for part in encode(h5ad, known, encoding):
        for at, (row, length) in enumerate(
            zip(part.cells["row"], part.cells["length"], strict=True)
        ):
            ids = torch.tensor(part.ids[at, :length]).long()[None]
            hidden = whole.enter(ids, torch.tensor(part.values[at, :length]).double()[None])
            for block in whole.transformer_encoder.layers:
                hidden = block(hidden, None)
            expected = hidden[0, 0] / hidden[0, 0].norm()
            assert np.abs(after.obsm["X_scgpt"][row] - expected.numpy()).max() < 1e-5
            n_checked += 1
    assert n_checked == 7
    assert after.uns["X_scgpt"]["l2_normalised"]
    assert after.uns["X_scgpt"]["pool"] == "cls"


def test_vectors_are_the_means_of_a_harvest_of_the_same_cells(run, embedded, h5ad, study, tmp_path):
    encoding = Encoding(preset="geneformer-v2", max_length=32)
    encode_file(h5ad, study / "model", encoding, tmp_path / "encoded")
    assert run("--kind", "cell_mean", "--layers", "1", cells=tmp_path / "encoded") == 0
    assert embedded() == 0
    rows = encoded.read(tmp_path / "encoded").cells["row"]
    vectors = ad.read_h5ad(tmp_path / "o.h5ad").obsm["X_cellmodel"][rows]
    assert np.abs(arrays.read(tmp_path / "out").layer(1) - vectors).max() < 5e-6


def test_layers_from_both_ends():
    assert [layer_of(text, 6) for text in ("0", "5", "-1", "-2", "-6", "embedding")] == [
        *(0, 5, 5, 4, 0, -1)
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--layer", "3"], "--layer 3 does not exist: the model has the blocks 0 to 2"),
        (["--layer", "-4"], "--layer -4 does not exist"),
        (["--preset", "nonsense"], "--preset is 'nonsense': no preset; allowed are"),
        (["--preset", "scgpt"], "does not fit the vocabulary"),
        (["--counts", "raw"], "has no raw"),
    ],
)
def test_what_embed_refuses_is_one_line(embedded, words, says, caplog, tmp_path):
    assert embedded(*words) == 1
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert says in errors[0].getMessage()
    assert "\n" not in errors[0].getMessage()
    assert not list(tmp_path.iterdir())


def test_a_model_without_cls_is_one_line(embedded, tmp_path, caplog):
    other = geneformer(tmp_path / "v1", {PAD: 0, MASK: 1})
    assert embedded("--pool", "cls", model=other) == 1
    assert "the model has no <cls> (Geneformer V1 has none). Take --pool mean." in caplog.text
    assert embedded(model=other) == 0


def test_an_unknown_pool_is_refused(embedded, capsys):
    with pytest.raises(SystemExit):
        embedded("--pool", "median")
    assert "invalid choice: 'median'" in capsys.readouterr().err


def test_a_key_that_is_there_is_not_written_over(embedded, h5ad, tmp_path, caplog):
    assert embedded() == 0
    again = tmp_path / "again.h5ad"
    (tmp_path / "o.h5ad").rename(again)
    assert embedded(file=again) == 1
    assert "has obs['cellmodel_status'] already. Give another --key." in caplog.text
    assert embedded("--key", "X_other", file=again) == 0
    assert set(ad.read_h5ad(tmp_path / "o.h5ad").obsm) == {"X_cellmodel", "X_other"}
    before = again.read_bytes()
    assert (
        embed.main(["--cellmodel", str(tmp_path), "--h5ad", str(again), "--out", str(again)]) == 1
    )
    assert "is the file that is read" in caplog.text
    assert again.read_bytes() == before


def test_a_copy_is_whole_or_not_there(embedded, tmp_path, monkeypatch, caplog):
    def broken(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embed, "write_elem", broken)
    assert embedded() == 1
    assert "No space left on device" in caplog.text
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(disk, "free_bytes", lambda _: 10)
    assert embedded() == 1
    assert "are needed at" in caplog.text


def test_a_file_of_nothing_but_counts(embedded, h5ad, tmp_path, caplog):
    bare, whole = tmp_path / "bare.h5ad", ad.read_h5ad(h5ad)
    ad.AnnData(whole.X, var=whole.var[[]]).write_h5ad(bare)
    assert embedded(file=bare) == 0
    found = ad.read_h5ad(tmp_path / "o.h5ad")
    assert list(found.obs) == ["cellmodel_status"]
    assert np.isnan(found.obsm["X_cellmodel"]).any(axis=1).tolist() == [
        row in (2, 4) for row in range(9)
    ]
    (tmp_path / "o.h5ad").unlink()
    ad.AnnData(whole.X[[2, 4]], var=whole.var[[]]).write_h5ad(bare)
    assert embedded(file=bare) == 1
    assert "no cell of" in caplog.text
    assert not (tmp_path / "o.h5ad").exists()


def test_an_old_layout_is_one_line(embedded, h5ad, tmp_path, caplog):
    old = tmp_path / "old.h5ad"
    shutil.copyfile(h5ad, old)
    with h5py.File(old, "r+") as file:
        del file["uns"]
        file["uns"] = np.arange(3)
    assert embedded(file=old) == 1
    assert "keeps uns as anndata before 0.7 did" in caplog.text
