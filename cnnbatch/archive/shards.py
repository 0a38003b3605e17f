"""Shards: the Parquet files of an archive, each sorted by key and never changed once written.

A shard is named by the sha256 of its bytes and by chance, so that a task that runs twice leaves two files of which at
most one is ever committed.
"""

import hashlib
import io
import itertools
import json
import logging
import re
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cnnbatch.archive.parquet import ParquetObject, again_if_damaged, damage_as_archive_error, open_parquet, seal_footer
from cnnbatch.archive.schema import (
    BLOBS,
    COLUMNS,
    SCHEMA,
    SMALL_COLUMNS,
    ArchiveRow,
    check_columns,
    check_row,
    rows_to_table,
    table_to_rows,
)
from cnnbatch.errors import ArchiveError, DamagedRow, StorageError
from cnnbatch.storage import Store, parse_json

ROW_GROUP_BYTES = 16 << 20
ROW_GROUP_ROWS = 1024
TINY_ROW_BYTES = 4096
"""Payload and blobs: where no row of a shard is larger, a row group may hold `TINY_GROUP_ROWS`."""

TINY_GROUP_ROWS = 4096
PAGE_BYTES = 32 << 10
_SMALLEST_ROW_BYTES = 64
"""Least size that a row counts: a digest and its neighbours."""
SUMMARY_KEY = "cnnbatch.summary"
MAX_FOOTER_VALUE_BYTES = 1 << 20
SHARD_PATH = re.compile(r"data/[0-9a-f]{32}-[0-9a-f]{8}\.parquet")
"""The names of `write_shard`'s files."""

Check = Callable[[ArchiveRow], None]

logger = logging.getLogger(__name__)

# Digests do not compress and figures hardly do, but their lengths, exponents and last digits do: of tiny pictures an
# archive is half digests. Times and sizes of neighbours differ by little, and so do keys.
_ENCODINGS: dict[str, str] = {
    "key": "DELTA_BYTE_ARRAY",
    "source_mtime": "DELTA_BINARY_PACKED",
    "source_size": "DELTA_BINARY_PACKED",
    "source_sha256": "DELTA_LENGTH_BYTE_ARRAY",
    "psnr_db": "BYTE_STREAM_SPLIT",
    "ssimulacra2": "BYTE_STREAM_SPLIT",
    "payload_sha256": "DELTA_LENGTH_BYTE_ARRAY",
}
_UNIQUE = ("key", "place")
# About one image a page, with a page index: one image by key is a few small requests whatever the row group.
_LAYOUT: dict[str, Any] = {
    "compression": dict.fromkeys(SMALL_COLUMNS, "zstd") | {"payload": "none"},
    "use_dictionary": [name for name in SMALL_COLUMNS if SCHEMA.field(name).type == pa.string() and name not in _UNIQUE]
    + ["fields"],
    "write_statistics": [name for name in SMALL_COLUMNS if name not in {*BLOBS, "container", "place"}],
    "write_page_index": True,
    "write_page_checksum": True,
    "data_page_size": PAGE_BYTES,
    "sorting_columns": [pq.SortingColumn(0)],
}


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """Counts over a shard's rows, also kept in its footer. Sizes in bytes."""

    outcomes: Mapping[str, int]
    codecs: Mapping[str, int]  # codec id → rows
    source_bytes: int
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """A written shard that waits to be committed; small, pickles, travels from worker to driver.

    ``replaces`` names live shards whose rows this one carries on (its keys are among theirs); they leave in the commit
    that adds it, or it is not added at all.
    """

    path: str
    num_bytes: int
    num_rows: int
    sha256: str
    min_key: str
    max_key: str
    summary: ShardSummary
    replaces: tuple[str, ...] = field(default=())


def write_shard(
    store: Store, rows: Sequence[ArchiveRow], *, footer: Mapping[str, str], replaces: Sequence[str] = ()
) -> ShardInfo:
    """Write rows as one shard, sorted by key. It is durable on return, and invisible until it is committed.

    ``footer`` is the lineage kept in the file: model, code version, configuration.

    Raises:
        ValueError: no rows, a key twice, or a row that `check_row` refuses.
        StorageError: the store refused.
    """
    for row in rows:
        check_row(row)
    return _write(store, rows, footer, replaces)


