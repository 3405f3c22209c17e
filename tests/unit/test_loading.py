"""A checkpoint folder is loaded whole and unchanged, or refused in one line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.base.errors import AblationError
from stages.models.load import load_model
from tests.unit.test_passes import HIDDEN, make_model


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

    def test_safetensors_and_bin_load_alike_in_float32(self, folder):
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
        with pytest.raises(
            AblationError, match=r"'mamba'.* Known: bert, gpt2, gpt_neox, .*\. Write"
        ):
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
