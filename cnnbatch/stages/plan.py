"""The shards of a run: which images go into each, decided before the first is read.

A plan is kept in parts of `PART_SHARDS` shards. A small one is one part in memory; the parts of a larger one are files on a
scratch, and copies of them in the archive, which the workers' cluster reads one after the other: the driver holds none.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.archive.snapshot import LiveShard
from cnnbatch.spill import Scratch, Spill, disk_trouble, in_order, ranges, write_tables
from cnnbatch.stages.difference import TODO_SCHEMA, Difference
from cnnbatch.stages.records import CompressTask
from cnnbatch.storage import Store
from cnnbatch.storage.columns import object_infos
from cnnbatch.storage.many import UNKNOWN_BYTES

PART_SHARDS = 256
"""Shards whose images one file names: 20 to 40 MB, read by the cluster in a second."""


@dataclass(frozen=True, slots=True)
class ShardLimits:
    """When a shard is full. Source bytes stand for output bytes, which nobody knows before."""

    source_bytes: int
    images: int


def shard_limits(difference: Difference, *, workers: int, source_bytes: int, images: int) -> ShardLimits:
    """The configured limits, smaller where the work is too little to give every worker a few shards."""
    share = max(1, -(-difference.source_bytes // (workers * 4)))
    count = max(1, -(-difference.images // (workers * 4)))
    return ShardLimits(min(source_bytes, max(share, 1 << 20)), min(images, max(count, 64)))


@dataclass(frozen=True, slots=True)
class PlanPart:
    """A part of a plan in a store; iterating it reads it and yields its tasks."""

    store: Store
    key: str
    first: int
    count: int

    def __iter__(self) -> Iterator[CompressTask]:
        reader = pa.ipc.open_file(pa.BufferReader(self.store.read(self.key)))
        for index in range(self.count):
            yield _task(self.first + index, reader.get_batch(index))


class Plan:
    """The shards of a run, numbered from 0: ``num_shards`` of them, ``parts`` of which all but one are on the scratch."""

    def __init__(self, scratch: Scratch, shards: Sequence[LiveShard]) -> None:
        self._scratch, self._shards = scratch, shards
        self._parts: list[Path] = []
        self._last: list[pa.RecordBatch] = []
        self.num_shards = 0

    def add(self, table: pa.Table) -> None:
        """One more shard: rows of `TODO_SCHEMA` in the order of keys."""
        [batch] = table.combine_chunks().to_batches()
        self._last.append(batch)
        self.num_shards += 1
        if len(self._last) == PART_SHARDS:
            self._put_away()

    @property
    def is_small(self) -> bool:
        """Whether all of it is in memory."""
        return not self._parts

    def tasks(self) -> list[CompressTask]:
        """Those in memory: all of a small plan."""
        first = len(self._parts) * PART_SHARDS
        return [_task(first + index, batch) for index, batch in enumerate(self._last)]

    def publish(self, store: Store, folder: str) -> list[PlanPart]:
        """Copies the parts to where the cluster can read them."""
        if self._last:
            self._put_away()
        published = []
        for number, path in enumerate(self._parts):
            first = number * PART_SHARDS
            key = f"{folder}/{number:06}.arrow"
            store.put_file(key, path)
            published.append(PlanPart(store, key, first, min(PART_SHARDS, self.num_shards - first)))
        return published

    def held(self, number: int) -> dict[str, str]:
        """The images of a shard that have a row in the archive, each with the path of the shard that has it."""
        batch = self._batch(number)
        known = batch.filter(pc.is_valid(batch.column("held")))
        indices = known.column("held").to_pylist()
        return dict(zip(known.column("key").to_pylist(), (self._shards[index].path for index in indices), strict=True))

    def _batch(self, number: int) -> pa.RecordBatch:
        part, index = divmod(number, PART_SHARDS)
        if part == len(self._parts):
            return self._last[index]
        path = self._parts[part]
        with disk_trouble(path.parent), pa.OSFile(str(path)) as file:
            options = pa.ipc.IpcReadOptions(included_fields=[TODO_SCHEMA.get_field_index(name) for name in ("key", "held")])
            return pa.ipc.open_file(file, options=options).get_batch(index)

    def _put_away(self) -> None:
        self._parts.append(self._scratch.path())
        write_tables(self._parts[-1], (pa.Table.from_batches([batch]) for batch in self._last), TODO_SCHEMA)
        self._last = []


def _task(number: int, batch: pa.RecordBatch) -> CompressTask:
    return CompressTask(number, tuple(object_infos(batch)))


def plan_shards(
    scratch: Scratch, difference: Difference, limits: ShardLimits, *, shards: Sequence[LiveShard], keep_together: bool = False
) -> Plan:
    """Keys in order, packed until a limit is reached, so that shards hold disjoint key ranges.

    ``shards`` are those of the snapshot. With ``keep_together`` the images of a shard that leaves whole stay in one new
    shard, alone or with its neighbours: then nothing of it has to be written again.
    """
    plan = Plan(scratch, shards)
    leaving = _leaving(difference, shards) if keep_together else np.zeros(len(shards), np.bool_)
    together = Spill(scratch, TODO_SCHEMA, by="held")
    for table in _packed(_apart(difference.todo, leaving, together), limits):
        plan.add(table)
    for [table] in ranges(together):
        for part in _packed_together(in_order(table, "held"), limits):
            plan.add(in_order(part, "key"))
    return plan


def _leaving(difference: Difference, shards: Sequence[LiveShard]) -> Any:
    return (difference.held > 0) & (difference.held == np.array([shard.num_rows for shard in shards], np.int64))


def _apart(tables: Iterable[pa.Table], leaving: Any, together: Spill) -> Iterator[pa.Table]:
    """Yields the rows that no leaving shard holds; the others go to ``together``."""
    for table in tables:
        if not leaving.any():
            yield table
            continue
        held = pc.fill_null(table.column("held"), -1).to_numpy()
        whole = pa.array((held >= 0) & leaving[held])
        together.add(table.filter(whole))
        yield table.filter(pc.invert(whole))


def _packed(tables: Iterable[pa.Table], limits: ShardLimits) -> Iterator[pa.Table]:
    rest = TODO_SCHEMA.empty_table()
    for table in tables:
        rest = pa.concat_tables([rest, table]).combine_chunks()
        start = 0
        for end in _ends(rest, limits):
            yield rest.slice(start, end - start)
            start = end
        rest = rest.slice(start)
    if rest.num_rows:
        yield rest


def _ends(table: pa.Table, limits: ShardLimits) -> Iterator[int]:
    """Where a shard is full; the last one, which may still grow, has none."""
    total = np.cumsum(_sizes(table))
    start = 0
    while True:
        before = total[start - 1] if start else 0
        by_bytes = int(np.searchsorted(total, before + limits.source_bytes, side="right"))
        start = max(start + 1, min(start + limits.images, by_bytes))
        if start >= table.num_rows:
            return
        yield start


def _sizes(table: pa.Table) -> Any:
    return pc.fill_null(table.column("size"), UNKNOWN_BYTES).to_numpy()


def _packed_together(table: pa.Table, limits: ShardLimits) -> Iterator[pa.Table]:
    """Groups of equal ``held``, neighbours in one shard while they fit; a group of more than two shards' size is cut."""
    if not table.num_rows:
        return
    held = table.column("held").to_numpy()
    bounds = [0, *(np.flatnonzero(np.diff(held)) + 1).tolist(), table.num_rows]
    total = np.concatenate([[0], np.cumsum(_sizes(table))])
    start = 0
    for begin, end in pairwise(bounds):
        if begin > start and not _fits(total, start, end, limits, 1):
            yield table.slice(start, begin - start)
            start = begin
        if not _fits(total, begin, end, limits, 2):
            yield from _packed([in_order(table.slice(begin, end - begin), "key")], limits)
            start = end
    if start < table.num_rows:
        yield table.slice(start)


def _fits(total: Any, start: int, end: int, limits: ShardLimits, times: int) -> bool:
    return bool(end - start <= times * limits.images and total[end] - total[start] <= times * limits.source_bytes)
