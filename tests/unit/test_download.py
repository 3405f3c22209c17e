"""The downloader against a real server on loopback that misbehaves as real ones were seen to."""

import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import stat
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pooch
import pytest
import yaml

from stages.base.errors import AtlasError, DownloadError
from stages.inputs.published import archives, checksums
from stages.inputs.published.__main__ import main
from stages.inputs.published.download import (
    ResumingDownloader,
    TransferError,
    refuse_downgrade,
    state_path,
)
from stages.inputs.published.fetch import Places, fetch
from stages.inputs.settings import FigshareFile, RemoteFile

HTML = b"<!DOCTYPE html>\n<html><title>Please wait</title></html>\n"
NOBODY = 65534


@dataclass
class Answer:
    """How the server behaves on one address; `then` is how it behaves the next time."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    etag: str | None = '"v1"'
    ranges: bool = True
    """Whether it honours a request for the rest."""
    cut_after: int | None = None
    """Close the connection after so many bytes of the answer."""
    claim: int | None = None
    """Say this Content-Length, whatever is sent."""
    chunked: bool = False
    """Send the body in chunks, without saying its length."""
    shift: int = 0
    """Answer a request for the rest from a place so much later."""
    then: "Answer | None" = None


@dataclass
class Asked:
    path: str
    headers: dict[str, str]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[Asked] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, path: str, answer: Answer) -> str:
        self.answers[path] = answer
        return self.url + path


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.server.asked.append(Asked(self.path, dict(self.headers)))
        answer = self.server.answers.get(self.path, Answer(status=404, body=b"no such file"))
        if answer.then is not None:
            self.server.answers[self.path] = answer.then
        body, status, start = answer.body, answer.status, 0
        asked = self.headers.get("Range")
        same = self.headers.get("If-Range") in {
            None,
            answer.etag,
            answer.headers.get("Last-Modified"),
        }
        if asked and answer.ranges and same and status == 200:
            start = int(asked.removeprefix("bytes=").removesuffix("-")) + answer.shift
            if start >= len(body):
                status, body = 416, b""
            else:
                status, body = 206, body[start:]
        self.send_response(status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.etag:
            self.send_header("ETag", answer.etag)
        if status == 206:
            total = len(answer.body)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif status != 204:
            self.send_header(
                "Content-Length", str(answer.claim if answer.claim is not None else len(body))
            )
        self.end_headers()
        sent = body if answer.cut_after is None else body[: answer.cut_after]
        if answer.chunked:
            sent = f"{len(body):x}\r\n".encode() + sent
            if answer.cut_after is None:
                sent += b"\r\n0\r\n\r\n"
        self.wfile.write(sent)
        if answer.cut_after is not None or answer.claim is not None:
            self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def h5ad(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Give the bytes of a small but real h5ad, several chunks long."""
    rng = np.random.default_rng(1)
    cells = pd.DataFrame(
        {"age": ["3m", "24m"] * 1000, "mouse.id": ["3_8_M", "24_58_M"] * 1000},
        index=[f"cell{i}" for i in range(2000)],
    )
    path = tmp_path_factory.mktemp("h5ad") / "small.h5ad"
    ad.AnnData(X=rng.random((2000, 150), dtype=np.float64), obs=cells).write_h5ad(path)
    content = path.read_bytes()
    assert len(content) > 2 << 20
    return content


@dataclass
class Desk:
    """One entry of a catalogue and its folders."""

    root: Path
    pauses: list[float] = field(default_factory=list)
    filename: str = "small.h5ad"

    @property
    def out(self) -> Path:
        return self.root / "raw" / "tms.h5ad"

    @property
    def downloads(self) -> Path:
        return self.root / "downloads"

    @property
    def part(self) -> Path:
        return self.downloads / f"{self.filename}.part"

    @property
    def checksums(self) -> Path:
        return self.root / "checksums.json"

    def places(self, **more: Any) -> Places:
        return Places(
            downloads=self.downloads,
            checksums=self.checksums,
            delays_s=(1.0, 2.0, 4.0),
            sleep=self.pauses.append,
            **more,
        )

    def file(self, *urls: str, **more: Any) -> RemoteFile:
        given = {"out": self.out, "filename": self.filename, "format": "h5ad"} | more
        return RemoteFile(urls=list(urls), **given)

    def fails(self, file: RemoteFile, **more: Any) -> str:
        """Fetch what must fail, and return the message, which must be one line."""
        with pytest.raises((DownloadError, AtlasError)) as caught:
            fetch(file, self.places(**more))
        message = str(caught.value)
        assert "\n" not in message
        return message

    def nothing_written(self) -> None:
        """Check that neither the output nor any trace of it is there, and nothing was learned."""
        assert not self.out.exists()
        folder = self.out.parent
        assert not folder.is_dir() or not list(folder.iterdir())
        assert not self.checksums.exists()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# The plain way


