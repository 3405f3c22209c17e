"""Make one output of the catalogue: fetch or find the file, check it, remember it, put it in place.

`data/downloads` holds what is unfinished (``<filename>.part``) and what a person put there by hand
(``<filename>``), outside DVC's outputs, which are deleted before a stage starts. Archives stay
there after unpacking, so that another entry of the catalogue can unpack other members of the same.
"""

import argparse
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stages.base.errors import AtlasError, DownloadError
from stages.base.files import atomic_path, only_one
from stages.inputs.published import archives, checks, checksums
from stages.inputs.published.checksums import CATALOGUE, FIGSHARE_API
from stages.inputs.published.download import (
    DELAYS_S,
    ResumingDownloader,
    TransferError,
    discard,
    read_state,
    state_path,
)
from stages.inputs.settings import RemoteFile

log = logging.getLogger("stages")

BY_HAND = "put there by hand"
_MEMBER_FORMATS: dict[str, checks.Format] = {".h5ad": "h5ad", ".csv": "csv"}


@dataclass(frozen=True)
class Places:
    """Where things lie that are not the output, and how patient to be."""

    downloads: Path
    checksums: Path
    delays_s: Sequence[float] = DELAYS_S
    sleep: Callable[[float], None] = time.sleep
    figshare_api: str = FIGSHARE_API
    catalogue: str = CATALOGUE
    """Where checksums are pinned, as errors name it."""
    change_out: str = "change `out` in conf/atlas/"
    """How a person moves the output, as errors say it."""


def add_places(arguments: argparse.ArgumentParser) -> None:
    """Add ``--downloads`` and ``--checksums``, two of the :class:`Places`."""
    arguments.add_argument(
        "--downloads",
        type=Path,
        default=Path("data/downloads"),
        help="unfinished downloads, and files put there by hand (default: %(default)s)",
    )
    arguments.add_argument(
        "--checksums",
        type=Path,
        default=Path("data/checksums.json"),
        help="what was learned on the first download (default: %(default)s)",
    )


def fetch(file: RemoteFile, places: Places) -> None:
    """Make ``file.out``: the file itself, or for an archive a folder with the wanted members.

    An archive whose `out` ends in ``.h5ad`` or ``.csv`` gives that one file; exactly one member
    must then match.

    Raises
    ------
    DownloadError
        No address gave a file that passes the checks, or the output cannot be written.
    AtlasError
        A file put by hand or an archive's content is not what it should be, or checksums disagree.
    """
    _check_writable(file.out, places)
    with _alone(file.filename, places.downloads):
        known = checksums.expected(
            file,
            places.checksums,
            figshare_api=places.figshare_api,
            catalogue=places.catalogue,
        )
        if _made_meanwhile(file, known):
            log.info(
                "%s: %s is there already and has the recorded checksums", file.filename, file.out
            )
            return
        path = _by_hand(file, known, places)
        mine = path is None
        if path is None:
            path = _download(file, known, places)
        _put(file, path, places, own=mine)


