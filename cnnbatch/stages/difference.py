"""The source against the archive: what is new, changed, unchanged and gone. Memory is bounded, whatever their size.

Both sides are spilled by key and compared range by range.
"""

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.archive.damage import damage_as_archive_error, or_fault
from cnnbatch.archive.shard_reading import read_footer
from cnnbatch.archive.snapshot import DEFAULT_THREADS, LiveShard, read_rows
from cnnbatch.codec.codec import Objective
from cnnbatch.errors import ArchiveError
from cnnbatch.parallel import map_parallel
from cnnbatch.spill import Pile, Scratch, Spill, in_order, ranges
from cnnbatch.stages.listing import Scan
from cnnbatch.stages.settings import GOALS, CompressionSettings
from cnnbatch.storage import Store
from cnnbatch.storage.columns import LISTING_SCHEMA
from cnnbatch.version import VERSION

logger = logging.getLogger(__name__)

ROW_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("source_size", pa.int64()),
        pa.field("source_etag", pa.string()),
        pa.field("source_mtime", pa.timestamp("us", tz="UTC")),
        pa.field("shard", pa.int32()),
        pa.field("again", pa.bool_()),
    ]
)
"""A row of the archive: ``shard`` is the index of its shard in the snapshot; ``again``: take it though it is unchanged."""

TODO_SCHEMA = LISTING_SCHEMA.append(pa.field("held", pa.int32()))
"""An image to compress: ``held`` is the index of the shard that has its old row, null where it is new."""

GONE_SCHEMA = pa.schema([pa.field("key", pa.string()), pa.field("shard", pa.int32())])

REMOVE_SHARDS = 64
"""Shards that one commit writes again without what is gone."""

_COMPARED = ("key", "source_size", "source_etag", "source_mtime")
_CODING = ("outcome", "codec_id", "quality")
_DECISIVE = (*GOALS, "decode", "effort", "max_pixels")


@dataclass(slots=True)
class Difference:
    """Counts, and rows on a scratch: ``todo`` in the order of keys, ``gone`` by shard."""

    todo: Pile
    gone: Spill
    held: "np.ndarray[Any, np.dtype[np.int64]]"
    """For each shard of the snapshot, how many of its rows are in ``todo``."""
    unchanged: int = 0
    new: int = 0
    changed: int = 0
    outdated: int = 0
    """Rows among those gone that would be taken again, were their originals still there."""
    source_bytes: int = 0
    """Bytes of ``todo``, as far as they are known."""
    repeated: int = 0
    """Entries of the listing beyond the first of their key."""
    hidden: int = 0
    """Entries that may be in shards whose keys cannot be read."""

    @property
    def images(self) -> int:
        """How many to compress."""
        return self.todo.num_rows

    @property
    def vanished(self) -> int:
        """Keys of the archive that the source has no more."""
        return self.gone.num_rows


@dataclass(frozen=True, slots=True)
class Recoding:
    """The inputs of ``--recompress``: rows of another codec or quality than this run's.

    A ``cnn`` row is taken if its ``codec_id`` or its ``quality`` is another. Where the row alone does not tell, because it
    is stored, its quality was searched or its latents refined, it is taken unless its shard's footer names this codec,
    these settings and this version of cnnbatch. So a run that was killed goes on with what it has not reached, and a
    finished one finds nothing.
    """

    codec_id: str
    settings: CompressionSettings
    objective: Objective
    """The codec's."""

    def wants(self, store: Store, shard: LiveShard, table: pa.Table) -> pa.Array:
        """For each row of one shard (columns outcome, codec_id, quality) whether it is taken."""
        wanted = coded_otherwise(table, self.codec_id, self.settings, self.objective)
        if pc.any(wanted).as_py() and self._made(read_footer(store, shard.path, num_bytes=shard.num_bytes)):
            return pa.repeat(pa.scalar(False), table.num_rows)
        return wanted

    def _made(self, footer: dict[str, str]) -> bool:
        """Whether a run like this one wrote the shard."""
        if (footer.get("cnnbatch.codec_id"), footer.get("cnnbatch.version")) != (self.codec_id, VERSION):
            return False
        try:
            settings = CompressionSettings.model_validate_json(footer.get("cnnbatch.settings", ""))
        except ValueError:  # of another version
            return False
        return all(getattr(settings, name) == getattr(self.settings, name) for name in _DECISIVE)


