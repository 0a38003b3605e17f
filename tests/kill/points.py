"""Crash points: every call with which a run changes a store, and the SIGKILL at one of them.

A point lies before and after each call: a PUT, a delete, the Delta commit and the table's creation on any store, and on a
local disk also each fsync, link, rename and unlink, and the middle of every write. Nothing here is imported by the package;
a child process calls `watch` on itself.
"""

import json
import os
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from deltalake import DeltaTable

from cnnbatch.archive import log as log_module
from cnnbatch.archive.log_table import LogTable
from cnnbatch.storage import local
from cnnbatch.storage.objects import ObjectStore

OBJECT_CALLS = ("put", "put_file", "put_if_absent", "put_if_match", "delete")


class Disk:
    """What a power cut would find on the disk: files by inode with the size they were synced at, and synced names."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[int, int] = {}
        self._folders: dict[str, list[str]] = {}
        self._version = -1

    def synced(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            self._folders[str(path)] = [entry.name for entry in path.iterdir()]
        else:
            self._files[status.st_ino] = status.st_size

    def reported(self, version: int) -> None:
        """The log up to here was reported as durable."""
        self._version = max(self._version, version)

    def write(self) -> None:
        found = {"files": self._files, "folders": self._folders, "version": self._version}
        self._path.write_text(json.dumps(found))


class Points:
    """Counts crash points; dies at number ``kill_at``. With ``disk`` it leaves there what was synced until then."""

    def __init__(self, kill_at: int | None, disk: Disk | None) -> None:
        self._kill_at, self._disk = kill_at, disk
        self._count = count()
        self.passed = 0

    def tick(self) -> None:
        self.passed = next(self._count)
        if self.passed == self._kill_at:
            if self._disk is not None:
                self._disk.write()
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: object, name: str, then: Callable[..., None] = lambda *_: None) -> None:
        """Put a point before and after ``owner.name``; ``then`` sees its arguments once it is done."""
        function = getattr(owner, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            self.tick()
            result = function(*arguments, **keywords)
            then(*arguments)
            self.tick()
            return result

        setattr(owner, name, call)


def watch(kill_at: int | None, disk_path: Path | None = None) -> Points:
    """Put a point at every call of this process that changes a store."""
    disk = None if disk_path is None else Disk(disk_path)
    points = Points(kill_at, disk)
    for name in OBJECT_CALLS:
        points.around(ObjectStore, name)
    points.around(log_module, "_write_commit")
    points.around(DeltaTable, "create")
    points.around(os, "fsync", lambda descriptor: disk.synced(descriptor) if disk else None)
    points.around(os, "link")
    points.around(Path, "replace")
    points.around(Path, "unlink")
    points.around(LogTable, "sync", lambda table, version: disk.reported(version) if disk else None)
    local._writes = lambda data: lambda file: _in_halves(points, file, data)
    return points


def _in_halves(points: Points, file: BinaryIO, data: bytes) -> None:
    file.write(data[: len(data) // 2])
    file.flush()
    points.tick()
    file.write(data[len(data) // 2 :])
