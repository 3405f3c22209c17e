"""scGPT and cells as texts: the published layout, a forward pass by hand, torch's own, removals.

Largest differences seen are beside each tolerance.
"""

import json
import logging
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stages.base.errors import AblationError, StageError
from stages.heads import attribution
from stages.models.architectures import architecture_of
from stages.models.architectures.base import Loss
from stages.models.devices import cast_blocks
from stages.models.interventions import Heads, single_heads
from stages.models.load import fingerprint, load_model, read_config, shape_of, weight_files
from stages.models.losses import row_losses, row_slopes
from stages.models.passes import Passes
from stages.models.scgpt import ScGPTModel, config_of
from stages.models.text import Text, cell_text, masked_tokens, masked_values, text_of
from tests.unit import test_families as families
from tests.unit.test_families import HIDDEN, N_HEADS, N_LAYERS, SEQ

N_GENES, D_HID, N_BINS = 40, 56, 51
PAD, CLS, EOC = N_GENES, N_GENES + 1, N_GENES + 2
VOCABULARY = {f"GENE{number}": number for number in range(N_GENES)} | {
    "<pad>": PAD,
    "<cls>": CLS,
    "<eoc>": EOC,
}
# The published keys; the sizes are small, and d_hid is not embsize, where a mistake would not show.
ARGS = {
    "embsize": HIDDEN,
    "d_hid": D_HID,
    "nheads": N_HEADS,
    "nlayers": N_LAYERS,
    "n_layers_cls": 3,
    "dropout": 0.2,
    "pad_token": "<pad>",
    "pad_value": -2,
    "mask_value": -1,
    "n_bins": N_BINS,
    "max_seq_len": 64,
    "input_style": "binned",
    "input_emb_style": "continuous",
    "mask_ratio": [0.25, 0.5, 0.75],
    "training_tasks": "both",
    "MVC": True,
    "USE_CLS": False,
    "fast_transformer": True,
    "vocab_path": "default_census_vocab.json",
}
D_HEAD = HIDDEN // N_HEADS
LAYERS = "transformer_encoder.layers"
EXTRA = ("mvc_decoder.gene2query.weight", "mvc_decoder.W.weight", "flag_encoder.weight")


def published():
    """Return random weights under the published names and in the published shapes."""
    d, shapes = HIDDEN, {}
    shapes["encoder.embedding.weight"] = (len(VOCABULARY), d)
    shapes |= dict.fromkeys(("encoder.enc_norm.weight", "encoder.enc_norm.bias"), (d,))
    shapes |= {"value_encoder.linear1.weight": (d, 1), "value_encoder.linear1.bias": (d,)}
    shapes |= {"value_encoder.linear2.weight": (d, d), "value_encoder.linear2.bias": (d,)}
    shapes |= dict.fromkeys(("value_encoder.norm.weight", "value_encoder.norm.bias"), (d,))
    for layer in range(N_LAYERS):
        own = {
            "self_attn.Wqkv.weight": (3 * d, d),
            "self_attn.Wqkv.bias": (3 * d,),
            "self_attn.out_proj.weight": (d, d),
            "self_attn.out_proj.bias": (d,),
            "linear1.weight": (D_HID, d),
            "linear1.bias": (D_HID,),
            "linear2.weight": (d, D_HID),
            "linear2.bias": (d,),
            **dict.fromkeys(("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"), (d,)),
        }
        shapes |= {f"{LAYERS}.{layer}.{name}": shape for name, shape in own.items()}
    for number, width in ((0, d), (2, d), (4, 1)):
        shapes |= {f"decoder.fc.{number}.weight": (width, d), f"decoder.fc.{number}.bias": (width,)}
    generator = torch.Generator().manual_seed(5)
    weights = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        if "norm" in name:
            weights[name] = drawn * 0.2 + (1.0 if name.endswith("weight") else 0.0)
        else:
            # Values reach 50, and attention must be far from even to matter.
            weights[name] = drawn * (1.0 if "embedding" in name else 0.3)
    return weights


