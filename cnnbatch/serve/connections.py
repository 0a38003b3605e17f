"""Connections that take their time: one that sends no request, or does not read its answer, is closed."""

import asyncio
import socket
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS_TO_ASK: Final = 15.0
SECONDS_TO_ANSWER: Final = 120.0
SECONDS_TO_READ: Final = 30
"""Time in which a client takes nothing of what lies ready for it."""

LEAST_RATE: Final = 64 << 10
"""Bytes a second that a client takes, on average, of a long answer."""


class PatientProtocol(H11Protocol):
    """uvicorn's own, which waits for the end of a request's headers for ever, with an end to that."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begins to wait, and sends what there is at once: a header that waits for its body costs 40 ms a request."""
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * SECONDS_TO_READ)
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self) -> None:
        """The same for the next request, beside uvicorn's limit on silence."""
        super().on_response_complete()
        self._wait()

    def handle_events(self) -> None:
        """Stops waiting when a request is whole."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop()
        self._waiting = self.loop.call_later(SECONDS_TO_ASK, self._close)

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class TimeLimit:
    """ASGI middleware: an answer that does not begin in time, or is not taken in time, is given up with its connection."""

    def __init__(self, app: ASGIApp, seconds: float = SECONDS_TO_ANSWER) -> None:
        self._app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds) as limit:

                async def begun(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        length = int(dict(message["headers"]).get(b"content-length", 0))
                        limit.reschedule(asyncio.get_running_loop().time() + self._seconds + length / LEAST_RATE)
                    await send(message)

                await self._app(scope, receive, begun)
        except TimeoutError:
            raise ConnectionAbortedError("the answer took too long") from None
