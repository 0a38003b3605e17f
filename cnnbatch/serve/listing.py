"""Endpoints that the pages ask: folders, pictures, one picture's particulars, figures, runs; IIIF manifests."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from cnnbatch.archive.fields import parse_fields
from cnnbatch.archive.schema import BLOBS
from cnnbatch.errors import ArchiveError, UsageError
from cnnbatch.serve import manifests
from cnnbatch.serve.caching import ByteCache
from cnnbatch.serve.figures import figures
from cnnbatch.serve.http import FOR_A_WHILE, NotFound, document
from cnnbatch.serve.index import Index, Rows, payload_bytes
from cnnbatch.serve.library import Served, Version
from cnnbatch.serve.orientation import exif_text
from cnnbatch.serve.runs import last_runs
from cnnbatch.serve.search import Query, parse_query, select
from cnnbatch.serve.state import State, segments

MOST_ROWS: Final = 500
MOST_FOLDERS: Final = 5000
JSON_LD: Final = f'application/ld+json;profile="{manifests.CONTEXT}"'
RESULT_BYTES: Final = 256 << 20
FIGURES_KEPT: Final = 64

PARTICULARS: Final = (
    *("key", "label", "source_format", "source_size", "source_mtime", "width", "height", "mode", "outcome", "reason"),
    *("payload_coding", "codec_id", "quality", "psnr_db", "ssimulacra2", "ingested_at", "run_id", "container"),
)


@dataclass(frozen=True, slots=True)
class Kept:
    """Results of searches, and figures, of versions that were looked at."""

    results: ByteCache[Rows]
    figures: ByteCache[dict[str, Any]]

    @classmethod
    def make(cls) -> "Kept":
        return cls(ByteCache(RESULT_BYTES, _size), ByteCache(FIGURES_KEPT, lambda _: 1))


def _size(rows: Rows) -> int:
    return 64 if isinstance(rows, range) else int(rows.nbytes) + 64


async def folders(request: Request) -> Response:
    """``/api/ARCHIVE/folders?folder=…``: the folders in a folder, and how many pictures are below each."""
    _, _, version = await _opened(request)
    folder = request.query_params.get("folder", "")
    found = list(version.index.subfolders(folder))
    shown = [{"path": one.path, "count": one.count} for one in found[:MOST_FOLDERS]]
    content = {"folders": shown, "more": len(found) - len(shown), "count": version.index.folders.get(folder, 0)}
    return document(request, content)


async def pictures(request: Request) -> Response:
    """``/api/ARCHIVE/pictures?folder=…&glob=…&offset=…&limit=…``: some of what a query finds, and how many."""
    state, served, version = await _opened(request)
    query = parse_query(request.query_params.items())
    offset, limit = _whole(request, "offset", 0), min(MOST_ROWS, _whole(request, "limit", 100))
    rows = await _rows(request, state, served, version, query)
    part = rows[offset : offset + limit]
    content = {"total": len(rows), "offset": offset, "version": version.index.version, "pictures": version.index.rows(part)}
    return document(request, content)


async def picture(request: Request) -> Response:
    """``/api/ARCHIVE/picture?key=…``: all that is known of one, its neighbours in the query, and what it cost."""
    state, served, version = await _opened(request)
    key = request.query_params.get("key", "")
    number = state.found(version, key)
    query = parse_query(request.query_params.items())
    content = await state.run(request, partial(_particulars, version, number))
    rows = await _rows(request, state, served, version, query)
    content |= _neighbours(version.index, rows, number) | {"source": served.source is not None}
    return document(request, content)


async def dashboard(request: Request) -> Response:
    """``/api/ARCHIVE/figures``."""
    state, served, version = await _opened(request)
    kept: Kept = request.app.state.kept
    made = (served.name, version.index.version)
    content = await state.search(request, lambda: kept.figures.get(made, lambda: _figures(version)))
    return document(request, content)


async def runs(request: Request) -> Response:
    """``/api/ARCHIVE/runs``: the last runs, the oldest first."""
    state, _, version = await _opened(request)
    return document(request, {"runs": await state.search(request, partial(last_runs, version.archive.rows.store))})


async def presentation(request: Request) -> Response:
    """``/presentation/ARCHIVE/FOLDER/collection.json`` and ``/presentation/ARCHIVE/FOLDER/PAGE/manifest.json``."""
    state: State = request.app.state.cnnbatch
    name, *rest = segments(request, "presentation")
    served = state.served(name)
    version = await state.version(request, served)

    def address(path: str) -> str:
        return f"{state.base(request)}{path}"

    match rest:
        case [*folder, "collection.json"] if "/".join(folder) in version.index.folders:
            content = manifests.collection(version.index, name, "/".join(folder), address)
        case [*folder, page, "manifest.json"] if (
            "/".join(folder) in version.index.folders and page.isascii() and page.isdigit()
        ):
            try:
                content = manifests.manifest(version.index, name, "/".join(folder), int(page[:9]), address)
            except LookupError:
                raise NotFound("there is no such page") from None
        case _:
            raise NotFound("there is no such folder")
    return document(request, content, media_type=JSON_LD, cache=FOR_A_WHILE)


async def _opened(request: Request) -> tuple[State, Served, Version]:
    state: State = request.app.state.cnnbatch
    served = state.served(request.path_params["archive"])
    return state, served, await state.version(request, served)


async def _rows(request: Request, state: State, served: Served, version: Version, query: Query) -> Rows:
    kept: Kept = request.app.state.kept
    made = (served.name, version.index.version, query)
    found = kept.results.find(made)
    if found is not None:
        return found
    make = partial(select, version.archive, version.index, query)
    return await state.search(request, lambda: kept.results.get(made, make))


def _particulars(version: Version, number: int) -> dict[str, Any]:
    row = version.row(number)
    found = {name: getattr(row, name) for name in PARTICULARS}
    try:
        fields = {field.name: _shown(field.plain()) for field in parse_fields(row.fields)}
    except ArchiveError:
        fields = {}
    sides = {name: len(getattr(row, name)) for name in BLOBS if getattr(row, name) is not None}
    return {
        **found,
        "sha256": row.source_sha256.hex(),
        "payload_bytes": len(row.payload),
        "side_bytes": sides,
        "fields": fields,
        "exif": exif_text(row.exif),
        "v": version.index.identity(number),
    }


def _shown(value: Any) -> Any:
    if isinstance(value, bytes):
        return value[:1000].decode(errors="replace")
    return value if isinstance(value, bool | int | float) else str(value)[:1000]


def _neighbours(index: Index, rows: Rows, number: int) -> dict[str, Any]:
    """The keys before and behind it, and its place."""
    found = _position(rows, number)
    if found is None:
        return {"position": None, "total": len(rows), "previous": None, "next": None}
    before = index.keys[int(rows[found - 1])].as_py() if found else None
    behind = index.keys[int(rows[found + 1])].as_py() if found + 1 < len(rows) else None
    return {"position": found, "total": len(rows), "previous": before, "next": behind}


def _position(rows: Rows, number: int) -> int | None:
    if isinstance(rows, range):
        return rows.index(number) if number in rows else None
    places = (rows == number).nonzero()[0]
    return int(places[0]) if places.size else None


def _figures(version: Version) -> dict[str, Any]:
    return figures(version.index, payload_bytes(version.archive.rows.store, version.index))


def _whole(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise UsageError(f"{name} is a number")
    return int(text)
