"""Say what must be true of a checkpoint's weights: whole, of the right shape, of the right step."""

import contextlib
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from stages.base.errors import CheckpointError

# Buffers that older versions of transformers wrote beside the weights; they hold no parameter.
_OLD_BUFFERS = re.compile(r"\.(attention\.(bias|masked_bias)|rotary_emb\.inv_freq)$")
# The published files' names of weights that transformers 5 calls otherwise, and renames on reading.
_PUBLISHED_NAMES = {"embed_out.weight": "lm_head.weight"}


@dataclass(frozen=True)
class Expected:
    """What the configuration says of the weights."""

    shapes: Mapping[str, tuple[int, ...]]
    embedding: str
    """Name of the input embedding."""


def expected(config: Path) -> Expected:
    """Return the names and shapes of the weights that a configuration asks for.

    The model is built without memory for its weights, and without code from elsewhere.

    Raises
    ------
    CheckpointError
        The file is no configuration of a causal language model that this version knows.
    """
    try:
        parsed = AutoConfig.from_pretrained(
            config.parent, local_files_only=True, trust_remote_code=False
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                parsed, trust_remote_code=False
            )
        weights = dict(model.named_parameters())
        first = model.get_input_embeddings().weight
    except (ValueError, KeyError, OSError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = (
            f"{config} is no configuration of a language model ({reason}). "
            "Fetch it again, or name another revision."
        )
        raise CheckpointError(msg) from None
    return Expected(
        shapes={name: tuple(weight.shape) for name, weight in weights.items()},
        embedding=next(name for name, weight in weights.items() if weight is first),
    )


@contextlib.contextmanager
def opened(path: Path, *, step: int) -> Iterator[Mapping[str, torch.Tensor]]:
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
            f"checkpoint step{step}: {path.name} ({path.stat().st_size} bytes) is truncated or no "
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


def check_weights(path: Path, known: Expected, *, step: int) -> torch.Tensor:
    """Check names, shapes and values of a weight file, and return its input embedding.

    Returns
    -------
    Tensor
        float32, shape (vocab, hidden)

    Raises
    ------
    CheckpointError
        A weight is missing, unknown, of another shape, or not finite; or the file is damaged.
    """
    with opened(path, step=step) as tensors:
        # Name in the model -> name in the file.
        names = {
            name if name in known.shapes else _PUBLISHED_NAMES.get(name, name): name
            for name in tensors
        }
        unknown = [
            there
            for name, there in names.items()
            if name not in known.shapes and not _OLD_BUFFERS.search(there)
        ]
        missing = [name for name in known.shapes if name not in names]
        if missing or unknown:
            what = f"lacks {missing[0]}" if missing else f"has {unknown[0]}, which is unknown"
            n_more = len(missing) + len(unknown) - 1
            msg = (
                f"checkpoint step{step}: {path.name} {what} ({n_more} more such names); it is not "
                "of the model that its config.json describes. Name the right repository or commit."
            )
            raise CheckpointError(msg)
        for expected_name, shape in known.shapes.items():
            name = names[expected_name]
            tensor = tensors[name]
            if tuple(tensor.shape) != shape:
                msg = (
                    f"checkpoint step{step}: {name} of {path.name} has shape "
                    f"{tuple(tensor.shape)}, its config.json says {shape}. "
                    "Name the right repository or commit."
                )
                raise CheckpointError(msg)
            if not bool(torch.isfinite(tensor).all()):
                msg = (
                    f"checkpoint step{step}: {name} of {path.name} holds nan or infinity. Fetch "
                    "it again; if it stays so, drop the step from model.checkpoints."
                )
                raise CheckpointError(msg)
        # A copy: a mapped file must not be held open.
        return tensors[names[known.embedding]].to(torch.float32, copy=True)


def check_distinct(sha256: Mapping[int, str]) -> None:
    """Check that no two steps have the same weights.

    Raises
    ------
    CheckpointError
        They have; a branch that serves the weights of another step was seen in public repositories.
    """
    first: dict[str, int] = {}
    for step in sorted(sha256):
        earlier = first.setdefault(sha256[step], step)
        if earlier != step:
            msg = (
                f"checkpoint step{earlier} has the sha256 of step{step}: the branch serves the "
                "wrong weights. Pin a commit or drop it from model.checkpoints."
            )
            raise CheckpointError(msg)


def drift(embedding: torch.Tensor, first: torch.Tensor) -> float:
    """Return the distance of an embedding from the first checkpoint's, over the norm of that.

    >>> drift(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 4.0]]))
    0.75
    """
    return float(torch.linalg.vector_norm(embedding - first) / torch.linalg.vector_norm(first))


def check_drift(steps: Sequence[int], drifts: Sequence[float], *, max_drop: float) -> None:
    """Check that the embedding moves away from the first checkpoint, step after step.

    Parameters
    ----------
    steps
        Ascending.
    drifts
        What `drift` gives for each.
    max_drop
        By which share of it a drift may lie below the one before.

    Raises
    ------
    CheckpointError
        It comes back: one of the two steps is not what it is called.
    """
    for at in range(1, len(steps)):
        before, now = drifts[at - 1], drifts[at]
        if now < before * (1 - max_drop) or now == 0:
            msg = (
                f"checkpoint step{steps[at]} is nearer to step{steps[0]} than "
                f"step{steps[at - 1]} is (embedding drift {now:.4g} after {before:.4g}): one of "
                "the two branches serves the wrong step. Pin a commit, drop it from "
                "model.checkpoints, or raise model.max_drift_drop."
            )
            raise CheckpointError(msg)
