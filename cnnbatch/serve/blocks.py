"""Files that never change, read by blocks that are kept: neighbours in a gallery are neighbours in a shard."""

from typing import Final

from cnnbatch.serve.caching import ByteCache
from cnnbatch.storage import Store

BLOCK_BYTES: Final = 1 << 20


class Blocks:
    """One file of a store; a `cnnbatch.storage.ranged_file.ReadRange`.

    What is longer than a block is read as it is asked for.
    """

    def __init__(self, store: Store, path: str, num_bytes: int, cache: ByteCache[bytes]) -> None:
        self._store, self._path, self._num_bytes, self._cache = store, path, num_bytes, cache

    def __call__(self, start: int, length: int) -> bytes:
        """The bytes from ``start`` on."""
        if not 0 < length <= BLOCK_BYTES:
            return self._store.read_range(self._path, start, length)
        first, last = start // BLOCK_BYTES, (start + length - 1) // BLOCK_BYTES
        found = b"".join(self._block(number) for number in range(first, last + 1))
        begin = start - first * BLOCK_BYTES
        return found[begin : begin + length]

    def _block(self, number: int) -> bytes:
        start = number * BLOCK_BYTES
        length = min(BLOCK_BYTES, self._num_bytes - start)
        return self._cache.get((self._path, number), lambda: self._store.read_range(self._path, start, length))
