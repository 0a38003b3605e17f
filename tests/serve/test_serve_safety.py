"""What a server does not give away, and what costs it nothing."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlencode

import numpy as np
import pytest

import cnnbatch
from cnnbatch.cli import main
from cnnbatch.errors import UsageError
from cnnbatch.serve import connections
from cnnbatch.serve.app import Options
from cnnbatch.serve.command import _access
from cnnbatch.serve.guard import LOOPBACK, Access
from cnnbatch.serve.library import names_of
from tests.serve.served import HOSTILE, Running, running, sources

TOKEN = "a-token-of-the-test"
LONG_BYTES = 8 << 20
PAGES = ("/a/photos/", "/a/photos/picture?key=squares.png", "/a/photos/dashboard")


@pytest.fixture(scope="module")
def guarded(archive: str):
    with running(archive, access=Access(token=TOKEN), options=Options(workers=1, queue=2)) as found:
        yield found


def test_without_the_token_there_is_nothing(guarded: Running) -> None:
    for path in ("/", *PAGES, "/api/photos/pictures", "/iiif/photos/squares.png/info.json", "/metrics", "/static/page.css"):
        found = guarded.get(path)
        assert found.status == 401
        assert TOKEN.encode() not in found.body
        assert guarded.get(path, {"Authorization": "Bearer another"}).status == 401
        assert guarded.get(path, {"Cookie": "cnnbatch-token=é"}).status == 401
    assert guarded.get("/healthz?live").status == 200


def test_the_token_comes_by_header_or_once_in_the_address(guarded: Running) -> None:
    assert guarded.get("/api/photos/pictures", {"Authorization": f"Bearer {TOKEN}"}).status == 200
    first = guarded.get(f"/a/photos/?folder=2024%2F&token={TOKEN}")
    assert (first.status, first.headers["location"]) == (303, "/a/photos/?folder=2024%2F")
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    found = guarded.get("/a/photos/", {"Cookie": cookie.partition(";")[0]})
    assert found.status == 200
    assert TOKEN.encode() not in found.body
    assert guarded.get(f"//evil.example/?token={TOKEN}").headers["location"].startswith("/evil")


def test_a_server_that_others_reach_has_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    from argparse import Namespace

    monkeypatch.delenv("CNNBATCH_SERVE_TOKEN", raising=False)
    local, none = _access(Namespace(host="127.0.0.1", cors=[], public_url=None))
    assert (local.token, none) == (None, None)
    open_, printed = _access(Namespace(host="0.0.0.0", cors=[], public_url=None))
    assert open_.token == printed
    assert len(printed or "") >= 32
    assert not open_.secure
    behind, _ = _access(Namespace(host="0.0.0.0", cors=[], public_url="https://pictures.example"))
    assert behind.secure
    monkeypatch.setenv("CNNBATCH_SERVE_TOKEN", "short")
    with pytest.raises(UsageError, match="fewer than 16"):
        _access(Namespace(host="0.0.0.0", cors=[], public_url=None))


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "a b", "", "127.0.0.1:99999999", "[::1", "localhost/evil"]
)
def test_another_host_is_not_answered(server: Running, host: str) -> None:
    assert server.get("/api/photos/pictures", {"Host": host}).status in (400, 421)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE"])
def test_it_is_read_only(server: Running, method: str) -> None:
    assert server.get("/api/photos/pictures", {"Content-Length": "0"}, method=method).status == 405


def test_pages_run_their_own_scripts_and_nothing_else(server: Running) -> None:
    for path in PAGES:
        policy = server.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        known = server.get(path, {"If-None-Match": server.get(path).headers["etag"]})
        assert known.status == 304
        assert "content-security-policy" not in known.headers  # it would replace the one that the browser has kept
    for path in ("/api/photos/pictures", "/a/photos/thumb?key=squares.png", "/a/photos/file?key=notes.txt"):
        found = server.get(path)
        assert found.status == 200
        assert found.headers["content-security-policy"] == "default-src 'none'; sandbox"
        assert found.headers["x-content-type-options"] == "nosniff"


def test_others_pages_read_nothing_unless_it_is_said(archive: str) -> None:
    with running(archive, access=Access(hosts=LOOPBACK, origins=frozenset({"https://mirador.example"}))) as found:
        path = "/iiif/photos/squares.png/info.json"
        assert "access-control-allow-origin" not in found.get(path, {"Origin": "https://evil.example"}).headers
        allowed = found.get(path, {"Origin": "https://mirador.example"}).headers
        assert allowed["access-control-allow-origin"] == "https://mirador.example"
        assert "Origin" in allowed["vary"]
        assert found.get(path).headers["cross-origin-resource-policy"] == "cross-origin"  # an <img> says no origin
        api = found.get("/api/photos/pictures", {"Origin": "https://mirador.example"}).headers
        assert "access-control-allow-origin" not in api
        assert api["cross-origin-resource-policy"] == "same-origin"


def test_no_answer_names_a_place_of_this_machine(server: Running, archive: str, source: Path) -> None:
    places = (archive.encode(), str(source).encode(), str(Path.home()).encode() + b"/", b"site-packages")
    keys = ["crafted.png", "notes.txt", "squares.png", "nowhere", "../../etc/passwd", "/etc/passwd"]
    paths = [
        "/api/photos/pictures",
        "/api/photos/figures",
        "/api/photos/runs",
        "/metrics",
        "/healthz",
        "/presentation/photos//collection.json",
        *PAGES,
    ]
    paths += [
        f"/{part}?{urlencode({'key': key, 'as': kind})}"
        for key in keys
        for part in ("a/photos/file", "api/photos/picture", "a/photos/thumb")
        for kind in ("original", "source")
    ]
    for path in paths:
        found = server.get(path)
        assert not any(place in found.body for place in places), path
        assert not any(place.decode() in value for place in places for value in found.headers.values()), path


def test_a_hostile_key_stays_text(server: Running) -> None:
    found = json.loads(server.get(f"/api/photos/picture?{urlencode({'key': HOSTILE})}").body)
    assert found["key"] == HOSTILE
    assert b"<script>alert" not in server.get(f"/a/photos/picture?{urlencode({'key': HOSTILE})}").body
    name = server.get(f"/a/photos/file?{urlencode({'key': HOSTILE})}").headers["content-disposition"]
    assert name.startswith("attachment; filename=")
    assert "\n" not in name
    turned = json.loads(server.get(f"/api/photos/picture?{urlencode({'key': '2024/summer/turned.jpg'})}").body)
    assert turned["exif"]["Make"] == "<b>a camera</b>"


def test_downloads_come_whole_or_by_range(server: Running) -> None:
    path = f"/a/photos/file?{urlencode({'key': 'notes.txt'})}"
    whole = server.get(path)
    assert whole.body == sources()["notes.txt"]
    part = server.get(path, {"Range": "bytes=4-8"})
    assert (part.status, part.body, part.headers["content-range"]) == (206, whole.body[4:9], f"bytes 4-8/{len(whole.body)}")
    assert server.get(path, {"Range": "bytes=100-"}).status == 416
    assert server.get(path, {"Range": "bytes=4-8", "If-Range": '"another"'}).status == 200
    for kind, start in (("cnb", b"\x89CNB"), ("png", b"\x89PNG"), ("jpeg", b"\xff\xd8"), ("source", b"\x89PNG")):
        found = server.get(f"/a/photos/file?{urlencode({'key': '2024/summer/photo.png', 'as': kind})}")
        assert found.body.startswith(start)


def test_beyond_the_queue_it_says_come_again(guarded: Running) -> None:
    """One worker, two that wait: of many at once some are told to come again, and none is lost."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    identifier = quote("squares.png", safe="")
    paths = [f"/iiif/photos~full/{identifier}/{x},0,600,900/590,/0/default.png" for x in range(12)]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda path: guarded.get(path, headers), paths))
    assert {answer.status for answer in found} == {200, 503}
    assert all(answer.headers["retry-after"] for answer in found if answer.status == 503)
    assert guarded.get("/healthz?live").status == 200


