"""Models of random weights and true shapes, for benchmarks: speed does not depend on the values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from stages.base.files import write_text
from stages.inputs.mini import tokenizer as tokenizers
from stages.inputs.mini.train import PUBLISHED_NAMES
from stages.inputs.training import WEIGHTS_FILE

# The 256 bytes and the end of a text.
SMALLEST_VOCABULARY = 257


@dataclass(frozen=True)
class Shape:
    """A model, a text, and the heads to remove."""

    name: str
    n_layers: int
    n_heads: int
    hidden: int
    vocabulary: int
    seq: int
    n_sequences: int
    layers: tuple[int, ...]
    """Their mean is that of all layers, so that the mean cost is that of a full sweep."""
    heads: int
    """Heads removed in each of these layers."""

    def model(self, dtype: torch.dtype) -> Any:
        """Build it with random weights."""
        torch.manual_seed(0)
        config = GPTNeoXConfig(
            architectures=["GPTNeoXForCausalLM"],
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.n_layers,
            num_attention_heads=self.n_heads,
            intermediate_size=4 * self.hidden,
            max_position_embeddings=self.seq,
            tie_word_embeddings=False,
            use_cache=False,
            initializer_range=0.05,
        )
        model: Any = GPTNeoXForCausalLM(config)
        return model.eval().requires_grad_(requires_grad=False).to(dtype)

    def tokens(self) -> Tensor:
        """Draw random tokens: (n_sequences, seq), integers."""
        generator = torch.Generator().manual_seed(1)
        return torch.randint(self.vocabulary, (self.n_sequences, self.seq), generator=generator)

    def limit(self) -> float:
        """Return the ratio of products of a whole forward pass to those of one head, on average."""
        # One position: two operations a product; attention sees half of the sequence on average.
        block = 24 * self.hidden**2 + 2 * self.hidden * self.seq
        unembedding = 2 * self.hidden * self.vocabulary
        whole = self.n_layers * block + unembedding
        later = (self.n_layers - 1) / 2 * block + unembedding
        contribution = 2 * self.hidden * self.hidden / self.n_heads
        shared = whole / (self.n_layers * self.n_heads)
        return whole / (later + contribution + shared)


MINI = Shape("pythia-mini", 6, 8, 128, 2048, 128, 8, tuple(range(6)), 8)
LARGE = Shape("410M", 24, 16, 1024, 50304, 2048, 1, (3, 11, 12, 20), 1)


def save(model: Any, folder: Path) -> None:
    """Write a model as a checkpoint in the Hub's layout, with a tokenizer that knows bytes alone.

    Parameters
    ----------
    model
        A GPT-NeoX; its weights keep their precision.
    folder
        Exists and is empty.
    """
    weights = {
        PUBLISHED_NAMES.get(name, name): weight.contiguous()
        for name, weight in model.state_dict().items()
    }
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_text(folder / "config.json", model.config.to_json_string())
    tokenizers.save(tokenizers.learn((), vocab_size=SMALLEST_VOCABULARY), folder)
