"""Any Parquet or Delta tool reads the archive, and SQL can audit every payload."""

from pathlib import Path

import duckdb
import polars
import pyarrow.dataset
import pytest
from deltalake import DeltaTable

from cnnbatch.archive import ArchiveLog, write_shard
from tests.archive.rows import CODEC_FILE, LINEAGE, coded, stored

AUDIT = "SELECT key FROM read_parquet(?) WHERE sha256(payload) <> lower(hex(payload_sha256))"


@pytest.fixture
def log(tmp_path: Path) -> ArchiveLog:
    log = ArchiveLog.create_or_open(str(tmp_path / "archive"), codec_files=[CODEC_FILE])
    shards = [
        write_shard(log.store, [coded(f"{folder}/{number}.png", b"%d" % number * 50) for number in range(20)], footer={})
        for folder in "ab"
    ]
    log.commit("run", 0, shards)
    log.commit("run", 1, [write_shard(log.store, [stored("c.jpg")], footer=LINEAGE)])
    write_shard(log.store, [stored("uncommitted.jpg")], footer=LINEAGE)
    return log


def files(log: ArchiveLog) -> list[str]:
    return [f"{log.store.url}/{shard.path}" for shard in log.snapshot().shards]


def test_duckdb_reads_the_shards_and_audits_every_payload(log: ArchiveLog) -> None:
    counts = duckdb.execute("SELECT outcome, count(*) FROM read_parquet(?) GROUP BY 1 ORDER BY 1", [files(log)])
    assert counts.fetchall() == [("cnn", 40), ("store", 1)]
    assert duckdb.execute(AUDIT, [files(log)]).fetchall() == []


def test_the_audit_in_sql_finds_a_flipped_byte(log: ArchiveLog) -> None:
    shard = log.snapshot().shards[0]
    data = log.store.read(shard.path)
    position = data.index(b"17" * 50)
    log.store.put(shard.path, data[:position] + b"X" + data[position + 1 :])
    assert duckdb.execute(AUDIT, [files(log)]).fetchall() == [("a/17.png",)]


def test_polars_reads_the_live_rows(log: ArchiveLog) -> None:
    frame = polars.scan_delta(log.store.url).select("key", "outcome", "payload").collect()
    assert frame.height == 41
    assert frame.filter(polars.col("key") == "c.jpg")["payload"].to_list() == [b"c.jpg"]


def test_pyarrow_reads_the_live_rows(log: ArchiveLog) -> None:
    dataset = pyarrow.dataset.dataset(files(log))
    assert dataset.count_rows() == 41
    assert dataset.to_table(columns=["key"], filter=pyarrow.dataset.field("outcome") == "store").to_pylist() == [
        {"key": "c.jpg"}
    ]


def test_delta_prunes_shards_by_key(log: ArchiveLog) -> None:
    assert len(DeltaTable(log.store.url).file_uris(file_pruning_predicate="key = 'b/3.png'")) == 1


def test_a_delta_vacuum_keeps_the_control_files_and_the_live_shards(log: ArchiveLog) -> None:
    before = {info.key for info in log.store.list("_cnnbatch")}
    live = {shard.path for shard in log.snapshot().shards}
    DeltaTable(log.store.url).vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True)
    assert {info.key for info in log.store.list("_cnnbatch")} == before
    assert {info.key for info in log.store.list("data")} == live
