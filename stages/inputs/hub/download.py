"""Fetch the files of one checkpoint: from a local folder, the Hub's cache or the Hub.

Small files go through the cache of `huggingface_hub` (``HF_HOME``), which is shared with every
other program; weights that are in it are used. Weights that are not come by the resuming downloader
of this project instead: that library drops an unfinished file when its process ends, and a
checkpoint has a gigabyte. ``HF_HUB_OFFLINE=1`` asks the cache alone.
"""

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol, Self

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

RECORD_FILE = "checkpoints.json"
"""Says of every state which files it is."""
CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Tried in this order: the first cannot hold code."""
_SHA256 = re.compile("[0-9a-f]{64}")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
Weights = tuple[tuple[Path, ...], Path | None]
"""Files of weights: one, or the parts that an index names, and that index."""


class MissingFile(CheckpointError):
    """The revision is there, the file is not part of it."""


class Source(Protocol):
    """Where the files of one checkpoint come from; names are those in the repository."""

    def file(self, name: str) -> Path:
        """Return a small file, which must be there."""

    def present(self, name: str) -> Path | None:
        """Return a small file, if it is there."""

    def whole(self, name: str) -> Path:
        """Return a file of any size, which must be there."""

    def weights(self, names: Sequence[str]) -> Weights:
        """Return the first of these that is there, whole or in parts."""


@dataclass(frozen=True)
class Local:
    """A folder in the Hub's layout, or with all files of a checkpoint directly in it."""

    folder: Path
    wanted: str
    """What belongs there, for messages."""
    key: str
    """What names it, and where."""

    def present(self, name: str) -> Path | None:
        """Return a file if it is there, in its folder of the repository or in none."""
        tried = (self.folder / name, self.folder / PurePosixPath(name).name)
        return next((path for path in tried if path.is_file()), None)

    def file(self, name: str) -> Path:
        """Return a file, which must be there."""
        return self._required(self.present(name), name)

    whole = file

    def weights(self, names: Sequence[str]) -> Weights:
        """Return the first of these that is there, whole or in parts."""
        for name in names:
            if (path := self.present(name)) is not None:
                return (path,), None
            if (index := self.present(name + INDEX)) is not None:
                parts = (index.parent / part for part in sorted(parts_of(index)))
                found = (
                    self._required(path if path.is_file() else None, path.name) for path in parts
                )
                return tuple(found), index
        return (self._required(None, " or ".join(names)),), None

    def _required(self, path: Path | None, name: str) -> Path:
        if path is None:
            msg = f"{self.folder} has no {name}. Put there {self.wanted}, or correct {self.key}."
            raise CheckpointError(msg)
        return path


