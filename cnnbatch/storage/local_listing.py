"""The listing of a local folder: every file in it, and what cannot be listed or looked at, by its fault."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cnnbatch.errors import StorageError
from cnnbatch.storage.folder import Folder, object_info, own_fault
from cnnbatch.storage.interface import ObjectInfo
from cnnbatch.storage.keys import TEMPORARY_PREFIX, is_temporary

_GONE = (FileNotFoundError, NotADirectoryError)


def list_folder(folder: Folder, top: bytes, *, url: str) -> Iterator[ObjectInfo]:
    """Everything below ``top``, a path in ``folder``.

    Raises:
        StorageError: ``top`` cannot be listed, or this process or machine is at fault.
    """
    folders = [top]
    while folders:
        path = folders.pop()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
                        else:
                            yield from _describe(folder, entry)
                    except OSError as error:
                        yield _faulty(folder, entry.path, error, url)
        except OSError as error:
            if path is top:
                raise StorageError(f"cannot list {url}: {error.strerror}") from error
            yield _faulty(folder, path, error, url)


def _describe(folder: Folder, entry: "os.DirEntry[bytes]") -> Iterator[ObjectInfo]:
    if entry.name.startswith(TEMPORARY_PREFIX.encode()) and is_temporary(os.fsdecode(entry.name)):
        return
    key, fault = folder.key(entry.path)
    if entry.is_symlink() and not folder.leads_inside(Path(os.fsdecode(entry.path))):
        yield ObjectInfo(key, None, fault="link")
        return
    try:
        status = entry.stat()
    except _GONE:
        return
    if stat.S_ISREG(status.st_mode):
        yield object_info(key, status, fault)


def _faulty(folder: Folder, path: bytes, error: OSError, url: str) -> ObjectInfo:
    """Entries met on the way that cannot be listed or looked at; raises StorageError where that is no fault of its own."""
    key, _ = folder.key(path)
    if (fault := own_fault(error)) is None:
        raise StorageError(f"cannot list {url}/{key}: {error.strerror}") from error
    return ObjectInfo(key, None, fault=fault)
