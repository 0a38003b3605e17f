"""Values that were computed, kept within a number of bytes, and computed once however many ask for it at the same time."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class ByteCache(Generic[T]):
    """The newest values by key, at most ``max_bytes`` of them; safe to use from many threads.

    ``size_of`` says how many bytes a value takes. One that takes over a quarter of all is given and not kept.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[T], int]) -> None:
        self._max_bytes, self._size_of = max_bytes, size_of
        self._kept: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._making: dict[Hashable, Future[T]] = {}
        self._lock = Lock()
        self.num_bytes = self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Hashable) -> T | None:
        """The value if it is kept."""
        with self._lock:
            return self._found(key)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value, by ``make()`` where it is not kept; what that raises reaches everyone who waits for it."""
        with self._lock:
            if (found := self._found(key)) is not None:
                return found
            waiting = self._making.get(key)
            if waiting is None:
                mine = self._making[key] = Future[T]()
        if waiting is not None:
            return waiting.result()
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                del self._making[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._making[key]
            self._keep(key, value)
        mine.set_result(value)
        return value

    def _found(self, key: Hashable) -> T | None:
        if key not in self._kept:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def _keep(self, key: Hashable, value: T) -> None:
        size = self._size_of(value)
        if size > self._max_bytes // 4:
            return
        self._kept[key] = value, size
        self.num_bytes += size
        while self.num_bytes > self._max_bytes:
            _, (_, freed) = self._kept.popitem(last=False)
            self.num_bytes -= freed
