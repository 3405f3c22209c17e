"""The engine removes heads exactly: four routes, per-head contributions, planted models, memory."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from stages.base.errors import AblationError
from stages.measurement.concentration import gini
from stages.models import engine as engine_module
from stages.models.architecture import architecture_of, load_model, run_block
from stages.models.engine import Engine, cast_blocks, matmul_precision
from stages.models.perturbation import AblationType

N_LAYERS, N_HEADS, HIDDEN, VOCABULARY, SEQ = 3, 4, 32, 100, 24
D_HEAD = HIDDEN // N_HEADS


def make_model(*, parallel=True, dtype=torch.float32, seed=0, **changes):
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "num_hidden_layers": N_LAYERS,
            "num_attention_heads": N_HEADS,
            "intermediate_size": 2 * HIDDEN,
            "max_position_embeddings": 64,
            "use_parallel_residual": parallel,
            "tie_word_embeddings": False,
            "use_cache": False,
            "initializer_range": 0.3,
        }
        | changes
    )
    model = GPTNeoXForCausalLM(config).eval().requires_grad_(requires_grad=False)
    with torch.no_grad():
        # Biases start at 0 and norms at 1, where mistakes would not show.
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.2)
            assert torch.isfinite(weight).all(), name
    return model.to(dtype)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(VOCABULARY, (5, SEQ), generator=torch.Generator().manual_seed(1))


def sequence_losses(logits, tokens):
    losses = F.cross_entropy(logits[:, :-1].mT, tokens[:, 1:], reduction="none")
    return losses.double().mean(dim=1)


@torch.no_grad()
def zeroed_columns(model, tokens, layer, head):
    """Route 2: the companion's way."""
    weight = model.gpt_neox.layers[layer].attention.dense.weight
    saved = weight.clone()
    weight[:, head * D_HEAD : (head + 1) * D_HEAD] = 0
    losses = sequence_losses(model(tokens).logits, tokens)
    weight.copy_(saved)
    return losses


@torch.no_grad()
def hooked(model, tokens, layer, head):
    """Route 3: a pre-hook empties the head's slice of the projection's input."""

    def empty(_, arguments):
        heads = arguments[0].clone()
        heads[..., head * D_HEAD : (head + 1) * D_HEAD] = 0
        return (heads,)

    handle = model.gpt_neox.layers[layer].attention.dense.register_forward_pre_hook(empty)
    losses = sequence_losses(model(tokens).logits, tokens)
    handle.remove()
    return losses


@torch.no_grad()
def replicas(model, tokens, layer):
    """Route 4: one forward pass of copies of the text, each without another head."""

    def empty(_, arguments):
        heads = arguments[0].clone().view(N_HEADS, len(tokens), SEQ, N_HEADS, D_HEAD)
        for head in range(N_HEADS):
            heads[head, ..., head, :] = 0
        return (heads.view_as(arguments[0]),)

    handle = model.gpt_neox.layers[layer].attention.dense.register_forward_pre_hook(empty)
    copies = tokens.repeat(N_HEADS, 1)
    losses = sequence_losses(model(copies).logits, copies)
    handle.remove()
    return losses.view(N_HEADS, len(tokens))


# Largest differences seen, in nats: 7e-7 a sequence and 4e-7 a head in float32, 2e-15 in float64.
@pytest.mark.parametrize("parallel", [True, False], ids=["parallel", "sequential"])
@pytest.mark.parametrize(
    ("dtype", "by_sequence", "by_head"),
    [(torch.float32, 5e-6, 1e-6), (torch.float64, 1e-12, 1e-12)],
    ids=["float32", "float64"],
)
def test_four_routes_agree(dtype, by_sequence, by_head, parallel, tokens):
    model = make_model(parallel=parallel, dtype=dtype)
    engine = Engine(model, tokens)
    n_checked = 0
    for layer in range(N_LAYERS):
        found = engine.without_heads(layer, range(N_HEADS), AblationType.ZERO)
        copied = replicas(model, tokens, layer)
        for head in range(N_HEADS):
            for other in (
                zeroed_columns(model, tokens, layer, head),
                hooked(model, tokens, layer, head),
                copied[head],
            ):
                assert (found[head] - other).abs().max() < by_sequence
                assert abs(found[head].mean() - other.mean()) < by_head
                n_checked += 1
    assert n_checked == N_LAYERS * N_HEADS * 3
    base = sequence_losses(model(tokens).logits, tokens)
    assert (engine.baseline() - base).abs().max() < by_sequence


