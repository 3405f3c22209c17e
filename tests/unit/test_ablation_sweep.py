"""The sweep: what is planned, what survives a kill, what is said when a shard or the disk fails."""

import fcntl
import hashlib
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from pydantic import ValidationError
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from stages.base import files
from stages.base.errors import AblationError
from stages.heads import ablate, sweep
from stages.heads.removals import baseline, block, heads, noise
from stages.heads.settings import Sweep
from stages.heads.sweep import Inputs, plan
from stages.measurement.effects import read
from stages.models.interventions import AblationType, Block, Heads, Noise
from stages.models.load import load_model
from stages.models.passes import Passes
from stages.models.text import next_tokens, read_tokens

N_LAYERS, N_HEADS, VOCABULARY, SEQ, N_SEQUENCES = 3, 4, 90, 16, 6
EVERYTHING = Sweep(
    perturbations=["zero", "mean", "mean_positional", "resample"],
    layers=True,
    noise={"alphas": [0.5, 1.0], "draws": 4, "seed": 42_000},
    resample={"draws": 2, "seed": 7},
)


@pytest.fixture(scope="module")
def study(repository, tmp_path_factory):
    """Return a folder with a checkpoint and two texts."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copyfile(repository / "params.yaml", folder / "params.yaml")
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        intermediate_size=32,
        max_position_embeddings=SEQ,
        tie_word_embeddings=False,
        initializer_range=0.3,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder / "step64")
    generator = np.random.default_rng(0)
    for name, n in (("tokens", N_SEQUENCES), ("reference", 4)):
        np.save(folder / f"{name}.npy", generator.integers(0, VOCABULARY, (n, SEQ)).astype("int32"))
    return folder


@pytest.fixture
def run(study, tmp_path):
    """Run the stage with a sweep of its own; return its exit status."""

    def run(*words, settings=EVERYTHING, scratch="scratch", out="step64.parquet"):
        here = words_of(study, tmp_path / scratch, tmp_path / out, settings)
        return ablate.main(here + list(words))

    return run


def words_of(study, scratch, out, settings=EVERYTHING):
    chosen = settings.model_dump(mode="json")
    params = study / f"{hashlib.sha256(repr(chosen).encode()).hexdigest()}.yaml"
    if not params.exists():
        content = yaml.safe_load((study / "params.yaml").read_text(encoding="utf-8"))
        params.write_text(yaml.safe_dump(content | {"sweep": chosen}), encoding="utf-8")
    return [
        *("--params", str(params)),
        *("--checkpoint", str(study / "step64"), "--state", "step64", "--device", "cpu"),
        *("--tokens", str(study / "tokens.npy"), "--reference", str(study / "reference.npy")),
        *("--scratch", str(scratch), "--out", str(out)),
    ]


@pytest.fixture(scope="module")
def whole(study, tmp_path_factory):
    """Return the bytes of an uninterrupted run over everything."""
    folder = tmp_path_factory.mktemp("whole")
    assert ablate.main(words_of(study, folder / "scratch", folder / "step64.parquet")) == 0
    return (folder / "step64.parquet").read_bytes()


@pytest.fixture
def effects(whole, tmp_path):
    path = tmp_path / "whole.parquet"
    path.write_bytes(whole)
    return {(part.kind, part.condition): part for part in read(path)}


class TestPlan:
    def test_all_heads_of_all_layers_and_the_baseline(self):
        tasks = plan(Sweep(), n_layers=2, n_heads=3)
        of_layers = [heads(layer, AblationType.ZERO, (0, 1, 2), (0,)) for layer in (0, 1)]
        assert tasks == [*of_layers, baseline(2)]

    def test_the_companions_heads(self):
        tasks = plan(Sweep(heads="companion"), n_layers=24, n_heads=16)
        found = [component for task in tasks for component, _ in task.rows if component]
        assert len(found) == 144
        assert {head for _, head, _ in found} == {0, 3, 6, 9, 12, 15}

    def test_noise_goes_round_the_layers_as_in_the_companion(self):
        tasks = plan(Sweep(noise={"alphas": [1.0], "draws": 30}), n_layers=24, n_heads=16)
        seeds = {
            task.layer: [change.seed for _, (change,) in task.rows]
            for task in tasks
            if task.kind == "noise"
        }
        # all_ablations.csv: layer 5 has the seeds 42005 and 42029, layer 6 has 42006 alone.
        assert seeds[5] == [42_005, 42_029]
        assert seeds[6] == [42_006]

    @pytest.mark.parametrize(
        ("heads", "shape", "said"),
        [
            ([(1, 2), (3, 0)], (3, 4), "L3H0 does not exist: the model has 3 layers of 4"),
            ([(0, 4)], (3, 4), "L0H4"),
            ([(-1, 0)], (3, 4), "L-1H0"),
            ("companion", (6, 8), r"L0H9 does not exist.*sweep\.heads \(companion\)"),
        ],
    )
    def test_a_head_that_is_not_there(self, heads, shape, said):
        with pytest.raises(AblationError, match=said):
            plan(Sweep(heads=heads), n_layers=shape[0], n_heads=shape[1])

    def test_settings_refuse_what_makes_no_sense(self):
        for bad in (
            {"perturbations": []},
            {"perturbations": ["zero", "zero"]},
            {"perturbations": ["half"]},
            {"heads": []},
            {"heads": [(0, 1), (0, 1)]},
            {"noise": {"alphas": [0.0]}},
            {"batch": 0},
            {"estimator": "guess"},
        ):
            with pytest.raises(ValidationError):
                Sweep(**bad)


class TestKey:
    INPUTS = Inputs("w", "t", "r", "float32", "cpu")
    TASK = heads(0, AblationType.MEAN, (0, 1), (0,))

    def test_everything_that_decides_a_number_decides_the_name(self, monkeypatch):
        keys = {self.INPUTS.key(self.TASK)}
        keys |= {
            Inputs(*values).key(self.TASK)
            for values in (
                ("x", "t", "r", "float32", "cpu"),
                ("w", "x", "r", "float32", "cpu"),
                ("w", "t", "x", "float32", "cpu"),
                ("w", "t", "r", "tf32", "cpu"),
                ("w", "t", "r", "float32", "cuda"),
            )
        }
        keys |= {
            self.INPUTS.key(task)
            for task in (
                heads(1, AblationType.MEAN, (0, 1), (0,)),
                heads(0, AblationType.ZERO, (0, 1), (0,)),
                heads(0, AblationType.MEAN, (0, 2), (0,)),
                heads(0, AblationType.MEAN, (0, 1), (1,)),
                block(0),
                noise(0, ((0, 1, 0.5),)),
            )
        }
        monkeypatch.setattr(sweep, "ENGINE_VERSION", -1)
        keys.add(self.INPUTS.key(self.TASK))
        assert len(keys) == 13

    def test_the_reference_text_does_not_decide_what_is_set_to_zero(self):
        task = heads(0, AblationType.ZERO, (0,), (0,))
        other = Inputs("w", "t", "x", "float32", "cpu")
        assert self.INPUTS.key(task) == other.key(task)


class TestTable:
    def test_it_holds_every_removal_on_every_sequence(self, effects):
        heads = N_LAYERS * N_HEADS
        assert {key: part.draws.shape for key, part in effects.items()} == {
            ("head", "zero"): (1, N_SEQUENCES, heads),
            ("head", "mean"): (1, N_SEQUENCES, heads),
            ("head", "mean_positional"): (1, N_SEQUENCES, heads),
            ("head", "resample"): (2, N_SEQUENCES, heads),
            ("layer", "zero"): (1, N_SEQUENCES, N_LAYERS),
            ("noise", "gaussian"): (1, N_SEQUENCES, 8),
        }
        zero = effects["head", "zero"].components
        assert zero.index.tolist() == [
            f"L{layer}H{head}" for layer in range(N_LAYERS) for head in range(N_HEADS)
        ]
        assert zero["layer"].tolist() == [i // N_HEADS for i in range(heads)]
        assert effects["layer", "zero"].components.index.tolist() == ["L0", "L1", "L2"][:N_LAYERS]
        noise = effects["noise", "gaussian"].components
        assert noise.index.tolist() == [f"N{i}" for i in range(8)]
        assert noise["block"].tolist() == [i % 4 % N_LAYERS for i in range(8)]

    def test_its_values_are_those_of_the_passes(self, effects, study):
        tokens, reference = (
            next_tokens(read_tokens(study / f"{name}.npy", name))
            for name in ("tokens", "reference")
        )
        passes = Passes(load_model(study / "step64"), tokens, reference=reference)
        base = passes.baseline().numpy()
        for layer in range(N_LAYERS):
            columns = slice(layer * N_HEADS, (layer + 1) * N_HEADS)
            for way, seeds in ((AblationType.ZERO, (0,)), (AblationType.RESAMPLE, (7, 8))):
                removed = [
                    (Heads(layer, (head,), way, seed),) for head in range(N_HEADS) for seed in seeds
                ]
                losses = passes.run(removed).view(N_HEADS, len(seeds), -1).numpy()
                found = effects["head", way.value].draws[:, :, columns]
                assert np.array_equal(found, losses.transpose(1, 2, 0) - base[:, np.newaxis])
            (without,) = passes.run([(Block(layer),)]).numpy()
            assert np.array_equal(effects["layer", "zero"].values[:, layer], without - base)
            # Draws 0 to 3 have alpha 0.5, draws 4 to 7 alpha 1; draw 4 + i has the seed of i.
            for number, alpha in ((layer, 0.5), (4 + layer, 1.0)):
                (noisy,) = passes.run([(Noise(layer, alpha, 42_000 + layer),)]).numpy()
                found = effects["noise", "gaussian"].values[:, number]
                assert np.abs(found - (noisy - base)).max() < 1e-5
        assert np.array_equal(effects["head", "zero"].baseline, base)

    def test_provenance_travels_with_it(self, tmp_path, whole):
        (tmp_path / "table").write_bytes(whole)
        said = pq.read_schema(tmp_path / "table").metadata
        assert said[b"precision"] == b"float32"
        assert len(said[b"weights_sha256"]) == 64


class TestResume:
    def test_two_devices_make_the_bytes_of_one(self, run, whole, tmp_path):
        assert run("--device", "cpu,cpu") == 0
        assert (tmp_path / "step64.parquet").read_bytes() == whole

    def test_a_worker_that_fails_is_said_in_one_line(self, run, study, tmp_path, caplog):
        tokens = np.load(study / "tokens.npy")
        tokens[2, 3] = VOCABULARY
        np.save(tmp_path / "bad.npy", tokens)
        assert run("--device", "cpu,cpu", "--tokens", str(tmp_path / "bad.npy")) == 1
        assert "the tokenizer does not fit it" in caplog.text

    def test_kill_9_then_finish(self, run, study, whole, tmp_path, caplog, repository):
        caplog.set_level("INFO")
        scratch, out = tmp_path / "scratch", tmp_path / "step64.parquet"
        # A process of its own, slowed down so that it is killed in the middle.
        code = (
            "import sys, time, torch\n"
            "from stages.heads import ablate, sweep\n"
            "torch.set_num_threads(int(sys.argv[1]))\n"
            "real = ablate.compute\n"
            "def slow(task, passes):\n"
            "    time.sleep(0.05)\n"
            "    return real(task, passes)\n"
            "ablate.compute = slow\n"
            "raise SystemExit(ablate.main(sys.argv[2:]))\n"
        )
        command = [
            *(sys.executable, "-c", code),
            str(torch.get_num_threads()),
            *words_of(study, scratch, out),
        ]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=repository) as process:
            deadline = time.monotonic() + 120
            while len(list(scratch.glob("step64/L*.npz"))) < 3:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
        assert not out.exists()
        n_left = len(list(scratch.glob("step64/L*.npz")))
        assert 3 <= n_left < len(plan(EVERYTHING, n_layers=N_LAYERS, n_heads=N_HEADS))
        # What a killed run may have been writing.
        (scratch / "step64" / ".L00-x.npz.abc").mkdir()
        assert run() == 0
        assert f"{n_left} of " in caplog.text
        assert "shards were finished before" in caplog.text
        assert out.read_bytes() == whole
        assert not list((scratch / "step64").glob(".*"))

    @pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "swapped"])
    def test_a_corrupt_shard_is_said_and_made_again(self, damage, run, whole, tmp_path, caplog):
        assert run() == 0
        first, second = sorted((tmp_path / "scratch" / "step64").glob("L*.npz"))[:2]
        content = first.read_bytes()
        match damage:
            case "truncated":
                first.write_bytes(content[:-40])
            case "flipped":
                middle = len(content) // 3
                changed = bytes([content[middle] ^ 1])
                first.write_bytes(content[:middle] + changed + content[middle + 1 :])
            case "empty":
                first.write_bytes(b"")
            case "swapped":
                first.write_bytes(second.read_bytes())
        (tmp_path / "step64.parquet").unlink()
        assert run() == 0
        assert f"{first.name} is damaged" in caplog.text
        assert (tmp_path / "step64.parquet").read_bytes() == whole

    def test_a_second_run_says_that_it_waits(self, run, tmp_path, caplog, monkeypatch):
        caplog.set_level("INFO")
        folder = tmp_path / "scratch" / "step64"
        folder.mkdir(parents=True)
        real = fcntl.flock
        with (folder / "lock").open("a") as held:
            real(held, fcntl.LOCK_EX)

            def until_it_waits(file, kind):
                if not kind & fcntl.LOCK_NB:
                    real(held, fcntl.LOCK_UN)
                real(file, kind)

            monkeypatch.setattr(files.fcntl, "flock", until_it_waits)
            assert run(settings=Sweep()) == 0
        assert "another run works in" in caplog.text


@contextmanager
def no_file_beyond(n_bytes):
    """Let no file grow beyond this: like a disk that fills up while it is written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


