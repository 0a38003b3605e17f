"""A folder as a store: durable atomic writes, and a listing that never leaves the folder."""

import errno
import hashlib
import os
import resource
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cnnbatch.errors import StorageError, Unreadable, UsageError
from cnnbatch.storage.durable import (
    Fill,
    create_file,
    create_files,
    locked_folder,
    make_folders,
    replace_file,
    replace_files,
    sync_folder,
)
from cnnbatch.storage.folder import Folder, is_as_listed, object_info, own_fault, read_bytes
from cnnbatch.storage.interface import FAULTS, MAX_READ_BYTES, ObjectInfo, Refusal, require_small
from cnnbatch.storage.keys import TEMPORARY_PREFIX, is_temporary, require_safe_key, safe_join
from cnnbatch.storage.local_listing import list_folder
from cnnbatch.storage.many import Outcome, read_many

READ_TOGETHER = 64
"""Tiny files that one thread reads in a row."""

WRITE_TOGETHER = 64
"""Files that are written before the first of them is synced; fewer where a process may not have many open …"""

OPEN_SHARE = 64
"""… so that two shards of 8 threads each have a quarter of them."""

_Fault = OSError | Refusal | None
_WriteFiles = Callable[[Sequence[tuple[Path, Fill]]], list[OSError | None]]


