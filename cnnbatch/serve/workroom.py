"""Where pictures are decoded: so many at once, within so much memory, and a queue that ends.

::

    async with workroom.place(request.is_disconnected): ...   # raises Busy, Gone
    with workroom.memory(num_bytes): ...                      # in a thread: waits until others have given theirs back
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from threading import Condition
from typing import TypeVar

T = TypeVar("T")


class Busy(Exception):
    """More wait than the queue holds: 503."""


class Gone(Exception):
    """Whoever asked does not wait any more."""


class Workroom:
    """``workers`` threads, a queue of ``queue`` requests before them, and ``max_bytes`` that they may hold at once."""

    def __init__(self, workers: int, *, queue: int, max_bytes: int) -> None:
        self.workers, self.queue, self.max_bytes = workers, queue, max_bytes
        self.waiting = self.working = 0
        self.held_bytes = 0
        self._places = asyncio.Semaphore(workers)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="cnnbatch-serve")
        self._freed = Condition()

    async def run(self, gone: Callable[[], Awaitable[bool]], function: Callable[[], T]) -> T:
        """``function()`` in a thread, when it is its turn. Raises Busy, Gone, and what it raises."""
        async with self._place(gone):
            # Shielded: a thread cannot be stopped, and its place is not free before it ends.
            work = asyncio.get_running_loop().run_in_executor(self._pool, function)
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait([work])
                work.exception()  # nobody is there to be told
                raise

    @contextmanager
    def memory(self, num_bytes: int) -> Iterator[None]:
        """Waits until ``num_bytes`` fit beside what others hold; one that is larger than all there is works alone."""
        with self._freed:
            self._freed.wait_for(lambda: not self.held_bytes or self.held_bytes + num_bytes <= self.max_bytes)
            self.held_bytes += num_bytes
        try:
            yield
        finally:
            with self._freed:
                self.held_bytes -= num_bytes
                self._freed.notify_all()

    def close(self) -> None:
        """Waits for what is under way."""
        self._pool.shutdown(cancel_futures=True)

    @asynccontextmanager
    async def _place(self, gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[None]:
        if self.waiting >= self.queue:
            raise Busy
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        try:
            if await gone():
                raise Gone
            self.working += 1
            try:
                yield
            finally:
                self.working -= 1
        finally:
            self._places.release()
