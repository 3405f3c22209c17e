"""Say what must be true of a checkpoint's weights: whole, of the right shape, of the right state.

What is expected is not written down here: transformers builds the model that ``config.json``
describes, without memory, and the weights must be its weights.
"""

import contextlib
import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
)

from stages.base.errors import CheckpointError
from stages.models.index import parts_of

_CAUSAL = ("gpt2", "gpt_neox", "llama", "mistral", "olmo2", "qwen2", "qwen3")
LOADERS: Mapping[str, Sequence[Any]] = {
    "bert": (AutoModelForMaskedLM, AutoModelForPreTraining),
    **dict.fromkeys(_CAUSAL, (AutoModelForCausalLM,)),
}
"""What loads a model, by ``config.model_type``: of the families that heads can be removed from.
Where there is a second, its files are published with the weights of that one."""
# Buffers that older versions of transformers wrote beside the weights; they hold no parameter.
_OLD_BUFFERS = re.compile(
    r"\.(attn|attention)\.(bias|masked_bias)$|rotary_emb\.inv_freq$|embeddings\.position_ids$"
)
# Published files' names of weights that transformers calls otherwise, and renames on reading.
_PUBLISHED_NAMES = {
    r"^embed_out\.": "lm_head.",
    r"LayerNorm\.gamma$": "LayerNorm.weight",
    r"LayerNorm\.beta$": "LayerNorm.bias",
}


@dataclass(frozen=True)
class Expected:
    """What the configuration says of the weights."""

    shapes: Mapping[str, tuple[int, ...]]
    beside: Mapping[str, tuple[int, ...]]
    """Of weights for other tasks, which a file may hold as well."""
    tied: Mapping[str, str]
    """Weights that are others under a second name, which a file need not hold."""
    embedding: str
    """Name of the input embedding."""
    prefix: str
    """With which names begin in the model and, in old files, do not."""
    max_positions: int

    def name(self, there: str) -> str:
        """Return the model's name of a weight from that in a file."""
        for old, new in _PUBLISHED_NAMES.items():
            there = re.sub(old, new, there)
        known = (*self.shapes, *self.tied, *self.beside)
        return there if there in known else f"{self.prefix}.{there}"


def expected(config: Path) -> Expected:
    """Return the names and shapes of the weights that a configuration asks for.

    The model is built without memory for its weights, and without code from elsewhere.

    Raises
    ------
    CheckpointError
        The file is no configuration of a language model, is of a family whose heads cannot be
        removed, or contradicts itself.
    """
    family = _family(config)
    try:
        parsed = AutoConfig.from_pretrained(
            config.parent, local_files_only=True, trust_remote_code=False
        )
        with torch.device("meta"):
            model, *more = (
                loader.from_config(parsed, trust_remote_code=False) for loader in LOADERS[family]
            )
        weights = dict(model.named_parameters())
        first = model.get_input_embeddings().weight
        return Expected(
            shapes={name: tuple(weight.shape) for name, weight in weights.items()},
            beside={
                name: tuple(weight.shape) for one in more for name, weight in one.named_parameters()
            },
            tied=dict(model.all_tied_weights_keys),
            embedding=next(name for name, weight in weights.items() if weight is first),
            prefix=model.base_model_prefix,
            max_positions=int(parsed.max_position_embeddings),
        )
    except Exception as error:  # noqa: BLE001 - each model refuses in a way of its own
        reason = " ".join(str(error).split("Error:")[-1].split())[:200].rstrip(".!")
        msg = (
            f"{config} describes no {family} model that could be built ({reason}). "
            "Fetch it again, or name another revision."
        )
        raise CheckpointError(msg) from None


def _family(config: Path) -> str:
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        family = str(content["model_type"])
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = (
            f"{config} is no configuration of a language model ({reason}). "
            "Fetch it again, or name another revision."
        )
        raise CheckpointError(msg) from None
    if family not in LOADERS:
        msg = (
            f"{config} is of the family {family!r}, whose heads cannot be removed here. "
            f"Known: {', '.join(sorted(LOADERS))}. Choose another model."
        )
        raise CheckpointError(msg)
    return family


def check_positions(
    known: Expected, seq_len: int, *, config: Path, key: str = "model.text.seq_len"
) -> None:
    """Check that the model has a position for every token of a sequence.

    Parameters
    ----------
    key
        The setting that `seq_len` is.

    Raises
    ------
    CheckpointError
        It has fewer.
    """
    if seq_len > known.max_positions:
        msg = (
            f"{key} {seq_len} is above the {known.max_positions} positions of the "
            f"model ({config}). Lower it."
        )
        raise CheckpointError(msg)


