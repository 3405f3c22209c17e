"""Autoencoders and their features, held to planted truth and to other ways of computing them."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from stages.base import tables
from stages.base.compose import CONF, compose, differences
from stages.base.errors import FeatureError
from stages.base.files import write_text
from stages.base.settings import parse
from stages.compute.shards import Shard, Store
from stages.features import (
    annotate,
    autoencoder,
    combine,
    edges,
    heavy_tails,
    metrics,
    published,
    steer,
    trace,
)
from stages.features.autoencoder import KINDS, Autoencoder
from stages.features.autoencoders import planted, stabilities
from stages.features.figures import features as figure
from stages.features.settings import Combine, Trace, Training
from stages.features.subject import Files, Sequences, Subject, item_means
from stages.features.tables.annotate import ANNOTATED
from stages.features.tables.autoencoders import AUTOENCODERS
from stages.features.tables.combine import COMBINATIONS
from stages.features.tables.steer import STEERING
from stages.features.tables.trace import STATISTICS, TRACED, TRACING
from stages.features.tail import Tail, along, sparse, summed
from stages.inputs.known import Known
from stages.measurement import effects, enrichment, measured
from stages.measurement.concentration import effective_number, gini
from stages.measurement.effects import State
from stages.measurement.settings import Measured, System
from stages.measurement.streams import stream
from stages.measurement.tables import MEASURED
from stages.models.text import Text
from stages.report import features as report
from stages.report import reading
from stages.report.writing import Templates

ROOT = Path(__file__).parents[2]
TRAINING = Training(
    features=96,
    k=4,
    epochs=12,
    batch=256,
    learning_rate=3e-3,
    auxiliary=1 / 32,
    dead_k=16,
    dead_after=4096,
    seed=3,
)
TRACE = Trace(
    sequences=24,
    min_sequences=8,
    min_d=0.5,
    min_consistency=0.7,
    flips=999,
    max_q=0.05,
    moved=0.1,
    nulls=8,
    seeds=1,
    draws=200,
    confidence=0.95,
    seed=5,
)
COMBINE = Combine(sets=2, sequences=24, min_sequences=8, draws=200, confidence=0.95, seed=5)


@pytest.fixture(scope="module")
def known() -> tuple[np.ndarray, np.ndarray]:
    """Return rows of 48 planted directions in 32 dimensions, and the directions."""
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(32, 48))
    directions /= np.linalg.norm(directions, axis=0)
    codes = (rng.random((8192, 48)) < 0.05) * rng.uniform(0.5, 1.5, size=(8192, 48))
    return (codes @ directions.T).astype(np.float32), directions.astype(np.float32)


@pytest.fixture(scope="module")
def made(known) -> dict[str, Autoencoder]:
    return {kind: autoencoder.train(known[0], TRAINING, seed=3, kind=kind) for kind in KINDS}


def test_training_finds_planted_directions_and_its_baselines_do_not(known, made):
    rows, directions = torch.from_numpy(known[0]), torch.from_numpy(known[1])
    found = {
        kind: (autoencoder.best_cosines(directions, of.decoder) >= 0.9).mean()
        for kind, of in made.items()
    }
    assert found["trained"] > 0.6
    # What explains much need not have found anything.
    assert max(found[kind] for kind in KINDS[1:]) < 0.2
    explained = {kind: autoencoder.explained(of, rows) for kind, of in made.items()}
    assert explained["trained"] > 0.85
    assert explained["soft_frozen_decoder"] > 0.6
    assert explained["frozen_decoder"] < explained["soft_frozen_decoder"]


def test_directions_have_length_one_and_frozen_parts_stay_as_drawn(made):
    for of in made.values():
        assert torch.allclose(of.decoder.norm(dim=0), torch.ones(96), atol=1e-5)
    start = made["frozen_decoder"].decoder
    assert torch.equal(made["frozen_encoder"].encoder, start.T)
    cosine = (made["soft_frozen_decoder"].decoder * start).sum(dim=0)
    assert cosine.min() > autoencoder.SOFT_COSINE - 1e-4
    assert cosine.mean() < 0.999
    assert (made["trained"].decoder * start).sum(dim=0).min() < 0.7


def test_codes_are_the_k_largest_and_none_below_zero(made):
    of = made["trained"]
    rows = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    before = ((rows - of.before) @ of.encoder.T + of.encoder_bias).detach().numpy()
    expected = np.zeros_like(before)
    for i, row in enumerate(before):
        for j in np.argsort(row)[::-1][:4]:
            expected[i, j] = max(row[j], 0)
    np.testing.assert_allclose(of.encode(rows).numpy(), expected, atol=1e-5)


def test_slopes_are_those_of_the_loss_by_automatic_differentiation():
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(32, 10, generator=generator, dtype=torch.float64)
    values = {
        "encoder": torch.randn(20, 10, generator=generator, dtype=torch.float64),
        "encoder_bias": torch.randn(20, generator=generator, dtype=torch.float64),
        "decoder": torch.randn(10, 20, generator=generator, dtype=torch.float64),
        "centre": torch.randn(10, generator=generator, dtype=torch.float64),
    }
    dead = torch.arange(20) % 3 == 0
    params = TRAINING.model_copy(update={"k": 3, "dead_k": 2})
    slopes, _ = autoencoder._slopes(
        x,
        *(values[name] for name in ("encoder", "encoder_bias", "decoder", "centre")),
        params,
        dead,
    )
    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    inside = x - leaves["centre"]
    before = inside @ leaves["encoder"].T + leaves["encoder_bias"]

    def largest(codes, k):
        at = codes.topk(k, dim=-1).indices
        return torch.relu(codes) * torch.zeros_like(codes).scatter(-1, at, 1.0)

    error = inside - largest(before, 3) @ leaves["decoder"].T
    total = (x - x.mean(dim=0)).square().sum()
    revived = largest(before.masked_fill(~dead, -1e9), 2)
    left = error.detach() - revived @ leaves["decoder"].T
    loss = error.square().sum() / total
    loss = loss + params.auxiliary * left.square().sum() / error.detach().square().sum()
    loss.backward()
    for name, slope in slopes.items():
        np.testing.assert_allclose(slope.numpy(), leaves[name].grad.numpy(), atol=1e-12)


SAE_LENS = os.environ.get("SAE_LENS_PYTHON", "")


@pytest.mark.skipif(
    not SAE_LENS,
    reason="sae-lens pins other versions: SAE_LENS_PYTHON names the Python of an environment of it",
)
def test_codes_loss_and_slopes_are_those_of_sae_lens(tmp_path):
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(64, 10, generator=generator, dtype=torch.float64)
    values = {
        "encoder": torch.randn(80, 10, generator=generator, dtype=torch.float64),
        "encoder_bias": torch.randn(80, generator=generator, dtype=torch.float64),
        "decoder": torch.randn(10, 80, generator=generator, dtype=torch.float64),
        "centre": torch.randn(10, generator=generator, dtype=torch.float64),
    }
    # It lets half as many dead features fire as there are dimensions, below 0 too: among so many,
    # none of these is.
    dead = torch.arange(80) % 2 == 0
    params = TRAINING.model_copy(update={"features": 80, "k": 3, "dead_k": 5})
    given = {"x": x, "dead": dead} | values
    arrays = {name: value.numpy() for name, value in given.items()}
    np.savez(tmp_path / "in.npz", k=3, auxiliary=params.auxiliary, **arrays)
    script = Path(__file__).parents[1] / "sae_lens_slopes.py"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [SAE_LENS, script, tmp_path / "in.npz", tmp_path / "out.npz"], check=True, env=environment
    )
    theirs = dict(np.load(tmp_path / "out.npz"))
    slopes, _ = autoencoder._slopes(x, *values.values(), params, dead)
    ours = Autoencoder(*list(values.values())[:3], values["centre"], values["centre"], 3)
    found = slopes | {"codes": ours.encode(x), "explained": autoencoder.explained(ours, x)}
    assert set(theirs) == set(found)
    for name, value in theirs.items():
        # Seen with sae-lens 6.54.12, in float64; the largest difference was not noted.
        np.testing.assert_allclose(np.asarray(found[name]), value, atol=1e-12, err_msg=name)


def test_the_same_seed_makes_the_same_weights_and_another_seed_similar_ones(known, made):
    again = autoencoder.train(known[0], TRAINING, seed=3)
    assert torch.equal(again.decoder, made["trained"].decoder)
    other = autoencoder.train(known[0], TRAINING, seed=4)
    alive = np.ones(96, dtype=bool)
    pairs = {(0, 0): made["trained"], (0, 1): other}
    stable = stabilities(pairs, dict.fromkeys(pairs, alive))
    chance = autoencoder.best_cosines(made["frozen_decoder"].decoder, other.decoder).mean()
    assert stable[0, 0] > chance + 0.1


def test_too_few_rows_are_refused():
    with pytest.raises(FeatureError, match="cannot be trained on 3 rows"):
        autoencoder.train(np.zeros((3, 4), np.float32), TRAINING, seed=0)


def test_an_autoencoder_survives_its_file_and_damage_is_one_line(tmp_path, made):
    autoencoder.save(made["trained"], tmp_path, {"layer": 1})
    back = autoencoder.load(tmp_path)
    rows = torch.randn(9, 32, generator=torch.Generator().manual_seed(0))
    # The same weights; where they lie in memory may move the last digit of a product.
    assert torch.equal(back.encoder, made["trained"].encoder)
    torch.testing.assert_close(back.encode(rows), made["trained"].encode(rows))
    (tmp_path / autoencoder.WEIGHTS_FILE).write_bytes(b"nothing")
    with pytest.raises(FeatureError, match="holds no autoencoder"):
        autoencoder.load(tmp_path)


STAGE = """
import os, sys, time
from pathlib import Path
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from stages.features import autoencoder, autoencoders
said, hangs_in, *words = sys.argv[1:]
autoencoders.PLANTED_ROWS = 1024
real = autoencoder.train
def train(rows, params, *, seed, **how):
    with Path(said).open("a") as file:
        file.write(f"{seed}\\n")
    if len(Path(said).read_text().split()) == int(hangs_in):
        time.sleep(600)
    return real(rows, params, seed=seed, **how)
