"""Text becomes tokens by the published protocol, or one line says why it cannot."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import constants
from pydantic import TypeAdapter, ValidationError
from tokenizers import Tokenizer

from stages.base.errors import CheckpointError
from stages.inputs import tokens as stage
from stages.inputs.mini import corpus, tokenizer
from stages.inputs.settings import HubModel, MiniModel, Model

LINES = [
    "",
    " = A title = \n",
    " The quick brown fox jumps over the lazy dog , again and again and again . \n",
    " Short . \n",
    " In the year that followed , nothing at all was heard of the fox or of the dog . \n",
]


def _checkpoint(folder, learnt_json, vocab_size):
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(learnt_json, encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"vocab_size": vocab_size}))


@pytest.fixture(scope="module")
def learnt():
    return tokenizer.learn(LINES, vocab_size=270)


@pytest.fixture
def checkpoints(tmp_path, learnt):
    for step in (0, 1):
        _checkpoint(tmp_path / "models" / f"step{step}", learnt.to_str(), 270)
    return tmp_path / "models"


@pytest.fixture(scope="module")
def confs(repository):
    return {
        name: yaml.safe_load((repository / "conf" / "model" / f"{name}.yaml").read_text())
        for name in ("pythia-mini", "pythia-410m-deduped")
    }


@pytest.fixture
def hub_model(confs):
    def made(**text) -> HubModel:
        conf = confs["pythia-410m-deduped"]
        small = {"n_sequences": 3, "reference_sequences": 2, "seq_len": 8}
        content = conf | {"text": conf["text"] | small | text}
        return TypeAdapter(Model).validate_python(content)

    return made


def _shard(path, lines, *, row_group_size=2, column="text"):
    pq.write_table(pa.table({column: lines}), path, row_group_size=row_group_size)
    return path


def _by_hand(lines, learnt, n):
    """Return the companion's loop, written out."""
    ids = []
    for line in lines:
        if len(line.strip()) < 50:
            continue
        ids += learnt.encode(line, add_special_tokens=False).ids
        if len(ids) >= n:
            break
    return ids[:n]


def test_the_published_protocol_by_hand(hub_model, checkpoints, learnt, tmp_path):
    lines = LINES * 10
    path = _shard(tmp_path / "x.parquet", lines)
    made, reference, statement = stage.tokenise(hub_model(path=str(path)), checkpoints)
    by_hand = _by_hand(lines, learnt, 40)
    assert made.tolist() == np.reshape(by_hand[:24], (3, 8)).tolist()
    assert reference.tolist() == np.reshape(by_hand[24:], (2, 8)).tolist()
    assert made.dtype == reference.dtype == np.int32
    assert statement["protocol"] == "wikitext"
    assert statement["source"] == {"file": "x.parquet"}


def test_no_more_of_the_shard_is_read_than_is_needed(hub_model, checkpoints, tmp_path, monkeypatch):
    path = _shard(tmp_path / "x.parquet", LINES * 1000, row_group_size=10)
    n_read = 0
    real = pq.ParquetFile.read_row_group

    def counted(*args, **kwargs):
        nonlocal n_read
        n_read += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    monkeypatch.setattr(stage, "_LINES_AT_ONCE", 4)
    stage.tokenise(hub_model(path=str(path)), checkpoints)
    assert 1 <= n_read <= 3


def test_a_text_file_gives_the_same_tokens_as_a_shard(hub_model, checkpoints, tmp_path):
    (tmp_path / "x.txt").write_text("".join(LINES * 10), encoding="utf-8", newline="\n")
    path = _shard(tmp_path / "x.parquet", LINES * 10)
    by_file = stage.tokenise(hub_model(protocol="file", path=str(tmp_path / "x.txt")), checkpoints)
    by_shard = stage.tokenise(hub_model(path=str(path)), checkpoints)
    assert np.array_equal(by_file[0], by_shard[0])
    assert np.array_equal(by_file[1], by_shard[1])


def test_the_files_are_stated_by_their_hash(hub_model, checkpoints, tmp_path):
    path = _shard(tmp_path / "x.parquet", LINES * 10)
    out = tmp_path / "interim"
    for _ in range(2):
        stage.write(out, *stage.tokenise(hub_model(path=str(path)), checkpoints))
    statement = json.loads((out / "tokens.json").read_text())
    for name, shape in (("tokens.npy", [3, 8]), ("reference_tokens.npy", [2, 8])):
        assert statement[name]["shape"] == shape
        assert statement[name]["sha256"] == hashlib.sha256((out / name).read_bytes()).hexdigest()
        assert list(np.load(out / name, allow_pickle=False).shape) == shape
    own = checkpoints / "step0" / "tokenizer.json"
    assert statement["tokenizer_sha256"] == hashlib.sha256(own.read_bytes()).hexdigest()
    assert sorted(path.name for path in out.iterdir()) == [
        "reference_tokens.npy",
        "tokens.json",
        "tokens.npy",
    ]


