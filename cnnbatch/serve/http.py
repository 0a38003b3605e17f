"""Answers: JSON, pages and bytes with their ETags, and errors as sentences."""

import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from cnnbatch.errors import (
    ArchiveError,
    BitstreamError,
    CnnbatchError,
    CodecFileError,
    ImageError,
    StorageError,
    UsageError,
)
from cnnbatch.serve.iiif import BadRequest, NotImplementedHere
from cnnbatch.serve.ranges import ByteRange, NotSatisfiable, parse_range
from cnnbatch.serve.workroom import Busy, Gone
from cnnbatch.text import visible
from cnnbatch.version import VERSION

FOR_EVER: Final = "private, max-age=31536000, immutable"
"""For an address that has its content's identity in it."""

FOR_A_WHILE: Final = "private, max-age=60, must-revalidate"
ASK_AGAIN: Final = "private, no-cache"
SECONDS_TO_WAIT: Final = "2"
CHUNK_BYTES: Final = 256 << 10


class NotFound(Exception):
    """There is no such archive, picture or page: 404."""


STATUS: Final[Mapping[type[Exception], tuple[int, str]]] = {
    BadRequest: (400, ""),
    UsageError: (400, ""),
    NotFound: (404, ""),
    NotImplementedHere: (501, ""),
    Busy: (503, "too many requests at once: try again"),
    Gone: (499, ""),
    NotSatisfiable: (416, ""),
    BitstreamError: (422, "the picture's coded bytes are damaged"),
    ImageError: (422, ""),
    CodecFileError: (422, "the archive's codec file is missing or damaged"),
    StorageError: (502, "the store did not give the picture"),
    ArchiveError: (422, "the archive is damaged here"),
    CnnbatchError: (500, "this server could not do it"),
    KeyError: (404, "there is no such picture"),
}
"""Answers to errors, the nearest class first; a text stands for the error's own where that may name places here."""


def failure(request: Request, error: Exception) -> Response:
    """The answer for an error of `STATUS`: one sentence as JSON."""
    kind = next(base for base in type(error).__mro__ if base in STATUS)
    status, text = STATUS[kind]
    if isinstance(error, ImageError):
        text = f"the picture cannot be shown: {error.reason}"
    headers = {"Cache-Control": "no-store"}
    if status == 503:
        headers["Retry-After"] = SECONDS_TO_WAIT
    return JSONResponse({"error": text or visible(str(error))}, status, headers)


def handlers() -> dict[type[Exception], Any]:
    """For Starlette."""
    return dict.fromkeys(STATUS, failure)


def document(request: Request, content: Any, *, media_type: str = "application/json", cache: str = ASK_AGAIN) -> Response:
    """JSON with an ETag of its own content."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":"), default=str).encode("utf-8", "replace")
    return tagged(request, body, hashlib.blake2s(body, digest_size=12).hexdigest(), media_type=media_type, cache=cache)


def etag(*parts: object) -> str:
    """A tag of what decides an answer; another version of the package may answer otherwise."""
    return hashlib.blake2s("\0".join(map(str, (VERSION, *parts))).encode("utf-8", "replace"), digest_size=12).hexdigest()


def unchanged(request: Request, tag: str, *, cache: str) -> Response | None:
    """304 where the client has it already."""
    given = request.headers.get("if-none-match", "")
    tags = {one.strip().removeprefix("W/") for one in given.split(",")}
    if given.strip() == "*" or f'"{tag}"' in tags:
        return Response(status_code=304, headers={"ETag": f'"{tag}"', "Cache-Control": cache})
    return None


def tagged(
    request: Request, body: bytes, tag: str, *, media_type: str, cache: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Bytes with an ETag, a range of them where one is asked for, or 304."""
    if (same := unchanged(request, tag, cache=cache)) is not None:
        return same
    labels = {"ETag": f'"{tag}"', "Cache-Control": cache, "Accept-Ranges": "bytes", **(headers or {})}
    asked = None
    if request.headers.get("if-range", f'"{tag}"') == f'"{tag}"':
        try:
            asked = parse_range(request.headers.get("range"), len(body))
        except NotSatisfiable as error:
            return JSONResponse({"error": str(error)}, 416, {"Content-Range": f"bytes */{len(body)}"})
    return _part(request, body, asked, labels, media_type)


def _part(request: Request, body: bytes, asked: ByteRange | None, labels: dict[str, str], media_type: str) -> Response:
    status = 200
    if asked is not None:
        labels["Content-Range"] = f"bytes {asked.start}-{asked.end - 1}/{len(body)}"
        body, status = body[asked.start : asked.end], 206
    labels["Content-Length"] = str(len(body))
    if request.method == "HEAD":
        return Response(status_code=status, headers=labels, media_type=media_type)
    if len(body) <= CHUNK_BYTES:
        return Response(body, status, labels, media_type)
    return LongResponse(request.app.state.sending, body, status, labels, media_type)


@dataclass(slots=True)
class Sending:
    """Bytes of long bodies that are being sent, at most ``max_bytes`` at once: clients may take their time over them."""

    max_bytes: int
    held_bytes: int = 0

    def take(self, num_bytes: int) -> None:
        """Counts a body in. Raises Busy where others leave no room; one that is larger than all there is is sent alone."""
        if self.held_bytes and self.held_bytes + num_bytes > self.max_bytes:
            raise Busy
        self.held_bytes += num_bytes


class LongResponse(StreamingResponse):
    """A body that is sent piece by piece, the next when the client has taken the last. Raises Busy, see `Sending`."""

    def __init__(self, sending: Sending, body: bytes, status: int, headers: dict[str, str], media_type: str) -> None:
        sending.take(len(body))
        self._sending, self._num_bytes = sending, len(body)
        pieces = (body[start : start + CHUNK_BYTES] for start in range(0, len(body), CHUNK_BYTES))
        super().__init__(_each(pieces), status, headers, media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it, and counts it out, whatever becomes of that."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._sending.held_bytes -= self._num_bytes


async def _each(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def attachment(name: str) -> dict[str, str]:
    """Headers of a download under a name, whatever is in it."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name) or "picture"
    return {"Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"}
