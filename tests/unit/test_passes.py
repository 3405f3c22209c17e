"""Heads are removed exactly: four routes, per-head contributions, planted models, memory."""

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from stages.base.errors import AblationError
from stages.measurement.concentration import gini
from stages.models import losses as losses_module
from stages.models.architectures import architecture_of
from stages.models.devices import cast_blocks, matmul_precision
from stages.models.interventions import AblationType, Block, Heads, single_heads
from stages.models.passes import Passes
from stages.models.text import masked_tokens, next_tokens

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


def passes_of(model, tokens, reference=None, **options):
    other = None if reference is None else next_tokens(reference)
    return Passes(model, next_tokens(tokens), reference=other, **options)


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
    passes = passes_of(model, tokens)
    n_checked = 0
    for layer in range(N_LAYERS):
        found = passes.run(single_heads(layer, range(N_HEADS)))
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
    assert (passes.baseline() - base).abs().max() < by_sequence


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
        state = architecture.run(block, state)
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
    assert torch.allclose(passes_of(model, tokens).run(single_heads(1, [2]))[0], right)

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
    passes = passes_of(model, tokens)
    losses = [passes.run(single_heads(layer, range(N_HEADS))) for layer in range(N_LAYERS)]
    return torch.stack(losses) - passes.baseline()  # (layers, heads, sequences)


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
    passes = passes_of(model, tokens)
    for layer in range(N_LAYERS):
        emptied = copy.deepcopy(model)
        for parameter in emptied.gpt_neox.layers[layer].parameters():
            parameter.zero_()
        expected = sequence_losses(emptied(tokens).logits, tokens)
        assert (passes.run([(Block(layer),)])[0] - expected).abs().max() < 1e-12  # seen: 1e-15


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
def test_the_batch_changes_nothing_but_rounding(batch, tokens):
    model = make_model(dtype=torch.float64)
    expected = all_effects(model, tokens)
    passes = passes_of(model, tokens, batch=batch)
    for layer in range(N_LAYERS):
        found = passes.run(single_heads(layer, range(N_HEADS)))
        assert found.shape == (N_HEADS, len(tokens))
        effects = found - passes_of(model, tokens).baseline()
        assert (effects - expected[layer]).abs().max() < 1e-12


def test_the_number_of_workers_changes_nothing(tokens):
    model = make_model()
    before = torch.get_num_threads()
    found = []
    for workers in (1, 2, 3):
        passes = passes_of(model, tokens, batch=2)
        passes.workers = workers
        torch.set_num_threads(1)
        found.append(
            torch.stack(
                [passes.run(single_heads(layer, range(N_HEADS))) for layer in range(N_LAYERS)]
            )
        )
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_memory_runs_out_for_several_workers(tokens, monkeypatch):
    model = make_model(dtype=torch.float64)
    expected = passes_of(model, tokens).run(single_heads(0, range(N_HEADS)))
    passes = passes_of(model, tokens, batch=8)
    passes.workers = 2
    run = passes.architecture.run

    def limited(block, hidden, attended):
        if len(hidden) > 2:
            message = "CUDA out of memory. Tried to allocate"
            raise torch.OutOfMemoryError(message)
        return run(block, hidden, attended)

    monkeypatch.setattr(passes.architecture, "run", limited)
    found = passes.run(single_heads(0, range(N_HEADS)))
    assert (found - expected).abs().max() < 1e-12
    assert passes.batch <= 2


def test_the_loss_in_pieces_is_the_loss(tokens, monkeypatch):
    model = make_model(dtype=torch.float64)
    whole = passes_of(model, tokens).baseline()
    monkeypatch.setattr(losses_module, "MIN_LOGIT_ROWS", 7)
    monkeypatch.setattr(losses_module, "CPU_LOGITS", 1)
    assert (passes_of(model, tokens).baseline() - whole).abs().max() < 1e-12


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
    expected = passes_of(model, tokens).run(single_heads(0, range(N_HEADS)))
    passes = passes_of(model, tokens, batch=16)
    passes.workers = 1
    tried = []
    run = passes.architecture.run

    def limited(block, hidden, attended):
        tried.append(len(hidden))
        if tried[-1] > 3:
            raise error
        return run(block, hidden, attended)

    monkeypatch.setattr(passes.architecture, "run", limited)
    found = passes.run(single_heads(0, range(N_HEADS)))
    assert (found - expected).abs().max() < 1e-12
    assert max(tried) > 3
    assert passes.batch <= 3
    assert "out of memory at 16 sequences in one pass; going on with 8" in caplog.text


