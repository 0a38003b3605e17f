"""Whatever is given back was checked, on every way out; and what a shard claims is believed only within limits."""

import hashlib
import io
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnnbatch.archive import ArchiveLog, ArchiveRow, open_archive, parquet, read_shard, read_summary, write_shard
from cnnbatch.archive.layout import codec_path
from cnnbatch.archive.leftovers import unneeded_codecs
from cnnbatch.archive.orphans import GRACE
from cnnbatch.archive.parquet import FOOTER_MARK, read_columns
from cnnbatch.archive.schema import COLUMNS, SCHEMA
from cnnbatch.archive.snapshot import read_rows
from cnnbatch.errors import ArchiveError, DamagedRow
from tests.archive.rows import CODEC_FILE, CODEC_ID, LINEAGE, coded, shard_of, stored

COMPARED = ("key", "source_size", "source_etag", "source_mtime", "outcome", "codec_id", "quality")
BLOBS = {"exif": b"MM\0*" + bytes(range(64)), "icc": bytes(range(200)), "xmp": b"<x/>", "alpha": bytes(range(99))}


def ways_out(log: ArchiveLog) -> dict[str, Any]:
    """What each way of reading gives, None where it says that something is damaged."""
    archive = open_archive(log.store.url)
    [shard] = archive.shards()
    ways: dict[str, Any] = {
        "by key": lambda: [archive[key] for key in ("a", "b")],
        "whole": lambda: list(archive.rows()),
        "columns": lambda: list(archive.columns(COLUMNS)),
        "keys": lambda: list(archive.keys()),
        "info": archive.info,
        "summary": lambda: read_summary(log.store, shard.path),
        "rows": lambda: read_rows(log.store, shard, COMPARED).to_pylist(),
    }
    found = {}
    for name, way in ways.items():
        try:
            found[name] = way()
        except ArchiveError:
            found[name] = None
    rows = found["whole"]
    if rows is not None and any(isinstance(row, DamagedRow) for row in rows):
        found["whole"] = None
    return found


def test_no_flipped_bit_of_a_shard_gives_back_something_else(log: ArchiveLog) -> None:
    shard = write_shard(log.store, [coded("a", b"one" * 9, **BLOBS), coded("b", b"two" * 9, **BLOBS)], footer=LINEAGE)
    log.commit("run", 0, [shard])
    file, right, rng = Path(log.store.url, shard.path), ways_out(log), Random(1)
    assert None not in right.values()
    data = file.read_bytes()
    damaged = 0
    for at in rng.sample(range(len(data)), 150):
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        for name, found in ways_out(log).items():
            if (
                name != "columns"
                or found is None
                or [row | {"payload": b""} for row in found] != [row | {"payload": b""} for row in right[name]]
            ):  # the payload alone has no page checksum
                assert found in (None, right[name]), (name, at)
            damaged += found is None
    assert damaged > 200


