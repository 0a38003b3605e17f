"""Any Parquet or Delta tool reads the archive, and SQL can audit every payload."""

from pathlib import Path

import deltalake
import duckdb
import polars
import pyarrow.dataset
import pytest
from deltalake import DeltaTable

from cnnbatch.archive import ArchiveLog, write_shard
from cnnbatch.commands.archives import describe_access
from cnnbatch.reading import open as open_archive
from tests.archive.rows import CODEC_FILE, LINEAGE, coded, stored

AUDIT = "SELECT key FROM read_parquet(?) WHERE sha256(payload) <> lower(hex(payload_sha256))"


def test_what_info_says_of_sql_runs_and_sees_no_replaced_row(log: ArchiveLog) -> None:
    old = next(shard for shard in log.snapshot().shards if shard.min_key == "c.jpg")
    new = write_shard(log.store, [stored("c.jpg", b"another"), stored("d.jpg")], footer=LINEAGE, replaces=[old.path])
    log.commit("run", 2, [new])
    lines = describe_access(open_archive(log.store.url))
    run = duckdb.connect()
    results = [run.execute(line).fetchall() for line in lines if not line.startswith("--")]
    assert sorted(row[:2] for row in results[1]) == [("cnn", 40), ("store", 2)]
    assert len(results[2]) == 20
    [polars_line] = [line for line in lines if "Polars" in line]
    frame = eval(polars_line.partition("Polars:")[2].strip(), {"pl": polars})
    assert sorted(frame["key"].to_list())[-2:] == ["c.jpg", "d.jpg"]
    [pyarrow_line] = [line for line in lines if "pyarrow" in line]
    assert eval(pyarrow_line.partition("pyarrow:")[2].strip(), {"deltalake": deltalake}).num_rows == 42
    assert any(f"delta_scan('{log.store.url}')" in line for line in lines)


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
