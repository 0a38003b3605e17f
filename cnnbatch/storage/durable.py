"""Local writes that are whole or absent, and on the disk when they return."""

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cnnbatch.storage.keys import TEMPORARY_PREFIX


def replace_file(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Write ``path`` with what ``fill`` writes into a file: temporary, fsync, rename, fsync of the folder."""
    with _temporary_beside(path, fill) as temporary:
        temporary.replace(path)
        sync_folder(path.parent)


def create_file(path: Path, fill: Callable[[BinaryIO], object]) -> bool:
    """Like `replace_file`, but only where there is no file: a hard link, which unlike a rename never replaces."""
    with _temporary_beside(path, fill) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        sync_folder(path.parent)
        return True


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the folder's lock among the processes of this machine; it ends with the process and leaves no file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _temporary_beside(path: Path, fill: Callable[[BinaryIO], object]) -> Iterator[Path]:
    _make_folders(path.parent)
    temporary = path.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _make_folders(folder: Path) -> None:
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for parent in missing:
        sync_folder(parent.parent)
