"""What changes an archive beside a run: images are erased for good, small shards are merged.

Both go through `ArchiveLog.commit`, so they may run beside writers and readers; after a kill the same call finishes the work.
"""

import heapq
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from cnnbatch.archive.erased import add_erased
from cnnbatch.archive.log import ArchiveLog
from cnnbatch.archive.parquet import damage_as_archive_error, map_parallel, read_columns
from cnnbatch.archive.schema import BLOBS, ArchiveRow
from cnnbatch.archive.shards import ShardInfo, read_shard, rewrite_without, write_shard
from cnnbatch.archive.snapshot import DEFAULT_THREADS, LiveShard, Snapshot
from cnnbatch.errors import ArchiveError, DamagedRow, StorageError
from cnnbatch.storage import Store
from cnnbatch.version import VERSION

TARGET_BYTES: Final = 128 << 20
MERGE_BYTES: Final = 2 << 30
"""Shards merged in one commit: of each at most a row group (16 MiB) is in memory, and of the result one shard."""

MERGE_SHARDS: Final = 100
ROW_OVERHEAD_BYTES: Final = 200  # a row's small columns
ATTEMPTS: Final = 20

_LINEAGE: Final = {"cnnbatch.version": VERSION, "cnnbatch.job": "compact"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Erasure:
    """What `erase` did: the keys that had a row, and the files that still hold them until they are swept."""

    erased: tuple[str, ...]
    replaced: tuple[str, ...]


def erase(log: ArchiveLog, keys: Collection[str], *, run_id: str) -> Erasure:
    """Take images out of the archive and put their keys on the erased list, so that they are never ingested again.

    The list comes first: what a running job commits from then on leaves them out (`merge.resolve`). The replaced files
    keep the bytes until a sweep.

    Raises:
        DamagedRow: a row that must be carried on cannot be read at all: the shard stays as it is.
        StorageError: other writers kept replacing the shards.
    """
    wanted = frozenset(keys)
    add_erased(log.store, wanted)
    erased: set[str] = set()
    replaced: list[str] = []
    for sequence in range(ATTEMPTS):
        found = _shards_holding(log.store, log.snapshot(), wanted)
        if not found:
            return Erasure(tuple(sorted(erased)), tuple(replaced))
        rests = {shard.path: rewrite_without(log.store, shard.path, wanted, num_bytes=shard.num_bytes) for shard in found}
        adds = [rest for rest in rests.values() if rest is not None]
        removes = [path for path, rest in rests.items() if rest is None]
        result = log.commit(run_id, sequence, adds, removes=removes)
        erased.update(*(hit for shard, hit in found.items() if shard.path in result.removed))
        replaced += result.removed
    raise StorageError(f"{log.store.url}: other writers replaced these images' shards {ATTEMPTS} times: run it again")


def _shards_holding(store: Store, snapshot: Snapshot, keys: frozenset[str]) -> dict[LiveShard, frozenset[str]]:
    shards = [shard for shard in snapshot.shards if any(map(shard.may_hold, keys))]
    found = map_parallel(partial(_keys_in, store, keys), shards, threads=DEFAULT_THREADS)
    return {shard: hit for shard, hit in zip(shards, found, strict=True) if hit}


def _keys_in(store: Store, keys: frozenset[str], shard: LiveShard) -> frozenset[str]:
    column = read_columns(store, shard.path, ["key"], num_bytes=shard.num_bytes).column("key")
    with damage_as_archive_error(store, shard.path):  # text that is not UTF-8 is noticed here
        return keys.intersection(column.to_pylist())


@dataclass(frozen=True, slots=True)
class Compaction:
    """What `compact` did: shards merged, shards written for them, shards another writer had replaced, damaged ones left."""

    merged: int = 0
    written: int = 0
    stale: int = 0
    damaged: tuple[str, ...] = ()


class _DamagedShard(Exception):
    """This shard cannot be merged."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


def compact(log: ArchiveLog, *, run_id: str, target_bytes: int = TARGET_BYTES) -> Compaction:
    """Merge the shards under half of ``target_bytes`` into key-sorted ones near it, a group of them in each commit.

    A shard that another writer replaced meanwhile takes its merge out of the commit; nothing is lost, and the next call
    takes it up again. Large shards stay: rewriting an archive for a handful of new images would cost more than it saves.
    """
    groups = _groups(log.snapshot(), target_bytes)
    parts = [_compact_group(log, run_id, sequence, group, target_bytes) for sequence, group in enumerate(groups)]
    return Compaction(
        merged=sum(part.merged for part in parts),
        written=sum(part.written for part in parts),
        stale=sum(part.stale for part in parts),
        damaged=tuple(path for part in parts for path in part.damaged),
    )


def _groups(snapshot: Snapshot, target_bytes: int) -> list[list[LiveShard]]:
    """Small shards by their first key, as many as one commit may merge."""
    groups: list[list[LiveShard]] = [[]]
    size = 0
    for shard in snapshot.shards:
        if shard.num_bytes >= target_bytes / 2:
            continue
        if size + shard.num_bytes > MERGE_BYTES or len(groups[-1]) == MERGE_SHARDS:
            groups.append([])
            size = 0
        groups[-1].append(shard)
        size += shard.num_bytes
    return [group for group in groups if len(group) > 1]


def _compact_group(log: ArchiveLog, run_id: str, sequence: int, group: list[LiveShard], target_bytes: int) -> Compaction:
    damaged: list[str] = []
    while len(group) > 1:
        try:
            adds = list(_merge(log.store, group, target_bytes))
        except _DamagedShard as fault:
            logger.warning("%s is left as it is: %s", fault.path, fault.__cause__)
            damaged.append(fault.path)
            group = [shard for shard in group if shard.path != fault.path]
        else:
            result = log.commit(run_id, sequence, adds)
            return Compaction(len(result.removed), len(result.added), len(result.stale), tuple(damaged))
    return Compaction(damaged=tuple(damaged))


def _merge(store: Store, group: Sequence[LiveShard], target_bytes: int) -> Iterator[ShardInfo]:
    """Write the rows of all of them again, by key, cut into shards of about equal size; each names those it carries on."""
    total = sum(shard.num_bytes for shard in group)
    pieces = max(1, round(total / target_bytes))
    rows: list[ArchiveRow] = []
    origins: set[str] = set()
    size = written = 0
    for _, path, row in heapq.merge(*(_sound_rows(store, shard) for shard in group), key=lambda item: item[0]):
        if size >= total / pieces and written < pieces - 1:
            yield write_shard(store, rows, footer=_LINEAGE, replaces=sorted(origins))
            rows, origins, size, written = [], set(), 0, written + 1
        rows.append(row)
        origins.add(path)
        size += len(row.payload) + sum(len(getattr(row, name) or b"") for name in BLOBS) + ROW_OVERHEAD_BYTES
    yield write_shard(store, rows, footer=_LINEAGE, replaces=sorted(origins))


def _sound_rows(store: Store, shard: LiveShard) -> Iterator[tuple[str, str, ArchiveRow]]:
    try:
        for row in read_shard(store, shard.path, num_bytes=shard.num_bytes):
            if isinstance(row, DamagedRow):
                raise row
            yield row.key, shard.path, row
    except ArchiveError as error:
        raise _DamagedShard(shard.path) from error
