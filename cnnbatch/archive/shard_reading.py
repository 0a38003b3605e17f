"""Shards as they are read: their lineage and counts, and their rows, each checked, a damaged one named."""

from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.archive.damage import damage_as_archive_error
from cnnbatch.archive.parquet import ParquetObject, open_parquet, read_columns
from cnnbatch.archive.schema import COLUMNS, SCHEMA, SMALL_COLUMNS, ArchiveRow, check_row, table_to_rows
from cnnbatch.archive.shards import SIZES_KEY, SUMMARY_KEY, TINY_ROW_BYTES, ShardSummary
from cnnbatch.errors import ArchiveError, DamagedRow
from cnnbatch.storage import Store, parse_json

MAX_FOOTER_VALUE_BYTES = 1 << 20
READ_FOR_SIZES_BYTES = 1 << 18
"""Size of a shard, beside that of tiny rows, whose payloads are read where its footer does not tell how long they are."""

Check = Callable[[ArchiveRow], None]


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
        raise ValueError(f"{value!r} is not a count")
    return value


def payload_sizes(store: Store, path: str, *, num_bytes: int | None = None) -> list[int | None]:
    """Bytes of each payload of a shard, in the order of its rows; None for all where nothing tells but the payloads.

    Raises:
        ArchiveError: no shard, or damaged.
    """
    file = open_parquet(store, path, num_bytes=num_bytes)
    count: int = file.metadata.num_rows
    text = (file.metadata.metadata or {}).get(SIZES_KEY.encode(), b"")
    if 0 < len(text) <= MAX_FOOTER_VALUE_BYTES:
        with suppress(ValueError, TypeError):
            sizes = [_count(size) for size in parse_json(text.decode())]
            if len(sizes) == count:
                return list(sizes)
    if not text and (num_bytes or 0) <= count * TINY_ROW_BYTES + READ_FOR_SIZES_BYTES:
        payloads = read_columns(store, path, ["payload"], num_bytes=num_bytes).column("payload")
        return list(pc.binary_length(payloads).to_pylist())
    return [None] * count


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
