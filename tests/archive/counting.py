"""A relay in front of an S3 server that counts what a client asks for and gets."""

import socket
import threading
from typing import Self
from urllib.parse import urlsplit

CHUNK = 1 << 16


class CountingRelay:
    """Forwards TCP to an HTTP server; ``requests`` are counted by their request lines, ``bytes_down`` as answered.

    Meant for requests without bodies of their own: a body that contained ``" HTTP/1.1"`` would count too.
    """

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[str] = []
        self.bytes_down = 0

    def reset(self) -> None:
        self.requests, self.bytes_down = [], 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            server = socket.create_connection(self._target)
            threading.Thread(target=self._forward, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, False), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, is_up: bool) -> None:
        with source, sink:
            try:
                while data := source.recv(CHUNK):
                    if is_up:
                        lines = data.split(b"\r\n")
                        self.requests += [line.decode("latin-1") for line in lines if line.endswith(b" HTTP/1.1")]
                    else:
                        self.bytes_down += len(data)
                    sink.sendall(data)
            except OSError:  # either side went away
                return