@dataclass(frozen=True)
class Remote:
    """A revision on the Hub: the cache, an earlier download, or the Hub itself."""

    repo: str
    revision: str
    state: str
    group: str
    """The folder of ``conf/`` that names the repository: ``model`` or ``cellmodel``."""
    name: str
    """The file in it."""
    pin: str
    """The key that names revisions."""
    by_hand: str
    """What a person may put into a folder instead."""
    optional: tuple[str, ...] = ()
    """Files that a checkpoint may never have had."""
    endpoint: str | None = None
    downloads: Path = Path("data/downloads")
    asked: str = ""
    """The branch that resolved to `revision`, for messages."""

    @property
    def _conf(self) -> str:
        return f"conf/{self.group}/{self.name}.yaml"

    @property
    def folder(self) -> Path:
        """Of what was downloaded."""
        return self.downloads / "hub" / self.repo / self.revision

    def resolved(self, name: str) -> tuple[Self, Path]:
        """Return the commit that this revision is now, and a file of it.

        All else is asked of that commit: a branch that moves meanwhile cannot mix two states.
        """
        path = self.file(name)
        # The cache names the folder of a snapshot by its commit.
        return replace(self, revision=path.parents[name.count("/")].name), path

    def held(self, name: str) -> Path | None:
        """Return a file that is here already."""
        cached = huggingface_hub.try_to_load_from_cache(self.repo, name, revision=self.revision)
        if isinstance(cached, str):
            return Path(cached)
        return self.folder / name if (self.folder / name).is_file() else None

    def whole(self, name: str) -> Path:
        """Return a file of any size, which must be there."""
        return self._required(name, self._conf)

    def weights(self, names: Sequence[str]) -> Weights:
        """Return the first of these that is there, whole or in parts; what is here comes first."""
        for look_up in (self.held, self.given):
            for name in names:
                if (path := look_up(name)) is not None:
                    return (path,), None
                if (index := look_up(name + INDEX)) is not None:
                    beside, named = PurePosixPath(name).parent, f"its {index.name}"
                    parts = sorted(parts_of(index))
                    return tuple(self._required(str(beside / part), named) for part in parts), index
        msg = (
            f"{self.repo} at {self.asked or self.revision} has none of {', '.join(names)}, nor an "
            f"index of their parts. Drop {self.state} from {self.group}.checkpoints in "
            f"{self._conf}."
        )
        raise CheckpointError(msg)

    def _required(self, name: str, by: str) -> Path:
        path = self.held(name) or self.given(name)
        if path is None:
            msg = (
                f"{self.repo} at {self.revision} has no {name}, which {by} names. "
                f"Name another revision of {self.state} in {self._conf}."
            )
            raise CheckpointError(msg)
        return path

    def given(self, name: str) -> Path | None:
        """Return a file, downloaded and compared with the sha256 that the Hub states."""
        if name.endswith(INDEX) or huggingface_hub.is_offline_mode():
            # Small; or, offline, what says that it is not in the cache.
            return self.present(name)
        url = huggingface_hub.hf_hub_url(
            self.repo, name, revision=self.revision, endpoint=self.endpoint
        )
        try:
            mark = huggingface_hub.get_hf_file_metadata(url).etag or ""
        except EntryNotFoundError:
            return None
        except httpx2.HTTPError as error:
            raise self._unreachable(name, error) from None
        part = self.folder / f"{name}.part"
        try:
            ResumingDownloader().complete(url, part)
        except TransferError as error:
            raise self._unreachable(name, error) from None
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

    def present(self, name: str) -> Path | None:
        """Return a small file, if it is there."""
        try:
            return self._file(name)
        except MissingFile:
            return None

    def file(self, name: str) -> Path:
        """Return a small file, which must be there: without it, this is no checkpoint."""
        try:
            return self._file(name)
        except MissingFile:
            msg = (
                f"{self.repo} at {self.revision} has no {name}; it is no checkpoint. "
                f"Correct {self.pin} in {self._conf}."
            )
            raise CheckpointError(msg) from None

    def _file(self, name: str) -> Path:
        try:
            return hub_file(self.repo, name, revision=self.revision, endpoint=self.endpoint)
        except RevisionNotFoundError:
            msg = (
                f"{self.repo} has no revision {self.revision} (for {self.state}). Correct "
                f"{self.pin}, or drop it from {self.group}.checkpoints, in {self._conf}."
            )
            raise CheckpointError(msg) from None
        except RepositoryNotFoundError:
            msg = (
                f"the Hub has no repository {self.repo} that can be read without logging in. "
                f"Correct {self.group}.repo in {self._conf}."
            )
            raise CheckpointError(msg) from None
        except LocalEntryNotFoundError as error:
            # Some of a cached checkpoint's optional files may never have existed.
            if name in self.optional and huggingface_hub.is_offline_mode():
                raise MissingFile from None
            raise self._unreachable(name, error) from None
        except EntryNotFoundError:
            raise MissingFile from None
        except httpx2.HTTPError as error:
            raise self._unreachable(name, error) from None
        except OSError as error:
            # huggingface_hub's word for a download that ended early or has the wrong size.
            if error.errno is not None:
                raise
            raise self._unreachable(name, error) from None

    def _unreachable(self, name: str, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"cannot fetch {name} of {self.repo} at {self.revision}: it is not in the cache and "
            f"the Hub did not give it ({reason_of(error)}). Run again to go on; or put "
            f"{self.by_hand} into FOLDER/{self.state}/ by hand and set {self.group}.local to "
            f"FOLDER in {self._conf}."
        )


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
        source: Source = _local(model, model.local, state)
        config, revision, commit = source.file(CONFIG_FILE), state, None
    else:
        pinned = model.revisions.get(state)
        revision = (pinned.commit if pinned else None) or state
        source, config = _remote(model, revision, state, endpoint).resolved(CONFIG_FILE)
        commit = source.revision
    found = map(source.present, TOKENIZER_FILES)
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
    source: Source
    if model.local is not None:
        source = _local(model, model.local, begun.state)
    else:
        remote = _remote(model, str(begun.commit), begun.state, endpoint)
        source = replace(remote, downloads=downloads, asked=begun.revision)
    weights, index = source.weights(WEIGHT_FILES)
    return replace(begun, weights=weights, index=index)


def _remote(model: HubModel, revision: str, state: str, endpoint: str | None) -> Remote:
    return Remote(
        repo=str(model.repo),
        revision=revision,
        state=state,
        group="model",
        name=model.name,
        pin="model.revisions",
        by_hand=f"{CONFIG_FILE}, the weights and {TOKENIZER_FILES[0]}",
        optional=(*TOKENIZER_FILES, *may_lack(WEIGHT_FILES)),
        endpoint=endpoint,
    )


def _local(model: HubModel, root: Path, state: str) -> Local:
    """Return the folder of a state: of its name, or the only state's own."""
    folder = state_folder(root, state, model.checkpoints, configs=[CONFIG_FILE], group="model")
    wanted = "the files of that state in the Hub's layout"
    if model.repo is not None:
        wanted = f"what {model.repo} has at its revision {state}"
    return Local(folder, wanted, f"model.local of conf/model/{model.name}.yaml")


def state_folder(
    root: Path, state: str, states: Sequence[str], *, configs: Sequence[str], group: str
) -> Path:
    """Return the folder of a state below `root`: of its name, or `root` if that is the only state.

    Parameters
    ----------
    states
        All of the model.
    configs
        Files by any of which a folder of a state is known.
    group
        ``model`` or ``cellmodel``, for messages.

    Raises
    ------
    CheckpointError
        `root` is a state, and several are asked for.
    """
    if (root / state).is_dir():
        return root / state
    if len(states) == 1:
        return root
    if any((root / name).is_file() for name in configs):
        msg = (
            f"{root} is one state and {group}.checkpoints names {len(states)}. Name one, or give "
            "each a folder of its name."
        )
        raise CheckpointError(msg)
    return root / state


def may_lack(weights: Sequence[str]) -> tuple[str, ...]:
    """Return which files of weights a checkpoint may lack: all but the last way to have them."""
    return (*weights[:-1], *(name + INDEX for name in weights))


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