class LocalStore:
    """The files below a folder.

    Links: a symbolic link to a file inside the root is an object; to a folder inside it is skipped, since its files
    are listed where they are; one that is broken or leads out is listed with ``fault="link"`` and never followed.
    Sockets, pipes and devices are skipped, and so are our own unfinished writes (`remove_unfinished`). A time of change that
    Python has no date for counts as the first or last one there is.
    """

    def __init__(self, root: str) -> None:
        self.url = root
        self._root = Path(root)
        self._folder = Folder(self._root)

    def check(self) -> None:
        if not self._root.is_dir():
            raise StorageError(f"no such folder: {self.url}")
        with self._faults("list"):
            os.scandir(self._root).close()

    def check_writable(self) -> None:
        folder = next(folder for folder in (self._root, *self._root.parents) if os.path.lexists(folder))
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise StorageError(f"{self.url} cannot be written: {folder} is not a writable folder")

    def list(self, prefix: str = "", *, markers: bool = False) -> Iterator[ObjectInfo]:
        prefix = prefix.strip("/")
        try:
            with self._faults("list", prefix):
                top = os.fsencode(self._folder.path(prefix) if prefix else self._root)
                os.scandir(top).close()  # here a fault is one of the whole listing
        except FileNotFoundError:
            return
        yield from list_folder(self._folder, top, url=self.url)

    def head(self, key: str) -> ObjectInfo | None:
        try:
            with self._faults("look at", key):
                status = self._folder.path(key).stat()
        except FileNotFoundError:
            return None
        return object_info(key, status) if stat.S_ISREG(status.st_mode) else None

    def get(self, info: ObjectInfo) -> bytes:
        if info.fault is not None:
            raise Unreadable(info.fault, f"{info.key}: {FAULTS.get(info.fault, info.fault)}")
        try:
            return self._get_unchanged(info)
        except OSError as error:
            if (fault := own_fault(error)) is None:
                raise StorageError(f"cannot read {self.url}/{info.key}: {error.strerror}") from error
            raise Unreadable(fault, f"{info.key}: {error.strerror}") from error

    def get_many(self, infos: Iterable[ObjectInfo], *, max_bytes: int, concurrency: int) -> Iterator[Outcome]:
        return read_many(self.get, infos, max_bytes=max_bytes, concurrency=concurrency, together=READ_TOGETHER)

    def read(self, key: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        with self._faults("read", key), self._folder.regular_file(key) as descriptor:
            size = os.fstat(descriptor).st_size
            require_small(f"{self.url}/{key}", size, max_bytes)
            return read_bytes(descriptor, size + 1)

    def read_versioned(self, key: str, *, max_bytes: int = MAX_READ_BYTES) -> tuple[bytes, str]:
        data = self.read(key, max_bytes=max_bytes)
        return data, hashlib.sha256(data).hexdigest()

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with self._faults("read", key), self._folder.regular_file(key) as descriptor:
            os.lseek(descriptor, start, os.SEEK_SET)
            data = read_bytes(descriptor, length)
        if len(data) != length:
            raise StorageError(f"{self.url}/{key} ends before byte {start + length}")
        return data

    def put(self, key: str, data: bytes) -> None:
        with self._faults("write", key):
            replace_file(safe_join(self._root, key), _writes(data))

    def put_many(self, items: Sequence[tuple[str, bytes]]) -> Sequence[Refusal | None]:
        faults = self._write_many(items, replace_files)
        return [self._refusal(key, fault) for (key, _), fault in zip(items, faults, strict=True)]

    def create_many(self, items: Sequence[tuple[str, bytes]]) -> Sequence[bool | Refusal]:
        faults = self._write_many(items, create_files)
        return [
            not isinstance(fault, FileExistsError) and (self._refusal(key, fault) or True)
            for (key, _), fault in zip(items, faults, strict=True)
        ]

    def create_file(self, key: str, path: Path) -> bool:
        with self._faults("write", key), path.open("rb") as source:
            return create_file(safe_join(self._root, key), lambda file: shutil.copyfileobj(source, file, 1 << 20))

    def put_file(self, key: str, path: Path) -> None:
        with self._faults("write", key), path.open("rb") as source:
            replace_file(safe_join(self._root, key), lambda file: shutil.copyfileobj(source, file, 1 << 20))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._faults("write", key):
            return create_file(safe_join(self._root, key), _writes(data))

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> bool:
        if etag is None:
            return self.put_if_absent(key, data)
        path = safe_join(self._root, key)
        try:
            with self._faults("replace", key), locked_folder(path.parent):
                if self.read_versioned(key)[1] != etag:
                    return False
                replace_file(path, _writes(data))
        except FileNotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        path = safe_join(self._root, key)
        try:
            with self._faults("delete", key):
                path.unlink()
                sync_folder(path.parent)
        except FileNotFoundError:
            return

    def remove_unfinished(self, *, older_than: timedelta) -> int:
        limit = (datetime.now(UTC) - older_than).timestamp()
        with self._faults("sweep"):
            unfinished = (path for path in self._root.rglob(f"{TEMPORARY_PREFIX}*") if is_temporary(path.name))
            found = [path for path in unfinished if _is_older(path, limit)]
            for path in found:
                path.unlink(missing_ok=True)
            for path in sorted((path for path in self._root.rglob("*/") if _is_older(path, limit)), reverse=True):
                with suppress(OSError):  # something is in it
                    path.rmdir()
        return len(found)

    def _write_many(self, items: Sequence[tuple[str, bytes]], write: _WriteFiles) -> Sequence[_Fault]:
        together = max(1, min(WRITE_TOGETHER, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // OPEN_SHARE))
        parts = (items[first : first + together] for first in range(0, len(items), together))
        return [fault for part in parts for fault in self._write_together(part, write)]

    def _write_together(self, items: Sequence[tuple[str, bytes]], write: _WriteFiles) -> Sequence[_Fault]:
        """The error that kept each from being written: the system's error where it is the file's."""
        faults: dict[int, _Fault] = {}
        ready: set[Path] = set()
        files: dict[int, tuple[Path, Fill]] = {}
        for number, (key, data) in enumerate(items):
            try:
                files[number] = self._ready_path(key, ready), _writes(data)
            except (StorageError, UsageError) as error:
                faults[number] = error
        with self._faults("write"):
            found = write(list(files.values()))
        faults |= zip(files, found, strict=True)
        return [faults.get(number) for number in range(len(items))]

    def _refusal(self, key: str, fault: _Fault) -> Refusal | None:
        return _not_written(f"{self.url}/{key}", fault) if isinstance(fault, OSError) else fault

    def _ready_path(self, key: str, ready: set[Path]) -> Path:
        """Where to write ``key``, as `safe_join` allows it; its folder is made, unless it is among those ``ready`` already."""
        require_safe_key(key)
        path = self._root / key
        if path.parent not in ready:
            with self._faults("write", key):
                make_folders(safe_join(self._root, key).parent)
            ready.add(path.parent)
        return path

    def _get_unchanged(self, info: ObjectInfo) -> bytes:
        descriptor = self._folder.open(info.key)
        try:
            size = os.fstat(descriptor).st_size
            data = read_bytes(descriptor, size + 1) if is_as_listed(descriptor, info) else b""
            same = len(data) == size and is_as_listed(descriptor, info)  # again: it may be written while it is read
        finally:
            os.close(descriptor)
        if not same:
            raise Unreadable("changed", f"{info.key}: the file changed after it was listed")
        return data

    @contextmanager
    def _faults(self, action: str, key: str = "") -> Iterator[None]:
        """Turn the system's errors into one sentence; `FileNotFoundError` is the answer that there is no such key."""
        where = f"{self.url}/{key}" if key else self.url
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            if action == "write":
                raise _not_written(where, error) from error
            raise FileNotFoundError(errno.ENOENT, "no such object", where) from error
        except OSError as error:
            raise StorageError(f"cannot {action} {where}: {error.strerror}") from error


def _is_older(path: Path, limit: float) -> bool:
    try:
        return path.lstat().st_mtime < limit
    except FileNotFoundError:
        return False


def _not_written(where: str, error: OSError) -> StorageError:
    refusal = StorageError(f"cannot write {where}: {error.strerror}")
    refusal.__cause__ = error
    return refusal


def _writes(data: bytes) -> Fill:
    return lambda file: file.write(data)
