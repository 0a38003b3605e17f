"""URLs of stores: what kind they are, and whether one lies inside another."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cnnbatch.errors import UsageError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "azure": "az"}
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]+")
_WITH_QUERY = {"http", "https", "abfs", "abfss", "adl", "wasb", "wasbs", "webdav", "webhdfs"}
OBJECT_STORES = ("s3", "gs", "az")


@dataclass(frozen=True, slots=True)
class Location:
    """A parsed URL. ``scheme`` is ``"file"`` for local paths; ``parts`` are the folders below ``host`` (or below /)."""

    scheme: str
    host: str
    parts: tuple[str, ...]

    @property
    def url(self) -> str:
        """The normalised form: an absolute path for local folders, no credentials, no final ``/``."""
        path = "/".join(self.parts)
        if self.scheme == "file":
            return f"/{path}"
        return f"{self.scheme}://{self.host}/{path}".rstrip("/") if self.parts else f"{self.scheme}://{self.host}"


def parse_url(url: str) -> Location:
    """Parse and normalise a path or URL.

    Raises:
        UsageError: no bucket, credentials in an object store's URL, or a prefix with ``..`` or empty parts.
    """
    if not url or "\0" in url:
        raise UsageError("an empty URL, or one with a NUL in it")
    match = _SCHEME.fullmatch(url)
    if match is None or match[1].lower() in {"file", "local"}:
        path = os.path.abspath(url if match is None else match[2])  # noqa: PTH100 - Path.absolute keeps ".."
        return Location("file", "", Path(path).parts[1:])
    scheme = _ALIASES.get(match[1].lower(), match[1].lower())
    host, _, path = match[2].partition("/")
    if scheme in OBJECT_STORES:
        return _object_location(scheme, host, path)
    return _other_location(scheme, host, path)


def plain_url(text: str) -> str:
    """A URL without user, password and query, for messages and reports; what is no URL stays as it is."""
    match = _SCHEME.fullmatch(text)
    if match is None:
        return text
    try:
        return parse_url(text).url
    except UsageError:  # its text may hold the password anywhere
        return f"{match[1]}://…"


def _other_location(scheme: str, host: str, path: str) -> Location:
    """Parts of other URLs may mean anything (sftp://user:password@host, https://host/path?signature): credentials go."""
    _, colon, port = host.partition(":")
    if "@" not in host and "@" in path and colon and not port.isdigit():  # sftp://user:pass/word@host
        raise UsageError(f"a user or password in a URL of {scheme}:// has characters that must be percent-encoded")
    if scheme in _WITH_QUERY:
        path = path.partition("?")[0].partition("#")[0]
    return Location(scheme, host.rpartition("@")[2], tuple(part for part in path.split("/") if part))


def _object_location(scheme: str, bucket: str, path: str) -> Location:
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"expected {scheme}://bucket/prefix with a valid bucket name")
    parts = tuple(path.strip("/").split("/")) if path.strip("/") else ()
    if any(part in {"", ".", ".."} for part in parts):
        raise UsageError(f"the prefix of {scheme}://{bucket}/… has empty, '.' or '..' parts")
    return Location(scheme, bucket, parts)


def overlaps(url_a: str, url_b: str) -> bool:
    """Tell whether one of two URLs is the other or lies inside it; symbolic links of local paths are resolved."""
    a, b = parse_url(url_a), parse_url(url_b)
    if (a.scheme, a.host) != (b.scheme, b.host):
        return False
    if a.scheme == "file":
        return _contains(Path(a.url), Path(b.url)) or _contains(Path(b.url), Path(a.url))
    shared = min(len(a.parts), len(b.parts))
    return a.parts[:shared] == b.parts[:shared]


def may_overlap(told: str, url: str) -> bool:
    """`overlaps` for a URL that somebody else wrote down; what is none, or no place on this machine, overlaps nothing."""
    try:
        return overlaps(told, url)
    except (UsageError, OSError, RuntimeError):  # a loop of links is a RuntimeError
        return False


def _contains(outer: Path, inner: Path) -> bool:
    outer, inner = outer.resolve(), inner.resolve()
    if inner.is_relative_to(outer):
        return True
    # The same folder under another name: a bind mount, or another case on a case-insensitive file system.
    return outer.exists() and any(folder.exists() and folder.samefile(outer) for folder in (inner, *inner.parents))
