"""Move the bytes of one address into a part file, and resume where an earlier attempt stopped.

Pooch, the usual downloader here, accepts any successful status (figshare's firewall answers
programs with 202 and no bytes), gives each download a fresh temporary name, so that nothing can be
resumed, and replaces a file whose hash differs even if a person put it there. `ResumingDownloader`
therefore does the transfer itself. It has the signature of a pooch downloader, so that pooch can
use it: ``pooch.retrieve(..., downloader=ResumingDownloader(part=...))``.

Beside ``<part>`` lies ``<part>.json`` with the address, the validator (ETag or Last-Modified) and
the size that the server announced: a resume asks for the rest of that very version (``If-Range``),
so two versions are never spliced.
"""

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from tqdm import tqdm

from stages.base.errors import DownloadError
from stages.base.files import CHUNK_BYTES, write_text
from stages.inputs.published.checks import looks_like_html

log = logging.getLogger("stages")

DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Pauses before new attempts; they start anew when one got further than all before it."""

TIMEOUT_S = (10.0, 60.0)
"""Longest wait for a connection, and for the next bytes."""

# Small, because a piece that a cut connection leaves unfinished is lost and asked for again.
_PIECE_BYTES = 1 << 17
_TRANSIENT = frozenset({202, 408, 425, 429, 500, 502, 503, 504})
_PREAMBLE = re.compile(r"^(?:\S*Connection\(.*?\): )?(?:Failed to [^:]*: )?(?:\[Errno -?\d+\] )?")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class TransferError(DownloadError):
    """An address did not give the bytes.

    Parameters
    ----------
    reason
        Why, in words that fit into brackets.
    transient
        Whether asking again may help.
    unreached
        Whether there was no connection at all, as without a network.
    """

    def __init__(self, reason: str, *, transient: bool = False, unreached: bool = False) -> None:
        super().__init__(reason)
        self.transient = transient
        self.unreached = unreached


@dataclass(frozen=True)
class PartState:
    """What the server said of the file that a part belongs to."""

    url: str
    etag: str | None
    last_modified: str | None
    size_bytes: int | None

    def validator(self, url: str) -> str | None:
        """Return what makes a resume safe: a strong ETag, or from the same address the date."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified if url == self.url else None


def state_path(part: Path) -> Path:
    """Return where the state of a part lies."""
    return part.with_name(part.name + ".json")


