"""Counts how often a shard was begun, so that one that kills its workers is not begun for ever."""

import logging
import tempfile
import uuid
from pathlib import Path

from cnnbatch.errors import StorageError
from cnnbatch.storage import Store, open_store

logger = logging.getLogger(__name__)


class Attempts:
    """Marks of begun shards below a folder of a store that all workers of a run write to."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store, self._folder = store, folder
        self._marks: dict[int, str] = {}

    def begin(self, number: int) -> int:
        """Notes one more attempt at a shard; returns how many there were before."""
        before = len(list(self._store.list(f"{self._folder}/{number}")))
        self._marks[number] = f"{self._folder}/{number}/{uuid.uuid4().hex}"
        self._store.put(self._marks[number], b"")
        return before

    def withdraw(self, number: int) -> None:
        """Takes back the last mark at a shard: that attempt ended with an error and killed nobody."""
        try:
            self._store.delete(self._marks.pop(number))
        except StorageError as error:  # most likely what ended the attempt
            logger.warning("the mark of an attempt at shard %d stays: %s", number, error)

    def forget(self, number: int) -> None:
        """Removes the marks of a finished shard."""
        for info in list(self._store.list(f"{self._folder}/{number}")):
            self._store.delete(info.key)


def local_marks(run_id: str) -> Store:
    """A folder of this machine, for a run that may write to no store: each node counts the attempts that it saw."""
    return open_store(str(Path(tempfile.gettempdir(), f"cnnbatch-{run_id}")))
