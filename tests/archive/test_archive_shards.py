"""Shards: what is written is what is read, and damage stays where it is."""

import hashlib
import json
import threading
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.archive import ArchiveRow, read_footer, read_shard, read_summary, rewrite_without, write_shard
from cnnbatch.archive.parquet import read_columns
from cnnbatch.archive.schema import SMALL_COLUMNS
from cnnbatch.archive.shards import ROW_GROUP_ROWS, TINY_ROW_BYTES, ShardInfo
from cnnbatch.errors import ArchiveError, DamagedRow, StorageError
from cnnbatch.storage import Store, open_store
from cnnbatch.storage.ranged_file import RangedFile
from tests.archive.flipping import Flipping
from tests.archive.rows import CODEC_ID, LINEAGE, archive_rows, coded, keys_of, sha256, stored


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "archive"))


def flip(store: Store, shard: ShardInfo, position: int, bit: int = 0) -> None:
    data = bytearray(store.read(shard.path))
    data[position] ^= 1 << bit
    store.put(shard.path, bytes(data))


def position_of(store: Store, shard: ShardInfo, needle: bytes) -> int:
    return store.read(shard.path).index(needle)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(archive_rows(), min_size=1, max_size=8, unique_by=lambda row: row.key))
def test_rows_survive_a_shard_in_key_order(tmp_path_factory: pytest.TempPathFactory, rows: list[ArchiveRow]) -> None:
    store = open_store(str(tmp_path_factory.mktemp("archive")))
    shard = write_shard(store, rows, footer=LINEAGE)
    assert list(read_shard(store, shard.path)) == sorted(rows, key=lambda row: row.key.encode())


def test_a_shard_is_named_by_its_sha256_and_describes_itself(store: Store) -> None:
    shard = write_shard(store, [stored("b"), coded("a")], footer=LINEAGE)
    data = store.read(shard.path)
    assert shard.sha256 == hashlib.sha256(data).hexdigest()
    assert shard.path.startswith(f"data/{shard.sha256[:32]}-")
    assert (shard.num_bytes, shard.num_rows, shard.min_key, shard.max_key) == (len(data), 2, "a", "b")
    assert shard.summary.outcomes == {"cnn": 1, "store": 1}
    assert shard.summary.codecs == {CODEC_ID: 1}
    assert read_summary(store, shard.path) == shard.summary
    assert LINEAGE.items() <= read_footer(store, shard.path).items()


def test_the_same_rows_twice_are_two_files(store: Store) -> None:
    one, two = (write_shard(store, [stored("a")], footer=LINEAGE) for _ in range(2))
    assert one.sha256 == two.sha256
    assert one.path != two.path


def test_the_parquet_layout_is_the_specified_one(store: Store) -> None:
    rows = [coded(f"{number:05}", bytes([number % 251]) * 40_000) for number in range(1500)]
    shard = write_shard(store, rows, footer=LINEAGE)
    metadata = pq.ParquetFile(Path(store.url, shard.path)).metadata
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    assert max(group.num_rows for group in groups) <= ROW_GROUP_ROWS
    assert max(group.total_byte_size for group in groups) < 17 << 20
    for group in groups:
        columns = {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}
        assert list(columns)[-1] == "payload"
        payload = columns.pop("payload")
        assert (payload.compression, payload.has_dictionary_page, payload.statistics) == ("UNCOMPRESSED", False, None)
        assert payload.has_offset_index
        assert {column.compression for column in columns.values()} == {"ZSTD"}
        assert columns["key"].statistics.min < columns["key"].statistics.max
        assert columns["key"].has_column_index


def test_of_tiny_rows_little_is_written_beside_digests_and_payloads(store: Store) -> None:
    rng = Random(0)
    rows = [coded(f"train/{number:05}.png", rng.randbytes(50)) for number in range(2000)]
    shard = write_shard(store, rows, footer=LINEAGE)
    metadata = pq.ParquetFile(Path(store.url, shard.path)).metadata
    assert metadata.num_row_groups == 1
    assert shard.num_bytes / 2000 < 50 + 2 * 32 + 8
    assert list(read_shard(store, shard.path)) == rows


def test_no_rows_and_a_key_twice_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        write_shard(store, [], footer=LINEAGE)
    with pytest.raises(ValueError, match="'a' occurs twice"):
        write_shard(store, [stored("a"), stored("a", b"other")], footer=LINEAGE)
    assert list(store.list()) == []


def test_a_flipped_payload_byte_is_reported_with_its_key_and_the_others_are_readable(store: Store) -> None:
    rows = [stored(f"{number}.jpg", f"payload of {number}".encode() * 100) for number in range(9)]
    shard = write_shard(store, rows, footer=LINEAGE)
    flip(store, shard, position_of(store, shard, b"payload of 5"))
    found = list(read_shard(store, shard.path))
    assert keys_of(found) == [row.key for row in rows if row.key != "5.jpg"]
    assert isinstance(found[5], DamagedRow)
    assert "'5.jpg'" in str(found[5])
    assert "sha256" in str(found[5])


