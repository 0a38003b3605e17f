"""The application: which path is answered by what, and what it starts and ends with."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from cnnbatch.codec.geometry import Pixels
from cnnbatch.codec.transforms.integer_arrays import Floats
from cnnbatch.serve import images, listing, monitoring, pages
from cnnbatch.serve.caching import ByteCache
from cnnbatch.serve.connections import TimeLimit
from cnnbatch.serve.foreign import PROCESSES, ForeignDecoder
from cnnbatch.serve.guard import Access, Guard
from cnnbatch.serve.http import Sending, handlers
from cnnbatch.serve.iiif import Limits
from cnnbatch.serve.library import Library
from cnnbatch.serve.metrics import Counted, Metrics
from cnnbatch.serve.pixels import PixelReader
from cnnbatch.serve.state import State
from cnnbatch.serve.warming import warm
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


ROUTES: Final = (
    Route("/healthz", monitoring.health),
    Route("/metrics", monitoring.metrics),
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
)


def build_app(library: Library, access: Access, options: Options) -> Starlette:
    """The ASGI application; its lifespan starts and ends threads and processes."""
    state = build_state(library, options)
    library.warm = partial(warm, state)
    app = Starlette(
        routes=ROUTES,
        lifespan=_lifespan,
        exception_handlers=handlers(),
        middleware=[
            Middleware(Counted, metrics=state.metrics),
            Middleware(Guard, access=access),
            Middleware(TimeLimit),
        ],
    )
    app.state.cnnbatch = state
    app.state.kept = listing.Kept.make()
    app.state.sending = Sending(options.decode_bytes)
    return app


def build_state(library: Library, options: Options) -> State:
    """The state that all requests share, within the bounds of ``options``."""
    foreign = ForeignDecoder()
    pixels: ByteCache[Pixels] = ByteCache(options.cache_bytes // 4, lambda array: int(array.nbytes))
    latents: ByteCache[Floats] = ByteCache(options.cache_bytes // 2, lambda array: int(array.nbytes))
    rendered: ByteCache[bytes] = ByteCache(options.cache_bytes // 4, len)
    room = partial(Workroom, queue=options.queue, max_bytes=options.decode_bytes)
    workroom = room(options.workers)
    return State(
        library=library,
        workroom=workroom,
        searches=room(SEARCHES),
        foreigners=room(PROCESSES),
        pixels=PixelReader(pixels, latents, foreign, max_pixels=options.max_pixels),
        rendered=rendered,
        foreign=foreign,
        metrics=Metrics(library, workroom, {"pixels": pixels, "latents": latents, "rendered": rendered}),
        limits=options.limits,
        public_url=options.public_url,
    )


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[Mapping[str, object]]:
    state: State = app.state.cnnbatch
    state.library.start()
    try:
        yield {}
    finally:
        state.close()