@pytest.mark.parametrize("seq", [17, 48, 49, 64, 600])
def test_a_block_is_the_models_own_at_every_length(seq):
    # 600 is longer than what attends in bands, 49 is one band and one position.
    model = make_model(max_position_embeddings=600, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    long = torch.randint(VOCABULARY, (2, seq), generator=generator)
    hidden = model.gpt_neox(long, output_hidden_states=True).hidden_states
    architecture = architecture_of(model)
    state = architecture.embed(long)
    for layer, block in enumerate(architecture.blocks):
        state = run_block(architecture, block, state)
        if layer < N_LAYERS - 1:  # the last recorded state is normalised
            # Seen: 5e-15.
            assert (state - hidden[layer + 1]).abs().max() < 1e-11
    assert (architecture.normalise(state) - hidden[-1]).abs().max() < 1e-11


def test_contributions_and_bias_sum_to_the_projections_output(tokens):
    model = make_model(dtype=torch.float64)
    architecture = architecture_of(model)
    block = architecture.blocks[1]
    hidden = torch.randn(2, SEQ, HIDDEN, dtype=torch.float64)
    written = architecture.heads(block, hidden)
    weight, bias = architecture.projection(block)
    total = bias.expand(2, SEQ, -1).clone()
    for head in range(N_HEADS):
        columns = slice(head * D_HEAD, (head + 1) * D_HEAD)
        total += written[..., columns] @ weight[:, columns].T
    whole = block.attention.dense(written)
    assert (total - whole).abs().max() < 1e-12  # seen: 2e-15


def test_slicing_the_projections_output_is_another_quantity(tokens):
    model = make_model()
    right = zeroed_columns(model, tokens, 1, 2)
    assert torch.allclose(Engine(model, tokens).without_heads(1, [2], AblationType.ZERO)[0], right)

    def empty(_, __, output):
        changed = output.clone()
        changed[..., 2 * D_HEAD : 3 * D_HEAD] = 0
        return changed

    handle = model.gpt_neox.layers[1].attention.dense.register_forward_hook(empty)
    wrong = sequence_losses(model(tokens).logits, tokens)
    handle.remove()
    assert (wrong - right).abs().max() > 0.01


def test_transformers_ignores_head_mask_so_that_every_effect_would_be_0(tokens):
    # If this fails, head_mask is back: the trap in the notes is gone.
    model = make_model()
    mask = torch.ones(N_LAYERS, N_HEADS)
    mask[1, 2] = 0
    assert torch.equal(model(tokens, head_mask=mask).logits, model(tokens).logits)


def planted(*, only=None):
    """Return a model whose heads write nothing, but for one."""
    model = make_model()
    for layer, block in enumerate(model.gpt_neox.layers):
        for head in range(N_HEADS):
            if (layer, head) != only:
                block.attention.dense.weight[:, head * D_HEAD : (head + 1) * D_HEAD] = 0
    return model


def all_effects(model, tokens):
    engine = Engine(model, tokens)
    losses = [
        engine.without_heads(layer, range(N_HEADS), AblationType.ZERO) for layer in range(N_LAYERS)
    ]
    return torch.stack(losses) - engine.baseline()  # (layers, heads, sequences)


def test_a_planted_head_comes_first_and_gini_is_at_its_maximum(tokens):
    effects = all_effects(planted(only=(1, 2)), tokens).mean(dim=-1).abs()
    assert divmod(int(effects.argmax()), N_HEADS) == (1, 2)
    n = N_LAYERS * N_HEADS
    assert gini(effects.flatten().numpy()) == pytest.approx(1 - 1 / n, abs=1e-12)
    assert torch.count_nonzero(effects) == 1


def test_heads_that_write_nothing_have_no_effect(tokens):
    assert torch.count_nonzero(all_effects(planted(), tokens)) == 0


def test_a_removed_layer_is_a_block_without_parameters(tokens):
    model = make_model(dtype=torch.float64)
    engine = Engine(model, tokens)
    for layer in range(N_LAYERS):
        emptied = copy.deepcopy(model)
        for parameter in emptied.gpt_neox.layers[layer].parameters():
            parameter.zero_()
        expected = sequence_losses(emptied(tokens).logits, tokens)
        assert (engine.without_layer(layer) - expected).abs().max() < 1e-12  # seen: 1e-15


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
def test_the_batch_changes_nothing_but_rounding(batch, tokens):
    model = make_model(dtype=torch.float64)
    expected = all_effects(model, tokens)
    engine = Engine(model, tokens, batch=batch)
    for layer in range(N_LAYERS):
        found = engine.without_heads(layer, range(N_HEADS), AblationType.ZERO)
        assert found.shape == (N_HEADS, len(tokens))
        effects = found - Engine(model, tokens).baseline()
        assert (effects - expected[layer]).abs().max() < 1e-12


def test_the_number_of_workers_changes_nothing(tokens):
    model = make_model()
    before = torch.get_num_threads()
    found = []
    for workers in (1, 2, 3):
        engine = Engine(model, tokens, batch=2)
        engine.workers = workers
        torch.set_num_threads(1)
        found.append(
            torch.stack(
                [
                    engine.without_heads(layer, range(N_HEADS), AblationType.ZERO)
                    for layer in range(N_LAYERS)
                ]
            )
        )
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_memory_runs_out_for_several_workers(tokens, monkeypatch):
    model = make_model(dtype=torch.float64)
    expected = Engine(model, tokens).without_heads(0, range(N_HEADS), AblationType.ZERO)
    engine = Engine(model, tokens, batch=8)
    engine.workers = 2
    run = engine._pass

    def limited(layer, state, sequences):
        if state.shape[0] * state.shape[1] > 2:
            message = "CUDA out of memory. Tried to allocate"
            raise torch.OutOfMemoryError(message)
        return run(layer, state, sequences)

    monkeypatch.setattr(engine, "_pass", limited)
    found = engine.without_heads(0, range(N_HEADS), AblationType.ZERO)
    assert (found - expected).abs().max() < 1e-12
    assert engine.batch <= 2


def test_the_loss_in_pieces_is_the_loss(tokens, monkeypatch):
    model = make_model(dtype=torch.float64)
    whole = Engine(model, tokens).baseline()
    monkeypatch.setattr(engine_module, "MIN_LOGIT_ROWS", 7)
    monkeypatch.setattr(engine_module, "CPU_LOGITS", 1)
    assert (Engine(model, tokens).baseline() - whole).abs().max() < 1e-12


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
    ids=["cuda", "cpu"],
)
def test_out_of_memory_halves_the_batch_and_goes_on(error, tokens, monkeypatch, caplog):
    caplog.set_level("INFO")
    model = make_model(dtype=torch.float64)
    expected = Engine(model, tokens).without_heads(0, range(N_HEADS), AblationType.ZERO)
    engine = Engine(model, tokens, batch=16)
    engine.workers = 1
    tried = []
    run = engine._pass

    def limited(layer, state, sequences):
        tried.append(state.shape[0] * state.shape[1])
        if tried[-1] > 3:
            raise error
        return run(layer, state, sequences)

    monkeypatch.setattr(engine, "_pass", limited)
    found = engine.without_heads(0, range(N_HEADS), AblationType.ZERO)
    assert (found - expected).abs().max() < 1e-12
    assert max(tried) > 3
    assert engine.batch <= 3
    assert "out of memory at 16 sequences in one pass; going on with 8" in caplog.text