def test_a_flipped_bit_on_the_way_is_no_damage(log: ArchiveLog, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [coded("a", b"one" * 9, **BLOBS), coded("b", b"two" * 9, **BLOBS)]
    log.commit("run", 0, [write_shard(log.store, rows, footer=LINEAGE)])
    read_range, reads = type(log.store).read_range, 0

    def flips(store: object, key: str, start: int, length: int) -> bytes:
        nonlocal reads
        data = bytearray(read_range(store, key, start, length))  # type: ignore[arg-type]
        reads += 1
        if reads == wanted:
            data[len(data) // 2] ^= 1
        return bytes(data)

    archive = open_archive(log.store.url)
    monkeypatch.setattr(type(log.store), "read_range", flips)
    for wanted in range(1, 12):
        reads = 0
        assert [archive["a"], archive["b"]] == rows, wanted


def test_the_footer_is_sealed(log: ArchiveLog) -> None:
    shard = shard_of(log, "a")
    data = log.store.read(shard.path)
    footer = int.from_bytes(data[-8:-4], "little") + 8
    assert data[-footer - 4 : -footer] == FOOTER_MARK
    unsealed = data[: -footer - 36] + data[-footer:]
    log.store.put("data/old.parquet", unsealed)  # as older versions wrote them
    assert list(read_shard(log.store, "data/old.parquet")) == list(read_shard(log.store, shard.path))
    log.store.put("data/flipped.parquet", data[: -footer + 9] + bytes([data[-footer + 9] ^ 1]) + data[-footer + 10 :])
    with pytest.raises(ArchiveError, match="sha256 of its footer"):
        read_summary(log.store, "data/flipped.parquet")


@pytest.mark.parametrize("sealed", [True, False])
def test_a_codec_file_that_a_row_names_is_needed_whatever_the_footer_says(log: ArchiveLog, *, sealed: bool) -> None:
    shard = write_shard(log.store, [coded("a")], footer=LINEAGE)
    log.commit("run", 0, [shard])
    data = log.store.read(shard.path)
    at = data.index(b'"codecs": {"' + CODEC_ID.encode()) + 12
    lying = data[:at] + b"0" * 64 + data[at + 64 :]
    footer = int.from_bytes(data[-8:-4], "little") + 8
    log.store.put(shard.path, lying if sealed else lying[: -footer - 36] + lying[-footer:])
    past = time.time() - 1e6
    os.utime(Path(log.store.url, codec_path(CODEC_ID)), (past, past))
    assert unneeded_codecs(log.store, grace=GRACE) == []
    log.store.put(shard.path, log.store.read(shard_of(log, "b").path))
    assert unneeded_codecs(log.store, grace=GRACE) == [codec_path(CODEC_ID)]
    assert hashlib.sha256(CODEC_FILE).hexdigest() == CODEC_ID


# Claims


def bomb(rows: int, column: str, value: bytes, **options: Any) -> bytes:
    """A shard of a few kB in which one value stands for all rows."""
    sha256, zeros = hashlib.sha256(b"x").digest(), pa.array([0] * rows, pa.int32())
    given = {
        **{"source_size": 1, "source_sha256": sha256, "source_format": "png", "outcome": "store", "payload_coding": "verbatim"},
        **{"ingested_at": datetime.now(UTC), "run_id": "r", "payload_sha256": sha256, "payload": b"x", "key": "k"},
        **{column: value.decode() if pa.types.is_string(SCHEMA.field(column).type) else value},
    }
    arrays = [
        pa.DictionaryArray.from_arrays(zeros, pa.array([given.get(field.name)], field.type))
        if field.name == column
        else pa.array([given.get(field.name)], field.type).take(zeros)
        for field in SCHEMA
    ]
    buffer = io.BytesIO()
    table = pa.Table.from_arrays(arrays, names=SCHEMA.names)
    written = {"row_group_size": 1 << 20, "compression": "zstd", "write_statistics": False, "store_schema": False}
    pq.write_table(table, buffer, **written | options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("column", "size", "rows", "options"),
    [
        ("key", 100_000, 200_000, {}),
        ("key", 4_000, 200_000, {}),
        ("key", 4_000, 200_000, {"use_dictionary": False, "column_encoding": {"key": "DELTA_BYTE_ARRAY"}}),
        ("source_etag", 60_000, 200_000, {}),
        ("alpha", 1 << 20, 9_000, {"dictionary_pagesize_limit": 1 << 22}),
        ("exif", 1 << 20, 100, {"use_dictionary": False, "data_page_size": 1 << 30}),
    ],
)
def test_a_small_shard_never_takes_gigabytes(
    log: ArchiveLog, column: str, size: int, rows: int, options: dict[str, Any]
) -> None:
    data = bomb(rows, column, b"k" * size, **options)
    assert len(data) < 1 << 20
    log.store.put("data/bomb.parquet", data)
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(ArchiveError):
        read_columns(log.store, "data/bomb.parquet", [column])
    assert not any(isinstance(row, ArchiveRow) for row in read_shard(log.store, "data/bomb.parquet"))
    assert pa.default_memory_pool().max_memory() - before < 4 * parquet.FREE_BYTES


def test_pages_that_claim_too_much_are_read_in_parts(log: ArchiveLog, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [stored(f"{number:04}", bytes(50)) for number in range(3000)]
    shard = write_shard(log.store, rows, footer=LINEAGE)
    monkeypatch.setattr(parquet, "DECODE_BYTES", 1 << 18)
    assert list(read_shard(log.store, shard.path)) == rows
    assert read_columns(log.store, shard.path, ["key"]).column("key").to_pylist() == [row.key for row in rows]