autoencoder.train = train
raise SystemExit(autoencoders.main(words))
"""


@pytest.fixture
def stage(params, tmp_path) -> Callable[..., subprocess.Popen[bytes]]:
    """Return how to start the stage on a small model of text: eight autoencoders, one at a time."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    for state in ("step0", "step1"):
        GPTNeoXForCausalLM(config).save_pretrained(tmp_path / "models" / state)
    (tmp_path / "tokens").mkdir()
    drawn = np.random.default_rng(0)
    for name in ("tokens", "reference_tokens"):
        text = drawn.integers(0, 50, (40, 16)).astype("int32")
        np.save(tmp_path / "tokens" / f"{name}.npy", text)
    content = params | {"model": params["model"] | {"checkpoints": ["step0", "step1"]}}
    content["features"] = params["features"] | {"of": "model", "reads": "tokens"}
    training = params["autoencoders"]["training"] | {"features": 24, "k": 4, "batch": 64}
    content["autoencoders"] = params["autoencoders"] | {"training": training, "seeds": 2}
    write_text(tmp_path / "params.yaml", yaml.safe_dump(content))

    def start(name: str, hangs_in: int = 0) -> subprocess.Popen[bytes]:
        words = [
            *(tmp_path / name / "said", str(hangs_in), "--params", tmp_path / "params.yaml"),
            *("--checkpoints", tmp_path / "models", "--sequences", tmp_path / "tokens"),
            *("--scratch", tmp_path / name / "scratch", "--out", tmp_path / name / "out"),
            *("--table", tmp_path / name / "table.csv", "--device", "cpu"),
        ]
        (tmp_path / name).mkdir(exist_ok=True)
        return subprocess.Popen([sys.executable, "-c", STAGE, *map(str, words)], cwd=ROOT)

    return start


