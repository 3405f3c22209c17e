"""Heads as maps between items: exact where they are made, and judged right where truth is planted.

Expected values come from transformers, from loops and refits written by hand, and from operators
that were planted.
"""

import sys
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy import sparse, stats
from sklearn.linear_model import Ridge as Reference
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from stages.base import tables
from stages.base.errors import AtlasError, RepresentationError, SettingsError
from stages.inputs.encode import encode_file
from stages.inputs.encoders import encoded, vocabulary
from stages.inputs.encoders.settings import Encoding
from stages.inputs.haematopoiesis import __main__ as haematopoiesis
from stages.inputs.haematopoiesis import tree
from stages.inputs.known import Known
from stages.measurement import effects, measured
from stages.measurement.effects import State
from stages.measurement.ranks import auroc
from stages.models.architectures import architecture_of
from stages.models.attention import attended_by
from stages.models.load import load_model
from stages.operators import (
    maps,
    operator_edges,
    operator_factors,
    operator_gates,
    operator_maps,
    operator_readouts,
    rulers,
)
from stages.operators.adaptors import RIDGE, Ridge
from stages.operators.endpoints import Endpoints
from stages.operators.figures import operators as figure
from stages.operators.maps import Maps
from stages.operators.operator_edges import Programme
from stages.operators.operator_factors import Drops, Factored
from stages.operators.panel import Cells, Inputs, Prepared, anchors
from stages.operators.tables.edges import OPERATOR_EDGES
from stages.operators.tables.factors import OPERATOR_CORE, OPERATOR_FACTORS, OPERATOR_PROGRAMMES
from stages.operators.tables.gates import OPERATOR_GATES
from stages.operators.tables.readouts import OPERATOR_READOUTS
from stages.report import operators as report
from stages.report.writing import Templates
from tests.unit import test_representations as small
from tests.unit import test_scgpt

SIZES = {"vocab_size": 30, "num_hidden_layers": 2, "hidden_size": 16}
COMMON = SIZES | {"num_attention_heads": 4, "intermediate_size": 32, "attn_implementation": "eager"}
MODELS = {
    "bert": lambda: BertForMaskedLM(BertConfig(**COMMON)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**COMMON)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**COMMON, num_key_value_heads=2)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=30, n_layer=2, n_embd=16, n_head=4, n_positions=32,
            attn_implementation="eager",
        )
    ),
}  # fmt: skip
N_ITEMS, DONORS = 60, 6


class TestAttention:
    @pytest.mark.parametrize("name", MODELS)
    @torch.no_grad()
    def test_weights_and_values_are_those_of_transformers(self, name):
        torch.manual_seed(0)
        model = MODELS[name]().eval().double()
        architecture = architecture_of(model)
        tokens = torch.randint(4, 30, (3, 9))
        seen = torch.arange(9) < torch.tensor([9, 5, 7])[:, None]
        true = model(tokens, attention_mask=seen.long(), output_attentions=True).attentions
        hidden = architecture.embed(tokens)
        for layer, block in enumerate(architecture.blocks):
            found = attended_by(architecture, block, hidden, seen)
            # Seen: 1e-16. What padding attends to means nothing.
            rows = seen[:, None, :, None].expand_as(found.weights)
            assert torch.allclose(found.weights[rows], true[layer][rows], atol=1e-12)
            mixed = (found.weights @ found.values).transpose(1, 2).flatten(2)
            written = architecture.heads(block, hidden, seen)
            assert torch.allclose(mixed[seen], written[seen], atol=1e-12)
            hidden = architecture.run(block, hidden, seen)

    @torch.no_grad()
    def test_scgpt_attends_as_its_weights_say(self, tmp_path):
        weights = test_scgpt.published()
        model = load_model(test_scgpt.write(tmp_path, weights)).double()
        text = test_scgpt.text_for(model)
        architecture = architecture_of(model)
        hidden = architecture.enter(text)
        found = attended_by(architecture, architecture.blocks[0], hidden, text.attended)
        name = f"{test_scgpt.LAYERS}.0.self_attn.Wqkv"
        joint = hidden @ weights[f"{name}.weight"].double().T + weights[f"{name}.bias"].double()
        query, key, _ = joint.split(test_scgpt.HIDDEN, dim=-1)
        wide = slice(test_scgpt.D_HEAD, 2 * test_scgpt.D_HEAD)
        cell = 2
        there = text.attended[cell]
        scores = query[cell, there, wide] @ key[cell, there, wide].T / test_scgpt.D_HEAD**0.5
        expected = scores.softmax(dim=-1)
        assert torch.allclose(found.weights[cell, 1][there][:, there], expected, atol=1e-12)
        assert (found.weights[cell, 1][there][:, ~there] == 0).all()


