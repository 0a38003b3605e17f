"""Things that all requests share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from starlette.requests import Request

from cnnbatch.archive.schema import MAX_PAYLOAD_BYTES
from cnnbatch.errors import CnnbatchError, StorageError, Unreadable
from cnnbatch.picture import Picture
from cnnbatch.serve.caching import ByteCache
from cnnbatch.serve.foreign import ForeignDecoder
from cnnbatch.serve.http import NotFound
from cnnbatch.serve.iiif import BadRequest, Limits
from cnnbatch.serve.library import Library, Served, Version
from cnnbatch.serve.metrics import Metrics
from cnnbatch.serve.pixels import PixelReader, Shown
from cnnbatch.serve.workroom import Workroom
from cnnbatch.storage import is_safe_key

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class State:
    """The archives, the threads and the caches. ``public_url``: under which the server is reached, where a proxy hides it."""

    library: Library
    workroom: Workroom
    searches: Workroom
    foreigners: Workroom
    pixels: PixelReader
    rendered: ByteCache[bytes]
    foreign: ForeignDecoder
    metrics: Metrics
    limits: Limits
    public_url: str | None = None

    async def run(self, request: Request, function: Callable[[], T]) -> T:
        """In the workroom, when it is its turn."""
        return await self.workroom.run(request.is_disconnected, function)

    async def run_row(self, request: Request, version: Version, number: int, function: Callable[[], T], view: str = "") -> T:
        """The same, but for rows whose files others encoded: these wait for one another, and hold no other row up."""
        foreign = view in ("source", "difference") or version.index.is_stored(number)
        return await (self.foreigners if foreign else self.workroom).run(request.is_disconnected, function)

    async def search(self, request: Request, function: Callable[[], T]) -> T:
        """The same for what reads an index, or builds one."""
        return await self.searches.run(request.is_disconnected, function)

    async def version(self, request: Request, served: Served) -> Version:
        """The newest version of an archive; waits where its index is being read."""
        return served.version if served.is_ready else await self.search(request, lambda: served.version)

    def close(self) -> None:
        """Ends threads and processes when what they are at is done."""
        self.library.stop()
        for room in (self.workroom, self.searches, self.foreigners):
            room.close()
        self.foreign.close()

    def served(self, name: str) -> Served:
        """An archive by its name. Raises NotFound."""
        if name not in self.library.served:
            raise NotFound("there is no such archive")
        return self.library.served[name]

    def found(self, version: Version, key: str) -> int:
        """The row of a key. Raises NotFound."""
        number = version.index.find(key)
        if number is None:
            raise NotFound("there is no such picture")
        return number

    def shown(self, version: Version, number: int) -> Shown:
        """A picture with all that is stored of it; reads it. Raises ImageError, ArchiveError."""
        picture = Picture(version.row(number), version.archive.codecs)
        return self.pixels.open(picture, version.index.identity(number))

    def base(self, request: Request) -> str:
        """The address of this server as its client knows it."""
        return self.public_url or f"{request.url.scheme}://{request.headers['host']}"


def original_of(served: Served, key: str) -> bytes:
    """The file in the source. Raises NotFound, StorageError."""
    if served.source is None or not is_safe_key(key):
        raise NotFound("the source is not reachable from here")
    try:
        info = served.source.head(key)
        if info is None:
            raise NotFound("the source has no such file any more")
        if (info.size or 0) > MAX_PAYLOAD_BYTES:
            raise NotFound("the source's file is too large for this server")
        return served.source.get(info)
    except Unreadable as error:
        raise NotFound("the source does not give this file") from error
    except StorageError:
        raise
    except CnnbatchError as error:
        raise NotFound("the source does not give this file") from error


def segments(request: Request, prefix: str) -> list[str]:
    """The parts of the path behind ``/prefix/``, each percent-decoded on its own: a key's slashes are escaped."""
    raw = (request.scope.get("raw_path") or request.url.path.encode()).partition(b"?")[0]
    try:
        return [unquote_to_bytes(part).decode() for part in raw.split(b"/")[2:]]
    except UnicodeDecodeError:
        raise BadRequest("the address is not UTF-8") from None
