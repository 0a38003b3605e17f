"""What a run has to do: listing of the source, difference to the archive, and the shards to make.

All of it in Arrow columns, so that 10⁶ keys take megabytes, not gigabytes.
"""

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.archive.erased import ErasedKeys
from cnnbatch.archive.snapshot import Inventory
from cnnbatch.stages.records import CompressTask, Failure
from cnnbatch.storage import ObjectInfo, Store

LISTING_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("mtime", pa.timestamp("us", tz="UTC")),
    ]
)
_CHUNK = 10_000


@dataclass(frozen=True, slots=True)
class Listing:
    """The inputs of a source: ``table`` of `LISTING_SCHEMA`, and what was listed but cannot be read."""

    table: pa.Table
    unreadable: tuple[Failure, ...]
    excluded: tuple[re.Pattern[str], ...] = ()

    @property
    def hides(self) -> Callable[[str], bool]:
        """Tells whether the source may have a key although ``table`` has not: it is excluded, or is or lies below
        something that cannot be read, such as a folder without permission."""
        faulty = {failure.key for failure in self.unreadable}

        def hides(key: str) -> bool:
            parents = accumulate(key.split("/"), "{}/{}".format)
            return any(pattern.match(key) for pattern in self.excluded) or not faulty.isdisjoint(parents)

        return hides


def list_source(source: Store, *, exclude: Collection[str] = ()) -> Listing:
    """Every object below the source, minus the ``exclude`` globs (over keys, ``*`` crosses ``/``)."""
    patterns = tuple(re.compile(fnmatch.translate(glob)) for glob in exclude)
    unreadable: list[Failure] = []
    chunks: list[pa.RecordBatch] = []
    objects = _readable(source.list(), patterns, unreadable)
    while part := list(islice(objects, _CHUNK)):
        columns = [[getattr(info, field.name) for info in part] for field in LISTING_SCHEMA]
        chunks.append(
            pa.record_batch(
                [pa.array(c, type=f.type) for c, f in zip(columns, LISTING_SCHEMA, strict=True)], schema=LISTING_SCHEMA
            )
        )
    return Listing(pa.Table.from_batches(chunks, schema=LISTING_SCHEMA), tuple(unreadable), patterns)


def _readable(
    objects: Iterable[ObjectInfo], exclude: Sequence[re.Pattern[str]], unreadable: list[Failure]
) -> Iterator[ObjectInfo]:
    for info in objects:
        if any(pattern.match(info.key) for pattern in exclude):
            continue
        if not info.key:  # an object named like the prefix itself: no row could name it
            unreadable.append(Failure(info.key, "list", "name", "an object with the name of the source itself"))
        elif info.fault is None:
            yield info
        else:
            unreadable.append(Failure(info.key, "list", info.fault, "listed, but cannot be read under this name"))


def without_erased(table: pa.Table, erased: ErasedKeys) -> tuple[pa.Table, int]:
    """A listing without the keys that were erased from the archive, and how many those are."""
    if not erased:
        return table, 0
    kept = pa.array([key not in erased for key in table.column("key").to_pylist()], type=pa.bool_())
    left = table.filter(kept)
    return left, table.num_rows - left.num_rows


@dataclass(frozen=True, slots=True)
class Difference:
    """The source against the archive. ``new`` and ``changed`` are rows of the listing; ``vanished`` and ``held``
    name rows of the archive: keys without an object, and where the changed keys are held (key, shard)."""

    new: pa.Table
    changed: pa.Table
    unchanged: int
    vanished: pa.Table
    held: pa.Table

    @property
    def todo(self) -> pa.Table:
        """All listing rows to compress."""
        return pa.concat_tables([self.new, self.changed])


