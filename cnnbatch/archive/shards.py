"""Shards: the Parquet files of an archive, each sorted by key and never changed once written.

A shard is named by the sha256 of its bytes and by chance, so that a task that runs twice leaves two files of which at
most one is ever committed.
"""

import hashlib
import io
import itertools
import json
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cnnbatch.archive.parquet import seal_footer
from cnnbatch.archive.schema import BLOBS, SCHEMA, SMALL_COLUMNS, ArchiveRow, check_row, rows_to_table
from cnnbatch.storage import Store

ROW_GROUP_BYTES = 16 << 20
ROW_GROUP_ROWS = 1024
TINY_ROW_BYTES = 4096
"""Payload and blobs: where no row of a shard is larger, a row group may hold `TINY_GROUP_ROWS`."""

TINY_GROUP_ROWS = 4096
PAGE_BYTES = 32 << 10
_SMALLEST_ROW_BYTES = 64
"""Least size that a row counts: a digest and its neighbours."""
SUMMARY_KEY = "cnnbatch.summary"
SIZES_KEY = "cnnbatch.payload_sizes"
OF_ITS_ROWS = frozenset((SUMMARY_KEY, SIZES_KEY))
"""Entries of a footer that tell of its rows, and are made anew when these are written into another shard."""

SHARD_PATH = re.compile(r"data/[0-9a-f]{32}-[0-9a-f]{8}\.parquet")
"""The names of `write_shard`'s files."""

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
    return write_unchecked(store, rows, footer, replaces)


def write_unchecked(store: Store, rows: Sequence[ArchiveRow], footer: Mapping[str, str], replaces: Sequence[str]) -> ShardInfo:
    """`write_shard` of rows that are carried on, whatever is wrong with them."""
    rows = _in_order(rows)
    summary = _summarise(rows)
    lineage = {name: value for name, value in footer.items() if name not in OF_ITS_ROWS}
    data = _encode(rows, lineage | _told_of(rows, summary))
    digest = hashlib.sha256(data).hexdigest()
    path = f"data/{digest[:32]}-{uuid.uuid4().hex[:8]}.parquet"
    store.put(path, data)
    return ShardInfo(path, len(data), len(rows), digest, rows[0].key, rows[-1].key, summary=summary, replaces=tuple(replaces))


def _told_of(rows: Sequence[ArchiveRow], summary: ShardSummary) -> dict[str, str]:
    """Entries of the footer that tell of its rows; sizes only where the payloads are too large to be read for them."""
    told = {SUMMARY_KEY: json.dumps(_summary_as_dict(summary), sort_keys=True)}
    if max(map(_row_bytes, rows)) > TINY_ROW_BYTES:
        told[SIZES_KEY] = json.dumps([len(row.payload) for row in rows], separators=(",", ":"))
    return told


def _row_bytes(row: ArchiveRow) -> int:
    return len(row.payload) + sum(len(getattr(row, name) or b"") for name in BLOBS)


def _in_order(rows: Sequence[ArchiveRow]) -> list[ArchiveRow]:
    if not rows:
        raise ValueError("a shard needs at least one row")
    ordered = sorted(rows, key=lambda row: row.key)  # by code point, which is also the order of the UTF-8 bytes
    for one, next_ in itertools.pairwise(ordered):
        if one.key == next_.key:
            raise ValueError(f"{one.key!r} occurs twice in one shard")
    return ordered


def _encode(rows: Sequence[ArchiveRow], footer: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    sizes = list(map(_row_bytes, rows))
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
