"""An S3 in this process that answers GET, HEAD, PUT and deletions as badly as it is told to."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from cnnbatch.storage import ObjectInfo, StorageConfig


class FaultyS3:
    """One bucket, ``bucket``. ``faults`` maps a key to what goes wrong, for as many requests as ``times`` says."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults: dict[str, str] = {}
        self.times: dict[str, int] = {}
        self.headers: dict[str, str] = {}
        self.page = b"<ListBucketResult/>"
        """Every page of every listing."""
        self.requests: Counter[str] = Counter()
        self.payers: list[str | None] = []
        """Of each request, who pays."""
        self.careless = False
        """Whether it takes conditions and ignores them."""
        self.port = 0
        self.ended = Event()

    @property
    def config(self) -> StorageConfig:
        return StorageConfig(
            endpoint=f"http://127.0.0.1:{self.port}",
            access_key_id="key",
            secret_access_key="secret",
            timeout_s=2,
            retries=2,
            retry_timeout_s=5,
        )

    def add(self, key: str, body: bytes) -> ObjectInfo:
        self.objects[key] = body
        return ObjectInfo(key, len(body), hashlib.md5(body, usedforsecurity=False).hexdigest())

    def next_fault(self, key: str) -> str:
        """The fault for this request; counted down, so that a fault may pass."""
        self.requests[key] += 1
        left = self.times.get(key, 1_000_000)
        self.times[key] = left - 1
        return self.faults.get(key, "") if left > 0 else ""


@contextmanager
def faulty_s3() -> Iterator[FaultyS3]:
    state = FaultyS3()
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.ended.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet: without it every answer waits 40 ms for Nagle's algorithm
    state: ClassVar[FaultyS3]

    def do_GET(self) -> None:
        key = unquote(urlsplit(self.path).path).removeprefix("/bucket/")
        fault = self.state.next_fault(key)
        self.state.payers.append(self.headers.get("x-amz-request-payer"))
        if key == "/bucket":
            self._answer(200, self.state.page, "")
        elif fault.isdigit():
            self._answer(int(fault), b"<Error><Code>Fault</Code></Error>", "")
        elif fault.startswith("code "):
            self._answer(403, f"<Error><Code>{fault[5:]}</Code></Error>".encode(), "")
        elif fault == "silence":
            self.state.ended.wait(30)
        elif key not in self.state.objects:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>", "")
        else:
            self._body(self.state.objects[key], fault)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        key = unquote(urlsplit(self.path).path).removeprefix("/bucket/")
        data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.state.requests[f"PUT {key}"] += 1
        if self.headers.get("If-None-Match") == "*" and key in self.state.objects and not self.state.careless:
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>", "")
            return
        self.state.add(key, data)
        self._answer(200, b"", hashlib.md5(data, usedforsecurity=False).hexdigest())

    def do_POST(self) -> None:
        """Deletes what the body lists, which is how obstore deletes one."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        gone = [key for key in re.findall(r"<Key>([^<]*)</Key>", body) if self.state.objects.pop(key, None) is not None]
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in gone)
        self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode(), "")

    def _body(self, data: bytes, fault: str) -> None:
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if fault == "changed":
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>", "")
        elif fault == "flipped":
            self._answer(200, bytes([data[0] ^ 1]) + data[1:], etag)
        else:
            self._range(data, etag, cut=fault == "truncated")

    def _range(self, data: bytes, etag: str, *, cut: bool) -> None:
        """The whole body, or from where a client that lost the rest of it wants to resume."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._answer(200, data, etag, cut=cut)
            return
        start, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        self._answer(206, data[start : end + 1], etag, cut=cut, span=f"bytes {start}-{end}/{len(data)}")

    def _answer(self, status: int, body: bytes, etag: str, *, cut: bool = False, span: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if span:
            self.send_header("Content-Range", span)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Last-Modified", "Sat, 21 Nov 2026 10:00:00 GMT")
        for name, value in self.state.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = cut

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""