def _check_writable(out: Path, places: Places) -> None:
    """Try to write beside `out` now, not after gigabytes have come."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        msg = (
            f"cannot write {out}: the folder {out.parent} does not allow it ({error.strerror}). "
            f"Nothing was downloaded. Make it writable, or {places.change_out}."
        )
        raise DownloadError(msg) from None


@contextmanager
def _alone(filename: str, downloads: Path) -> Iterator[None]:
    """Hold a file against other processes, which wait for it."""
    lock = downloads / f"{filename}.lock"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        msg = (
            f"cannot write {lock} ({error.strerror}). "
            f"Make {downloads} writable or name another folder with --downloads."
        )
        raise DownloadError(msg) from None
    busy = f"{filename}: another process is downloading it ({lock} is held); waiting"
    with only_one(lock, busy):
        yield


def _made_meanwhile(file: RemoteFile, known: Sequence[checks.Expected]) -> bool:
    """Tell whether the output is there with known checksums, made by the process waited for."""
    hashes = [one for one in known if one.sha256 or one.md5]
    if file.format not in _MEMBER_FORMATS.values() or not hashes or not file.out.is_file():
        return False
    try:
        _compare(checks.measure(file.out), known)
    except AtlasError:
        return False
    return True


def _compare(digests: checks.Digests, known: Sequence[checks.Expected]) -> None:
    for one in known:
        checks.check_digests(digests, one)


def _verified(path: Path, file: RemoteFile, known: Sequence[checks.Expected]) -> checks.Digests:
    """Check content, then size and checksums: content first, as it says what came instead."""
    checks.check_content(path, file.format)
    digests = checks.measure(path)
    _compare(digests, known)
    return digests


def _record(file: RemoteFile, digests: checks.Digests, url: str, places: Places) -> None:
    lock = places.downloads / "checksums.lock"
    checksums.record(places.checksums, file.filename, digests, url=url, lock=lock)


def _by_hand(file: RemoteFile, known: Sequence[checks.Expected], places: Places) -> Path | None:
    """Return the file that a person (or an earlier unpacking) put into the downloads, checked."""
    path = places.downloads / file.filename
    if not path.exists():
        return None
    log.info("%s: checking the file at %s", file.filename, path)
    try:
        digests = _verified(path, file, known)
    except AtlasError as error:
        msg = (
            f"{path} cannot be used: {error}. "
            f"Replace it by the file of {_origin(file, places)}, or delete it."
        )
        raise AtlasError(msg) from None
    _record(file, digests, BY_HAND, places)
    return path


def _origin(file: RemoteFile, places: Places) -> str:
    return checksums.addresses(file, figshare_api=places.figshare_api)[0]


def _download(file: RemoteFile, known: Sequence[checks.Expected], places: Places) -> Path:
    """Fetch from the first address whose file passes the checks; return the verified part."""
    part = places.downloads / f"{file.filename}.part"
    size = next((one.size_bytes for one in known if one.size_bytes), None)
    downloader = ResumingDownloader(size_bytes=size, delays_s=places.delays_s, sleep=places.sleep)
    reasons = []
    for url in checksums.addresses(file, figshare_api=places.figshare_api):
        try:
            downloader.complete(url, part)
            state = read_state(part)
            digests = _verified(part, file, known)
        except TransferError as error:
            reasons.append(f"{url} ({error})")
        except AtlasError as error:
            # What is wrong from its first byte to its last is of no use to a resume.
            discard(part)
            reasons.append(f"{url} ({error}; what came was deleted)")
        except OSError as error:
            msg = (
                f"cannot write {part} ({error.strerror or error}). Check free space and "
                "permissions and run again; it goes on from where it stopped."
            )
            raise DownloadError(msg) from None
        else:
            # A part that an earlier run completed may come from another address.
            _record(file, digests, state.url if state else url, places)
            return part
    msg = (
        f"could not fetch {file.filename} from {', nor from '.join(reasons)}. "
        f"Download it by hand and put it at {places.downloads / file.filename}; "
        "it is checked and used from there."
    )
    raise DownloadError(" ".join(msg.split()))


def _put(file: RemoteFile, path: Path, places: Places, *, own: bool) -> None:
    """Move, copy or unpack a verified file to its output, whole or not at all."""
    try:
        if file.format in {"tar", "zip"}:
            if own:
                kept = path.with_name(file.filename)
                os.replace(path, kept)
                state_path(path).unlink(missing_ok=True)
                path = kept
            _unpack(file, path)
        else:
            # A link would share its bytes with DVC's cache, which takes over the output: whoever
            # changed the file in the downloads later would change the cache unseen. It is copied.
            _place(path, file.out, places, own=own)
            if own:
                state_path(path).unlink(missing_ok=True)
    except OSError as error:
        msg = (
            f"cannot write {file.out} ({error.strerror or error}). "
            f"The verified file is kept at {path}; "
            f"make room or {places.change_out} and run again."
        )
        raise DownloadError(msg) from None
    log.info("%s: verified, at %s", file.filename, file.out)


def _place(path: Path, out: Path, places: Places, *, own: bool) -> None:
    if out.is_dir():
        msg = f"{out} is a folder, the output is a file. Move it away or {places.change_out}."
        raise DownloadError(msg)
    if own and path.stat().st_dev == out.parent.stat().st_dev:
        os.replace(path, out)
        return
    with atomic_path(out) as temporary:
        shutil.copyfile(path, temporary)
    if own:
        path.unlink()


def _unpack(file: RemoteFile, path: Path) -> None:
    """Unpack beside the output and move the finished folder, or the one wanted file, into place."""
    out = file.out
    kind: Literal["tar", "zip"] = "tar" if file.format == "tar" else "zip"
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        fresh = Path(folder) / "new"
        fresh.mkdir()
        try:
            written = archives.unpack(path, fresh, kind=kind, patterns=file.members)
            wanted = _MEMBER_FORMATS.get(out.suffix)
            if wanted is None:
                ready = fresh
            elif len(written) == 1:
                ready = written[0]
                checks.check_content(ready, wanted)
            else:
                names = ", ".join(member.relative_to(fresh).as_posix() for member in written[:5])
                msg = (
                    f"{len(written)} members match, but out is one file; the first: {names}. "
                    "Narrow `members` in conf/atlas/"
                )
                raise AtlasError(msg)  # noqa: TRY301 - every fault of an archive is named with it below
        except AtlasError as error:
            msg = f"{path}: {error}."
            raise AtlasError(msg) from None
        if out.exists() and (out.is_dir() or ready.is_dir()):
            os.replace(out, Path(folder) / "old")
        os.replace(ready, out)
