"""Load a model from a checkpoint folder in the Hub's layout; nothing in it goes unchecked."""

import hashlib
import json
import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from stages.base.errors import AblationError
from stages.base.files import file_hash
from stages.models import scgpt
from stages.models.architectures import family
from stages.models.index import INDEX, parts_of

log = logging.getLogger("stages")


def config_file(folder: Path) -> Path:
    """Return the file that describes the model of a folder, whether or not it is there."""
    return folder / (scgpt.ARGS_FILE if scgpt.is_scgpt(folder) else "config.json")


def weight_files(folder: Path) -> list[Path]:
    """List the weight files of a checkpoint folder, safetensors first.

    Raises
    ------
    AblationError
        The folder holds no weights, or its index names files that are not there.
    CheckpointError
        The index is none, or names files outside the folder.
    """
    names = ("model.safetensors", "pytorch_model.bin")
    if scgpt.is_scgpt(folder):
        names = scgpt.WEIGHT_FILES
    for name in names:
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
        f"{folder} holds no weights: {' or '.join(names)} is needed. Bring the checkpoint in again."
    )
    raise AblationError(msg)


def fingerprint(folder: Path) -> str:
    """Return a sha256 over the weight files of a checkpoint and what describes them."""
    digest = hashlib.sha256()
    for file in [config_file(folder), *weight_files(folder)]:
        digest.update(f"{file.name} {file_hash(file)}\n".encode())
    return digest.hexdigest()


def shape_of(folder: Path) -> tuple[int, int]:
    """Return how many layers a checkpoint has, and how many heads in each.

    Raises
    ------
    AblationError
        ``config.json`` (scGPT: ``args.json``, the vocabulary) is missing, describes no model of a
        known family, or says what cannot be.
    """
    config = read_config(folder)
    return int(config.num_hidden_layers), int(config.num_attention_heads)


def read_config(folder: Path) -> Any:
    """Return the config of a checkpoint as ``transformers`` reads it, of a known family.

    That of an scGPT has the same names (:class:`stages.models.scgpt.ScGPTConfig`).

    Raises
    ------
    AblationError
        As :func:`shape_of`.
    """
    path = config_file(folder)
    if scgpt.is_scgpt(folder):
        files = [folder / name for name in scgpt.VOCABULARY_FILES]
        # With none there, the error names the published one.
        vocabulary = next((file for file in files if file.exists()), files[-1])
        return scgpt.config_of(_read_json(path), _read_json(vocabulary), str(folder))
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
        Holds ``config.json`` and the weights, safetensors or a ``.bin`` (tensors only). Of an
        scGPT: ``args.json``, ``vocabulary.json`` or ``vocab.json``, and the weights, safetensors or
        ``best_model.pt``.
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
    model: nn.Module
    if scgpt.is_scgpt(folder):
        model, report = scgpt.build(config, _tensors(files[0]), dtype, str(folder))
    else:
        model, report = _by_transformers(folder, described.loader, config, files, dtype)
    require_whole(
        model, report, str(folder), described=config_file(folder).name, unused=described.unused
    )
    return model.eval().requires_grad_(requires_grad=False).to(device)


def _tensors(file: Path) -> dict[str, Any]:
    """Return what a file of weights holds, by name."""
    if file.suffix == ".safetensors":
        return load_file(file)
    return dict(torch.load(file, map_location="cpu", weights_only=True))


def _by_transformers(
    folder: Path, loader_name: str, config: Any, files: list[Path], dtype: torch.dtype
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a model with the weights that ``transformers`` finds, and what it did not find."""
    import transformers

    # A .bin would otherwise start a thread that asks the Hub for a converted copy.
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    loader: Any = getattr(transformers, loader_name)
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
    return cast("nn.Module", model), report


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
            with safe_open(file, framework="pt") as opened:
                names = list(opened.keys())
        else:
            content = torch.load(file, map_location="meta", weights_only=True)
            names = list(content) if isinstance(content, dict) else []
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


def require_whole(
    model: nn.Module,
    report: dict[str, Any],
    where: str,
    *,
    described: str,
    unused: tuple[str, ...],
) -> None:
    """Check that a model has all its weights, of the right shapes, and no others.

    Parameters
    ----------
    report
        What was found, as ``transformers`` and :func:`stages.models.scgpt.build` say it.
    where, described
        The folder, and the file that describes the model, for messages.
    unused
        How names of weights begin that serve other tasks.

    Raises
    ------
    AblationError
        A weight is missing, of another shape, unknown, nan or infinite.
    """
    if mismatched := sorted(report["mismatched_keys"]):
        name, found, expected = mismatched[0]
        msg = (
            f"{where}: {name} has the shape {tuple(found)}, {described} makes it "
            f"{tuple(expected)} ({len(mismatched)} in all). The weights belong to another model."
        )
        raise AblationError(msg)
    if missing := sorted(report["missing_keys"]):
        msg = (
            f"{where}: {missing[0]} is not among the weights ({len(missing)} missing). "
            "The weights belong to another model, or are not complete."
        )
        raise AblationError(msg)
    if extra := sorted(name for name in report["unexpected_keys"] if not name.startswith(unused)):
        msg = (
            f"{where}: {extra[0]} is no weight of the model that {described} makes "
            f"({len(extra)} in all). The weights belong to another model."
        )
        raise AblationError(msg)
    if ignored := sorted(name for name in report["unexpected_keys"] if name.startswith(unused)):
        log.info("%s: %s serve other tasks and are not read", where, ", ".join(ignored))
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            n_bad = int((~torch.isfinite(weight)).sum())
            msg = (
                f"{where}: {name} holds {n_bad} values that are nan or infinite. "
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