def _by_hand(architecture, text, inside, items):
    """Average attention and what enters, sequence by sequence and pair by pair."""
    place = {int(item): at for at, item in enumerate(items)}
    n = len(items)
    shape = (architecture.n_layers, architecture.n_heads, n, n)
    sums, met = np.zeros(shape), np.zeros((n, n))
    entering, times = np.zeros((n, len(architecture.projection(architecture.blocks[0])[0]))), 0
    times = np.zeros(n)
    for row in range(len(text)):
        length = text.n_positions if text.attended is None else int(text.attended[row].sum())
        one = text[row : row + 1]._each(lambda array, length=length: array[:, :length])
        hidden = architecture.enter(one)
        held = [
            (at, place[int(one.inputs[0, at])])
            for at in range(length)
            if inside[row, at] and int(one.inputs[0, at]) in place
        ]
        for at, item in held:
            entering[item] += hidden[0, at].numpy()
            times[item] += 1
            for _, target in held:
                met[item, target] += 1
        for layer, block in enumerate(architecture.blocks):
            weights = attended_by(architecture, block, hidden).weights[0].numpy()
            for at, item in held:
                for other, target in held:
                    sums[layer, :, item, target] += weights[:, at, other]
            hidden = architecture.run(block, hidden)
    return sums / np.maximum(met, 1), entering / np.maximum(times, 1)[:, None]