def test_a_killed_training_of_autoencoders_goes_on_from_those_that_are_done(stage, tmp_path):
    said = tmp_path / "killed" / "said"
    with stage("whole") as process:
        assert process.wait() == 0
    with stage("killed", hangs_in=3) as process:
        deadline = time.monotonic() + 120
        while not said.exists() or len(said.read_text(encoding="utf-8").split()) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert len(list((tmp_path / "killed" / "scratch").glob("*.npz"))) == 2
    assert not (tmp_path / "killed" / "out").exists()
    with stage("killed") as process:
        assert process.wait() == 0
    whole, killed = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in sorted((tmp_path / name).rglob("*.*"))
        }
        for name in ("whole", "killed")
    )
    assert len(whole) == 9
    assert whole == killed
    # Eight autoencoders of the model, and four of planted directions in the end; one was cut short.
    assert len(said.read_text(encoding="utf-8").split()) == 8 + 4 + 1


def test_the_mean_of_what_is_read_is_that_of_each_id():
    rows = np.array([[1.0, 0], [3, 0], [10, 4]], dtype=np.float32)
    means = item_means(rows, np.array([2, 2, 0]), 4)
    expected = [[10, 4], [14 / 3, 4 / 3], [2, 0], [14 / 3, 4 / 3]]
    np.testing.assert_allclose(means, expected, rtol=1e-6)


def test_planted_rows_are_of_their_directions():
    rows, directions = planted(1)
    assert rows.shape[1] == directions.shape[0] < directions.shape[1]
    np.testing.assert_allclose(np.linalg.norm(directions, axis=0), 1, atol=1e-6)


# A model whose blocks do what was planted: 64 dimensions, one feature each; inputs fire features 0
# to 9 with random strength.
WIDTH, N_INPUTS = 64, 10
HUB, TARGETS_OF_HUB = 0, range(20, 32)
EDGE, TARGET_OF_EDGE = 1, 32
ADDING, SUM = (2, 3, 4), 40
SHARING, CAPPED, CAP = (5, 6, 7), 41, 2.5


class Reads(nn.Module):
    """What block 2 adds to the stream."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        added = torch.zeros_like(hidden)
        added[..., TARGETS_OF_HUB.start : TARGETS_OF_HUB.stop] = hidden[..., [HUB]]
        added[..., TARGET_OF_EDGE] = hidden[..., EDGE]
        added[..., SUM] = hidden[..., list(ADDING)].sum(dim=-1)
        added[..., CAPPED] = hidden[..., list(SHARING)].sum(dim=-1).clamp(max=CAP)
        return added


class Nothing(nn.Module):
    """What other blocks add."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(hidden)


class Toy:
    """Four blocks, of which the last reads."""

    n_layers = 4
    causal = False

    def __init__(self, n: int, seq: int) -> None:
        self.blocks = [Nothing(), Nothing(), Nothing(), Reads()]
        rng = np.random.default_rng(8)
        stream = np.zeros((n, seq, WIDTH), dtype=np.float32)
        on = rng.random((n, seq, N_INPUTS)) < 0.3
        # The sets fire together, in a third of the positions.
        for some in (ADDING, SHARING):
            on[..., list(some)] = (rng.random((n, seq)) < 0.3)[..., None]
        stream[..., :N_INPUTS] = on * rng.uniform(0.8, 1.2, size=on.shape)
        self.stream = torch.from_numpy(stream)

    def enter(self, text: Text) -> torch.Tensor:
        return self.stream[text.inputs[:, 0] if text.inputs.ndim == 2 else text.inputs]

    def heads(self, block, hidden, attended=None):
        return torch.nn.functional.scaled_dot_product_attention(*[hidden[:, None]] * 3)[:, 0]

    def project(self, block, heads):
        return torch.zeros_like(heads)

    def finish(self, block, hidden, attention):
        return hidden + block(hidden) + attention

    def run(self, block, hidden, attended=None):
        return self.finish(block, hidden, self.project(block, self.heads(block, hidden)))


