"""Pairs of heads: the engine against pre-hooks, planted interactions, nulls, tiers, resumption."""

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
import yaml
from pydantic import ValidationError

from stages.base import tables
from stages.base.errors import AblationError
from stages.base.study import Study
from stages.measurement import effects
from stages.measurement.effects import Effects, State
from stages.measurement.interaction import interaction
from stages.models.architectures import architecture_of
from stages.models.interventions import AblationType, Heads, donors
from stages.models.load import load_model
from stages.models.passes import Passes
from stages.models.text import cell_text, next_tokens
from stages.pairs import choice, epistasis, pairs, structure
from stages.pairs.components import head_name, in_order, of_heads, of_layers, of_pairs, pair
from stages.pairs.figures import pair_effects
from stages.pairs.removals import without
from stages.pairs.settings import Epistasis, Pairs
from stages.pairs.tables.epistasis import (
    EPISTASIS,
    EPISTASIS_HEADS,
    EPISTASIS_PAIRS,
    EPISTASIS_SETS,
)
from stages.report import claims
from stages.report import pairs as report
from stages.report.reading import Tables
from stages.report.tables import CLAIMS
from stages.report.writing import Templates

SCHEMAS = (EPISTASIS, EPISTASIS_HEADS, EPISTASIS_SETS, EPISTASIS_PAIRS)
N_LAYERS, N_HEADS, WIDTH, SEQ, N = 3, 4, 32, 20, 5
D_HEAD = WIDTH // N_HEADS
HEADS = choice.all_heads(N_LAYERS, N_HEADS)
SHAPE = {
    "vocab_size": 60,
    "hidden_size": WIDTH,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
}
PARAMS = Epistasis(confidence=0.95, draws=60, permutations=20, min_z=3, seed=1)


class Case:
    """A model in float64, its text, and a full forward of transformers under pre-hooks."""

    def __init__(self, name):
        torch.manual_seed(0)
        drawn = np.random.default_rng(0)
        if name == "gpt_neox":
            config = transformers.GPTNeoXConfig(**SHAPE, tie_word_embeddings=False)
            self.model = transformers.GPTNeoXForCausalLM(config)
            self.projections = [layer.attention.dense for layer in self.model.gpt_neox.layers]
        else:
            config = transformers.BertConfig(**SHAPE)
            self.model = transformers.BertForMaskedLM(config)
            layers = self.model.bert.encoder.layer
            self.projections = [layer.attention.output.dense for layer in layers]
        self.model = self.model.eval().requires_grad_(requires_grad=False).double()
        self.architecture = architecture_of(self.model)
        if name == "gpt_neox":
            both = (drawn.integers(0, 60, (n, SEQ)) for n in (N, 4))
            self.text, self.reference = (next_tokens(torch.from_numpy(ids)) for ids in both)
        else:
            self.text, self.reference = (self._cells(drawn, n) for n in (N, 4))

    def _cells(self, drawn, n):
        """Return cells of several lengths: the rest is padding."""
        ids = drawn.integers(4, 60, (n, SEQ))
        for row, length in enumerate(drawn.integers(9, SEQ, n)):
            ids[row, length:] = 0
        ids[0, :] = drawn.integers(4, 60, SEQ)
        return cell_text(
            ids, architecture=self.architecture, pad=0, special=[0, 1, 2, 3], mask=1, values=None
        )

    def passes(self):
        return Passes(self.model, self.text, reference=self.reference)

    @torch.no_grad()
    def forward(self, text, hooks=()):
        """Return the loss of each sequence in a full forward of transformers."""
        handles = [self.projections[layer].register_forward_pre_hook(h) for layer, h in hooks]
        seen = text.attended
        mask = torch.ones_like(text.inputs) if seen is None else seen.long()
        logits = self.model(input_ids=text.inputs, attention_mask=mask).logits
        for handle in handles:
            handle.remove()
        given = text.targets
        losses = torch.nn.functional.cross_entropy(logits.mT, given, reduction="none")
        scored = torch.ones_like(losses) if text.scored is None else text.scored.double()
        return (losses * scored).sum(dim=1) / scored.sum(dim=1)

    def written(self, layer):
        """Return what the intact heads of a layer write in the reference."""
        kept = []
        self.forward(self.reference, [(layer, lambda _, given: kept.append(given[0]))])
        return kept[0]

    def hooked(self, heads, way, seed):
        """Return losses with a pre-hook a head, each of which changes its slice alone."""
        return self.forward(self.text, [(h[0], self._hook(h, way, seed)) for h in heads])

    def _hook(self, head, way, seed):
        layer, number = head
        own = slice(number * D_HEAD, (number + 1) * D_HEAD)
        instead = torch.zeros(1, 1, D_HEAD, dtype=torch.float64)
        if way is not AblationType.ZERO:
            written = self.written(layer)[..., own]
            seen = self.reference.attended
            seen = torch.ones(written.shape[:2]) if seen is None else seen
            if way is AblationType.MEAN:
                weights = seen.double()[..., None]
                instead = (written * weights).sum(dim=(0, 1)) / weights.sum()
            else:
                drawn = donors(N, len(self.reference), seed=seed)
                lengths = seen.long().sum(dim=1)[drawn]
                instead = torch.stack(
                    [
                        written[donor][torch.arange(self.text.n_positions) % length]
                        for donor, length in zip(drawn, lengths, strict=True)
                    ]
                )

        def change(_, given):
            moved = given[0].clone()
            moved[..., own] = instead
            return (moved,)

        return change