def extras():
    return {name: torch.ones(2, HIDDEN) for name in EXTRA}


def renamed(weights, *pairs):
    def change(name):
        for old, new in pairs:
            name = name.replace(old, new)
        return name

    return {change(name): weight for name, weight in weights.items()}


SPELLINGS = {
    "Wqkv": (),
    "_impl": (("self_attn.Wqkv", "self_attn._impl.Wqkv"),),
    "in_proj": (("self_attn.Wqkv.", "self_attn.in_proj_"),),
    "mirror": (
        ("self_attn.Wqkv.", "self_attn.in_proj_"),
        ("transformer_encoder.", "transformer."),
        ("value_encoder.", "VALUE"),
        ("encoder.", "gene_encoder."),
        ("VALUE", "value_encoder."),
        ("decoder.fc.", "expr_decoder.fc."),
    ),
}


def write(folder, weights, *, vocabulary=VOCABULARY, name="vocab.json", **args):
    folder.mkdir(exist_ok=True)
    (folder / "args.json").write_text(json.dumps(ARGS | args))
    (folder / name).write_text(json.dumps(vocabulary))
    torch.save(weights, folder / "best_model.pt")
    return folder


@pytest.fixture(scope="module")
def weights():
    return published()


@pytest.fixture
def folder(tmp_path, weights):
    return write(tmp_path, weights | extras())


def cells(lengths, seed):
    """Return ids and values of cells: ``<cls>`` first, with the value of padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randperm(N_GENES, generator=generator)[:SEQ] for _ in lengths])
    values = torch.randint(1, N_BINS, ids.shape, generator=generator).float()
    ids[:, 0], values[:, 0] = CLS, -2
    padding = torch.arange(SEQ) >= torch.tensor(lengths)[:, None]
    return ids.masked_fill(padding, PAD), values.masked_fill(padding, -2.0)


LENGTHS, OTHER_LENGTHS = [SEQ, 17, 10, 15, 4], [18, 5, SEQ - 1, 9, 16, 7]


def text_for(model, lengths=LENGTHS, seed=1):
    ids, values = cells(lengths, seed)
    return cell_text(
        ids, architecture=architecture_of(model), pad=PAD, special=(CLS, EOC), mask=None,
        values=values, share=0.3,
    )  # fmt: skip


def norm(x, weights, name):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def dense(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def by_hand(weights, ids, values, attended):
    """Return the predicted values and what leaves each block, written from the paper and its code.

    One cell and one head at a time, over the positions that are no padding; nan elsewhere.
    """
    weights = {name: weight.double() for name, weight in weights.items()}
    predicted = torch.full(ids.shape, float("nan"), dtype=torch.float64)
    left = torch.full((N_LAYERS, *ids.shape, HIDDEN), float("nan"), dtype=torch.float64)
    for cell, there in enumerate(attended):
        bins = values[cell, there].double()[:, None].minimum(torch.tensor(512.0))
        inner = dense(bins, weights, "value_encoder.linear1").maximum(torch.tensor(0.0))
        x = norm(weights["encoder.embedding.weight"][ids[cell, there]], weights, "encoder.enc_norm")
        x = x + norm(dense(inner, weights, "value_encoder.linear2"), weights, "value_encoder.norm")
        for layer in range(N_LAYERS):
            part = {
                name.removeprefix(f"{LAYERS}.{layer}."): weight for name, weight in weights.items()
            }
            query, key, value = dense(x, part, "self_attn.Wqkv").split(HIDDEN, dim=-1)
            written = []
            for head in range(N_HEADS):
                columns = slice(head * D_HEAD, (head + 1) * D_HEAD)
                scores = (query[:, columns] @ key[:, columns].T / D_HEAD**0.5).exp()
                written.append(scores / scores.sum(-1, keepdim=True) @ value[:, columns])
            mixed = dense(torch.cat(written, dim=-1), part, "self_attn.out_proj")
            x = norm(x + mixed, part, "norm1")
            inner = dense(x, part, "linear1").maximum(torch.tensor(0.0))
            x = norm(x + dense(inner, part, "linear2"), part, "norm2")
            left[layer, cell, there] = x
        for number in (0, 2):
            x = dense(x, weights, f"decoder.fc.{number}")
            x = torch.where(x > 0, x, 0.01 * x)
        predicted[cell, there] = dense(x, weights, "decoder.fc.4")[:, 0]
    return predicted, left


def squared(predicted, text):
    """Return the loss of each cell, counted position by position."""
    losses = []
    for cell in range(len(text)):
        at = [
            (float(predicted[cell, position]) - float(text.target_values[cell, position])) ** 2
            for position in range(SEQ)
            if text.scored[cell, position]
        ]
        losses.append(sum(at) / len(at))
    return torch.tensor(losses, dtype=torch.float64)


@dataclass
class CellCase(families.Case):
    """The model's own full forward pass, with hooks."""

    tolerance = 1e-10  # seen: 9e-13, of losses of up to 1,600

    def projection(self, layer):
        return self.block(layer).self_attn.out_proj

    @torch.no_grad()
    def losses(self, text=None):
        text = text or self.text
        return squared(self.model(text.inputs, text.values, text.attended), text)


