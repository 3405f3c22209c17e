"""Say where attention heads live in a model, and load one from a folder.

An adapter of one class tells the engine what it must know of an architecture: the blocks, how a
block's attention is computed up to the input of its output projection (where the heads lie side by
side), and what the block does with the attention's output. To add a Llama-like or a GPT-2 model,
write one such class and name its ``config.model_type`` in :data:`ARCHITECTURES`.
"""

import json
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from stages.base.errors import AblationError

BAND = 48
BANDED_UP_TO = 512


class Architecture(Protocol):
    """What the engine must know of a model. Hidden states are (batch, seq, hidden)."""

    n_layers: int
    n_heads: int
    d_head: int
    vocab_size: int
    max_positions: int
    parallel_residual: bool
    """Whether a block's MLP reads the block's input: attention's output is then only added."""
    blocks: Sequence[nn.Module]

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the hidden state that enters the first block, from tokens (batch, seq)."""

    def heads(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Return what the heads write, before the projection: (batch, seq, n_heads * d_head).

        Attention is causal, with the positions 0, 1, ... of the architecture.
        """

    def projection(self, block: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Return the weight (hidden, n_heads * d_head) that mixes the heads, and its bias."""

    def finish(self, block: nn.Module, hidden: Tensor, attention: Tensor) -> Tensor:
        """Return the block's output from its input and the projection's output."""

    def normalise(self, hidden: Tensor) -> Tensor:
        """Apply what stands between the last block and the unembedding."""

    def unembedding(self) -> tuple[Tensor, Tensor | None]:
        """Return the weight (vocabulary, hidden) that makes logits, and its bias."""


def project(architecture: Architecture, block: nn.Module, heads: Tensor) -> Tensor:
    """Mix what the heads of `block` write into the attention's output, bias included."""
    weight, bias = architecture.projection(block)
    return linear(heads, weight, bias)


def run_block(architecture: Architecture, block: nn.Module, hidden: Tensor) -> Tensor:
    """Run a whole block from its input hidden state."""
    attention = project(architecture, block, architecture.heads(block, hidden))
    return architecture.finish(block, hidden, attention)


def linear(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a linear map in the precision of its weight."""
    return F.linear(values.to(weight.dtype), weight, bias)


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Mix the values that each position may see: (batch, n_heads, seq, d_head) all.

    On a CPU, ``scaled_dot_product_attention`` spends most of a short sequence's time on tiny
    products; bands of :data:`BAND` positions, each against the keys up to its own end, take a
    third less time at 128 positions and heads of 16. Elsewhere, and where gradients are wanted, it
    is the better one and is used.
    """
    batch, n_heads, seq, d_head = query.shape
    banded = query.device.type == "cpu" and seq <= BANDED_UP_TO and key.shape == query.shape
    if torch.is_grad_enabled() or not banded:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    queries, keys, values = (part.reshape(-1, seq, d_head) for part in (query, key, value))
    keys = keys.transpose(1, 2)
    mixed = torch.empty_like(queries)
    for start in range(0, seq, BAND):
        stop = min(start + BAND, seq)
        hidden = torch.full((stop - start, stop), float("-inf"), dtype=query.dtype).triu_(start + 1)
        scores = torch.baddbmm(
            hidden, queries[:, start:stop], keys[:, :, :stop], alpha=d_head**-0.5
        )
        mixed[:, start:stop] = torch.bmm(scores.softmax(dim=-1), values[:, :stop])
    return mixed.view(batch, n_heads, seq, d_head)


class GPTNeoX:
    """GPT-NeoX and Pythia, with parallel or sequential residual.

    The operations are those of ``transformers``' own modules, on their own weights and in their
    order, but for how queries and keys are rotated and, on a CPU, how a short sequence attends.
    Tests hold it to the full model.
    """

    def __init__(self, model: nn.Module) -> None:
        config: Any = model.config
        base: Any = model.base_model
        self._embedding: Callable[[Tensor], Tensor] = base.embed_in
        self._final_norm: Callable[[Tensor], Tensor] = base.final_layer_norm
        self._rotary: Callable[..., tuple[Tensor, Tensor]] = base.rotary_emb
        self._unembedding: nn.Linear = cast("Any", model).get_output_embeddings()
        self._cached: dict[
            tuple[int, torch.dtype, torch.device], tuple[Tensor, Tensor, Tensor, int]
        ] = {}
        self.blocks: Sequence[nn.Module] = list(base.layers)
        self.n_layers = int(config.num_hidden_layers)
        self.n_heads = int(config.num_attention_heads)
        self.d_head = int(config.hidden_size) // self.n_heads
        self.vocab_size = int(config.vocab_size)
        self.max_positions = int(config.max_position_embeddings)
        self.parallel_residual = bool(config.use_parallel_residual)

    def embed(self, tokens: Tensor) -> Tensor:
        """Look the tokens up; positions enter in the attention."""
        return self._embedding(tokens)

    def heads(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Attend; query, key and value of one head lie next to each other in the projection."""
        part: Any = block
        batch, seq, _ = hidden.shape
        normed = part.input_layernorm(hidden)
        joint = part.attention.query_key_value
        qkv = self._rotate(linear(normed, joint.weight, joint.bias))
        qkv = qkv.view(batch, seq, self.n_heads, 3, self.d_head).permute(3, 0, 2, 1, 4)
        # (batch, n_heads, seq, d_head) each
        mixed = causal_attention(qkv[0], qkv[1], qkv[2])
        return mixed.transpose(1, 2).reshape(batch, seq, self.n_heads * self.d_head)

    def projection(self, block: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Return ``attention.dense``."""
        dense = cast("Any", block).attention.dense
        return dense.weight, dense.bias

    def finish(self, block: nn.Module, hidden: Tensor, attention: Tensor) -> Tensor:
        """Add the attention and the MLP of the input (parallel) or of the sum (sequential)."""
        part: Any = block
        mlp = part.mlp
        middle = hidden if self.parallel_residual else attention + hidden
        inner = part.post_attention_layernorm(middle)
        inner = linear(inner, mlp.dense_h_to_4h.weight, mlp.dense_h_to_4h.bias)
        inner = mlp.act(inner)
        inner = linear(inner, mlp.dense_4h_to_h.weight, mlp.dense_4h_to_h.bias)
        if self.parallel_residual:
            inner = inner + attention
        return inner + middle

    def normalise(self, hidden: Tensor) -> Tensor:
        """Apply the final layer norm."""
        return self._final_norm(hidden)

    def unembedding(self) -> tuple[Tensor, Tensor | None]:
        """Return the output embedding."""
        return self._unembedding.weight, self._unembedding.bias

    def _rotate(self, qkv: Tensor) -> Tensor:
        """Rotate the first dimensions of queries and keys by position.

        Rotary vectors are short (4 of 16 numbers in a small head), so operations on them alone are
        mostly overhead. Whole rows are multiplied instead, by 1 where nothing turns, and each
        number's partner is reached by reading the same memory `half` numbers further on or back.
        """
        batch, seq, _ = qkv.shape
        cos, ahead, back, half = self._angles(seq, qkv)
        flat = qkv.view(batch, -1)
        turned = flat * cos
        turned[:, :-half].addcmul_(flat[:, half:], ahead)
        turned[:, half:].addcmul_(flat[:, :-half], back)
        return turned

    def _angles(self, seq: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
        """Return the factors of :meth:`_rotate` for all of a sequence, made once."""
        key = (seq, like.dtype, like.device)
        if key not in self._cached:
            positions = torch.arange(seq, device=like.device)[None]
            cos, sin = self._rotary(like, position_ids=positions)
            half = cos.shape[-1] // 2
            # (seq, n_heads, query or key or value, d_head)
            shape = (seq, self.n_heads, 3, self.d_head)
            stay = like.new_ones(shape)
            ahead, back = like.new_zeros(shape), like.new_zeros(shape)
            stay[:, :, :2, : 2 * half] = cos[0, :, None, None]
            ahead[:, :, :2, :half] = -sin[0, :, None, None, :half]
            back[:, :, :2, half : 2 * half] = sin[0, :, None, None, half:]
            self._cached[key] = (
                stay.flatten(),
                ahead.flatten()[:-half].clone(),
                back.flatten()[half:].clone(),
                half,
            )
        return self._cached[key]


ARCHITECTURES: dict[str, Callable[[nn.Module], Architecture]] = {"gpt_neox": GPTNeoX}
"""Adapters by ``config.model_type``."""


def architecture_of(model: nn.Module) -> Architecture:
    """Return the adapter of a model.

    Raises
    ------
    AblationError
        No adapter is written for this kind of model.
    """
    config = cast("Any", model).config
    return _adapter(str(config.model_type), "this model")(model)


def _adapter(model_type: str, where: str) -> Callable[[nn.Module], Architecture]:
    if model_type not in ARCHITECTURES:
        msg = (
            f"{where} is of the architecture {model_type!r}, whose heads are not described here. "
            f"Known: {', '.join(sorted(ARCHITECTURES))}. "
            "Write an adapter in stages/ablation/architecture.py."
        )
        raise AblationError(msg)
    return ARCHITECTURES[model_type]


def weight_files(folder: Path) -> list[Path]:
    """List the weight files of a checkpoint folder, safetensors first.

    Raises
    ------
    AblationError
        The folder holds no weights, or its index names files that are not there.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.exists():
            parts = sorted(set(_read_json(index).get("weight_map", {}).values()))
            missing = [part for part in parts if not (folder / part).exists()]
            if parts and not missing:
                return [folder / part for part in parts]
            msg = (
                f"{index} names {', '.join(missing) or 'no file'}, which is not there. "
                "Bring the checkpoint in again."
            )
            raise AblationError(msg)
    msg = (
        f"{folder} holds no weights: model.safetensors or pytorch_model.bin is needed. "
        "Bring the checkpoint in again."
    )
    raise AblationError(msg)


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Load a checkpoint folder in the Hub's layout: no network, no foreign code, weights checked.

    Parameters
    ----------
    folder
        Holds ``config.json`` and the weights, safetensors or a ``.bin`` (tensors only).
    dtype
        Precision of the weights. Never the file's own: half precision hides small effects.
    device
        Where the model goes.

    Returns
    -------
    nn.Module
        The model in evaluation mode, its parameters without gradients.

    Raises
    ------
    AblationError
        A file is missing, truncated or no model; a weight is missing, of another shape, nan or
        infinite; or the architecture is unknown.
    """
    config = _read_json(folder / "config.json")
    _adapter(str(config.get("model_type")), str(folder))
    files = weight_files(folder)
    for file in files:
        _readable(file)
    # transformers is slow to import; who only asks for weight_files need not wait for it.
    import transformers

    # A .bin would otherwise start a thread that asks the Hub for a converted copy.
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    loader: Any = transformers.AutoModelForCausalLM
    with _quiet():
        try:
            model, report = loader.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                attn_implementation="sdpa",
                weights_only=True,
                use_safetensors=files[0].suffix == ".safetensors",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (
            OSError,
            RuntimeError,
            ValueError,
            KeyError,
            AttributeError,
            TypeError,
            EOFError,
            pickle.UnpicklingError,
            SafetensorError,
        ) as error:
            msg = (
                f"{folder} could not be loaded as a {config.get('model_type')} model "
                f"({_first_line(error)}). Bring the checkpoint in again."
            )
            raise AblationError(msg) from None
    _check(model, report, folder)
    model.eval().requires_grad_(requires_grad=False).to(device)
    return cast("nn.Module", model)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = f"{path} does not exist. Bring the checkpoint in again."
        raise AblationError(msg) from None
    except (ValueError, UnicodeDecodeError) as error:
        msg = f"{path} is no JSON ({_first_line(error)}). Bring the checkpoint in again."
        raise AblationError(msg) from None
    if not isinstance(content, dict):
        msg = (
            f"{path} holds {type(content).__name__}, not an object. Bring the checkpoint in again."
        )
        raise AblationError(msg)
    return content


def _readable(file: Path) -> None:
    """Stop at a truncated file before a model is built for it."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as content:
                names = list(content.keys())
        else:
            names = list(torch.load(file, map_location="meta", weights_only=True))
    except (
        SafetensorError,
        RuntimeError,
        ValueError,
        OSError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        msg = (
            f"{file} is truncated or holds more than tensors ({_first_line(error)}). "
            "Bring the checkpoint in again."
        )
        raise AblationError(msg) from None
    if not names:
        msg = f"{file} holds no tensors. Bring the checkpoint in again."
        raise AblationError(msg)


def _check(model: nn.Module, report: dict[str, Any], folder: Path) -> None:
    if mismatched := sorted(report["mismatched_keys"]):
        name, found, expected = mismatched[0]
        msg = (
            f"{folder}: {name} has the shape {tuple(found)}, config.json makes it "
            f"{tuple(expected)} ({len(mismatched)} in all). The weights belong to another model."
        )
        raise AblationError(msg)
    if missing := sorted(report["missing_keys"]):
        msg = (
            f"{folder}: {missing[0]} is not among the weights ({len(missing)} missing). "
            "The weights belong to another model, or are not complete."
        )
        raise AblationError(msg)
    if extra := sorted(report["unexpected_keys"]):
        msg = (
            f"{folder}: {extra[0]} is no weight of the model that config.json makes "
            f"({len(extra)} in all). The weights belong to another model."
        )
        raise AblationError(msg)
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            n_bad = int((~torch.isfinite(weight)).sum())
            msg = (
                f"{folder}: {name} holds {n_bad} values that are nan or infinite. "
                "Training broke or the file is damaged; leave this checkpoint out."
            )
            raise AblationError(msg)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".:")[:200]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the loader's bars and reports off the screen; what matters is checked here."""
    from transformers.utils import logging

    reports: Any = logging
    level, bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity_error()
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(level)
        if bars:
            reports.enable_progress_bar()
