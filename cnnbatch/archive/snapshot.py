"""One version of an archive's log: which shards are live."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from cnnbatch.archive.parquet import read_columns
from cnnbatch.errors import ArchiveError, CnnbatchError, StorageError
from cnnbatch.processes import FORKED
from cnnbatch.storage import Store
from cnnbatch.storage.trouble import code_of, storage_error

DEFAULT_THREADS = 16  # requests in flight, not processors: most of the time is spent waiting for the store
_SHARD_PATH = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9_.=-]*(/[A-Za-z0-9_=-][A-Za-z0-9_.=-]*)*\.parquet")
_NO_DAMAGE = {
    *("AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "NoCredentials"),
    *("InternalError", "SlowDown", "Timeout", "Truncated", "Unreachable", "RequestTimeTooSkewed"),
}
"""Errors of a store, not of a file."""

_SHARD_COLUMNS = ("path", "size_bytes", "num_records", "min.key", "max.key")


@dataclass(frozen=True, slots=True)
class LiveShard:
    """One shard that the log names. ``min_key`` … ``max_key`` bounds its keys."""

    path: str
    num_bytes: int
    num_rows: int
    min_key: str
    max_key: str

    def may_hold(self, key: str) -> bool:
        return self.min_key <= key <= self.max_key


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The live shards at one version of the log, ordered by their first key."""

    version: int
    shards: tuple[LiveShard, ...]

    @property
    def num_rows(self) -> int:
        return sum(shard.num_rows for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        return sum(shard.num_bytes for shard in self.shards)


@contextmanager
def delta_faults(what: str) -> Iterator[None]:
    """Raise our errors for what deltalake says while it reads ``what``: it is damaged, or the store refused.

    Both are told anywhere, as parts of a checkpoint are read when they are asked for; and over some malformed logs its Rust
    panics, which is no `Exception`.
    """
    try:
        yield
    except CnnbatchError:
        raise
    except (DeltaError, pa.ArrowException, ValueError) as error:
        if code_of(error) in _NO_DAMAGE:
            raise storage_error(error, "read", what) from error
        raise ArchiveError(f"{what} is damaged: {' '.join(str(error).split())[:300]}") from error
    except OSError as error:
        raise storage_error(error, "read", what) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        if "Forked process" in str(error):
            raise StorageError(f"cannot read {what}: {FORKED}") from error
        raise ArchiveError(f"{what} is damaged: {' '.join(str(error).split())[:300]}") from error


def take_snapshot(table: DeltaTable) -> Snapshot:
    """Read the live shards out of a loaded Delta table.

    Raises:
        ArchiveError: the log needs a Delta reader feature, or names a file that cannot be a shard of this archive.
    """
    with delta_faults("the log"):
        protocol = table.protocol()
        if protocol.min_reader_version > 1:
            raise ArchiveError(
                f"the log needs Delta reader version {protocol.min_reader_version} with {protocol.reader_features}: "
                "another tool changed the table"
            )
        actions = pa.table(table.get_add_actions(flatten=True))
        shards = sorted(_live_shards(actions), key=lambda shard: (shard.min_key, shard.path))
    return Snapshot(table.version(), tuple(shards))


def _live_shards(actions: pa.Table) -> Iterator[LiveShard]:
    """By columns: a row of an archive of 10⁸ images is one of 77,000, and each commit reads them again."""
    if not actions.num_rows:
        return
    if not set(_SHARD_COLUMNS) <= set(actions.column_names):
        raise ArchiveError("the log has no counts and key ranges of its shards")
    columns = [actions.column(name).to_pylist() for name in _SHARD_COLUMNS]
    for path in columns[0]:
        if not _SHARD_PATH.fullmatch(path):
            raise ArchiveError(f"the log names {path[:200]!r}, which is not a file inside an archive")
    for column in columns:
        if None in column:
            raise ArchiveError(f"the log has no count and key range of {columns[0][column.index(None)]}")
    for path, *counts in zip(*columns[:3], strict=True):
        if min(counts) < 0:
            raise ArchiveError(f"the log says that {path} has {counts[0]} bytes and {counts[1]} rows")
    yield from map(LiveShard, *columns)


def read_rows(store: Store, shard: LiveShard, columns: Sequence[str]) -> pa.Table:
    """These columns of a shard's rows.

    Raises:
        ArchiveError: it is missing or damaged.
        StorageError: the store refused.
    """
    return read_columns(store, shard.path, columns, num_bytes=shard.num_bytes).combine_chunks()
