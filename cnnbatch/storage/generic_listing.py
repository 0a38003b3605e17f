"""Entries as the file systems of fsspec describe them, each in its own words: its size, its version, its time of change."""

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

from cnnbatch.errors import Unreadable
from cnnbatch.storage.interface import ObjectInfo
from cnnbatch.storage.keys import is_readable_key

MAX_ETAG_CHARACTERS: Final = 1024

_MILLISECONDS: Final = "modificationTime"  # webhdfs
_MTIMES: Final = (
    "mtime",
    "LastModified",
    "last_modified",
    "Last-Modified",  # http
    "modified",
    "updated",
    _MILLISECONDS,
    "modifiedTime",
    "modify",  # ftp
    "date_time",  # zip
    "created",
)
_ETAGS: Final = ("ETag", "etag", "e_tag", "md5Hash", "content_md5", "Content-MD5", "sha", "blob_id", "content_hash", "CRC")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ERRNOS: Final = {errno.EIO: "io-error", errno.ELOOP: "link", errno.ENAMETOOLONG: "too-long"}
_STATUS: Final = {401: "forbidden", 403: "forbidden", 404: "vanished", 410: "vanished", 451: "forbidden"}


def size_of(entry: Mapping[str, Any]) -> int | None:
    """Bytes of a file; None where the file system does not say."""
    value = entry.get("size")
    return int(value) if isinstance(value, int | float) and value >= 0 else None


def etag_of(entry: Mapping[str, Any]) -> str | None:
    """The entry's version, which changes with the content: an ETag, a digest."""
    value = next((entry[name] for name in _ETAGS if isinstance(entry.get(name), str | int)), None)
    text = None if value is None else str(value).strip('"')
    return text if text and len(text) <= MAX_ETAG_CHARACTERS and text.isprintable() and text.isascii() else None


def mtime_of(entry: Mapping[str, Any]) -> datetime | None:
    """When a file was changed; None where the file system does not say, or says it in a way that nobody can read."""
    for name in _MTIMES:
        value: Any = entry.get(name)
        if name == _MILLISECONDS and isinstance(value, int | float):
            value = value / 1000
        for kind, read in _READERS.items():
            if isinstance(value, kind):
                try:
                    return read(value).astimezone(UTC)
                except (ValueError, TypeError, OverflowError, OSError):
                    return None
    return None


def _from_seconds(value: float) -> datetime:
    return _EPOCH + timedelta(seconds=value)


def _from_datetime(value: datetime) -> datetime:
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _from_text(value: str) -> datetime:
    """ISO 8601, a date of HTTP, or of FTP's MLSD: 20261130235959.123. Nothing else: what LIST shows has no year at times."""
    digits = value.partition(".")[0]
    if len(digits) == 14 and digits.isdigit():
        return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    try:
        return _from_datetime(datetime.fromisoformat(value))
    except ValueError:
        return _from_datetime(parsedate_to_datetime(value))


def _from_numbers(value: tuple[int, ...]) -> datetime:
    year, month, day, hour, minute, second = value[:6]
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)


_READERS: Final[Mapping[type | tuple[type, ...], Callable[[Any], datetime]]] = {
    datetime: _from_datetime,
    (int, float): _from_seconds,
    str: _from_text,
    tuple: _from_numbers,
}


def fault_of(error: Exception) -> str | None:
    """The fault of one file or folder by a file system's error, a word of `FAULTS`; None where the error says nothing of
    the kind, as when the server does not answer."""
    if isinstance(error, Unreadable):
        return error.reason
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "vanished"
    if isinstance(error, PermissionError):
        return "forbidden"
    status = getattr(error, "status", None)  # aiohttp's
    if isinstance(status, int):
        return _STATUS.get(status)
    return _ERRNOS.get(error.errno or 0) if isinstance(error, OSError) else None


def is_server_error(error: Exception) -> bool:
    """Whether a server of HTTP says that it has a fault (5xx)."""
    status = getattr(error, "status", None)
    return isinstance(status, int) and status >= 500


def info_of(key: str, entry: Mapping[str, Any]) -> ObjectInfo:
    """An entry as others of this package know it."""
    if not is_readable_key(key):
        return ObjectInfo(key.encode(errors="backslashreplace").decode(), None, fault="name")
    if entry["type"] != "file":  # a link, and what is said is said of it
        return ObjectInfo(key, None)
    return ObjectInfo(key, size_of(entry), etag_of(entry), mtime_of(entry))


def entries_below(
    folder: str, listed: Iterable[Mapping[str, Any]], *, is_http: bool
) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """Paths and entries of a folder that lie nowhere else: an index of http:// may link to anything."""
    below = f"{folder.strip('/')}/" if folder.strip("/") else ""
    named = ((str(entry["name"]).rstrip("/"), entry) for entry in listed)
    inside = (item for item in named if item[0].lstrip("/").startswith(below))
    return [(path, entry) for path, entry in inside if not (is_http and _is_no_file(path))]


def _is_no_file(url: str) -> bool:
    """Whether a link of an index page is one to sort it by (``?C=M;O=D``), to a place in it, or to itself."""
    return not {"?", "#"}.isdisjoint(url) or url.rpartition("/")[2] in {".", ".."}


def is_same(now: ObjectInfo | None, listed: ObjectInfo) -> bool:
    """Looked at after the read: bytes of two versions mixed are noticed. What only one of the two says does not count."""
    if now is None or now.size != listed.size:
        return False
    pairs = ((now.etag, listed.etag), (now.mtime, listed.mtime))
    return all(one == other for one, other in pairs if None not in (one, other))