def compare(
    listing: pa.Table,
    inventory: Inventory,
    *,
    again: pa.Array | None = None,
    hides: Callable[[str], bool] = lambda key: False,
) -> Difference:
    """Unchanged ⇔ the size is equal and the ETag is, or where either has none, the modification time.

    ``again`` (bool for each archive row): rows to take once more although the source is unchanged. Keys that the listing
    ``hides`` (see `Listing`) have not vanished.
    """
    rows = inventory.table
    where = inventory.find(listing.column("key").combine_chunks())
    known = pc.is_valid(where)
    old = rows.take(where)
    same_size = pc.equal(listing.column("size"), old.column("source_size"))
    etags = pc.equal(listing.column("etag"), old.column("source_etag"))
    times = pc.equal(listing.column("mtime"), old.column("source_mtime"))
    same = pc.and_(same_size, pc.fill_null(pc.coalesce(etags, times), False))
    if again is not None:
        same = pc.and_(same, pc.invert(pc.take(again, where)))
    same = pc.fill_null(same, False)
    changed = pc.and_(known, pc.invert(same))
    gone = pc.invert(pc.is_in(rows.column("key"), value_set=listing.column("key").combine_chunks()))
    lost = [i for i in pc.indices_nonzero(gone).to_pylist() if not hides(rows.column("key")[i].as_py())]
    return Difference(
        new=listing.filter(pc.invert(known)),
        changed=listing.filter(changed),
        unchanged=int(pc.sum(same).as_py() or 0),
        vanished=rows.take(pa.array(lost, type=pa.int64())).select(["key", "shard"]),
        held=old.select(["key", "shard"]).filter(changed),
    )


def coded_otherwise(inventory: Inventory, *, codec_id: str, quality: float | None, lossless: bool) -> pa.Array:
    """For each archive row whether ``--recompress`` takes it: another codec or quality, or stored but to be coded.

    ``quality`` None: the quality is searched for each image, so every coded row is taken.
    """
    table = inventory.table
    coded = pc.equal(table.column("outcome").cast(pa.string()), "cnn")
    if lossless:
        return coded.combine_chunks()
    other = pc.not_equal(table.column("codec_id").cast(pa.string()), codec_id)
    moved = pa.scalar(True) if quality is None else pc.not_equal(table.column("quality"), quality)
    return pc.or_(pc.invert(coded), pc.fill_null(pc.or_(other, moved), True)).combine_chunks()


@dataclass(frozen=True, slots=True)
class ShardLimits:
    """When a shard is full. Source bytes stand for output bytes, which nobody knows before."""

    source_bytes: int
    images: int


def plan_shards(difference: Difference, limits: ShardLimits) -> Iterator[CompressTask]:
    """Keys in order, packed until a limit is reached, so that shards hold disjoint key ranges."""
    if not difference.todo.num_rows:
        return
    ordered = difference.todo.sort_by("key")
    changed = frozenset(difference.changed.column("key").to_pylist())
    number, size = 0, 0
    inputs: list[ObjectInfo] = []
    for batch in ordered.to_batches(max_chunksize=_CHUNK):
        for row in batch.to_pylist():
            if inputs and (size + row["size"] > limits.source_bytes or len(inputs) >= limits.images):
                yield _task(number, inputs, changed)
                number, inputs, size = number + 1, [], 0
            inputs.append(ObjectInfo(row["key"], row["size"], row["etag"], row["mtime"]))
            size += row["size"]
    yield _task(number, inputs, changed)


def _task(number: int, inputs: Sequence[ObjectInfo], changed: frozenset[str]) -> CompressTask:
    return CompressTask(number, tuple(inputs), changed.intersection(info.key for info in inputs))


def shard_limits(todo: pa.Table, *, workers: int, source_bytes: int, images: int) -> ShardLimits:
    """The configured limits, smaller where the work is too little to give every worker a few shards."""
    total = int(pc.sum(todo.column("size")).as_py() or 0)
    share = max(1, -(-total // (workers * 4)))
    count = max(1, -(-todo.num_rows // (workers * 4)))
    return ShardLimits(min(source_bytes, max(share, 1 << 20)), min(images, max(count, 64)))
