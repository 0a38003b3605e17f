"""A way to a store on which bits flip."""

from typing import Any

from cnnbatch.storage import Store


class Flipping:
    """``store`` whose n-th read, and those ``more`` after it, come with one bit flipped at a share of their length."""

    def __init__(self, store: Store, nth: int, *, at: float, more: int = 0) -> None:
        self._store, self._at, self._reads = store, at, iter(range(10**9))
        self._flipped = range(nth, nth + more + 1)
        self.hits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, key: str, **options: Any) -> bytes:
        return self._arrived(self._store.read(key, **options))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self._arrived(self._store.read_range(key, start, length))

    def _arrived(self, sent: bytes) -> bytes:
        data = bytearray(sent)
        if next(self._reads) in self._flipped and data:
            data[int(self._at * (len(data) - 1))] ^= 1 << self.hits
            self.hits += 1
        return bytes(data)