@pytest.fixture(scope="module", params=["geneformer", "scgpt", "gpt_neox"])
def exported(request, tmp_path_factory):
    """Return a model in its true layout, what it reads, and the maps of its heads."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "gpt_neox":
        torch.manual_seed(0)
        model = small.shaken(GPTNeoXForCausalLM(GPTNeoXConfig(**small.SIZES)))
        model.save_pretrained(folder / "model")
        architecture = architecture_of(load_model(folder / "model"))
        tokens = np.random.default_rng(0).integers(0, 12, (7, 12)).astype(np.uint16)
        np.save(folder / "tokens.npy", tokens)
        text, inside = operator_maps.of_tokens(folder / "tokens.npy", 7)
        names = None
    else:
        make = {"geneformer": small.geneformer, "scgpt": small.scgpt_folder}[request.param]
        of = make(folder / "model")
        small.write_cells(folder / "cells", of, values=request.param == "scgpt")
        architecture = architecture_of(load_model(of))
        cells, known = encoded.read(folder / "cells"), vocabulary.read(of)
        text, inside = operator_maps.of_cells(cells, np.arange(len(cells)), known, architecture)
        names = known.names
    found = operator_maps.export(
        architecture, text, inside, names, most=25, device="cpu", attention=True
    )
    return architecture, text, inside, found


class TestMaps:
    @torch.no_grad()
    def test_both_readings_against_loops(self, exported):
        architecture, text, inside, found = exported
        attention, entering = _by_hand(architecture, text, inside, found.items)
        # Seen: 2e-4, of float16; the sums are of float32.
        assert found.attention == pytest.approx(attention, abs=1e-3)
        centred = entering - entering.mean(axis=0)
        assert found.embedding == pytest.approx(centred, abs=1e-4)
        mean = torch.from_numpy(entering).float()
        for layer, block in enumerate(architecture.blocks):
            # One item alone is all that is attended to: the heads write its values.
            values = architecture.heads(block, mean[:, None])[:, 0].numpy()
            weight, _ = architecture.projection(block)
            for head in range(architecture.n_heads):
                of = slice(head * architecture.d_head, (head + 1) * architecture.d_head)
                wrote = (values[:, of] - values[:, of].mean(axis=0)) @ weight[:, of].numpy().T
                expected = wrote @ centred.T
                assert found.matrix("ov_weight", layer, head) == pytest.approx(
                    expected, abs=1e-3 * np.abs(expected).max()
                )

    def test_items_are_those_that_most_sequences_hold(self, exported):
        _, text, inside, found = exported
        counts = {
            item: sum(item in row[where] for row, where in zip(text.inputs, inside, strict=True))
            for item in range(50)
        }
        least = min(counts[int(item)] for item in found.items)
        assert all(counts[item] <= least for item in counts if item not in found.items)
        assert list(found.seen) == [counts[int(item)] for item in found.items]

    def test_a_file_holds_what_was_written_and_damage_is_one_line(self, exported, tmp_path):
        *_, found = exported
        maps.write(tmp_path / "a.safetensors", found, {"state": "a"})
        maps.write(tmp_path / "b.safetensors", found, {"state": "a"})
        again = maps.read(tmp_path / "a.safetensors")
        assert (again.reads == found.reads).all()
        assert again.names == found.names
        one, other = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "ab")
        assert one == other
        (tmp_path / "a.safetensors").write_bytes(b"no")
        with pytest.raises(RepresentationError, match="holds no maps of heads"):
            maps.read(tmp_path / "a.safetensors")

    def test_factors_are_those_of_the_whole_matrix(self):
        rng = np.random.default_rng(0)
        left, right = rng.standard_normal((30, 4)), rng.standard_normal((25, 4))
        u, sigma, v = maps.factors(left, right)
        assert u * sigma @ v.T == pytest.approx(left @ right.T)
        assert sigma == pytest.approx(np.linalg.svd(left @ right.T)[1][:4])


class TestRulers:
    def test_the_planted_tree_has_its_own_hops_and_branches(self, tmp_path):
        haematopoiesis.nodes().to_csv(tmp_path / "nodes.csv", index=False)
        ruler = rulers.of_cells(tmp_path)
        assert ruler.kinds == list(tree.NODES)
        assert (ruler.hops() == tree.hops()).all()
        branches = ruler.branches(set(tree.NODES), 3)
        assert {name: len(of) for name, of in branches.items()} == {
            "MEP": 3, "GMP": 4, "CLP": 8, "Pro-B": 3, "T": 3,
        }  # fmt: skip

    def test_human_haematopoiesis_by_hand(self, tmp_path):
        ruler = rulers.of_cells(tmp_path)
        at, hops = ruler.kinds.index, ruler.hops()
        assert hops[at("HSC"), at("naive CD4 T cell")] == 5
        assert hops[at("memory CD4 T cell"), at("effector CD8 T cell")] == 4
        assert hops[at("macrophage"), at("neutrophil")] == 4
        assert hops[at("natural killer cell"), at("plasmacytoid dendritic cell")] == 2
        named = ruler.names["naive thymus-derived CD4-positive, alpha-beta T cell"]
        assert named == "naive CD4 T cell"

    @pytest.mark.parametrize(
        "text", ["node,parent\na,\nb,", "node,parent\na,c", "kind\na", "node,parent\nr,\na,b\nb,a"]
    )
    def test_what_is_no_tree_is_one_line(self, tmp_path, text):
        (tmp_path / "nodes.csv").write_text(text)
        with pytest.raises(AtlasError, match=r"is no (tree|ruler)"):
            rulers.read(tmp_path / "nodes.csv")

    def test_points_have_the_distances_that_space_allows(self):
        points = np.random.default_rng(1).standard_normal((9, 3))
        apart = np.linalg.norm(points[:, None] - points[None], axis=2)
        found = rulers.coordinates(apart, 5)
        again = np.linalg.norm(found[:, None] - found[None], axis=2)
        assert again == pytest.approx(apart)
        assert found[:, 3:] == pytest.approx(0, abs=1e-6)

    def test_tied_dimensions_are_taken_together_or_not_at_all(self):
        hops = tree.hops()
        six, seven = (rulers.coordinates(hops, n) for n in (6, 7))
        assert (six[:, 5] == 0).all()
        assert (np.abs(seven).max(axis=0) > 0.5).all()
        assert six[:, :5] == pytest.approx(seven[:, :5])
        # Which end is which is the same in any order of the kinds.
        turned = rulers.coordinates(hops[::-1, ::-1], 3)[::-1]
        assert np.abs(turned) == pytest.approx(np.abs(seven[:, :3]))


def test_ridge_is_that_of_refits_without_each_group():
    rng = np.random.default_rng(0)
    features, targets = rng.standard_normal((20, 7)) + 3, rng.standard_normal((20, 2))
    fitted, groups = np.arange(14), np.arange(14) % 4
    fit = Ridge.fit(features @ features.T, fitted, groups)
    centred = features[:14] - features[:14].mean(axis=0)
    of_all = np.concatenate([groups, np.full(6, -1)])
    outside = fit.outside(targets[:14], of_all)
    for number, strength in enumerate(RIDGE):
        alpha = strength * (centred**2).sum() / 14
        whole = Reference(alpha=alpha).fit(features[:14], targets[:14])
        predicted = fit.told(targets[:14])[number]
        assert fit.told(targets[:14], number) == pytest.approx(predicted)
        assert predicted == pytest.approx(whole.predict(features))
        assert outside[number, 14:] == pytest.approx(whole.predict(features[14:]))
        for group in range(4):
            out = groups == group
            part = Reference(alpha=alpha).fit(features[:14][~out], targets[:14][~out])
            expected = part.predict(features[:14][out])
            assert outside[number, :14][out] == pytest.approx(expected)
            errors = fit.left_out(targets[:14])[number][out]
            assert errors == pytest.approx(targets[:14][out] - expected)


def _maps(first, n_layers=3):
    """Return maps of one head a layer, of which the first alone writes: `first` @ its transpose."""
    n, width = first.shape
    reads = np.zeros((n_layers, 1, n, width), dtype=np.float32)
    reads[0, 0] = first
    rng = np.random.default_rng(5)
    return Maps(
        items=np.arange(n),
        names=[f"g{number}" for number in range(n)],
        seen=np.ones(n, dtype=np.int32),
        embedding=rng.standard_normal((n, 8)).astype(np.float32),
        reads=reads,
        writes=reads,
    )


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Return cells in which the tree lies along a few directions, under loud ones that say kinds.

    A map onto these directions is the right operator.
    """
    folder = tmp_path_factory.mktemp("planted")
    haematopoiesis.nodes().to_csv(folder / "nodes.csv", index=False)
    ruler = rulers.of_cells(folder)
    rng = np.random.default_rng(3)
    basis, _ = np.linalg.qr(rng.standard_normal((N_ITEMS, N_ITEMS)))
    # As many as the tree has: the sixth and the seventh tie.
    places = rulers.coordinates(ruler.hops(), 7)
    loud = 3 * rng.standard_normal((16, N_ITEMS - 7))
    kind = np.tile(np.repeat(np.arange(16), 4), DONORS)
    donor = np.repeat([f"D{number}" for number in range(DONORS)], 64)
    own = 0.1 * rng.standard_normal((DONORS, N_ITEMS))[np.repeat(np.arange(DONORS), 64)]
    x = np.hstack([places, loud])[kind] @ basis.T + own
    x += 0.2 * rng.standard_normal(x.shape)
    depth = np.array([tree.DEPTHS[name] for name in tree.NODES], dtype=float)
    order = depth[kind] + 0.1 * rng.standard_normal(len(kind))
    cells = Cells(np.arange(len(kind)), donor, donor, kind, order)
    prepared = Prepared(ruler, cells, anchors(cells, fewest=2), x)
    return prepared, Inputs(x), basis[:, :7]