@pytest.fixture(params=[True, False], ids=["padded", "whole"])
def case(request, folder):
    model = load_model(folder, dtype=torch.float64)
    model.dtype = torch.float64  # as the models of transformers say it
    one, other = (LENGTHS, OTHER_LENGTHS) if request.param else ([SEQ] * 5, [SEQ] * 6)
    text, reference = text_for(model, one), text_for(model, other, seed=2)
    assert (text.attended is not None) == request.param
    return CellCase(model, text, reference)


class TestForward:
    def test_by_hand(self, case, weights):
        text = case.text
        there = text.inputs != PAD
        predicted, left = by_hand(weights, text.inputs, text.values, there)
        found = case.model(text.inputs, text.values, text.attended)
        assert (found - predicted)[there].abs().max() < 1e-12  # seen: 1e-14
        assert (case.passes().baseline() - squared(predicted, text)).abs().max() < case.tolerance
        architecture = architecture_of(case.model)
        state = architecture.enter(text)
        for layer, block in enumerate(architecture.blocks):
            state = architecture.run(block, state, text.attended)
            assert (state - left[layer])[there].abs().max() < 1e-12  # seen: 6e-15
        assert predicted[there].std() > 0.5

    @pytest.mark.parametrize("fast", [True, False], ids=["fast path", "slow path"])
    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
    def test_torch(self, folder, fast, weights):
        model = load_model(folder, dtype=torch.float64)
        text = text_for(model)
        layer = nn.TransformerEncoderLayer(HIDDEN, N_HEADS, D_HID, 0.2, batch_first=True)
        theirs = nn.TransformerEncoder(layer, N_LAYERS, enable_nested_tensor=fast).double().eval()
        inner = {
            name.removeprefix("transformer_encoder."): weight
            for name, weight in renamed(weights, ("Wqkv.", "in_proj_")).items()
            if name.startswith("transformer_encoder.")
        }
        theirs.load_state_dict(inner)
        enabled = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(fast)
        try:
            with torch.no_grad():
                entering = model.enter(text.inputs, text.values)
                expected = theirs(entering, src_key_padding_mask=~text.attended)
        finally:
            torch.backends.mha.set_fastpath_enabled(enabled)
        # Else the fast path was not taken, or was.
        assert bool((expected[~text.attended] == 0).all()) == fast
        state = entering
        for block in model.transformer_encoder.layers:
            state = block(state, text.attended)
        assert (state - expected)[text.attended].abs().max() < 1e-12  # seen: 3e-15

    def test_values_are_cut_off(self, folder):
        model = load_model(folder)
        ids = torch.tensor([[CLS, 3, 4]])
        large, largest = (model(ids, torch.tensor([[-2.0, v, 5.0]])) for v in (1e4, 512.0))
        assert torch.equal(large, largest)
        assert not torch.equal(large, model(ids, torch.tensor([[-2.0, 511.0, 5.0]])))


