"""Finished parts of a harvest, which a killed run goes on from (:mod:`stages.base.shards`)."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.base import shards
from stages.base.errors import RepresentationError
from stages.base.files import only_one
from stages.base.shards import Arrays


@dataclass(frozen=True)
class Shards:
    """A folder of finished parts of one harvest."""

    folder: Path
    decides: Mapping[str, Any]
    """What decides the numbers of all of them."""

    def key(self, part: slice) -> str:
        """Return the sha256 that names what was made of some sequences."""
        return shards.key_of(dict(self.decides) | {"sequences": [part.start, part.stop]})

    def path(self, part: slice) -> Path:
        """Return where the shard of some sequences lies or will lie."""
        return self.folder / f"{part.start:08d}-{self.key(part)[:24]}.npz"

    def read(self, part: slice) -> Arrays | None:
        """Return a shard; none if it is not there or damaged."""
        return shards.read(self.path(part), self.key(part))

    def write(self, part: slice, arrays: Arrays) -> None:
        """Write a shard, whole or not at all.

        Raises
        ------
        RepresentationError
            The disk is full or the folder cannot be written to.
        """
        shards.write(self.path(part), self.key(part), arrays, raises=RepresentationError)

    def forget(self, part: slice) -> None:
        """Remove a shard that a later one makes superfluous."""
        self.path(part).unlink(missing_ok=True)

    def alone(self) -> AbstractContextManager[None]:
        """Hold the folder; a second run says so and waits."""
        busy = f"another run works in {self.folder}; waiting for it to end"
        return only_one(self.folder / "lock", busy)