def test_one_sequence_that_does_not_fit_is_said(tokens, monkeypatch):
    engine = Engine(make_model(), tokens)

    def full(*_):
        message = "CUDA out of memory. Tried to allocate"
        raise torch.OutOfMemoryError(message)

    monkeypatch.setattr(engine, "_pass", full)
    with pytest.raises(AblationError, match=r"one sequence of 23 tokens does not fit"):
        engine.baseline()


def test_another_runtime_error_is_not_taken_for_memory(tokens, monkeypatch):
    engine = Engine(make_model(), tokens)

    def broken(*_):
        message = "shapes cannot be multiplied"
        raise RuntimeError(message)

    monkeypatch.setattr(engine, "_pass", broken)
    with pytest.raises(RuntimeError, match="multiplied"):
        engine.baseline()


def test_bf16_is_near_and_not_equal(tokens):
    exact = all_effects(make_model(), tokens)
    with matmul_precision("bf16"):
        rough = all_effects(cast_blocks(make_model(), "bf16"), tokens)
    apart = (exact - rough).abs().max()
    assert 1e-5 < apart < 0.1  # seen: 0.0095
    assert torch.get_float32_matmul_precision() == "highest"


class TestBadInput:
    @pytest.mark.parametrize(
        ("bad", "said"),
        [
            (torch.full((2, 8), VOCABULARY), r"id 100, .* ends at 99: the tokenizer does not fit"),
            (torch.full((2, 8), -1), "id -1"),
            (torch.zeros(2, 65, dtype=torch.long), r"sequences of 65, the model has 64 positions"),
            (torch.zeros(0, 8, dtype=torch.long), r"shape \(0, 8\): at least one sequence"),
            (torch.zeros(2, 1, dtype=torch.long), r"shape \(2, 1\)"),
            (torch.zeros(8, dtype=torch.long), r"shape \(8,\)"),
        ],
    )
    def test_tokens(self, bad, said):
        with pytest.raises(AblationError, match=said):
            Engine(make_model(), bad)

    def test_reference_of_another_length(self, tokens):
        with pytest.raises(AblationError, match="reference tokens come in sequences of 10"):
            Engine(make_model(), tokens, reference=tokens[:, :10])

    def test_no_reference(self, tokens):
        with pytest.raises(AblationError, match="mean ablation needs a reference text"):
            Engine(make_model(), tokens).without_heads(0, [0], AblationType.MEAN)

    @pytest.mark.parametrize(
        ("layer", "head", "said"),
        [(3, 0, "layers 0 to 2"), (-1, 0, "layer -1"), (0, 4, "heads 0 to 3"), (0, -1, "head -1")],
    )
    def test_head_or_layer_out_of_range(self, layer, head, said, tokens):
        with pytest.raises(AblationError, match=said):
            Engine(make_model(), tokens).without_heads(layer, [head], AblationType.ZERO)

    def test_going_back(self, tokens):
        engine = Engine(make_model(), tokens)
        engine.without_heads(1, [0], AblationType.ZERO)
        with pytest.raises(AblationError, match="cannot go back to 0"):
            engine.without_heads(0, [0], AblationType.ZERO)


