"""Train a small GPT-NeoX, the architecture of Pythia, and keep checkpoints in the Hub's layout."""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import save as serialized
from tokenizers import Tokenizer
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from stages.base.errors import CheckpointError
from stages.base.files import atomic_folder, write_text
from stages.inputs import training
from stages.inputs.mini import tokenizer as tokenizers
from stages.inputs.settings import MiniModel, MiniTraining
from stages.inputs.training import WEIGHTS_FILE

PUBLISHED_NAMES = {"lm_head.weight": "embed_out.weight"}
"""What transformers 5 calls otherwise than the published files, which it renames as it reads."""
_HELDOUT_BATCH = 32

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Material:
    """What a training reads, as tokens."""

    tokenizer: Tokenizer
    train: Tokens
    """shape (n_tokens,)"""
    heldout: Tokens
    """shape (n_sequences, seq_len)"""


def configuration(settings: MiniTraining) -> GPTNeoXConfig:
    """Return Pythia's configuration at another size, half precision of checkpoints included."""
    return GPTNeoXConfig(
        architectures=["GPTNeoXForCausalLM"],
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.n_layers,
        num_attention_heads=settings.n_heads,
        intermediate_size=settings.intermediate_size,
        max_position_embeddings=settings.seq_len,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000,
            "partial_rotary_factor": 0.25,
        },
        use_parallel_residual=True,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
        dtype="float16",
    )


def batch(tokens: Tokens, step: int, settings: MiniTraining) -> torch.Tensor:
    """Return the windows of a step, counted from 0; each epoch has an order of its own.

    A window has one token more than a sequence: every position of the sequence has a next token.

    Returns
    -------
    Tensor
        int64, shape (batch, seq + 1)
    """
    width = settings.seq_len + 1
    windows = tokens[: len(tokens) // width * width].reshape(-1, width)
    per_epoch = len(windows) // settings.batch_size
    if per_epoch == 0:
        msg = (
            f"the corpus has {len(tokens)} tokens to train on, one batch needs "
            f"{settings.batch_size * width}. Name more packages in conf/model/pythia-mini.yaml."
        )
        raise CheckpointError(msg)
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng([settings.seed, epoch]).permutation(len(windows))
    chosen = order[place * settings.batch_size : (place + 1) * settings.batch_size]
    return torch.from_numpy(windows[chosen].astype(np.int64))


@torch.no_grad()
def heldout_loss(model: GPTNeoXForCausalLM, sequences: Tokens) -> float:
    """Return the mean cross-entropy over sequences, in nats per predicted token."""
    losses = []
    for start in range(0, len(sequences), _HELDOUT_BATCH):
        ids = torch.from_numpy(sequences[start : start + _HELDOUT_BATCH].astype(np.int64))
        logits = model(input_ids=ids).logits[:, :-1]  # (batch, seq - 1, vocab)
        each = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        losses.append(each.double().mean(dim=1))
    return float(torch.cat(losses).mean())


def key_of(model: MiniModel, material: Material) -> str:
    """Name a training by all that decides its bytes; another name finds no state to go on from."""
    decides = {
        "train": model.train.model_dump(exclude={"save_every"}),
        "checkpoints": model.steps,
        "tokenizer": material.tokenizer.to_str(),
        "tokens": hashlib.sha256(material.train.tobytes()).hexdigest(),
        "heldout": hashlib.sha256(material.heldout.tobytes()).hexdigest(),
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


class Neox(training.Training):
    """A training of pythia-mini."""

    def __init__(self, model: MiniModel, material: Material) -> None:
        self.name, self.recipe = model.name, model.train
        self.steps: Sequence[int] = model.steps
        self._settings, self._material = model.train, material

    def network(self) -> nn.Module:
        """Return it untrained."""
        return GPTNeoXForCausalLM(configuration(self._settings))

    def loss(self, network: nn.Module, step: int) -> torch.Tensor:
        """Return the mean cross-entropy of the next tokens."""
        windows = batch(self._material.train, step, self._settings)
        logits = network(input_ids=windows[:, :-1]).logits  # (batch, seq, vocab)
        return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    def keep(self, network: nn.Module, folder: Path) -> float:
        """Write a folder of the Hub's layout."""
        return checkpoint(cast("GPTNeoXForCausalLM", network), self._material, folder)


def checkpoint(network: GPTNeoXForCausalLM, material: Material, folder: Path) -> float:
    """Write one folder of the Hub's layout and return the held-out loss of what it holds."""
    kept = copy.deepcopy(network).half()  # type: ignore[no-untyped-call]
    weights = {
        PUBLISHED_NAMES.get(name, name): weight.contiguous()
        for name, weight in kept.state_dict().items()
    }
    # Of a run that was killed after its last saved state it replaces the same bytes.
    with atomic_folder(folder) as fresh:
        (fresh / WEIGHTS_FILE).write_bytes(serialized(weights, metadata={"format": "pt"}))
        write_text(fresh / "config.json", kept.config.to_json_string())
        tokenizers.save(material.tokenizer, fresh)
    return heldout_loss(kept.float().eval(), material.heldout)
