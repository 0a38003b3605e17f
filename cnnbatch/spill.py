"""Tables larger than memory: sorted runs on the local disk, read back range by range.

::

    with Scratch(folder, memory_bytes=1 << 30) as scratch:
        one, other = Spill(scratch, by="key"), Spill(scratch, by="key")
        one.add(table); other.add(another)               # any order, any number
        for left, right in ranges(one, other):           # the same range of keys out of both
            ...

Nothing touches the disk while all of it is small.
"""

import errno
import fcntl
import shutil
import tempfile
import weakref
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.errors import StorageError

BATCH_ROWS = 1024
"""Rows of each run that are read at least for a range."""

MAX_RUN_BYTES = 1 << 30
"""Arrow's string offsets are signed 32-bit."""

_PREFIX = "cnnbatch-plan-"
_LOCK = "lock"
_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")


class Scratch:
    """A folder of this process on the local disk, made when it is needed; gone with the ``with`` block, or with the object.

    What a killed process left is removed by the next one. ``folder`` None: where the system puts temporary files.
    """

    def __init__(self, folder: str | None, *, memory_bytes: int) -> None:
        self.run_bytes = min(MAX_RUN_BYTES, max(1, memory_bytes // 4))
        """Bytes of a table in memory at one time; sorting it takes as much again."""
        self._parent = Path(folder or tempfile.gettempdir())
        self._folder: Path | None = None
        self._remove: weakref.finalize[..., Any] | None = None
        self._names = count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._remove is not None:
            self._remove()
        self._folder = self._remove = None

    def path(self) -> Path:
        """A new file's path. Raises StorageError if the folder cannot be made."""
        if self._folder is None:
            with disk_trouble(self._parent):
                _remove_abandoned(self._parent)
                unlocked = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=self._parent))
                lock = (unlocked / _LOCK).open("wb")
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._folder = unlocked.rename(unlocked.with_name(unlocked.name.removeprefix(".")))
                self._remove = weakref.finalize(self, _remove_folder, self._folder, lock)
        return self._folder / f"{next(self._names):06}.arrow"


def _remove_folder(folder: Path, lock: BinaryIO) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()


def _remove_abandoned(parent: Path) -> None:
    """Folders whose process is gone, which the lock on a file in them tells."""
    for lock in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # in use, another user's, or just removed
            continue


@contextmanager
def disk_trouble(path: Path) -> Iterator[None]:
    """Raises StorageError with what to do, in place of the system's error."""
    try:
        yield
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise StorageError(
            f"cannot keep the plan of this run in {path}: {what}; set planning.folder to another place"
        ) from error


def write_tables(path: Path, tables: Iterable[pa.Table], schema: pa.Schema, *, batch_rows: int | None = None) -> None:
    """An Arrow file; a record batch for each chunk of the tables, or several of at most ``batch_rows``."""
    with (
        disk_trouble(path.parent),
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, schema, options=_OPTIONS) as writer,
    ):
        for table in tables:
            writer.write_table(table, max_chunksize=batch_rows)