class TestLoading:
    @pytest.fixture
    def folder(self, tmp_path):
        make_model().save_pretrained(tmp_path)
        return tmp_path

    def _change(self, folder, change):
        file = folder / "model.safetensors"
        weights = load_file(file)
        change(weights)
        save_file(weights, file, metadata={"format": "pt"})

    def test_safetensors_and_bin_load_alike_in_float32(self, folder, tokens):
        first = load_model(folder)
        weights = {name: value.half() for name, value in first.state_dict().items()}
        # What the published .bin files carry beside the weights, and their name of the output.
        weights["embed_out.weight"] = weights.pop("lm_head.weight")
        weights["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
        weights["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
        (folder / "model.safetensors").unlink()
        torch.save(weights, folder / "pytorch_model.bin")
        second = load_model(folder)
        assert {weight.dtype for weight in second.parameters()} == {torch.float32}
        for name, weight in second.named_parameters():
            assert torch.equal(weight, first.get_parameter(name).half().float()), name

    def test_float64_on_request(self, folder):
        assert next(load_model(folder, dtype=torch.float64).parameters()).dtype == torch.float64

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_nan_weights(self, folder, value):
        self._change(
            folder, lambda weights: weights["gpt_neox.layers.1.mlp.dense_h_to_4h.bias"].fill_(value)
        )
        with pytest.raises(AblationError, match=r"layers\.1\.mlp\.dense_h_to_4h\.bias holds 64"):
            load_model(folder)

    def test_wrong_shape(self, folder):
        self._change(
            folder, lambda weights: weights.update({"embed_out.weight": torch.zeros(99, HIDDEN)})
        )
        with pytest.raises(AblationError, match=r"\(99, 32\), config\.json makes it \(100, 32\)"):
            load_model(folder)

    def test_missing_weight(self, folder):
        self._change(folder, lambda weights: weights.pop("gpt_neox.final_layer_norm.bias"))
        with pytest.raises(AblationError, match=r"final_layer_norm\.bias is not among"):
            load_model(folder)

    def test_weight_of_another_model(self, folder):
        self._change(folder, lambda weights: weights.update({"extra.weight": torch.zeros(1)}))
        with pytest.raises(AblationError, match=r"extra\.weight is no weight of the model"):
            load_model(folder)

    @pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
    def test_truncated(self, folder, name):
        if name.endswith("bin"):
            torch.save(load_file(folder / "model.safetensors"), folder / name)
            (folder / "model.safetensors").unlink()
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(AblationError, match=rf"{name} is truncated") as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)

    def test_a_pickle_that_runs_code_is_refused(self, folder):
        class Harm:
            def __reduce__(self):
                return (print, ("harm",))

        (folder / "model.safetensors").unlink()
        torch.save({"weight": Harm()}, folder / "pytorch_model.bin")
        with pytest.raises(AblationError, match="holds more than tensors"):
            load_model(folder)

    def test_unknown_architecture(self, folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
        with pytest.raises(AblationError, match=r"'mamba'.* Known: gpt_neox\. Write an adapter"):
            load_model(folder)

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_missing_file(self, folder, name):
        (folder / name).unlink()
        with pytest.raises(AblationError, match=name):
            load_model(folder)

    def test_config_that_is_no_json(self, folder):
        (folder / "config.json").write_text("{")
        with pytest.raises(AblationError, match="is no JSON"):
            load_model(folder)
