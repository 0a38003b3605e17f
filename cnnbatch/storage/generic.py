"""Any other URL that fsspec opens, as far as its file system goes."""

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

from cnnbatch.errors import StorageError, Unreadable
from cnnbatch.storage.generic_folder import FsspecFolder
from cnnbatch.storage.generic_listing import entries_below, fault_of, info_of, is_same, is_server_error
from cnnbatch.storage.interface import FAULTS, MAX_READ_BYTES, ObjectInfo, Refusal, require_small
from cnnbatch.storage.keys import require_safe_key
from cnnbatch.storage.many import Outcome, put_each, read_many

logging.getLogger("fsspec.http").setLevel(logging.INFO)  # at DEBUG it writes every URL, signatures in its query too

LOOK_THREADS: Final = 16
MAX_UNKNOWN_BYTES: Final = 1 << 30
"""Read at most of a file whose size nobody tells."""

_PAUSES: Final = (0.5, 2.0)
_CHUNK: Final = 1 << 20
_TOGETHER: Final = 256


class FsspecStore(FsspecFolder):
    """A folder of an fsspec file system (``memory://``, ``sftp://``, …).

    Weaker than the others: whether a write is atomic or durable is up to the file system, and ``put_if_absent`` and
    ``put_if_match`` look first and write then. Good for sources and destinations; an archive with more than one
    writer belongs on a local disk or in an object store.
    """

    def check(self) -> None:
        with self._faults("list"):
            if not self._fs.isdir(self._root):
                raise StorageError(f"no such folder: {self.url}")

    def check_writable(self) -> None:
        with self._faults("look at"):
            self._fs.exists(self._root)

    def list(self, prefix: str = "", *, markers: bool = False) -> Iterator[ObjectInfo]:
        top = self._path(prefix.strip("/")) if prefix.strip("/") else self._root
        self._fs.invalidate_cache()
        files = self._walk(top)
        with ThreadPoolExecutor(1 if self._lock else LOOK_THREADS, thread_name_prefix="cnnbatch-look") as pool:
            while part := list(islice(files, _TOGETHER)):
                yield from pool.map(self._completed, part)

    def head(self, key: str) -> ObjectInfo | None:
        self._fs.invalidate_cache()
        try:
            with self._faults("look at", key), self._alone():
                entry = self._fs.info(self._path(key))
        except FileNotFoundError as error:
            cause = error.__cause__
            if (
                self._is_http and isinstance(cause, Exception) and fault_of(cause) != "vanished"
            ):  # fsspec says that of any error
                raise self._trouble("look at", key, cause) from cause
            return None
        return info_of(key, entry) if entry["type"] == "file" else None

    def get(self, info: ObjectInfo) -> bytes:
        if info.fault is not None:
            raise Unreadable(info.fault, f"{info.key}: {FAULTS.get(info.fault, info.fault)}")
        data = self._get(info)
        if info.size not in {None, len(data)}:
            raise Unreadable("changed", f"{info.key}: {len(data)} bytes, but {info.size} were listed")
        known = (info.etag, info.mtime) != (None, None)
        if known and self._can_look_again and not is_same(self.head(info.key), info):
            raise Unreadable("changed", f"{info.key}: it changed after it was listed")
        return data

    def get_many(self, infos: Iterable[ObjectInfo], *, max_bytes: int, concurrency: int) -> Iterator[Outcome]:
        return read_many(self.get, infos, max_bytes=max_bytes, concurrency=concurrency)

    def read(self, key: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        with self._faults("read", key):
            data = self._read(key)
        require_small(f"{self.url}/{key}", len(data), max_bytes)
        return data

    def read_versioned(self, key: str, *, max_bytes: int = MAX_READ_BYTES) -> tuple[bytes, str]:
        data = self.read(key, max_bytes=max_bytes)
        return data, hashlib.sha256(data).hexdigest()

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with self._faults("read", key), self._alone():
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

    def create_many(self, items: Sequence[tuple[str, bytes]]) -> Sequence[bool | Refusal]:
        return put_each(self.put_if_absent, items)

    def put_file(self, key: str, path: Path) -> None:
        target = self._writable(key)
        with self._faults("write", key):
            self._fs.put_file(str(path), target)

    def create_file(self, key: str, path: Path) -> bool:
        if self.head(key) is not None:
            return False
        self.put_file(key, path)
        return True

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

    def _writable(self, key: str) -> str:
        require_safe_key(key)
        path = self._path(key)
        with self._faults("write", key):
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        return path

    def _walk(self, top: str) -> Iterator[ObjectInfo]:
        """Files and faults below a folder, as far as their folders tell of them."""
        folders = [top]
        while folders:
            folder = folders.pop()
            try:
                entries = self._entries(folder)
            except Exception as error:
                if folder == top and isinstance(error, FileNotFoundError):
                    return
                if folder == top or (fault := fault_of(error)) is None:
                    raise self._trouble("list", self._key(folder), error) from error
                yield ObjectInfo(self._key(folder), None, fault=fault)
                continue
            for path, entry in entries:
                info = info_of(self._key(path), entry)
                if info.fault is None and entry["type"] == "directory":
                    folders.append(path)
                else:
                    yield info

    def _entries(self, folder: str) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Entries of a folder that lie nowhere else: an index of http:// may link to anything."""
        with self._alone():
            listed = self._fs.ls(folder, detail=True)
        return entries_below(folder, listed, is_http=self._is_http)

    def _completed(self, info: ObjectInfo) -> ObjectInfo:
        """With size and version: where the listing did not tell, the file itself is asked."""
        is_complete = info.size is not None and (info.etag or info.mtime)
        if info.fault is not None or is_complete or not self._can_look_again:
            return info
        try:
            with self._alone():
                entry = self._fs.info(self._path(info.key))
        except Exception as error:
            if (fault := fault_of(error)) is None:
                raise self._trouble("look at", info.key, error) from error
            return replace(info, fault=fault)
        if entry["type"] == "directory":  # a link to one
            return replace(info, fault="link")
        return info_of(info.key, {**entry, "type": "file"})

    def _get(self, info: ObjectInfo) -> bytes:
        for pause in (*_PAUSES, None):
            try:
                return self._read_unknown(info.key) if info.size is None else self._read(info.key)
            except Exception as error:
                if (fault := fault_of(error)) is not None:
                    raise Unreadable(fault, f"{info.key}: {FAULTS.get(fault, fault)}") from error
                if not is_server_error(error):
                    raise self._trouble("read", info.key, error) from error
                if pause is None:
                    self.check()  # only this file, when the server answers otherwise
                    raise Unreadable(
                        "store-error", f"{info.key}: the server fails to deliver it, even after retries"
                    ) from error
            time.sleep(pause)
        raise AssertionError("unreachable")

    def _read(self, key: str) -> bytes:
        with self._alone():
            data: bytes = self._fs.cat_file(self._path(key))
        return data

    def _read_unknown(self, key: str) -> bytes:
        """A file of which nobody knows how long it is."""
        parts: list[bytes] = []
        size = 0
        with self._alone(), self._fs.open(self._path(key), "rb") as file:
            while part := file.read(_CHUNK):
                parts.append(part)
                size += len(part)
                if size > MAX_UNKNOWN_BYTES:
                    raise Unreadable("too-large", f"{key}: more than {MAX_UNKNOWN_BYTES} bytes")
        return b"".join(parts)
