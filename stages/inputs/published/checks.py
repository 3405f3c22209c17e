"""Say what must be true of the bytes: size, checksums, and that they are what they are called."""

import hashlib
import re
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py

from stages.base.errors import AtlasError
from stages.base.files import CHUNK_BYTES

Format = Literal["h5ad", "csv", "tar", "zip"]

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
TAR_BLOCK = 512
_HEAD_BYTES = 4096
_PAGE = re.compile(rb"\s*<[A-Za-z!?]")


@dataclass(frozen=True)
class Digests:
    """What was measured on a file."""

    size_bytes: int
    md5: str
    sha256: str


@dataclass(frozen=True)
class Expected:
    """What is known of a file beforehand, and where it is said."""

    source: str
    size_bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None


def measure(path: Path) -> Digests:
    """Return size, md5 and sha256 of a file, read once."""
    md5 = hashlib.md5(usedforsecurity=False)
    sha256 = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            md5.update(chunk)
            sha256.update(chunk)
            size += len(chunk)
    return Digests(size_bytes=size, md5=md5.hexdigest(), sha256=sha256.hexdigest())


def check_digests(digests: Digests, expected: Expected) -> None:
    """Compare what was measured with what is known; a value that is not known is not compared.

    Raises
    ------
    AtlasError
        The first of size, sha256 and md5 that differs, with both values and who says so.
    """
    for what in ("size_bytes", "sha256", "md5"):
        known, got = getattr(expected, what), getattr(digests, what)
        if known is not None and known != got:
            msg = f"its {what} is {got}, but {expected.source} says {known}"
            raise AtlasError(msg)


def looks_like_html(head: bytes) -> bool:
    r"""Tell whether bytes begin as a web page (or another XML answer) does.

    >>> looks_like_html(b"\n<!DOCTYPE html><html>"), looks_like_html(b"cell,age\n")
    (True, False)

    Weights may begin with a length whose bytes are a space and this sign:

    >>> looks_like_html((15392).to_bytes(8, "little") + b'{"__metadata__"')
    False
    """
    return _PAGE.match(head.removeprefix(b"\xef\xbb\xbf")) is not None


def check_content(path: Path, kind: Format) -> None:
    """Check that a file is what its format says, whole and readable.

    Raises
    ------
    AtlasError
        It is empty, a web page, of another format, or truncated; the caller names the file.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        msg = "it is empty (0 bytes)"
        raise AtlasError(msg)
    if looks_like_html(head):
        msg = f"it is an HTML page, not the {kind} file: it begins with {_shown(head)}"
        raise AtlasError(msg)
    match kind:
        case "h5ad":
            _check_h5ad(path, head)
        case "csv":
            _check_csv(head)
        case "tar":
            _check_tar(path, head)
        case "zip":
            _check_zip(path, head)


def _shown(head: bytes) -> str:
    return repr(" ".join(head[:32].decode("ascii", errors="replace").split()))


def _check_h5ad(path: Path, head: bytes) -> None:
    if not head.startswith(HDF5_MAGIC):
        msg = f"it is no HDF5 file (h5ad): it begins with {_shown(head)}"
        raise AtlasError(msg)
    try:
        with h5py.File(path, "r") as file:
            # A group in today's layout, a compound dataset in the legacy one: both are read later.
            has_obs = "obs" in file
    except OSError as error:
        sizes = re.search(r"truncated file: eof = (\d+),.* stored_eof = (\d+)", str(error))
        what = (
            f"it is truncated: {sizes[1]} bytes, but its own header says {sizes[2]}"
            if sizes
            else f"HDF5 cannot open it ({error})"
        )
        raise AtlasError(what) from None
    if not has_obs:
        msg = "it is HDF5 but no h5ad: it has no table of cells (obs)"
        raise AtlasError(msg)


def _check_csv(head: bytes) -> None:
    first, newline, _ = head.partition(b"\n")
    if b"\0" in head or b"," not in first or (len(head) == _HEAD_BYTES and not newline):
        msg = f"it is no CSV file: it begins with {_shown(head)}"
        raise AtlasError(msg)


def _check_tar(path: Path, head: bytes) -> None:
    try:
        with tarfile.open(path) as tar:
            tar.getmembers()
            # tarfile takes a missing end for the end; a whole archive ends with a zero block.
            file = tar.fileobj
            if file is None:
                msg = "it cannot be read as a tar archive"
                raise AtlasError(msg)
            file.seek(tar.offset)
            whole = file.read(TAR_BLOCK) == bytes(TAR_BLOCK)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        msg = f"it is no whole tar archive ({error}): it begins with {_shown(head)}"
        raise AtlasError(msg) from None
    if not whole:
        msg = (
            f"it is a truncated tar archive: {path.stat().st_size} bytes without the closing block"
        )
        raise AtlasError(msg)


def _check_zip(path: Path, head: bytes) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        msg = f"it is no whole zip archive ({error}): it begins with {_shown(head)}"
        raise AtlasError(msg) from None
    if not names:
        msg = "it is a zip archive without members"
        raise AtlasError(msg)
