"""Batches of what a stage codes or decodes in one call."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def in_batches(
    items: Iterable[T], *, pixels: Callable[[T], int], max_pixels: int, max_items: int | None = None
) -> Iterator[list[T]]:
    """Items in their order, so many together as have at most ``max_pixels``; a larger one has a batch of its own."""
    batch: list[T] = []
    total = 0
    for item in items:
        if batch and (total + pixels(item) > max_pixels or len(batch) == max_items):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += pixels(item)
    if batch:
        yield batch
