"""Reading many objects at once, bounded by bytes and by requests, and writing many."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from cnnbatch.errors import StorageError, Unreadable, UsageError
from cnnbatch.storage.interface import ObjectInfo, Refusal

Outcome = tuple[ObjectInfo, bytes | Unreadable]
Answer = TypeVar("Answer")

UNKNOWN_BYTES = 16 << 20
"""Assumed size of an object before it is read, if it is unknown."""

GROUP_BYTES = 1 << 18
"""Bytes of objects that one thread reads after the other: handing over each alone costs more than reading a tiny file."""


def get_one(get_many: Callable[..., Iterator[Outcome]], info: ObjectInfo) -> bytes:
    """One object by a source's ``get_many``; raises the Unreadable that says why there is none."""
    [(_, body)] = get_many([info], max_bytes=max(info.known_bytes, 1 << 30), concurrency=1)
    if isinstance(body, Unreadable):
        raise body
    return body


def read_many(
    get: Callable[[ObjectInfo], bytes],
    infos: Iterable[ObjectInfo],
    *,
    max_bytes: int,
    concurrency: int,
    together: int = 1,
) -> Iterator[Outcome]:
    """Call ``get`` in threads; see `Store.get_many`. Errors other than `Unreadable` end the iteration.

    Up to ``together`` small objects in a row are read by one thread: right where a request takes no longer than a call.
    """
    done: SimpleQueue[Future[list[Outcome]]] = SimpleQueue()
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="cnnbatch-read")
    count = held = 0  # submitted and not yet handed out
    try:
        for group in _groups(infos, together, min(GROUP_BYTES, max_bytes)):
            size = _size(group, max_bytes)
            if size > max_bytes:  # an object alone
                yield group[0], Unreadable("too-large", f"{size} bytes, more than the {max_bytes} allowed")
                continue
            while count and (held + size > max_bytes or count >= 2 * concurrency or not done.empty()):
                outcomes = done.get().result()
                count, held = count - 1, held - _size((info for info, _ in outcomes), max_bytes)
                yield from outcomes
            pool.submit(_outcomes, get, group).add_done_callback(done.put)
            count, held = count + 1, held + size
        for _ in range(count):
            yield from done.get().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _groups(infos: Iterable[ObjectInfo], together: int, max_bytes: int) -> Iterator[list[ObjectInfo]]:
    group: list[ObjectInfo] = []
    size = 0
    for info in infos:
        info_bytes = _size([info], max_bytes)
        if group and (len(group) >= together or size + info_bytes > max_bytes):
            yield group
            group, size = [], 0
        group.append(info)
        size += info_bytes
        if len(group) >= together:
            yield group
            group, size = [], 0
    if group:
        yield group


def _size(infos: Iterable[ObjectInfo], max_bytes: int) -> int:
    return sum(min(UNKNOWN_BYTES, max_bytes) if info.size is None else info.size for info in infos)


def _outcomes(get: Callable[[ObjectInfo], bytes], infos: Sequence[ObjectInfo]) -> list[Outcome]:
    return [_outcome(get, info) for info in infos]


def _outcome(get: Callable[[ObjectInfo], bytes], info: ObjectInfo) -> Outcome:
    try:
        return info, get(info)
    except Unreadable as error:
        return info, error


def put_each(put: Callable[[str, bytes], Answer], items: Sequence[tuple[str, bytes]]) -> list[Answer | Refusal]:
    """Call ``put`` for one after the other; see `Store.put_many` and `Store.create_many`."""
    outcomes: list[Answer | Refusal] = []
    for key, data in items:
        try:
            outcomes.append(put(key, data))
        except (StorageError, UsageError) as error:
            outcomes.append(error)
    return outcomes
