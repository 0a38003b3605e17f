"""Batches that adapt to the memory of the device."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)


T = TypeVar("T")


R = TypeVar("R")


def run_or_halve(
    batch: Sequence[T], function: Callable[[Sequence[T]], R], *, device: torch.device, on_halved: Callable[[], None]
) -> list[R]:
    """``[function(batch)]``, or where the device has no memory for it, what ``function`` gives for its halves, in order.

    ``on_halved`` makes the batches that follow smaller. Raises torch.OutOfMemoryError where a single item does not fit.
    """
    try:
        return [function(batch)]
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # Not in the handler: its traceback holds on to the tensors of the batch that did not fit.
    logger.warning("no memory on %s for a batch of %d: halved", device, len(batch))
    on_halved()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    middle = len(batch) // 2
    halves = (batch[:middle], batch[middle:])
    return [result for half in halves for result in run_or_halve(half, function, device=device, on_halved=on_halved)]