def _write(store: Store, rows: Sequence[ArchiveRow], footer: Mapping[str, str], replaces: Sequence[str]) -> ShardInfo:
    rows = _in_order(rows)
    summary = _summarise(rows)
    data = _encode(rows, {**footer, SUMMARY_KEY: json.dumps(_summary_as_dict(summary), sort_keys=True)})
    digest = hashlib.sha256(data).hexdigest()
    path = f"data/{digest[:32]}-{uuid.uuid4().hex[:8]}.parquet"
    store.put(path, data)
    return ShardInfo(path, len(data), len(rows), digest, rows[0].key, rows[-1].key, summary=summary, replaces=tuple(replaces))


def _in_order(rows: Sequence[ArchiveRow]) -> list[ArchiveRow]:
    if not rows:
        raise ValueError("a shard needs at least one row")
    ordered = sorted(rows, key=lambda row: row.key)  # by code point, which is also the order of the UTF-8 bytes
    for one, next_ in itertools.pairwise(ordered):
        if one.key == next_.key:
            raise ValueError(f"{one.key!r} is twice in one shard")
    return ordered


def _encode(rows: Sequence[ArchiveRow], footer: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    sizes = [len(row.payload) + sum(len(getattr(row, name) or b"") for name in BLOBS) for row in rows]
    with pq.ParquetWriter(buffer, SCHEMA, **_layout(max(sizes))) as writer:
        for group in _row_groups(rows, sizes):
            writer.write_table(rows_to_table(group), row_group_size=len(group))
        writer.add_key_value_metadata(dict(footer))
    return seal_footer(buffer.getvalue())


def _layout(largest_row: int) -> dict[str, Any]:
    """How a shard is written; rows are looked at for a page's end so many at a time."""
    payload = "DELTA_LENGTH_BYTE_ARRAY" if largest_row <= TINY_ROW_BYTES else "PLAIN"
    batch = max(1, PAGE_BYTES // max(largest_row, _SMALLEST_ROW_BYTES))
    return _LAYOUT | {"column_encoding": _ENCODINGS | {"payload": payload}, "write_batch_size": batch}


def _row_groups(rows: Sequence[ArchiveRow], sizes: Sequence[int]) -> Iterator[Sequence[ArchiveRow]]:
    start = size = 0
    most = TINY_GROUP_ROWS if max(sizes) <= TINY_ROW_BYTES else ROW_GROUP_ROWS
    for index, row_bytes in enumerate(sizes):
        if index > start and (size + row_bytes > ROW_GROUP_BYTES or index - start == most):
            yield rows[start:index]
            start, size = index, 0
        size += row_bytes
    yield rows[start:]


def _summarise(rows: Sequence[ArchiveRow]) -> ShardSummary:
    return ShardSummary(
        outcomes=dict(Counter(row.outcome for row in rows)),
        codecs=dict(Counter(row.codec_id for row in rows if row.codec_id)),
        source_bytes=sum(row.source_size for row in rows),
        payload_bytes=sum(len(row.payload) for row in rows),
    )


def _summary_as_dict(summary: ShardSummary) -> dict[str, Any]:
    return {name: getattr(summary, name) for name in ("outcomes", "codecs", "source_bytes", "payload_bytes")}


def read_summary(store: Store, path: str, *, num_bytes: int | None = None) -> ShardSummary:
    """Read a shard's counts from its footer: one request when ``num_bytes`` is given.

    Raises:
        ArchiveError: no shard of ours, or damaged.
    """
    footer = read_footer(store, path, num_bytes=num_bytes)
    try:
        found = parse_json(footer[SUMMARY_KEY])
        return ShardSummary(
            outcomes={str(name): _count(count) for name, count in found["outcomes"].items()},
            codecs={str(name): _count(count) for name, count in found["codecs"].items()},
            source_bytes=_count(found["source_bytes"]),
            payload_bytes=_count(found["payload_bytes"]),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ArchiveError(f"{path} in {store.url} has no readable {SUMMARY_KEY} in its footer") from error


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def read_footer(store: Store, path: str, *, num_bytes: int | None = None) -> dict[str, str]:
    """Read a shard's lineage: what `write_shard` was given as ``footer``, and the summary."""
    found = open_parquet(store, path, num_bytes=num_bytes).metadata.metadata or {}
    return {
        name.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for name, value in found.items()
        if len(value) <= MAX_FOOTER_VALUE_BYTES and name != b"ARROW:schema"
    }


def read_shard(
    store: Store,
    path: str,
    *,
    keys: Container[str] | None = None,
    num_bytes: int | None = None,
    check: Check = check_row,
) -> Iterator[ArchiveRow | DamagedRow]:
    """Yield a shard's rows in key order, each checked; in place of a damaged row its `DamagedRow`, which names the key.

    ``keys`` limits the rows, and row groups without one are not read. Memory is one row group. ``check`` raises
    ValueError for a row that is damaged; a row group with one is read a second time, and of each row the sound reading counts:
    a bit that flipped on the way is no damage.

    Raises:
        ArchiveError: the shard is missing, or not one.
    """

    def read(file: ParquetObject, group: int) -> list[ArchiveRow | DamagedRow]:
        return list(_read_group(store, file, group, where=f"{path} row group {group}", keys=keys, check=check))

    file = open_parquet(store, path, num_bytes=num_bytes)
    for group in range(file.metadata.num_row_groups):
        rows = read(file, group)
        if any(isinstance(row, DamagedRow) for row in rows):  # opened anew: the damage may be in the footer as it was read
            rows = _sounder(rows, read(open_parquet(store, path, num_bytes=num_bytes), group))
        yield from rows


def read_row(store: Store, path: str, file: ParquetObject, group: int, row: int) -> ArchiveRow | DamagedRow:
    """One row of a row group, checked like the others, without the payloads of its neighbours.

    Raises:
        ArchiveError: the row group's small columns cannot be read.
    """
    with damage_as_archive_error(store, path):
        small = file.read_group(group, SMALL_COLUMNS).slice(row, 1)
        payload = pa.array([file.read_payload(group, row)], pa.binary())
    table = small.append_column(SCHEMA.field("payload").with_nullable(True), payload)
    [found] = table_to_rows(table.select(COLUMNS))
    return found


def _sounder(first: list[ArchiveRow | DamagedRow], second: list[ArchiveRow | DamagedRow]) -> list[ArchiveRow | DamagedRow]:
    """The sounder of two readings of one row group; where one could not name its rows, the other."""
    if len(first) != len(second):
        return max(first, second, key=len)
    return [b if isinstance(a, DamagedRow) else a for a, b in zip(first, second, strict=True)]


def _read_group(
    store: Store,
    file: ParquetObject,
    group: int,
    *,
    where: str,
    keys: Container[str] | None,
    check: Check,
) -> Iterator[ArchiveRow | DamagedRow]:
    try:
        with damage_as_archive_error(store, where):
            table = file.read_group(group, SMALL_COLUMNS)
    except ArchiveError as error:
        yield from _named(store, file, group, error, where=where, keys=keys)
        return
    yield from _with_payloads(store, file, group, table, where=where, keys=keys, check=check)


def _named(
    store: Store, file: ParquetObject, group: int, fault: ArchiveError, *, where: str, keys: Container[str] | None
) -> Iterator[DamagedRow]:
    """The rows of a group whose small columns cannot be read: by their keys, if these can."""
    try:
        with damage_as_archive_error(store, where):
            names = _decode_keys(file.read_group(group, ["key"]))
    except ArchiveError:
        yield DamagedRow(f"{file.metadata.row_group(group).num_rows} rows cannot be named: {fault}")
    else:
        yield from (DamagedRow(f"{name!r}: {fault}", name) for name in names if keys is None or name in keys)


def _with_payloads(
    store: Store, file: ParquetObject, group: int, small: pa.Table, *, where: str, keys: Container[str] | None, check: Check
) -> Iterator[ArchiveRow | DamagedRow]:
    names = _decode_keys(small)
    wanted = [index for index, key in enumerate(names) if keys is None or key in keys]
    if not wanted:
        return
    try:
        with damage_as_archive_error(store, where):
            payloads = file.read_group(group, ["payload"]).column("payload")
    except ArchiveError as error:
        yield from (DamagedRow(f"{names[index]!r}: {error}", names[index]) for index in wanted)
        return
    table = small.append_column(SCHEMA.field("payload").with_nullable(True), payloads)
    table = table if len(wanted) == len(names) else table.take(wanted)
    yield from table_to_rows(table.select(COLUMNS), check=check)


def _decode_keys(table: pa.Table) -> list[str]:
    """The keys, with wrong bytes replaced: such a row is reported, and can match nothing that was asked for."""
    return [bytes(key or b"").decode("utf-8", "replace") for key in table.column("key").cast(pa.binary()).to_pylist()]


def rewrite_without(store: Store, path: str, keys: Collection[str], *, num_bytes: int | None = None) -> ShardInfo | None:
    """Copy a shard without some of its keys, for the commit that replaces it; ``None`` when no row is left.

    The rows are copied as they are, so nothing is encoded again. One whose payload fails its checksum, read twice, is copied
    too, byte for byte: readers and `jobs.verify` go on reporting it, and the rows beside it are not held up by it. The
    result's ``replaces`` names ``path``.

    Raises:
        DamagedRow: a row that would be carried on cannot be read at all; nothing is written.
        StorageError: a damaged row was read twice, and each time with other bytes.
    """

    def read() -> Iterator[ArchiveRow | DamagedRow]:
        rows = read_shard(store, path, num_bytes=num_bytes, check=check_columns)
        return (row for row in rows if row.key not in keys)

    kept: list[ArchiveRow] = []
    for row in _read_twice_if_damaged(read, where=f"{path} in {store.url}"):
        if isinstance(row, DamagedRow):
            raise row
        kept.append(row)
    return carry_on(store, path, kept, num_bytes=num_bytes)


def read_remains(store: Store, path: str, *, num_bytes: int | None = None) -> tuple[list[ArchiveRow], frozenset[str]]:
    """The readable part of a shard that is gone or damaged: rows, whatever their payloads are, and the keys of further rows.

    Raises:
        StorageError: a damaged row was read twice, and each time with other bytes.
    """
    try:
        rows = _read_twice_if_damaged(
            lambda: read_shard(store, path, num_bytes=num_bytes, check=check_columns), where=f"{path} in {store.url}"
        )
    except ArchiveError:
        return [], frozenset()
    named = frozenset(row.key for row in rows if isinstance(row, DamagedRow) and row.key is not None)
    return [row for row in rows if isinstance(row, ArchiveRow)], named


def carry_on(store: Store, path: str, rows: Sequence[ArchiveRow], *, num_bytes: int | None = None) -> ShardInfo | None:
    """Write rows of a shard again as they are, for the commit that replaces it; ``None`` when there is no row."""
    if not rows:
        return None
    for row in rows:
        if not _is_sound(row):
            logger.warning("%r in %s is damaged, and carried on as it is", row.key, path)
    footer = read_footer(store, path, num_bytes=num_bytes)
    footer.pop(SUMMARY_KEY, None)
    return _write(store, rows, footer, (path,))


def _read_twice_if_damaged(
    read: Callable[[], Iterable[ArchiveRow | DamagedRow]], *, where: str
) -> list[ArchiveRow | DamagedRow]:
    """The rows of ``read()``; where one is damaged, it is called again, and of each row the sound reading counts.

    Before what was read replaces what is stored: a bit that flipped on the way must not become the only copy. What is
    damaged in both readings comes back damaged.

    Raises:
        StorageError: the two readings of a row differ and neither is sound: the way to the store is at fault, not the row.
    """
    first = again_if_damaged(lambda: list(read()))
    if all(map(_is_sound, first)):
        return first
    logger.warning("%s has damaged rows: read again", where)
    readings: dict[str | None, list[ArchiveRow | DamagedRow]] = {}
    for row in (*first, *again_if_damaged(lambda: list(read()))):
        readings.setdefault(row.key, []).append(row)
    return [_agreed(found, where) for key, found in readings.items() if key is not None or len(found) > 1]


def _agreed(readings: Sequence[ArchiveRow | DamagedRow], where: str) -> ArchiveRow | DamagedRow:
    sound = next(filter(_is_sound, readings), None)
    if sound is not None:
        return sound
    if len(readings) < 2 or (readings[0] != readings[1] and not all(isinstance(row, DamagedRow) for row in readings)):
        raise StorageError(f"{where}: {readings[0].key!r} was read twice with other bytes each time, and neither is sound")
    return readings[0]


def _is_sound(row: ArchiveRow | DamagedRow) -> bool:
    return not isinstance(row, DamagedRow) and hashlib.sha256(row.payload).digest() == row.payload_sha256
