"""The archives that are served, each by its name, and always one version of each with its index."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Lock

import pyarrow as pa

from cnnbatch import reading
from cnnbatch.archive import ArchiveRow
from cnnbatch.archive.damage import damage_as_archive_error
from cnnbatch.archive.parquet import ParquetObject, open_parquet
from cnnbatch.archive.schema import BLOBS, COLUMNS, SCHEMA, SMALL_COLUMNS, table_to_rows
from cnnbatch.archive.snapshot import LiveShard
from cnnbatch.errors import CnnbatchError, UsageError
from cnnbatch.reading import Archive
from cnnbatch.serve.blocks import Blocks
from cnnbatch.serve.caching import ByteCache
from cnnbatch.serve.index import Index, build_index
from cnnbatch.storage import Source, StorageConfig

GROUP_CACHE_BYTES = 64 << 20
ROW_CACHE_BYTES = 128 << 20
BLOCK_CACHE_BYTES = 64 << 20
OPEN_FILES = 256

logger = logging.getLogger(__name__)


class RowReader:
    """Rows of one version of an archive by their places: what neighbours share is read once."""

    def __init__(self, archive: Archive) -> None:
        self._store = archive.rows.store
        self._groups: ByteCache[pa.Table] = ByteCache(GROUP_CACHE_BYTES, lambda table: int(table.nbytes))
        self._rows: ByteCache[ArchiveRow] = ByteCache(ROW_CACHE_BYTES, _row_bytes)
        self._blocks: ByteCache[bytes] = ByteCache(BLOCK_CACHE_BYTES, len)
        self._files: dict[str, list[ParquetObject]] = {}
        self._num_files = 0
        self._lock = Lock()

    def row(self, shard: LiveShard, number: int) -> ArchiveRow:
        """One row, checked as every other. Raises ArchiveError."""
        return self._rows.get((shard.path, number), partial(self._read, shard, number))

    def _read(self, shard: LiveShard, number: int) -> ArchiveRow:
        with self._file(shard) as file, damage_as_archive_error(self._store, shard.path):
            group, row = _in_group(file, number)
            small = self._groups.get((shard.path, group), partial(file.read_group, group, SMALL_COLUMNS)).slice(row, 1)
            payload = pa.array([file.read_payload(group, row)], pa.binary())
        table = small.append_column(SCHEMA.field("payload").with_nullable(True), payload)
        [found] = table_to_rows(table.select(COLUMNS))
        if isinstance(found, ArchiveRow):
            return found
        raise found

    @contextmanager
    def _file(self, shard: LiveShard) -> Iterator[ParquetObject]:
        """A file that no other thread uses meanwhile."""
        with self._lock:
            free = self._files.setdefault(shard.path, [])
            file = free.pop() if free else None
            self._num_files -= file is not None
        if file is None:
            read_range = Blocks(self._store, shard.path, shard.num_bytes, self._blocks)
            file = open_parquet(self._store, shard.path, num_bytes=shard.num_bytes, read_range=read_range)
        yield file  # one that met damage is not used again
        with self._lock:
            if self._num_files >= OPEN_FILES:
                self._files, self._num_files = {}, 0
            self._files.setdefault(shard.path, []).append(file)
            self._num_files += 1


def _row_bytes(row: ArchiveRow) -> int:
    return len(row.payload) + sum(len(getattr(row, name) or b"") for name in BLOBS)


def _in_group(file: ParquetObject, number: int) -> tuple[int, int]:
    for group in range(file.metadata.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if number < count:
            return group, number
        number -= count
    raise pa.ArrowInvalid(f"there is no row {number}")


class Version:
    """One version of an archive: what a request sees from its beginning to its end."""

    def __init__(self, archive: Archive) -> None:
        snapshot = archive.rows.snapshot
        self.archive = archive
        self.index: Index = build_index(archive.rows.store, snapshot.version, snapshot.shards)
        self._rows = RowReader(archive)

    def row(self, number: int) -> ArchiveRow:
        """The row of the index; raises ArchiveError, and KeyError for one that is gone meanwhile."""
        try:
            return self._rows.row(*self.index.place(number))
        except CnnbatchError:
            return self.archive.rows[self.index.keys[number].as_py()]  # again, as careful as `cnnbatch get`


class Served:
    """One archive under its name; `refresh` takes up what was committed since."""

    def __init__(self, name: str, url: str, config: StorageConfig | None, source: Source | None) -> None:
        self.name, self.source = name, source
        self._url, self._config = url, config
        self._archive = self._open()
        self._version: Version | None = None
        self._lock = Lock()

    @property
    def version(self) -> Version:
        """The newest that has an index; the first who asks waits for that to be read."""
        if self._version is None:
            with self._lock:
                if self._version is None:
                    self._version = Version(self._archive)
        return self._version

    @property
    def is_ready(self) -> bool:
        """Whether its index is there."""
        return self._version is not None

    def refresh(self) -> None:
        """Replaces the version by the newest; what cannot be read leaves the one that there is."""
        current = self.version
        try:
            archive = self._open()
            if archive.rows.snapshot.version != current.index.version:
                self._version = Version(archive)
        except CnnbatchError as error:
            logger.warning("archive %s could not be opened again: %s", self.name, error)

    def _open(self) -> Archive:
        return reading.open(self._url, self._config, threads=len(os.sched_getaffinity(0)))


class Library:
    """All archives that are served."""

    def __init__(
        self, served: Sequence[Served], *, refresh_seconds: float = 60.0, warm: Callable[[Served], None] = lambda served: None
    ) -> None:
        """``warm`` is called with each archive when its index is there, before it is said to be ready."""
        self.served = {one.name: one for one in served}
        self.warm = warm
        self._seconds = refresh_seconds
        self._ready: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, name="cnnbatch-refresh", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Whether each archive has its index, and was warmed."""
        return len(self._ready) == len(self.served)

    def start(self) -> None:
        """Reads the indexes, and goes on looking for new versions."""
        self._thread.start()

    def stop(self) -> None:
        """Ends that."""
        self._ended.set()

    def counts(self) -> dict[str, int]:
        """How many pictures there are in each archive whose index is there."""
        return {name: len(one.version.index) for name, one in self.served.items() if one.is_ready}

    def _keep_fresh(self) -> None:
        while True:
            for one in self.served.values():
                self._freshen(one)
            if self._ended.wait(self._seconds):
                return

    def _freshen(self, one: Served) -> None:
        try:
            one.refresh()
            if one.name not in self._ready:
                self.warm(one)
            self._ready.add(one.name)
        except CnnbatchError as error:  # its index cannot be had: whoever asks for it is told so, and it is tried again
            logger.warning("archive %s could not be read: %s", one.name, error)
        except Exception:  # a fault of ours ends no thread that others wait for
            logger.exception("archive %s could not be read", one.name)


def names_of(urls: Sequence[str]) -> list[str]:
    """A name for each archive: the last part of its URL, with a number where two have the same."""
    names: list[str] = []
    for url in urls:
        last = url.rstrip("/").rpartition("/")[2] or "archive"
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in last).strip(".") or "archive"
        name, number = plain, 2
        while name in names:
            name, number = f"{plain}-{number}", number + 1
        names.append(name)
    if len(set(urls)) < len(urls):
        raise UsageError("an archive is named twice")
    return names