def test_slow_clients_hold_nobody_up_and_are_closed(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SECONDS_TO_ASK", 1.5)
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
    try:
        for one in slow[:20]:
            one.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        started = time.monotonic()
        assert server.get("/healthz?live").status == 200
        assert time.monotonic() - started < 1.0
        for one in slow:
            one.settimeout(20)
            assert one.recv(100) in (b"",)
    finally:
        for one in slow:
            one.close()


def test_a_client_that_does_not_read_blocks_no_other(server: Running) -> None:
    one = socket.create_connection(("127.0.0.1", server.port))
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.sendall(b"GET /iiif/photos~full/squares.png/full/max/0/default.png HTTP/1.1\r\nHost: localhost\r\n\r\n")
    time.sleep(0.3)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: server.get(f"/a/photos/thumb?key=squares.png&side={n}"), [128, 256, 512] * 4))
    assert {answer.status for answer in found} == {200}
    one.close()


@pytest.fixture(scope="module")
def long_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two files of 8 MB, and room for one and a half of them to be sent at once."""
    url = str(tmp_path_factory.mktemp("long") / "archive")
    with cnnbatch.create(url) as archive:
        for name in ("a.bin", "b.bin"):
            archive.add(name, np.random.default_rng(0).bytes(LONG_BYTES))
    with running(url, options=Options(workers=2, decode_bytes=3 * LONG_BYTES // 2)) as found:
        yield found


def test_long_answers_are_sent_as_they_are_taken_and_are_bounded(long_files: Running) -> None:
    """A client that reads nothing holds so many bytes, and others are told to come again; once it is gone there is room."""
    path = "/a/photos/file?key={}.bin"
    whole = np.random.default_rng(0).bytes(LONG_BYTES)
    assert long_files.get(path.format("a")).body == whole
    assert long_files.get(path.format("b"), {"Range": "bytes=1000-6000000"}).body == whole[1000:6_000_001]
    slow = socket.create_connection(("127.0.0.1", long_files.port))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.sendall(b"GET /a/photos/file?key=a.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
    wait_until(lambda: long_files.get(path.format("b")).status == 503)
    refused = long_files.get(path.format("b"))
    assert (refused.status, refused.headers["retry-after"]) == (503, "2")
    assert long_files.get("/api/photos/pictures").status == 200
    slow.close()
    wait_until(lambda: long_files.get(path.format("b")).status == 200)


def test_who_takes_too_long_over_an_answer_is_cut_off(long_files: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SECONDS_TO_READ", 1)
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", long_files.port))
    slow.sendall(b"GET /a/photos/file?key=a.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
    wait_until(lambda: long_files.get("/a/photos/file?key=b.bin").status == 503)
    wait_until(lambda: long_files.get("/a/photos/file?key=b.bin").status == 200)  # though it has not let go
    slow.close()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_name_for_each_archive() -> None:
    assert names_of(["s3://bucket/photos/", "/home/me/photos", "s3://bucket"]) == ["photos", "photos-2", "bucket"]
    assert names_of(["/a/<script>"]) == ["-script-"]
    with pytest.raises(UsageError):
        names_of(["a", "a"])


def test_the_command_serves_until_it_is_ended(archive: str, capfd: pytest.CaptureFixture[str]) -> None:
    import os
    import re
    import signal
    import urllib.request

    def ask() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (found := re.search(r"http://127.0.0.1:\d+/", seen())):
            time.sleep(0.1)
        try:
            answers.append(urllib.request.urlopen(f"{found[0]}healthz?live", timeout=30).status)  # type: ignore[index]
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    text: list[str] = []

    def seen() -> str:
        text.append(capfd.readouterr().err)
        return "".join(text)

    answers: list[int] = []
    thread = threading.Thread(target=ask)
    thread.start()
    assert main(["serve", archive, "--port", "0"]) == 143
    thread.join()
    assert answers == [200]


def test_a_port_that_is_taken_is_said(archive: str, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", archive, "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen on 127.0.0.1" in capfd.readouterr().err
