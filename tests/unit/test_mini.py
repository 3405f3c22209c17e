"""pythia-mini: the same text, the same tokenizer, the same weights, however often it was killed."""

import ast
import fcntl
import json
import math
import re
import resource
import shutil
import signal

import numpy as np
import pytest
import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPTNeoXForCausalLM

from stages.base import files
from stages.base.errors import CheckpointError
from stages.inputs import training
from stages.inputs.mini import __main__ as command
from stages.inputs.mini import corpus, tokenizer, train
from stages.inputs.mini.corpus import SEPARATOR
from stages.inputs.settings import MiniCorpus, MiniModel, Model

TINY = {
    "n_layers": 2,
    "n_heads": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "vocab_size": 290,
    "seq_len": 16,
    "batch_size": 4,
    "steps": 12,
    "warmup_steps": 2,
    "save_every": 3,
    "threads": 1,
}


def _sources(n_files: int = 40) -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    words = ["the", "array", "returns", "a", "shape", "of", "axis", "value", "mean", "along"]
    return {
        f"pkg/mod_{i:02d}.py": (
            f'"""{" ".join(rng.choice(words, 60))}"""\n'
            f'def f():\n    """{" ".join(rng.choice(words, 60))}"""\n'
        ).encode()
        for i in range(n_files)
    }


CORPUS = MiniCorpus(
    packages={"pkg": "1"}, min_characters=20, heldout_share=0.2, reference_share=0.1
)


@pytest.fixture(scope="module")
def conf(repository):
    path = repository / "conf" / "model" / "pythia-mini.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tiny(conf) -> MiniModel:
    content = conf | {
        "checkpoints": ["step0", "step1", "step5", "step10"],
        "train": conf["train"] | TINY,
        "text": conf["text"] | {"n_sequences": 8, "reference_sequences": 4, "seq_len": 16},
        "corpus": CORPUS.model_dump(),
    }
    return TypeAdapter(Model).validate_python(content)


@pytest.fixture
def installed(monkeypatch):
    """Let one package be installed that holds `_sources`."""
    files = _sources()
    monkeypatch.setattr(corpus, "sources", lambda _: list(files.items()))
    monkeypatch.setattr(corpus.importlib.metadata, "version", lambda _: "1")


