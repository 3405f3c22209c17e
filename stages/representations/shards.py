"""Finished parts of a harvest, which a killed run goes on from (:mod:`stages.compute.shards`)."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stages.base.errors import RepresentationError
from stages.base.files import only_one
from stages.compute import shards
from stages.compute.shards import Arrays, Shard, Store


@dataclass(frozen=True)
class Shards:
    """Where the finished parts of one harvest lie."""

    folder: Path
    decides: Mapping[str, Any]
    """What decides the numbers of all of them."""

    @cached_property
    def store(self) -> Store:
        """Return where they lie, which need not be the folder."""
        return shards.store(self.folder, raises=RepresentationError)

    def shard(self, part: slice) -> Shard:
        """Return the shard of some sequences."""
        key = shards.key_of(dict(self.decides) | {"sequences": [part.start, part.stop]})
        return Shard(f"{part.start:08d}", key, part)

    def read(self, part: slice) -> Arrays | None:
        """Return a shard; none if it is not there or damaged."""
        return self.store.read(self.shard(part))

    def write(self, part: slice, arrays: Arrays) -> None:
        """Write a shard, whole or not at all.

        Raises
        ------
        RepresentationError
            The disk is full or the folder cannot be written to.
        """
        self.store.write(self.shard(part), arrays)

    def forget(self, part: slice) -> None:
        """Remove a shard that a later one makes superfluous."""
        self.store.forget(self.shard(part))

    def alone(self) -> AbstractContextManager[None]:
        """Hold the folder; a second run says so and waits."""
        busy = f"another run works in {self.folder}; waiting for it to end"
        return only_one(self.folder / "lock", busy)
