"""Parquet files in a store: opened by ranges, so that only the wanted columns travel."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from cnnbatch.archive.schema import SCHEMA, conform
from cnnbatch.errors import ArchiveError
from cnnbatch.storage import Store

T = TypeVar("T")
R = TypeVar("R")

MAX_GROUP_ROWS = 1 << 20  # a file that claims more in one row group is refused before anything is allocated
MAX_GROUP_BYTES = 1 << 33  # uncompressed; our largest is one image of 2 GiB with its alpha

MAX_HOLE_BYTES = 8192
"""Bytes between two wanted ranges up to which one request for both is cheaper than two."""


class _NotNow(Exception):
    """In place of bytes that Arrow asked for while the ranges that it will want are found out."""


class _RangedFile(io.RawIOBase):
    """One object as a seekable file; each read is one range request, unless `fetch` has brought those bytes."""

    def __init__(self, store: Store, path: str, num_bytes: int) -> None:
        self._store, self._path, self._num_bytes = store, path, num_bytes
        self._position = 0
        self._fetched: list[tuple[int, memoryview]] = []
        self._asked: list[tuple[int, int]] | None = None

    @contextmanager
    def asking(self) -> Iterator[list[tuple[int, int]]]:
        """Every read fails with `_NotNow`, and its (start, end) is noted."""
        self._asked = []
        try:
            yield self._asked
        finally:
            self._asked = None

    def fetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Read these (start, end), neighbours together, and keep them until the next call."""
        self._fetched = []
        for start, end in _joined(sorted(ranges)):
            self._fetched.append((start, memoryview(self._store.read_range(self._path, start, end - start))))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def read(self, size: int | None = -1) -> Any:
        """Bytes, or a view of what was fetched: Arrow holds all chunks of a row group at once."""
        left = max(0, self._num_bytes - self._position)
        size = left if size is None or size < 0 else min(size, left)
        if self._asked is not None:
            self._asked.append((self._position, self._position + size))
            raise _NotNow
        data = self._read_at(self._position, size) if size else b""
        self._position += len(data)
        return data

    def _read_at(self, start: int, size: int) -> bytes | memoryview:
        for known, data in self._fetched:
            if known <= start and start + size <= known + len(data):
                return data[start - known : start - known + size]
        return self._store.read_range(self._path, start, size)


