"""What is put in the place of heads and weights; test_families.py holds it to transformers."""

import copy

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from stages.base.errors import AblationError
from stages.models.interventions import (
    AblationType,
    Noise,
    donors,
    noised,
    reference_mean,
    single_heads,
)
from tests.unit.test_passes import passes_of

N_LAYERS, N_HEADS, HIDDEN, VOCABULARY, SEQ = 2, 4, 32, 80, 16
D_HEAD = HIDDEN // N_HEADS


@pytest.fixture(scope="module", params=[True, False], ids=["parallel", "sequential"])
def model(request):
    torch.manual_seed(4)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        intermediate_size=HIDDEN,
        max_position_embeddings=SEQ,
        use_parallel_residual=request.param,
        tie_word_embeddings=False,
        use_cache=False,
        initializer_range=0.3,
    )
    model = GPTNeoXForCausalLM(config).eval().requires_grad_(requires_grad=False)
    return model.to(torch.float64)


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(5)
    return (
        torch.randint(VOCABULARY, (5, SEQ), generator=generator),
        torch.randint(VOCABULARY, (3, SEQ), generator=generator),
    )


def test_the_kinds_differ(model, texts):
    tokens, reference = texts
    found = [
        passes_of(model, tokens, reference=reference).run(single_heads(0, [1], kind, seed=1))
        for kind in AblationType
    ]
    for index, one in enumerate(found):
        for other in found[index + 1 :]:
            assert (one - other).abs().max() > 1e-4


def test_a_head_that_always_writes_the_same_is_not_changed_by_its_mean(model, texts):
    tokens, reference = texts
    constant = copy.deepcopy(model)
    joint = constant.gpt_neox.layers[1].attention.query_key_value
    values = slice(2 * D_HEAD, 3 * D_HEAD)  # of head 0, behind its query and key
    joint.weight[values] = 0
    passes = passes_of(constant, tokens, reference=reference)
    found = passes.run(single_heads(1, [0], AblationType.MEAN))[0]
    positional = passes.run(single_heads(1, [0], AblationType.MEAN_POSITIONAL))[0]
    base = passes.baseline()
    assert (found - base).abs().max() < 1e-12
    assert (positional - base).abs().max() < 1e-12


def test_a_mean_of_one_head_needs_a_mean_kind():
    with pytest.raises(AblationError, match="zero has no average"):
        reference_mean(torch.zeros(1, 2, 3), AblationType.ZERO)


def test_donors_come_from_the_seed_and_within_range():
    drawn = donors(1000, 7, seed=3)
    again = donors(1000, 7, seed=3)
    assert torch.equal(drawn, again)
    assert set(drawn.tolist()) == set(range(7))


class TestNoise:
    def test_it_is_the_companions_definition(self, model):
        block = model.gpt_neox.layers[0]
        changed = noised(block, alpha=0.7, seed=42_003)
        generator = torch.Generator().manual_seed(42_003)
        n_checked = 0
        for name, weight in block.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator).double()
            expected = weight + 0.7 * weight.std() * drawn
            assert torch.allclose(changed.get_parameter(name), expected, rtol=0, atol=1e-14), name
            n_checked += 1
        assert n_checked == 12

    def test_the_block_itself_is_left_alone(self, model):
        before = copy.deepcopy(model.gpt_neox.layers[0].state_dict())
        noised(model.gpt_neox.layers[0], alpha=1.0, seed=1)
        for name, weight in model.gpt_neox.layers[0].state_dict().items():
            assert torch.equal(weight, before[name])

    def test_the_engine_runs_the_noised_block(self, model, texts):
        tokens, _ = texts
        passes = passes_of(model, tokens)
        for layer in range(N_LAYERS):
            changed = copy.deepcopy(model)
            changed.gpt_neox.layers[layer] = noised(model.gpt_neox.layers[layer], alpha=1.0, seed=9)
            expected = passes_of(changed, tokens).baseline()
            found = passes.run([(Noise(layer, 1.0, 9),)])[0]
            assert (found - expected).abs().max() < 1e-12
