"""The digests of the log: one flipped bit is noticed, by everyone, and put right; other Delta tools may come and go."""

import json
from datetime import timedelta
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from cnnbatch.archive import ArchiveLog, open_archive, rewrite_without
from cnnbatch.archive.commits import ACTIONS, LIVE, PREVIOUS, commit_path
from cnnbatch.archive.doctor import examine
from cnnbatch.archive.orphans import sweep
from cnnbatch.archive.schema import rows_to_table
from cnnbatch.errors import ArchiveError
from tests.archive.rows import keys_of, rows_of, shard_of, stored

NOW = timedelta(0)


def history(log: ArchiveLog, count: int) -> list[str]:
    """Adds, a shard that goes, one that is replaced; returns the keys that are live in the end."""
    first, second = shard_of(log, "a", "b"), shard_of(log, "gone")
    log.commit("run", 0, [first, second])
    log.commit("run", 1, [shard_of(log, "dé\u2028\U00020000")], removes=[second.path])
    rest = rewrite_without(log.store, first.path, {"a"})
    assert rest is not None
    log.commit("run", 2, [rest])
    for number in range(3, count):
        log.commit("run", number, [shard_of(log, f"x{number}")])
    return keys_of(rows_of(log))


def files_of_the_log(log: ArchiveLog) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(log.store.url, "_delta_log").iterdir() if path.is_file()}


def restore(log: ArchiveLog, files: dict[Path, bytes]) -> None:
    for path in files_of_the_log(log).keys() - files.keys():
        path.unlink()
    for path, data in files.items():
        path.write_bytes(data)


def flip(path: Path, at: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def read_or_none(log: ArchiveLog) -> list[str] | None:
    try:
        return keys_of(rows_of(log))
    except ArchiveError:
        return None


@pytest.mark.parametrize("count", [3, 12])
def test_one_flipped_bit_never_changes_what_is_live_and_is_put_right(log: ArchiveLog, count: int) -> None:
    live = history(log, count)
    files, rng = files_of_the_log(log), Random(count)
    needed = sorted(files)[-5:]  # commits below a checkpoint may be anything
    wrong = 0
    for _ in range(16):
        path = rng.choice(needed)
        at, bit = rng.randrange(len(files[path])), rng.randrange(8)
        place = f"{path.name}, byte {at}, bit {bit}"
        flip(path, at, bit)
        assert read_or_none(log) in (None, live), place
        wrong += read_or_none(log) is None
        assert read_or_none(log) == live or examine(log.store.url).faults, place
        assert examine(log.store.url, mend=True).is_sound, place
        assert read_or_none(log) == live, place
        restore(log, files)
    assert wrong


def lost_add(log: ArchiveLog) -> None:
    path = Path(log.store.url, commit_path(2))
    flip(path, path.read_bytes().index(b'"add"') + 3, 0)


def lost_remove(log: ArchiveLog) -> None:
    path = Path(log.store.url, commit_path(3))
    data = path.read_bytes()
    flip(path, data.index(b"data/", data.index(b'"remove"')) + 8, 0)


@pytest.mark.parametrize("spoil", [lost_add, lost_remove])
def test_nothing_is_read_written_or_deleted_by_a_log_that_is_not_what_was_written(log: ArchiveLog, spoil: object) -> None:
    history(log, 3)
    files = {info.key for info in log.store.list("data")}
    spoil(log)  # type: ignore[operator]
    with pytest.raises(ArchiveError, match=r"is damaged.*cnnbatch doctor"):
        open_archive(log.store.url)
    with pytest.raises(ArchiveError, match="is damaged"):
        log.commit("other", 0, [shard_of(log, "new")])
    with pytest.raises(ArchiveError, match="is damaged"):
        sweep(log, grace=NOW, forced=True)
    assert files < {info.key for info in log.store.list("data")}
    assert not examine(log.store.url).log_is_sound


def test_a_bit_that_flips_on_the_way_is_read_again(log: ArchiveLog, monkeypatch: pytest.MonkeyPatch) -> None:
    live = history(log, 3)
    read, reads = type(log.store).read, 0

    def flips_once(store: object, key: str, **options: int) -> bytes:
        nonlocal reads
        data: bytes = read(store, key, **options)  # type: ignore[arg-type]
        reads += key.startswith("_delta_log")
        return data.replace(b"numRecords", b"numRecordr") if reads == 1 else data

    monkeypatch.setattr(type(log.store), "read", flips_once)
    assert [row.key for row in open_archive(log.store.url).rows()] == live


def test_what_no_bit_explains_stays_a_fault(log: ArchiveLog) -> None:
    history(log, 3)
    lost_add(log)
    lost_remove(log)
    path = Path(log.store.url, commit_path(2))
    path.write_bytes(path.read_bytes().replace(b"numRecords", b"numRows"))
    diagnosis = examine(log.store.url, mend=True)
    assert {(fault.kind, fault.mended) for fault in diagnosis.faults} >= {("damaged-commit", False), ("flipped-commit", True)}
    assert not diagnosis.is_sound


# Other tools


def compacts(table: DeltaTable) -> None:
    table.optimize.compact()


def deletes(table: DeltaTable) -> None:
    table.delete("key = 'b'")


def appends(table: DeltaTable) -> None:
    write_deltalake(table, rows_to_table([stored("foreign")]), mode="append")


def goes_back(table: DeltaTable) -> None:
    table.restore(1)


def vacuums(table: DeltaTable) -> None:
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True)