def _joined(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Sorted (start, end) with holes of at most `MAX_HOLE_BYTES` closed."""
    waiting: tuple[int, int] | None = None
    for start, end in ranges:
        if waiting and start <= waiting[1] + MAX_HOLE_BYTES:
            waiting = waiting[0], max(waiting[1], end)
            continue
        if waiting:
            yield waiting
        waiting = start, end
    if waiting:
        yield waiting


class ParquetObject:
    """A Parquet file in a store. Every byte is read by the thread that asks for it.

    Arrow's own coalescing (``pre_buffer``) reads on Arrow's threads, and one that lets go of a Python file while the
    interpreter ends aborts a process whose work was done (apache/arrow#34314). So the columns of a row group are fetched
    here, in few requests. Where they lie, Arrow is asked by a read that gets nothing: ``metadata.row_group(i).column(j)`` of
    pyarrow would tell, but aborts the process when that part of a footer is damaged.
    """

    def __init__(self, store: Store, path: str, num_bytes: int, *, check_pages: bool) -> None:
        """Raises what Arrow says of a file that is not sound, see `damage_as_archive_error`."""
        self._file = _RangedFile(store, path, num_bytes)
        source = pa.PythonFile(self._file, mode="r")
        self._parquet = pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=check_pages)
        self.metadata = self._parquet.metadata
        _check_metadata(self.metadata)

    def read_group(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Read columns of one row group; Arrow itself takes a damaged page header for the end of the column."""
        return self._read([group], columns, f"row group {group} has")

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Read columns of all row groups."""
        return self._read(range(self.metadata.num_row_groups), columns, "there are")

    def _read(self, groups: Sequence[int], columns: Sequence[str], subject: str) -> pa.Table:
        if len(columns) > 1:
            self._file.fetch([found for group in groups for column in columns for found in self._ranges(group, column)])
        try:
            table = conform(self._arrow_read(groups, columns))
        finally:
            self._file.fetch(())  # the table holds what it needs
        if table.num_rows != (expected := sum(self.metadata.row_group(group).num_rows for group in groups)):
            raise pa.ArrowInvalid(f"{subject} {table.num_rows} rows, expected {expected}")
        return table

    def _ranges(self, group: int, column: str) -> list[tuple[int, int]]:
        """What Arrow will read first; of what is not sound nothing, so that reading it says why."""
        with self._file.asking() as asked, suppress(_NotNow, pa.ArrowException, OSError, UnicodeDecodeError):
            self._arrow_read([group], [column])
        return [(start, end) for start, end in asked if start < end]

    def _arrow_read(self, groups: Sequence[int], columns: Sequence[str]) -> pa.Table:
        return self._parquet.read_row_groups(list(groups), columns=list(columns), use_threads=False)


def open_parquet(store: Store, path: str, *, num_bytes: int | None = None, check_pages: bool = True) -> ParquetObject:
    """Open one Parquet object; pass ``num_bytes`` where it is known, it saves a request.

    ``check_pages`` verifies the CRC of each page read: off for payloads, which have a checksum per row, so that one
    flipped bit costs one image and not its row group.

    Raises:
        ArchiveError: missing, not Parquet, or a row group over the limits.
    """
    if num_bytes is None:
        info = store.head(path)
        if info is None:
            raise ArchiveError(f"{path} is missing from {store.url}")
        num_bytes = info.known_bytes
    return again_if_damaged(partial(_open, store, path, num_bytes, check_pages))


def _open(store: Store, path: str, num_bytes: int, check_pages: bool) -> ParquetObject:
    with damage_as_archive_error(store, path):
        return ParquetObject(store, path, num_bytes, check_pages=check_pages)


@contextmanager
def damage_as_archive_error(store: Store, path: str) -> Iterator[None]:
    """Turn what Arrow says of a file that is missing or not sound into an `ArchiveError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArchiveError(f"{path} is missing from {store.url}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # OSError: a bad page, thrift or CRC
        detail = " ".join(str(error).split())[:300]
        raise ArchiveError(f"{path} in {store.url} is not a readable shard: {detail}") from error


def _check_metadata(metadata: Any) -> None:
    """Believe no count before it is checked: the footer has no checksum of its own."""
    names = metadata.schema.to_arrow_schema().names
    if missing := set(SCHEMA.names) - set(names):
        raise pa.ArrowInvalid(f"the columns {', '.join(sorted(missing))} are missing")
    if len(set(names)) < len(names):
        raise pa.ArrowInvalid("two columns have one name")
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    for index, group in enumerate(groups):
        if not (0 <= group.num_rows <= MAX_GROUP_ROWS and 0 <= group.total_byte_size <= MAX_GROUP_BYTES):
            raise pa.ArrowInvalid(f"row group {index} claims {group.num_rows} rows and {group.total_byte_size} bytes")
    if sum(group.num_rows for group in groups) != metadata.num_rows:
        raise pa.ArrowInvalid(f"the row groups do not add up to {metadata.num_rows} rows")


def again_if_damaged(read: Callable[[], R]) -> R:
    """What ``read()`` gives; if it meets damage, once more: a bit that flipped on the way comes right the second time."""
    try:
        return read()
    except ArchiveError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise
        return read()


def read_columns(store: Store, path: str, columns: Sequence[str], *, num_bytes: int | None = None) -> pa.Table:
    """Read only these columns of one shard, with page CRCs checked."""
    return again_if_damaged(lambda: _read_columns(store, path, columns, num_bytes))


def _read_columns(store: Store, path: str, columns: Sequence[str], num_bytes: int | None) -> pa.Table:
    file = open_parquet(store, path, num_bytes=num_bytes)
    with damage_as_archive_error(store, path):
        return file.read(columns)


def map_parallel(function: Callable[[T], R], items: Iterable[T], *, threads: int) -> Iterator[R]:
    """Yield ``function(item)`` in order; at most ``2 * threads`` results wait, so memory does not grow with the items."""
    iterator = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque(pool.submit(function, item) for item in islice(iterator, 2 * threads))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(iterator, 1))