def test_download_is_verified_learned_and_in_place(server: Server, desk: Desk, h5ad: bytes) -> None:
    url = server.put("/a.h5ad", Answer(h5ad))
    fetch(desk.file(url), desk.places())
    assert desk.out.read_bytes() == h5ad
    assert json.loads(desk.checksums.read_text()) == {
        "small.h5ad": {
            "md5": md5(h5ad),
            "sha256": sha256(h5ad),
            "size_bytes": len(h5ad),
            "url": url,
        }
    }
    assert server.asked[0].headers["Accept-Encoding"] == "identity"
    assert not desk.part.exists()
    assert not state_path(desk.part).exists()
    assert [path.name for path in desk.out.parent.iterdir()] == ["tms.h5ad"]


def test_lock_file_is_sorted_and_keeps_what_was_learned_before(
    server: Server, desk: Desk, h5ad: bytes
) -> None:
    for name in ("b.h5ad", "a.h5ad"):
        url = server.put("/" + name, Answer(h5ad))
        fetch(desk.file(url, filename=name, out=desk.root / "raw" / name), desk.places())
    text = desk.checksums.read_text()
    assert list(json.loads(text)) == ["a.h5ad", "b.h5ad"]
    assert text.endswith("}\n")


def test_body_without_a_length_is_taken_whole(server: Server, desk: Desk, h5ad: bytes) -> None:
    fetch(desk.file(server.put("/a", Answer(h5ad, chunked=True))), desk.places())
    assert desk.out.read_bytes() == h5ad


def test_output_that_is_there_and_right_is_not_fetched_again(
    server: Server, desk: Desk, h5ad: bytes
) -> None:
    file = desk.file(server.put("/a", Answer(h5ad)))
    fetch(file, desk.places())
    fetch(file, desk.places())
    assert len(server.asked) == 1


# The bad inputs that the issue names


def test_html_page_in_place_of_an_h5ad(server: Server, desk: Desk) -> None:
    url = server.put("/a", Answer(HTML, headers={"Content-Type": "application/octet-stream"}))
    assert desk.fails(desk.file(url)) == (
        f"could not fetch small.h5ad from {url} (an HTML page came in place of the file). "
        f"Download it by hand and put it at {desk.downloads}/small.h5ad; "
        "it is checked and used from there."
    )
    assert not desk.part.exists()
    assert desk.pauses == []
    desk.nothing_written()


def test_html_page_put_there_by_hand(desk: Desk) -> None:
    desk.downloads.mkdir()
    (desk.downloads / "small.h5ad").write_bytes(HTML)
    message = desk.fails(desk.file("http://127.0.0.1:9/a"))
    assert message.startswith(
        f"{desk.downloads}/small.h5ad cannot be used: it is an HTML page, not"
    )
    assert message.endswith("Replace it by the file of http://127.0.0.1:9/a, or delete it.")
    desk.nothing_written()