def test_one_sequence_that_does_not_fit_is_said(tokens, monkeypatch):
    passes = passes_of(make_model(), tokens)

    def full(*_):
        message = "CUDA out of memory. Tried to allocate"
        raise torch.OutOfMemoryError(message)

    monkeypatch.setattr(losses_module, "token_losses", full)
    with pytest.raises(AblationError, match=r"one sequence of 23 tokens does not fit"):
        passes.baseline()


def test_another_runtime_error_is_not_taken_for_memory(tokens, monkeypatch):
    passes = passes_of(make_model(), tokens)

    def broken(*_):
        message = "shapes cannot be multiplied"
        raise RuntimeError(message)

    monkeypatch.setattr(losses_module, "token_losses", broken)
    with pytest.raises(RuntimeError, match="multiplied"):
        passes.baseline()


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
            (
                torch.full((2, 8), VOCABULARY),
                r"token 100, .* ends at 99: the tokenizer does not fit",
            ),
            (torch.full((2, 8), -1), "token -1"),
            (torch.zeros(2, 66, dtype=torch.long), r"sequences of 65, the model has 64 positions"),
            (torch.zeros(0, 8, dtype=torch.long), r"shape \(0, 8\): at least one sequence"),
            (torch.zeros(2, 1, dtype=torch.long), r"shape \(2, 1\)"),
            (torch.zeros(8, dtype=torch.long), r"shape \(8,\)"),
        ],
    )
    def test_tokens(self, bad, said):
        with pytest.raises(AblationError, match=said):
            passes_of(make_model(), bad)

    def test_reference_of_another_length(self, tokens):
        with pytest.raises(AblationError, match="reference text comes in sequences of 9"):
            passes_of(make_model(), tokens, reference=tokens[:, :10])

    def test_no_reference(self, tokens):
        with pytest.raises(AblationError, match="mean ablation needs a reference text"):
            passes_of(make_model(), tokens).run(single_heads(0, [0], AblationType.MEAN))

    @pytest.mark.parametrize(
        ("layer", "head", "said"),
        [(3, 0, "layers 0 to 2"), (-1, 0, "layer -1"), (0, 4, "heads 0 to 3"), (0, -1, "head -1")],
    )
    def test_head_or_layer_out_of_range(self, layer, head, said, tokens):
        with pytest.raises(AblationError, match=said):
            passes_of(make_model(), tokens).run(single_heads(layer, [head]))

    @pytest.mark.parametrize(
        ("attended", "said"),
        [
            ([[1, 1, 1, 1], [0, 0, 0, 0]], "sequence 1 has 0 tokens beside its padding"),
            ([[1, 1, 1, 1], [1, 0, 0, 0]], "sequence 1 has 1 tokens beside its padding"),
            ([[0, 1, 1, 1], [1, 1, 1, 1]], "sequence 0 is padded before its last token"),
            ([[1, 1, 1], [1, 1, 1]], r"shape \(2, 3\), the tokens have the shape \(2, 4\)"),
        ],
    )
    def test_padding(self, attended, said):
        marked = torch.tensor(attended, dtype=torch.bool)
        with pytest.raises(AblationError, match=said):
            next_tokens(torch.zeros(2, 4, dtype=torch.long), marked)

    def test_nothing_to_predict(self):
        with pytest.raises(AblationError, match="sequence 1 holds nothing but mask tokens"):
            masked_tokens(torch.tensor([[1, 2], [9, 9]]), 9)

    def test_a_head_that_is_taken_out_twice(self, tokens):
        twice = (Heads(0, (1, 2)), Heads(0, (2,), AblationType.ZERO, 1))
        with pytest.raises(AblationError, match="head 2 of layer 0 is taken out twice"):
            passes_of(make_model(), tokens).run([twice])