class TestCells:
    def test_padding_decides_nothing(self, case):
        text, losses = case.text, case.passes().baseline()
        for cell, length in enumerate((text.inputs != PAD).sum(dim=1).tolist()):
            alone = Text(*(
                None if array is None else array[cell : cell + 1, :length]
                for array in (text.inputs, text.targets, text.scored, None, text.values,
                              text.target_values)
            ))  # fmt: skip
            loss = Passes(case.model, alone).baseline()[0]
            assert abs(loss - losses[cell]) < case.tolerance  # seen: 1e-13
        if text.attended is None:
            return
        assert not (text.scored & ~text.attended).any()
        # What stands in padding is not read; nor would it be averaged if it were predicted well.
        filler = ~text.attended
        other = Text(
            text.inputs.masked_fill(filler, 7), text.targets, text.scored, text.attended,
            text.values.masked_fill(filler, 33.0), text.target_values.masked_fill(filler, 1e6),
        )  # fmt: skip
        assert torch.equal(Passes(case.model, other).baseline(), losses)

    def test_the_order_of_genes_means_nothing(self, case):
        text, generator = case.text, torch.Generator().manual_seed(4)
        lengths = (text.inputs != PAD).sum(dim=1)
        order = torch.rand(text.inputs.shape, generator=generator)
        order = order.masked_fill(torch.arange(SEQ) >= lengths[:, None], 2.0).argsort(dim=1)
        mixed = text._each(lambda array: array.take_along_dim(order, dim=1))
        assert not torch.equal(mixed.inputs, text.inputs)
        apart = Passes(case.model, mixed).baseline() - case.passes().baseline()
        assert apart.abs().max() < case.tolerance  # seen: 5e-13

    def test_masks_are_those_of_masked_tokens(self):
        ids, values = cells(LENGTHS, 1)
        attended = ids != PAD
        text = masked_values(ids, values, -1.0, attended=attended, special=(CLS,))
        same = masked_tokens(ids, 99, attended=attended, special=(CLS,))
        assert torch.equal(text.scored, same.scored)
        share = ((torch.tensor(LENGTHS) - 1) * 0.15).round().clamp(min=1)
        assert torch.equal(text.scored.sum(dim=1), share.long())
        assert not (text.scored & (ids == CLS)).any()
        assert torch.equal(text.inputs, ids)
        assert torch.equal(text.values == -1, text.scored)
        assert torch.equal(text.target_values, values)
        assert torch.equal(text.values[~text.scored], values[~text.scored])

    def test_geneformer(self):
        model = families.make("bert geneformer", torch.float64)
        pad, mask, cls, eos = range(4)
        texts = []
        for lengths, seed in ((LENGTHS, 1), (OTHER_LENGTHS, 2)):
            generator = torch.Generator().manual_seed(seed)
            ids = torch.randint(4, families.VOCABULARY, (len(lengths), SEQ), generator=generator)
            last = torch.tensor(lengths)[:, None] - 1
            ids = ids.scatter(1, last, eos).masked_fill(torch.arange(SEQ) > last, pad)
            ids[:, 0] = cls
            texts.append(
                cell_text(
                    ids.int().numpy(),
                    architecture=architecture_of(model),
                    pad=pad,
                    special=(cls, eos),
                    mask=mask,
                    share=0.3,
                )
            )
        text = texts[0]
        assert torch.equal(text.attended, text.targets != pad)
        assert torch.equal(text.inputs == mask, text.scored)
        assert set(text.targets[text.scored].tolist()).isdisjoint({pad, mask, cls, eos})
        counts = ((torch.tensor(LENGTHS) - 2) * 0.3).round().clamp(min=1)
        assert torch.equal(text.scored.sum(dim=1), counts.long())
        families.test_every_head_by_every_way(families.Case(model, *texts))

    @pytest.mark.parametrize(
        ("model", "given", "said"),
        [
            ("scgpt", {"values": None}, "predicts hidden values.* values are missing"),
            ("scgpt", {"mask": 1}, "predicts hidden values.* mask is 1"),
            ("scgpt", {"values": np.ones((5, 3))}, r"values have the shape \(5, 3\)"),
            ("scgpt", {"special": tuple(range(43))}, "sequence 0 holds nothing but"),
            ("bert geneformer", {"mask": 1}, "predicts hidden tokens.* values are given"),
            ("bert geneformer", {"values": None}, "predicts hidden tokens.* mask is None"),
            ("gpt2", {"mask": 1}, "a causal model hides nothing"),
        ],
    )
    def test_what_a_model_does_not_read(self, model, given, said, folder):
        read = load_model(folder) if model == "scgpt" else families.make(model)
        ids, values = cells(LENGTHS, 1)
        options = {"pad": PAD, "special": (CLS,), "mask": None, "values": values} | given
        with pytest.raises(AblationError, match=said) as caught:
            cell_text(ids, architecture=architecture_of(read), **options)
        assert "\n" not in str(caught.value)

    def test_a_text_of_another_model(self, folder):
        model = load_model(folder)
        text = text_for(model)
        ids = Text(text.inputs, text.targets, text.scored, text.attended)
        with pytest.raises(AblationError, match=r"evaluation text of the shape \(5, 20\) has none"):
            Passes(model, ids)
        with pytest.raises(AblationError, match="holds values beside its tokens"):
            Passes(families.make("bert"), text)
        with pytest.raises(AblationError, match="token ids are all that was given"):
            text_of(text.inputs, architecture_of(model), folder)
        damaged = Text(
            text.inputs, text.targets, text.scored, text.attended, text.values * float("nan"),
            text.target_values,
        )  # fmt: skip
        with pytest.raises(AblationError, match="holds 100 values that are nan"):
            Passes(model, damaged)


