"""Objects as files that are read forward: a chunk of each is in memory, however large it is."""

import io
from typing import Any, Final

import pyarrow as pa

from cnnbatch.storage import Store
from cnnbatch.storage.ranged_file import SeekableReader

CHUNK_BYTES: Final = 8 << 20
MAX_READ_BYTES: Final = 64 << 20
"""Bytes of one read: more is claimed by damaged headers only."""


class Window(SeekableReader):
    """A file of which some bytes before and behind the position are in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._start, self._data = 0, b""

    def read(self, size: int | None = -1) -> bytes:
        """Up to ``size`` bytes, fewer only at the end. Raises OSError for more than anybody should ask for at once."""
        if size is None or not 0 <= size <= MAX_READ_BYTES:
            raise OSError(f"{size} bytes are too many for one read")
        parts: list[bytes] = []
        while size > 0:
            if not self._start <= self._position < self._start + len(self._data):
                self._load(self._position)
            first = self._position - self._start
            part = self._data[first : first + size]
            if not part:
                break
            parts.append(part)
            self._position += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def at(self, start: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``start``."""
        self.seek(start)
        return self.read(size)

    def _end(self) -> int:
        raise io.UnsupportedOperation("the length is not known")

    def _load(self, position: int) -> None:
        """Makes ``_data`` begin at or before ``position`` and end behind it, unless the file ends there."""
        raise NotImplementedError


class RangeWindow(Window):
    """An object read by ranges; what is jumped over is not read."""

    def __init__(self, store: Store, key: str, size: int) -> None:
        super().__init__()
        self._store, self._key, self._size = store, key, size

    def _load(self, position: int) -> None:
        length = min(CHUNK_BYTES, max(0, self._size - position))
        self._start, self._data = position, self._store.read_range(self._key, position, length) if length else b""


class StreamWindow(Window):
    """A compressed object, decompressed on the way; up to a chunk behind the position can be read again."""

    def __init__(self, raw: Window, compression: str) -> None:
        super().__init__()
        self._stream: Any = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression)

    def _load(self, position: int) -> None:
        if position < self._start:
            raise OSError("it would have to be read backwards")
        while position >= self._start + len(self._data):
            data = self._stream.read(CHUNK_BYTES)
            if not data:
                return
            last = self._data[-CHUNK_BYTES:]
            self._start, self._data = self._start + len(self._data) - len(last), last + data

    def length(self) -> int:
        """How many bytes there are, all of which are read for it."""
        while True:
            end = self._start + len(self._data)
            self._load(end)
            if self._start + len(self._data) == end:
                return end
