"""Fetch the files of one checkpoint: from a local folder, the Hub's cache or the Hub.

Small files go through the cache of `huggingface_hub` (``HF_HOME``), which is shared with every
other program; weights that are in it are used. Weights that are not come by the resuming downloader
of this project instead: that library drops an unfinished file when its process ends, and a
checkpoint has a gigabyte. ``HF_HUB_OFFLINE=1`` asks the cache alone.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from stages.models.index import INDEX, parts_of

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Tried in this order: the first cannot hold code."""
_SHA256 = re.compile("[0-9a-f]{64}")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_OPTIONAL = {*TOKENIZER_FILES, WEIGHT_FILES[0], *(name + INDEX for name in WEIGHT_FILES)}


@dataclass(frozen=True)
class Fetched:
    """The files of one checkpoint, wherever they lie."""

    state: str
    revision: str
    """What was asked for: a commit or a branch."""
    commit: str | None
    """What it resolved to; unknown of a local folder."""
    config: Path
    tokenizer: tuple[Path, ...]
    weights: tuple[Path, ...] = ()
    """One file, or the parts that `index` names."""
    index: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All of them."""
        index = () if self.index is None else (self.index,)
        return [self.config, *index, *self.weights, *self.tokenizer]


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


def begin(model: HubModel, state: str, *, endpoint: str | None = None) -> Fetched:
    """Return the small files of a checkpoint, which say what its weights must be.

    Parameters
    ----------
    model
        Says where from.
    state
        Which checkpoint.
    endpoint
        Address of the Hub; none: ``HF_ENDPOINT``, or the public one.

    Raises
    ------
    CheckpointError
        A revision or file that does not exist, or no network; one line says how to do without.
    """
    if model.local is not None:
        folder = _local(model, model.local, state)
        config = _there(model, folder, CONFIG_FILE)
        tokenizer = tuple(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())
        return Fetched(state, state, None, config, tokenizer)
    pinned = model.revisions.get(state)
    revision = (pinned.commit if pinned else None) or state
    config = _file(model, revision, CONFIG_FILE, state, endpoint)
    # The cache names the folder of a snapshot by its commit. All else is asked of that commit, so
    # that a branch which moves meanwhile cannot mix two states.
    commit = config.parent.name
    found = (_present(model, commit, name, state, endpoint) for name in TOKENIZER_FILES)
    return Fetched(state, revision, commit, config, tuple(path for path in found if path))


def fetch(
    model: HubModel, begun: Fetched, *, downloads: Path, endpoint: str | None = None
) -> Fetched:
    """Return the checkpoint that :func:`begin` began with its weights, downloaded if need be.

    Parameters
    ----------
    downloads
        Keeps weights, finished or not.

    Raises
    ------
    CheckpointError
        As :func:`begin`; or an index of weights in parts that cannot be.
    """
    if begun.commit is None:
        return _with_local_weights(model, begun)
    source = _Source(model, begun.commit, begun.state, downloads, endpoint)
    # What is here already comes first, whichever it is.
    for look_up in (source.held, source.given):
        for name in WEIGHT_FILES:
            if (whole := look_up(name)) is not None:
                return replace(begun, weights=(whole,))
            if (index := look_up(name + INDEX)) is not None:
                parts = tuple(source.part(index, part) for part in sorted(parts_of(index)))
                return replace(begun, weights=parts, index=index)
    msg = (
        f"{model.repo} at {begun.revision} has none of {', '.join(WEIGHT_FILES)}, nor an index of "
        f"their parts. Drop {begun.state} from model.checkpoints in conf/model/{model.name}.yaml."
    )
    raise CheckpointError(msg)


@dataclass(frozen=True)
class _Source:
    """Where the weights of one checkpoint come from: the cache, an earlier download, the Hub."""

    model: HubModel
    commit: str
    state: str
    downloads: Path
    endpoint: str | None

    @property
    def folder(self) -> Path:
        """Of what was downloaded."""
        return self.downloads / "hub" / str(self.model.repo) / self.commit

    def held(self, name: str) -> Path | None:
        """Return a file that is here already."""
        repo = str(self.model.repo)
        cached = huggingface_hub.try_to_load_from_cache(repo, name, revision=self.commit)
        if isinstance(cached, str):
            return Path(cached)
        return self.folder / name if (self.folder / name).is_file() else None

    def part(self, index: Path, name: str) -> Path:
        """Return a part that an index names."""
        path = self.held(name) or self.given(name)
        if path is None:
            msg = (
                f"{self.model.repo} at {self.commit} has no {name}, which its {index.name} names. "
                f"Name another revision of {self.state} in conf/model/{self.model.name}.yaml."
            )
            raise CheckpointError(msg)
        return path

    def given(self, name: str) -> Path | None:
        """Return a file, downloaded and compared with the sha256 that the Hub states."""
        model, commit = self.model, self.commit
        if name.endswith(INDEX) or huggingface_hub.is_offline_mode():
            # Small; or, offline, what says that it is not in the cache.
            return _present(model, commit, name, self.state, self.endpoint)
        url = huggingface_hub.hf_hub_url(
            str(model.repo), name, revision=commit, endpoint=self.endpoint
        )
        try:
            mark = huggingface_hub.get_hf_file_metadata(url).etag or ""
        except EntryNotFoundError:
            return None
        except httpx2.HTTPError as error:
            raise CheckpointError(_unreachable(model, commit, name, self.state, error)) from None
        part = self.folder / f"{name}.part"
        try:
            ResumingDownloader().complete(url, part)
        except TransferError as error:
            raise CheckpointError(_unreachable(model, commit, name, self.state, error)) from None
        # The Hub marks a large file by its sha256.
        if _SHA256.fullmatch(mark) and (sha256 := file_hash(part)) != mark:
            discard(part)
            msg = (
                f"checkpoint {self.state}: the sha256 of {name} is {sha256}, the Hub says {mark}: "
                "it was damaged on its way, and was deleted. Run again."
            )
            raise CheckpointError(msg)
        os.replace(part, self.folder / name)
        state_path(part).unlink(missing_ok=True)
        return self.folder / name


class _MissingFile(CheckpointError):
    """The revision is there, the file is not part of it."""


def _present(
    model: HubModel, revision: str, name: str, branch: str, endpoint: str | None
) -> Path | None:
    try:
        return _file(model, revision, name, branch, endpoint)
    except _MissingFile:
        return None


def _file(model: HubModel, revision: str, name: str, branch: str, endpoint: str | None) -> Path:
    try:
        return hub_file(str(model.repo), name, revision=revision, endpoint=endpoint)
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
        if name in _OPTIONAL and huggingface_hub.is_offline_mode():
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


def _local(model: HubModel, root: Path, state: str) -> Path:
    """Return the folder of a state: of its name, or the only state's own."""
    if (root / CONFIG_FILE).is_file() and not (root / state).is_dir():
        if len(model.checkpoints) > 1:
            msg = (
                f"{root} is one state and model.checkpoints names {len(model.checkpoints)}. Name "
                "one, or give each a folder of its name."
            )
            raise CheckpointError(msg)
        return root
    return root / state


def _there(model: HubModel, folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        wanted = "the files of that state in the Hub's layout"
        if model.repo is not None:
            wanted = f"what {model.repo} has at its revision {folder.name}"
        msg = (
            f"{folder} has no {name}. Put there {wanted}, or correct model.local of "
            f"conf/model/{model.name}.yaml."
        )
        raise CheckpointError(msg)
    return folder / name


def _with_local_weights(model: HubModel, begun: Fetched) -> Fetched:
    folder = begun.config.parent
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return replace(begun, weights=(folder / name,))
        index = folder / (name + INDEX)
        if index.is_file():
            parts = tuple(_there(model, folder, part) for part in sorted(parts_of(index)))
            return replace(begun, weights=parts, index=index)
    return replace(begun, weights=(_there(model, folder, " or ".join(WEIGHT_FILES)),))