class TestRemovals:
    def test_every_head_by_every_way(self, case):
        families.test_every_head_by_every_way(case)

    def test_any_list_of_changes_in_several_layers(self, case):
        families.test_any_list_of_changes_in_several_layers(case)

    def test_weights_edited_by_hand(self, case, weights):
        text = case.text
        removals = [
            (Heads(0, (1,)),),
            (Heads(0, (3,)), Heads(2, (2,))),  # a pair in two layers
            (Heads(1, tuple(range(N_HEADS))),),  # all heads of a layer
        ]
        found = case.passes(batch=3).run([(), *removals])
        for removal, losses in zip(removals, found[1:], strict=True):
            edited = dict(weights)
            for change in removal:
                name = f"{LAYERS}.{change.layer}.self_attn.out_proj.weight"
                edited[name] = edited[name].clone()
                for head in change.heads:
                    edited[name][:, head * D_HEAD : (head + 1) * D_HEAD] = 0
            predicted, _ = by_hand(edited, text.inputs, text.values, text.inputs != PAD)
            # Seen: 5e-13.
            assert (losses - squared(predicted, text)).abs().max() < case.tolerance
            assert (losses - found[0]).abs().max() > 1

    def test_float32_and_bf16_are_near(self, folder):
        exact = load_model(folder, dtype=torch.float64)
        text = text_for(exact)
        jobs = [(), *single_heads(1, range(N_HEADS))]
        wanted = Passes(exact, text).run(jobs)
        model = load_model(folder)
        found = Passes(model, text).run(jobs)
        assert ((found - wanted) / wanted).abs().max() < 1e-5  # seen: 4e-7
        rough = Passes(cast_blocks(model, "bf16"), text).run(jobs)
        assert 1e-5 < ((rough - wanted) / wanted).abs().max() < 0.5