@contextlib.contextmanager
def opened(path: Path, *, state: str) -> Iterator[Mapping[str, torch.Tensor]]:
    """Give the tensors of a weight file by name, read as they are looked at; no code is run.

    Raises
    ------
    CheckpointError
        The file is truncated, or holds something else than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                yield _Tensors(file)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            if not isinstance(tensors, dict):
                msg = f"it holds {type(tensors).__name__}, not tensors by name"
                raise TypeError(msg)  # noqa: TRY301 - said with the other faults below
            yield tensors
    except (
        SafetensorError,
        RuntimeError,
        OSError,
        EOFError,
        pickle.UnpicklingError,
        TypeError,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
        msg = (
            f"checkpoint {state}: {path.name} ({path.stat().st_size} bytes) is truncated or no "
            f"file of weights ({reason}). Delete {path} and fetch it again."
        )
        raise CheckpointError(msg) from None


class _Tensors(Mapping[str, torch.Tensor]):
    """A safetensors file as a mapping."""

    def __init__(self, file: safe_open) -> None:
        self._file = file
        self._names = list(file.keys())  # type: ignore[no-untyped-call]

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._file.get_tensor(name)  # type: ignore[no-untyped-call]
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def check_weights(
    files: Sequence[Path], known: Expected, *, state: str, index: Path | None = None
) -> torch.Tensor:
    """Check names, shapes and values of the weights, and return the input embedding.

    Parameters
    ----------
    files
        One file, or the parts that `index` names.

    Returns
    -------
    Tensor
        float32, shape (vocab, hidden)

    Raises
    ------
    CheckpointError
        A weight is missing, unknown, of another shape, not finite, or not what it is tied to; a
        part holds other tensors than its index says; or a file is damaged.
    """
    with ExitStack() as stack:
        tensors = {path: stack.enter_context(opened(path, state=state)) for path in files}
        if index is not None:
            _check_parts(tensors, index, state=state)
        # By the name in the model: where it lies, and its name there.
        found = {known.name(there): (path, there) for path in files for there in tensors[path]}
        _check_names(found, known, state=state)
        for name, (path, there) in found.items():
            shape = {**known.beside, **known.shapes}.get(known.tied.get(name, name))
            if shape is not None:
                _check_tensor(tensors[path][there], shape, f"{there} of {path.name}", state)
        for name, source in known.tied.items():
            if name not in found:
                continue
            (one, here), (other, there) = found[name], found[source]
            if not torch.equal(tensors[one][here], tensors[other][there]):
                msg = (
                    f"checkpoint {state}: {here} is not {there}, to which its config.json ties it. "
                    "Name the right revision, or set tie_word_embeddings to false there."
                )
                raise CheckpointError(msg)
        path, there = found[known.embedding]
        # A copy: a mapped file must not be held open.
        return tensors[path][there].to(torch.float32, copy=True)


def _check_parts(
    tensors: Mapping[Path, Mapping[str, torch.Tensor]], index: Path, *, state: str
) -> None:
    said = parts_of(index)
    for path, held in tensors.items():
        names = set(held)
        if differ := sorted(names ^ said[path.name]):
            what = "holds" if differ[0] in names else "lacks"
            msg = (
                f"checkpoint {state}: {path.name} {what} {differ[0]}, other than {index.name} says "
                f"({len(differ)} such names). Fetch the index and its parts from one commit."
            )
            raise CheckpointError(msg)


def _check_names(found: Mapping[str, tuple[Path, str]], known: Expected, *, state: str) -> None:
    allowed = {*known.shapes, *known.tied, *known.beside}
    unknown = [
        f"{there} of {path.name}"
        for name, (path, there) in found.items()
        if name not in allowed and not _OLD_BUFFERS.search(f".{there}")
    ]
    missing = [name for name in known.shapes if name not in found]
    if missing or unknown:
        what = f"it lacks {missing[0]}" if missing else f"{unknown[0]} is unknown"
        n_more = len(missing) + len(unknown) - 1
        msg = (
            f"checkpoint {state}: {what} ({n_more} more such names); the weights are not of the "
            "model that its config.json describes. Name the right repository or revision."
        )
        raise CheckpointError(msg)


def _check_tensor(tensor: torch.Tensor, shape: tuple[int, ...], what: str, state: str) -> None:
    if tuple(tensor.shape) != shape:
        msg = (
            f"checkpoint {state}: {what} has shape {tuple(tensor.shape)}, its config.json says "
            f"{shape}. Name the right repository or revision."
        )
        raise CheckpointError(msg)
    if not bool(torch.isfinite(tensor).all()):
        msg = (
            f"checkpoint {state}: {what} holds nan or infinity. Fetch it again; if it stays so, "
            "drop the state from the checkpoints of conf/."
        )
        raise CheckpointError(msg)


def check_distinct(sha256: Mapping[str, Sequence[str]], *, key: str = "model.checkpoints") -> None:
    """Check that no two states have the same weights.

    Parameters
    ----------
    sha256
        Of the files of each state.
    key
        The setting that names the states.

    Raises
    ------
    CheckpointError
        They have; a branch that serves the weights of another step was seen in public repositories.
    """
    first: dict[tuple[str, ...], str] = {}
    for state, hashes in sha256.items():
        earlier = first.setdefault(tuple(hashes), state)
        if earlier != state:
            msg = (
                f"checkpoint {earlier} has the sha256 of {state}: the branch serves the "
                f"wrong weights. Pin a commit or drop it from {key}."
            )
            raise CheckpointError(msg)


def drift(embedding: torch.Tensor, first: torch.Tensor) -> float:
    """Return the distance of an embedding from the first checkpoint's, over the norm of that.

    >>> drift(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 4.0]]))
    0.75
    """
    return float(torch.linalg.vector_norm(embedding - first) / torch.linalg.vector_norm(first))


def check_drift(states: Sequence[str], drifts: Sequence[float], *, max_drop: float) -> None:
    """Check that the embedding moves away from the first checkpoint, step after step.

    Parameters
    ----------
    states
        In the order of training.
    drifts
        What `drift` gives for each.
    max_drop
        By which share of it a drift may lie below the one before.

    Raises
    ------
    CheckpointError
        It comes back: one of the two states is not what it is called.
    """
    for at in range(1, len(states)):
        before, now = drifts[at - 1], drifts[at]
        if now < before * (1 - max_drop) or now == 0:
            msg = (
                f"checkpoint {states[at]} is nearer to {states[0]} than "
                f"{states[at - 1]} is (embedding drift {now:.4g} after {before:.4g}): one of "
                "the two branches serves the wrong step. Pin a commit, drop it from "
                "model.checkpoints, or raise model.max_drift_drop."
            )
            raise CheckpointError(msg)
