"""A folder of an fsspec file system: how it is opened, its paths, and its errors as ours."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Final, Self

import fsspec
from fsspec.spec import AbstractFileSystem

from cnnbatch.errors import StorageError, UsageError
from cnnbatch.processes import OfThisProcess
from cnnbatch.storage.keys import is_readable_key
from cnnbatch.storage.urls import parse_url

ONE_AT_A_TIME: Final = {"ftp", "tar", "libarchive"}
"""File systems with a single connection or file position: threads that share one get each other's bytes."""


class FsspecFolder:
    """The file system that a URL names, and the folder in it. Pickles as its URL, and is opened anew in each process."""

    def __init__(self, url: str) -> None:
        self.url = parse_url(url).url
        self._full_url = url  # may hold a password; only fsspec sees it
        root = self._opened[1]
        self._root = root.removesuffix("/") if root.endswith("://") else root.rstrip("/")  # https:// is any host
        self._protocols = {self._fs.protocol} if isinstance(self._fs.protocol, str) else set(self._fs.protocol)
        self._is_http = not self._protocols.isdisjoint({"http", "https"})
        has_info = self._fs.async_impl or type(self._fs).info is not AbstractFileSystem.info
        self._can_look_again = has_info and "ftp" not in self._protocols
        """Whether to look at one file does not list its whole folder."""

    @OfThisProcess
    def _opened(self) -> tuple[AbstractFileSystem, str]:
        """The file system, and what the URL is there."""
        try:
            fs, root = fsspec.core.url_to_fs(self._full_url)
        except ImportError as error:
            raise UsageError(f"cannot open {self.url}: {error}") from error
        except ValueError:  # its text, and that of what it came from, may hold parts of a password
            raise UsageError(f"cannot open {self.url}: no such protocol, or not a URL of it") from None
        except Exception as error:  # noqa: BLE001 - some connect here, and each has its own errors
            raise StorageError(f"cannot open {self.url}: {type(error).__name__}") from None
        return fs, root

    @property
    def _fs(self) -> AbstractFileSystem:
        return self._opened[0]

    @OfThisProcess
    def _lock(self) -> "Lock | None":
        return None if ONE_AT_A_TIME.isdisjoint(self._protocols) else Lock()

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self._full_url,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _path(self, key: str) -> str:
        if not is_readable_key(key):
            raise UsageError(f"not a key: {key[:200]!r}")
        return f"{self._root}/{key}"

    def _alone(self) -> AbstractContextManager[object]:
        return nullcontext() if self._lock is None else self._lock

    def _key(self, path: str) -> str:
        return path.lstrip("/")[len(self._root.lstrip("/")) :].lstrip("/")

    def _trouble(self, action: str, key: str, error: Exception) -> Exception:
        where = f"{self.url}/{key}" if key else self.url
        return StorageError(f"cannot {action} {where}: {type(error).__name__}")

    @contextmanager
    def _faults(self, action: str, key: str = "") -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            if action != "write":
                raise
            raise StorageError(f"cannot write {self.url}/{key}: the folder vanished") from None
        except (StorageError, UsageError):
            raise
        except Exception as error:
            raise self._trouble(action, key, error) from error
