"""Local writes that are whole or absent, and on the disk when they return."""

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cnnbatch.storage.keys import temporary_in

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1

Fill = Callable[[BinaryIO], object]
"""Writes a file's bytes."""


def replace_file(path: Path, fill: Fill) -> None:
    """Write ``path`` with what ``fill`` writes into a file: temporary, fsync, rename, fsync of the folder."""
    with _temporary_beside(path, fill) as temporary:
        temporary.replace(path)
        sync_folder(path.parent)


def replace_files(files: Sequence[tuple[Path, Fill]]) -> list[OSError | None]:
    """Like `replace_file` for each, in folders that are there; returns for each what kept it from being written.

    All are written before the first is synced, and each folder is synced once: a file system makes most of them durable
    together then (ext4: one commit of its journal for dozens of files). As many files as that are open at once.
    """
    return _write_together(files, Path.replace)


def create_files(files: Sequence[tuple[Path, Fill]]) -> list[OSError | None]:
    """Like `create_file` for each, as `replace_files` does it; `FileExistsError` where there is something."""
    return _write_together(files, _place_new)


def _write_together(files: Sequence[tuple[Path, Fill]], place: Callable[[Path, Path], object]) -> list[OSError | None]:
    errors: dict[int, OSError] = {}
    temporaries = [temporary_in(path.parent) for path, _ in files]
    opened: dict[int, BinaryIO] = {}

    def write(number: int) -> None:
        file = opened[number] = temporaries[number].open("xb")
        files[number][1](file)
        file.flush()
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # Linux starts to write what it is told to forget

    def sync(number: int) -> None:
        os.fsync(opened[number].fileno())

    def name(number: int) -> None:
        place(temporaries[number], files[number][0])

    named: list[int] = []
    try:
        for step in (write, sync, name):
            named = _attempt(step, len(files), errors)
        for folder in {files[number][0].parent for number in named}:
            sync_folder(folder)
    finally:
        for number, file in opened.items():
            with suppress(OSError):  # what could not be flushed is among the errors already
                file.close()
            if number not in named:
                temporaries[number].unlink(missing_ok=True)
    return [errors.get(number) for number in range(len(files))]


def _attempt(step: Callable[[int], None], count: int, errors: dict[int, OSError]) -> list[int]:
    """Takes ``step`` with the numbers that have no error yet; returns those that still have none."""
    for number in range(count):
        if number not in errors:
            try:
                step(number)
            except OSError as error:
                errors[number] = error
    return [number for number in range(count) if number not in errors]


def create_file(path: Path, fill: Fill) -> bool:
    """Like `replace_file`, but only where there is no file: a hard link, which unlike a rename never replaces."""
    with _temporary_beside(path, fill) as temporary:
        try:
            _place_new(temporary, path)
        except FileExistsError:
            return False
        sync_folder(path.parent)
        return True


def _place_new(temporary: Path, path: Path) -> None:
    """Give the file its name. Raises FileExistsError where something has it."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_new(temporary, path)  # exFAT and many network drives have no hard links
    else:
        temporary.unlink()


def _rename_new(temporary: Path, path: Path) -> None:
    """Linux's renameat2 with RENAME_NOREPLACE, which Python does not have."""
    rename = ctypes.CDLL(None, use_errno=True).renameat2
    if rename(_AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, os.fsencode(path), _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))


def has_hard_links(folder: Path) -> bool:
    """Whether a file in ``folder`` may have a second name; also said of a folder in which nothing can be tried."""
    try:
        with _temporary_beside(folder / "probe", lambda file: None) as temporary:
            other = temporary_in(folder)
            os.link(temporary, other)
            other.unlink()
    except OSError as error:
        return error.errno not in _NO_LINKS
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
def _temporary_beside(path: Path, fill: Fill) -> Iterator[Path]:
    make_folders(path.parent)
    temporary = temporary_in(path.parent)
    try:
        with temporary.open("xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def make_folders(folder: Path) -> None:
    """Make ``folder`` and those above it where they are missing, durably."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for parent in missing:
        sync_folder(parent.parent)
