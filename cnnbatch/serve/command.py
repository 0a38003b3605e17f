"""``cnnbatch serve``: from its options to a running server."""

import argparse
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import uvicorn

from cnnbatch.containers import open_source, parse_source
from cnnbatch.errors import UsageError
from cnnbatch.processes import keep_freed_memory
from cnnbatch.serve.app import MIB, Options, build_app
from cnnbatch.serve.connections import PatientProtocol
from cnnbatch.serve.guard import LOOPBACK, Access
from cnnbatch.serve.library import Library, Served, names_of
from cnnbatch.storage import Source, open_store
from cnnbatch.text import visible

TOKEN_VARIABLE: Final = "CNNBATCH_SERVE_TOKEN"
LEAST_TOKEN: Final = 16
MOST_CONNECTIONS: Final = 512
BACKLOG: Final = 256
SECONDS_TO_END: Final = 10


def serve(options: argparse.Namespace) -> None:
    """Serves until it is interrupted."""
    keep_freed_memory()
    access, token = _access(options)
    sources = _sources(options)
    names = names_of(options.archives)
    served = [Served(*one) for one in zip(names, options.archives, [None] * len(names), sources, strict=True)]
    app = build_app(Library(served), access, _limits(options))
    listening = _listen(options.host, options.port)
    _say(options, listening.getsockname()[1], token)
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_level=logging.WARNING,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=SECONDS_TO_END,
        h11_max_incomplete_event_size=32 << 10,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _sources(options: argparse.Namespace) -> list[Source | None]:
    """The originals of each archive, all with the same settings."""
    if len(options.source) not in (0, len(options.archives)):
        raise UsageError("one --source for each archive, in their order, or none")
    if not options.source:
        if options.settings:
            raise UsageError(f"{options.settings[0]} is a setting of --source, which is missing")
        return [None] * len(options.archives)
    parsed = [parse_source(url, options.settings) for url in options.source]
    return [open_source(open_store(url), settings) for url, settings in parsed]


COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace], None]]] = {"serve": serve}


def _limits(options: argparse.Namespace) -> Options:
    return Options(
        **({} if options.workers is None else {"workers": options.workers}),
        queue=options.queue,
        cache_bytes=options.cache_mib * MIB,
        decode_bytes=options.decode_mib * MIB,
        max_pixels=options.max_megapixels * 1_000_000,
        public_url=None if options.public_url is None else options.public_url.rstrip("/"),
    )


def _access(options: argparse.Namespace) -> tuple[Access, str | None]:
    """Who may ask, and the token that is to be printed, which is one that was made up here."""
    local = options.host in LOOPBACK
    given = os.environ.get(TOKEN_VARIABLE) or None
    if given is not None and len(given) < LEAST_TOKEN:
        raise UsageError(f"{TOKEN_VARIABLE} has fewer than {LEAST_TOKEN} characters")
    token = given or (None if local else secrets.token_urlsafe(24))
    hosts: frozenset[str] = frozenset()
    if local and token is None:
        hosts = LOOPBACK | ({urlsplit(options.public_url).hostname or ""} if options.public_url else frozenset())
    secure = (options.public_url or "").startswith("https:")
    return Access(token, hosts, frozenset(options.cors), secure), None if given else token


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that a port that is taken is said before anything else. Raises UsageError."""
    try:
        family, *_, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot listen on {visible(host)}, port {port}: {reason}") from error


def _say(options: argparse.Namespace, port: int, token: str | None) -> None:
    """The address, on stderr; the token only where nobody else can know it."""
    host = f"[{options.host}]" if ":" in options.host and not options.host.startswith("[") else options.host
    secret = "" if token is None else f"?token={token}"
    print(f"http://{host}:{port}/{secret}", file=sys.stderr, flush=True)
