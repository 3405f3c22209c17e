"""Finished work that a killed run goes on from: arrays in a file, named by what decides them.

A shard appears whole or not at all, carries a sha256 of everything that decides its numbers, and
lies outside what DVC tracks.
"""

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.base.errors import StageError
from stages.base.files import atomic_path

log = logging.getLogger("stages")

Arrays = dict[str, npt.NDArray[Any]]
KEY = "key"


def key_of(decides: Mapping[str, Any]) -> str:
    """Return the sha256 of what decides the numbers of a shard."""
    return hashlib.sha256(json.dumps(dict(decides), sort_keys=True).encode()).hexdigest()


def read(path: Path, key: str, *, fault: Callable[[Arrays], str] = lambda _: "") -> Arrays | None:
    """Return a shard; none if it is not there or damaged: its bytes are checked.

    A damaged shard is named and removed; it is computed again.

    Parameters
    ----------
    key
        Of what decides its numbers.
    fault
        Says what is wrong with the arrays; nothing if they are what they should be.
    """
    if not path.exists():
        return None
    try:
        # A file of its own: np.load leaves one open that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        said = " ".join(str(error).split()) or type(error).__name__
    else:
        other = str(arrays.pop(KEY, "")) != key
        said = "it belongs to another run" if other else fault(arrays)
        if not said:
            return arrays
    log.warning("%s is damaged (%s); it is computed again", path, said)
    path.unlink(missing_ok=True)
    return None


def write(path: Path, key: str, arrays: Arrays, *, raises: type[StageError] = StageError) -> None:
    """Write a shard, whole or not at all.

    Raises
    ------
    StageError
        The disk is full or the folder cannot be written to; of the kind `raises`.
    """
    try:
        with atomic_path(path) as temporary:
            named: dict[str, Any] = {KEY: np.array(key), **arrays}
            np.savez(temporary, **named)
    except OSError as error:
        raise raises(unwritten(path, error)) from None


def unwritten(path: Path, error: OSError) -> str:
    """Return what is said of a file that could not be written."""
    return (
        f"{path} could not be written ({error.strerror or error}). "
        "Free disk space and run again: finished shards are kept."
    )