class TestFaults:
    def test_disk_full_in_the_middle(self, run, whole, tmp_path, caplog):
        with no_file_beyond(500):
            assert run() == 1
        assert "could not be written" in caplog.text
        assert "Free disk space and run again" in caplog.text
        assert not (tmp_path / "step64.parquet").exists()
        left = [path.name for path in (tmp_path / "scratch" / "step64").iterdir()]
        assert left == ["lock"]
        assert run() == 0
        assert (tmp_path / "step64.parquet").read_bytes() == whole

    def test_disk_full_at_the_table(self, run, whole, tmp_path, caplog):
        assert run() == 0
        (tmp_path / "step64.parquet").unlink()
        with no_file_beyond(2000):
            assert run() == 1
        assert "step64.parquet could not be written" in caplog.text
        assert not (tmp_path / "step64.parquet").exists()

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (None, "do not exist. Run the stage that writes them"),
            (b"no array", "is no array of tokens"),
            (np.zeros((2, 4)), "holds float64 of the shape (2, 4)"),
            (np.zeros(4, dtype=int), "of the shape (4,)"),
            (np.zeros((0, 16), dtype=int), "at least one sequence of 2 is needed"),
            (np.full((2, 16), VOCABULARY), "the tokenizer does not fit it"),
            (np.zeros((2, 18), dtype=int), "sequences of 17, the model has 16 positions"),
        ],
    )
    def test_bad_tokens_end_with_one_line(self, content, said, run, tmp_path, caplog):
        path = tmp_path / "bad.npy"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            np.save(path, content)
        assert run("--tokens", str(path), settings=Sweep()) == 1
        message = caplog.records[-1].getMessage()
        assert said in message
        assert "\n" not in message
        assert not (tmp_path / "step64.parquet").exists()

    def test_no_reference_for_a_mean(self, study, tmp_path, caplog):
        mean = Sweep(perturbations=["mean"])
        words = words_of(study, tmp_path / "scratch", tmp_path / "out.parquet", mean)
        at = words.index("--reference")
        assert ablate.main(words[:at] + words[at + 2 :]) == 1
        assert "mean ablation needs a reference text" in caplog.text

    @pytest.mark.parametrize("device", ["cuda:0,cpu", "cuda", "nowhere"])
    def test_a_device_that_is_not_there(self, device, run, caplog):
        if torch.cuda.is_available() and "nowhere" not in device:
            pytest.skip("this machine has a GPU")
        assert run("--device", device) == 1
        assert "is not there. Use --device auto" in caplog.text


def test_a_faster_precision_reports_how_far_it_is_off(run, tmp_path, caplog):
    caplog.set_level("INFO")
    assert run(settings=Sweep(precision="bf16")) == 0
    assert "bf16 differs from float32 by up to" in caplog.text
    said = pq.read_schema(tmp_path / "step64.parquet").metadata
    assert 0 < float(said[b"largest_deviation_nats"]) < 0.5
