"""Metrics that Prometheus scrapes under ``/metrics``."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cnnbatch.serve.caching import ByteCache
from cnnbatch.serve.library import Library
from cnnbatch.serve.workroom import Workroom

SECONDS: Final = (0.005, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 15, 60)
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
KINDS: Final = frozenset({"a", "api", "iiif", "presentation", "static", "healthz", "metrics"})


class Metrics:
    """Counters of requests by kind and status, and gauges that are read when they are asked for."""

    def __init__(self, library: Library, workroom: Workroom, caches: Mapping[str, ByteCache[Any]]) -> None:
        self._registry = CollectorRegistry()
        named: Any = {"namespace": "cnnbatch_serve", "registry": self._registry}
        self.requests = Counter("requests", "Answers, by the first part of the path and status", ["kind", "status"], **named)
        self.seconds = Histogram("seconds", "Time until an answer was sent", ["kind"], buckets=SECONDS, **named)
        self.sent = Counter("sent_bytes", "Bytes of bodies", **named)
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "waiting": ("Requests that wait for a place", lambda: workroom.waiting),
            "working": ("Requests that are computed", lambda: workroom.working),
            "held_bytes": ("Memory that is reserved for decoding", lambda: workroom.held_bytes),
            "images": ("Pictures in the indexes", lambda: sum(library.counts().values())),
        }
        for name, (text, function) in gauges.items():
            Gauge(name, text, **named).set_function(function)
        cached = Gauge("cache_bytes", "Bytes that are kept", ["cache"], **named)
        for name, cache in caches.items():
            cached.labels(name).set_function(partial(getattr, cache, "num_bytes"))

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


class Counted:
    """ASGI middleware that counts what `Metrics` shows."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        first = scope["path"].lstrip("/").partition("/")[0]
        kind = first if first in KINDS else "other"
        started, status = time.monotonic(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                self._metrics.sent.inc(len(message.get("body", b"")))
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            self._metrics.requests.labels(kind, str(status or 499)).inc()
            self._metrics.seconds.labels(kind).observe(time.monotonic() - started)
