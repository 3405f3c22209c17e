"""Attribution against finite differences and hand sums; the control variate against known means."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from stages.base import tables
from stages.base.errors import AblationError, TableError
from stages.heads import ablate, attribution, control_variate, screen, subset
from stages.heads.components import components
from stages.heads.settings import Screen, Sweep
from stages.heads.tables.attribution import ATTRIBUTION, HEAD_CONTROL_VARIATE, HEAD_SCREEN
from stages.measurement import effects

REPOSITORY = Path(__file__).parents[2]
SCREEN = Screen(confidence=0.95, draws=200, seed=1, top_share=0.25)


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
    # The last position predicts nothing.
    by_hand = (written.square().sum(-1) / centred.square().sum(-1))[:, :-1].mean(dim=1)
    np.testing.assert_allclose(found.size[:, layer, head], by_hand.numpy(), rtol=1e-10)


def test_batches_and_threads_change_nothing(model, tokens):
    one = attribution.features(model, tokens, batch_size=1).columns()
    all_at_once = attribution.features(model, tokens, batch_size=5).columns()
    np.testing.assert_allclose(one, all_at_once, rtol=1e-9, atol=1e-14)
    assert one.shape == (5, 3, 4, 4)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        by_three = attribution.features(model, tokens, batch_size=1).columns()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(one, by_three)
    assert all(not parameter.requires_grad for parameter in model.parameters())


def test_tokens_that_the_model_cannot_read_are_refused(model):
    with pytest.raises(AblationError, match="the id 97"):
        attribution.features(model, torch.full((2, 8), 97), batch_size=2)


def test_attribution_is_the_same_after_its_file(model, tokens, tmp_path):
    found = attribution.features(model, tokens, batch_size=2)
    path = tmp_path / "step8.parquet"
    tables.write_parquet(attribution.to_table(found, "step8"), ATTRIBUTION, path, metadata={})
    again = attribution.read(path, "step8")
    for name in ("first_order", "fisher", "size", "loss"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    with pytest.raises(TableError, match="is not the attribution of step16"):
        attribution.read(path, "step16")
    short = attribution.to_table(found, "step8").iloc[1:]
    tables.write_parquet(short, ATTRIBUTION, path, metadata={})
    with pytest.raises(TableError, match="holds 59 rows, not 3 layers x 4 heads x 5 sequences"):
        attribution.read(path, "step8")


def _columns(n=200, n_heads=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, n_heads, 4))


def test_unusual_sequences_are_taken_for_certain_and_the_others_by_chance():
    columns = _columns()
    columns[[7, 50, 123]] *= 20
    times = np.zeros(200)
    for seed in range(400):
        chosen = subset.choose(columns, 40, certain_share=0.1, rng=np.random.default_rng(seed))
        assert len(chosen.sequences) == len(set(chosen.sequences)) == 40
        assert {7, 50, 123} <= set(chosen.certain)
        assert len(chosen.certain) == 4
        times[chosen.drawn] += 1
    others = np.delete(times, chosen.certain)
    # 36 of 196, each 400 times: standard deviation 7.7 around 73.5.
    assert abs(others - 400 * 36 / 196).max() < 5 * 7.7


def test_a_subset_must_leave_something_and_hold_enough():
    with pytest.raises(AblationError, match="31 exact sequences are too few"):
        subset.choose(_columns(), 31, certain_share=0.25, rng=np.random.default_rng(0))
    with pytest.raises(AblationError, match="200 exact sequences of 200 leave none"):
        subset.choose(_columns(), 200, certain_share=0.25, rng=np.random.default_rng(0))


# Nominal 95%.
COVERAGE = (0.92, 0.975)


def _population(rng, *, n=600, n_heads=12, noise=0.3):
    """Return features and effects whose relation is linear but for noise and a bend."""
    columns = rng.normal(size=(n, n_heads, 4))
    slopes = rng.normal(size=(n_heads, 4))
    effects = np.einsum("nhk,hk->nh", columns, slopes) + 0.2 * columns[..., 0] ** 2
    return columns, effects + noise * rng.normal(size=(n, n_heads)) + rng.normal(size=n_heads)


def _draw(columns, exact, rng, *, n_exact=48, least_r2=0.1):
    chosen = subset.choose(columns, n_exact, certain_share=0.25, rng=rng)
    return chosen, control_variate.estimate(
        exact[chosen.sequences], chosen, columns, least_r2=least_r2, rng=rng
    )


def test_estimates_cover_the_exact_means_over_repeated_draws():
    rng = np.random.default_rng(3)
    columns, effects = _population(rng)
    truth = effects.mean(axis=0)
    errors, covered = [], []
    for _ in range(300):
        _, found = _draw(columns, effects, rng)
        errors.append(found.mean - truth)
        covered.append(np.abs(errors[-1]) < 1.96 * found.se_subset)
    # Unbiased: no head's mean error lies beyond four standard errors of 300 draws.
    assert (np.abs(np.mean(errors, axis=0)) < 4 * np.std(errors, axis=0) / np.sqrt(300)).all()
    assert COVERAGE[0] <= np.mean(covered) <= COVERAGE[1]


def test_the_error_for_all_text_covers_the_mean_of_the_population():
    rng = np.random.default_rng(8)
    columns, effects = _population(rng, n=20_000)
    truth = effects.mean(axis=0)
    covered = []
    for _ in range(300):
        text = rng.choice(20_000, 300, replace=False)
        _, found = _draw(columns[text], effects[text], rng)
        covered.append(np.abs(found.mean - truth) < 1.96 * found.se)
    assert COVERAGE[0] <= np.mean(covered) <= COVERAGE[1]


def test_a_heavy_tail_beyond_the_draw_is_still_covered():
    """A few sequences hold most of the error of any prediction: the subset must hold them."""
    rng = np.random.default_rng(9)
    columns, effects = _population(rng, noise=0.02)
    odd = rng.choice(600, 5, replace=False)
    columns[odd] *= 8
    effects[odd] += 0.3 * columns[odd, :, 0] ** 2
    truth = effects.mean(axis=0)
    covered, uncovered = [], []
    for _ in range(200):
        _, found = _draw(columns, effects, rng)
        covered.append(np.abs(found.mean - truth) < 1.96 * found.se_subset)
        alone = subset.choose(columns, 48, certain_share=0.0, rng=rng)
        blind = control_variate.estimate(
            effects[alone.sequences], alone, columns, least_r2=0.1, rng=rng
        )
        uncovered.append(np.abs(blind.mean - truth) < 1.96 * blind.se_subset)
    assert COVERAGE[0] <= np.mean(covered) <= COVERAGE[1]
    assert np.mean(uncovered) < 0.8


def test_a_good_fit_is_worth_many_exact_sequences():
    rng = np.random.default_rng(4)
    columns, effects = _population(rng)
    alone, estimated = [], []
    for _ in range(100):
        _, found = _draw(columns, effects, rng)
        assert found.fitted.all()
        estimated.append(found.mean)
        alone.append(effects[rng.choice(600, 48, replace=False)].mean(axis=0))
    assert np.median(np.var(alone, axis=0) / np.var(estimated, axis=0)) > 10


def test_misleading_features_leave_the_plain_mean():
    rng = np.random.default_rng(5)
    columns, effects = rng.normal(size=(400, 6, 4)), rng.normal(size=(400, 6))
    chosen, found = _draw(columns, effects, rng, n_exact=40)
    assert not found.fitted.any()
    # Drawn at random: 30 of 390, weighted up; taken for certain: 10.
    by_hand = effects[chosen.certain].sum(axis=0) + 390 * effects[chosen.drawn].mean(axis=0)
    np.testing.assert_allclose(found.mean, by_hand / 400)
    plain = effects[chosen.drawn].std(axis=0, ddof=1) / np.sqrt(30) * np.sqrt(1 - 30 / 390)
    np.testing.assert_allclose(found.se_subset, plain * 390 / 400)


def test_a_head_without_any_effect_is_zero_for_certain():
    rng = np.random.default_rng(6)
    columns, effects = _population(rng)
    columns[:, 0], effects[:, 0] = 0.0, 0.0
    _, found = _draw(columns, effects, rng)
    assert (found.mean[0], found.se[0], found.se_subset[0]) == (0.0, 0.0, 0.0)


def test_arrays_that_do_not_belong_together_are_refused():
    rng = np.random.default_rng(7)
    columns, effects = _population(rng)
    chosen = subset.choose(columns, 40, certain_share=0.25, rng=rng)
    with pytest.raises(AblationError, match="do not belong together"):
        control_variate.estimate(effects[:39], chosen, columns, least_r2=0.1, rng=rng)


N_SEQUENCES, N_EXACT, STEPS = 60, 40, (8, 64)
NAMES = [f"step{step}" for step in STEPS]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Return a folder with two checkpoints, a text and its attribution."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    np.save(folder / "tokens.npy", rng.integers(0, 97, (N_SEQUENCES, 16)).astype("int32"))
    for step in STEPS:
        torch.manual_seed(step)
        config = GPTNeoXConfig(
            vocab_size=97,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=32,
            max_position_embeddings=16,
            tie_word_embeddings=False,
            initializer_range=0.3,
        )
        GPTNeoXForCausalLM(config).save_pretrained(folder / f"step{step}")
        words = [
            *("--checkpoint", str(folder / f"step{step}"), "--state", f"step{step}"),
            *("--tokens", str(folder / "tokens.npy"), "--device", "cpu"),
        ]
        out = folder / "attribution" / f"step{step}.parquet"
        assert attribution.main([*words, "--out", str(out)]) == 0
    return folder


def _sweep(folder, study, **changes):
    """Run the sweep of both checkpoints and the stage; return its exit status."""
    content = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    own = {"exact_sequences": N_EXACT, "certain_share": 0.25, "least_r2": 0.1, "seed": 1}
    content["model"]["checkpoints"] = NAMES
    noise = {"alphas": [1.0], "draws": 4, "seed": 3}
    content["sweep"] |= {"control_variate": own, "noise": noise} | changes
    folder.mkdir(exist_ok=True)
    params = folder / "params.yaml"
    params.write_text(yaml.safe_dump(content), encoding="utf-8")
    for step in STEPS:
        words = [
            *(
                "--checkpoint",
                str(study / f"step{step}"),
                "--state",
                f"step{step}",
                "--device",
                "cpu",
            ),
            *("--tokens", str(study / "tokens.npy"), "--scratch", str(folder / "scratch")),
            *("--attribution", str(study / "attribution" / f"step{step}.parquet")),
            *("--out", str(folder / "effects" / f"step{step}.parquet"), "--params", str(params)),
        ]
        assert ablate.main(words) == 0
    return control_variate.main(
        [
            *("--effects", str(folder / "effects"), "--attribution", str(study / "attribution")),
            *("--out", str(folder / "estimates"), "--summary", str(folder / "summary.csv")),
            *("--params", str(params)),
        ]
    )


def test_exact_effects_are_passed_on_as_they_are(study, tmp_path):
    assert _sweep(tmp_path, study) == 0
    for step in STEPS:
        name = f"step{step}.parquet"
        passed = (tmp_path / "estimates" / name).read_bytes()
        assert passed == (tmp_path / "effects" / name).read_bytes()
    assert tables.read(tmp_path / "summary.csv", HEAD_CONTROL_VARIATE).empty


def test_the_stage_estimates_every_sequence_from_the_ablated_ones(study, tmp_path):
    assert _sweep(tmp_path / "exact", study) == 0
    assert _sweep(tmp_path / "few", study, estimator="control_variate") == 0
    exact = effects.read_states(tmp_path / "exact" / "estimates", NAMES)
    few = effects.read_states(tmp_path / "few" / "effects", NAMES, paired=False)
    found = effects.read_states(tmp_path / "few" / "estimates", NAMES)
    assert {part.n_replicates for part in few} == {N_EXACT}
    assert {part.n_replicates for part in found} == {N_SEQUENCES}
    for whole, ablated, one in zip(exact, few, found, strict=True):
        # What was ablated is what the exact sweep found there, bit for bit.
        np.testing.assert_array_equal(ablated.draws, whole.draws[:, ablated.replicates])
        np.testing.assert_allclose(one.baseline, whole.baseline, atol=1e-5)
        assert one.components.equals(whole.components)
    heads = [(a, b) for a, b in zip(exact, found, strict=True) if a.kind == "head"]
    for whole, one in heads:
        error = one.values.mean(axis=0) - whole.values.mean(axis=0)
        se = one.values.std(axis=0, ddof=1) / np.sqrt(N_SEQUENCES)
        assert np.abs(error / se).max() < 4
    summary = tables.read(tmp_path / "few" / "summary.csv", HEAD_CONTROL_VARIATE)
    assert set(summary["unit"]) == {"head", "layer", "noise"}
    assert set(summary["n_exact"]) == {N_EXACT}
    stored = pq.read_schema(tmp_path / "few" / "estimates" / "step8.parquet").metadata
    assert stored[b"estimator"] == b"control_variate"
    assert stored[b"precision"] == b"float32"


def test_effects_of_another_subset_are_refused(study, tmp_path, caplog):
    assert _sweep(tmp_path, study, estimator="control_variate") == 0
    params = tmp_path / "params.yaml"
    content = yaml.safe_load(params.read_text(encoding="utf-8"))
    content["sweep"]["control_variate"]["seed"] = 2
    params.write_text(yaml.safe_dump(content), encoding="utf-8")
    status = control_variate.main(
        [
            *("--effects", str(tmp_path / "effects"), "--out", str(tmp_path / "other")),
            *("--attribution", str(study / "attribution")),
            *("--summary", str(tmp_path / "other.csv"), "--params", str(params)),
        ]
    )
    assert status == 1
    assert "are not those that the attribution chooses" in caplog.text
    assert not (tmp_path / "other.csv").exists()


def test_a_control_variate_without_attribution_is_refused():
    sweep = Sweep(estimator="control_variate")
    with pytest.raises(AblationError, match="Give --attribution"):
        ablate.ablated_sequences(sweep, 100, None, "step8")


def test_the_screen_finds_what_is_planted(study):
    found = attribution.read(study / "attribution" / "step8.parquet", "step8")
    state = effects.State("heads", "step8", 8.0, "nats per token")
    keys = components("head", [(layer, head, 0) for layer in range(2) for head in range(4)])
    n = N_SEQUENCES
    exact = found.first_order.reshape(n, 8)

    def row(values):
        part = effects.Effects(state, "head", "zero", keys, np.arange(n), values[None], np.ones(n))
        table = screen.screen([part], {"step8": found}, SCREEN)
        return HEAD_SCREEN.validate(table).iloc[0]

    same = row(3 * exact)
    assert same["spearman"] == same["spearman_abs"] == pytest.approx(1)
    assert (same["n_top"], same["n_top_shared"]) == (2, 2)
    assert same["gini"] == pytest.approx(same["gini_first_order"])
    assert same["r2_median"] == pytest.approx(1)
    against = row(-exact)
    assert against["spearman"] == pytest.approx(-1)
    assert against["spearman_low"] <= against["spearman"] <= against["spearman_high"]
    few = effects.Effects(state, "head", "zero", keys, np.arange(n + 1), exact[None])
    with pytest.raises(TableError, match="which the effects exceed"):
        screen.screen([few], {"step8": found}, SCREEN)
