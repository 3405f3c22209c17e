"""Load a model from a checkpoint folder in the Hub's layout; nothing in it goes unchecked."""

import json
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from stages.base.errors import AblationError
from stages.models.architectures import family
from stages.models.index import INDEX, parts_of


def weight_files(folder: Path) -> list[Path]:
    """List the weight files of a checkpoint folder, safetensors first.

    Raises
    ------
    AblationError
        The folder holds no weights, or its index names files that are not there.
    CheckpointError
        The index is none, or names files outside the folder.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return [folder / name]
        index = folder / f"{name}{INDEX}"
        if index.exists():
            parts = sorted(parts_of(index))
            if missing := [part for part in parts if not (folder / part).exists()]:
                msg = (
                    f"{index} names {', '.join(missing)}, which is not there. "
                    "Bring the checkpoint in again."
                )
                raise AblationError(msg)
            return [folder / part for part in parts]
    msg = (
        f"{folder} holds no weights: model.safetensors or pytorch_model.bin is needed. "
        "Bring the checkpoint in again."
    )
    raise AblationError(msg)


def shape_of(folder: Path) -> tuple[int, int]:
    """Return how many layers a checkpoint has, and how many heads in each.

    Raises
    ------
    AblationError
        ``config.json`` is missing, describes no model of a known family, or says what cannot be.
    """
    config = read_config(folder)
    return int(config.num_hidden_layers), int(config.num_attention_heads)


def read_config(folder: Path) -> Any:
    """Return the config of a checkpoint as ``transformers`` reads it, of a known family.

    Raises
    ------
    AblationError
        As :func:`shape_of`.
    """
    path = folder / "config.json"
    family(str(_read_json(path).get("model_type")), str(folder))
    # transformers is slow to import; who only asks for weight_files need not wait for it.
    import transformers

    loader: Any = transformers.AutoConfig
    try:
        config = loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        heads, width = int(config.num_attention_heads), int(config.hidden_size)
        groups = int(getattr(config, "num_key_value_heads", None) or heads)
    except Exception as error:  # noqa: BLE001 - its checks raise errors of many kinds
        said = " ".join(str(error).split())[:300]
        msg = f"{path} does not describe a model ({said}). Bring it in again."
        raise AblationError(msg) from None
    if heads < 1 or (width % heads and getattr(config, "head_dim", None) is None):
        msg = (
            f"{path} says {heads} heads for a width of {width}, which is no multiple of it. "
            "Bring the checkpoint in again."
        )
        raise AblationError(msg)
    if groups < 1 or heads % groups:
        msg = (
            f"{path} says {groups} heads of keys for {heads} heads, which is no multiple of it. "
            "Bring the checkpoint in again."
        )
        raise AblationError(msg)
    return config


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
    config = read_config(folder)
    described = family(config.model_type, str(folder))
    files = weight_files(folder)
    for file in files:
        _readable(file)
    import transformers

    # A .bin would otherwise start a thread that asks the Hub for a converted copy.
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    loader: Any = getattr(transformers, described.loader)
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
                f"{folder} could not be loaded as a {config.model_type} model "
                f"({_first_line(error)}). Bring the checkpoint in again."
            )
            raise AblationError(msg) from None
    _check(model, report, folder, described.unused)
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


def _check(model: nn.Module, report: dict[str, Any], folder: Path, unused: tuple[str, ...]) -> None:
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
    if extra := sorted(name for name in report["unexpected_keys"] if not name.startswith(unused)):
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
