"""Rows that a run took out of the archive because their originals were gone (``--mirror-deletes``), brought back.

Their bytes are in the files that were replaced, until a sweep deletes those: a row of such a file whose key is neither live nor
erased was removed so, as nothing else takes a key out of an archive.
"""

import fnmatch
import logging
import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import Final

from cnnbatch.archive.damage import damage_as_archive_error
from cnnbatch.archive.erased import read_erased
from cnnbatch.archive.log import ArchiveLog
from cnnbatch.archive.orphans import DATA
from cnnbatch.archive.parquet import read_columns
from cnnbatch.archive.shard_reading import read_footer, read_shard
from cnnbatch.archive.shards import write_shard
from cnnbatch.archive.snapshot import DEFAULT_THREADS, LiveShard, Snapshot, read_rows
from cnnbatch.errors import ArchiveError, DamagedRow
from cnnbatch.parallel import map_parallel
from cnnbatch.storage import ObjectInfo, Store

KEPT_SHARDS: Final = 64

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Removed:
    """A row that is not live any more, and the file that still has it."""

    key: str
    path: str


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of `restore`: keys that are live again, and those whose rows could not be read, with why."""

    keys: tuple[str, ...]
    damaged: Mapping[str, str]


def removed_rows(log: ArchiveLog, pattern: str = "*") -> list[Removed]:
    """The rows whose keys match a glob and that can be brought back, by key; of several versions of an image the latest.

    A replaced file that cannot be read is passed over, with a warning.

    Raises:
        ArchiveError: the log, a live shard or the erased list is damaged.
    """
    newest = log.load()
    live = _LiveKeys(log.store, newest.snapshot)
    replaced = newest.replaced() - live.paths
    there = [info for info in log.store.list(DATA) if info.key in replaced]
    matches, erased = re.compile(fnmatch.translate(pattern)).match, read_erased(log.store)
    latest: dict[str, tuple[datetime, str]] = {}
    for info, rows in zip(there, map_parallel(partial(_rows_of, log.store), there, threads=DEFAULT_THREADS), strict=True):
        wanted = {key: at for key, at in rows.items() if matches(key) and key not in erased}
        for key in wanted.keys() - live.among(wanted):
            latest[key] = max(latest.get(key, (wanted[key], "")), (wanted[key], info.key))
    return [Removed(key, path) for key, (_, path) in sorted(latest.items())]


def restore(log: ArchiveLog, rows: Sequence[Removed], *, run_id: str) -> Restored:
    """Makes rows live again, a new shard for each file that has some of them. A key that was brought or erased meanwhile stays
    as it is."""
    damaged: dict[str, str] = {}
    restored: list[str] = []
    for sequence, path in enumerate(sorted({row.path for row in rows})):
        keys = {row.key for row in rows if row.path == path}
        found = list(read_shard(log.store, path, keys=keys))
        damaged |= {row.key or "": str(row) for row in found if isinstance(row, DamagedRow)}
        sound = [row for row in found if not isinstance(row, DamagedRow)]
        if not sound:
            continue
        result = log.commit(run_id, sequence, [write_shard(log.store, sound, footer=read_footer(log.store, path))])
        restored += sorted({row.key for row in sound}.difference(result.dropped))
    return Restored(tuple(sorted(restored)), damaged)


def _rows_of(store: Store, info: ObjectInfo) -> dict[str, datetime]:
    """The keys of a replaced file, each with the time when its row was made."""
    try:
        table = read_columns(store, info.key, ["key", "ingested_at"], num_bytes=info.size)
        with damage_as_archive_error(store, info.key):
            return dict(zip(table.column("key").to_pylist(), table.column("ingested_at").to_pylist(), strict=True))
    except ArchiveError as error:
        logger.warning("nothing of %s can be brought back: %s", info.key, error)
        return {}


class _LiveKeys:
    """Which keys are live, read from the shards whose ranges they are in; those of the last few shards are kept."""

    def __init__(self, store: Store, snapshot: Snapshot) -> None:
        self._shards = snapshot.shards
        self.paths = {shard.path for shard in snapshot.shards}
        self._keys_of = lru_cache(maxsize=KEPT_SHARDS)(partial(_keys_of, store))

    def among(self, keys: Collection[str]) -> set[str]:
        """Those of ``keys`` that are live."""
        ordered = sorted(keys)
        near = (s for s in self._shards if bisect_left(ordered, s.min_key) < bisect_right(ordered, s.max_key))
        return set().union(*(self._keys_of(shard).intersection(ordered) for shard in near))


def _keys_of(store: Store, shard: LiveShard) -> frozenset[str]:
    table = read_rows(store, shard, ["key"])
    with damage_as_archive_error(store, shard.path):
        return frozenset(table.column("key").to_pylist())
