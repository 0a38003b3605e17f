"""Objects of a store as seekable files, read by ranges."""

import io
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from cnnbatch.storage.interface import Store

ReadRange = Callable[[int, int], bytes]
"""(start, length) → bytes of a file."""

MAX_HOLE_BYTES = 8192
"""Bytes between two wanted ranges up to which one request for both is cheaper than two."""


class SeekableReader(io.RawIOBase):
    """A file that is read from any position; a subclass says how."""

    def __init__(self) -> None:
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = 0
        if whence != io.SEEK_SET:
            origin = self._position if whence == io.SEEK_CUR else self._end()
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return bytes(self.read())

    @abstractmethod
    def read(self, size: int | None = -1) -> Any:
        """Up to ``size`` bytes from the position, which moves behind them; fewer only at the end."""

    @abstractmethod
    def _end(self) -> int:
        """How many bytes there are."""


class RangedFile(SeekableReader):
    """One object as a seekable file; each read is one range request, unless `fetch` has brought those bytes."""

    def __init__(self, store: Store, path: str, num_bytes: int, read_range: ReadRange | None = None) -> None:
        """``read_range``: instead of the store's."""
        super().__init__()
        self._read_range, self.num_bytes = read_range or partial(store.read_range, path), num_bytes
        self._fetched: list[tuple[int, memoryview]] = []
        self._asked: list[tuple[int, int]] | None = None

    @contextmanager
    def asking(self) -> Iterator[list[tuple[int, int]]]:
        """No read gets anything, and its (start, end) is noted."""
        self._asked = []
        try:
            yield self._asked
        finally:
            self._asked = None

    def fetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Read these (start, end), neighbours together, and keep them until the next call."""
        self._fetched = []
        for start, end in _joined(sorted(ranges)):
            self._fetched.append((start, memoryview(self._read_range(start, end - start))))

    def read(self, size: int | None = -1) -> Any:
        """Bytes, or a view of what was fetched: Arrow holds all chunks of a row group at once."""
        left = max(0, self.num_bytes - self._position)
        size = left if size is None or size < 0 else min(size, left)
        if self._asked is not None:
            self._asked.append((self._position, self._position + size))
            return b""
        data = self.view(self._position, self._position + size) if size else b""
        self._position += len(data)
        return data

    def _end(self) -> int:
        return self.num_bytes

    def view(self, start: int, end: int) -> memoryview:
        """The bytes from ``start`` to ``end``."""
        for known, data in self._fetched:
            if known <= start and end <= known + len(data):
                return data[start - known : end - known]
        if not 0 <= start <= end <= self.num_bytes:
            raise ValueError(f"there are no bytes {start} to {end}")
        return memoryview(self._read_range(start, end - start))


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
