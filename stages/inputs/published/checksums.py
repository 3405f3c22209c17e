"""What is known of a file's bytes: pinned in ``conf/``, learned at first, or said by figshare."""

import fcntl
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import requests

from stages.base.errors import AtlasError, DownloadError
from stages.base.files import write_text
from stages.inputs.published.checks import Digests, Expected
from stages.inputs.settings import RemoteFile

log = logging.getLogger("stages")

FIGSHARE_API = "https://api.figshare.com/v2"
FIGSHARE_FILES = "https://ndownloader.figshare.com/files"
CATALOGUE = "conf/atlas/"
"""Where checksums are pinned, unless a caller says otherwise."""
_API_TIMEOUT_S = (5, 20)


def read(path: Path) -> dict[str, dict[str, str | int]]:
    """Read the lock file: size_bytes, md5, sha256 and url by file name; a missing file is empty.

    Raises
    ------
    AtlasError
        It is no such JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, UnicodeDecodeError) as error:
        msg = f"{path} is not JSON ({error}). Restore it with git checkout {path}."
        raise AtlasError(msg) from None
    if not isinstance(content, dict) or not all(
        isinstance(entry, dict) for entry in content.values()
    ):
        msg = f"{path} does not map file names to checksums. Restore it with git checkout {path}."
        raise AtlasError(msg)
    return content


def record(path: Path, filename: str, digests: Digests, *, url: str, lock: Path) -> None:
    """Add what was learned of a file, atomically; an entry that is there stays as it is.

    Parameters
    ----------
    path
        The lock file of checksums.
    filename
        The file they belong to.
    digests
        What was measured.
    url
        Where the bytes came from.
    lock
        A file that several processes hold in turn, so that none loses another's entry.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        entries = read(path)
        if filename in entries:
            return
        entries[filename] = asdict(digests) | {"url": url}
        write_text(path, json.dumps(entries, indent=2, sort_keys=True) + "\n")
    log.info("%s: learned sha256 %s, recorded in %s", filename, digests.sha256, path)


def expected(
    file: RemoteFile,
    checksums: Path,
    *,
    figshare_api: str = FIGSHARE_API,
    catalogue: str = CATALOGUE,
) -> list[Expected]:
    """Return all that is known of a file's bytes, each with who says so.

    figshare is asked only when neither ``conf/`` nor the lock file knows a checksum. `catalogue` is
    the place in ``conf/`` that errors name.

    Raises
    ------
    AtlasError
        ``conf/`` and the lock file disagree, or figshare lists the number under another name.
    """
    known = []
    pinned = Expected(
        source=catalogue, size_bytes=file.size_bytes, md5=file.md5, sha256=file.sha256
    )
    if entry := read(checksums).get(file.filename):
        learned = _learned(entry, file.filename, checksums)
        _agree(pinned, learned, file.filename)
        known.append(learned)
    known.insert(0, pinned)
    has_hash = any(one.md5 or one.sha256 for one in known)
    if not has_hash and file.figshare is not None:
        told = ask_figshare(file, figshare_api=figshare_api)
        if told is not None:
            known.append(told)
    return known


def _learned(entry: dict[str, str | int], filename: str, checksums: Path) -> Expected:
    size, md5, sha256 = entry.get("size_bytes"), entry.get("md5"), entry.get("sha256")
    if not isinstance(size, int) or not isinstance(md5, str) or not isinstance(sha256, str):
        msg = (
            f"{checksums} has no size_bytes, md5 and sha256 for {filename}. "
            "Delete its entry; it is learned again."
        )
        raise AtlasError(msg)
    return Expected(source=str(checksums), size_bytes=size, md5=md5, sha256=sha256)


def _agree(pinned: Expected, learned: Expected, filename: str) -> None:
    checksums = learned.source
    for what in ("size_bytes", "sha256", "md5"):
        ours, theirs = getattr(pinned, what), getattr(learned, what)
        if ours is not None and ours != theirs:
            msg = (
                f"{filename}: {pinned.source} pins {what} {ours}, "
                f"but {checksums} learned {theirs}. "
                f"The pin counts: if it is right, delete the entry of {filename} in {checksums}; "
                "if not, correct the pin."
            )
            raise AtlasError(msg)


def ask_figshare(file: RemoteFile, *, figshare_api: str = FIGSHARE_API) -> Expected | None:
    """Ask figshare for size and md5 of a file; None if it cannot say.

    Raises
    ------
    DownloadError
        figshare lists the number under another file name: the catalogue is wrong.
    """
    if file.figshare is None:
        return None
    place = file.figshare
    article = f"{figshare_api}/articles/{place.article}"
    entry = None
    # The list of a version may be cut to its first page; a file can then be asked for by number.
    for url in (f"{article}/versions/{place.version}", f"{article}/files/{place.id}"):
        entry = _listed(url, place.id)
        if entry is not None:
            break
    if entry is None:
        log.info("figshare did not say the checksum of %s; it will be learned", file.filename)
        return None
    if entry.get("name") != file.filename:
        msg = (
            f"figshare article {place.article} v{place.version} lists file {place.id} as "
            f"{entry.get('name')!r}, not {file.filename!r}. "
            "Correct figshare.id or filename in conf/atlas/."
        )
        raise DownloadError(msg)
    return Expected(
        source=f"figshare article {place.article} v{place.version}",
        size_bytes=entry.get("size") or None,
        md5=entry.get("computed_md5") or None,
    )


def _listed(url: str, number: int) -> dict[str, Any] | None:
    """Return figshare's entry of one file: the answer itself, or one of its ``files``."""
    try:
        # Not redirected: a checksum that came by another way than asked for proves nothing.
        answer = requests.get(
            url,
            timeout=_API_TIMEOUT_S,
            headers={"Accept": "application/json"},
            allow_redirects=False,
        )
        if answer.status_code != requests.codes.ok:
            return None
        content = answer.json()
    except (requests.RequestException, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    for entry in content.get("files", [content]):
        if isinstance(entry, dict) and entry.get("id") == number:
            return entry
    return None


def addresses(file: RemoteFile, *, figshare_api: str = FIGSHARE_API) -> list[str]:
    """Return where a file can be fetched from, best first.

    Never ``figshare.com/ndownloader``: its firewall answers programs with 202 and no bytes.
    """
    if file.figshare is None:
        return list(file.urls)
    number = file.figshare.id
    return [f"{FIGSHARE_FILES}/{number}", f"{figshare_api}/file/download/{number}", *file.urls]
