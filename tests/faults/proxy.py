"""A proxy in front of a real S3 server that loses, damages, delays and refuses what it is told to.

::

    with FaultProxy(server.endpoint) as proxy:
        proxy.rules.append(Rule("503", methods="PUT", path="/data/", times=3))
        config = StorageConfig(endpoint=proxy.endpoint, …)

Requests pass with their own ``Host``, so that their signatures stay right.
"""

import http.client
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, Self
from urllib.parse import unquote, urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}


@dataclass(slots=True)
class Rule:
    """What goes wrong with requests whose method is in ``methods`` and whose path matches ``path`` (a regular expression).

    ``fault``: ``lost-request``, ``lost-response`` (the server has done it), ``truncated``, ``flipped``, ``silence``,
    ``trickle``, ``pass``, a status such as ``503``, or a status with S3's code such as ``403 InvalidAccessKeyId``.
    ``detail`` stands in the XML of a refusal.
    The rule spares the first ``after`` of them, and ends after ``times``, or after one for each path. ``then`` is called first.
    """

    fault: str
    methods: str = "GET HEAD PUT POST DELETE"
    path: str = ""
    after: int = 0
    times: int | None = None
    once_each: bool = False
    then: Callable[[], None] | None = None
    detail: str = ""
    seen: int = 0
    done: set[str] = field(default_factory=set)

    def takes(self, method: str, path: str) -> bool:
        if method not in self.methods.split() or not re.search(self.path, path) or (self.once_each and path in self.done):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.times is not None and self.seen > self.after + self.times):
            return False
        self.done.add(path)
        return True


PASS = Rule("pass")


class FaultProxy:
    """Listens while its context is open. ``rules`` may be changed at any time; the first that fits counts."""

    def __init__(self, backend: str) -> None:
        self.backend = urlsplit(backend)
        self.rules: list[Rule] = []
        self.faults: list[tuple[str, str, str]] = []
        self.lock = threading.Lock()
        self.ended = threading.Event()

    def rule_for(self, method: str, path: str) -> Rule:
        """The rule for this request, noted in ``faults`` as (fault, method, path)."""
        with self.lock:
            rule = next((rule for rule in self.rules if rule.takes(method, path)), None)
            if rule is None:
                return PASS
            self.faults.append((rule.fault, method, path))
            if rule.then is not None:
                rule.then()
            return rule

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    timeout = 30
    proxy: ClassVar[FaultProxy]

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        rule = self.proxy.rule_for(self.command, unquote(self.path))
        fault = rule.fault
        if fault == "silence":
            self.proxy.ended.wait(60)
        if fault in {"silence", "lost-request"}:
            self._hang_up()
        elif fault[:1].isdigit():
            status, _, code = fault.partition(" ")
            self._answer(int(status), [], f"<Error><Code>{code or 'Fault'}</Code>{rule.detail}</Error>".encode())
        else:
            self._pass_on(body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815 - names of http.server

    def _pass_on(self, body: bytes, fault: str) -> None:
        backend = http.client.HTTPConnection(self.proxy.backend.hostname or "", self.proxy.backend.port or 80, timeout=30)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            backend.request(self.command, self.path, body if body or self.command in {"PUT", "POST"} else None, headers)
            response = backend.getresponse()
            data = response.read()
        finally:
            backend.close()
        if fault == "lost-response":
            self._hang_up()
            return
        passed = [(name, value) for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP]
        fault = fault if response.status < 300 else ""  # what is damaged are bodies, not refusals
        if fault == "flipped" and data:
            data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        self._answer(response.status, passed, data, fault=fault, length=response.getheader("Content-Length"))

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, *, fault: str = "", length: str | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", length if length and self.command == "HEAD" else str(len(data)))
        self.end_headers()
        if self.command == "HEAD" or status in {204, 304}:
            return
        if fault == "trickle":
            self._trickle(data)
        else:
            self.wfile.write(data[: len(data) // 2] if fault == "truncated" else data)
        if fault == "truncated":
            self.wfile.flush()
            self._hang_up()

    def _trickle(self, data: bytes) -> None:
        for at in range(len(data)):
            try:
                self.wfile.write(data[at : at + 1])
                self.wfile.flush()
            except OSError:
                break
            if self.proxy.ended.wait(0.1):
                break
        self.close_connection = True

    def _hang_up(self) -> None:
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # the client was faster
            return

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""