def _bytes(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class TestCorpus:
    def test_docstrings_of_every_kind_in_order_and_no_other_strings(self):
        source = b'''"""Module."""
x = "no docstring"
if x:
    class A:
        """Class.

            Indented.
        """
        y = 1
        """Neither."""
        async def f(self):
            """Method."""
try:
    pass
except E:
    pass
else:
    def g():
        """In else."""
'''
        expected = ["Module.", "Class.\n\nIndented.", "Method.", "In else."]
        assert corpus.docstrings(source) == expected
        # An outside reference: the standard library's own walk, which visits level by level.
        tree = ast.parse(source)
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        walked = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
        assert sorted(corpus.docstrings(source)) == sorted(text for text in walked if text)

    def test_what_does_not_parse_has_none(self):
        assert corpus.docstrings(b"def (:") == []
        assert corpus.docstrings(b'"\\d"\nx = "\\d"') == ["\\d"]

    def test_a_repeated_paragraph_is_kept_once_and_splits_are_disjoint(self):
        named = _sources()
        shared = "This paragraph stands in every file of them all."
        for i, name in enumerate(named):
            named[name] = f'"""{shared}\n\nOwn text number {i}, long enough."""\n'.encode()
        documents = corpus.build(named, CORPUS)
        assert all(documents[split] for split in corpus.SPLITS)
        everything = [one for split in corpus.SPLITS for one in documents[split]]
        assert sum(shared in one.text for one in everything) == 1
        assert len({one.name for one in everything}) == len(everything) == len(named)

    def test_the_order_of_the_files_does_not_matter(self):
        named = _sources()
        backwards = dict(reversed(named.items()))
        assert corpus.build(named, CORPUS) == corpus.build(backwards, CORPUS)

    def test_real_packages_are_read_without_tests_and_build_files(self):
        names = [name for name, _ in corpus.sources("networkx")]
        assert "networkx/algorithms/dag.py" in names
        assert names == sorted(names)
        assert not [name for name in names if "/tests/" in name]

    def test_a_package_that_is_not_installed_is_named(self):
        with pytest.raises(CheckpointError, match="package no-such-package has no Python files"):
            corpus.sources("no-such-package")

    def test_the_versions_are_those_of_requirements(self, conf, repository):
        pins = dict(
            re.findall(r"^(\S+)==(\S+)$", (repository / "requirements.txt").read_text(), re.M)
        )
        packages = conf["corpus"]["packages"]
        assert {name: pins.get(name) for name in packages} == packages

    def test_other_versions_are_said(self, installed):
        made = corpus.collect(CORPUS)
        assert corpus.other_versions(made, CORPUS) == []
        other = CORPUS.model_copy(update={"packages": {"pkg": "2"}})
        assert corpus.other_versions(made, other) == ["pkg 1 instead of 2"]

    def test_a_text_that_is_too_short_is_said_with_its_size(self):
        with pytest.raises(CheckpointError, match="has 10 tokens, 3 sequences of 4 need 12"):
            corpus.spread(np.arange(10, dtype=np.int32), 3, 4)


@pytest.fixture(scope="module")
def learnt():
    texts = [one.decode() for one in _sources().values()]
    return tokenizer.learn(texts, vocab_size=290)


class TestTokenizer:
    def test_it_is_lossless_deterministic_and_of_the_asked_size(self, learnt, tmp_path):
        texts = [one.decode() for one in _sources().values()]
        assert tokenizer.learn(texts, vocab_size=290).to_str() == learnt.to_str()
        assert learnt.get_vocab_size() == 290
        assert learnt.token_to_id(SEPARATOR) == 0
        text = "naïve Größe → \t x_1"
        ids = learnt.encode(text, add_special_tokens=False).ids
        assert learnt.decode(ids) == text
        assert max(ids) < 290

    def test_transformers_reads_it(self, learnt, tmp_path):
        tokenizer.save(learnt, tmp_path)
        read = AutoTokenizer.from_pretrained(tmp_path)
        text = "the mean along the axis"
        assert read(text, add_special_tokens=False)["input_ids"] == learnt.encode(text).ids
        assert read.eos_token_id == 0

    def test_documents_are_joined_by_the_end_of_text(self, learnt):
        ids = tokenizer.encode(learnt, ["mean", "axis", ""]).tolist()
        one, two = learnt.encode("mean").ids, learnt.encode("axis").ids
        assert ids == [*one, 0, *two, 0]

    def test_too_little_text_for_the_vocabulary(self):
        with pytest.raises(CheckpointError, match=r"gives 2\d\d different tokens.* asks for 5000"):
            tokenizer.learn(["a"], vocab_size=5000)


class TestRecipe:
    def test_learning_rate_rises_then_falls_to_its_fraction(self, conf):
        settings = TypeAdapter(Model).validate_python(conf).train
        rates = [training.learning_rate(step, settings) for step in range(settings.steps)]
        assert rates[0] == pytest.approx(3e-3 / 20)
        assert max(rates) == pytest.approx(3e-3) == rates[20]
        assert rates[-1] == pytest.approx(3e-4)
        assert rates[1034] == pytest.approx((3e-3 + 3e-4) / 2, rel=0.01)
        assert rates[20:] == sorted(rates[20:], reverse=True)

    def test_each_epoch_sees_every_window_once_in_another_order(self, tiny):
        tokens = np.arange(17 * 12, dtype=np.int32)
        epochs = [
            torch.cat([train.batch(tokens, 3 * epoch + i, tiny.train) for i in range(3)])
            for epoch in range(2)
        ]
        assert epochs[0].shape == (12, 17)
        assert not torch.equal(*epochs)
        for epoch in epochs:
            assert torch.equal(epoch[epoch[:, 0].argsort()].flatten(), torch.arange(17 * 12))

    def test_heldout_loss_is_the_mean_over_predicted_tokens(self, tiny):
        torch.manual_seed(0)
        network = GPTNeoXForCausalLM(train.configuration(tiny.train)).eval()
        sequences = np.random.default_rng(0).integers(0, 290, (3, 16), dtype=np.int32)
        ids = torch.from_numpy(sequences.astype(np.int64))
        with torch.no_grad():
            by_library = network(input_ids=ids, labels=ids).loss
        # float32 means in another order: observed 1e-7.
        assert train.heldout_loss(network, sequences) == pytest.approx(float(by_library), rel=1e-6)

    @pytest.mark.parametrize(
        ("section", "key", "value", "said"),
        [
            ("train", "n_heads", 3, "no multiple of n_heads 3"),
            ("train", "steps", 100, "checkpoint step2048 is beyond train.steps 100"),
            ("text", "seq_len", 256, "is above train.seq_len 128"),
            (None, "checkpoints", ["step4", "step2"], "must ascend"),
            (None, "checkpoints", ["step2", "step2"], "named twice"),
            (None, "checkpoints", [2], "write step2"),
            (None, "checkpoints", ["main"], "main is no step of a training"),
            (None, "positions", {"step3": 3}, "names step3, which is not among checkpoints"),
            (None, "positions", {"step16": 64}, "must ascend"),
        ],
    )
    def test_settings_that_do_not_fit(self, conf, section, key, value, said):
        content = json.loads(json.dumps(conf))
        (content[section] if section else content)[key] = value
        with pytest.raises(ValidationError, match=said):
            TypeAdapter(Model).validate_python(content)


class TestTraining:
    def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(
        self, tiny, installed, tmp_path, killed_training
    ):
        command.make(tiny, out=tmp_path / "whole", scratch=tmp_path / "scratch-1")
        out, scratch = tmp_path / "parts", tmp_path / "scratch-2"

        def make():
            command.make(tiny, out=out, scratch=scratch)

        # Once before the first saved state, once between a checkpoint and the next state.
        deaths, made = killed_training(make, out, {(0, 3), (1, 6)})
        assert deaths == [3, 6]
        assert made == [1, 2, *range(1, 6), *range(4, 11)]
        whole = _bytes(tmp_path / "whole")
        assert _bytes(out) == whole
        assert {"step0/model.safetensors", "step10/config.json", "train_log.csv"} <= set(whole)
        assert [path.name for path in scratch.iterdir()] == ["lock"]

    def test_a_damaged_state_is_named_and_the_training_begins_anew(
        self, tiny, installed, tmp_path, monkeypatch, caplog
    ):
        command.make(tiny, out=tmp_path / "whole", scratch=tmp_path / "scratch-1")
        real, out, scratch = training._step, tmp_path / "again", tmp_path / "scratch-2"

        class Killed(BaseException):
            pass

        def dies(what, network, optimizer, step):
            if step == 6:
                raise Killed
            return real(what, network, optimizer, step)

        monkeypatch.setattr(training, "_step", dies)
        with pytest.raises(Killed):
            command.make(tiny, out=out, scratch=scratch)
        (state,) = scratch.rglob(training.STATE_FILE)
        state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
        monkeypatch.setattr(training, "_step", real)
        command.make(tiny, out=out, scratch=scratch)
        assert f"{training.STATE_FILE} is damaged" in caplog.text
        assert _bytes(out) == _bytes(tmp_path / "whole")

    def test_a_checkpoint_loads_as_the_hub_s_do(self, tiny, installed, tmp_path):
        command.make(tiny, out=tmp_path / "m", scratch=tmp_path / "s")
        folder = tmp_path / "m" / "step10"
        network = GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32)
        config = network.config
        assert config.use_parallel_residual
        assert not config.tie_word_embeddings
        assert config.rope_parameters["partial_rotary_factor"] == 0.25
        weights = load_file(folder / "model.safetensors")
        own = network.state_dict()
        # As published; transformers 5 has another name for it.
        own["embed_out.weight"] = own.pop("lm_head.weight")
        assert set(weights) == set(own)
        assert {weight.dtype for weight in weights.values()} == {torch.float16}
        assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
        assert all(torch.equal(weights[name].float(), own[name]) for name in own)
        # The log's held-out loss is that of the checkpoint on the text beside it.
        log = (tmp_path / "m" / "train_log.csv").read_text().splitlines()
        assert log[0] == "step,train_loss_nats,heldout_loss_nats"
        assert [int(line.split(",")[0]) for line in log[1:]] == list(range(11))
        held = {int(a): float(c) for a, _, c in (line.split(",") for line in log[1:]) if c}
        assert set(held) == {0, 1, 5, 10}
        documents = (tmp_path / "m" / "heldout.txt").read_text().split(SEPARATOR)
        learnt = Tokenizer.from_file(str(folder / "tokenizer.json"))
        sequences = corpus.spread(tokenizer.encode(learnt, documents), 8, 16)
        # One thread here as there: observed equal; the sum's order may differ elsewhere.
        assert train.heldout_loss(network, sequences) == pytest.approx(held[10], rel=1e-6)
        # Untrained, each of 290 tokens is as likely: ln 290 = 5.67, and it learns.
        assert held[0] == pytest.approx(math.log(290), abs=0.05)
        assert held[10] < held[0] - 0.02

    def test_another_seed_is_another_model_and_drops_the_unfinished(
        self, tiny, installed, tmp_path
    ):
        scratch = tmp_path / "s"
        (scratch / "of-other-settings").mkdir(parents=True)
        command.make(tiny, out=tmp_path / "a", scratch=scratch)
        assert not (scratch / "of-other-settings").exists()
        settings = tiny.train.model_copy(update={"seed": 1})
        other = tiny.model_copy(update={"train": settings})
        command.make(other, out=tmp_path / "b", scratch=scratch)
        a, b = _bytes(tmp_path / "a"), _bytes(tmp_path / "b")
        assert a["corpus.json"] == b["corpus.json"]
        assert a["step0/model.safetensors"] != b["step0/model.safetensors"]

    def test_global_state_is_left_as_it_was(self, tiny, installed, tmp_path):
        threads, drawn = torch.get_num_threads(), torch.get_rng_state()
        command.make(tiny, out=tmp_path / "a", scratch=tmp_path / "s")
        assert torch.get_num_threads() == threads
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.equal(torch.get_rng_state(), drawn)

    def test_a_second_process_says_that_it_waits(
        self, tiny, installed, tmp_path, caplog, monkeypatch
    ):
        """DVC starts one beside an orphan of its own when it was killed."""
        caplog.set_level("INFO")
        real = fcntl.flock
        with (tmp_path / "lock").open("a") as held:
            real(held, fcntl.LOCK_EX)

            def until_it_waits(file, kind):
                if not kind & fcntl.LOCK_NB:
                    real(held, fcntl.LOCK_UN)
                real(file, kind)

            monkeypatch.setattr(files.fcntl, "flock", until_it_waits)
            command.make(tiny, out=tmp_path / "a", scratch=tmp_path)
        assert "another run trains in" in caplog.text
        assert (tmp_path / "a/train_log.csv").exists()

    def test_disk_full_in_the_middle_says_so_and_a_later_run_goes_on(
        self, tiny, installed, tmp_path
    ):
        command.make(tiny, out=tmp_path / "whole", scratch=tmp_path / "scratch-1")
        fits = (tmp_path / "whole/step0/model.safetensors").stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        # Like a disk that fills up: a checkpoint fits, the state, which has moments too, does not.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * fits, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                command.make(tiny, out=tmp_path / "a", scratch=tmp_path / "scratch-2")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)
        assert not (tmp_path / "a").exists()
        command.make(tiny, out=tmp_path / "a", scratch=tmp_path / "scratch-2")
        assert _bytes(tmp_path / "a") == _bytes(tmp_path / "whole")

    def test_a_loss_that_is_not_finite_stops(self, tiny, installed, tmp_path):
        settings = tiny.train.model_copy(update={"learning_rate": 1e38, "warmup_steps": 0})
        wild = tiny.model_copy(update={"train": settings})
        with pytest.raises(CheckpointError, match=r"the loss of step \d+ of pythia-mini is nan"):
            command.make(wild, out=tmp_path / "a", scratch=tmp_path / "s")
        assert not (tmp_path / "a").exists()
        shutil.rmtree(tmp_path / "s")
