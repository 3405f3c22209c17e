r"""scGPT, a model of cells: genes with binned values (Cui et al. 2024, Nature Methods).

:math:`x_0 = LN(E[g]) + LN(W_2\,relu(W_1 \min(v, 512) + b_1) + b_2)` of gene g with the value v;
then post-norm blocks whose heads see every gene of the cell; then a decoder that predicts a value
at each position. The generative attention mask existed in pretraining alone. A folder holds
``args.json``, the vocabulary, and the weights under one of four spellings.

``torch.nn.TransformerEncoder`` is not used: its fast path turns padded batches into nested tensors,
calls no hook on what mixes the heads, and leaves other numbers at padded positions.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from stages.base.errors import AblationError
from stages.models.architectures.base import attend, by_head, through

ARGS_FILE = "args.json"
VOCABULARY_FILES = ("vocabulary.json", "vocab.json")
"""This project's own, and the published one; the first that is there is read."""
WEIGHT_FILES = ("model.safetensors", "best_model.pt")
LARGEST_VALUE = 512.0
"""Values are cut off there before they are encoded."""
_SIZES = ("embsize", "d_hid", "nheads", "nlayers", "n_bins", "max_seq_len")
# What packagers and versions call the same weights: of a repackaged class (`gene_encoder.` and so
# on), of flash attention (`Wqkv`, lately inside `_impl`), of torch's own attention (`in_proj_`).
_SPELLINGS = {
    r"^gene_encoder\.": "encoder.",
    r"^transformer\.": "transformer_encoder.",
    r"^expr_decoder\.": "decoder.",
    r"\.self_attn\._impl\.": ".self_attn.",
    r"\.self_attn\.in_proj_(?=weight$|bias$)": ".self_attn.Wqkv.",
}
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class ScGPTConfig:
    """What ``args.json`` and the vocabulary say, named as in the configs of ``transformers``."""

    hidden_size: int
    """``embsize``."""
    intermediate_size: int
    """``d_hid``; published: as wide as the stream."""
    num_attention_heads: int
    """``nheads``."""
    num_hidden_layers: int
    """``nlayers``."""
    max_position_embeddings: int
    """``max_seq_len``: genes in a cell, ``<cls>`` included. None has a position."""
    n_bins: int
    """Values are 0 (not expressed) to ``n_bins`` - 1."""
    pad_value: float
    mask_value: float
    """Stands in for a value that is to be predicted."""
    vocab_size: int
    """Names in the vocabulary, special ones included."""
    pad_token_id: int
    model_type: str = "scgpt"


