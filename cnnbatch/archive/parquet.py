"""Parquet files in a store: opened by ranges, so that only the wanted columns travel."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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


class _RangedFile(io.RawIOBase):
    """One object as a seekable file; each read is one range request."""

    def __init__(self, store: Store, path: str, num_bytes: int) -> None:
        self._store, self._path, self._num_bytes = store, path, num_bytes
        self._position = 0

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

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._num_bytes - self._position)
        size = left if size is None or size < 0 else min(size, left)
        data = self._store.read_range(self._path, self._position, size) if size else b""
        self._position += len(data)
        return data


@contextmanager
def open_parquet(
    store: Store, path: str, *, num_bytes: int | None = None, check_pages: bool = True
) -> Iterator[pq.ParquetFile]:
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
        num_bytes = info.size
    source = pa.PythonFile(_RangedFile(store, path, num_bytes), mode="r")
    with damage_as_archive_error(store, path):
        file = pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=check_pages)
    with file:
        _check_limits(store, path, file.metadata)
        yield file


@contextmanager
def damage_as_archive_error(store: Store, path: str) -> Iterator[None]:
    """Turn what Arrow says of a file that is missing or not sound into an `ArchiveError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArchiveError(f"{path} is missing from {store.url}") from error
    except (pa.ArrowException, OSError) as error:  # Arrow raises OSError for a bad page, thrift or CRC
        detail = " ".join(str(error).split())[:300]
        raise ArchiveError(f"{path} in {store.url} is not a readable shard: {detail}") from error


def _check_limits(store: Store, path: str, metadata: Any) -> None:
    missing = set(SCHEMA.names) - set(metadata.schema.to_arrow_schema().names)
    if missing:
        raise ArchiveError(f"{path} in {store.url} lacks the columns {', '.join(sorted(missing))}")
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        if not (0 <= group.num_rows <= MAX_GROUP_ROWS and 0 <= group.total_byte_size <= MAX_GROUP_BYTES):
            raise ArchiveError(
                f"{path} in {store.url}: row group {index} claims {group.num_rows} rows and {group.total_byte_size} bytes"
            )


def read_columns(store: Store, path: str, columns: Sequence[str], *, num_bytes: int | None = None) -> pa.Table:
    """Read only these columns of one shard, with page CRCs checked."""
    with open_parquet(store, path, num_bytes=num_bytes) as file, damage_as_archive_error(store, path):
        return conform(file.read(columns=list(columns), use_threads=False))


def map_parallel(function: Callable[[T], R], items: Iterable[T], *, threads: int) -> Iterator[R]:
    """Yield ``function(item)`` in order; at most ``2 * threads`` results wait, so memory does not grow with the items."""
    iterator = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque(pool.submit(function, item) for item in islice(iterator, 2 * threads))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(iterator, 1))