def makes_a_checkpoint(table: DeltaTable) -> None:
    table.create_checkpoint()
    table.cleanup_metadata()


@pytest.mark.parametrize("tool", [compacts, deletes, appends, goes_back])
def test_what_another_tool_changes_is_told_and_taken_over(
    log: ArchiveLog, tool: object, caplog: pytest.LogCaptureFixture
) -> None:
    history(log, 3)
    ours = {shard.path for shard in log.snapshot().shards}
    tool(DeltaTable(log.store.url))  # type: ignore[operator]
    changed = sorted(open_archive(log.store.url).keys())
    assert any("another tool changed which files are live" in message for message in caplog.messages)
    diagnosis = examine(log.store.url)
    assert (diagnosis.faults, len(diagnosis.notes)) == ((), 1)
    sweep(log, grace=NOW, forced=True)
    assert ours <= {info.key for info in log.store.list("data")}  # on another's word alone nothing goes
    log.commit("run", 9, [shard_of(log, "new")])
    assert sorted(open_archive(log.store.url).keys()) == sorted([*changed, "new"])
    assert examine(log.store.url).notes == ()


@pytest.mark.parametrize("tool", [vacuums, makes_a_checkpoint])
def test_what_another_tool_does_to_files_alone_leaves_nothing_to_tell(log: ArchiveLog, tool: object) -> None:
    live = history(log, 3)
    tool(DeltaTable(log.store.url))  # type: ignore[operator]
    assert (keys_of(rows_of(log)), examine(log.store.url).notes) == (live, ())
    lost_add(log)
    Path(log.store.url, "_delta_log", "_last_checkpoint").unlink(missing_ok=True)
    for checkpoint in Path(log.store.url, "_delta_log").glob("*.parquet"):
        checkpoint.unlink()
    assert read_or_none(log) is None


def test_a_flipped_bit_below_another_tools_commit_is_noticed(log: ArchiveLog) -> None:
    live = history(log, 3)
    appends(DeltaTable(log.store.url))
    lost_add(log)
    assert read_or_none(log) is None
    assert examine(log.store.url, mend=True).is_sound
    assert sorted(open_archive(log.store.url).keys()) == sorted([*live, "foreign"])


def test_a_log_without_digests_gets_them_with_the_next_commit(log: ArchiveLog) -> None:
    live = history(log, 3)
    for version in range(4):  # as an older version of the package wrote it
        path = Path(log.store.url, commit_path(version))
        first, *rest = path.read_text().split("\n")
        info = json.loads(first)["commitInfo"]
        kept = {name: value for name, value in info.items() if name not in (ACTIONS, LIVE, PREVIOUS)}
        path.write_text("\n".join([json.dumps({"commitInfo": kept}), *rest]))
    diagnosis = examine(log.store.url)
    assert (diagnosis.faults, diagnosis.notes[0][:9]) == ((), "no digest")
    assert keys_of(rows_of(log)) == live
    log.commit("run", 9, [shard_of(log, "new")])
    assert examine(log.store.url).notes == ()
    lost_add(log)
    assert read_or_none(log) is None


def test_every_delta_reader_takes_the_digests_for_comments(log: ArchiveLog) -> None:
    history(log, 3)
    [info] = DeltaTable(log.store.url).history(1)
    assert info[LIVE].startswith("3 ")
    assert DeltaTable(log.store.url).to_pyarrow_table().num_rows == 2
    assert pa.table(DeltaTable(log.store.url).get_add_actions(flatten=True)).num_rows == 2