class GeneEncoder(nn.Module):
    """Looks genes up: token ids (batch, seq) -> (batch, seq, hidden)."""

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.enc_norm = nn.LayerNorm(config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the normalised embeddings."""
        return cast("Tensor", self.enc_norm(self.embedding(ids)))


class ValueEncoder(nn.Module):
    """Encodes values: bins (batch, seq) -> (batch, seq, hidden)."""

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__()
        self.linear1 = nn.Linear(1, config.hidden_size)
        self.linear2 = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, values: Tensor) -> Tensor:
        """Return the normalised encodings."""
        inner = through(self.linear1, values[..., None].clamp(max=LARGEST_VALUE)).relu()
        return cast("Tensor", self.norm(through(self.linear2, inner)))


class Attention(nn.Module):
    """Heads that see the whole cell; `out_proj`, which mixes them, is applied by the block."""

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.d_head = width // config.num_attention_heads
        # All queries come first, then all keys, all values.
        self.Wqkv = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor, attended: Tensor | None = None) -> Tensor:
        """Return what the heads write, (batch, seq, n_heads * d_head), blind to padding."""
        joint = through(self.Wqkv, hidden).chunk(3, dim=-1)
        query, key, value = (by_head(part, self.d_head) for part in joint)
        return attend(query, key, value, causal=False, attended=attended)


class Block(nn.Module):
    """A post-norm encoder layer."""

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm1 = nn.LayerNorm(config.hidden_size)
        self.norm2 = nn.LayerNorm(config.hidden_size)

    def finish(self, hidden: Tensor, attention: Tensor) -> Tensor:
        """Return the block's output from its input and what the heads' projection makes."""
        middle = self.norm1(hidden + attention)
        inner = through(self.linear1, middle).relu()
        return cast("Tensor", self.norm2(middle + through(self.linear2, inner)))

    def forward(self, hidden: Tensor, attended: Tensor | None = None) -> Tensor:
        """Run the block: (batch, seq, hidden)."""
        return self.finish(hidden, self.self_attn.out_proj(self.self_attn(hidden, attended)))


class Encoder(nn.Module):
    """The row of blocks, under its published name."""

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))


class Decoder(nn.Module):
    """Predicts a value at each position, from that position alone."""

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.fc = nn.Sequential(
            nn.Linear(width, width),
            nn.LeakyReLU(),
            nn.Linear(width, width),
            nn.LeakyReLU(),
            nn.Linear(width, 1),
        )

    def inner(self, hidden: Tensor) -> Tensor:
        """Return what the last linear map makes the value of: (batch, seq, hidden)."""
        return cast("Tensor", self.fc[:-1](hidden))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the values, in bins: (batch, seq)."""
        return cast("Tensor", self.fc[-1](self.inner(hidden))[..., 0])


class ScGPTModel(nn.Module):
    """The published network, for inference: it has no dropout.

    Parameters
    ----------
    config
        Its shape.
    """

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = GeneEncoder(config)
        self.value_encoder = ValueEncoder(config)
        self.transformer_encoder = Encoder(config)
        self.decoder = Decoder(config)

    def get_output_embeddings(self) -> nn.Module:
        """Return what makes the predicted value, as the models of ``transformers`` do."""
        return self.decoder.fc[-1]

    def enter(self, ids: Tensor, values: Tensor) -> Tensor:
        """Return what enters the first block: (batch, seq, hidden)."""
        return cast("Tensor", self.encoder(ids) + self.value_encoder(values))

    def forward(self, ids: Tensor, values: Tensor, attended: Tensor | None = None) -> Tensor:
        """Return the predicted value at each position, in bins: (batch, seq).

        Parameters
        ----------
        ids, values
            Genes and their values, (batch, seq).
        attended
            Which positions are no padding, (batch, seq); none: all. What is predicted at padding
            means nothing.
        """
        hidden = self.enter(ids, values)
        for block in self.transformer_encoder.layers:
            hidden = block(hidden, attended)
        return cast("Tensor", self.decoder(hidden))


def is_scgpt(folder: Path) -> bool:
    """Whether a folder holds an scGPT: ``args.json`` in the place of ``config.json``."""
    return (folder / ARGS_FILE).exists() and not (folder / "config.json").exists()


def config_of(args: Mapping[str, Any], vocabulary: Mapping[str, Any], where: str) -> ScGPTConfig:
    """Return the config that ``args.json`` and a vocabulary make.

    Parameters
    ----------
    args
        Content of ``args.json``, under the published names.
    vocabulary
        Ids by name (``vocab.json``), or ``genes`` and ``special`` with ids by name each
        (``vocabulary.json``).
    where
        The folder, for messages.

    Raises
    ------
    AblationError
        Something is missing, no number, or describes another model.
    """
    sizes = {name: _number(args, name, int, where) for name in _SIZES}
    values = {name: _number(args, name, float, where) for name in ("pad_value", "mask_value")}
    if sizes["embsize"] % sizes["nheads"]:
        msg = (
            f"{where}/{ARGS_FILE} says {sizes['nheads']} heads for a width of {sizes['embsize']}, "
            "which is no multiple of it. Bring the checkpoint in again."
        )
        raise AblationError(msg)
    if (style := args.get("input_emb_style", "continuous")) != "continuous":
        msg = (
            f"{where}/{ARGS_FILE} says input_emb_style {style!r}; only 'continuous' is described. "
            "Extend stages/models/scgpt.py."
        )
        raise AblationError(msg)
    n_names, pad = _vocabulary(vocabulary, str(args.get("pad_token", "<pad>")), where)
    return ScGPTConfig(
        hidden_size=sizes["embsize"],
        intermediate_size=sizes["d_hid"],
        num_attention_heads=sizes["nheads"],
        num_hidden_layers=sizes["nlayers"],
        max_position_embeddings=sizes["max_seq_len"],
        n_bins=sizes["n_bins"],
        pad_value=values["pad_value"],
        mask_value=values["mask_value"],
        vocab_size=n_names,
        pad_token_id=pad,
    )


def _number(args: Mapping[str, Any], name: str, kind: type[_Number], where: str) -> _Number:
    """Return a value that must be a number; where it must be whole, above 0 as well."""
    found: Any = args.get(name)
    if type(found) in (int, kind) and math.isfinite(found) and (kind is float or found > 0):
        return kind(found)
    allowed = "a whole number above 0" if kind is int else "a number"
    msg = (
        f"{where}/{ARGS_FILE} says {name} {found!r}; an scGPT has {allowed} there. "
        "Bring the checkpoint in again."
    )
    raise AblationError(msg)


def _vocabulary(content: Mapping[str, Any], pad: str, where: str) -> tuple[int, int]:
    """Return how many names a vocabulary has, and the id of its padding."""
    try:
        ids = dict(content)
        if isinstance(content.get("genes"), Mapping):
            ids = {**content["genes"], **content["special"]}
        if sorted(ids.values()) == list(range(len(ids))):
            return len(ids), int(ids[pad])
        said = f"its {len(ids)} ids are not 0 to {len(ids) - 1}, each once"
    except (KeyError, TypeError) as error:
        said = f"{type(error).__name__}: {error}"
    msg = f"the vocabulary in {where} is none of an scGPT ({said}). Bring it in again."
    raise AblationError(msg)


def build(
    config: ScGPTConfig, weights: Mapping[str, Any], dtype: torch.dtype, where: str
) -> tuple[ScGPTModel, dict[str, Any]]:
    """Return a model with the weights it finds, and what it did not find.

    Parameters
    ----------
    config
        Its shape.
    weights
        Tensors by name, in any of the four spellings.
    dtype
        Precision of the model.
    where
        The folder, for messages.

    Returns
    -------
    model, report
        The report is that of ``transformers``: ``missing_keys``, ``unexpected_keys``, and
        ``mismatched_keys`` with the shape found and that expected. A weight that is missing or has
        another shape is without memory.

    Raises
    ------
    AblationError
        Something is no tensor, stands there twice, or belongs to another vocabulary.
    """
    named: dict[str, Tensor] = {}
    for given, weight in weights.items():
        name = str(given)
        for spelling, ours in _SPELLINGS.items():
            name = re.sub(spelling, ours, name)
        if not isinstance(weight, Tensor) or name in named:
            what = "stands there in two spellings" if name in named else "is no tensor"
            msg = f"{where}: {given} {what}. Bring the weights in again as they were published."
            raise AblationError(msg)
        named[name] = weight
    with torch.device("meta"):
        model = ScGPTModel(config)
    expected = {name: weight.shape for name, weight in model.named_parameters()}
    genes = named.get("encoder.embedding.weight")
    if genes is not None and genes.ndim == 2 and len(genes) != config.vocab_size:
        msg = (
            f"{where}: the weights embed {len(genes)} genes and special tokens, the vocabulary "
            f"beside them has {config.vocab_size}. Put the vocabulary of this checkpoint there."
        )
        raise AblationError(msg)
    fitting = {
        name: named[name].to(dtype)
        for name, shape in expected.items()
        if name in named and named[name].shape == shape
    }
    model.load_state_dict(fitting, strict=False, assign=True)
    report = {
        "missing_keys": set(expected) - set(named),
        "unexpected_keys": set(named) - set(expected),
        "mismatched_keys": {
            (name, named[name].shape, shape)
            for name, shape in expected.items()
            if name in named and named[name].shape != shape
        },
    }
    return model, report
