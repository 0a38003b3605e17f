"""The pages and what belongs to them: static files, read once. What they show comes from `listing` as JSON."""

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from cnnbatch.serve.guard import POLICY
from cnnbatch.serve.http import ASK_AGAIN, FOR_A_WHILE, NotFound, tagged
from cnnbatch.serve.state import State

MEDIA_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
HEAD: Final = "head.html"
"""The beginning of each page's head, which stands where the page names it."""

PAGES: Final = {"": "gallery.html", "picture": "picture.html", "dashboard": "dashboard.html"}


async def first(request: Request) -> Response:
    """``/``: the first archive's gallery."""
    state: State = request.app.state.cnnbatch
    return RedirectResponse(f"/a/{next(iter(state.library.served))}/", 303)


async def archives(request: Request) -> Response:
    """``/api/archives``: their names."""
    state: State = request.app.state.cnnbatch
    return JSONResponse({"archives": list(state.library.served)}, headers={"Cache-Control": ASK_AGAIN})


async def page(request: Request) -> Response:
    """``/a/ARCHIVE/``, ``/a/ARCHIVE/picture``, ``/a/ARCHIVE/dashboard``."""
    state: State = request.app.state.cnnbatch
    state.served(request.path_params["archive"])
    found = PAGES.get(request.path_params.get("page", ""))
    if found is None:
        raise NotFound("there is no such page")
    return _file(request, found, ASK_AGAIN, {"Content-Security-Policy": POLICY})


async def static(request: Request) -> Response:
    """``/static/NAME``."""
    return _file(request, request.path_params["name"], FOR_A_WHILE, {})


def _file(request: Request, name: str, cache_control: str, headers: dict[str, str]) -> Response:
    assets = _assets()
    if name not in assets:
        raise NotFound("there is no such page")
    body, tag = assets[name]
    media_type = MEDIA_TYPES[name.rpartition(".")[2]]
    return tagged(request, body, tag, media_type=media_type, cache=cache_control, headers=headers)


@cache
def _assets() -> dict[str, tuple[bytes, str]]:
    bodies = {entry.name: entry.read_bytes() for entry in files("cnnbatch.serve").joinpath("static").iterdir()}
    head = bodies.pop(HEAD)
    for name in PAGES.values():
        bodies[name] = bodies[name].replace(f"<!-- {HEAD} -->\n".encode(), head)
    return {name: (body, hashlib.blake2s(body, digest_size=12).hexdigest()) for name, body in bodies.items()}