def test_truncated_h5ad(server: Server, desk: Desk, h5ad: bytes) -> None:
    half = h5ad[: len(h5ad) // 2]
    message = desk.fails(desk.file(server.put("/a", Answer(half))))
    assert f"it is truncated: {len(half)} bytes, but its own header says {len(h5ad)}" in message
    assert "what came was deleted" in message
    assert not desk.part.exists()
    desk.nothing_written()


def test_202_with_no_bytes(server: Server, desk: Desk) -> None:
    answer = Answer(status=202, etag=None, headers={"x-amzn-waf-action": "challenge"})
    url = server.put("/a", answer)
    message = desk.fails(desk.file(url))
    assert message.startswith(
        f"could not fetch small.h5ad from {url} (HTTP 202 and no file, x-amzn-waf-action: challenge"
    )
    # A challenge may pass: tried again after each pause.
    assert desk.pauses == [1.0, 2.0, 4.0]
    assert not desk.part.exists()
    desk.nothing_written()


@pytest.mark.parametrize(
    ("which", "hashed"), [("md5", md5), ("sha256", sha256)], ids=["md5", "sha256"]
)
def test_checksum_that_differs(
    server: Server, desk: Desk, h5ad: bytes, which: str, hashed: Callable[[bytes], str]
) -> None:
    wrong = hashed(b"another file")
    url = server.put("/a", Answer(h5ad))
    message = desk.fails(desk.file(url, **{which: wrong}))
    assert f"{url} (its {which} is {hashed(h5ad)}, but conf/atlas/ says {wrong}; " in message
    assert "what came was deleted" in message
    assert not desk.part.exists()
    desk.nothing_written()


def test_connection_cut_half_way_then_resumed(server: Server, desk: Desk, h5ad: bytes) -> None:
    half = len(h5ad) // 2
    url = server.put("/a", Answer(h5ad, cut_after=half, then=Answer(h5ad)))
    fetch(desk.file(url), desk.places())
    assert desk.out.read_bytes() == h5ad
    first, second = server.asked
    assert "Range" not in first.headers
    assert second.headers["If-Range"] == '"v1"'
    start = int(second.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    # The last chunk that did not come whole is not kept.
    assert half - (1 << 17) <= start <= half
    assert start > 0
    assert desk.pauses == [1.0]


def test_connection_cut_and_resumed_by_a_later_run(server: Server, desk: Desk, h5ad: bytes) -> None:
    half = len(h5ad) // 2
    url = server.put("/a", Answer(h5ad, cut_after=half, then=Answer(status=503)))
    message = desk.fails(desk.file(url))
    assert "HTTP 503 Service Unavailable" in message
    assert desk.part.stat().st_size > 0
    desk.nothing_written()
    server.put("/a", Answer(h5ad))
    fetch(desk.file(url), desk.places())
    assert "Range" in server.asked[-1].headers
    assert desk.out.read_bytes() == h5ad


def test_read_only_output_folder(server: Server, desk: Desk, h5ad: bytes) -> None:
    url = server.put("/a", Answer(h5ad))
    # Permission bits do not bind root, and pytest's folders admit nobody else: a folder of its own,
    # and, for root, the rights of a user without any.
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    own = os.geteuid()
    try:
        desk.root = root
        desk.downloads.mkdir()
        desk.downloads.chmod(0o777)
        desk.out.parent.mkdir()
        desk.out.parent.chmod(0o555)
        if own == 0:
            try:
                os.seteuid(NOBODY)
            except OSError as error:
                pytest.skip(f"root cannot become another user here: {error}")
        message = desk.fails(desk.file(url))
        desk.nothing_written()
    finally:
        os.seteuid(own)
        shutil.rmtree(root)
    assert message == (
        f"cannot write {desk.out}: the folder {desk.out.parent} does not allow it "
        "(Permission denied). Nothing was downloaded. "
        "Make it writable, or change `out` in conf/atlas/."
    )
    assert server.asked == []


def test_output_folder_that_is_a_file(server: Server, desk: Desk, h5ad: bytes) -> None:
    desk.out.parent.write_text("in the way")
    message = desk.fails(desk.file(server.put("/a", Answer(h5ad))))
    assert message.startswith(f"cannot write {desk.out}: the folder")
    assert server.asked == []


# Answers that are no file


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(status=204), "HTTP 204 and no file"),
        (Answer(b"gone", status=404), "HTTP 404 Not Found"),
        (Answer(b"no", status=403), "HTTP 403 Forbidden"),
        (Answer(b""), "an empty body (0 bytes)"),
        (Answer(b"cell,age\n"), "it is no HDF5 file (h5ad): it begins with 'cell,age'"),
    ],
    ids=["204", "404", "403", "empty", "csv"],
)
def test_answer_that_is_no_h5ad_is_refused_at_once(
    server: Server, desk: Desk, answer: Answer, reason: str
) -> None:
    assert f"({reason}" in desk.fails(desk.file(server.put("/a", answer)))
    assert desk.pauses == []
    assert not desk.part.exists()
    desk.nothing_written()