def _identity(k: int) -> Autoencoder:
    nothing = torch.zeros(WIDTH)
    one = torch.eye(WIDTH)
    return Autoencoder(one, torch.full((WIDTH,), -0.05), one, nothing, nothing, k)


@pytest.fixture(scope="module")
def toy() -> tuple[Subject, Sequences]:
    n, seq = 24, 12
    text = Text(torch.arange(n)[:, None].expand(n, seq), torch.zeros(n, seq, dtype=torch.long))
    of = Subject(Path("toy"), Toy(n, seq), torch.device("cpu"), (), None, None, np.arange(n))
    return of, Sequences(text, torch.ones(n, seq, dtype=torch.bool))


@pytest.fixture(scope="module")
def bench(toy) -> trace.Bench:
    tail = Tail(*toy, 1, {3: _identity(48)})
    return trace.set_up(tail, _identity(12), TRACE, 1e-3)


@pytest.fixture(scope="module")
def traced(bench) -> tuple[dict, dict]:
    features = tuple(trace.traceable(bench).tolist())
    arrays = trace.traced(bench, trace.Task(0, features, features))
    return arrays, trace.called(arrays, TRACE)


def test_a_planted_hub_and_a_planted_edge_are_found_and_nulls_are_silent(bench, traced):
    arrays, found = traced
    at = {
        (int(feature), trace.DIRECTIONS[which]): row
        for row, (feature, which) in enumerate(
            zip(arrays["feature"], arrays["direction"], strict=True)
        )
    }
    for rule in trace.RULES:
        by = {key: int(found[rule][row]) for key, row in at.items()}
        # Each passes through the stream to the feature of its own direction.
        assert by[HUB, "feature"] == len(TARGETS_OF_HUB) + 1
        assert by[EDGE, "feature"] == 2
        assert by[8, "feature"] == by[9, "feature"] == 1
    row = at[HUB, "feature"]
    called = edges.is_edge(arrays["d"][row], arrays["consistency"][row], TRACE)
    assert np.flatnonzero(called).tolist() == [HUB, *TARGETS_OF_HUB]
    # Flipped signs call next to nothing of these.
    assert arrays["flipped"][row] < 0.5
    random = {rule: found[rule][arrays["direction"] == 1] for rule in trace.RULES}
    # What is consistent need not be large: random directions have more published edges than the
    # hub, and pass the test of flipped signs. Only the size of an effect tells them apart.
    assert random["published"].mean() > by[HUB, "feature"]
    assert random["calibrated"].mean() > by[HUB, "feature"]
    # One of ten random directions is the largest on each target.
    assert random["specific"].sum() <= WIDTH
    another = found["specific"][arrays["direction"] == 2]
    assert another.mean() < 2
    assert by[HUB, "another"] <= 2


def test_a_feature_is_off_where_it_fires_and_nowhere_else(toy, bench):
    changes = along(bench.firing, HUB, bench.directions[:, HUB])
    stream_of = bench.tail.states.clone()
    for change in changes:
        stream_of[change.sequence, change.positions] += change.added
    clean = bench.tail.states
    on = clean[..., HUB] > 0.05
    # The code is what lies above the bias, and it alone goes.
    np.testing.assert_allclose(stream_of[..., HUB][on].numpy(), 0.05, atol=1e-6)
    changed = (stream_of != clean).nonzero()
    assert set(changed[:, 2].tolist()) == {HUB}
    assert len(changed) == int(on.sum())


def test_the_sparse_tail_is_the_full_model_with_the_stream_changed(toy, bench):
    of, _ = toy
    changes = along(bench.firing, HUB, bench.directions[:, HUB])
    moved, _ = bench.tail.run(changes)
    read = _identity(48)
    for change, row in zip(changes, moved[3], strict=True):
        hidden = of.architecture.stream[change.sequence].clone()
        before = read.encode(hidden + Reads()(hidden))[change.positions]
        hidden[change.positions] += change.added
        after = read.encode(hidden + Reads()(hidden))[change.positions]
        np.testing.assert_allclose(row.numpy(), (after - before).mean(dim=0).numpy(), atol=1e-6)


def test_additive_and_redundant_sets_are_told_apart_and_the_published_ratio_tells_nothing(toy):
    of, sequences = toy
    made = {layer: _identity(12) for layer in (0, 1, 2)} | {3: _identity(48)}
    firing = _firing(of, sequences, made)
    tail = Tail(of, sequences, 0, {3: made[3]})
    rows = {}
    for name, features in (("adds", ADDING), ("shares", SHARING)):
        one = combine.Set((0, 1, 2), features)
        found = combine.effects_of(tail, made, one, firing)
        rows[name] = {row["order"]: row for row in combine.rows_of(one, found, TRACE, COMBINE)}
    for order in (2, 3):
        adds, shares = rows["adds"][order], rows["shares"][order]
        assert adds["raw"] == pytest.approx(1, abs=1e-5)
        assert adds["low"] == pytest.approx(1, abs=1e-5)
        assert adds["published"] == pytest.approx(adds["additive"], abs=1e-5)
        # Who is left makes up for who is gone, until nobody is.
        assert shares["low"] > 1.02
    assert rows["adds"][3]["interaction"] == pytest.approx(0, abs=1e-5)


