"""Fetch the files of one checkpoint: from a local folder, the Hub's cache or the Hub.

Small files go through the cache of `huggingface_hub` (``HF_HOME``), which is shared with every
other program; weights that are in it are used. Weights that are not come by the resuming downloader
of this project instead: that library drops an unfinished file when its process ends, and a
checkpoint has a gigabyte. ``HF_HUB_OFFLINE=1`` asks the cache alone.
"""

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx2
import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from stages.base.errors import CheckpointError
from stages.base.files import file_hash
from stages.inputs.published.download import ResumingDownloader, TransferError, discard, state_path
from stages.inputs.settings import HubModel

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Tried in this order: the first cannot hold code."""
_SHA256 = re.compile("[0-9a-f]{64}")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Fetched:
    """The files of one checkpoint, wherever they lie."""

    step: int
    revision: str
    """What was asked for: a commit or a branch."""
    commit: str | None
    """What it resolved to; unknown of a local folder."""
    config: Path
    weights: Path
    tokenizer: tuple[Path, ...]


@contextmanager
def alone(downloads: Path, name: str) -> Iterator[None]:
    """Hold a model's downloads: a killed `dvc` leaves its child running beside the next.

    Raises
    ------
    CheckpointError
        Another process holds them.
    """
    lock = downloads / "hub" / f"{name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = (
                f"another process downloads {name} ({lock} is held). "
                "Wait until it has finished, or end it."
            )
            raise CheckpointError(msg) from None
        yield


def fetch(model: HubModel, step: int, *, downloads: Path, endpoint: str | None = None) -> Fetched:
    """Return the files of a checkpoint, downloaded if they are not here.

    Parameters
    ----------
    model
        Says where from.
    step
        Which checkpoint.
    downloads
        Keeps weights, finished or not.
    endpoint
        Address of the Hub; none: ``HF_ENDPOINT``, or the public one.

    Raises
    ------
    CheckpointError
        A revision or file that does not exist, or no network; one line says how to do without.
    """
    if model.local is not None:
        return _local(model, model.local, step)
    branch = f"step{step}"
    pinned = model.revisions.get(branch)
    revision = (pinned.commit if pinned else None) or branch
    config = _file(model, revision, CONFIG_FILE, branch, endpoint)
    # The cache names the folder of a snapshot by its commit. All else is asked of that commit, so
    # that a branch which moves meanwhile cannot mix two states.
    commit = config.parent.name

    def present(name: str) -> Path | None:
        try:
            return _file(model, commit, name, branch, endpoint)
        except _MissingFile:
            return None

    weights = _weights(model, commit, branch, downloads, endpoint)
    if weights is None:
        msg = (
            f"{model.repo} at {revision} has none of {', '.join(WEIGHT_FILES)}. "
            f"Weights in several pieces are not read. Drop step {step} from model.checkpoints in "
            f"conf/model/{model.name}.yaml."
        )
        raise CheckpointError(msg)
    tokenizer = tuple(path for name in TOKENIZER_FILES if (path := present(name)) is not None)
    return Fetched(step, revision, commit, config, weights, tokenizer)


def _weights(
    model: HubModel, commit: str, branch: str, downloads: Path, endpoint: str | None
) -> Path | None:
    """Return the weights: of the cache, of an earlier download, or downloaded; or nothing."""
    folder = downloads / "hub" / model.repo / commit
    for name in WEIGHT_FILES:
        cached = huggingface_hub.try_to_load_from_cache(model.repo, name, revision=commit)
        if isinstance(cached, str):
            return Path(cached)
        if (folder / name).is_file():
            return folder / name
    if huggingface_hub.is_offline_mode():
        # Says that it is not in the cache.
        return _file(model, commit, WEIGHT_FILES[-1], branch, endpoint)
    for name in WEIGHT_FILES:
        url = huggingface_hub.hf_hub_url(model.repo, name, revision=commit, endpoint=endpoint)
        try:
            mark = huggingface_hub.get_hf_file_metadata(url).etag or ""
        except EntryNotFoundError:
            continue
        except httpx2.HTTPError as error:
            raise CheckpointError(_unreachable(model, commit, name, branch, error)) from None
        part = folder / f"{name}.part"
        try:
            ResumingDownloader().complete(url, part)
        except TransferError as error:
            raise CheckpointError(_unreachable(model, commit, name, branch, error)) from None
        # The Hub marks a large file by its sha256.
        if _SHA256.fullmatch(mark) and (sha256 := file_hash(part)) != mark:
            discard(part)
            msg = (
                f"checkpoint {branch}: the sha256 of {name} is {sha256}, the Hub says {mark}: it "
                "was damaged on its way, and was deleted. Run again."
            )
            raise CheckpointError(msg)
        os.replace(part, folder / name)
        state_path(part).unlink(missing_ok=True)
        return folder / name
    return None


def _first(present: Callable[[str], Path | None], names: tuple[str, ...]) -> Path | None:
    for name in names:
        if (path := present(name)) is not None:
            return path
    return None


class _MissingFile(CheckpointError):
    """The revision is there, the file is not part of it."""


def _file(model: HubModel, revision: str, name: str, branch: str, endpoint: str | None) -> Path:
    try:
        return hub_file(model.repo, name, revision=revision, endpoint=endpoint)
    except RevisionNotFoundError:
        msg = (
            f"{model.repo} has no revision {revision} (for {branch}). Correct model.revisions, or "
            f"drop it from model.checkpoints, in conf/model/{model.name}.yaml."
        )
        raise CheckpointError(msg) from None
    except RepositoryNotFoundError:
        msg = (
            f"the Hub has no repository {model.repo} that can be read without logging in. "
            f"Correct model.repo in conf/model/{model.name}.yaml."
        )
        raise CheckpointError(msg) from None
    except LocalEntryNotFoundError as error:
        # Some of a cached checkpoint's optional files may never have existed.
        if name not in {CONFIG_FILE, WEIGHT_FILES[-1]} and huggingface_hub.is_offline_mode():
            raise _MissingFile from None
        raise CheckpointError(_unreachable(model, revision, name, branch, error)) from None
    except EntryNotFoundError:
        if name == CONFIG_FILE:
            msg = (
                f"{model.repo} at {revision} has no {name}; it is no checkpoint. "
                f"Correct model.revisions in conf/model/{model.name}.yaml."
            )
            raise CheckpointError(msg) from None
        raise _MissingFile from None
    except httpx2.HTTPError as error:
        raise CheckpointError(_unreachable(model, revision, name, branch, error)) from None
    except OSError as error:
        # huggingface_hub's word for a download that ended early or has the wrong size.
        if error.errno is not None:
            raise
        raise CheckpointError(_unreachable(model, revision, name, branch, error)) from None


def hub_file(
    repo: str,
    name: str,
    *,
    revision: str | None,
    kind: Literal["model", "dataset"] = "model",
    endpoint: str | None = None,
) -> Path:
    """Return a file of the Hub's cache, downloaded or gone on with if it is not there."""
    return Path(
        huggingface_hub.hf_hub_download(
            repo, name, repo_type=kind, revision=revision, endpoint=endpoint
        )
    )


