"""What DVC has locked, and the bytes that it keeps: the room's one reader of both.

``dvc.yaml`` and ``dvc.lock`` are read by DVC itself. The layout of its caches and remotes is known
here alone, and no byte in one is believed without its hash: DVC does not notice damage there.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo

from stages.base.errors import StageError
from stages.base.files import FOLDER_MARK, file_hash

FILE = "dvc.lock"
OBJECTS = Path("files/md5")
"""Where DVC 3 keeps objects below a cache or a remote."""
_OID = re.compile(r"[0-9a-f]{32}(\.dir)?")


class LockError(StageError):
    """DVC cannot read the repository, its graph or its lock."""


@dataclass(frozen=True)
class Output:
    """One output of a stage."""

    path: str
    """In the repository."""
    md5: str
    """As ``dvc.lock`` has it, that of a folder ending in ``.dir``; empty: it has none."""
    size: int | None = None
    """In bytes."""
    is_pushed: bool = True
    """Whether ``dvc push`` sends it: neither left to git nor ``push: false``."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of ``dvc.yaml``, with what ``dvc.lock`` has of it."""

    name: str
    command: str
    inputs: Mapping[str, str]
    """md5 by path, code among them."""
    outputs: tuple[Output, ...]
    params: Mapping[str, Any]
    """Values by dotted key."""


@contextmanager
def _opened(repository: Path) -> Iterator[Repo]:
    try:
        with Repo(str(repository)) as repo:
            yield repo
    except DvcException as error:
        remedy = f"Correct dvc.yaml, or restore {FILE} by `git checkout {FILE}`."
        if isinstance(error, NotDvcRepoError):
            remedy = "Run this in the root of the repository."
        msg = f"{' '.join(str(error).split()).removesuffix('.')}. {remedy}"
        raise LockError(msg) from error


def read(repository: Path) -> list[Stage]:
    """Return the stages of ``dvc.yaml`` in its order, with what ``dvc.lock`` has of them.

    Raises
    ------
    LockError
        DVC cannot read them.
    """
    with _opened(repository) as repo:
        return [_stage(found, Path(repo.root_dir)) for found in repo.index.stages]


def _stage(found: Any, root: Path) -> Stage:
    inputs: dict[str, str] = {}
    params: dict[str, Any] = {}
    for dep in found.deps:
        if isinstance(dep, ParamsDependency):
            params |= dep.hash_info.value or {}
        else:
            inputs[dep.def_path] = dep.hash_info.value
    outputs = (
        Output(
            path=Path(out.fs_path).relative_to(root).as_posix(),
            md5=out.hash_info.value or "",
            size=out.meta.size,
            is_pushed=out.use_cache and out.can_push,
        )
        for out in found.outs
    )
    return Stage(
        name=getattr(found, "name", found.relpath),
        command=found.cmd,
        inputs=inputs,
        outputs=tuple(outputs),
        params=params,
    )


def cache_of(repository: Path) -> Path:
    """Return the folder of DVC's cache, relative to the repository if it lies there.

    Raises
    ------
    LockError
        The folder is no DVC repository.
    """
    with _opened(repository) as repo:
        folder = Path(repo.cache.local.path).parents[1]
        inside = folder.is_relative_to(repo.root_dir)
        return folder.relative_to(repo.root_dir) if inside else folder


def objects(folder: Path) -> dict[Path, str]:
    """Return the objects below a cache or a store, with the hash that each is named after."""
    paths = sorted(path for path in (folder / OBJECTS).glob("??/*") if path.is_file())
    named = {path: path.parent.name + path.name for path in paths}
    return {path: md5 for path, md5 in named.items() if _OID.fullmatch(md5)}


def is_true(path: Path, md5: str) -> bool:
    """Return whether a file is there with these bytes; a folder's hash is that of its list."""
    return path.is_file() and file_hash(path, "md5") == md5.removesuffix(FOLDER_MARK)


def files_below(folder: Path) -> dict[str, str]:
    """Return the md5 of each file below `folder` by its name there."""
    return {
        path.relative_to(folder).as_posix(): file_hash(path, "md5")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Store:
    """Where the bytes that a lock names may be; nothing is believed without its hash.

    Parameters
    ----------
    checkout
        The repository: small results may be in git itself.
    caches
        Gives caches and stores of DVC; asked once, when something is first sought.
    """

    def __init__(self, checkout: Path, caches: Callable[[], Iterable[Path]]) -> None:
        self._checkout = checkout
        self._caches = cache(lambda: tuple(caches()))

    def find(self, md5: str, path: str) -> Path | None:
        """Return a file with these bytes, or None if nobody kept a true copy.

        Parameters
        ----------
        md5
            Its hash.
        path
            Its name in the repository.
        """

        def candidates() -> Iterator[Path]:
            yield self._checkout / path
            yield from (folder / OBJECTS / md5[:2] / md5[2:] for folder in self._caches())

        return next((path for path in candidates() if is_true(path, md5)), None)

    def files(self, output: Output) -> dict[str, str] | None:
        """Return the md5 of each file of an output by its path; None if a folder's list is lost."""
        if not output.md5.endswith(FOLDER_MARK):
            return {output.path: output.md5}
        found = self.find(output.md5, output.path)
        if found is None:
            return None
        listed = json.loads(found.read_text(encoding="utf-8"))
        return {f"{output.path}/{entry['relpath']}": str(entry["md5"]) for entry in listed}
