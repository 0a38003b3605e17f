"""The application: which path is answered by what, and what it starts and ends with."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cnnbatch.codec.geometry import Pixels
from cnnbatch.serve import images, listing, pages
from cnnbatch.serve.caching import ByteCache
from cnnbatch.serve.connections import TimeLimit
from cnnbatch.serve.foreign import PROCESSES, ForeignDecoder
from cnnbatch.serve.guard import Access, Guard
from cnnbatch.serve.http import handlers
from cnnbatch.serve.iiif import Limits
from cnnbatch.serve.library import Library
from cnnbatch.serve.metrics import CONTENT_TYPE, Counted, Metrics
from cnnbatch.serve.pixels import PixelReader
from cnnbatch.serve.state import State
from cnnbatch.serve.workroom import Workroom

MIB = 1 << 20
SEARCHES = 4


@dataclass(frozen=True, slots=True)
class Options:
    """Bounds of one server. Sizes in bytes."""

    workers: int = field(default_factory=lambda: max(2, len(os.sched_getaffinity(0))))
    queue: int = 256
    cache_bytes: int = 512 * MIB
    decode_bytes: int = 2048 * MIB
    max_pixels: int = 400_000_000
    limits: Limits = field(default_factory=Limits)
    public_url: str | None = None


def build_app(library: Library, access: Access, options: Options) -> Starlette:
    """The ASGI application; its lifespan starts and ends threads and processes."""
    foreign = ForeignDecoder()
    pixels: ByteCache[Pixels] = ByteCache(options.cache_bytes // 2, lambda array: int(array.nbytes))
    rendered: ByteCache[bytes] = ByteCache(options.cache_bytes // 2, len)
    workroom = Workroom(options.workers, queue=options.queue, max_bytes=options.decode_bytes)
    state = State(
        library=library,
        workroom=workroom,
        searches=Workroom(SEARCHES, queue=options.queue, max_bytes=options.decode_bytes),
        foreigners=Workroom(PROCESSES, queue=options.queue, max_bytes=options.decode_bytes),
        pixels=PixelReader(pixels, foreign, max_pixels=options.max_pixels),
        rendered=rendered,
        foreign=foreign,
        limits=options.limits,
        public_url=options.public_url,
    )
    metrics = Metrics(library, workroom, {"pixels": pixels, "rendered": rendered})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[Mapping[str, object]]:
        library.start()
        yield {}
        library.stop()
        state.workroom.close()
        state.searches.close()
        state.foreigners.close()
        foreign.close()

    async def health(request: Request) -> Response:
        """Whether the process answers, and whether each index is there."""
        ready = {name: one.is_ready for name, one in library.served.items()}
        status = 200 if all(ready.values()) or "live" in request.query_params else 503
        return JSONResponse({"ready": all(ready.values())}, status, {"Cache-Control": "no-store"})

    async def scraped(request: Request) -> Response:
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})

    routes = [
        Route("/healthz", health),
        Route("/metrics", scraped),
        Route("/", pages.first),
        Route("/static/{name}", pages.static),
        Route("/a/{archive}/thumb", images.thumbnail),
        Route("/a/{archive}/file", images.download),
        Route("/a/{archive}/", pages.page),
        Route("/a/{archive}/{page}", pages.page),
        Route("/api/archives", pages.archives),
        Route("/api/{archive}/folders", listing.folders),
        Route("/api/{archive}/pictures", listing.pictures),
        Route("/api/{archive}/picture", listing.picture),
        Route("/api/{archive}/figures", listing.dashboard),
        Route("/api/{archive}/runs", listing.runs),
        Route("/iiif/{rest:path}", images.iiif_image),
        Route("/presentation/{rest:path}", listing.presentation),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers=handlers(),
        middleware=[Middleware(Counted, metrics=metrics), Middleware(Guard, access=access), Middleware(TimeLimit)],
    )
    app.state.cnnbatch = state
    app.state.kept = listing.Kept.make()
    return app
