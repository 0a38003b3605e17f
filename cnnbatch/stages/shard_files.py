"""The files of one shard below a destination: each is created, and none takes the place of what somebody else put there."""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.errors import StorageError, UsageError
from cnnbatch.stages import marks
from cnnbatch.stages.names import output_key
from cnnbatch.stages.records import Failure, ShardTask
from cnnbatch.storage import Store
from cnnbatch.storage.interface import Refusal

_OF_THE_KEY: Final = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
"""What a file system says of one name: another key is in the way (``a`` and ``a/b``), or it has no such names."""

_NOT_OURS: Final = {errno.ELOOP, errno.EACCES}
"""What it says of a file that is there and that nobody can have written for us."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file that is there as it should be; ``was_there``: before it was to be written."""

    num_bytes: int
    was_there: bool = False


class ShardFiles:
    """Writes the files of one task.

    Where a name is taken, a file with the same bytes counts as written. One with other bytes stays and is a failure, unless
    ``force`` replaces it, or unless an earlier attempt at this very shard wrote it: a decoder on another machine, or one that
    took the pictures in other batches, may round another way.
    """

    def __init__(self, destination: Store, task: ShardTask, format: str, *, force: bool) -> None:
        self._destination, self._task, self._format, self._force = destination, task, format, force
        self._since = marks.begin(task, destination, format)

    def name(self, row: ArchiveRow) -> str:
        """The key of a row's file."""
        return output_key(row, self._format, taken=self._task.taken)

    def write(self, rows: Sequence[ArchiveRow], files: Sequence[bytes | Failure]) -> list[Written | Failure]:
        """Writes what is no failure. Raises StorageError where it is the store that is in trouble."""
        items = [(self.name(row), data) for row, data in zip(rows, files, strict=True) if isinstance(data, bytes)]
        answers = iter(self._destination.put_many(items) if self._force else self._destination.create_many(items))
        return [
            data if isinstance(data, Failure) else self._outcome(row, data, next(answers))
            for row, data in zip(rows, files, strict=True)
        ]

    def finish(self, sizes: dict[str, int]) -> None:
        """Marks the shard as done."""
        marks.finish(self._task, self._destination, self._format, sizes)

    def _outcome(self, row: ArchiveRow, data: bytes, answer: bool | Refusal | None) -> Written | Failure:
        if isinstance(answer, UsageError | StorageError):
            return _failure(row, answer, _OF_THE_KEY)
        return self._taken(row, data) if answer is False else Written(len(data))

    def _taken(self, row: ArchiveRow, data: bytes) -> Written | Failure:
        name = self.name(row)
        try:
            info = self._destination.head(name)
            if info is not None and info.size in {len(data), None} and self._destination.read(name) == data:
                return Written(len(data), was_there=True)
        except FileNotFoundError:
            info = None
        except StorageError as error:
            return _failure(row, error, _NOT_OURS)
        if info is not None and row.outcome == "cnn" and self._since and info.mtime and info.mtime >= self._since:
            return Written(len(data) if info.size is None else info.size, was_there=True)
        return Failure(row.key, "write", "exists", f"{name!r} is there already, with other bytes: --force replaces it")


def _failure(row: ArchiveRow, refusal: Refusal, of_the_key: set[int]) -> Failure:
    """The key's own fault; raises what is not."""
    if isinstance(refusal, StorageError) and getattr(refusal.__cause__, "errno", None) not in of_the_key:
        raise refusal
    return Failure.of(row.key, "write", refusal)
