"""Work in batches of alike items, on the codec's threads, in batches that adapt to the memory of the device."""

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

import torch

from cnnbatch.processes import Threads

logger = logging.getLogger(__name__)

# GNU's OpenMP waits for ever for the threads that the parent had; a DataLoader does the same in its workers.
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

T = TypeVar("T")
R = TypeVar("R")


class Batches:
    """Batches of at most the size ``most`` together (a larger item alone), so many at once as there are ``threads``.

    Where the device has no memory for a batch, its halves are tried, and the batches that follow are smaller.
    """

    def __init__(self, device: torch.device, *, most: int, threads: int) -> None:
        self._device, self._most = device, most
        self._pool = Threads(threads, "codec") if threads > 1 else None

    def map(
        self,
        function: Callable[[Sequence[T]], Sequence[R]],
        items: Sequence[T],
        *,
        size: Callable[[T], int],
        alike: Callable[[T], Hashable],
    ) -> Iterator[tuple[T, R]]:
        """Every item with its result of ``function``, which gets a batch of ``alike`` items and runs without gradients.

        Raises what the first failing batch raised, torch.OutOfMemoryError where a single item does not fit.
        """

        def run(batch: Sequence[T]) -> list[tuple[T, R]]:
            with torch.inference_mode():  # holds for the thread that enters it
                return self._run_or_halve(batch, function)

        for results in (map if self._pool is None else self._pool.map)(run, self._batches(items, size, alike)):
            yield from results

    def _batches(self, items: Sequence[T], size: Callable[[T], int], alike: Callable[[T], Hashable]) -> Iterator[Sequence[T]]:
        groups: dict[Hashable, list[T]] = defaultdict(list)
        for item in items:
            groups[alike(item)].append(item)
        for group in groups.values():
            count = max(1, self._most // size(group[0]))
            for first in range(0, len(group), count):
                yield group[first : first + count]

    def _run_or_halve(self, batch: Sequence[T], function: Callable[[Sequence[T]], Sequence[R]]) -> list[tuple[T, R]]:
        try:
            return list(zip(batch, function(batch), strict=True))
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        # Not in the handler: its traceback holds on to the tensors of the batch that did not fit.
        logger.warning("out of memory on %s with a batch of %d: trying halves", self._device, len(batch))
        self._most = max(1, self._most // 2)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        middle = len(batch) // 2
        return [pair for half in (batch[:middle], batch[middle:]) for pair in self._run_or_halve(half, function)]
