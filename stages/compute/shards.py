"""Finished work that a killed run goes on from: arrays in a file, named by what decides them.

A shard appears whole or not at all, carries a sha256 of everything that decides its numbers, and
lies outside what DVC tracks: in a folder, or in a store such as S3 that several machines share.
Whoever works on a shard writes it, so that a worker, a scheduler or a run that is lost takes along
no more than the shards that were being worked on.
"""

import hashlib
import io
import json
import logging
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.base.errors import StageError
from stages.base.files import atomic_path
from stages.compute import settings
from stages.compute.run import run

log = logging.getLogger("stages")

Arrays = dict[str, npt.NDArray[Any]]
KEY = "key"


def key_of(decides: Mapping[str, Any]) -> str:
    """Return the sha256 of what decides the numbers of a shard."""
    return hashlib.sha256(json.dumps(dict(decides), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Shard:
    """A piece of work whose result is kept."""

    label: str
    key: str
    """Of what decides its numbers (:func:`key_of`)."""
    task: Any
    """What the work is told."""

    @property
    def name(self) -> str:
        """Return the name of its file."""
        return f"{self.label}-{self.key[:24]}.npz"


@dataclass(frozen=True)
class Store:
    """Where finished shards lie."""

    place: str
    """A folder, or an address that fsspec knows."""
    raises: type[StageError] = StageError
    """What is raised where nothing can be written."""

    def read(self, shard: Shard, *, fault: Callable[[Arrays], str] = lambda _: "") -> Arrays | None:
        """Return a shard; none if it is not there or damaged: its bytes are checked.

        A damaged shard is named and removed; it is computed again.

        Parameters
        ----------
        fault
            Says what is wrong with the arrays; nothing if they are what they should be.
        """
        try:
            # A file of its own: np.load leaves one open that it cannot read.
            with self._opened(shard) as file, np.load(file, allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            said = " ".join(str(error).split()) or type(error).__name__
        else:
            other = str(arrays.pop(KEY, "")) != shard.key
            said = "it belongs to another run" if other else fault(arrays)
            if not said:
                return arrays
        log.warning("%s is damaged (%s); it is computed again", self._path(shard), said)
        self.forget(shard)
        return None

    def write(self, shard: Shard, arrays: Arrays) -> None:
        """Write a shard, whole or not at all.

        In a store that is no folder, the first who writes it wins; another would write the same.

        Raises
        ------
        StageError
            The disk is full or the place cannot be written to; of the kind `raises`.
        """
        named: dict[str, Any] = {KEY: np.array(shard.key), **arrays}
        path = self._path(shard)
        try:
            if isinstance(path, Path):
                with atomic_path(path) as temporary:
                    np.savez(temporary, **named)
            else:
                file = io.BytesIO()
                np.savez(file, **named)
                self._system.pipe_file(path, file.getvalue(), mode="create")
        except FileExistsError:
            return
        except OSError as error:
            raise self.raises(unwritten(path, error)) from None

    def has(self, shard: Shard) -> bool:
        """Return whether there is a shard, damaged or not."""
        path = self._path(shard)
        return path.exists() if isinstance(path, Path) else bool(self._system.exists(path))

    def forget(self, shard: Shard) -> None:
        """Remove a shard, if it is there."""
        path = self._path(shard)
        if isinstance(path, Path):
            path.unlink(missing_ok=True)
        elif self._system.exists(path):
            self._system.rm_file(path)

    def sweep_up(self) -> None:
        """Remove what a killed run left half-written. Only for who holds the lock."""
        if "://" not in self.place:
            for left in Path(self.place).glob(".*.npz.*"):
                shutil.rmtree(left, ignore_errors=True)

    def fill(
        self,
        shards: Sequence[Shard],
        work: Callable[..., Arrays],
        *,
        on: Sequence[str] | None = None,
        label: str = "",
    ) -> None:
        """Compute shards, in any order and on all workers, each written as soon as it is finished.

        Parameters
        ----------
        work
            Takes a shard's task, and ``device=`` if there are any; a function that other processes
            find by its name, or a partial of one.
        on, label
            Devices, and what the progress is called (:func:`stages.compute.run.run`).
        """
        run(_made, [(self, work, shard) for shard in shards], on=on, label=label)

    def filled(
        self,
        shards: Sequence[Shard],
        work: Callable[..., Arrays],
        *,
        on: Sequence[str] | None = None,
        label: str = "",
        fault: Callable[[Shard, Arrays], str] = lambda *_: "",
    ) -> list[Arrays]:
        """Return every shard in order, after computing what is missing (:meth:`fill`)."""
        found = [self.read(shard, fault=partial(fault, shard)) for shard in shards]
        missing = [shard for shard, arrays in zip(shards, found, strict=True) if arrays is None]
        self.fill(missing, work, on=on, label=label)
        return [
            self.finished(shard) if arrays is None else arrays
            for shard, arrays in zip(shards, found, strict=True)
        ]

    def finished(self, shard: Shard) -> Arrays:
        """Return a shard that was computed.

        Raises
        ------
        StageError
            It is not there, or damaged.
        """
        found = self.read(shard)
        if found is None:
            msg = f"{self._path(shard)} is missing. Run again: finished shards are kept."
            raise self.raises(msg)
        return found

    def _path(self, shard: Shard) -> Path | str:
        if "://" in self.place:
            return f"{self.place}/{shard.name}"
        return Path(self.place) / shard.name

    def _opened(self, shard: Shard) -> Any:
        path = self._path(shard)
        if isinstance(path, Path):
            return path.open("rb")
        return io.BytesIO(self._system.cat_file(path))

    @property
    def _system(self) -> Any:
        # fsspec keeps one of each kind and place.
        import fsspec

        return fsspec.core.url_to_fs(self.place)[0]


def store(scratch: Path, *, raises: type[StageError] = StageError) -> Store:
    """Return where the shards of a folder of scratch data lie: there, or in ``compute.store``.

    Raises
    ------
    StageError
        The store is of a kind that is not installed, or it cannot be reached.
    """
    place = settings.chosen().store
    if place is None:
        return Store(str(scratch.absolute()), raises)
    inside = scratch.absolute()
    inside = inside.relative_to(Path.cwd() if inside.is_relative_to(Path.cwd()) else inside.anchor)
    if "://" not in place:
        return Store(str(Path(place).absolute() / inside), raises)
    found = Store(f"{place.rstrip('/')}/{inside.as_posix()}", raises)
    try:
        found._system.exists(found.place)
    # Each kind of store has errors of its own.
    except Exception as error:  # noqa: BLE001
        said = " ".join(str(error).split()) or type(error).__name__
        msg = (
            f"compute.store {place} cannot be used ({said}). s3:// needs the packages of "
            "requirements-dask.txt and credentials in the environment; or take a folder."
        )
        raise raises(msg) from None
    return found


def _made(
    store: Store, work: Callable[..., Arrays], shard: Shard, device: str | None = None
) -> None:
    # Another run may have been here since it was found missing.
    if store.read(shard) is None:
        options = {} if device is None else {"device": device}
        store.write(shard, work(shard.task, **options))


def unwritten(path: Path | str, error: OSError) -> str:
    """Return what is said of a file that could not be written."""
    return (
        f"{path} could not be written ({error.strerror or error}). "
        "Free disk space and run again: finished shards are kept."
    )
