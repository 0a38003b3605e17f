"""The log: what is committed is there once, whoever else writes."""

import json
import os
from pathlib import Path

import pytest
from deltalake import DeltaTable

from cnnbatch.archive import ArchiveLog, open_archive
from cnnbatch.archive import log as log_module
from cnnbatch.archive.layout import FORMAT_PATH, README_PATH, codec_path
from cnnbatch.errors import ArchiveError, StorageError, UsageError
from tests.archive.rows import CODEC_FILE, CODEC_ID, shard_of


def test_a_new_archive_has_its_control_files_and_no_rows(log: ArchiveLog) -> None:
    names = {info.key for info in log.store.list()}
    assert {FORMAT_PATH, README_PATH, codec_path(CODEC_ID)} <= names
    assert (log.snapshot().version, log.snapshot().shards) == (0, ())


def test_creating_again_opens_and_adds_codec_files(log: ArchiveLog) -> None:
    log.commit("run", 0, [shard_of(log, "a")])
    again = ArchiveLog.create_or_open(log.store.url, codec_files=[CODEC_FILE, b"another"])
    assert again.snapshot().num_rows == 1
    assert len(list(again.store.list("_cnnbatch/codecs"))) == 2


def test_a_folder_with_other_content_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"holiday\.jpg"):
        ArchiveLog.create_or_open(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_opening_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="there is no cnnbatch archive"):
        ArchiveLog.open(str(tmp_path))
    with pytest.raises(UsageError, match="local folder or an object store"):
        ArchiveLog.create_or_open("memory://archive")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "format version 2"),
        ({"reader_features": ["delta-payloads"]}, "delta-payloads"),
        ({"format": "another"}, "does not belong to a cnnbatch archive"),
        ({"version": None}, "does not belong to a cnnbatch archive"),
    ],
)
def test_an_unknown_format_is_refused(log: ArchiveLog, change: dict[str, object], message: str) -> None:
    found = json.loads(log.store.read(FORMAT_PATH))
    log.store.put(FORMAT_PATH, json.dumps(found | change).encode())
    for open_ in (ArchiveLog.open, ArchiveLog.create_or_open, open_archive):
        with pytest.raises(ArchiveError, match=message):
            open_(log.store.url)


@pytest.mark.parametrize("path", ["/etc/x.parquet", "../x.parquet", "data/../../x.parquet", "s3://b/x.parquet"])
def test_a_log_that_names_files_elsewhere_is_refused(log: ArchiveLog, path: str) -> None:
    log.commit("run", 0, [shard_of(log, "a")])
    entry = Path(log.store.url, "_delta_log", f"{1:020}.json")
    text = entry.read_text()
    entry.write_text(text.replace(json.loads(text.splitlines()[1])["add"]["path"], path))
    with pytest.raises(ArchiveError, match="not a file inside"):
        open_archive(log.store.url)


def test_a_damaged_log_is_an_archive_error(log: ArchiveLog) -> None:
    Path(log.store.url, "_delta_log", f"{0:020}.json").write_text('{"torn')
    with pytest.raises(ArchiveError, match=r"log of .* is damaged"):
        ArchiveLog.open(log.store.url)


def test_committed_shards_are_live_with_their_key_ranges(log: ArchiveLog) -> None:
    shard = shard_of(log, "b", "a", "c")
    result = log.commit("run", 0, [shard])
    assert (result.version, result.added, result.dropped) == (1, (shard.path,), ())
    (live,) = log.snapshot().shards
    assert (live.path, live.num_bytes, live.num_rows) == (shard.path, shard.num_bytes, 3)
    assert (live.min_key, live.max_key) == ("a", "c")


def test_the_same_sequence_number_twice_commits_once(log: ArchiveLog) -> None:
    shard = shard_of(log, "a")
    log.commit("run", 3, [shard])
    assert log.commit("run", 3, [shard]).repeated
    assert log.commit("run", 2, [shard_of(log, "b")]).repeated
    assert log.table.open().transaction_version("run") == 3
    assert log.snapshot().num_rows == 1


def test_a_missing_or_short_shard_is_not_committed(log: ArchiveLog) -> None:
    shard = shard_of(log, "a")
    log.store.put(shard.path, b"short")
    with pytest.raises(ArchiveError, match="has 5 bytes"):
        log.commit("run", 0, [shard])
    log.store.delete(shard.path)
    with pytest.raises(ArchiveError, match="is missing"):
        log.commit("run", 0, [shard])
    assert log.snapshot().version == 0


def test_an_error_after_the_commit_went_in_is_not_an_error(log: ArchiveLog, monkeypatch: pytest.MonkeyPatch) -> None:
    write = log_module._write_commit
    attempts: list[int] = []

    def loses_the_answer(*arguments: object) -> None:
        attempts.append(1)
        write(*arguments)  # type: ignore[arg-type]
        raise OSError("connection reset")

    monkeypatch.setattr(log_module, "_write_commit", loses_the_answer)
    shard = shard_of(log, "a")
    result = log.commit("run", 0, [shard])
    assert (result.version, result.added, result.repeated, len(attempts)) == (1, (shard.path,), False, 1)
    assert log.snapshot().num_rows == 1


def test_a_store_that_never_takes_the_commit_is_reported_in_time(log: ArchiveLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(log_module, "_write_commit", refuses)
    monkeypatch.setattr(log_module, "COMMIT_SECONDS", 0.3)
    with pytest.raises(StorageError, match=r"cannot commit within 0\.3 s to .*read-only"):
        log.commit("run", 0, [shard_of(log, "a")])


def test_the_log_is_readable_and_idempotent_across_checkpoints(log: ArchiveLog) -> None:
    for sequence in range(23):
        log.commit("run", sequence, [shard_of(log, f"{sequence:02}")], base=log.snapshot())
    assert Path(log.store.url, "_delta_log", "_last_checkpoint").exists()
    assert [shard.min_key for shard in log.snapshot().shards] == [f"{number:02}" for number in range(23)]
    assert log.commit("run", 5, []).repeated
    assert log.table.open().transaction_version("cnnbatch.fence") == 23


def test_a_log_of_a_newer_delta_protocol_is_refused(log: ArchiveLog) -> None:
    entry = Path(log.store.url, "_delta_log", f"{1:020}.json")
    features = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
    entry.write_text(json.dumps({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}}))
    with pytest.raises(ArchiveError, match="Delta reader version 3"):
        ArchiveLog.open(log.store.url)


def test_other_delta_readers_see_the_same_version(log: ArchiveLog) -> None:
    result = log.commit("run", 0, [shard_of(log, "a")])
    table = DeltaTable(log.store.url)
    assert table.version() == result.version
    assert table.history(1)[0]["cnnbatch.run_id"] == "run"


@pytest.mark.parametrize("kind", ["pipe", "link", "huge"])
def test_a_log_with_something_else_than_files_is_refused_unopened(log: ArchiveLog, tmp_path: Path, kind: str) -> None:
    log.commit("run", 0, [shard_of(log, "a")])
    entry = Path(log.store.url, "_delta_log", f"{1:020}.json")
    elsewhere = entry.rename(tmp_path / "elsewhere.json")
    if kind == "pipe":
        os.mkfifo(entry)
    elif kind == "link":
        entry.symlink_to(elsewhere)
    else:
        entry.touch()
        os.truncate(entry, 40 << 30)
    with pytest.raises(ArchiveError, match="cannot be part of a log"):
        open_archive(log.store.url)