def read_state(part: Path) -> PartState | None:
    """Return the state of a part; None if part or state is missing or cannot be understood."""
    if not part.is_file():
        return None
    try:
        return PartState(**json.loads(state_path(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def discard(part: Path) -> None:
    """Delete a part and its state."""
    part.unlink(missing_ok=True)
    state_path(part).unlink(missing_ok=True)


def is_complete(part: Path) -> bool:
    """Tell whether a part holds as many bytes as the server announced."""
    state = read_state(part)
    return state is not None and state.size_bytes == part.stat().st_size


def refuse_downgrade(url: str, target: str) -> None:
    """Refuse a redirect from https to anything else: the bytes could be changed on their way.

    Raises
    ------
    TransferError
        The redirect leaves https.
    """
    place = urljoin(url, target)
    if urlsplit(url).scheme == "https" and urlsplit(place).scheme != "https":
        msg = f"a redirect from https to {place} was refused"
        raise TransferError(msg)


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target: str | None = super().get_redirect_target(resp)
        if target is not None:
            refuse_downgrade(resp.url, target)
        return target


class ResumingDownloader:
    """Fetch a file over HTTP, with resume, retries and a progress bar.

    Parameters
    ----------
    part
        Where the unfinished file is kept; by default beside the output, with ``.part`` added.
    size_bytes
        The size the file must have, if it is known.
    delays_s
        Pauses between attempts, in seconds; as many new attempts as there are pauses.
    sleep
        Called with each pause.
    """

    def __init__(
        self,
        *,
        part: Path | None = None,
        size_bytes: int | None = None,
        delays_s: Sequence[float] = DELAYS_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._part = part
        self._size_bytes = size_bytes
        self._delays_s = tuple(delays_s)
        self._sleep = sleep

    def __call__(self, url: str, output_file: str, pooch: object = None) -> None:
        """Fetch `url` and move it to `output_file`: the signature that pooch calls."""
        output = Path(output_file)
        part = self._part or output.with_name(output.name + ".part")
        self.complete(url, part)
        os.replace(part, output)
        state_path(part).unlink(missing_ok=True)

    def complete(self, url: str, part: Path) -> None:
        """Bring `part` to its full length from `url`, going on from what it already holds.

        Raises
        ------
        TransferError
            The address did not give the file; the message is the reason.
        """
        part.parent.mkdir(parents=True, exist_ok=True)
        pauses = iter(self._delays_s)
        furthest = part.stat().st_size if part.exists() else 0
        attempts = 0
        while not is_complete(part):
            attempts += 1
            try:
                self._attempt(url, part)
            except TransferError as error:
                have = part.stat().st_size if part.exists() else 0
                if have >= furthest + CHUNK_BYTES:
                    furthest, pauses = have, iter(self._delays_s)
                # Who has no network learns it after two attempts, not after half a minute.
                offline = error.unreached and have == 0 and attempts > 1
                pause = next(pauses, None) if error.transient and not offline else None
                if pause is None:
                    raise
                log.info("%s: %s; trying again in %g s", part.stem, error, pause)
                self._sleep(pause)

    def _attempt(self, url: str, part: Path) -> None:
        """Ask once, and append what comes."""
        state = read_state(part)
        validator = state.validator(url) if state else None
        if validator is None:
            discard(part)
        have = part.stat().st_size if part.exists() else 0
        headers = {"Accept-Encoding": "identity", "User-Agent": "clonal-crystallization (requests)"}
        if have and validator:
            headers |= {"Range": f"bytes={have}-", "If-Range": validator}
        with _plain_reasons(), _Session() as session:
            response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S)
            with response:
                start, size = self._accept(response, have=have, state=state, part=part)
                self._receive(response, url=url, part=part, start=start, size=size)

    def _accept(
        self, response: requests.Response, *, have: int, state: PartState | None, part: Path
    ) -> tuple[int, int | None]:
        """Return where the coming bytes begin and how long the whole is, or refuse the answer."""
        status = response.status_code
        if status == requests.codes.ok:
            length = response.headers.get("Content-Length", "")
            # A full answer to a request for the rest: the file changed or ranges are unknown there.
            return 0, int(length) if length.isdigit() else None
        if status == requests.codes.partial_content:
            span = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            total = int(span[3]) if span and span[3] != "*" else None
            known = state.size_bytes if state else None
            if not have or not span or int(span[1]) != have or (known and total and known != total):
                discard(part)
                shown = response.headers.get("Content-Range", "none")
                msg = f"HTTP 206 with Content-Range {shown!r} does not go on from byte {have}"
                raise TransferError(msg, transient=True)
            return have, total or known
        if status == requests.codes.requested_range_not_satisfiable:
            discard(part)
            msg = f"HTTP 416: the server has no bytes after {have}; starting again from the first"
            raise TransferError(msg, transient=True)
        challenge = response.headers.get("x-amzn-waf-action")
        firewall = (
            f", x-amzn-waf-action: {challenge}: its firewall takes this for a robot"
            if challenge
            else ""
        )
        what = " and no file" if status in {202, 204} else f" {response.reason or ''}".rstrip()
        msg = f"HTTP {status}{what}{firewall}"
        raise TransferError(msg, transient=status in _TRANSIENT)

    def _receive(
        self, response: requests.Response, *, url: str, part: Path, start: int, size: int | None
    ) -> None:
        """Write the body at `start`, and check that all of it came."""
        chunks: Iterator[bytes] = response.iter_content(_PIECE_BYTES)
        if start == 0:
            discard(part)
        first = next(chunks, b"")
        if not first:
            msg = "an empty body (0 bytes)"
            raise TransferError(msg, transient=start > 0)
        if start == 0 and looks_like_html(first):
            msg = "an HTML page came in place of the file"
            raise TransferError(msg)
        if size is not None and self._size_bytes is not None and size != self._size_bytes:
            discard(part)
            msg = f"the server offers {size} bytes, {self._size_bytes} are expected"
            raise TransferError(msg)
        self._check_space(part, (size or 0) - start)
        state = PartState(
            url=url,
            etag=response.headers.get("ETag"),
            last_modified=response.headers.get("Last-Modified"),
            size_bytes=size,
        )
        write_text(state_path(part), json.dumps(asdict(state)) + "\n")
        log.info("%s: from byte %d of %s, %s", part.stem, start, size or "an unknown number", url)
        with (
            part.open("ab") as file,
            tqdm(
                total=size,
                initial=start,
                desc=part.stem,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                # None: only where a person watches; a log file would fill with bars.
                disable=None,
            ) as bar,
        ):
            file.write(first)
            bar.update(len(first))
            for chunk in chunks:
                file.write(chunk)
                bar.update(len(chunk))
        got = part.stat().st_size
        if size is None:
            # Only the end of a chunked body says that it is whole; from now on its size is known.
            write_text(state_path(part), json.dumps(asdict(state) | {"size_bytes": got}) + "\n")
        elif got < size:
            msg = f"the connection ended after {got} of {size} bytes"
            raise TransferError(msg, transient=True)
        elif got > size:
            discard(part)
            msg = f"{got} bytes came, {size} were announced"
            raise TransferError(msg, transient=True)

    @staticmethod
    def _check_space(part: Path, needed: int) -> None:
        free = shutil.disk_usage(part.parent).free
        if needed > free:
            msg = (
                f"{part.stem} needs {needed} more bytes in {part.parent}, {free} are free. "
                "Free space and run again; it goes on from where it stopped."
            )
            raise DownloadError(msg)


@contextmanager
def _plain_reasons() -> Iterator[None]:
    """Turn what requests raises into one plain reason."""
    try:
        yield
    except requests.exceptions.SSLError as error:
        msg = f"no secure connection: {_reason(error)}"
        raise TransferError(msg) from None
    except requests.ConnectTimeout:
        msg = f"no connection within {TIMEOUT_S[0]:g} s"
        raise TransferError(msg, transient=True, unreached=True) from None
    except requests.Timeout:
        msg = f"no bytes for {TIMEOUT_S[1]:g} s"
        raise TransferError(msg, transient=True) from None
    except requests.exceptions.ChunkedEncodingError as error:
        msg = f"the connection was cut: {_reason(error)}"
        raise TransferError(msg, transient=True) from None
    except requests.ConnectionError as error:
        msg = f"no connection: {_reason(error)}"
        unreached = isinstance(_innermost(error), urllib3.exceptions.NewConnectionError)
        raise TransferError(msg, transient=True, unreached=unreached) from None
    except requests.TooManyRedirects:
        msg = "too many redirects"
        raise TransferError(msg) from None
    except requests.RequestException as error:
        msg = f"{type(error).__name__}: {_reason(error)}"
        raise TransferError(msg) from None


def _innermost(error: BaseException) -> BaseException:
    """Return the error at the bottom of what requests and urllib3 wrapped."""
    if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        return _innermost(error.reason)
    for part in reversed(error.args):
        if isinstance(part, Exception):
            return _innermost(part)
    return error


def _reason(error: BaseException) -> str:
    """Say in plain words why a request failed."""
    inner = _innermost(error)
    if isinstance(inner, urllib3.exceptions.NameResolutionError):
        return "the host name could not be resolved; is there a network?"
    if isinstance(inner, urllib3.exceptions.IncompleteRead):
        return f"{inner.partial} bytes of {inner.partial + (inner.expected or 0)} came"
    text = getattr(inner, "strerror", None) or str(inner)
    # urllib3 puts its connection object, a general remark and a number before the reason.
    return " ".join(_PREAMBLE.sub("", text).split())