@pytest.fixture(scope="module")
def few(settings):
    """Return the settings of the gates, with fewer draws."""
    thresholds = settings.operator_gates.thresholds.model_copy(update={"p": 0.01})
    return settings.operator_gates.model_copy(
        update={
            "permutations": 199, "wrong_rulers": 39, "draws": 200, "components": [3],
            "thresholds": thresholds, "spectra": 1,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def table(planted, few):
    """Return what the gates say of the right operator, with an untrained one beside it."""
    prepared, inputs, right = planted
    random, _ = np.linalg.qr(np.random.default_rng(9).standard_normal(right.shape))
    states = {"step0": _maps(random), "step9": _maps(right)}
    found = operator_gates.gates(prepared, inputs, states, few)
    return found[found["dimensions"] == 10]


class TestGates:
    @staticmethod
    def _one(table, gate, name="drift", state="step9", ruler="right", adaptor="ridge"):
        same = (table["gate"] == gate) & (table["name"] == name) & (table["ruler"] == ruler)
        same &= (table["state"].fillna("") == state) & (table["adaptor"] == adaptor)
        (row,) = table[same].to_dict("records")
        return row

    def test_the_right_operator_passes_every_gate(self, table, tmp_path):
        tables.write(table, OPERATOR_GATES, tmp_path / "gates.csv")
        for gate in ("random", "donor", "branch", "within", "p", "p_kinds"):
            assert self._one(table, gate)["passed"] == 1, gate
        for gate in ("beyond_expression", "beyond_embedding", "beyond_untrained"):
            assert self._one(table, gate)["low"] > 0, gate
        assert self._one(table, "within")["value"] > 0.6
        assert self._one(table, "p")["value"] == pytest.approx(1 / 200)
        assert self._one(table, "p")["low"] == pytest.approx(1 / 200)

    def test_a_wrong_ruler_passes_by_donor_and_fails_within_a_branch(self, table):
        donor = self._one(table, "donor", name="raw", state="", ruler="wrong")
        assert donor["value"] > 0.8
        assert donor["passed"] == 1
        within = self._one(table, "within", name="raw", state="", ruler="wrong")
        assert within["passed"] == 0
        assert abs(within["value"]) < 0.15
        assert self._one(table, "within", ruler="wrong")["passed"] == 0

    def test_shuffled_labels_fail(self, table):
        assert self._one(table, "donor", ruler="shuffled")["passed"] == 0
        assert self._one(table, "donor", ruler="shuffled")["value"] == pytest.approx(0, abs=0.05)

    def test_the_untrained_model_fails_where_it_must(self, table):
        assert self._one(table, "within", state="step0")["value"] < 0.5
        within, right = (self._one(table, "within", state=s) for s in ("step0", "step9"))
        assert within["high"] < right["low"]
        assert self._one(table, "p_kinds", name="raw", state="")["passed"] == 0

    def test_a_head_is_chosen_without_what_is_held_out(self, table):
        # Two of the three heads write nothing.
        best, only = (self._one(table, "within", name=name) for name in ("best head", "drift"))
        assert best["value"] == pytest.approx(only["value"], abs=0.02)

    def test_the_published_adaptor_is_no_better(self, table):
        closed, searched = (self._one(table, "donor", adaptor=a) for a in ("ridge", "arccos"))
        assert 0.3 < searched["value"] < closed["value"]

    def test_random_operators_of_the_same_spectrum_are_worse(self, table):
        random = self._one(table, "within", name="ov_weight 0")
        assert random["value"] < self._one(table, "within")["low"]


def test_readouts_and_what_compression_loses(planted, settings, few, tmp_path):
    prepared, inputs, right = planted
    params = settings.operator_readouts.model_copy(
        update={"ranks": [2, 4, 7, 32], "draws": 100, "donor_folds": 3}
    )
    inputs = Inputs(inputs.x, inputs.x[:, :20])
    found = operator_readouts.readouts(
        prepared, inputs, {"step9": _maps(right)}, params, dimensions=10, components=[3]
    )
    tables.write(found, OPERATOR_READOUTS, tmp_path / "readouts.csv")
    steps = found[(found["source"] == "ov_weight") & (found["through"] == "features")]
    by = steps.pivot(index="name", columns="endpoint", values="value")
    # No rank of the head or above is offered.
    assert set(by.index) == {"drift", "best head", "rank 4", "rank 2", "sparse 7"}
    assert by.loc["best head"].to_numpy() == pytest.approx(by.loc["drift"].to_numpy(), abs=1e-9)
    assert by.loc["rank 2", "kind"] < by.loc["rank 4", "kind"] < by.loc["drift", "kind"]
    lost = steps[(steps["name"] == "rank 2") & (steps["endpoint"] == "kind")].iloc[0]
    assert lost["loss"] == pytest.approx(by.loc["drift", "kind"] - by.loc["rank 2", "kind"])
    # The smallest that six donors allow: all lose.
    assert lost["p"] == pytest.approx(2 / 2**6)
    sizes = steps.set_index("name")["n_bytes"]
    assert sizes["rank 2"].iloc[0] == 4 * 2 * 2 * N_ITEMS
    depth = found[(found["name"] == "diffusion pseudotime")]
    assert list(depth["endpoint"]) == ["depth"]


def test_palantir_is_in_the_order_of_a_line_of_cells():
    pytest.importorskip("palantir", reason="palantir is an extra: pip install palantir")
    rng = np.random.default_rng(1)
    along = np.sort(rng.random(300))
    cells = np.stack([np.cos(3 * along), np.sin(3 * along), along], axis=1)
    found = operator_readouts._palantir(cells + 0.02 * rng.standard_normal(cells.shape), 0)
    assert stats.spearmanr(found, along).statistic > 0.95


def test_palantir_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "palantir", None)
    with pytest.raises(SettingsError, match=r"extras names palantir.*pip install palantir"):
        operator_readouts._palantir(np.zeros((3, 2)), 0)


def test_scvi_tells_two_kinds_of_cells_that_were_counted_in_two_batches():
    pytest.importorskip("scvi", reason="scVI is an extra: pip install scvi-tools")
    rng = np.random.default_rng(3)
    kind = np.arange(240) % 2
    means = np.where((np.arange(40) < 20) == kind[:, None].astype(bool), 8.0, 2.0)
    batch = np.where(np.arange(240) < 120, "a", "b")
    counts = rng.poisson(means * np.where(batch == "a", 1, 2)[:, None]).astype(float)
    latent, size = operator_readouts._scvi(counts, batch, epochs=60)
    assert latent.shape == (240, 10)
    assert size > 40 * 128
    apart = latent[kind == 1].mean(axis=0) - latent[kind == 0].mean(axis=0)
    along = latent @ apart
    assert auroc(along, kind.astype(bool)) > 0.99


class TestFactors:
    @pytest.fixture
    def drops(self):
        """Four factors say four kinds; four more say nothing."""
        rng = np.random.default_rng(2)
        kind = np.tile(np.arange(5), 60)
        donor = np.repeat([f"D{number}" for number in range(6)], 50)
        signal = np.vstack([np.zeros(4), np.eye(4)])[kind] + 0.15 * rng.standard_normal((300, 4))
        noise = 0.15 * rng.standard_normal((300, 4))
        cells = Cells(np.arange(300), donor, donor, kind, None)
        ends = Endpoints.of(cells, list("abcde"), [("b", "c")])
        return Drops(np.hstack([signal, noise]), ends, donor, 3)

    def test_planted_factors_carry_all_and_their_core_is_enough(self, drops, settings, tmp_path):
        params = settings.operator_factors.model_copy(update={"rotations": 20, "draws": 100})
        whole = np.eye(8)
        sigma = np.array([1.0] * 4 + [0.5] * 4)
        rows = []
        for condition in ("fixed", "refitted"):
            found = drops.of_basis(whole, condition)
            assert found.shape == (6, 8)
            rotated = np.stack(
                [drops.of_basis(one, condition).mean(axis=0)
                 for one in operator_factors.rotations(8, 20, 1)]
            )  # fmt: skip
            of = {"state": "s", "head": "L0H0", "condition": condition}
            rows += operator_factors.shares(found, rotated, sigma, params, of)
        table = pd.DataFrame(rows)[list(OPERATOR_FACTORS.columns)]
        tables.write(table, OPERATOR_FACTORS, tmp_path / "factors.csv")
        four = table[(table["top"] == 4) & (table["condition"] == "fixed")].iloc[0]
        assert four["share"] > 0.95
        assert four["rotated_high"] < four["low"]
        assert four["p"] == pytest.approx(1 / 21)
        assert four["sigma2_share"] == pytest.approx(4 / 5)
        names = [f"f{number:02d}" for number in range(8)]
        core = pd.DataFrame(operator_factors.core(drops, np.arange(8), names, params, "s"))
        tables.write(core[list(OPERATOR_CORE.columns)], OPERATOR_CORE, tmp_path / "core.csv")
        assert len(core) == 15 * 2
        every = core[(core["n_kept"] == 4) & (core["endpoint"] == "kind")].iloc[0]
        one = core[(core["n_kept"] == 1) & (core["endpoint"] == "kind")]
        assert abs(every["loss"]) < 0.02
        assert (one["loss"] > 0.4).all()

    def test_zeroing_by_hand(self, drops):
        features = drops.features.copy()
        features[:, 1] = 0
        cells, _, weights, offset = drops.folds[0]
        name, rows = next(iter(cells.items()))
        expected = drops.ends.values(features[rows] @ weights + offset, rows)
        found = drops.fixed(np.eye(8)[:, [1]])[drops.names.index(name)]
        assert found == pytest.approx(expected)

    def test_effects_are_measured_by_the_general_stage(self, drops, settings, tmp_path):
        rng = np.random.default_rng(0)
        head = Factored("L0H0", *np.linalg.qr(rng.standard_normal((20, 8))), np.ones((20, 8)))
        head = Factored("L0H0", head.reads, np.arange(8, 0, -1.0), head.writes)
        state = State("operators", "step9", 9.0, "sum over endpoints", "sigma2")
        by = {"fixed": drops.of_basis(np.eye(8), "fixed")}
        parts = operator_factors.as_effects(state, head, by, np.nansum(drops.whole, axis=1))
        effects.write(tmp_path / "step9.parquet", parts)
        again = effects.read_states(tmp_path, ["step9"])
        assert again[0].exposure == pytest.approx(np.arange(8, 0, -1.0) ** 2)
        system = settings.systems["operators"].model_copy(update={"states": ["step9"]})
        fewer = settings.measured.model_copy(update={"draws": 50})
        found, _, _ = measured.measured(again, system, measured.metrics_of("operators"), fewer)
        number = found[found["metric"] == "effective_number"].iloc[0]
        assert number["value"] == pytest.approx(4, abs=0.6)

    def test_programmes_by_an_exact_count(self, tmp_path):
        sets = np.zeros((3, 20), dtype=bool)
        # The third has none of these items.
        sets[0, :5] = sets[1, 5:10] = True
        reads = np.zeros((20, 2))
        reads[:4, 0], reads[5:9, 1] = 1.0, -1.0
        head = Factored("L0H0", reads, np.array([2.0, 1.0]), reads[:, ::-1])
        found = operator_factors.programmes(head, (["a", "b", "gone"], sets), 4, "s")
        tables.write(found, OPERATOR_PROGRAMMES, tmp_path / "programmes.csv")
        assert list(found["programme"]) == ["a", "b", "b", "a"]
        # All 4 of 5 among 20: 5 / C(20, 4).
        assert found["p"].to_numpy() == pytest.approx(5 / 4845)
        assert found["q"].to_numpy() == pytest.approx(5 / 4845 * 2)


class TestEdges:
    @pytest.fixture
    def programmes(self):
        rng = np.random.default_rng(4)
        found = []
        for number in range(4):
            first = number * 15
            edges = np.zeros((3, 12), dtype=bool)
            for row in edges:
                row[rng.permutation(12)[:5]] = True
            found.append(Programme(first + np.arange(3), first + 3 + np.arange(12), edges))
        return found

    def test_planted_edges_and_their_direction(self, programmes, settings, tmp_path):
        rng = np.random.default_rng(5)
        logs = rng.standard_normal((200, N_ITEMS))
        attention = 0.01 * rng.random((2, 2, N_ITEMS, N_ITEMS))
        for one in programmes:
            for factor, row in zip(one.factors, one.edges, strict=True):
                attention[1, 0, one.genes[row], factor] += 0.1
                logs[:, one.genes[row]] += logs[:, [factor]]
        known = _maps(rng.standard_normal((N_ITEMS, 4)), n_layers=2)
        reads = np.repeat(known.reads, 2, axis=1)
        trained = Maps(
            known.items, known.names, known.seen, known.embedding, reads, reads,
            attention.astype(np.float16),
        )  # fmt: skip
        params = settings.operator_edges.model_copy(update={"draws": 100})
        found = operator_edges.edges_table({"step9": trained}, logs, programmes, params)
        tables.write(found, OPERATOR_EDGES, tmp_path / "edges.csv")
        best = found[(found["source"] == "attn_mean") & (found["name"] == "best head")]
        by = best.set_index("way")["value"]
        assert by["target to factor"] == 1
        assert by["factor to target"] < 0.75
        # The difference of both ways falls with what the target gives the factor.
        assert by["direction"] < 0.2
        similar = found[found["source"] == "embedding"].iloc[0]
        assert similar["value"] == pytest.approx(0.5, abs=0.15)
        assert found[found["source"] == "expression"].iloc[0]["value"] > 0.95

    def test_only_factors_with_enough_of_both_are_asked(self):
        edges = pd.DataFrame(
            [("f", target, "activates") for target in "ab"]
            + [("g", target, "") for target in "abcx"]
            + [("h", target, "represses") for target in "abcd"],
            columns=["factor", "target", "sign"],
        )
        names, of = list("zyxhgfedcba"), Known({}, edges, near={"p": frozenset("fghabcde")})
        assert operator_edges.programmes(of, names) == []
        of = Known({}, edges, near={"p": frozenset("fghabcdei")})
        (one,) = operator_edges.programmes(of, ["i", *names])
        assert one.factors.tolist() == [5]
        assert one.genes.tolist() == [11, 10, 9, 8, 7, 0]
        assert one.edges.tolist() == [[True] * 3 + [False] * 3]


@pytest.mark.parametrize("kind", ["geneformer", "scgpt"])
def test_any_model_of_cells_without_labels(kind, params, tmp_path, monkeypatch):
    """Both published layouts go through every stage; where nothing is known, tables are empty."""
    monkeypatch.chdir(tmp_path)
    make = {"geneformer": small.geneformer, "scgpt": small.scgpt_folder}[kind]
    (tmp_path / "models").mkdir()
    of = make(tmp_path / "models" / "main")
    counts = np.random.default_rng(0).poisson(0.7, (30, small.N_GENES)).astype(np.float32)
    var = pd.DataFrame(index=small.GENES if kind == "geneformer" else small.SYMBOLS)
    ad.AnnData(sparse.csr_matrix(counts), var=var).write_h5ad(tmp_path / "cells.h5ad")
    cells = {
        "h5ad": "cells.h5ad", "n_cells": 4, "reference_cells": 4, "seed": 1, "held_out": {},
        "encoding": {"preset": "geneformer-v2" if kind == "geneformer" else "scgpt",
                     "max_length": 20, "columns": []},
    }  # fmt: skip
    model = {"name": "local", "source": "hub", "demo": False, "notice": None, "positions": {},
             "folder": "models", "checkpoints": ["main"], "tables": "tables", "known": "known",
             "repo": None, "local": "models", "cells": cells}  # fmt: skip
    changed = params | {"cellmodel": model}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
    how = Encoding.model_validate(cells["encoding"])
    encode_file(tmp_path / "cells.h5ad", of, how, tmp_path / "cells")
    words = ["--checkpoints", "models", "--cells", "cells"]
    assert operator_maps.main([*words, "--out", "maps"]) == 0
    words += ["--maps", "maps", "--known", "known"]
    for stage, schema in (
        (operator_gates, OPERATOR_GATES),
        (operator_readouts, OPERATOR_READOUTS),
        (operator_edges, OPERATOR_EDGES),
    ):
        assert stage.main([*words, "--out", "table.csv"]) == 0
        assert tables.read(tmp_path / "table.csv", schema).empty
    assert operator_factors.main([*words, "--effects", "effects", "--out", "tables"]) == 0
    (found,) = effects.read_states(tmp_path / "effects", ["main"])
    assert found.state.unit == "share of the output"
    assert found.values.sum(axis=1) == pytest.approx(1)
    assert tables.read(tmp_path / "tables" / "operator_factors.csv", OPERATOR_FACTORS).empty


def test_the_figure_says_that_there_are_no_kinds(drawn_texts):
    empty = (tables.empty(schema) for schema in (OPERATOR_GATES, OPERATOR_FACTORS, OPERATOR_EDGES))
    seen = {text.get_text() for text, _ in drawn_texts(figure.draw(*empty))}
    assert figure.NOTHING in seen


@pytest.fixture
def shown(table):
    """Return tables of factors, edges, readouts and measurement that go with those of the gates."""
    factors = pd.DataFrame(
        [
            {"state": "step9", "head": "L0H0", "condition": condition, "top": top, "share": 0.6}
            | {"low": 0.5, "high": 0.7, "rotated": 0.45, "rotated_low": 0.4, "rotated_high": 0.5}
            | {"p": 0.05, "sigma2_share": 0.8, "n_factors": 16, "n_donors": 6}
            for condition in ("fixed", "refitted")
            for top in (4, 10)
        ]
    )
    ways = ("factor to target", "target to factor", "direction")
    keys = [("expression", "correlation", None, "both"), ("embedding", "gene embedding", "step9",
            "both")]  # fmt: skip
    keys += [("attn_mean", name, state, way) for name in ("mean of heads", "best head")
             for state in ("step0", "step9") for way in ways]  # fmt: skip
    edges = pd.DataFrame(keys, columns=["source", "name", "state", "way"])
    edges = edges.assign(value=0.66, low=0.6, high=0.7, n_edges=10, n_programmes=4)
    reads = pd.DataFrame(
        {"source": "ov_weight", "name": "rank 4", "through": "features", "p": 0.01,
         "q": [0.01, 0.2], "loss": 0.1, "n_bytes": 2_000_000}
    )  # fmt: skip
    numbers = pd.DataFrame(
        [{"state": "step9", "metric": "effective_number", "condition": "fixed", "value": 7.25,
          "floor": 9.5}]
    )  # fmt: skip
    return SimpleNamespace(
        operator_gates=table, operator_factors=factors, operator_edges=edges,
        operator_readouts=reads, operator_factor_effects=numbers,
    )  # fmt: skip


def test_the_figure_fits_its_page(shown, drawn_texts):
    drawn = figure.draw(shown.operator_gates, shown.operator_factors, shown.operator_edges)
    seen = drawn_texts(drawn)
    assert {"OV, drift", "OV, drift, untrained", "4, fixed", "random bases"} <= {
        text.get_text() for text, _ in seen
    }
    for text, box in seen:
        assert box.x0 >= drawn.bbox.x0 - 1, text.get_text()
        assert box.x1 <= drawn.bbox.x1 + 1, text.get_text()


def test_the_section_says_what_was_found(shown, settings):
    words = {"settings": settings, "significant": 0.05}
    template = Templates()._environment.get_template("sections/operators.md.j2")
    text = " ".join(template.render(operators=report.context(shown), **words).split())
    assert "**Some operators exceed the gene embedding**" in text
    assert "carry 60% of what single factors cost" in text
    assert "Their effective number is 7.2 (noise alone: 9.5)" in text
    assert "rank 4 (2.00 MB) 1 of 2" in text
    assert "area of 0.66 [0.60, 0.70] (untrained 0.66)" in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "| OV, drift, untrained |" in text
    assert len(text.partition("| Candidate")[0].split()) <= 250