def test_a_killed_combining_goes_on_from_its_shards(toy, tmp_path, monkeypatch):
    of, sequences = toy
    made = {layer: _identity(12) for layer in (0, 1, 2)} | {3: _identity(48)}
    firing = _firing(of, sequences, made)
    tail = Tail(of, sequences, 0, {3: made[3]})
    bench = combine.Bench(tail, made, firing, np.arange(len(sequences)))
    monkeypatch.setattr(combine, "bench", lambda files: bench)
    work = partial(combine._work, Files(Path(), Path(), Path(), Path(), "cpu"))
    sets = [combine.Set((0, 1, 2), features) for features in (ADDING, SHARING)]
    every = [Shard(one.name, one.name, one) for one in sets]
    store = Store(str(tmp_path))
    (first,) = store.filled(every[:1], work, on=["cpu"])
    direct = combine.effects_of(tail, made, sets[0], firing)
    np.testing.assert_array_equal(first["effects"], np.stack(list(direct.values())))
    ran = []
    monkeypatch.setattr(combine, "effects_of", lambda *task: ran.append(task[2]) or direct)
    again, _ = store.filled(every, work, on=["cpu"])
    assert ran == sets[1:]
    np.testing.assert_array_equal(first["effects"], again["effects"])


def _firing(of, sequences, made):
    shape = sequences.kept.shape
    found = {}
    for layer in (0, 1, 2):
        codes = sparse(made[layer], of.architecture.stream, sequences.ids)
        found[layer] = codes.features.masked_fill(codes.codes <= 0, -1).view(*shape, -1)
    return found


def test_the_published_ratio_of_independent_effects_that_add_up_is_far_below_one():
    rng = np.random.default_rng(0)
    singles = [1 + rng.normal(size=(400, 300)) for _ in range(3)]
    ratio = np.median(combine.ratios(sum(singles), singles))
    # 1 / sqrt(3), as it must be: the deviations of a sum do not add up.
    assert ratio == pytest.approx(3**-0.5, abs=0.02)
    assert combine.slope(sum(of.mean(0) for of in singles), sum(of.mean(0) for of in singles)) == 1


def test_sets_are_drawn_among_those_that_fire_together(toy):
    of, sequences = toy
    made = {layer: _identity(12) for layer in (0, 1, 2)}
    firing = _firing(of, sequences, made)
    for one in combine.together(firing, COMBINE, stream(1, "sets")):
        both = [
            (firing[layer] == feature).any(dim=-1)
            for layer, feature in zip(one.layers, one.features, strict=True)
        ]
        n = torch.stack(both).all(dim=0).any(dim=1).sum()
        assert n >= COMBINE.min_sequences


def test_tests_of_effects_follow_their_definitions():
    rng = np.random.default_rng(3)
    effects = np.column_stack(
        [rng.normal(1.0, 1.0, 20), rng.normal(0.0, 1.0, 20), np.zeros(20), -np.ones(20)]
    )
    found = edges.tested(effects, TRACE, np.random.default_rng(0))
    x = effects[:, 0]
    assert found.d[0] == pytest.approx(x.mean() / x.std(ddof=1))
    assert found.consistency[0] == max((x > 0).mean(), (x <= 0).mean())
    assert found.d[2] == 0
    assert np.isnan(found.p[2])
    assert found.p[0] < 0.05 < found.p[1]
    assert found.edges(TRACE)[[0, 2, 3]].tolist() == [True, False, True]


def test_flipped_signs_call_few_edges_where_there_is_no_effect():
    rng = np.random.default_rng(4)
    effects = rng.normal(size=(20, 400))
    found = edges.tested(effects, TRACE, np.random.default_rng(0))
    # Both are of no effect, and agree.
    assert found.edges(TRACE).sum() == pytest.approx(found.null_edges, abs=6)
    # And p is uniform.
    assert (found.p < 0.1).mean() == pytest.approx(0.1, abs=0.06)


def test_a_power_law_is_told_from_an_exponential():
    rng = np.random.default_rng(2)
    power = np.rint(9.5 * (1 - rng.random(2000)) ** (-1 / 1.5))
    found = heavy_tails.power_law(power)
    assert found is not None
    assert found.alpha == pytest.approx(2.5, abs=0.25)
    z, p = heavy_tails.against(power, found, "exponential")
    assert z > 2
    assert p < 0.05
    fading = np.rint(rng.exponential(20, size=2000)) + 1
    other = heavy_tails.power_law(fading)
    assert other is not None
    z, _ = heavy_tails.against(
        fading, heavy_tails.Tail(2.5, 10.0, int((fading >= 10).sum()), 0.1), "exponential"
    )
    assert z < -2
    assert heavy_tails.power_law(np.array([1.0, 2.0])) is None


