"""Damage met while a shard is read: named, tried a second time, or put aside by those who go on with the others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pyarrow as pa

from cnnbatch.errors import ArchiveError
from cnnbatch.storage import Store

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def damage_as_archive_error(store: Store, path: str) -> Iterator[None]:
    """Turn what Arrow says of a file that is missing or not sound into an `ArchiveError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArchiveError(f"{path} is missing from {store.url}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # OSError: a bad page, thrift or CRC
        detail = " ".join(str(error).split())[:300]
        raise ArchiveError(f"{path} in {store.url} is not a readable shard: {detail}") from error


def again_if_damaged(read: Callable[[], R]) -> R:
    """The result of ``read()``, at damage of a second try: a bit that flipped on the way comes right then."""
    try:
        return read()
    except ArchiveError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise
        return read()


def or_fault(function: Callable[[T], R], item: T) -> R | ArchiveError:
    """``function(item)``, or what it says that is damaged: for those who go on with the others."""
    try:
        return function(item)
    except ArchiveError as error:
        return error
