"""A local folder and the files in it, opened such that no link leads out of it; faults of files as the system tells them."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Final

from cnnbatch.errors import UsageError
from cnnbatch.storage.interface import ObjectInfo
from cnnbatch.storage.keys import is_readable_key

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_OURS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors of the system when this process or machine is at fault, and not a file or folder."""

_OWN_FAULTS: Final = {
    errno.ENOENT: "vanished",
    errno.ENOTDIR: "vanished",
    errno.EISDIR: "changed",
    errno.EACCES: "forbidden",
    errno.EPERM: "forbidden",
    errno.ELOOP: "link",
    errno.ENAMETOOLONG: "too-long",
}


class Folder:
    """Keys ↔ the files below ``root``. Raises UsageError for what is no key, and OSError."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def _below(self) -> bytes:
        """The beginning of nearly every listed object's path; `os.path.relpath` took nearly half of a listing's time."""
        return os.fsencode(self.root).rstrip(b"/") + b"/"

    @cached_property
    def _real_root(self) -> str:
        return os.path.realpath(self.root)

    def key(self, path: bytes) -> tuple[str, str | None]:
        """The key of a path, and a fault where it is none to read by."""
        below = self._below
        relative = path[len(below) :] if path.startswith(below) else os.path.relpath(path, os.fsencode(self.root))
        try:
            return relative.decode(), None
        except UnicodeDecodeError:
            return relative.decode(errors="backslashreplace"), "name"

    def path(self, key: str) -> Path:
        """The path to read ``key`` from: odd names may be read, but never from outside the root."""
        _refuse_odd(key)
        path = self.root / key
        if not self.contains(str(path)):
            raise OSError(errno.ELOOP, "a symbolic link leads out of the folder")
        return path

    def open(self, key: str) -> int:
        """Opens what `path` gives. Looking at each folder on the way takes longer than reading a small file, and is only
        needed where one of them is a link: the system says afterwards whether the way led elsewhere."""
        _refuse_odd(key)
        path = f"{self._real_root.rstrip('/')}/{key}"
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            if _path_of(descriptor) == path:
                return descriptor
            os.close(descriptor)
        return os.open(self.path(key), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    @contextmanager
    def regular_file(self, key: str) -> Iterator[int]:
        """An open file; what is none, as a pipe that would wait for a writer, is not there."""
        descriptor = self.open(key)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileNotFoundError(errno.ENOENT, "no file", key)
            yield descriptor
        finally:
            os.close(descriptor)

    def leads_inside(self, link: Path) -> bool:
        """Whether a symbolic link leads to something, and that is below the root."""
        return link.exists() and self.contains(str(link))

    def contains(self, path: str) -> bool:
        """Whether a path is below the root, all links on it followed."""
        return os.path.realpath(path).startswith(self._real_root.rstrip("/") + "/")


def own_fault(error: OSError) -> str | None:
    """The fault of one file or folder by the system's error, a word of `FAULTS` or "changed"; None where it is this
    process or machine."""
    if error.errno is None or error.errno in _OURS:
        return None
    return _OWN_FAULTS.get(error.errno, "io-error")  # a bad sector, a stale handle, a mount whose server is gone …


def object_info(key: str, status: os.stat_result, fault: str | None = None) -> ObjectInfo:
    """A file as stores describe objects."""
    return ObjectInfo(key, status.st_size, None, _mtime(status), fault=fault)


def is_as_listed(descriptor: int, info: ObjectInfo) -> bool:
    """Whether an open file has the size and the time that it was listed with."""
    status = os.fstat(descriptor)
    return info.size in {None, status.st_size} and info.mtime in {None, _mtime(status)}


def read_bytes(descriptor: int, length: int) -> bytes:
    """Up to ``length`` bytes, less only at the end of the file."""
    data = os.read(descriptor, length)
    parts = [data]
    while data and (length := length - len(data)):  # the system reads 2 GiB at most in one call
        parts.append(data := os.read(descriptor, length))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _mtime(status: os.stat_result) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=status.st_mtime_ns // 1000)
    except OverflowError:
        return _FIRST if status.st_mtime_ns < 0 else _LAST


def _refuse_odd(key: str) -> None:
    if not is_readable_key(key):
        raise UsageError(f"not a key: {key[:200]!r}")


def _path_of(descriptor: int) -> str | None:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 (a Path takes as long as reading the file)
    except OSError:
        return None
