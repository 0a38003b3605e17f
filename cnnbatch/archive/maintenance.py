"""Changes of an archive beside a run: erasing images for good, merging small shards.

Both go through `ArchiveLog.commit`, so they may run beside writers and readers; after a kill the same call finishes the work.
"""

import logging
import math
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Final

from cnnbatch.archive.carrying import rewrite_without
from cnnbatch.archive.damage import damage_as_archive_error, or_fault
from cnnbatch.archive.erased import add_erased
from cnnbatch.archive.log import ArchiveLog
from cnnbatch.archive.parquet import read_columns
from cnnbatch.archive.schema import BLOBS, ArchiveRow
from cnnbatch.archive.shard_reading import read_footer, read_shard
from cnnbatch.archive.shards import ShardInfo, write_shard
from cnnbatch.archive.snapshot import DEFAULT_THREADS, LiveShard, Snapshot
from cnnbatch.errors import ArchiveError, DamagedRow, StorageError
from cnnbatch.parallel import map_parallel
from cnnbatch.storage import Store

TARGET_BYTES: Final = 128 << 20
MERGE_BYTES: Final = 2 << 30
MERGE_SHARDS: Final = 100
"""Merged in one commit; more of both where shards overlap, as what replaces them must not."""

RANGE_BYTES: Final = 512 << 20
"""Rows in memory while shards are merged, beside one row group (16 MiB) and one shard of the result."""

RANGE_SAMPLES: Final = 256  # keys of each shard that a large merge is cut by
ROW_OVERHEAD_BYTES: Final = 200  # a row's small columns
ATTEMPTS: Final = 20

_LINEAGE: Final = ("cnnbatch.version", "cnnbatch.codec_id", "cnnbatch.settings")
"""How rows were coded, in a footer: shards that differ in it are not merged, so that ``--recompress`` can tell."""

Lineage = tuple[tuple[str, str], ...]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Erasure:
    """The result of `erase`: the keys that had a row, and the files that still hold them until they are swept.

    ``unreadable`` are live shards that may have a row of one of the keys, or have, and cannot be read or written again.
    """

    erased: tuple[str, ...]
    replaced: tuple[str, ...]
    unreadable: tuple[str, ...] = ()


def erase(log: ArchiveLog, keys: Collection[str], *, run_id: str) -> Erasure:
    """Take images out of the archive and put their keys on the erased list, so that they are never ingested again.

    The list comes first; then a commit, which sends each commit under way back to read the list (`merge.resolve`); then a look
    at the log. The replaced files keep the bytes until a sweep.

    Raises:
        StorageError: other writers kept replacing the shards.
    """
    wanted = frozenset(keys)
    add_erased(log.store, wanted)
    erased: set[str] = set()
    replaced: list[str] = []
    stuck: set[str] = set()
    fenced = False
    for sequence in range(ATTEMPTS):
        found, unreadable = _shards_holding(log.store, log.snapshot(), wanted)
        rests: dict[str, ShardInfo | None] = {}
        for shard in found:
            try:
                rests[shard.path] = rewrite_without(log.store, shard.path, wanted, num_bytes=shard.num_bytes)
            except ArchiveError as error:  # a row that must be carried on
                logger.warning("%s keeps erased images: %s", shard.path, error)
                stuck.add(shard.path)
        if not rests and fenced:
            stuck.intersection_update(shard.path for shard in found)
            return Erasure(tuple(sorted(erased)), tuple(replaced), tuple(sorted(stuck.union(unreadable))))
        if not rests:
            log.pass_fence(run_id, sequence)
            fenced = True
            continue
        adds = [rest for rest in rests.values() if rest is not None]
        removes = [path for path, rest in rests.items() if rest is None]
        result = log.commit(run_id, sequence, adds, removes=removes)
        erased.update(*(hit for shard, hit in found.items() if shard.path in result.removed))
        replaced += result.removed
        fenced = fenced or bool(result.removed)
    raise StorageError(f"{log.store.url}: other writers replaced these images' shards {ATTEMPTS} times: run it again")