def test_a_flipped_bit_never_changes_a_row_or_hides_one_silently(store: Store) -> None:
    rows = [coded(f"{number:02}", b"%d" % number * 300, exif=b"e" * number) for number in range(30)]
    shard = write_shard(store, rows, footer=LINEAGE)
    for position in range(0, shard.num_bytes, shard.num_bytes // 150):
        flip(store, shard, position)
        with suppress(ArchiveError):  # a damaged footer: the whole shard is reported
            found = list(read_shard(store, shard.path))
            assert all(row in rows for row in found if isinstance(row, ArchiveRow)), position
            assert found == rows or any(isinstance(row, DamagedRow) for row in found), position
        flip(store, shard, position)


def test_a_flipped_bit_of_a_footer_ends_in_a_report_and_never_in_an_abort(store: Store) -> None:
    rows = [stored("a"), coded("b", exif=b"x")]
    shard = write_shard(store, rows, footer=LINEAGE)
    footer_bytes = int.from_bytes(store.read(shard.path)[-8:-4], "little")
    for place in range(0, 8 * footer_bytes, 41):
        position, bit = shard.num_bytes - 8 - footer_bytes + place // 8, place % 8
        flip(store, shard, position, bit)
        with suppress(ArchiveError):
            found = list(read_shard(store, shard.path))
            assert found == rows or any(isinstance(row, DamagedRow) for row in found), (position, bit)
        flip(store, shard, position, bit)


def test_a_damaged_row_group_leaves_the_others_readable(store: Store) -> None:
    rows = [stored(f"{number:04}", key_bytes(number).ljust(TINY_ROW_BYTES + 1)) for number in range(ROW_GROUP_ROWS + 5)]
    shard = write_shard(store, rows, footer=LINEAGE)
    metadata = pq.ParquetFile(Path(store.url, shard.path)).metadata
    flip(store, shard, metadata.row_group(0).column(0).data_page_offset + 100)
    found = list(read_shard(store, shard.path))
    assert keys_of(found) == [row.key for row in rows[ROW_GROUP_ROWS:]]
    assert f"{ROW_GROUP_ROWS} rows cannot be named" in str(found[0])


def key_bytes(number: int) -> bytes:
    return b"%08d" % number


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet" * 99, b"PAR1" + b"\xff" * 50 + b"PAR1"])
def test_what_is_no_shard_is_refused_by_name(store: Store, content: bytes) -> None:
    store.put("data/x.parquet", content)
    with pytest.raises(ArchiveError, match=r"data/x\.parquet"):
        list(read_shard(store, "data/x.parquet"))
    with pytest.raises(ArchiveError, match=r"data/gone\.parquet is missing"):
        list(read_shard(store, "data/gone.parquet"))


def test_only_the_row_groups_of_wanted_keys_are_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [stored(f"{number:04}", bytes(9000)) for number in range(ROW_GROUP_ROWS * 2)]
    shard = write_shard(store, rows, footer=LINEAGE)
    lengths: list[int] = []
    read_range = type(store).read_range

    def counting(self: Store, key: str, start: int, length: int) -> bytes:
        lengths.append(length)
        return read_range(self, key, start, length)

    monkeypatch.setattr(type(store), "read_range", counting)
    found = list(read_shard(store, shard.path, keys={"0003"}, num_bytes=shard.num_bytes))
    assert found == [rows[3]]
    assert sum(lengths) < shard.num_bytes * 0.6


def test_every_byte_is_read_once_and_by_the_thread_that_asks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [stored(f"{number:04}", bytes(9000)) for number in range(ROW_GROUP_ROWS * 2)]
    shard = write_shard(store, rows, footer=LINEAGE)
    requests: list[tuple[int, int]] = []
    threads: set[int] = set()
    read_range, read = type(store).read_range, RangedFile.read

    def watched_range(self: Store, key: str, start: int, length: int) -> bytes:
        requests.append((start, length))
        return read_range(self, key, start, length)

    def watched_read(self: RangedFile, size: int | None = -1) -> bytes:
        threads.add(threading.get_ident())
        return read(self, size)

    monkeypatch.setattr(type(store), "read_range", watched_range)
    monkeypatch.setattr(RangedFile, "read", watched_read)
    assert list(read_shard(store, shard.path, num_bytes=shard.num_bytes)) == rows
    assert threads == {threading.get_ident()}
    footers, columns = requests[:1], requests[1:]
    assert all(start + length == shard.num_bytes for start, length in footers)
    assert len(columns) <= 3 * 2  # of each row group: what lies before the payloads, what lies behind, the payloads
    assert sum(length for _, length in columns) < shard.num_bytes


def test_what_was_fetched_is_never_copied(store: Store) -> None:
    """A crafted footer may let every column claim the whole file, and Arrow holds the chunks of all at once."""
    store.put("data/x", bytes(range(200)))
    file = RangedFile(store, "data/x", 200)
    file.fetch([(10, 60), (50, 120)])
    chunks = []
    for start in (10, 50):
        file.seek(start)
        chunks.append(file.read(60))
    assert [bytes(chunk) for chunk in chunks] == [bytes(range(10, 70)), bytes(range(50, 110))]
    assert all(isinstance(chunk, memoryview) for chunk in chunks)
    assert chunks[0].obj is chunks[1].obj


def test_a_shard_without_some_keys_keeps_rows_and_lineage(store: Store) -> None:
    rows = [stored(key) for key in "abc"]
    shard = write_shard(store, rows, footer=LINEAGE)
    rest = rewrite_without(store, shard.path, {"b", "unknown"})
    assert rest is not None
    assert rest.replaces == (shard.path,)
    assert list(read_shard(store, rest.path)) == [rows[0], rows[2]]
    assert LINEAGE.items() <= read_footer(store, rest.path).items()
    assert json.loads(read_footer(store, rest.path)["cnnbatch.summary"])["outcomes"] == {"store": 2}
    assert rewrite_without(store, shard.path, set("abc")) is None


def test_a_damaged_payload_is_carried_on_byte_for_byte_and_stays_reported(store: Store) -> None:
    shard = write_shard(store, [stored("a", b"payload a"), stored("b", b"payload b"), stored("c")], footer=LINEAGE)
    flip(store, shard, position_of(store, shard, b"payload a"))
    rest = rewrite_without(store, shard.path, {"b"})
    assert rest is not None
    damaged, sound = read_shard(store, rest.path)
    assert isinstance(damaged, DamagedRow)
    assert (damaged.key, sound) == ("a", stored("c"))
    column = read_columns(store, rest.path, ["payload", "payload_sha256"])
    assert column.to_pylist()[0] == {"payload": b"qayload a", "payload_sha256": sha256(b"payload a")}


def test_rows_that_cannot_be_read_are_never_left_behind(store: Store) -> None:
    shard = write_shard(store, [stored("a"), stored("b")], footer=LINEAGE)
    sizes = pq.ParquetFile(Path(store.url, shard.path)).metadata.row_group(0).column(SMALL_COLUMNS.index("source_size"))
    flip(store, shard, sizes.data_page_offset + sizes.total_compressed_size - 3)
    with pytest.raises(DamagedRow, match=r"'a': .*source_size"):
        rewrite_without(store, shard.path, {"b"})
    assert len(list(store.list("data"))) == 1


@pytest.mark.parametrize("at", [0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0])
def test_a_bit_that_flips_on_the_way_never_becomes_what_is_stored(store: Store, at: float) -> None:
    rows = [stored(key, f"the payload of {key}".encode() * 20) for key in "abcdef"]
    shard = write_shard(store, rows, footer=LINEAGE)
    for nth in count():
        flipping = Flipping(store, nth, at=at)
        rest = rewrite_without(flipping, shard.path, {"b"}, num_bytes=shard.num_bytes)  # type: ignore[arg-type]
        if not flipping.hits:
            break
        assert rest is not None
        assert list(read_shard(store, rest.path)) == [rows[0], *rows[2:]]
    assert nth >= 3


def test_a_row_that_reads_otherwise_each_time_is_the_stores_fault(store: Store) -> None:
    shard = write_shard(store, [stored("a", b"payload of a" * 500), stored("b")], footer=LINEAGE)
    [(start, length)] = payload_reads(store, shard)
    flipping = Flipping(store, 0, at=0.5, more=10**6)
    plain = store.read_range
    flipping.read_range = lambda key, at, size: (  # type: ignore[method-assign]
        Flipping.read_range(flipping, key, at, size) if (at, size) == (start, length) else plain(key, at, size)
    )
    with pytest.raises(StorageError, match="'a' was read twice with other bytes each time"):
        rewrite_without(flipping, shard.path, {"b"}, num_bytes=shard.num_bytes)  # type: ignore[arg-type]
    assert [info.key for info in store.list("data")] == [shard.path]


def payload_reads(store: Store, shard: ShardInfo) -> list[tuple[int, int]]:
    """Of the reads that a rewriting makes, those that cross the payload."""
    seen: list[tuple[int, int]] = []
    watching = Flipping(store, -1, at=0)
    plain = store.read_range
    watching.read_range = lambda key, at, size: (seen.append((at, size)), plain(key, at, size))[1]  # type: ignore[method-assign]
    list(read_shard(watching, shard.path, num_bytes=shard.num_bytes))  # type: ignore[arg-type]
    where = position_of(store, shard, b"payload of a")
    return [(at, size) for at, size in dict.fromkeys(seen) if at <= where + 3000 < at + size and size < shard.num_bytes]


def test_columns_are_read_without_the_payload(store: Store) -> None:
    shard = write_shard(store, [stored("a"), coded("b")], footer=LINEAGE)
    assert read_columns(store, shard.path, ["key", "outcome"]).to_pylist() == [
        {"key": "a", "outcome": "store"},
        {"key": "b", "outcome": "cnn"},
    ]