def test_features_fire_by_sequence_as_their_codes_say(bench):
    codes = _identity(12).encode(bench.tail.states)
    for feature in (HUB, EDGE, 9):
        seen = {number: positions for number, positions, _ in bench.firing.by_sequence(feature)}
        for number in range(len(codes)):
            expected = (codes[number, :, feature] > 0).nonzero()[:, 0].tolist()
            assert seen.get(number, torch.empty(0)).tolist() == expected


def test_the_tail_sums_codes_as_whole_rows_would(made):
    rows = torch.randn(30, 32, generator=torch.Generator().manual_seed(5))
    groups = torch.arange(30) // 10
    codes = sparse(made["trained"], rows, torch.zeros(30, dtype=torch.long))

    found = summed(codes, groups, 3, 96)
    expected = made["trained"].encode(rows).view(3, 10, 96).sum(dim=1)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


@pytest.fixture
def as_published(tmp_path) -> Path:
    generator = torch.Generator().manual_seed(6)
    decoder = torch.randn(8, 32, generator=generator)
    decoder /= decoder.norm(dim=1, keepdim=True)
    weights = {
        "W_enc.weight": torch.randn(32, 8, generator=generator),
        "W_enc.bias": torch.randn(32, generator=generator),
        "W_dec.weight": decoder,
        "W_dec.bias": torch.randn(8, generator=generator),
    }
    folder = tmp_path / "layer05_x4_k3"
    folder.mkdir()
    content = {"model_state_dict": weights, "d_model": 8, "n_features": 32, "k": 3}
    torch.save(content, folder / published.CHECKPOINT_FILE)
    np.save(folder / published.MEAN_FILE, np.arange(8.0))
    return folder


def test_a_published_autoencoder_codes_as_the_published_formula(as_published):
    of = published.read(as_published)
    content = torch.load(as_published / published.CHECKPOINT_FILE, weights_only=True)
    weights = content["model_state_dict"]
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1)) + torch.arange(8.0)
    before = (x - torch.arange(8.0)) @ weights["W_enc.weight"].T + weights["W_enc.bias"]
    kept = torch.zeros_like(before)
    values, at = before.topk(3, dim=-1)
    kept.scatter_(-1, at, torch.relu(values))
    np.testing.assert_allclose(of.encode(x).numpy(), kept.numpy(), atol=1e-5)
    back = kept @ weights["W_dec.weight"].T + weights["W_dec.bias"] + torch.arange(8.0)
    np.testing.assert_allclose(of.decode(of.encode(x)).numpy(), back.numpy(), atol=1e-5)


def test_rows_of_length_one_are_noticed_aloud_and_columns_are_not(as_published, tmp_path, caplog):
    out = tmp_path / "ours"
    assert published.main(["--run", str(as_published), "--out", str(out)]) == 0
    assert "the rows of the decoder have length 1" in caplog.text
    assert autoencoder.load(out).k == 3
    content = torch.load(as_published / published.CHECKPOINT_FILE, weights_only=True)
    decoder = content["model_state_dict"]["W_dec.weight"]
    content["model_state_dict"]["W_dec.weight"] = decoder / decoder.norm(dim=0)
    torch.save(content, as_published / published.CHECKPOINT_FILE)
    caplog.clear()
    assert published.main(["--run", str(as_published), "--out", str(out)]) == 0
    assert "length 1" not in caplog.text


def test_a_published_file_of_something_else_is_one_line(as_published, tmp_path, caplog):
    (as_published / published.CHECKPOINT_FILE).write_bytes(b"no checkpoint")
    assert published.main(["--run", str(as_published), "--out", str(tmp_path / "ours")]) == 1
    assert "holds no published autoencoder" in caplog.text
    assert not (tmp_path / "ours").exists()


def test_enrichment_is_the_tail_of_the_hypergeometric_distribution():
    chosen, sets = np.zeros((1, 50), dtype=bool), np.zeros((50, 2), dtype=bool)
    chosen[0, :10] = True
    sets[:8, 0] = True
    sets[20:40, 1] = True
    overlap, p = enrichment.enrichment(chosen, sets)
    ways = [math.comb(10, i) * math.comb(40, 8 - i) for i in range(9)]
    assert overlap.tolist() == [[8, 0]]
    assert p[0, 0] == pytest.approx(ways[8] / math.comb(50, 8))
    assert p[0, 1] == 1
    found = enrichment.nearest(chosen, sets)
    assert (found.at[0], found.overlap[0], found.size[0]) == (0, 8, 8)
    assert found.q[0] == pytest.approx(2 * p[0, 0])


def test_sets_that_are_too_small_or_too_large_name_nothing():
    genes = [f"g{i}" for i in range(12)]
    sets = {"six": genes[:6], "few": genes[:4], "all but one": genes[1:], "unknown": ["x"] * 6}
    of = Known({"go": {name: frozenset(some) for name, some in sets.items()}}, pd.DataFrame())
    found = dict(annotate.sets_of(of, genes, largest=8))
    assert found["go"][0] == ["six"]
    assert found["go"][1].sum(axis=0).tolist() == [6]
    assert dict(annotate.sets_of(of, genes, largest=5)) == {}