def _shards_holding(
    store: Store, snapshot: Snapshot, keys: frozenset[str]
) -> tuple[dict[LiveShard, frozenset[str]], list[str]]:
    """The shards that have some of the keys; and the paths of those that may, and cannot be read."""
    shards = [shard for shard in snapshot.shards if any(map(shard.may_hold, keys))]
    read = partial(or_fault, partial(_keys_in, store, keys))
    found = dict(zip(shards, map_parallel(read, shards, threads=DEFAULT_THREADS), strict=True))
    unreadable = [shard.path for shard, hit in found.items() if isinstance(hit, ArchiveError)]
    return {shard: hit for shard, hit in found.items() if not isinstance(hit, ArchiveError) and hit}, unreadable


def _keys_in(store: Store, keys: frozenset[str], shard: LiveShard) -> frozenset[str]:
    column = read_columns(store, shard.path, ["key"], num_bytes=shard.num_bytes).column("key")
    with damage_as_archive_error(store, shard.path):  # text that is not UTF-8 is noticed here
        return keys.intersection(column.to_pylist())


@dataclass(frozen=True, slots=True)
class Compaction:
    """The result of `compact`: shards merged, written for them, replaced by another writer before, and left as damaged."""

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

    What is written is disjoint, however many shards overlap. A shard that another writer replaced meanwhile takes its merge
    out of the commit; nothing is lost, and the next call takes it up again. Large shards stay: rewriting an archive for a
    handful of new images would cost more than it saves.
    """
    small = [shard for shard in log.snapshot().shards if shard.num_bytes < target_bytes / 2]
    groups = [(lineage, group) for lineage, shards in _by_lineage(log.store, small).items() for group in _groups(shards)]
    parts = [_compact_group(log, run_id, i, group, target_bytes, lineage) for i, (lineage, group) in enumerate(groups)]
    return Compaction(
        merged=sum(part.merged for part in parts),
        written=sum(part.written for part in parts),
        stale=sum(part.stale for part in parts),
        damaged=tuple(path for part in parts for path in part.damaged),
    )


def _by_lineage(store: Store, shards: Sequence[LiveShard]) -> dict[Lineage, list[LiveShard]]:
    """Shards that were coded alike, by their first key; one whose footer cannot be read is left to be found by the merge."""
    found: dict[Lineage, list[LiveShard]] = {}
    for shard, lineage in zip(shards, map_parallel(partial(_lineage_of, store), shards, threads=DEFAULT_THREADS), strict=True):
        found.setdefault(lineage, []).append(shard)
    return found


def _lineage_of(store: Store, shard: LiveShard) -> Lineage:
    try:
        footer = read_footer(store, shard.path, num_bytes=shard.num_bytes)
    except ArchiveError:
        return ()
    return tuple((name, footer[name]) for name in _LINEAGE if name in footer)


def _groups(shards: Iterable[LiveShard]) -> list[list[LiveShard]]:
    """Shards, by their first key, that one commit merges: many, and all those that overlap."""
    groups: list[list[LiveShard]] = [[]]
    size, last = 0, ""
    for shard in shards:
        enough = size + shard.num_bytes > MERGE_BYTES or len(groups[-1]) >= MERGE_SHARDS
        if enough and shard.min_key > last:
            groups.append([])
            size = 0
        groups[-1].append(shard)
        size, last = size + shard.num_bytes, max(last, shard.max_key)
    return [group for group in groups if len(group) > 1]


def _compact_group(
    log: ArchiveLog, run_id: str, sequence: int, group: list[LiveShard], target_bytes: int, lineage: Lineage
) -> Compaction:
    damaged: list[str] = []
    while len(group) > 1:
        try:
            adds = list(_merge(log.store, group, target_bytes, {**dict(lineage), "cnnbatch.job": "compact"}))
        except _DamagedShard as fault:
            logger.warning("%s is left as it is: %s", fault.path, fault.__cause__)
            damaged.append(fault.path)
            group = [shard for shard in group if shard.path != fault.path]
        else:
            result = log.commit(run_id, sequence, adds)
            return Compaction(len(result.removed), len(result.added), len(result.stale), tuple(damaged))
    return Compaction(damaged=tuple(damaged))


def _merge(store: Store, group: Sequence[LiveShard], target_bytes: int, footer: Mapping[str, str]) -> Iterator[ShardInfo]:
    """Write the rows of all of them again, by key, cut into shards of about equal size; each names those it carries on."""
    total = sum(shard.num_bytes for shard in group)
    pieces = max(1, round(total / target_bytes))
    rows: list[ArchiveRow] = []
    origins: set[str] = set()
    size = written = 0
    for path, row in _by_key(store, group):
        if size >= total / pieces and written < pieces - 1:
            yield write_shard(store, rows, footer=footer, replaces=sorted(origins))
            rows, origins, size, written = [], set(), 0, written + 1
        rows.append(row)
        origins.add(path)
        size += len(row.payload) + sum(len(getattr(row, name) or b"") for name in BLOBS) + ROW_OVERHEAD_BYTES
    yield write_shard(store, rows, footer=footer, replaces=sorted(origins))


def _by_key(store: Store, group: Sequence[LiveShard]) -> Iterator[tuple[str, ArchiveRow]]:
    """Each row with the path of its shard, in the order of keys: a range of keys is read from shard after shard, and sorted."""
    bounds = [None, *_bounds(store, group), None]
    for first, end in pairwise(bounds):
        near = [s for s in group if (first is None or s.max_key >= first) and (end is None or s.min_key < end)]
        found = [(shard.path, row) for shard in near for row in _sound_rows(store, shard, first, end)]
        yield from sorted(found, key=lambda item: item[1].key)


def _bounds(store: Store, group: Sequence[LiveShard]) -> list[str]:
    """Keys that cut these shards into ranges of about `RANGE_BYTES`: quantiles by bytes, of some keys of each."""
    total = sum(shard.num_bytes for shard in group)
    count = math.ceil(total / RANGE_BYTES)
    if count == 1:
        return []
    samples: list[tuple[str, float]] = []
    for shard, keys in zip(group, map_parallel(partial(_sample, store), group, threads=DEFAULT_THREADS), strict=True):
        samples += [(key, shard.num_bytes / len(keys)) for key in keys]
    samples.sort()
    passed = list(accumulate(weight for _, weight in samples))
    cuts = {samples[bisect_left(passed, total * part / count)][0] for part in range(1, count)}
    return sorted(cuts)


def _sample(store: Store, shard: LiveShard) -> list[str]:
    try:
        column = read_columns(store, shard.path, ["key"], num_bytes=shard.num_bytes).column("key")
        with damage_as_archive_error(store, shard.path):
            keys: list[str] = column.to_pylist()
    except ArchiveError as error:
        raise _DamagedShard(shard.path) from error
    return keys[:: max(1, len(keys) // RANGE_SAMPLES)]


def _sound_rows(store: Store, shard: LiveShard, first: str | None, end: str | None) -> Iterator[ArchiveRow]:
    """A shard's rows from ``first`` up to and without ``end``; payloads are read of the row groups that have one."""
    wanted = None if first is None and end is None else _KeyRange(first, end)
    try:
        for row in read_shard(store, shard.path, keys=wanted, num_bytes=shard.num_bytes):
            if isinstance(row, DamagedRow):
                raise row
            yield row
    except ArchiveError as error:
        raise _DamagedShard(shard.path) from error


@dataclass(frozen=True, slots=True)
class _KeyRange:
    """The keys from ``first`` up to and without ``end``; None: no bound."""

    first: str | None
    end: str | None

    def __contains__(self, key: object) -> bool:
        key = str(key)
        return (self.first is None or key >= self.first) and (self.end is None or key < self.end)
