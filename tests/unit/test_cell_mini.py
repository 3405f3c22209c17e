"""cell-mini: the same weights however often it was killed, in Geneformer's layout."""

import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from scipy import sparse
from transformers import BertForMaskedLM

from stages.base.errors import AtlasError
from stages.inputs.cell_mini import __main__ as command
from stages.inputs.cell_mini import learnt, train
from stages.inputs.encoders import vocabulary
from stages.inputs.encoders.encoded import Encoded
from stages.inputs.haematopoiesis.__main__ import CELLS_FILE, simulate
from stages.inputs.settings import Haematopoiesis, MiniCellModel
from stages.models.architectures import architecture_of
from stages.models.load import load_model
from stages.models.passes import Passes
from stages.models.text import cell_text


@pytest.fixture(scope="module")
def h5ad(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / CELLS_FILE
    simulate(Haematopoiesis(seed=1, donors=4, cells_a_donor=60))[0].write_h5ad(path)
    return path


@pytest.fixture
def tiny(repository, h5ad):
    path = repository / "conf" / "cellmodel" / "cell-mini.yaml"
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    found["checkpoints"] = ["step0", "step2", "step6"]
    found["cells"] |= {"h5ad": str(h5ad), "held_out": {"donor": ["D03", "D04"]}}
    found["cells"]["encoding"]["max_length"] = 24
    small = {"n_layers": 2, "n_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    found["train"] |= small | {"steps": 6, "batch_size": 4, "threads": 1, "save_every": 3}
    return MiniCellModel.model_validate(found)


def _bytes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class TestVocabulary:
    def test_medians_are_those_of_the_cells_that_have_the_gene(self):
        counts = sparse.csr_matrix(np.array([[1, 3, 0], [2, 0, 6], [4, 4, 0], [0, 0, 0.0]])[:3])
        known = learnt.vocabulary(counts, ["b", "a", "c"], fewest_cells=2)
        # Per 10,000: b 2500, 2500, 5000; a 7500, 5000; c in one cell alone.
        assert known.medians == {"b": 2500.0, "a": 6250.0}
        assert known.genes == {"a": 4, "b": 5}
        assert known.names == ["<pad>", "<mask>", "<cls>", "<eos>", "a", "b"]

    def test_held_out_cells_decide_nothing(self, tiny):
        known, cells, others = learnt.learnt(tiny)
        assert set(cells.cells["donor"]) == {"D01", "D02"}
        assert set(others.cells["donor"]) == {"D03", "D04"}
        turned = {"donor": ["D01", "D02"]}
        held = tiny.model_copy(update={"cells": tiny.cells.model_copy(update={"held_out": turned})})
        other, _, _ = learnt.learnt(held)
        assert other.medians != known.medians
        assert (cells.ids[:, 0] == known.special["<cls>"]).all()

    def test_every_cell_held_out_is_one_line(self, tiny):
        every = {"donor": ["D01", "D02", "D03", "D04"]}
        held = tiny.model_copy(update={"cells": tiny.cells.model_copy(update={"held_out": every})})
        with pytest.raises(AtlasError, match="every cell is held out, none to learn from"):
            learnt.learnt(held)


class TestTraining:
    def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(
        self, tiny, tmp_path, killed_training
    ):
        command.make(tiny, out=tmp_path / "whole", scratch=tmp_path / "scratch-1")
        out, scratch = tmp_path / "parts", tmp_path / "scratch-2"

        def make():
            command.make(tiny, out=out, scratch=scratch)

        deaths, made = killed_training(make, out, {(0, 2), (1, 5)})
        assert deaths == [2, 5]
        assert made == [1, 1, 2, 3, 4, 4, 5, 6]
        assert _bytes(out) == _bytes(tmp_path / "whole")

    def test_checkpoints_load_as_geneformer_s_do_and_have_the_logged_loss(self, tiny, tmp_path):
        command.make(tiny, out=tmp_path / "m", scratch=tmp_path / "s")
        folder = tmp_path / "m" / "step6"
        assert {path.name for path in folder.iterdir()} == {
            "config.json",
            "model.safetensors",
            vocabulary.VOCABULARY_FILE,
        }
        weights = load_file(folder / "model.safetensors")
        assert not any(name.startswith("cls.predictions.decoder") for name in weights)
        assert {weight.dtype for weight in weights.values()} == {torch.float16}
        network = BertForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert config["hidden_act"] == "relu"
        assert config["max_position_embeddings"] == 24
        known, cells, others = learnt.learnt(tiny)
        assert network.config.vocab_size == len(known)
        material = train.Material(known, cells.ids, train.spread(others, train.HELD_OUT))
        log = (tmp_path / "m" / "train_log.csv").read_text(encoding="utf-8").splitlines()
        held = {int(a): float(c) for a, _, c in (line.split(",") for line in log[1:]) if c}
        assert set(held) == {0, 2, 6}
        loss = train.CellBert(tiny, material)._heldout_loss(network)
        assert loss == pytest.approx(held[6], rel=1e-6)
        # Untrained, every gene is about as likely.
        assert held[0] == pytest.approx(np.log(len(known)), abs=0.1)

    def test_the_engine_reads_it_with_special_tokens_never_hidden(self, tiny, tmp_path):
        command.make(tiny, out=tmp_path / "m", scratch=tmp_path / "s")
        known, _, others = learnt.learnt(tiny)
        model = load_model(tmp_path / "m" / "step6")
        text = cell_text(
            others.ids[:8],
            architecture=architecture_of(model),
            pad=known.pad,
            special=list(known.special.values()),
            mask=known.special["<mask>"],
        )
        assert not text.scored[:, 0].any()
        assert (text.inputs[text.scored] == known.special["<mask>"]).all()
        logits = model(input_ids=text.inputs, attention_mask=text.attended).logits
        each = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), text.targets, reduction="none"
        )
        expected = (each * text.scored).sum(dim=1) / text.scored.sum(dim=1)
        # Observed 4e-7 nats.
        assert Passes(model, text).baseline().numpy() == pytest.approx(
            expected.detach().numpy(), abs=3e-6
        )

    def test_cells_lie_evenly_over_all(self):
        cells = Encoded(np.arange(10, dtype=np.int32)[:, None], None)
        assert train.spread(cells, 4)[:, 0].tolist() == [0, 2, 5, 7]