def test_donors_choose_features_or_are_steered_but_never_both():
    groups = np.array(["a", "b", "a", "c", "b"])
    choose, steered = steer.halves(groups, 0)
    assert not set(groups[choose]) & set(groups[steered])
    assert sorted([*choose, *steered]) == list(range(5))
    choose, steered = steer.halves(np.full(9, "one"), 0)
    assert sorted([*choose, *steered]) == list(range(9))


def test_chosen_features_rise_and_fall_most_with_the_order():
    rho = np.array([0.1, -0.9, 0.8, 0.95, -0.2, 0.7])
    able = np.array([0, 1, 2, 4, 5])
    assert steer.chosen(rho, able, 2) == [(2, 1.0), (5, 1.0), (1, -1.0), (4, -1.0)]


@pytest.fixture
def folder_of_tables(toy, bench, traced, tmp_path) -> Path:
    """Return a folder of all tables that the text reads of features: of the toy, and by hand."""
    arrays, found = traced
    arrays = arrays | {"rise": np.where(np.isnan(arrays["rise"]), 0.01, arrays["rise"])}
    table = trace.table_of(arrays, found, bench)
    state = State("features", "step2", 2.0, "nats per item", "frequency")
    parts = trace.of_features(arrays, table, bench, state)
    effects.write(tmp_path / "effects" / "step2.parquet", parts)
    system = System(room="features", group="toy", effects=tmp_path / "effects", states=["step2"])
    asked = Measured(confidence=0.95, draws=40, seed=1)
    read = effects.read_states(system.effects, system.states)
    numbers, _, _ = measured.measured(read, system, metrics.METRICS, asked)
    folder = tmp_path / "tables"
    tables.write(numbers, MEASURED, folder / "measured" / "features.csv")
    folder = folder / "features"
    rows = trace.tracing(arrays, found, 0, TRACE)
    of_edges = pd.DataFrame(rows).reindex(columns=list(TRACING.columns))
    tables.write(of_edges, TRACING, folder / "tracing.csv")
    tables.write(table, TRACED, folder / "traced.csv")
    tables.write(trace.statistics(table, TRACE), STATISTICS, folder / "statistics.csv")
    of, sequences = toy
    made = {layer: _identity(12) for layer in (0, 1, 2)} | {3: _identity(48)}
    tail, firing = Tail(of, sequences, 0, {3: made[3]}), _firing(of, sequences, made)
    sets = []
    for features in (ADDING, SHARING):
        one = combine.Set((0, 1, 2), features)
        sets += combine.rows_of(one, combine.effects_of(tail, made, one, firing), TRACE, COMBINE)
    tables.write(pd.DataFrame(sets), COMBINATIONS, folder / "combinations.csv")
    key = {"layer": 1, "seed": 0, "n_features": 8, "k": 2, "n_rows": 100, "alive": 7, "dead": 1}
    worth = [
        {"on": "stream", "kind": "trained", "explained": 0.9, "recovered": 0.97, "stability": 0.6},
        {"on": "stream", "kind": "frozen_encoder", "explained": 0.8, "recovered": 0.96},
        {"on": "untrained model", "kind": "trained", "explained": 0.95},
        {"on": "planted", "kind": "trained", "explained": 0.9, "found": 0.4},
        {"on": "planted", "kind": "frozen_encoder", "explained": 0.7, "found": 0.0},
    ]
    of_worth = pd.DataFrame([key | row for row in worth]).reindex(
        columns=list(AUTOENCODERS.columns)
    )
    tables.write(of_worth, AUTOENCODERS, folder / "autoencoders.csv")
    key = {"layer": 1, "seed": 0, "readout": "markers", "n_features": 4, "n_sequences": 9.0}
    steered = [
        key
        | {"kind": kind, "dose": dose, "shift": shift, "low": shift, "high": shift, "positive": 1}
        for kind, shift in (("feature", 0.04), ("random feature", -0.01), ("ceiling", 0.2))
        for dose in (2, 4)
    ]
    table = pd.DataFrame(steered).reindex(columns=list(STEERING.columns))
    tables.write(table, STEERING, folder / "steering.csv")
    named = {"collection": "programme", "n_sets": 4, "n_background": 40, "n_features": 10}
    named |= {"annotated": 3, "permuted": 0.1, "hubs": 2, "hubs_annotated": 1, "odds_ratio": 2.0}
    tables.write(pd.DataFrame([named | {"p": 0.5}]), ANNOTATED, folder / "annotated.csv")
    return tmp_path / "tables"


def _asked(settings):
    features = settings.features.model_copy(update={"names": ["toy"], "of": "cellmodel"})
    return settings.model_copy(update={"features": features})


def test_the_paper_says_of_features_what_was_found(folder_of_tables, settings):
    found = report.context(reading.Tables(folder_of_tables), _asked(settings))
    assert not found["specific"]
    values = {"features": found, "settings": settings, "significant": 0.05}
    text = " ".join(Templates().fill("sections/features.md.j2", values).split())
    assert "Edges are no more than random directions make" in text
    # Two sets do not tell what the ratio follows.
    assert "The published ratio does not measure redundancy" not in text
    assert "the markers by +0.040 (random" in text
    assert "| encoder frozen | 0.80 | 0.96 | 7 | 0% |" in text


