"""Any other URL that fsspec opens, as far as its file system goes."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec

from cnnbatch.errors import StorageError, Unreadable, UsageError
from cnnbatch.storage.interface import ObjectInfo, Refusal
from cnnbatch.storage.keys import require_safe_key
from cnnbatch.storage.many import Outcome, put_each, read_many
from cnnbatch.storage.urls import parse_url

logging.getLogger("fsspec.http").setLevel(logging.INFO)  # at DEBUG it writes every URL, signatures in its query too

_MTIMES = ("mtime", "LastModified", "last_modified", "modified", "updated", "created")
_ETAGS = ("ETag", "etag", "e_tag", "md5Hash", "content_md5")


class FsspecStore:
    """A folder of an fsspec file system (``memory://``, ``sftp://``, …).

    Weaker than the others: whether a write is atomic or durable is up to the file system, and ``put_if_absent`` and
    ``put_if_match`` look first and write then. Good for sources and destinations; an archive with more than one
    writer belongs on a local disk or in an object store.
    """

    def __init__(self, url: str) -> None:
        self.url = parse_url(url).url
        self._full_url = url  # may hold a password; only fsspec sees it
        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise UsageError(f"cannot open {self.url}: {error}") from error
        except ValueError:  # its text, and that of what it came from, may hold parts of a password
            raise UsageError(f"cannot open {self.url}: no such protocol, or not a URL of it") from None
        except Exception as error:  # noqa: BLE001 - some connect here, and each has its own errors
            raise StorageError(f"cannot open {self.url}: {type(error).__name__}") from None
        self._root = root.rstrip("/")

    def __reduce__(self) -> tuple[type["FsspecStore"], tuple[str]]:
        return type(self), (self._full_url,)

    def __repr__(self) -> str:
        return f"FsspecStore({self.url!r})"

    def check(self) -> None:
        with self._faults("list"):
            if not self._fs.isdir(self._root):
                raise StorageError(f"no such folder: {self.url}")

    def check_writable(self) -> None:
        with self._faults("look at"):
            self._fs.exists(self._root)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        top = self._path(prefix.strip("/")) if prefix.strip("/") else self._root
        self._fs.invalidate_cache()
        with self._faults("list"):
            for folder, _, files in self._fs.walk(top, detail=True):
                for name, entry in files.items():
                    yield self._info(f"{folder.rstrip('/')}/{name}", entry)

    def head(self, key: str) -> ObjectInfo | None:
        self._fs.invalidate_cache()
        try:
            with self._faults("look at", key):
                entry = self._fs.info(self._path(key))
        except FileNotFoundError:
            return None
        return self._info(self._path(key), entry) if entry["type"] == "file" else None

    def get(self, info: ObjectInfo) -> bytes:
        if info.fault is not None:
            raise Unreadable(info.fault, f"{info.key}: listed, but not readable under this name")
        try:
            data = self.read(info.key)
        except FileNotFoundError as error:
            raise Unreadable("vanished", f"{info.key}: no longer there") from error
        if len(data) != info.size:
            raise Unreadable("changed", f"{info.key}: {len(data)} bytes, but {info.size} were listed")
        if (info.etag, info.mtime) != (None, None) and not _is_same(self.head(info.key), info):
            raise Unreadable("changed", f"{info.key}: it changed after it was listed")
        return data

    def get_many(self, infos: Iterable[ObjectInfo], *, max_bytes: int, concurrency: int) -> Iterator[Outcome]:
        return read_many(self.get, infos, max_bytes=max_bytes, concurrency=concurrency)

    def read(self, key: str) -> bytes:
        with self._faults("read", key):
            data: bytes = self._fs.cat_file(self._path(key))
        return data

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        data = self.read(key)
        return data, hashlib.sha256(data).hexdigest()

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with self._faults("read", key):
            data: bytes = self._fs.cat_file(self._path(key), start=start, end=start + length)
        if len(data) != length:
            raise StorageError(f"{self.url}/{key} ends before byte {start + length}")
        return data

    def put(self, key: str, data: bytes) -> None:
        path = self._writable(key)
        with self._faults("write", key):
            self._fs.pipe_file(path, data)

    def put_many(self, items: Sequence[tuple[str, bytes]]) -> Sequence[Refusal | None]:
        return put_each(self.put, items)

    def put_file(self, key: str, path: Path) -> None:
        target = self._writable(key)
        with self._faults("write", key):
            self._fs.put_file(str(path), target)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self.head(key) is not None:
            return False
        self.put(key, data)
        return True

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> bool:
        if etag is None:
            return self.put_if_absent(key, data)
        try:
            if self.read_versioned(key)[1] != etag:
                return False
        except FileNotFoundError:
            return False
        self.put(key, data)
        return True

    def delete(self, key: str) -> None:
        require_safe_key(key)
        try:
            with self._faults("delete", key):
                self._fs.rm_file(self._path(key))
        except FileNotFoundError:
            return

    def remove_unfinished(self, *, older_than: timedelta) -> int:
        return 0

    def _path(self, key: str) -> str:
        if "\0" in key or not {"", ".", ".."}.isdisjoint(key.split("/")):
            raise UsageError(f"not a key: {key[:200]!r}")
        return f"{self._root}/{key}"

    def _writable(self, key: str) -> str:
        require_safe_key(key)
        path = self._path(key)
        with self._faults("write", key):
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        return path

    def _info(self, path: str, entry: dict[str, Any]) -> ObjectInfo:
        key = path[len(self._root) :].lstrip("/")
        return ObjectInfo(key, int(entry.get("size") or 0), _etag(entry), _mtime(entry))

    @contextmanager
    def _faults(self, action: str, key: str = "") -> Iterator[None]:
        where = f"{self.url}/{key}" if key else self.url
        try:
            yield
        except FileNotFoundError:
            if action != "write":
                raise
            raise StorageError(f"cannot write {where}: the folder vanished") from None
        except (StorageError, UsageError):
            raise
        except Exception as error:
            raise StorageError(f"cannot {action} {where}: {type(error).__name__}") from error


def _is_same(now: ObjectInfo | None, listed: ObjectInfo) -> bool:
    """Looked at after the read: bytes of two versions mixed are noticed. What only one of the two says does not count."""
    if now is None or now.size != listed.size:
        return False
    pairs = ((now.etag, listed.etag), (now.mtime, listed.mtime))
    return all(one == other for one, other in pairs if None not in (one, other))


def _etag(entry: dict[str, Any]) -> str | None:
    return next((entry[name].strip('"') for name in _ETAGS if isinstance(entry.get(name), str)), None)


def _mtime(entry: dict[str, Any]) -> datetime | None:
    value = next((entry[name] for name in _MTIMES if entry.get(name) is not None), None)
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    return None
