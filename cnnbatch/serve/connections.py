"""Connections that take their time: one that sends no request, or does not read its answer, is closed."""

import asyncio
import socket
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS_TO_ASK: Final = 15.0
SECONDS_TO_ANSWER: Final = 120.0


class PatientProtocol(H11Protocol):
    """uvicorn's own, which waits for the end of a request's headers for ever, with an end to that."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begins to wait, and sends what there is at once: a header that waits for its body costs 40 ms a request."""
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
    """ASGI middleware: an answer that is not sent in time is given up, and its connection with it."""

    def __init__(self, app: ASGIApp, seconds: float = SECONDS_TO_ANSWER) -> None:
        self._app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                await self._app(scope, receive, send)
        except TimeoutError:
            raise ConnectionAbortedError("the answer took too long") from None
