"""The doctor and the sweep: what is torn is put away, what nothing needs goes, what is live stays."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from cnnbatch.archive import ArchiveLog, open_archive, rewrite_without
from cnnbatch.archive.doctor import examine
from cnnbatch.archive.log_doctor import QUARANTINE, examine_log
from cnnbatch.archive.orphans import find_orphans, sweep
from cnnbatch.errors import ArchiveError, UsageError
from tests.archive.rows import keys_of, rows_of, shard_of

NOW = timedelta(0)


def commits(log: ArchiveLog, count: int) -> None:
    for sequence in range(count):
        log.commit("run", sequence, [shard_of(log, f"{sequence:02}")], base=log.snapshot())


def entry(log: ArchiveLog, version: int) -> Path:
    return Path(log.store.url, "_delta_log", f"{version:020}.json")


def make_older(log: ArchiveLog, path: str, hours: float) -> None:
    past = time.time() - 3600 * hours
    os.utime(Path(log.store.url, path), (past, past))


def kinds(log: ArchiveLog, *, mend: bool = False) -> list[tuple[str, bool]]:
    return [(fault.kind, fault.mended) for fault in examine(log.store.url, mend=mend).faults]


def quarantined(log: ArchiveLog) -> list[str]:
    return sorted(info.key.rpartition("/")[2] for info in log.store.list(QUARANTINE))


def test_a_sound_archive_has_no_faults_and_no_orphans(log: ArchiveLog) -> None:
    commits(log, 12)  # with a checkpoint
    diagnosis = examine(log.store.url, mend=True)
    assert (diagnosis.faults, diagnosis.orphans, diagnosis.num_images) == ((), (), 12)
    assert quarantined(log) == []


def test_a_commit_torn_at_any_byte_is_noticed(log: ArchiveLog) -> None:
    shard = shard_of(log, "a", "b")
    log.commit("run", 0, [shard])
    rest = rewrite_without(log.store, shard.path, {"a"})
    assert rest is not None
    log.commit("run", 1, [rest, shard_of(log, "a", text="new ")])
    torn = entry(log, 2)
    data = torn.read_bytes()
    for left in range(len(data)):
        torn.write_bytes(data[:left])
        assert "torn-commit" in {fault.kind for fault in examine_log(log.store, mend=False)}, left
    torn.write_bytes(data)
    assert kinds(log) == []


@pytest.mark.parametrize("left", [0, 1, 300])
def test_a_torn_last_commit_is_put_away_and_the_rest_is_there(log: ArchiveLog, left: int) -> None:
    commits(log, 3)
    torn = entry(log, 3)
    torn.write_bytes(torn.read_bytes()[:left])
    assert kinds(log)[0] == ("torn-commit", False)
    assert torn.exists()  # looking changes nothing
    assert kinds(log, mend=True) == [("torn-commit", True)]
    assert quarantined(log) == [torn.name]
    assert keys_of(rows_of(log)) == ["00", "01"]
    again = ArchiveLog.open(log.store.url)
    again.commit("rerun", 0, [shard_of(again, "02")], base=again.snapshot())
    assert keys_of(rows_of(log)) == ["00", "01", "02"]
    assert kinds(log) == []


def test_a_commit_with_line_separators_in_its_keys_is_not_torn(log: ArchiveLog) -> None:
    log.commit("run", 0, [shard_of(log, "a\u2028b", "c\x85d\r\n", "\x1c")])
    assert kinds(log, mend=True) == []
    assert len(rows_of(log)) == 3


def test_a_damaged_commit_that_later_ones_build_on_is_never_moved(log: ArchiveLog) -> None:
    commits(log, 3)
    entry(log, 2).write_bytes(b'{"torn')
    found = kinds(log, mend=True)
    assert ("damaged-commit", False) in found
    assert not any(mended for _, mended in found)
    assert quarantined(log) == []


def test_the_commit_that_made_the_table_is_never_moved(log: ArchiveLog) -> None:
    shard_of(log, "a")  # so there were commits, which are gone
    entry(log, 0).write_bytes(b"")
    assert ("damaged-commit", False) in kinds(log, mend=True)
    assert entry(log, 0).exists()


def test_a_table_that_was_never_finished_is_made_by_the_next_run(log: ArchiveLog) -> None:
    entry(log, 0).write_bytes(b"{")
    assert kinds(log, mend=True) == [("torn-commit", True)]
    diagnosis = examine(log.store.url)
    assert (diagnosis.is_sound, diagnosis.log_version) == (True, None)
    again = ArchiveLog.create_or_open(log.store.url)
    again.commit("rerun", 0, [shard_of(again, "a")])
    assert keys_of(rows_of(log)) == ["a"]
    assert kinds(log) == []


def test_a_bad_checkpoint_goes_with_what_points_to_it(log: ArchiveLog) -> None:
    commits(log, 12)
    [checkpoint] = Path(log.store.url, "_delta_log").glob("*.checkpoint.parquet")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ArchiveError):
        open_archive(log.store.url)
    assert kinds(log, mend=True) == [("bad-checkpoint", True)]
    assert quarantined(log) == [checkpoint.name, "_last_checkpoint"]
    assert len(rows_of(log)) == 12


def test_a_torn_pointer_to_the_checkpoint_is_put_away(log: ArchiveLog) -> None:
    commits(log, 12)
    Path(log.store.url, "_delta_log", "_last_checkpoint").write_bytes(b'{"vers')
    assert kinds(log, mend=True) == [("bad-checkpoint", True)]
    assert quarantined(log) == ["_last_checkpoint"]
    assert len(rows_of(log)) == 12


def test_a_bad_checkpoint_that_stands_for_deleted_commits_stays(log: ArchiveLog) -> None:
    commits(log, 12)
    [checkpoint] = Path(log.store.url, "_delta_log").glob("*.checkpoint.parquet")
    checkpoint.write_bytes(b"PAR1")
    entry(log, 4).unlink()
    assert ("bad-checkpoint", False) in kinds(log, mend=True)
    assert checkpoint.exists()


def test_missing_and_shortened_shards_are_listed(log: ArchiveLog) -> None:
    one, two = shard_of(log, "a"), shard_of(log, "b")
    log.commit("run", 0, [one, two])
    log.store.delete(one.path)
    log.store.put(two.path, b"short")
    found = {fault.where: fault.kind for fault in examine(log.store.url, mend=True).faults}
    assert found == {one.path: "missing-shard", two.path: "wrong-size"}


def test_what_is_no_archive_has_no_doctor(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no cnnbatch archive"):
        examine(str(tmp_path))


# Orphans


def test_a_sweep_takes_orphans_past_their_grace_and_nothing_else(log: ArchiveLog) -> None:
    live, old, young = shard_of(log, "live"), shard_of(log, "old"), shard_of(log, "young")
    log.commit("run", 0, [live])
    make_older(log, old.path, 25)
    make_older(log, live.path, 1000)
    assert {orphan.path: orphan.ripe for orphan in find_orphans(log)} == {old.path: True, young.path: False}
    assert sweep(log).files == 1
    assert {info.key for info in log.store.list("data")} == {live.path, young.path}


def test_a_replaced_shard_has_its_grace_from_its_removal(log: ArchiveLog) -> None:
    shard = shard_of(log, "a")
    log.commit("run", 0, [shard])
    make_older(log, shard.path, 1000)
    log.commit("run", 1, [], removes=[shard.path])
    [orphan] = find_orphans(log)
    assert (orphan.path, orphan.replaced, orphan.ripe) == (shard.path, True, False)
    assert sweep(log).files == 0
    assert sweep(log, grace=NOW, forced=True).files == 1


def test_a_short_grace_must_be_forced(log: ArchiveLog) -> None:
    with pytest.raises(UsageError, match="--force"):
        sweep(log, grace=timedelta(minutes=59))


def test_unfinished_local_writes_are_swept(log: ArchiveLog) -> None:
    log.store.put("data/x", b"")
    left, other = (f"data/.cnnbatch-tmp-{name}" for name in ("0123456789abcdef" * 2, "holiday.png"))
    for path in (left, other):
        Path(log.store.url, path).write_bytes(b"half")
        make_older(log, path, 25)
    assert sweep(log).unfinished == 1
    assert not Path(log.store.url, left).exists()
    assert Path(log.store.url, other).exists()
