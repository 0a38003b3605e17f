"""A process after a fork, and what it has of its parent: memory, and neither threads nor connections that it may use.

So connections and pools of threads are made anew in a forked process (`OfThisProcess`, `Threads`). What cannot be made anew
are the threads of libraries written in Rust (obstore, deltalake): once they ran before a fork, each call in the child waits
for ever or panics. `rust_works` says whether they may be called.
"""

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from cnnbatch.errors import StorageError

T = TypeVar("T")
R = TypeVar("R")

KEPT_BYTES: Final = 1 << 30
"""Freed memory that a process keeps, see `keep_freed_memory`."""

LARGEST_KEPT_BYTES: Final = 32 << 20
"""Larger blocks go back to the system as soon as they are freed; glibc takes no larger number."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc

RUNTIME: Final = "tokio-rt"
"""How the names of the threads begin on which Rust's libraries work."""

FORKED: Final = (
    "this process was forked from one that had used a store or an archive already; start it by 'spawn' or 'forkserver' "
    "(multiprocessing.get_context, DataLoader's multiprocessing_context)"
)

_rust_ran: bool = False
"""Whether such threads ran in the parent, or in a parent of it, when a process of this line was forked."""


def keep_freed_memory() -> None:
    """Keeps freed memory for reuse, in a process that codes and does nothing else.

    Every batch frees and takes buffers of some megabytes. glibc gives such blocks back to the system each time, and the
    kernel clears them anew, page by page: a sixth of the time of encoding. Where there is no glibc, nothing of that.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        mallopt(_M_TOP_PAD, 64 << 20)  # else the heaps of threads are given back, 64 MB each


def rust_works() -> bool:
    """Whether obstore and deltalake can be called in this process."""
    return not _rust_ran


def require_rust(action: str) -> None:
    """Raise StorageError where they cannot."""
    if _rust_ran:
        raise StorageError(f"cannot {action}: {FORKED}")


def _before_fork() -> None:
    global _found
    _found = any(map(_is_rust, Path("/proc/self/task").iterdir()))


def _after_fork() -> None:
    global _rust_ran
    _rust_ran |= _found


def _is_rust(thread: Path) -> bool:
    try:
        return (thread / "comm").read_text().startswith(RUNTIME)
    except OSError:  # it has ended
        return False


_found: bool = False
os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


class OfThisProcess(Generic[T]):
    """A property that is made when it is first used, and once more in each process that is forked then.

    What the parent made is kept, and not used: to end it here may be to end it there.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"{name} by process"

    def __get__(self, instance: Any, owner: type) -> T:
        made: dict[int, T] = instance.__dict__.setdefault(self._name, {})
        process = os.getpid()
        return made[process] if process in made else made.setdefault(process, self._make(instance))


class Threads:
    """A pool of threads that lasts as long as its owner, in a forked process as well."""

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """As the built-in one, on these threads."""
        return self._pool.map(function, items)

    @OfThisProcess
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._count, thread_name_prefix=self._name)
