"""Shards that are gone or cannot be read in full: what of them is left, which originals the source still has, and how they
leave the log.

What can be read is carried on in a new shard. The rest leaves the log, so that the next run archives those originals again that
are still there. The file itself stays as every replaced one does, until a sweep.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.archive import ArchiveLog
from cnnbatch.archive.carrying import carry_on, read_remains
from cnnbatch.archive.damage import damage_as_archive_error, or_fault
from cnnbatch.archive.erased import read_erased
from cnnbatch.archive.log_doctor import Fault
from cnnbatch.archive.orphans import DATA
from cnnbatch.archive.parquet import read_columns
from cnnbatch.archive.schema import SMALL_COLUMNS
from cnnbatch.archive.snapshot import LiveShard, Snapshot
from cnnbatch.errors import ArchiveError
from cnnbatch.parallel import map_parallel
from cnnbatch.spill import Scratch
from cnnbatch.stages.difference import ArchivedRows, compare
from cnnbatch.stages.listing import Scan, without_erased
from cnnbatch.storage import Source, Store

THREADS: Final = 4
"""Shards whose small columns, EXIF and alpha among them, are in memory at one time."""

MEMORY_BYTES: Final = 1 << 28
"""Bytes of keys that are compared at one time."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The past and present of a shard that cannot be read in full.

    ``kept``: rows that can be read. ``again``: originals in its range of keys that are in no other row, which the next run
    archives. ``lost``: how many rows are in neither, at least; ``lost_keys`` are those of them that can be named.
    ``mended``: it has left the log, and its readable rows are in another shard.
    """

    path: str
    fault: str
    num_rows: int
    min_key: str
    max_key: str
    kept: int
    again: tuple[str, ...]
    lost: int
    lost_keys: tuple[str, ...]
    mended: bool = False

    def as_fault(self) -> Fault:
        """As the doctor shows it."""
        counts = f"{self.num_rows:,} images, {self.min_key!r} … {self.max_key!r}: {self.kept:,} can be read"
        counts += f", {len(self.again):,} originals are there to be archived again, {self.lost:,} are lost"
        return Fault(self.path, "lost-rows", f"{counts}: {self.fault}", mended=self.mended)


@dataclass(frozen=True, slots=True)
class _Keys:
    """Keys of a damaged shard: those of rows that can be read, and of those that can be named only."""

    kept: frozenset[str]
    named: frozenset[str]


def examine_shards(log: ArchiveLog, source: Source | None, *, run_id: str, mend: bool) -> list[Loss]:
    """The shards that cannot be read in full, by their first key; with ``mend``, each is taken out of the log.

    ``source``: where the originals are looked for; None: there are none any more.

    Raises:
        ArchiveError: the log, or the erased list, is damaged; or no shard is there at all, and ``mend`` is asked for.
        StorageError: a store refused.
    """
    snapshot = log.snapshot()
    damaged = dict(_damaged(log.store, snapshot))
    keys = {shard: _keys_of(log.store, shard) for shard in damaged}
    there = () if source is None or not damaged else _originals(log.store, source, snapshot, keys)
    losses = {shard: _loss(shard, str(fault), keys[shard], there) for shard, fault in damaged.items()}
    if not mend:
        return list(losses.values())
    if len(losses) == len(snapshot.shards) > 1 and next(iter(log.store.list(DATA)), None) is None:
        raise ArchiveError(
            f"none of the {len(losses):,} shards is there: is the disk not mounted? Nothing was taken out of the log"
        )
    return [_take_out(log, shard, loss, run_id, number) for number, (shard, loss) in enumerate(losses.items())]


def _damaged(store: Store, snapshot: Snapshot) -> Iterator[tuple[LiveShard, ArchiveError]]:
    read = partial(or_fault, partial(_require_readable, store))
    faults = map_parallel(read, snapshot.shards, threads=THREADS)
    yield from ((shard, fault) for shard, fault in zip(snapshot.shards, faults, strict=True) if fault is not None)


def _require_readable(store: Store, shard: LiveShard) -> None:
    """Raises ArchiveError where one of the small columns cannot be read, or the file is not as long as the log says."""
    info = store.head(shard.path)
    if info is not None and info.size != shard.num_bytes:
        raise ArchiveError(f"it has {info.size} bytes, the log says {shard.num_bytes}")
    table = read_columns(store, shard.path, SMALL_COLUMNS, num_bytes=shard.num_bytes)
    with damage_as_archive_error(store, shard.path):
        table.validate(full=True)  # that text is UTF-8


def _keys_of(store: Store, shard: LiveShard) -> _Keys:
    rows, named = read_remains(store, shard.path, num_bytes=shard.num_bytes)
    return _Keys(frozenset(row.key for row in rows), named)


def _originals(store: Store, source: Source, snapshot: Snapshot, damaged: Mapping[LiveShard, _Keys]) -> Sequence[str]:
    """Inputs that the next run would archive in the ranges of these shards once they are gone, but for rows that are kept."""
    kept = frozenset[str]().union(*(keys.kept for keys in damaged.values()))
    sound = [shard for shard in snapshot.shards if shard not in damaged and any(map(partial(_overlap, shard), damaged))]
    erased = read_erased(store)
    listed = (without_erased(_within(table, damaged), erased)[0] for table in Scan(source))
    with Scratch(None, memory_bytes=MEMORY_BYTES) as scratch:
        found = compare(scratch, listed, ArchivedRows(store, sound), num_shards=len(sound), hides=None)
        new = (table.filter(pc.is_null(table.column("held"))) for table in found.todo)
        return [key for table in new for key in table.column("key").to_pylist() if key not in kept]


def _overlap(one: LiveShard, other: LiveShard) -> bool:
    return one.min_key <= other.max_key and other.min_key <= one.max_key


def _within(listing: pa.Table, shards: Iterable[LiveShard]) -> pa.Table:
    """The part of a listing that is in the range of keys of one of these shards."""
    keys, within = listing.column("key"), pa.scalar(False)
    for shard in shards:
        within = pc.or_(within, pc.and_(pc.greater_equal(keys, shard.min_key), pc.less_equal(keys, shard.max_key)))
    return listing.filter(within)


def _loss(shard: LiveShard, fault: str, keys: _Keys, originals: Iterable[str]) -> Loss:
    again = tuple(key for key in originals if shard.may_hold(key))
    lost_keys = keys.named.difference(again)
    unnamed = max(0, shard.num_rows - len(keys.kept) - len(keys.named))
    others = len(again) - len(keys.named) + len(lost_keys)
    return Loss(
        shard.path,
        fault,
        shard.num_rows,
        shard.min_key,
        shard.max_key,
        kept=len(keys.kept),
        again=again,
        lost=len(lost_keys) + max(0, unnamed - others),
        lost_keys=tuple(sorted(lost_keys)),
    )


def _take_out(log: ArchiveLog, shard: LiveShard, loss: Loss, run_id: str, sequence: int) -> Loss:
    """One commit: its rows that can be read in another shard, and it out of the log."""
    rows, _ = read_remains(log.store, shard.path, num_bytes=shard.num_bytes)
    rest = carry_on(log.store, shard.path, rows, num_bytes=shard.num_bytes)
    adds, removes = ([], [shard.path]) if rest is None else ([rest], [])
    result = log.commit(run_id, sequence, adds, removes=removes)
    return replace(loss, mended=shard.path in result.removed)