def test_hdf5_without_cells_is_no_h5ad(server: Server, desk: Desk, tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["numbers"] = [1, 2]
    url = server.put("/a", Answer((tmp_path / "x.h5").read_bytes()))
    assert "it has no table of cells (obs)" in desk.fails(desk.file(url))
    desk.nothing_written()


def test_size_that_differs_is_refused_before_the_bytes_come(
    server: Server, desk: Desk, h5ad: bytes
) -> None:
    message = desk.fails(desk.file(server.put("/a", Answer(h5ad)), size_bytes=len(h5ad) + 1))
    assert f"the server offers {len(h5ad)} bytes, {len(h5ad) + 1} are expected" in message
    assert not desk.part.exists()
    desk.nothing_written()


def test_html_is_named_even_when_the_size_is_known(server: Server, desk: Desk) -> None:
    message = desk.fails(desk.file(server.put("/a", Answer(HTML)), size_bytes=10**6))
    assert "an HTML page came in place of the file" in message


def test_503_then_200(server: Server, desk: Desk, h5ad: bytes) -> None:
    busy = Answer(status=503, then=Answer(status=429, then=Answer(h5ad)))
    fetch(desk.file(server.put("/a", busy)), desk.places())
    assert desk.out.read_bytes() == h5ad
    assert desk.pauses == [1.0, 2.0]


def test_length_that_promises_more_than_comes(server: Server, desk: Desk, h5ad: bytes) -> None:
    liar = Answer(h5ad, claim=len(h5ad) + 100, ranges=False)
    message = desk.fails(desk.file(server.put("/a", liar)))
    assert f"(the connection was cut: {len(h5ad)} bytes of {len(h5ad) + 100} came)" in message
    assert desk.pauses == [1.0, 2.0, 4.0]
    desk.nothing_written()


def test_no_network_is_one_clear_line(desk: Desk) -> None:
    message = desk.fails(desk.file("http://127.0.0.1:9/a.h5ad", "https://no-such-host.invalid/a"))
    assert message == (
        "could not fetch small.h5ad from http://127.0.0.1:9/a.h5ad (no connection: Connection "
        "refused), nor from https://no-such-host.invalid/a (no connection: the host name could "
        "not be resolved; is there a network?). Download it by hand and put it at "
        f"{desk.downloads}/small.h5ad; it is checked and used from there."
    )
    # One more attempt at each address, not the whole row of pauses.
    assert desk.pauses == [1.0, 1.0]
    desk.nothing_written()


def test_redirect_is_followed_but_not_out_of_https(server: Server, desk: Desk, h5ad: bytes) -> None:
    server.put("/b", Answer(h5ad))
    url = server.put("/a", Answer(status=302, headers={"Location": "/b"}))
    fetch(desk.file(url), desk.places())
    assert desk.out.read_bytes() == h5ad
    refuse_downgrade("https://a.org/x", "/y")
    refuse_downgrade("https://a.org/x", "https://b.org/y")
    with pytest.raises(TransferError, match=r"redirect from https to http://b\.org/y was"):
        refuse_downgrade("https://a.org/x", "http://b.org/y")


# Resuming


def test_a_server_that_ignores_range_gives_the_whole_again(
    server: Server, desk: Desk, h5ad: bytes
) -> None:
    cut = Answer(h5ad, cut_after=len(h5ad) * 3 // 4, then=Answer(h5ad, ranges=False))
    fetch(desk.file(server.put("/a", cut)), desk.places())
    assert "Range" in server.asked[-1].headers
    assert desk.out.read_bytes() == h5ad


def test_a_remote_file_that_changed_is_not_spliced(server: Server, desk: Desk, h5ad: bytes) -> None:
    older = bytes(len(h5ad))
    older = h5ad[:8] + older[8:]
    cut = Answer(older, cut_after=len(h5ad) * 3 // 4, then=Answer(h5ad, etag='"v2"'))
    fetch(desk.file(server.put("/a", cut)), desk.places())
    assert server.asked[-1].headers["If-Range"] == '"v1"'
    assert desk.out.read_bytes() == h5ad


def test_without_a_validator_the_part_is_not_resumed(
    server: Server, desk: Desk, h5ad: bytes
) -> None:
    cut = Answer(h5ad, etag=None, cut_after=len(h5ad) * 3 // 4, then=Answer(h5ad, etag=None))
    fetch(desk.file(server.put("/a", cut)), desk.places())
    assert "Range" not in server.asked[-1].headers
    assert desk.out.read_bytes() == h5ad


def test_the_date_serves_where_there_is_no_etag(server: Server, desk: Desk, h5ad: bytes) -> None:
    date = {"Last-Modified": "Wed, 21 Oct 2020 07:28:00 GMT"}
    rest = Answer(h5ad, etag=None, headers=date)
    cut = Answer(h5ad, etag=None, headers=date, cut_after=len(h5ad) * 3 // 4, then=rest)
    fetch(desk.file(server.put("/a", cut)), desk.places())
    assert server.asked[-1].headers["If-Range"] == date["Last-Modified"]
    assert desk.out.read_bytes() == h5ad


def test_416_starts_again_from_the_first_byte(server: Server, desk: Desk, h5ad: bytes) -> None:
    desk.downloads.mkdir()
    desk.part.write_bytes(h5ad + b"too much")
    state = {"url": "x", "etag": '"v1"', "last_modified": None, "size_bytes": None}
    state_path(desk.part).write_text(json.dumps(state))
    fetch(desk.file(server.put("/a", Answer(h5ad))), desk.places())
    assert desk.out.read_bytes() == h5ad
    assert ["Range" in asked.headers for asked in server.asked] == [True, False]


def test_a_rest_from_another_place_is_refused(server: Server, desk: Desk, h5ad: bytes) -> None:
    cut = Answer(h5ad, cut_after=len(h5ad) * 3 // 4, then=Answer(h5ad, shift=7, then=Answer(h5ad)))
    fetch(desk.file(server.put("/a", cut)), desk.places())
    assert desk.out.read_bytes() == h5ad
    assert ["Range" in asked.headers for asked in server.asked] == [False, True, False]


def test_a_part_without_its_state_is_not_trusted(server: Server, desk: Desk, h5ad: bytes) -> None:
    desk.downloads.mkdir()
    desk.part.write_bytes(h5ad[:1000])
    fetch(desk.file(server.put("/a", Answer(h5ad))), desk.places())
    assert "Range" not in server.asked[0].headers
    assert desk.out.read_bytes() == h5ad


def test_a_part_that_is_complete_needs_no_network(server: Server, desk: Desk, h5ad: bytes) -> None:
    desk.downloads.mkdir()
    ResumingDownloader().complete(server.put("/a", Answer(h5ad)), desk.part)
    fetch(desk.file("http://127.0.0.1:9/a"), desk.places())
    assert desk.out.read_bytes() == h5ad
    assert json.loads(desk.checksums.read_text())["small.h5ad"]["url"] == server.url + "/a"


def test_pauses_start_anew_when_an_attempt_got_further(
    server: Server, desk: Desk, h5ad: bytes
) -> None:
    # Each answer gives a little more than one chunk of what is left.
    step = (1 << 20) + 1
    answer = Answer(h5ad)
    for _ in range(2):
        answer = Answer(h5ad, cut_after=step, then=answer)
    fetch(desk.file(server.put("/a", answer)), desk.places())
    assert desk.out.read_bytes() == h5ad
    assert desk.pauses == [1.0, 1.0]


def test_pooch_can_use_the_downloader(server: Server, tmp_path: Path, h5ad: bytes) -> None:
    cut = Answer(h5ad, cut_after=len(h5ad) * 3 // 4, then=Answer(h5ad))
    url = server.put("/a", cut)
    part = tmp_path / "kept" / "a.part"
    downloader = ResumingDownloader(part=part, delays_s=())
    with pytest.raises(TransferError, match="the connection was cut"):
        pooch.retrieve(url, sha256(h5ad), "a.h5ad", tmp_path, downloader=downloader)
    got = pooch.retrieve(url, sha256(h5ad), "a.h5ad", tmp_path, downloader=downloader)
    assert Path(got).read_bytes() == h5ad
    assert "Range" in server.asked[-1].headers
    assert not part.exists()


# Mirrors


def test_the_next_mirror_is_tried_after_a_bad_answer(
    server: Server, desk: Desk, h5ad: bytes
) -> None:
    page = server.put("/page", Answer(HTML))
    wrong = server.put("/wrong", Answer(h5ad[:-1] + bytes([h5ad[-1] ^ 1])))
    good = server.put("/good", Answer(h5ad))
    fetch(desk.file(page, wrong, good, md5=md5(h5ad)), desk.places())
    assert desk.out.read_bytes() == h5ad
    assert json.loads(desk.checksums.read_text())["small.h5ad"]["url"] == good


def test_a_mirror_goes_on_only_with_the_same_etag(server: Server, desk: Desk, h5ad: bytes) -> None:
    cut = Answer(h5ad, cut_after=len(h5ad) * 3 // 4, then=Answer(status=404))
    first = server.put("/a", cut)
    second = server.put("/b", Answer(h5ad))
    fetch(desk.file(first, second), desk.places())
    assert server.asked[-1].path == "/b"
    assert "Range" in server.asked[-1].headers
    assert desk.out.read_bytes() == h5ad


# By hand


def test_a_file_put_by_hand_is_checked_used_and_left_alone(desk: Desk, h5ad: bytes) -> None:
    desk.downloads.mkdir()
    mine = desk.downloads / "small.h5ad"
    mine.write_bytes(h5ad)
    fetch(desk.file("http://127.0.0.1:9/a", md5=md5(h5ad)), desk.places())
    assert desk.out.read_bytes() == h5ad
    assert mine.read_bytes() == h5ad
    # Not one inode with an output that DVC's cache takes over.
    assert mine.stat().st_nlink == 1
    assert stat.S_IMODE(mine.stat().st_mode) & stat.S_IWUSR
    assert json.loads(desk.checksums.read_text())["small.h5ad"]["url"] == "put there by hand"


def test_a_file_put_by_hand_with_another_checksum_is_refused_and_kept(
    desk: Desk, h5ad: bytes
) -> None:
    desk.downloads.mkdir()
    mine = desk.downloads / "small.h5ad"
    mine.write_bytes(h5ad)
    wrong = md5(b"another")
    message = desk.fails(desk.file("http://127.0.0.1:9/a", md5=wrong))
    assert f"its md5 is {md5(h5ad)}, but conf/atlas/ says {wrong}" in message
    assert mine.read_bytes() == h5ad
    desk.nothing_written()


# Checksums


def test_a_later_download_must_be_what_was_learned(server: Server, desk: Desk, h5ad: bytes) -> None:
    url = server.put("/a", Answer(h5ad))
    fetch(desk.file(url), desk.places())
    desk.out.unlink()
    learned = desk.checksums.read_text()
    changed = h5ad[:-1] + bytes([h5ad[-1] ^ 1])
    server.put("/a", Answer(changed))
    message = desk.fails(desk.file(url))
    assert f"its sha256 is {sha256(changed)}, but {desk.checksums} says {sha256(h5ad)}" in message
    assert not desk.out.exists()
    assert desk.checksums.read_text() == learned


def test_a_pin_that_disagrees_with_what_was_learned_stops_before_the_download(
    server: Server, desk: Desk, h5ad: bytes
) -> None:
    url = server.put("/a", Answer(h5ad))
    fetch(desk.file(url), desk.places())
    wrong = md5(b"another")
    message = desk.fails(desk.file(url, md5=wrong))
    assert message == (
        f"small.h5ad: conf/atlas/ pins md5 {wrong}, but {desk.checksums} learned {md5(h5ad)}. "
        f"The pin counts: if it is right, delete the entry of small.h5ad in {desk.checksums}; "
        "if not, correct the pin."
    )
    assert len(server.asked) == 1


def test_a_damaged_lock_file_is_named(desk: Desk) -> None:
    desk.checksums.write_text("{")
    message = desk.fails(desk.file("http://127.0.0.1:9/a"))
    assert message.startswith(f"{desk.checksums} is not JSON")


def test_lock_file_loses_no_entry_when_several_write(tmp_path: Path) -> None:
    path, lock = tmp_path / "checksums.json", tmp_path / "lock"
    from stages.inputs.published.checks import Digests

    def learn(number: int) -> None:
        digests = Digests(size_bytes=number, md5="0" * 32, sha256="0" * 64)
        checksums.record(path, f"f{number}", digests, url="x", lock=lock)

    threads = [threading.Thread(target=learn, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(checksums.read(path)) == len(threads)


# figshare


def figshare(desk: Desk, server: Server, answer: dict[str, Any] | None) -> RemoteFile:
    if answer is not None:
        server.put("/articles/12/versions/1", Answer(json.dumps(answer).encode()))
    return desk.file(figshare=FigshareFile(article=12, version=1, id=345))


def only_loopback(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setattr(checksums, "FIGSHARE_FILES", f"{server.url}/ndownloader")


def test_figshare_gives_addresses_and_checksum(
    server: Server, desk: Desk, h5ad: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_loopback(monkeypatch, server)
    entry = {"id": 345, "name": "small.h5ad", "size": len(h5ad), "computed_md5": md5(b"other")}
    file = figshare(desk, server, {"files": [entry]})
    server.put("/ndownloader/345", Answer(h5ad))
    server.put("/file/download/345", Answer(h5ad))
    message = desk.fails(file, figshare_api=server.url)
    assert f"its md5 is {md5(h5ad)}, but figshare article 12 v1 says {md5(b'other')}" in message
    assert [asked.path for asked in server.asked] == [
        "/articles/12/versions/1",
        "/ndownloader/345",
        "/file/download/345",
    ]
    entry["computed_md5"] = md5(h5ad)
    file = figshare(desk, server, {"files": [entry]})
    fetch(file, desk.places(figshare_api=server.url))
    assert desk.out.read_bytes() == h5ad


@pytest.mark.parametrize("answer", [None, {"files": []}, {"files": "?"}, {"message": "no"}])
def test_figshare_that_does_not_know_is_no_error(
    server: Server,
    desk: Desk,
    h5ad: bytes,
    monkeypatch: pytest.MonkeyPatch,
    answer: dict[str, Any] | None,
) -> None:
    only_loopback(monkeypatch, server)
    server.put("/ndownloader/345", Answer(h5ad))
    fetch(figshare(desk, server, answer), desk.places(figshare_api=server.url))
    assert desk.out.read_bytes() == h5ad


def test_figshare_is_asked_for_the_single_file_when_its_list_is_cut(
    server: Server, desk: Desk, h5ad: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_loopback(monkeypatch, server)
    single = {"id": 345, "name": "small.h5ad", "size": 1, "computed_md5": md5(h5ad)}
    server.put("/articles/12/files/345", Answer(json.dumps(single).encode()))
    told = checksums.ask_figshare(
        figshare(desk, server, {"files": [{"id": 1, "name": "x"}]}), figshare_api=server.url
    )
    assert told is not None
    assert told.md5 == md5(h5ad)


def test_figshare_number_of_another_file_is_an_error(server: Server, desk: Desk) -> None:
    entry = {"id": 345, "name": "raw.h5ad", "size": 1, "computed_md5": "0" * 32}
    message = desk.fails(figshare(desk, server, {"files": [entry]}), figshare_api=server.url)
    assert message == (
        "figshare article 12 v1 lists file 345 as 'raw.h5ad', not 'small.h5ad'. "
        "Correct figshare.id or filename in conf/atlas/."
    )
    desk.nothing_written()


# Other formats, archives


def test_csv_and_the_page_that_comes_in_its_place(server: Server, desk: Desk) -> None:
    url = server.put("/a", Answer(b"index,age,method\nc1,3m,facs\n"))
    out = desk.root / "raw" / "cells.csv"
    fetch(desk.file(url, format="csv", filename="cells.csv", out=out), desk.places())
    assert out.read_text().startswith("index,age")
    url = server.put("/b", Answer(b"\0\1\2"))
    assert "it is no CSV file" in desk.fails(desk.file(url, format="csv"))


def tar_of(*members: tuple[str, bytes | None]) -> bytes:
    """Return a tar archive; a member without content is a symbolic link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_tar_gives_a_folder_with_the_wanted_members(server: Server, desk: Desk) -> None:
    content = tar_of(
        ("GSM1_BM-M-Y_matrix.mtx.gz", b"one"),
        ("GSM2_Kidney-M-Y_matrix.mtx.gz", b"two"),
        ("sub/GSM3_BM-F-O_matrix.mtx.gz", b"three"),
    )
    url = server.put("/a", Answer(content))
    out = desk.root / "raw" / "rat"
    file = desk.file(url, format="tar", filename="RAW.tar", out=out, members=["*_BM-*"])
    fetch(file, desk.places())
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.gz")) == [
        "GSM1_BM-M-Y_matrix.mtx.gz",
        "sub/GSM3_BM-F-O_matrix.mtx.gz",
    ]
    # Another choice of members needs no second download, and replaces the folder as a whole.
    fetch(file.model_copy(update={"members": ["*Kidney*"]}), desk.places())
    assert [path.read_bytes() for path in out.rglob("*.gz")] == [b"two"]
    assert len(server.asked) == 1
    assert [path.name for path in out.parent.iterdir()] == ["rat"]


@pytest.mark.parametrize("keep", [100, 600, 1024, 1536], ids=["head", "data", "member", "two"])
def test_truncated_tar(server: Server, desk: Desk, keep: int) -> None:
    whole = tar_of(("a.txt", b"a" * 300), ("b.txt", b"b" * 300))
    url = server.put("/a", Answer(whole[:keep]))
    message = desk.fails(desk.file(url, format="tar", out=desk.root / "raw" / "x"))
    assert "tar archive" in message
    desk.nothing_written()


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (("../evil.txt", b"x"), "member '../evil.txt' would be written outside"),
        (("/abs/evil.txt", b"x"), "would be written outside"),
        (("a\\..\\evil.txt", b"x"), "would be written outside"),
        (("link.txt", None), "member 'link.txt' is a link or device"),
    ],
    ids=["parent", "absolute", "backslash", "link"],
)
def test_unsafe_member_is_refused(
    server: Server, desk: Desk, member: tuple[str, bytes | None], reason: str
) -> None:
    url = server.put("/a", Answer(tar_of(("good.txt", b"good"), member)))
    file = desk.file(url, format="tar", filename="x.tar", out=desk.root / "raw" / "x")
    assert reason in desk.fails(file)
    assert list((desk.root / "raw").iterdir()) == []
    assert not list(desk.root.rglob("evil.txt"))


def test_pattern_that_matches_nothing_shows_what_is_there(server: Server, desk: Desk) -> None:
    url = server.put("/a", Answer(tar_of(("good.txt", b"good"))))
    file = desk.file(url, format="tar", out=desk.root / "raw" / "x", members=["*_BM-*"])
    message = desk.fails(file)
    assert "no member matches '*_BM-*'; it has 1 files, the first: 'good.txt'" in message
    assert not file.out.exists()


def test_members_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_of(("a.txt", b"1"), ("./a.txt", b"2")))
    (tmp_path / "new").mkdir()
    with pytest.raises(AtlasError, match="stands in it twice"):
        archives.unpack(tmp_path / "x.tar", tmp_path / "new", kind="tar")


def test_zip_gives_one_file_when_out_is_an_h5ad(server: Server, desk: Desk, h5ad: bytes) -> None:
    content = zip_of(**{"data/kidney.h5ad": h5ad, "data/lung.h5ad": b"other"})
    url = server.put("/a", Answer(content))
    file = desk.file(url, format="zip", filename="kimmel.zip", members=["kidney.h5ad"])
    fetch(file, desk.places())
    assert desk.out.read_bytes() == h5ad
    desk.out.unlink()
    lung = file.model_copy(update={"members": ["lung.h5ad"]})
    assert "it is no HDF5 file" in desk.fails(lung)
    both = file.model_copy(update={"members": ["*.h5ad"]})
    assert "2 members match, but out is one file; the first: data/kidney.h5ad" in desk.fails(both)
    assert not desk.out.exists()


def test_truncated_zip(server: Server, desk: Desk, h5ad: bytes) -> None:
    content = zip_of(**{"kidney.h5ad": h5ad})
    url = server.put("/a", Answer(content[:-100]))
    assert "it is no whole zip archive" in desk.fails(desk.file(url, format="zip"))
    desk.nothing_written()


def test_damaged_zip_member(server: Server, desk: Desk) -> None:
    content = bytearray(zip_of(**{"a.csv": b"cell,age\n" * 1000}))
    content[40] ^= 0xFF
    url = server.put("/a", Answer(bytes(content)))
    file = desk.file(url, format="zip", out=desk.root / "raw" / "x")
    assert "it cannot be unpacked" in desk.fails(file)
    assert not file.out.exists()


# Several processes, the command line


def test_a_second_process_says_that_it_waits(
    server: Server, desk: Desk, h5ad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="stages")
    desk.downloads.mkdir()
    file = desk.file(server.put("/a", Answer(h5ad)))
    with (desk.downloads / "small.h5ad.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        other = threading.Thread(target=fetch, args=(file, desk.places()))
        other.start()
        other.join(timeout=0.3)
        assert other.is_alive()
        assert server.asked == []
    other.join(timeout=30)
    assert desk.out.read_bytes() == h5ad
    said = [record.getMessage() for record in caplog.records]
    assert any("small.h5ad: another process is downloading it" in line for line in said)


@pytest.fixture
def params(desk: Desk) -> Callable[..., list[str]]:
    """Write a params.yaml whose atlas acquires the given files, and return the common arguments."""

    def write(acquire: dict[str, Any], *, source: str = "published") -> list[str]:
        here = Path(__file__).parents[2] / "params.yaml"
        content = yaml.safe_load(here.read_text(encoding="utf-8"))
        if source == "published":
            content["atlas"] |= {"name": "published", "source": "published", "acquire": acquire}
            content["atlas"].pop("seed", None)
        path = desk.root / "params.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        places = {"params": path, "downloads": desk.downloads, "checksums": desk.checksums}
        return [f"--{key}={value}" for key, value in places.items()]

    return write


def test_command_line_makes_one_file(
    server: Server, desk: Desk, h5ad: bytes, params: Callable[..., list[str]]
) -> None:
    entry = {
        "out": str(desk.out),
        "filename": "small.h5ad",
        "urls": [server.put("/a", Answer(h5ad))],
        "format": "h5ad",
    }
    assert main([*params({"tms": entry}), "--file=tms"]) == 0
    assert desk.out.read_bytes() == h5ad


def test_command_line_names_the_files_it_knows(
    desk: Desk, params: Callable[..., list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    entry = {"out": "x", "filename": "x", "urls": ["https://a.org"], "format": "csv"}
    assert main([*params({"tms-a": entry, "tms-b": entry}), "--file=tms"]) == 1
    assert "atlas published has no file 'tms'. Files: tms-a, tms-b. Choose" in caplog.text
    assert not desk.downloads.exists()