@pytest.fixture(scope="module", params=["gpt_neox", "bert"])
def case(request):
    return Case(request.param)


WAYS = [AblationType.MEAN, AblationType.ZERO, AblationType.RESAMPLE]


class TestEngine:
    @pytest.mark.parametrize("way", WAYS, ids=lambda way: way.value)
    def test_all_pairs_are_those_of_two_hooks_on_the_full_forward(self, case, way):
        every = choice.pairs_of(HEADS)
        assert len(every) == 66
        found = case.passes().run([without(one, way, 7) for one in every])
        n_checked = 0
        for index in range(0, len(every), 3):
            expected = case.hooked(every[index], way, 7)
            # Seen: 4e-15.
            assert (found[index] - expected).abs().max() < 1e-12, every[index]
            n_checked += 1
        assert n_checked == 22

    def test_the_intact_model_is_the_full_forward(self, case):
        assert (case.passes().baseline() - case.forward(case.text)).abs().max() < 1e-12

    def test_order_of_heads_and_of_layers_does_not_matter(self, case):
        for first, second in [((0, 1), (2, 3)), ((1, 0), (1, 2))]:
            ways = [
                without((first, second), AblationType.MEAN),
                without((second, first), AblationType.MEAN),
                tuple(Heads(layer, (head,), AblationType.MEAN) for layer, head in (second, first)),
            ]
            there = case.passes().run(ways)
            back = case.passes().run(ways[::-1]).flip(0)
            # Seen: 0 for the same list; 2e-15 for one change of two heads and two of one.
            assert (there - there[:1]).abs().max() < 1e-12
            assert (there - back).abs().max() < 1e-12

    def test_the_way_behind_the_first_head_is_shared(self, case, monkeypatch):
        """All pairs of one head: its stem runs each later block once, and no block before it."""
        ran = []
        heads = type(case.architecture).heads

        def counted(self, block, *rest):
            ran.append(list(self.blocks).index(block))
            return heads(self, block, *rest)

        passes = case.passes()
        passes.baseline()
        monkeypatch.setattr(type(case.architecture), "heads", counted)
        mine = [one for one in choice.pairs_of(HEADS) if one[0] == (0, 1)]
        passes.run([without(one, AblationType.ZERO) for one in mine])
        n_pieces = {0: 2, 1: 4, 2: 4}  # pairs by the layer of the other head
        batches = {at: -(-n * N // passes.batch) for at, n in n_pieces.items()}
        # The baseline's block 0, once, and the stem's blocks 1 and 2, once each; what is anew of a
        # pair runs the blocks behind its other head.
        assert ran.count(0) == 1
        assert ran.count(1) == 1 + batches[0]
        assert ran.count(2) == 1 + batches[0] + batches[1]


class TestNames:
    def test_a_pair_of_one_head_is_refused_in_one_line(self):
        with pytest.raises(AblationError, match=r"^L1H2\+L1H2 is a pair of one head[^\n]*$"):
            pair((1, 2), (1, 2))

    def test_a_pair_commutes(self):
        assert pair((3, 2), (0, 1)) == pair((0, 1), (3, 2))

    def test_interaction_of_several(self):
        single = [np.array([1.0, 2.0]), np.array([0.5, 0.5]), np.array([0.25, 0.0])]
        assert interaction(np.array([2.0, 2.0]), single).tolist() == [0.25, -0.5]


RANKED = dict(zip(HEADS, range(-6, 6), strict=True))


class TestChoice:
    def test_the_first_tier_is_a_quarter_of_the_heads_at_most(self):
        assert choice.top(RANKED, 30) == [(0, 0), (0, 1), (2, 3)]
        assert choice.top(RANKED, 2) == [(0, 0), (0, 1)]

    def test_random_pairs_differ_and_hang_on_the_seed_alone(self):
        drawn = choice.random_pairs(HEADS, 30, 5)
        assert len(set(drawn)) == len(drawn) == 30
        assert drawn == choice.random_pairs(HEADS[::-1], 30, 5) != choice.random_pairs(HEADS, 30, 6)
        assert choice.random_pairs(HEADS, 1000, 5) == choice.pairs_of(HEADS)

    def test_as_published_the_last_state_chooses_and_reranked_every_one(self):
        first = {head: float(head == (1, 1)) + 0.5 * (head == (2, 2)) for head in HEADS}
        params = Pairs(states=["a", "b"], which="published", top=2, random=3, seed=4)
        random = set(choice.random_pairs(HEADS, 3, 4))
        fixed = choice.chosen([first, RANKED], params)
        assert set(fixed) == random | {((0, 0), (0, 1))}
        params = params.model_copy(update={"which": "published_reranked"})
        every = choice.chosen([first, RANKED], params)
        assert set(every) == random | {((0, 0), (0, 1)), ((1, 1), (2, 2))}
        assert choice.chosen([first, RANKED], Pairs(states=["a"])) == choice.pairs_of(HEADS)

    @pytest.mark.parametrize(
        "bad",
        [
            {"which": "some"},
            {"perturbations": []},
            {"perturbations": ["mean", "mean"]},
            {"states": ["a", "a"]},
            {"top": 1},
            {"n_sequences": 1},
        ],
    )
    def test_settings_refuse_what_makes_no_sense(self, bad):
        with pytest.raises(ValidationError):
            Pairs(**({"states": ["a"]} | bad))


def made(excess, *, single=None, noise=0.0, n=24, state="step2", seed=0, heads=HEADS):
    """Return effects of heads and of all their pairs, each pair the sum and `excess` (n_pairs,)."""
    rng = np.random.default_rng(seed)
    every = choice.pairs_of(heads)
    at = {head: i for i, head in enumerate(heads)}
    a, b = (np.array([at[one[i]] for one in every]) for i in (0, 1))
    single = rng.lognormal(-4, 1, len(heads)) if single is None else single
    alone = single * (1 + 0.1 * rng.normal(size=(n, len(heads))))
    both = alone[:, a] + alone[:, b] + excess + noise * rng.normal(size=(n, len(every)))
    of = State("pairs", state, float(state.removeprefix("step")), "nats per token", "product")
    mean = alone.mean(axis=0)
    excess = interaction(both, [alone[:, a], alone[:, b]])
    kinds = {
        "head": (of_heads(heads), alone),
        "pair": (of_pairs(every, np.abs(mean[a] * mean[b])), excess),
    }
    layers = [np.array([head[0] == layer for head in heads]) for layer in range(N_LAYERS)]
    together = np.stack([alone[:, mask].sum(axis=1) for mask in layers], axis=1)
    kinds["attention"] = (of_layers(N_LAYERS), together)
    first = choice.ranked(dict(zip(heads, mean, strict=True)))[:2]
    order = [heads.index(head) for head in first]
    kinds["cumulative"] = (in_order(first), np.cumsum(alone[:, order], axis=1))
    return [
        Effects(of, kind, "mean", known, np.arange(n), values[None], np.full(n, 5.0))
        for kind, (known, values) in kinds.items()
    ]


def sample(parts):
    by_kind = {part.kind: part for part in parts}
    return epistasis.Sample(by_kind["pair"], by_kind["head"])


def quantities(parts, source="measured"):
    one = sample(parts)
    table, _ = epistasis.epistasis(one, epistasis.tiers(one, one, Pairs(states=["s"])), PARAMS)
    return table[table["source"] == source].set_index("quantity")["value"]


EVERY = choice.pairs_of(HEADS)
PLANTED = EVERY.index(((0, 1), (2, 3)))


class TestEpistasis:
    def test_an_additive_model_has_none(self):
        parts = made(0.0)
        (pairs_,) = (part for part in parts if part.kind == "pair")
        assert np.abs(pairs_.draws).max() < 1e-12  # seen: 6e-17
        made_up = epistasis.made_up(sample(parts), PARAMS)
        assert np.abs(made_up["made_up"]).max() < 1e-12

    def test_noise_alone_is_told_to_be_noise(self):
        """An additive model with noise lies within its own floor, by every quantity."""
        one = sample(made(0.0, noise=1e-3))
        of = epistasis.tiers(one, one, Pairs(states=["s"]))
        table, _ = epistasis.epistasis(one, of, PARAMS)
        p = table[table["source"] == "additive"].set_index("quantity")["p"]
        assert p["median_abs"] > 0.05
        assert p["effective_rank"] > 0.05
        found = table.set_index(["quantity", "source"])["value"]
        assert found["median_abs", "measured"] == pytest.approx(
            found["median_abs", "additive"],
            rel=0.45,  # three standard errors of a median of 66
        )
        assert found["share_beyond", "measured"] < 0.05

    def test_a_planted_pair_is_found_among_additive_ones(self):
        excess = np.zeros(len(EVERY))
        excess[PLANTED] = 0.05
        one = sample(made(excess, noise=1e-3))
        z = one.pairs.values.mean(axis=0) / one.error
        assert np.argmax(np.abs(z)) == PLANTED
        assert z[PLANTED] > 100
        assert np.delete(np.abs(z), PLANTED).max() < 4.5
        heads = epistasis.made_up(one, PARAMS).set_index("component")
        named = heads[heads["made_up_low"] > heads["noise_high"]].nlargest(2, "made_up")
        assert set(named.index) == {"L0H1", "L2H3"}
        assert named["made_up"].to_numpy() == pytest.approx(0.05, abs=0.005)

    def test_a_pair_that_suppresses_is_no_self_repair(self):
        excess = np.zeros(len(EVERY))
        excess[PLANTED] = -0.05
        heads = epistasis.made_up(sample(made(excess, noise=1e-3)), PARAMS)
        assert heads.set_index("component").loc["L0H1", "made_up"] < 0.01

    def test_regression_recovers_planted_slopes(self):
        rng = np.random.default_rng(3)
        heads = choice.all_heads(6, 6)
        single = rng.lognormal(-4, 1, len(heads))
        every = choice.pairs_of(heads)
        at = {head: i for i, head in enumerate(heads)}
        a, b = (np.array([at[one[i]] for one in every]) for i in (0, 1))
        distance = np.array([two[0] - one[0] for one, two in every])
        excess = single[a] ** 0.7 * single[b] ** 0.3 * np.exp(-0.2 * distance)
        table = quantities(_plain(heads, single, excess))
        assert table["slope_first"] == pytest.approx(0.7, abs=1e-9)
        assert table["slope_second"] == pytest.approx(0.3, abs=1e-9)
        assert table["slope_distance"] == pytest.approx(-0.2, abs=1e-9)

    def test_effects_that_are_the_product_leave_no_ratio(self):
        """The published ratio is large where effects are products and nothing interacts."""
        single = np.random.default_rng(5).lognormal(-4, 1.5, len(HEADS))
        at = {head: i for i, head in enumerate(HEADS)}
        product = np.array([single[at[one]] * single[at[two]] for one, two in EVERY])
        table = quantities(_plain(HEADS, single, product))
        assert table["tier_ratio"] > 5
        assert table["tier_ratio_by_product"] == pytest.approx(1, abs=1e-9)
        assert table["product_spearman"] == pytest.approx(1, abs=1e-12)
        as_product = quantities(_plain(HEADS, single, product), "product")
        assert as_product["tier_ratio"] == pytest.approx(table["tier_ratio"], rel=1e-9)

    def test_pairs_of_a_layer_beside_pairs_across(self):
        same = np.array([one[0] == two[0] for one, two in EVERY])
        excess = np.where(same, 3.0, 1.0)
        assert quantities(_plain(HEADS, np.ones(len(HEADS)), excess))["same_layer_ratio"] == 3

    def test_rank_and_communities_by_hand(self):
        blocks = structure.matrix(np.array([1.0, 2.0]), np.array([0, 2]), np.array([1, 3]), 4)
        # Eigenvalues +-1 and +-2: shares of squares 0.1, 0.1, 0.4, 0.4.
        shares = np.array([0.1, 0.1, 0.4, 0.4])
        expected = np.exp(-(shares * np.log(shares)).sum())
        assert structure.effective_rank(blocks) == pytest.approx(expected)
        quality, found = structure.communities(blocks, 1)
        assert sorted(map(sorted, _groups(found))) == [[0, 1], [2, 3]]
        # 1 - the sum of squared shares of strength: 1/3 and 2/3.
        assert quality == pytest.approx(1 - (1 / 9 + 4 / 9))
        assert np.isnan(structure.communities(np.zeros((3, 3)), 1)[0])

    def test_sets_of_heads_that_add_up_have_no_excess(self):
        parts = {part.kind: part for part in made(0.0)}
        for kind in ("attention", "cumulative"):
            rows = pd.DataFrame(epistasis.sets(parts[kind], parts["head"], PARAMS))
            excess = rows[rows["what"] == "excess"]
            assert np.abs(excess[["value", "low", "high"]]).to_numpy().max() < 1e-12
            assert excess["n_heads"].tolist() == {"attention": [4] * 3, "cumulative": [1, 2]}[kind]

    def test_pairs_that_were_not_measured_leave_gaps_and_no_error(self, tmp_path):
        parts = [part for state in ("step1", "step2") for part in made(0.01, state=state)]
        params = Pairs(states=["step1", "step2"], which="published", top=3, random=9, seed=1)
        kept = set(
            choice.chosen([sample(parts[:4]).ranking(), sample(parts[4:]).ranking()], params)
        )
        chosen = np.array([one in kept for one in EVERY])
        few = [_only(part, chosen) if part.kind == "pair" else part for part in parts]
        table, heads, _, every = epistasis.summary(few, params, PARAMS)
        tables.write(table, EPISTASIS, tmp_path / "epistasis.csv")
        assert (every.groupby("state").size() == chosen.sum()).all()
        last = table[(table["state"] == "step2") & (table["source"] == "measured")]
        assert {"tier_ratio", "effective_rank"} <= set(last["quantity"])
        assert heads.loc[heads["state"] == "step2", "community"].notna().sum() == 3

    def test_the_figure_draws_all_panels_within_its_page(self, legible):
        parts = [
            part for state in ("step1", "step2") for part in made(0.01, noise=0.01, state=state)
        ]
        params = Pairs(states=["step1", "step2"])
        table, _, _, every = epistasis.summary(parts, params, PARAMS)
        boxes = legible(pair_effects.draw(table, every), "Demo model")
        seen = " ".join(text.get_text() for text, _ in boxes)
        assert all(f"{letter}  " in seen for letter in "abc")


class TestText:
    @pytest.fixture
    def found(self, tmp_path):
        """Return the tables of pairs of both models."""
        both = [made(0.01, noise=0.01, state=state) for state in ("step1", "step2")]
        parts = [part for one in both for part in one]
        params = Pairs(states=["step1", "step2"])
        made_ = epistasis.summary(parts, params, PARAMS)
        for folder in ("pairs", "cell_model"):
            for table, schema in zip(made_, SCHEMAS, strict=True):
                tables.write(table, schema, tmp_path / folder / f"{schema.name}.csv")
        none = Study("none", "none", simulated=False, notice="")
        listed = claims.read(Path(__file__).parents[2] / "reports" / "claims.yaml")
        of_pairs_ = [claim for claim in listed if claim.source == "mool2026"]
        ledger = claims.evaluate(of_pairs_, {}, cells=none, models={"model": none})
        tables.write(ledger, CLAIMS, tmp_path / "claims.csv")
        return Tables(tmp_path)

    def test_the_section_stands_and_keeps_to_its_length(self, found, settings):
        context = report.context(found, settings)
        values = {"pairs": context, "settings": settings, "significant": 0.05}
        text = Templates().fill("sections/pairs.md.j2", values)
        assert [model["n_pairs"] for model in context["models"]] == [66, 66]
        assert "35.8" in text
        prose = [
            part for part in text.split("\n\n") if part.strip()[:1] not in ("|", ":", "!", "#")
        ]
        words_ = re.sub(r"\$[^$]*\$", "x", " ".join(prose)).split()
        assert len(words_) <= 250

    def test_where_no_pair_is_told_from_0_nothing_is_said_of_its_sign(self, found, settings):
        for name in ("epistasis", "cell_epistasis"):
            table = getattr(found, name)
            setattr(found, name, table[~table["quantity"].isin(["share_positive", "tier_ratio"])])
        values = {"pairs": report.context(found, settings), "settings": settings}
        text = Templates().fill("sections/pairs.md.j2", values | {"significant": 0.05})
        assert "standard errors (noise: " in text
        assert "of them above" not in text
        assert "The ratio is" not in text

    def test_without_pairs_there_is_no_section(self, found, settings):
        none = settings.pairs.model_copy(update={"states": []})
        assert report.context(found, settings.model_copy(update={"pairs": none}))["models"]
        both = settings.model_copy(update={"pairs": none, "cell_pairs": none})
        assert report.context(found, both) == {}


def _only(part, chosen):
    return Effects(
        part.state,
        part.kind,
        part.condition,
        part.components[chosen],
        part.replicates,
        part.draws[..., chosen],
        part.baseline,
    )


def _plain(heads, single, excess):
    """Return effects that are the same on every sequence."""
    n = 4
    of = State("pairs", "step1", 1.0, "nats per token", "product")
    every = choice.pairs_of(heads)
    at = {head: i for i, head in enumerate(heads)}
    product = [abs(single[at[one]] * single[at[two]]) for one, two in every]
    return [
        Effects(of, kind, "mean", known, np.arange(n), np.tile(values, (1, n, 1)))
        for kind, known, values in (
            ("head", of_heads(heads), single),
            ("pair", of_pairs(every, product), excess),
        )
    ]


def _groups(found):
    return [np.flatnonzero(found == group).tolist() for group in np.unique(found)]


@pytest.fixture(scope="module")
def study(repository, tmp_path_factory):
    """Return a folder with two checkpoints, two texts and settings."""
    folder = tmp_path_factory.mktemp("study")
    params = yaml.safe_load((repository / "params.yaml").read_text(encoding="utf-8"))
    params["model"]["checkpoints"] = ["step1", "step8"]
    params["pairs"] |= {
        "states": ["step1", "step8"],
        "perturbations": ["mean", "resample"],
        "n_sequences": 4,
        "seq_len": 12,
        "cumulative": 3,
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    for step in (1, 8):
        torch.manual_seed(step)
        config = transformers.GPTNeoXConfig(**SHAPE, tie_word_embeddings=False)
        transformers.GPTNeoXForCausalLM(config).save_pretrained(folder / f"step{step}")
    drawn = np.random.default_rng(0)
    for name in ("tokens", "reference"):
        np.save(folder / f"{name}.npy", drawn.integers(0, 60, (6, SEQ)).astype("int32"))
    return folder


def words(study, folder, **changed):
    given = {"tokens": study / "tokens.npy", "reference": study / "reference.npy"} | changed
    options = [word for name, path in given.items() for word in (f"--{name}", str(path))]
    return [
        *("--params", str(study / "params.yaml"), "--checkpoints", str(study), "--device", "cpu"),
        *("--scratch", str(folder / "scratch"), "--out", str(folder / "out"), *options),
    ]


class TestStage:
    def test_it_is_resumed_after_half_the_shards(self, study, tmp_path, monkeypatch):
        assert pairs.main(words(study, tmp_path)) == 0
        whole = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert sorted(whole) == ["step1.parquet", "step8.parquet"]
        finished = sorted((tmp_path / "scratch").rglob("*.npz"))
        assert len(finished) > 20
        for path in finished[::2]:
            path.unlink()
        finished[1].write_bytes(b"damaged")
        shutil.rmtree(tmp_path / "out")
        computed = []
        run = Passes.run
        monkeypatch.setattr(
            Passes, "run", lambda self, given, *rest: computed.append(1) or run(self, given, *rest)
        )
        assert pairs.main(words(study, tmp_path)) == 0
        again = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert again == whole
        assert len(computed) == len(finished[::2]) + 1

    def test_effects_are_the_excess_over_the_heads_alone(self, study, tmp_path):
        assert pairs.main(words(study, tmp_path)) == 0
        parts = {(p.kind, p.condition): p for p in effects.read(tmp_path / "out" / "step8.parquet")}
        assert {kind for kind, _ in parts} == {"head", "pair", "attention", "cumulative"}
        one = parts["pair", "mean"]
        assert one.draws.shape == (1, 4, 66)
        assert one.state.exposure == "product"
        alone = parts["head", "mean"]
        mean = dict(zip(alone.components.index, alone.values.mean(axis=0), strict=True))
        name = one.components.index[40]
        first, second = name.split("+")
        expected = abs(mean[first] * mean[second])
        assert one.components.loc[name, "product"] == pytest.approx(expected, rel=1e-12)
        # One after another: the head that costs most, then the one that costs most with it.
        more = parts["cumulative", "mean"]
        costs = {
            pair: beyond
            + sum(alone.values[:, alone.components.index == head].T[0] for head in pair)
            for pair, beyond in zip(
                (frozenset(name.split("+")) for name in one.components.index),
                one.values.T,
                strict=True,
            )
        }
        first = max(mean, key=mean.get)
        both = max((pair for pair in costs if first in pair), key=lambda pair: costs[pair].mean())
        joined = more.components["joined"].tolist()
        assert (joined[0], frozenset(joined[:2])) == (first, both)
        assert more.values[:, 1] == pytest.approx(costs[both], abs=1e-12)

    def test_pairs_of_the_published_tiers_have_the_same_names_in_all_states(self, study, tmp_path):
        content = yaml.safe_load((study / "params.yaml").read_text(encoding="utf-8"))
        content["pairs"] |= {
            "which": "published_reranked",
            "top": 3,
            "random": 5,
            "perturbations": ["mean"],
        }
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        given = words(study, tmp_path)
        given[1] = str(tmp_path / "params.yaml")
        assert pairs.main(given) == 0
        found = effects.read_states(tmp_path / "out", ["step1", "step8"])
        sizes = {len(part.components) for part in found if part.kind == "pair"}
        assert len(sizes) == 1
        assert sizes.pop() <= 5 + 2 * 3

    def test_double_precision_has_no_rounding_that_effects_could_drown_in(self, study, tmp_path):
        content = yaml.safe_load((study / "params.yaml").read_text(encoding="utf-8"))
        model = load_model(study / "step8", dtype=torch.float64)
        text = next_tokens(torch.from_numpy(np.load(study / "tokens.npy")[:4, :12]).long())
        one = ((0, 1), (2, 3))
        sets = [(), *((head,) for head in one), one]
        removed = [without(heads, AblationType.ZERO) for heads in sets]
        base, first, second, both = Passes(model, text).run(removed).numpy()
        off = {}
        for precision in ("float32", "float64"):
            content["pairs"] |= {"perturbations": ["zero"], "precision": precision}
            (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
            given = words(study, tmp_path)
            given[1] = str(tmp_path / "params.yaml")
            assert pairs.main(given) == 0
            (found,) = (
                part
                for part in effects.read(tmp_path / "out" / "step8.parquet")
                if part.kind == "pair"
            )
            excess = found.values[:, list(found.components.index).index("L0H1+L2H3")]
            off[precision] = np.abs(excess - (both - first - second + base)).max()
        # Both from one scratch folder: shards of one precision are none of the other.
        assert off["float64"] < 1e-12
        assert 1e-9 < off["float32"] < 1e-5

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"states": ["step2"]}, "pairs.states names step2, which is no checkpoint"),
            ({"states": []}, "pairs.states is empty"),
            ({"top": 1}, "pairs.top"),
        ],
    )
    def test_bad_settings_end_with_one_line_and_no_output(
        self, study, tmp_path, caplog, changed, said
    ):
        content = yaml.safe_load((study / "params.yaml").read_text(encoding="utf-8"))
        content["pairs"] |= changed
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        given = words(study, tmp_path)
        given[1] = str(tmp_path / "params.yaml")
        assert pairs.main(given) == 1
        assert said in caplog.text
        assert "Traceback" not in caplog.text
        assert not (tmp_path / "out").exists()

    def test_one_of_text_and_cells_is_needed(self, study, tmp_path, caplog):
        given = words(study, tmp_path)
        at = given.index("--tokens")
        assert pairs.main(given[:at] + given[at + 2 :]) == 1
        assert "one of --cells" in caplog.text


def test_names_of_heads_of_different_layers_do_not_collide():
    names = [head_name(head) for head in choice.all_heads(12, 12)]
    assert len(set(names)) == len(names)
    assert len(list(itertools.combinations(names, 2))) == 144 * 143 // 2
