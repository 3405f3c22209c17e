"""Write every output whole or not at all, and name files by their content.

What is unfinished lies in a folder ``.NAME.*.partial`` beside the output. A run that was killed
leaves it behind; whoever writes that output next removes it, and git and DVC never look at it.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

log = logging.getLogger("stages")

CHUNK_BYTES = 1 << 20
PARTIAL = ".partial"
"""How the folders of unfinished outputs end; .gitignore and .dvcignore name it too."""
FOLDER_MARK = ".dir"
"""Ends the hash of a folder, which DVC takes over the list of its files."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# HDF5, and what gathers several errors into one, have the number in the text alone.
_NUMBER = re.compile(r"\berrno (?:= )?(\d+)", flags=re.IGNORECASE)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; move it into place when the block ends without an error.

    Parameters
    ----------
    path
        The final name. Its folder is made if it is missing.

    Yields
    ------
    Path
        A name in the same folder, with the same suffix, that the block writes a file to.

    Raises
    ------
    OSError
        With the name of `path` if the disk is full, whatever the block raised.
    """
    with _beside(path) as folder:
        temporary = folder / path.name
        yield temporary
        os.replace(temporary, path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder; it takes the place of `path` when the block ends well.

    Parameters
    ----------
    path
        The final name. Its parent is made if it is missing; a folder of that name is replaced.

    Yields
    ------
    Path
        The folder that the block fills.

    Raises
    ------
    OSError
        With the name of `path` if the disk is full, whatever the block raised.
    """
    with _beside(path) as scratch:
        folder = scratch / path.name
        folder.mkdir()
        yield folder
        if path.exists():
            shutil.rmtree(path)
        folder.rename(path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`, after removing those that killed runs left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}."
    # Nobody makes such a folder while another looks which of them are held.
    with _holding(path.parent):
        for left in list(path.parent.iterdir()):
            if left.name.startswith(prefix) and left.name.endswith(PARTIAL) and _is_free(left):
                shutil.rmtree(left, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=PARTIAL, dir=path.parent))
        stack = ExitStack()
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        stack.enter_context(_holding(temporary))
    with stack:
        try:
            yield temporary
        except (OSError, RuntimeError) as error:
            number = disk_full(error)
            if number is None:
                raise
            raise OSError(number, os.strerror(number), str(path)) from error


def disk_full(error: BaseException | None) -> int | None:
    """Return the number of the error if it says that a disk or a quota is full.

    >>> disk_full(OSError(28, "No space left on device"))
    28
    >>> disk_full(RuntimeError("Can't close file (file write failed: errno = 28, ...)"))
    28
    >>> disk_full(PermissionError(13, "Permission denied"))
    """
    numbers = [getattr(error, "errno", None), *map(int, _NUMBER.findall(str(error)))]
    return next((number for number in numbers if number in DISK_FULL), None)


@contextmanager
def _holding(folder: Path) -> Iterator[None]:
    """Hold a folder, waiting for who holds it; where a file system knows no locks, go on without.

    A process that is killed lets go by itself.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def only_one(path: Path, busy: str, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock file against other processes; who finds it held says so and waits.

    DVC leaves a stage running when it is itself killed, and starts another beside it. A process
    that is killed lets go by itself. The file stays: were it deleted, one that waits on the deleted
    file and another with a new one would run side by side.

    Parameters
    ----------
    path
        The lock file; its folder is made if it is missing.
    busy
        What is said before waiting.
    shared
        Whether others that share it may hold it as well.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with path.open("a") as held:
        try:
            fcntl.flock(held, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s", busy)
            fcntl.flock(held, kind)
        yield


def _is_free(folder: Path) -> bool:
    """Return whether nobody holds a folder; False if it is gone or that cannot be told."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with Unix line ends, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file's bytes, read in pieces."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def folder_hash(files: Mapping[str, str]) -> str:
    """Return what DVC calls a folder: the md5 of the list of its files, and ``.dir``.

    Parameters
    ----------
    files
        md5 by the name of each file, from the folder on, with slashes.

    Examples
    --------
    >>> folder_hash({"x": "0cc175b9c0f1b6a831c399e269772661"})
    '1bb104d3614a4bbe3a96117b7a394b99.dir'
    """
    listing = json.dumps([{"md5": files[name], "relpath": name} for name in sorted(files)])
    return hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + FOLDER_MARK