class TestAttribution:
    def test_first_order_effect_is_the_slope_of_fading_a_head_out(self, case):
        found = attribution.features(case.model, case.text, batch_size=2)
        np.testing.assert_allclose(found.loss, case.losses(), rtol=1e-12)
        fade = 1e-5
        for layer, head in [(0, 1), (1, 3), (2, 0)]:
            weight = case.projection(layer).weight
            columns = slice(head * D_HEAD, (head + 1) * D_HEAD)
            kept = weight[:, columns].clone()
            losses = []
            for factor in (1 - fade, 1 + fade):
                weight[:, columns] = kept * factor
                losses.append(case.losses())
            weight[:, columns] = kept
            slope = (losses[0] - losses[1]) / (2 * fade)
            # Central differences in double precision: seen 3e-8, of effects of up to 300.
            np.testing.assert_allclose(found.first_order[:, layer, head], slope, atol=1e-6)

    @pytest.mark.parametrize("kind", Loss)
    def test_slopes_are_autograds(self, kind):
        generator = torch.Generator().manual_seed(1)
        values = kind is Loss.SQUARED_ERROR
        outputs = torch.randn(9, 1 if values else 7, generator=generator, dtype=torch.float64)
        targets = torch.randint(7, (9,), generator=generator)
        targets = targets.float() if values else targets
        traced = outputs.clone().requires_grad_()
        losses = row_losses(kind, traced, targets)
        (expected,) = torch.autograd.grad(losses.sum(), traced)
        found, slopes = row_slopes(kind, outputs.clone(), targets)
        assert (found - losses).abs().max() < 1e-12
        assert (slopes - expected).abs().max() < 1e-12
        assert kind.value in ("nats", "squared bins")