@pytest.mark.parametrize(("followed", "blind"), [("additive", True), ("raw", False)])
def test_a_ratio_that_follows_exact_sums_does_not_measure_redundancy(followed, blind):
    ratios = {"raw": [0.5, 0.9, 0.6, 1.0], "additive": [0.3, 0.4, 0.6, 0.5], "order": 3}
    of = pd.DataFrame(ratios).assign(low=0.4, high=0.8)
    found = report.together(of.assign(published=of[followed] + 0.01))
    assert found["blind"] is blind
    assert found["rho_additive" if blind else "rho"] == pytest.approx(1)


def test_without_a_model_the_paper_is_silent_on_features(tmp_path, settings):
    features = settings.features.model_copy(update={"names": []})
    asked = settings.model_copy(update={"features": features})
    assert report.context(reading.Tables(tmp_path), asked) == {}


def test_the_figure_shows_every_null_and_stays_on_its_page(folder_of_tables, drawn_texts):
    schemas = {"tracing": TRACING, "traced": TRACED, "combinations": COMBINATIONS}
    schemas |= {"steering": STEERING}
    folder = folder_of_tables / "features"
    shown = [tables.read(folder / f"{name}.csv", schema) for name, schema in schemas.items()]
    for last, said in ((shown[3], "ceiling"), (tables.empty(STEERING), "not in these inputs")):
        drawn = figure.draw(*shown[:3], last)
        seen = [text.get_text() for text, _ in drawn_texts(drawn)]
        assert said in seen
        assert "published, of exact sums" in seen
        assert sum("mean" in text for text in seen) == 4
        page = drawn.bbox
        for text, box in drawn_texts(drawn):
            assert box.x0 >= page.x0 - 1, text.get_text()
            assert box.x1 <= page.x1 + 1, text.get_text()


def test_a_killed_tracing_goes_on_from_its_shards(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(trace, "bench", lambda where, seed: bench)
    work = partial(trace._work, Files(Path(), Path(), Path(), Path(), "cpu"))
    every = [Shard("seed0-0", "key", trace.Task(0, (HUB, EDGE), ()))]
    store = Store(str(tmp_path))
    (first,) = store.filled(every, work, on=["cpu"])
    ran = []
    with monkeypatch.context() as patched:
        patched.setattr(trace, "traced", lambda *task: ran.append(task))
        (again,) = store.filled(every, work, on=["cpu"])
    assert not ran
    np.testing.assert_array_equal(first["d"], again["d"])
    # A damaged one is computed again.
    shard = next(tmp_path.glob("*.npz"))
    shard.write_bytes(shard.read_bytes()[:-30])
    np.testing.assert_array_equal(store.filled(every, work, on=["cpu"])[0]["d"], first["d"])


PUBLISHED = Path(__file__).parents[3] / "shared" / "reference" / "feature_tracing"
needs_reference = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="the published results of feature tracing are not here"
)


@needs_reference
def test_published_features_have_more_edges_than_random_directions_by_the_same_sum():
    content = json.loads((PUBLISHED / "P1_normmatched_summary.json").read_text())
    rows = pd.DataFrame(content["per_feature"])
    arrays = {
        "feature": np.tile(rows["feature_idx"], 2),
        "direction": np.repeat([0, 1], len(rows)),
        "flipped": np.zeros(2 * len(rows)),
    }
    edges_of = np.concatenate([rows["edges_real"], rows["edges_normmatched"]])
    found = trace.tracing(arrays, dict.fromkeys(trace.RULES, edges_of), 0, TRACE)
    random = next(row for row in found if row["direction"] == "random")
    assert random["ratio"] == pytest.approx(content["ratio_real_over_normmatched"])
    assert random["ratio_low"] > 10


@needs_reference
def test_the_published_tail_is_found_again_in_the_calibrated_features():
    content = json.loads((PUBLISHED / "P1_calibration_per_feature.json").read_text())
    observed = np.array([row["observed_edges"] for row in content.values()], dtype=float)
    assert len(observed) == 600
    # As computed from the file by hand: Gini 0.39, effective number 470.
    assert gini(observed) == pytest.approx(0.39, abs=0.005)
    assert effective_number(observed) == pytest.approx(470, abs=1)
    tail = heavy_tails.power_law(observed)
    assert tail is not None
    _, p = heavy_tails.against(observed, tail, "lognormal")
    # Inconclusive, as published of all features.
    assert p > 0.05


def test_the_published_study_is_a_preset_by_name():
    settings = parse(compose(CONF, ["+preset=published-features"]))
    own = parse(compose(CONF, []))
    training, trace_ = settings.autoencoders.training, settings.trace
    # Four times the 1,152 dimensions of Geneformer V2-316M.
    assert (training.features, training.k, settings.autoencoders.mean) == (4 * 1152, 32, "all")
    assert settings.autoencoders.layers == [5, 6, 11, 17]
    assert (settings.autoencoders.source, trace_.sequences, trace_.flips) == (5, 20, 500)
    assert (trace_.min_d, trace_.min_consistency) == (0.5, 0.7)
    changed = differences(own.model_dump(mode="json"), settings.model_dump(mode="json"))
    assert {key.partition(".")[0] for key in changed} == {"autoencoders", "trace"}
