"""Finished work that a killed run goes on from: arrays, named by what decides them.

A shard's name carries a sha256 of everything that decides its numbers, it appears whole or not at
all, and it lies outside what DVC tracks. (As the sweeps of the room `heads` keep theirs.)
"""

import fcntl
import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.base import cli
from stages.base.errors import RepresentationError
from stages.base.files import atomic_path, file_hash
from stages.models.load import config_file, weight_files

Arrays = dict[str, npt.NDArray[Any]]


def fingerprint(checkpoint: Path) -> str:
    """Return a sha256 over the weight files of a checkpoint and what describes them."""
    digest = hashlib.sha256()
    for file in [config_file(checkpoint), *weight_files(checkpoint)]:
        digest.update(f"{file.name} {file_hash(file)}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Shards:
    """A folder of finished parts of one harvest."""

    folder: Path
    decides: Mapping[str, Any]
    """What decides the numbers of all of them."""

    def key(self, part: slice) -> str:
        """Return the sha256 that names what was made of some sequences."""
        content = dict(self.decides) | {"sequences": [part.start, part.stop]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def path(self, part: slice) -> Path:
        """Return where the shard of some sequences lies or will lie."""
        return self.folder / f"{part.start:08d}-{self.key(part)[:24]}.npz"

    def read(self, part: slice) -> Arrays | None:
        """Return a shard; none if it is not there or damaged: its bytes are checked.

        A damaged shard is named and removed; it is computed again.
        """
        path = self.path(part)
        if not path.exists():
            return None
        try:
            # A file of its own: np.load leaves one open that it cannot read.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            fault = " ".join(str(error).split()) or type(error).__name__
        else:
            if str(arrays.pop("key", "")) == self.key(part):
                return arrays
            fault = "it belongs to another run"
        cli.log.warning("%s is damaged (%s); it is computed again", path, fault)
        path.unlink(missing_ok=True)
        return None

    def write(self, part: slice, arrays: Arrays) -> None:
        """Write a shard, whole or not at all.

        Raises
        ------
        RepresentationError
            The disk is full or the folder cannot be written to.
        """
        path = self.path(part)
        try:
            with atomic_path(path) as temporary:
                named: dict[str, Any] = {"key": np.array(self.key(part)), **arrays}
                np.savez(temporary, **named)
        except OSError as error:
            msg = (
                f"{path} could not be written ({error.strerror or error}). "
                "Free disk space and run again: finished shards are kept."
            )
            raise RepresentationError(msg) from None

    def forget(self, part: slice) -> None:
        """Remove a shard that a later one makes superfluous."""
        self.path(part).unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder; a second run says so and waits.

        DVC leaves a stage running when it is itself killed, and starts another beside it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # Held as long as the file is open; a killed process lets go by itself.
        with (self.folder / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                cli.log.info("another run works in %s; waiting for it to end", self.folder)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