class _Run:
    """Rows in rising order on disk; of each batch the first value is in memory."""

    def __init__(self, path: Path, table: pa.Table, by: str) -> None:
        self._path, self._by = path, by
        column = table.column(by)
        self.firsts = [column[row].as_py() for row in range(0, table.num_rows, BATCH_ROWS)]
        self.batch_bytes = max(1, table.nbytes // len(self.firsts))
        write_tables(path, [table], table.schema, batch_rows=BATCH_ROWS)

    def read(self, low: Any, high: Any) -> pa.Table:
        """Rows with ``low`` <= value < ``high``; None: no bound."""
        start = 0 if low is None else max(0, bisect_left(self.firsts, low) - 1)
        stop = len(self.firsts) if high is None else bisect_left(self.firsts, high)
        with disk_trouble(self._path.parent), pa.OSFile(str(self._path)) as file:
            reader = pa.ipc.open_file(file)
            table = pa.Table.from_batches((reader.get_batch(index) for index in range(start, stop)), schema=reader.schema)
        first = 0 if low is None else self._position(table, low)
        last = table.num_rows if high is None else self._position(table, high)
        return table.slice(first, last - first)

    def _position(self, table: pa.Table, value: Any) -> int:
        column = table.column(self._by)
        return bisect_left(range(table.num_rows), value, key=lambda row: column[row].as_py())


class Spill:
    """Rows to be read back by `ranges` of the column ``by``, which has no null."""

    def __init__(self, scratch: Scratch, schema: pa.Schema, *, by: str) -> None:
        self.scratch, self.schema, self.by = scratch, schema, by
        self.num_rows = 0
        self.runs: list[_Run] = []
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0

    def add(self, table: pa.Table) -> None:
        """Takes rows of ``schema``; a run's worth of them is sorted and goes to disk."""
        self.num_rows += table.num_rows
        self._pending.append(table)
        self._pending_bytes += table.nbytes
        if self._pending_bytes >= self.scratch.run_bytes:
            self.flush()

    def flush(self) -> None:
        """Puts what is in memory on disk as one more run."""
        if self._pending_bytes:
            self.runs.append(_Run(self.scratch.path(), in_order(self.pending(), self.by), self.by))
        self._pending, self._pending_bytes = [], 0

    def pending(self) -> pa.Table:
        """The part in memory, in any order."""
        self._pending = [pa.concat_tables([self.schema.empty_table(), *self._pending]).combine_chunks()]
        return self._pending[0]

    def read(self, low: Any, high: Any) -> pa.Table:
        """Rows with ``low`` <= value < ``high``, in any order, out of the runs."""
        return pa.concat_tables([self.schema.empty_table(), *(run.read(low, high) for run in self.runs)]).combine_chunks()


def ranges(*spills: Spill) -> Iterator[tuple[pa.Table, ...]]:
    """The rows of all of them, a range of values after the other in rising order, of about half a run's bytes together.

    A value is in one range only; the rows of a range are in any order. All in one range where nothing went to disk.
    """
    if not any(spill.runs for spill in spills):
        yield tuple(spill.pending() for spill in spills)
        return
    for spill in spills:
        spill.flush()
    for low, high in pairwise([None, *_cuts(spills), None]):
        yield tuple(spill.read(low, high) for spill in spills)


def _cuts(spills: tuple[Spill, ...]) -> list[Any]:
    runs = chain.from_iterable(spill.runs for spill in spills)
    marks = sorted((first, run.batch_bytes) for run in runs for first in run.firsts)
    cuts: list[Any] = []
    size = 0
    for value, num_bytes in marks:
        if size >= spills[0].scratch.run_bytes / 2 and value != (cuts[-1] if cuts else marks[0][0]):
            cuts.append(value)
            size = 0
        size += num_bytes
    return cuts


def in_order(table: pa.Table, by: str) -> pa.Table:
    """Sorted by a column; untouched where it is already, as most listings are."""
    column = table.column(by).combine_chunks()
    if pc.all(pc.less_equal(column.slice(0, max(0, len(column) - 1)), column.slice(1))).as_py() in (True, None):
        return table
    return table.take(pc.sort_indices(column))


class Pile:
    """Tables in the order in which they came; on disk once they are more than a run."""

    def __init__(self, scratch: Scratch, schema: pa.Schema) -> None:
        self.scratch, self.schema = scratch, schema
        self.num_rows = 0
        self._paths: list[Path] = []
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0

    def add(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        self.num_rows += table.num_rows
        self._pending.append(table)
        self._pending_bytes += table.nbytes
        if self._pending_bytes >= self.scratch.run_bytes:
            self._paths.append(self.scratch.path())
            write_tables(self._paths[-1], self._pending, self.schema, batch_rows=BATCH_ROWS)
            self._pending, self._pending_bytes = [], 0

    def __iter__(self) -> Iterator[pa.Table]:
        """Tables of about a run's bytes; may be begun again."""
        for path in self._paths:
            with disk_trouble(path.parent), pa.OSFile(str(path)) as file:
                table = pa.ipc.open_file(file).read_all()
            yield table
        if self._pending:
            yield pa.concat_tables(self._pending)
