"""Train a small BERT, the architecture of Geneformer, and keep checkpoints in its layout."""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save as serialized
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from stages.base.files import atomic_folder, write_text
from stages.inputs import training
from stages.inputs.encoders import vocabulary
from stages.inputs.encoders.encoded import Encoded, Ids
from stages.inputs.encoders.vocabulary import MASK, Vocabulary
from stages.inputs.settings import CellTraining, MiniCellModel
from stages.inputs.training import WEIGHTS_FILE
from stages.models.text import masked_tokens

TIED = "cls.predictions.decoder."
"""Weights under a second name, which the published files leave out."""
HELD_OUT = 512
"""Cells of the held-out loss, which the log states beside each checkpoint."""
_AT_ONCE = 64


@dataclass(frozen=True)
class Material:
    """What a training reads."""

    vocabulary: Vocabulary
    train: Ids
    """(n_cells, width)"""
    heldout: Ids


def configuration(recipe: CellTraining, n_tokens: int, width: int) -> BertConfig:
    """Return Geneformer's configuration at another size; nothing is dropped out."""
    return BertConfig(
        architectures=["BertForMaskedLM"],
        vocab_size=n_tokens,
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.n_heads,
        intermediate_size=recipe.intermediate_size,
        max_position_embeddings=width,
        hidden_act="relu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-12,
        initializer_range=0.02,
        pad_token_id=0,
        dtype="float16",
    )


class CellBert(training.Training):
    """A training of cell-mini."""

    def __init__(self, model: MiniCellModel, material: Material) -> None:
        self.name, self.recipe = model.name, model.train
        self.steps: Sequence[int] = model.steps
        self._recipe, self._material = model.train, material

    def network(self) -> nn.Module:
        """Return it untrained."""
        n_tokens, width = len(self._material.vocabulary), self._material.train.shape[1]
        return BertForMaskedLM(configuration(self._recipe, n_tokens, width))

    def loss(self, network: nn.Module, step: int) -> torch.Tensor:
        """Return the mean cross-entropy of the genes that are hidden in this step."""
        recipe, cells = self._recipe, self._material.train
        epoch, place = divmod(step, len(cells) // recipe.batch_size)
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(cells))
        chosen = order[place * recipe.batch_size : (place + 1) * recipe.batch_size]
        drawn = np.random.default_rng([recipe.seed, 1, step]).integers(1 << 62)
        return self._of(network, cells[chosen], int(drawn))

    def _of(self, network: nn.Module, cells: Ids, draw: int) -> torch.Tensor:
        known = self._material.vocabulary
        ids = torch.from_numpy(cells.astype(np.int64))
        attended = ids != known.pad
        text = masked_tokens(
            ids,
            known.special[MASK],
            attended=attended,
            special=list(known.special.values()),
            share=self._recipe.masked_share,
            seed=draw,
        )
        asked = text.scored
        whole = cast("BertForMaskedLM", network)
        states = whole.bert(
            input_ids=text.inputs,
            attention_mask=None if bool(attended.all()) else attended,
        ).last_hidden_state
        return F.cross_entropy(whole.cls(states[asked]), ids[asked])

    def keep(self, network: nn.Module, folder: Path) -> float:
        """Write a folder of Geneformer's layout, with the vocabulary."""
        kept = copy.deepcopy(cast("BertForMaskedLM", network)).half()  # type: ignore[no-untyped-call]
        weights = {
            name: weight.contiguous()
            for name, weight in kept.state_dict().items()
            if not name.startswith(TIED)
        }
        # Of a run that was killed after its last saved state it replaces the same bytes.
        with atomic_folder(folder) as fresh:
            (fresh / WEIGHTS_FILE).write_bytes(serialized(weights, metadata={"format": "pt"}))
            write_text(fresh / "config.json", kept.config.to_json_string())
            vocabulary.write(self._material.vocabulary, fresh)
        return self._heldout_loss(kept.float().eval())

    @torch.no_grad()
    def _heldout_loss(self, network: BertForMaskedLM) -> float:
        cells = self._material.heldout
        parts = [cells[start : start + _AT_ONCE] for start in range(0, len(cells), _AT_ONCE)]
        losses = [float(self._of(network, part, at)) for at, part in enumerate(parts)]
        return float(np.average(losses, weights=[len(part) for part in parts]))


def spread(cells: Encoded, count: int) -> Ids:
    """Return some cells that lie evenly over all, at most `count`."""
    chosen = np.unique(np.arange(count) * len(cells) // count)
    return cells.ids[chosen]


def key_of(model: MiniCellModel, material: Material) -> str:
    """Name a training by all that decides its bytes."""
    decides = {
        "train": model.train.model_dump(exclude={"save_every"}),
        "checkpoints": model.steps,
        "genes": material.vocabulary.names,
        "cells": hashlib.sha256(material.train.tobytes()).hexdigest(),
        "heldout": hashlib.sha256(material.heldout.tobytes()).hexdigest(),
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