class TestFolders:
    def test_four_spellings_are_one_model(self, tmp_path, weights, caplog):
        caplog.set_level(logging.INFO)
        found = []
        for spelling, pairs in SPELLINGS.items():
            model = load_model(write(tmp_path / spelling, renamed(weights, *pairs) | extras()))
            text = text_for(model)
            found.append(model(text.inputs, text.values, text.attended))
        assert len({tuple(renamed(weights, *pairs)) for pairs in SPELLINGS.values()}) == 4
        assert all(torch.equal(found[0], other) for other in found[1:])
        assert "flag_encoder.weight, mvc_decoder.W.weight, mvc_decoder.gene2query" in caplog.text
        whole = tmp_path / "Wqkv"
        save_file(weights, whole / "model.safetensors")
        assert [file.name for file in weight_files(whole)] == ["model.safetensors"]
        again = load_model(whole)(text.inputs, text.values, text.attended)
        assert torch.equal(again, found[0])

    def test_what_is_said_of_a_folder(self, folder):
        assert shape_of(folder) == (N_LAYERS, N_HEADS)
        assert [file.name for file in weight_files(folder)] == ["best_model.pt"]
        config = read_config(folder)
        assert (config.model_type, config.vocab_size, config.pad_token_id) == ("scgpt", 43, PAD)
        assert (config.pad_value, config.mask_value, config.n_bins) == (-2.0, -1.0, N_BINS)
        before = fingerprint(folder)
        (folder / "args.json").write_text(json.dumps(ARGS | {"mask_value": -3}))
        assert fingerprint(folder) != before

    def test_the_projects_own_vocabulary(self, folder):
        special = {name: number for name, number in VOCABULARY.items() if number >= N_GENES}
        genes = {name: number for name, number in VOCABULARY.items() if number < N_GENES}
        path = folder / "vocabulary.json"
        path.write_text(
            json.dumps({"genes": genes, "special": special, "synonyms": {"A": "GENE1"}})
        )
        (folder / "vocab.json").unlink()
        assert read_config(folder).vocab_size == len(VOCABULARY)
        load_model(folder)

    @pytest.mark.parametrize(
        ("vocabulary", "said"),
        [
            (VOCABULARY | {"MORE": 43}, "weights embed 43 genes and special tokens.* has 44"),
            ({"<pad>": 0, "A": 2}, r"its 2 ids are not 0 to 1, each once"),
            ({"A": 0, "B": 1}, r"KeyError: '<pad>'"),
            ({"A": "0", "<pad>": 1}, "TypeError"),
        ],
    )
    def test_another_vocabulary(self, folder, vocabulary, said):
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        self._refused(folder, said)

    @pytest.mark.parametrize("name", ["args.json", "vocab.json", "best_model.pt"])
    def test_a_missing_file(self, folder, name):
        (folder / name).unlink()
        self._refused(folder, "config.json" if name == "args.json" else name)

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            ({"nheads": 5}, "5 heads for a width of 48, which is no multiple"),
            ({"nheads": None}, "says nheads None; an scGPT has a whole number above 0"),
            ({"embsize": 0}, "says embsize 0"),
            ({"nlayers": 4}, r"layers\.3\.linear1\.bias is not among the weights \(12 missing\)"),
            ({"nlayers": 2}, r"layers\.2\.linear1\.bias is no weight .* args\.json"),
            ({"d_hid": 48}, r"linear1\.bias has the shape \(56,\), args\.json makes it \(48,\)"),
            ({"mask_value": "auto"}, "says mask_value 'auto'; an scGPT has a number"),
            ({"input_emb_style": "category"}, "only 'continuous' is described"),
        ],
    )
    def test_args_that_lie(self, folder, args, said):
        (folder / "args.json").write_text(json.dumps(ARGS | args))
        self._refused(folder, said)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda w: w.pop("encoder.enc_norm.bias"), r"enc_norm\.bias is not among the weights"),
            (lambda w: w.update(other=torch.ones(1)), "other is no weight of the model"),
            (
                lambda w: w.update({"decoder.fc.4.weight": torch.ones(2, HIDDEN)}),
                r"fc\.4\.weight has the shape \(2, 48\), args\.json makes it \(1, 48\)",
            ),
            (
                lambda w: w.update({f"{LAYERS}.0.self_attn.in_proj_bias": torch.ones(3 * HIDDEN)}),
                "stands there in two spellings",
            ),
            (lambda w: w.update(epoch=3), "epoch is no tensor"),
            (
                lambda w: w.update({"decoder.fc.4.bias": torch.tensor([float("nan")])}),
                r"decoder\.fc\.4\.bias holds 1 values that are nan",
            ),
            (lambda w: w.clear(), "holds no tensors"),
        ],
    )
    def test_other_weights(self, tmp_path, weights, change, said):
        changed = dict(weights)
        change(changed)
        self._refused(write(tmp_path, changed), said)

    def test_a_pickle_that_runs_code(self, folder, tmp_path):
        marker = tmp_path / "marker"

        class Harm:
            def __reduce__(self):
                return (marker.mkdir, ())

        torch.save({"weight": Harm()}, folder / "best_model.pt")
        self._refused(folder, "holds more than tensors")
        assert not marker.exists()

    def test_a_truncated_file(self, folder):
        content = (folder / "best_model.pt").read_bytes()
        (folder / "best_model.pt").write_bytes(content[: len(content) // 2])
        self._refused(folder, r"best_model\.pt is truncated")

    def _refused(self, folder, said):
        with pytest.raises(StageError, match=said) as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600


def test_the_published_shape_has_the_published_number_of_parameters():
    whole_human = {"embsize": 512, "d_hid": 512, "nheads": 8, "nlayers": 12, "max_seq_len": 1200}
    vocabulary = {f"GENE{number}": number for number in range(60_694)}
    vocabulary |= {"<pad>": 60_694, "<cls>": 60_695, "<eoc>": 60_696}
    with torch.device("meta"):
        model = ScGPTModel(config_of(ARGS | whole_human, vocabulary, "here"))
    parameters = dict(model.named_parameters())
    assert len(parameters) == 159
    assert sum(weight.numel() for weight in parameters.values()) == 50_804_225
    assert architecture_of(model).d_head == 64


def test_a_window_shortens_the_text(folder):
    model = load_model(folder)
    ids = torch.zeros(1, 65, dtype=torch.long)
    text = masked_values(ids, torch.ones(1, 65), -1.0)
    with pytest.raises(AblationError, match="sequences of 65, the model has 64 positions"):
        Passes(model, text)