def test_the_corpus_protocol_spreads_over_what_was_held_out(confs, checkpoints, learnt):
    documents = {"heldout": LINES[2:3] * 9, "reference": LINES[4:] * 9}
    for split, texts in documents.items():
        (checkpoints / f"{split}.txt").write_text(corpus.SEPARATOR.join(texts))
    (checkpoints / "corpus.json").write_text('{"packages": {}}')
    conf = confs["pythia-mini"]
    small = {"n_sequences": 3, "reference_sequences": 2, "seq_len": 8}
    model = TypeAdapter(Model).validate_python(conf | {"text": conf["text"] | small})
    assert isinstance(model, MiniModel)
    made, reference, statement = stage.tokenise(model, checkpoints)
    stream = tokenizer.encode(learnt, documents["heldout"])
    n_fit = len(stream) // 8
    for i in range(3):
        start = 8 * (i * n_fit // 3)
        assert made[i].tolist() == stream[start : start + 8].tolist()
    # The text is tokenised as in training: documents apart, the end of text between them.
    assert 0 in stream
    expected = corpus.spread(tokenizer.encode(learnt, documents["reference"]), 2, 8)
    assert np.array_equal(reference, expected)
    assert statement["source"] == {"corpus": {"packages": {}}}


def _fails(model, checkpoints, **where):
    with pytest.raises(CheckpointError) as caught:
        stage.tokenise(model, checkpoints, **where)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_text_that_is_too_short_says_both_numbers(hub_model, checkpoints, tmp_path, learnt):
    path = _shard(tmp_path / "x.parquet", LINES[:3])
    n = len(learnt.encode(LINES[2]).ids)
    message = _fails(hub_model(path=str(path), n_sequences=100), checkpoints)
    assert f"x.parquet gives {n} tokens, 816 are needed: 100 sequences and 2 of refer" in message


def test_a_tokenizer_of_another_model(hub_model, tmp_path, learnt):
    _checkpoint(tmp_path / "m" / "step0", learnt.to_str(), 269)
    path = _shard(tmp_path / "x.parquet", LINES * 10)
    message = _fails(hub_model(path=str(path)), tmp_path / "m")
    assert "gives ids up to 269, but the model of" in message
    assert "has vocab_size 269: the tokenizer is of another model" in message


def test_checkpoints_that_do_not_agree_on_the_tokenizer(hub_model, checkpoints):
    other = tokenizer.learn(LINES, vocab_size=260).to_str()
    (checkpoints / "step1" / "tokenizer.json").write_text(other, encoding="utf-8")
    assert "differ, but all checkpoints must read the same tokens" in _fails(
        hub_model(), checkpoints
    )


def test_no_tokenizer_and_a_broken_one(hub_model, checkpoints, tmp_path):
    assert "no checkpoint in" in _fails(hub_model(), tmp_path / "nothing")
    for step in (0, 1):
        (checkpoints / f"step{step}" / "tokenizer.json").write_text("{}")
    assert "is no tokenizer" in _fails(hub_model(), checkpoints)


def test_a_shard_that_is_none(hub_model, checkpoints, tmp_path):
    path = _shard(tmp_path / "x.parquet", LINES * 10)
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-20])
    cut = _fails(hub_model(path=str(tmp_path / "cut.parquet")), checkpoints)
    assert "is no whole Parquet file with a column text" in cut
    other = _shard(tmp_path / "other.parquet", LINES * 10, column="line")
    assert "with a column text" in _fails(hub_model(path=str(other)), checkpoints)
    missing = hub_model(path=str(tmp_path / "nothing.parquet"))
    assert "does not exist. Correct model.text.path" in _fails(missing, checkpoints)


def test_a_text_file_that_is_missing_or_no_utf8(hub_model, checkpoints, tmp_path):
    missing = hub_model(protocol="file", path=str(tmp_path / "nothing.txt"))
    assert "nothing.txt does not exist" in _fails(missing, checkpoints)
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe")
    other = hub_model(protocol="file", path=str(tmp_path / "x.txt"))
    assert "is no UTF-8 (invalid start byte at byte 0)" in _fails(other, checkpoints)


def test_without_network_one_line_says_what_to_put_where(
    hub_model, checkpoints, tmp_path, monkeypatch
):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = _fails(hub_model(), checkpoints, endpoint="http://127.0.0.1:9")
    assert message.startswith(
        "cannot fetch wikitext-103-raw-v1/train-00000-of-00002.parquet of the data set "
        "Salesforce/wikitext at b08601e04326c79dfdd32d625aee71d232d685c3 ("
    )
    assert "set model.text.path to it" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"protocol": "file"}, "text.path is not given"),
        ({"repo": None}, "needs repo, revision and file"),
        ({"protocol": "corpus"}, "protocol corpus is pythia-mini's"),
        ({"n_sequences": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_be(hub_model, text, said):
    with pytest.raises(ValidationError, match=said):
        hub_model(**text)


def test_the_real_tokenizer_and_text_through_the_published_protocol(confs, real_input, tmp_path):
    tokenizer_json, text = map(real_input, ("gpt_neox_20b_tokenizer.json", "wikitext2_valid.txt"))
    checkpoints = tmp_path / "m"
    _checkpoint(checkpoints / "step512", tokenizer_json.read_text(encoding="utf-8"), 50304)
    lines = text.read_text(encoding="utf-8").splitlines(keepends=True)
    shard = _shard(tmp_path / "x.parquet", lines, row_group_size=1000)
    conf = confs["pythia-410m-deduped"]
    # All the published sequences; the text has some 230 thousand tokens after them for reference.
    changed = {"path": str(shard), "reference_sequences": 10}
    model = TypeAdapter(Model).validate_python(conf | {"text": conf["text"] | changed})
    made, reference, _ = stage.tokenise(model, checkpoints)
    assert made.shape == (100, 2048)
    assert reference.shape == (10, 2048)
    assert made.max() < 50277
    oracle = Tokenizer.from_file(str(tokenizer_json))
    assert made.ravel().tolist() == _by_hand(lines, oracle, 204_800)
    # No special token was put anywhere: the text holds none.
    assert 0 not in made
    first = next(line for line in lines if len(line.strip()) >= 50)
    assert oracle.decode(made[0].tolist()).startswith(first[:200])
