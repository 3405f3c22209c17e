"""Unpack the wanted members of an archive, and only names that stay below the output folder."""

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, Literal, Protocol

from stages.base.errors import AtlasError
from stages.base.files import CHUNK_BYTES

SHOWN_NAMES = 5


@dataclass(frozen=True)
class Member:
    """One entry of an archive."""

    name: str
    regular: bool
    folder: bool


class _Archive(Protocol):
    def members(self) -> list[Member]: ...

    def open(self, name: str) -> IO[bytes]: ...


class _Tar:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def members(self) -> list[Member]:
        return [
            Member(name=info.name, regular=info.isreg(), folder=info.isdir())
            for info in self._tar.getmembers()
        ]

    def open(self, name: str) -> IO[bytes]:
        file = self._tar.extractfile(name)
        if file is None:
            msg = f"{name!r} is no regular file"
            raise AtlasError(msg)
        return file


class _Zip:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def members(self) -> list[Member]:
        found = []
        for info in self._archive.infolist():
            # Archives made on Unix keep the file type in the upper half; 0: not said, a plain file.
            kind = (info.external_attr >> 16) & 0o170000
            folder = info.is_dir()
            found.append(
                Member(
                    # ZipInfo.filename ends at a NUL; it is the whole name that must be safe.
                    name=info.orig_filename,
                    regular=not folder and kind in {0, 0o100000},
                    folder=folder,
                )
            )
        return found

    def open(self, name: str) -> IO[bytes]:
        return self._archive.open(name)


@contextmanager
def _opened(path: Path, kind: Literal["tar", "zip"]) -> Iterator[_Archive]:
    if kind == "tar":
        with tarfile.open(path) as tar:
            yield _Tar(tar)
    else:
        with zipfile.ZipFile(path) as archive:
            yield _Zip(archive)


def safe_name(name: str) -> PurePosixPath:
    r"""Return the relative path of a member, if it stays below the folder it is unpacked to.

    Raises
    ------
    AtlasError
        An absolute name, a drive letter, a backslash, a control character or a ``..``.

    >>> safe_name("a/b.tsv").as_posix()
    'a/b.tsv'
    """
    path = PurePosixPath(name)
    bad = (
        not path.parts
        or path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or ":" in path.parts[0]
        or any(ord(letter) < ord(" ") for letter in name)
    )
    if bad:
        msg = (
            f"member {name!r} would be written outside the output folder; only relative names "
            "without '..' are unpacked. Do not use this archive"
        )
        raise AtlasError(msg)
    return path


def _wanted(members: Sequence[Member], patterns: Sequence[str]) -> list[Member]:
    """Return the members that a pattern matches, by whole name or last part; each must match."""
    files = [member for member in members if not member.folder]
    if not patterns:
        return files

    def matches(member: Member, pattern: str) -> bool:
        last = member.name.rsplit("/", 1)[-1]
        return fnmatchcase(member.name, pattern) or fnmatchcase(last, pattern)

    for pattern in patterns:
        if not any(matches(member, pattern) for member in files):
            names = ", ".join(repr(member.name) for member in files[:SHOWN_NAMES]) or "none"
            msg = (
                f"no member matches {pattern!r}; it has {len(files)} files, the first: {names}. "
                "Correct `members` of this file in conf/atlas/"
            )
            raise AtlasError(msg)
    return [member for member in files if any(matches(member, pattern) for pattern in patterns)]


def unpack(
    path: Path, folder: Path, *, kind: Literal["tar", "zip"], patterns: Sequence[str] = ()
) -> list[Path]:
    """Unpack the files whose names match into an empty `folder`, keeping their relative paths.

    Parameters
    ----------
    path
        The archive.
    folder
        Where to; the caller moves it into place when all of it is there.
    kind
        Which archive it is.
    patterns
        fnmatch patterns of whole names or last parts; none: all files.

    Returns
    -------
    list of Path
        What was written, in the order of the archive.

    Raises
    ------
    AtlasError
        An unsafe name, a link or device among the wanted, two members of one name, a pattern that
        matches nothing, or damaged data.
    """
    written: list[Path] = []
    try:
        with _opened(path, kind) as archive:
            chosen = _wanted(archive.members(), patterns)
            for member in chosen:
                target = folder / safe_name(member.name)
                if not member.regular:
                    msg = f"member {member.name!r} is a link or device, not a regular file"
                    raise AtlasError(msg)
                if target in written:
                    msg = f"member {member.name!r} stands in it twice; only one could be kept"
                    raise AtlasError(msg)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member.name) as source, target.open("xb") as sink:
                    shutil.copyfileobj(source, sink, CHUNK_BYTES)
                written.append(target)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:
        # RuntimeError: zipfile's word for an encrypted member.
        msg = f"it cannot be unpacked ({error})"
        raise AtlasError(msg) from None
    if not written:
        msg = "it holds no files"
        raise AtlasError(msg)
    return written