def coded_otherwise(table: pa.Table, codec_id: str, settings: CompressionSettings, objective: Objective) -> pa.Array:
    """For each row whether its columns say, or leave open, that it is coded otherwise; see `Recoding`."""
    coded = pc.equal(table.column("outcome"), "cnn")
    if settings.lossless:
        return coded.combine_chunks()
    policy = settings.policy(objective)
    searched = settings.effort > 0 or policy.searches
    other = pc.not_equal(table.column("codec_id"), codec_id)
    moved = pa.scalar(True) if searched else pc.not_equal(table.column("quality"), policy.quality)
    return pc.or_(pc.invert(coded), pc.fill_null(pc.or_(other, moved), True)).combine_chunks()


class ArchivedRows:
    """Every row of the archive: iterate it once; then ``unreadable`` has the shards of which nobody can tell the keys."""

    def __init__(
        self, store: Store, shards: Sequence[LiveShard], recoding: Recoding | None = None, *, threads: int = DEFAULT_THREADS
    ) -> None:
        self._store, self._shards, self._recoding, self._threads = store, shards, recoding, threads
        self.unreadable: list[LiveShard] = []

    def __iter__(self) -> Iterator[pa.Table]:
        """A table of `ROW_SCHEMA` for each shard that can be read."""
        for index, table in enumerate(map_parallel(partial(or_fault, self._read), self._shards, threads=self._threads)):
            if isinstance(table, ArchiveError):
                logger.warning("%d images cannot be compared: %s", self._shards[index].num_rows, table)
                self.unreadable.append(self._shards[index])
                continue
            shard = pa.repeat(pa.scalar(index, pa.int32()), table.num_rows)
            yield pa.table([*table.select(_COMPARED).columns, shard, table.column("again")], schema=ROW_SCHEMA)

    def _read(self, shard: LiveShard) -> pa.Table:
        columns = _COMPARED if self._recoding is None else (*_COMPARED, *_CODING)
        table = read_rows(self._store, shard, columns)
        with damage_as_archive_error(self._store, shard.path):
            table.validate(full=True)  # that keys are UTF-8
        again = pa.repeat(pa.scalar(False), table.num_rows)
        if self._recoding is not None:
            again = self._recoding.wants(self._store, shard, table)
        return table.append_column("again", again)


def compare(
    scratch: Scratch,
    listing: Iterable[pa.Table],
    rows: Iterable[pa.Table],
    *,
    num_shards: int,
    hides: Callable[[], Callable[[str], bool]] | None,
    unreadable: Sequence[LiveShard] = (),
) -> Difference:
    """Unchanged ⇔ the size is equal, or unknown now, and the ETag is, or where either has none, the modification time.

    A key that the listing names more than once counts once, with its latest time.

    ``listing`` (`LISTING_SCHEMA`) is used up before ``rows`` (`ROW_SCHEMA`). Keys that ``hides()`` tells of, asked when the
    listing is complete, have not vanished; None: nothing has, as the listing is not the whole source. ``unreadable`` are, once
    ``rows`` are used up, shards that may hold any key of their range: what is nowhere else is left alone then.
    """
    now, before = Spill(scratch, LISTING_SCHEMA, by="key"), Spill(scratch, ROW_SCHEMA, by="key")
    for table in listing:
        now.add(table)
    if now.runs:
        now.flush()
    for table in rows:
        before.add(table)
    found = Difference(Pile(scratch, TODO_SCHEMA), Spill(scratch, GONE_SCHEMA, by="shard"), held=np.zeros(num_shards, np.int64))
    is_hidden = None if hides is None else hides()
    for listed, other in ranges(now, before):
        one = _once(listed)
        found.repeated += listed.num_rows - one.num_rows
        one = _without_hidden(found, one, other, unreadable)
        _compare_range(found, one, other)
        if is_hidden is not None:
            _note_gone(found, one, other, is_hidden)
    return found


