"""Attribution against finite differences and hand sums; the control variate against known means."""

import numpy as np
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from stages.ablation import attribution, control_variate
from stages.errors import AblationError


@pytest.fixture(scope="module", params=[True, False], ids=["parallel", "sequential"])
def model(request):
    torch.manual_seed(1)
    config = GPTNeoXConfig(
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        use_parallel_residual=request.param,
        initializer_range=0.2,
    )
    built = GPTNeoXForCausalLM(config).double().eval()
    return built.requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, 97, (5, 16), generator=torch.Generator().manual_seed(2))


def _loss(model, tokens):
    with torch.no_grad():
        logits = model(input_ids=tokens).logits[:, :-1]
    each = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), tokens[:, 1:], reduction="none"
    )
    return each.mean(dim=1).numpy()


def test_first_order_effect_is_the_slope_of_fading_a_head_out(model, tokens):
    found = attribution.features(model, tokens, batch_size=2)
    np.testing.assert_allclose(found.loss, _loss(model, tokens), rtol=1e-12)
    fade = 1e-5
    for layer, head in [(0, 1), (1, 3), (2, 0)]:
        weight = model.base_model.layers[layer].attention.dense.weight
        columns = slice(head * 8, (head + 1) * 8)
        kept = weight[:, columns].clone()
        losses = []
        for factor in (1 - fade, 1 + fade):
            weight[:, columns] = kept * factor
            losses.append(_loss(model, tokens))
        weight[:, columns] = kept
        slope = (losses[0] - losses[1]) / (2 * fade)
        # Central differences in double precision: observed 3e-11.
        np.testing.assert_allclose(found.first_order[:, layer, head], slope, atol=1e-9)


def test_size_is_the_contribution_made_by_hand(model, tokens):
    found = attribution.features(model, tokens, batch_size=5)
    layer, head = 1, 2
    block = model.base_model.layers[layer]
    seen = {}
    hooks = [
        block.register_forward_pre_hook(lambda _m, args: seen.update(residual=args[0])),
        block.attention.dense.register_forward_pre_hook(
            lambda _m, args: seen.update(heads=args[0])
        ),
    ]
    _loss(model, tokens)
    for hook in hooks:
        hook.remove()
    columns = slice(head * 8, (head + 1) * 8)
    written = seen["heads"][..., columns] @ block.attention.dense.weight[:, columns].T
    centred = seen["residual"] - seen["residual"].mean(dim=-1, keepdim=True)
    by_hand = (written.square().sum(-1) / centred.square().sum(-1)).mean(dim=1)
    np.testing.assert_allclose(found.size[:, layer, head], by_hand.numpy(), rtol=1e-10)


def test_batches_change_nothing_and_no_hook_is_left(model, tokens):
    one = attribution.features(model, tokens, batch_size=1).columns()
    all_at_once = attribution.features(model, tokens, batch_size=5).columns()
    np.testing.assert_allclose(one, all_at_once, rtol=1e-9, atol=1e-14)
    assert one.shape == (5, 3, 4, 4)
    assert all(not module._forward_hooks for module in model.modules())
    assert all(not parameter.requires_grad for parameter in model.parameters())


# Nominal 95%. Observed: 0.944.
COVERAGE = (0.92, 0.975)


def _population(rng, *, n=600, n_heads=12, noise=0.3):
    """Return features and effects whose relation is linear but for noise and a bend."""
    columns = rng.normal(size=(n, n_heads, 4))
    slopes = rng.normal(size=(n_heads, 4))
    effects = np.einsum("nhk,hk->nh", columns, slopes) + 0.2 * columns[..., 0] ** 2
    return columns, effects + noise * rng.normal(size=(n, n_heads)) + rng.normal(size=n_heads)


def test_estimates_cover_the_exact_means_over_repeated_draws():
    rng = np.random.default_rng(3)
    columns, effects = _population(rng)
    truth = effects.mean(axis=0)
    errors, covered = [], []
    for _ in range(300):
        subset = rng.choice(len(effects), 48, replace=False)
        found = control_variate.estimate(effects[subset], subset, columns, rng=rng)
        errors.append(found.mean - truth)
        covered.append(np.abs(errors[-1]) < 1.96 * found.se_subset)
    # Unbiased: no head's mean error lies beyond four standard errors of 300 draws.
    assert (np.abs(np.mean(errors, axis=0)) < 4 * np.std(errors, axis=0) / np.sqrt(300)).all()
    assert COVERAGE[0] <= np.mean(covered) <= COVERAGE[1]


def test_a_good_fit_is_worth_many_exact_sequences():
    rng = np.random.default_rng(4)
    columns, effects = _population(rng)
    subset = rng.choice(len(effects), 48, replace=False)
    found = control_variate.estimate(effects[subset], subset, columns, rng=rng)
    assert found.fitted.all()
    assert np.median(control_variate.equivalent_sequences(found, effects[subset]) / 48) > 5


def test_misleading_features_leave_the_plain_mean():
    rng = np.random.default_rng(5)
    columns, effects = rng.normal(size=(400, 6, 4)), rng.normal(size=(400, 6))
    subset = rng.choice(400, 40, replace=False)
    found = control_variate.estimate(effects[subset], subset, columns, rng=rng)
    assert not found.fitted.any()
    np.testing.assert_allclose(found.mean, effects[subset].mean(axis=0))
    plain = effects[subset].std(axis=0, ddof=1) / np.sqrt(40) * np.sqrt(1 - 40 / 400)
    np.testing.assert_allclose(found.se_subset, plain)


def test_a_head_without_any_effect_is_zero_for_certain():
    rng = np.random.default_rng(6)
    columns, effects = _population(rng)
    columns[:, 0], effects[:, 0] = 0.0, 0.0
    subset = rng.choice(len(effects), 40, replace=False)
    found = control_variate.estimate(effects[subset], subset, columns, rng=rng)
    assert (found.mean[0], found.se_subset[0]) == (0.0, 0.0)


def test_too_few_exact_sequences_are_refused():
    rng = np.random.default_rng(7)
    columns, effects = _population(rng)
    with pytest.raises(AblationError, match="31 exact sequences are too few"):
        control_variate.estimate(effects[:31], np.arange(31), columns, rng=rng)
    with pytest.raises(AblationError, match="do not belong together"):
        control_variate.estimate(effects[:40], np.zeros(40, int), columns, rng=rng)
