"""Reading many objects at once, bounded by bytes and by requests."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

from cnnbatch.errors import Unreadable
from cnnbatch.storage.interface import ObjectInfo

Outcome = tuple[ObjectInfo, bytes | Unreadable]


def read_many(
    get: Callable[[ObjectInfo], bytes], infos: Iterable[ObjectInfo], *, max_bytes: int, concurrency: int
) -> Iterator[Outcome]:
    """Call ``get`` in threads; see `Store.get_many`. Errors other than `Unreadable` end the iteration."""
    done: SimpleQueue[Future[Outcome]] = SimpleQueue()
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="cnnbatch-read")
    count = held = 0  # submitted and not yet handed out
    try:
        for info in infos:
            if info.size > max_bytes:
                yield info, Unreadable("too-large", f"{info.size} bytes, more than the {max_bytes} allowed")
                continue
            while count and (held + info.size > max_bytes or count >= 2 * concurrency or not done.empty()):
                outcome = done.get().result()
                count, held = count - 1, held - outcome[0].size
                yield outcome
            pool.submit(_outcome, get, info).add_done_callback(done.put)
            count, held = count + 1, held + info.size
        for _ in range(count):
            yield done.get().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _outcome(get: Callable[[ObjectInfo], bytes], info: ObjectInfo) -> Outcome:
    try:
        return info, get(info)
    except Unreadable as error:
        return info, error