def compare_some(
    scratch: Scratch, keys: Collection[str], scan: Scan, store: Store, shards: Sequence[LiveShard], recoding: Recoding | None
) -> Difference:
    """As `compare`, of these keys alone: the source is listed again, and of ``shards`` those are read that may hold one."""
    ordered, wanted = sorted(keys), pa.array(keys, type=pa.string())
    near = [shard for shard in shards if bisect_left(ordered, shard.min_key) < bisect_right(ordered, shard.max_key)]

    def among(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        return (table.filter(pc.is_in(table.column("key"), value_set=wanted)) for table in tables)

    rows = ArchivedRows(store, near, recoding)
    return compare(scratch, among(scan), among(rows), num_shards=len(near), hides=scan.hides, unreadable=rows.unreadable)


def removals(gone: Spill, shards: Sequence[LiveShard]) -> Iterator[dict[str, str]]:
    """The keys that are gone, each with the path of its shard: those of `REMOVE_SHARDS` shards at a time."""
    for [table] in ranges(gone):
        ordered = in_order(table, "shard")
        held = ordered.column("shard").to_numpy()
        bounds = [0, *(np.flatnonzero(np.diff(held)) + 1).tolist()][::REMOVE_SHARDS]
        for start, end in pairwise([*bounds, ordered.num_rows]):
            part = ordered.slice(start, end - start)
            paths = (shards[index].path for index in held[start:end])
            if part.num_rows:
                yield dict(zip(part.column("key").to_pylist(), paths, strict=True))


def _once(listing: pa.Table) -> pa.Table:
    """Each key once: the object is one, whatever a listing says that was read while it changed."""
    if pc.count_distinct(listing.column("key")).as_py() == listing.num_rows:
        return listing
    ordered = listing.take(pc.sort_indices(listing, sort_keys=[("key", "ascending"), ("mtime", "descending")]))
    keys = ordered.column("key").combine_chunks()
    return ordered.filter(pa.concat_arrays([pa.array([True]), pc.not_equal(keys.slice(1), keys.slice(0, len(keys) - 1))]))


def _without_hidden(found: Difference, listing: pa.Table, rows: pa.Table, unreadable: Sequence[LiveShard]) -> pa.Table:
    """The listing without keys that an unreadable shard may hold; they are counted."""
    if not unreadable:
        return listing
    keys = listing.column("key")
    hidden = pa.repeat(pa.scalar(False), len(keys))
    for shard in unreadable:
        within = pc.and_(pc.greater_equal(keys, shard.min_key), pc.less_equal(keys, shard.max_key))
        hidden = pc.or_(hidden, within)
    hidden = pc.and_(hidden, pc.invert(pc.is_in(keys, value_set=rows.column("key"))))
    found.hidden += int(pc.sum(hidden).as_py() or 0)
    return listing.filter(pc.invert(hidden))


def _compare_range(found: Difference, listing: pa.Table, rows: pa.Table) -> None:
    where = pc.index_in(listing.column("key"), value_set=rows.column("key"))
    old = rows.drop_columns("key").take(where)
    same_size = pc.fill_null(pc.equal(listing.column("size"), old.column("source_size")), True)
    etags = pc.equal(listing.column("etag"), old.column("source_etag"))
    times = pc.equal(listing.column("mtime"), old.column("source_mtime"))
    same = pc.and_(same_size, pc.fill_null(pc.coalesce(etags, times), False))
    same = pc.fill_null(pc.and_(same, pc.invert(old.column("again"))), False)
    todo = in_order(listing.append_column(TODO_SCHEMA.field("held"), old.column("shard")).filter(pc.invert(same)), "key")
    held = todo.column("held").drop_null().to_numpy()
    found.todo.add(todo)
    found.held += np.bincount(held, minlength=len(found.held))
    found.unchanged += listing.num_rows - todo.num_rows
    found.changed += len(held)
    found.new += todo.num_rows - len(held)
    found.source_bytes += int(pc.sum(todo.column("size")).as_py() or 0)


def _note_gone(found: Difference, listing: pa.Table, rows: pa.Table, hides: Callable[[str], bool]) -> None:
    lost = rows.filter(pc.invert(pc.is_in(rows.column("key"), value_set=listing.column("key"))))
    lost = lost.filter(pa.array([not hides(key) for key in lost.column("key").to_pylist()], type=pa.bool_()))
    found.outdated += int(pc.sum(lost.column("again")).as_py() or 0)
    found.gone.add(lost.select(GONE_SCHEMA.names))