def reason_of(error: BaseException) -> str:
    """Return what lies at the bottom of an error of the Hub's library, as part of a line."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return lines[0].rstrip(".")


def _unreachable(model: HubModel, revision: str, name: str, branch: str, error: Exception) -> str:
    return (
        f"cannot fetch {name} of {model.repo} at {revision}: it is not in the cache and the Hub "
        f"did not give it ({reason_of(error)}). Run again to go on; or put {CONFIG_FILE}, the "
        f"weights and {TOKENIZER_FILES[0]} into FOLDER/{branch}/ by hand and set model.local to "
        f"FOLDER in conf/model/{model.name}.yaml."
    )


def _local(model: HubModel, root: Path, step: int) -> Fetched:
    folder = root / f"step{step}"

    def present(name: str) -> Path | None:
        path = folder / name
        return path if path.is_file() else None

    config, weights = present(CONFIG_FILE), _first(present, WEIGHT_FILES)
    if config is None or weights is None:
        missing = CONFIG_FILE if config is None else " or ".join(WEIGHT_FILES)
        msg = (
            f"{folder} has no {missing}. Put there what {model.repo} has at its branch "
            f"step{step}, or set model.local to null in conf/model/{model.name}.yaml to download."
        )
        raise CheckpointError(msg)
    tokenizer = tuple(path for name in TOKENIZER_FILES if (path := present(name)) is not None)
    return Fetched(step, f"step{step}", None, config, weights, tokenizer)
