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
from cnnbatch.archive.parquet import map_parallel, read_columns
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
        DamagedRow: a row that must be carried on is damaged: the shard stays as it is.
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
    return keys.intersection(column.to_pylist())


@dataclass(frozen=True, slots=True)
class Compaction:
    """What `compact` did: shards merged into how many, how many a writer had replaced meanwhile, and damaged ones left."""

    merged: int = 0
    written: int = 0
    stale: int = 0
    damaged: tuple[str, ...] = ()


class _DamagedShard(ArchiveError):
    """This shard cannot be merged."""


def compact(log: ArchiveLog, *, run_id: str, target_bytes: int = TARGET_BYTES) -> Compaction:
    """Merge the shards under half of ``target_bytes`` into key-sorted ones near it, a group of them in each commit.

    A shard that another writer replaced meanwhile takes its merge out of the commit; nothing is lost, and the next call
    takes it up again. Large shards stay: rewriting an archive for a handful of new images would cost more than it saves.
    """
    done = Compaction()
    groups = _groups(log.snapshot(), target_bytes)
    for sequence, group in enumerate(groups):
        shards, damaged = list(group), list(done.damaged)
        adds: list[ShardInfo] = []
        while len(shards) > 1 and not adds:
            try:
                adds = list(_merge(log.store, shards, target_bytes))
            except _DamagedShard as error:
                logger.warning("left as it is: %s", error)
                damaged.append(str(error.__notes__[0]))
                shards = [shard for shard in shards if shard.path != damaged[-1]]
        stale: Sequence[str] = ()
        if adds:
            result = log.commit(run_id, sequence, adds)
            stale = result.stale
            adds = [shard for shard in adds if shard.path in result.added]
        merged = len(shards) - len(stale) if adds else 0
        done = Compaction(done.merged + merged, done.written + len(adds), done.stale + len(stale), tuple(damaged))
    return done
