"""The files of one shard below a destination: each is created, and none takes the place of what somebody else put there."""

import errno
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from cnnbatch.archive.fields import as_file, parse_fields
from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.containers.names import sample_of
from cnnbatch.errors import ArchiveError, StorageError, UsageError
from cnnbatch.stages import marks
from cnnbatch.stages.names import escaped, output_key
from cnnbatch.stages.records import Failure, ShardTask
from cnnbatch.storage import Store
from cnnbatch.storage.interface import Refusal

_OF_THE_KEY: Final = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
"""Errors of a file system about one name: another key is in the way (``a`` and ``a/b``), or it has no such names."""

_NOT_OURS: Final = {errno.ELOOP, errno.EACCES}
"""Its errors about a file that is there and that nobody can have written for us."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file that is there as it should be; ``was_there``: before it was to be written."""

    num_bytes: int
    was_there: bool = False


@dataclass(frozen=True, slots=True)
class Closed:
    """The result of writing all of a shard; ``was_there``: all of it, before."""

    failures: tuple[Failure, ...] = ()
    was_there: bool = False


class ShardFiles:
    """Writes the files of one task.

    Where a name is taken, a file with the same bytes counts as written. One with other bytes stays and is a failure, unless
    ``force`` replaces it, or unless an earlier attempt at this very shard wrote it: a decoder on another machine, or one that
    took the pictures in other batches, may round another way.

    Side files go beside a picture; what the columns of a list said of it goes there only with ``columns``: it was in no file.
    """

    def __init__(self, destination: Store, task: ShardTask, format: str, *, force: bool, columns: bool) -> None:
        self._destination, self._task, self._format, self._force = destination, task, format, force
        self._columns = columns
        self._since = marks.begin(task, destination, format)

    def name(self, row: ArchiveRow) -> str:
        """The key of a row's file."""
        return output_key(row, self._format, taken=self._task.taken)

    def write(self, rows: Sequence[ArchiveRow], files: Sequence[bytes | Failure]) -> list[Written | Failure]:
        """Writes what is no failure. Raises StorageError where it is the store that is in trouble."""
        found = [self._files_of(row, data) for row, data in zip(rows, files, strict=True)]
        items = [item for one in found if not isinstance(one, Failure) for item in one]
        answers = iter(self._destination.put_many(items) if self._force else self._destination.create_many(items))
        return [
            one if isinstance(one, Failure) else self._joined([self._outcome(row, *item, next(answers)) for item in one])
            for row, one in zip(rows, found, strict=True)
        ]

    def close(self, sizes: dict[str, int], *, failed: bool) -> Closed:
        """Marks the shard as done, unless some of it ``failed``."""
        if not failed:
            marks.finish(self._task, self._destination, self._format, sizes)
        return Closed()

    def _files_of(self, row: ArchiveRow, data: bytes | Failure) -> list[tuple[str, bytes]] | Failure:
        """The file of a row, and one for each thing that lay beside it."""
        if isinstance(data, Failure):
            return data
        if row.fields is None or (row.container is not None and not self._columns):
            return [(self.name(row), data)]
        return _with_side_files(row, self.name(row), data)

    @staticmethod
    def _joined(outcomes: Sequence[Written | Failure]) -> Written | Failure:
        """Outcome of an image and its side files: the first failure, or what became of the image."""
        return next((one for one in outcomes if isinstance(one, Failure)), outcomes[0])

    def _outcome(self, row: ArchiveRow, name: str, data: bytes, answer: bool | Refusal | None) -> Written | Failure:
        if isinstance(answer, UsageError | StorageError):
            return refused(row.key, answer)
        return self._taken(row, name, data) if answer is False else Written(len(data))

    def _taken(self, row: ArchiveRow, name: str, data: bytes) -> Written | Failure:
        try:
            info = self._destination.head(name)
            if info is not None and info.size in {len(data), None} and self._destination.read(name) == data:
                return Written(len(data), was_there=True)
        except FileNotFoundError:
            info = None
        except StorageError as error:
            return refused(row.key, error, _NOT_OURS)
        if info is not None and row.outcome == "cnn" and self._since and info.mtime and info.mtime >= self._since:
            return Written(len(data) if info.size is None else info.size, was_there=True)
        return Failure(row.key, "write", "exists", f"{name!r} is there already, with other bytes: --force replaces it")


def _with_side_files(row: ArchiveRow, name: str, data: bytes) -> list[tuple[str, bytes]] | Failure:
    try:
        fields = [(field, as_file(field)) for field in parse_fields(row.fields)]
    except ArchiveError as error:
        return Failure.of(row.key, "decode", error)
    stem = (sample_of(row.key) or (row.key, ""))[0]
    return [(name, data), *((escaped(f"{stem}.{field.name}"), side) for field, side in fields if side is not None)]


def refused(key: str, refusal: Refusal, of_the_key: Collection[int] = _OF_THE_KEY) -> Failure:
    """A failure that is the key's own fault; raises what is not."""
    if isinstance(refusal, StorageError) and getattr(refusal.__cause__, "errno", None) not in of_the_key:
        raise refusal
    return Failure.of(key, "write", refusal)
