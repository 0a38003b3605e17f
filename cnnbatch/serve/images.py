"""Pictures as files: IIIF images, thumbnails, downloads."""

from functools import partial
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from cnnbatch.archive.single import dump_cnb
from cnnbatch.errors import UsageError
from cnnbatch.serve import iiif
from cnnbatch.serve.http import ASK_AGAIN, FOR_A_WHILE, FOR_EVER, NotFound, attachment, document, etag, tagged, unchanged
from cnnbatch.serve.iiif import FORMATS, BadRequest, ImageRequest, Plan, parse_request
from cnnbatch.serve.library import Served, Version
from cnnbatch.serve.pixels import VIEWS, Shown, View
from cnnbatch.serve.rendering import as_jpeg, render
from cnnbatch.serve.state import State, original_of, segments

PARTS: Final = 4
THUMBNAIL_SIDES: Final = (128, 256, 512)
DOWNLOADS: Final = ("original", "png", "webp", "jpeg", "cnb", "source")
MEDIA_TYPE: Final = "application/octet-stream"
JSON_LD: Final = f'application/ld+json;profile="{iiif.CONTEXT}"'


async def iiif_image(request: Request) -> Response:
    """``/iiif/ARCHIVE/KEY/region/size/rotation/quality.format``, its ``info.json``, and the image's URI, which leads there.

    ARCHIVE is the name of an archive, or with ``~full``, ``~source`` or ``~difference`` behind it another view of it.
    """
    state: State = request.app.state.cnnbatch
    name, *rest = segments(request, "iiif")
    name, _, view = name.partition("~")
    if not rest or not rest[0] or (view and view not in VIEWS):
        raise NotFound("there is no such picture")
    served = state.served(name)
    shown_view: View = view or "archive"
    if shown_view in ("source", "difference") and served.source is None:
        raise NotFound("the source is not reachable from here")
    version = await state.version(request, served)
    if rest[-1] == "info.json":
        return await _info(request, state, version, "/".join(rest[:-1]))
    if len(rest) > PARTS:
        asked = parse_request(*rest[-PARTS:])
        return await _image(request, state, served, version, "/".join(rest[:-PARTS]), asked, shown_view)
    key = "/".join(rest)
    state.found(version, key)
    return RedirectResponse(f"{_identifier(state, request, key)}/info.json", 303)


async def thumbnail(request: Request) -> Response:
    """``/a/ARCHIVE/thumb?key=…&side=256&v=…``: a small upright picture."""
    state: State = request.app.state.cnnbatch
    served = state.served(request.path_params["archive"])
    key = request.query_params.get("key", "")
    side = request.query_params.get("side", "256")
    if side not in map(str, THUMBNAIL_SIDES):
        raise BadRequest(f"side is one of {', '.join(map(str, THUMBNAIL_SIDES))}")
    version = await state.version(request, served)
    number = state.found(version, key)
    identity = version.index.identity(number)
    tag = etag(identity, "thumb", side)
    cache = FOR_EVER if request.query_params.get("v") == identity else FOR_A_WHILE
    if (same := unchanged(request, tag, cache=cache)) is not None:
        return same
    body = state.rendered.find(tag)
    if body is None:
        make = partial(_thumbnail, state, version, number, int(side))
        body = await state.run_row(request, version, number, lambda: state.rendered.get(tag, make))
    return tagged(request, body, tag, media_type="image/jpeg", cache=cache)


async def download(request: Request) -> Response:
    """``/a/ARCHIVE/file?key=…&as=original|png|webp|jpeg|cnb|source``."""
    state: State = request.app.state.cnnbatch
    served = state.served(request.path_params["archive"])
    key, format = request.query_params.get("key", ""), request.query_params.get("as", "original")
    if format not in DOWNLOADS:
        raise UsageError(f"as is one of {', '.join(DOWNLOADS)}")
    version = await state.version(request, served)
    number = state.found(version, key)
    body = await state.run_row(request, version, number, partial(_file, state, served, version, number, key, format), format)
    name = key.rpartition("/")[2]
    if format not in ("original", "source"):
        name += f".{format}"
    tag = etag(version.index.identity(number), "file", format)
    return tagged(request, body, tag, media_type=MEDIA_TYPE, cache=ASK_AGAIN, headers=attachment(name))


async def _info(request: Request, state: State, version: Version, key: str) -> Response:
    number = state.found(version, key)
    shown = await state.run_row(request, version, number, partial(state.shown, version, number))
    content = iiif.info(_identifier(state, request, key), *shown.upright_size, state.limits)
    wants_ld = "application/ld+json" in request.headers.get("accept", "")
    response = document(request, content, media_type=JSON_LD if wants_ld else "application/json", cache=FOR_A_WHILE)
    response.headers["Vary"] = "Accept"
    response.headers["Link"] = f'<{iiif.PROFILE}>;rel="profile"'
    return response


async def _image(
    request: Request, state: State, served: Served, version: Version, key: str, asked: ImageRequest, view: View
) -> Response:
    number = state.found(version, key)
    identity = version.index.identity(number)
    tag = etag(identity, view, asked)
    cache = FOR_EVER if request.query_params.get("v") == identity else FOR_A_WHILE
    if (same := unchanged(request, tag, cache=cache)) is not None:
        return same

    def make() -> tuple[bytes, str]:
        shown = state.shown(version, number)
        plan = asked.resolve(*shown.upright_size, state.limits)
        rendered = state.rendered.get(etag(identity, view, plan.canonical), partial(_render, state, served, shown, plan, view))
        return rendered, plan.canonical

    body, canonical = await state.run_row(request, version, number, make, view)
    links = (
        f'<{_identifier(state, request, key)}/{quote(canonical, safe="/,.!^")}>;rel="canonical",<{iiif.PROFILE}>;rel="profile"'
    )
    return tagged(request, body, tag, media_type=FORMATS[asked.format], cache=cache, headers={"Link": links})


def _render(state: State, served: Served, shown: Shown, plan: Plan, view: View) -> bytes:
    with state.workroom.memory(state.pixels.cost(shown, plan, view)):
        pixels = state.pixels.pixels(shown, plan, view, partial(original_of, served, shown.row.key))
        return render(pixels, plan, icc=shown.row.icc if view != "difference" else None)


def _thumbnail(state: State, version: Version, number: int, side: int) -> bytes:
    shown = state.shown(version, number)
    with state.workroom.memory(state.pixels.thumbnail_cost(shown, side)):
        return as_jpeg(state.pixels.thumbnail(shown, side), icc=shown.row.icc)


def _file(state: State, served: Served, version: Version, number: int, key: str, format: str) -> bytes:
    if format == "source":
        return original_of(served, key)
    row = version.row(number)
    if format == "cnb":
        return dump_cnb(row)
    if row.outcome == "store":
        return state.foreign.file(row)
    shown: Any = state.shown(version, number)
    with state.workroom.memory(32 * shown.size[0] * shown.size[1]):
        return bytes(shown.picture.file(format))


def _identifier(state: State, request: Request, key: str) -> str:
    """The URI of a picture, in the view that was asked for."""
    raw = (request.scope.get("raw_path") or request.url.path.encode()).decode("ascii", "replace")
    name = raw.split("/")[2]
    return f"{state.base(request)}/iiif/{name}/{quote(key, safe='')}"
