"""Who may ask: by a token where the server can be reached from outside, else by its Host; and headers of all answers."""

import hmac
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE: Final = "cnnbatch-token"
OPEN_PATHS: Final = frozenset({"/healthz"})
MAX_URL_BYTES: Final = 16 << 10
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})

NOTHING_INLINE: Final = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
"""Digest of the empty text: the viewer looks for an empty style element, and adds its own where there is none."""

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self' '{NOTHING_INLINE}'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types default",
    )
)
"""Policy of every page: its own scripts, styles and pictures, and nothing that is made of text while it runs."""

SANDBOX: Final = "default-src 'none'; sandbox"
"""Policy of everything else: a picture that a browser takes for a page may do nothing."""

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:\d{1,5})?")


@dataclass(frozen=True, slots=True)
class Access:
    """``token`` None: none is asked for. ``hosts``: names under which the server may be asked, empty for any.

    ``origins``: of pages elsewhere that may read IIIF answers, ``*`` for all. ``secure``: whether clients come by https.
    """

    token: str | None = field(default=None, repr=False)
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    secure: bool = False

    def knows_host(self, host: str) -> bool:
        """Whether it is a Host header that may be answered: other names that lead here are somebody's trick."""
        found = _HOST.fullmatch(host)
        return found is not None and (not self.hosts or found[1].lower() in self.hosts)

    def admits(self, given: str | None) -> bool:
        """Whether it is the token, compared in constant time."""
        return self.token is None or (given is not None and hmac.compare_digest(given.encode(), self.token.encode()))

    def allowed_origin(self, origin: str | None) -> str | None:
        """The value of Access-Control-Allow-Origin."""
        if "*" in self.origins:
            return "*"
        return origin if origin in self.origins else None


class Guard:
    """ASGI middleware in front of everything."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers itself what may not be asked."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        await (self._app if refusal is None else refusal)(scope, receive, self._labelled(scope, send))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            return PlainTextResponse("read-only: GET, HEAD and OPTIONS", 405, {"Allow": "GET, HEAD, OPTIONS"})
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URL_BYTES:
            return PlainTextResponse("the address is too long", 414)
        if not self._access.knows_host(headers.get("host", "")):
            return PlainTextResponse("this server has another name", 421)
        if scope["method"] == "OPTIONS":
            return Response(status_code=204, headers={"Allow": "GET, HEAD, OPTIONS"})
        if self._access.token is None or scope["path"] in OPEN_PATHS:
            return None
        return self._unless_known(Request(scope))

    def _unless_known(self, request: Request) -> Response | None:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._access.admits(bearer.strip()):
            return None
        if self._access.admits(request.cookies.get(COOKIE)):
            return None
        query = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if not given or not self._access.admits(given[0]):
            text = "a token is needed: open the address that the server printed, or send Authorization: Bearer TOKEN\n"
            return PlainTextResponse(text, 401, {"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"})
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        path = (request.scope.get("raw_path") or request.scope["path"].encode()).decode("latin-1").partition("?")[0]
        response = RedirectResponse(f"/{path.lstrip('/')}{'?' if rest else ''}{rest}", 303, {"Cache-Control": "no-store"})
        secure = self._access.secure or request.url.scheme == "https"
        response.set_cookie(COOKIE, given[0], httponly=True, samesite="strict", secure=secure, path="/")
        return response

    def _labelled(self, scope: Scope, send: Send) -> Send:
        origin = self._access.allowed_origin(Headers(scope=scope).get("origin"))
        shared = scope["path"].startswith(("/iiif/", "/presentation/"))

        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if message["status"] != 304:  # whose headers replace those that the client has kept
                    headers.setdefault("Content-Security-Policy", SANDBOX)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                if shared and origin is not None:
                    headers["Access-Control-Allow-Origin"] = origin
                    headers["Access-Control-Expose-Headers"] = "Link"
                    headers["Access-Control-Allow-Headers"] = "Accept, Authorization, Range"
                # A viewer's <img> says no origin: where one may read pictures, every page may show them.
                headers["Cross-Origin-Resource-Policy"] = "cross-origin" if shared and self._access.origins else "same-origin"
                if shared and "*" not in self._access.origins:
                    headers.add_vary_header("Origin")
            await send(message)

        return labelled
