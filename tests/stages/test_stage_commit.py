"""Commits while running: a reader sees the old picture or the new one, never both or none."""

from pathlib import Path

import pyarrow as pa
import pytest

from cnnbatch.archive import ArchiveLog, ShardInfo, Snapshot, open_archive
from cnnbatch.stages.commit import Committer
from cnnbatch.stages.records import CompressResult, Tally
from tests.archive.rows import CODEC_FILE, rows_of, shard_of


@pytest.fixture
def log(tmp_path: Path) -> ArchiveLog:
    return ArchiveLog.create_or_open(str(tmp_path / "archive"), codec_files=[CODEC_FILE])


def with_images(log: ArchiveLog, *shards: str) -> Snapshot:
    """Commit one shard for each string, an image for each of its letters."""
    log.commit("before", 0, [shard_of(log, *letters) for letters in shards])
    return log.snapshot()


def committer(log: ArchiveLog, base: Snapshot, changed: str, *, every: int = 100, run_id: str = "run") -> Committer:
    inventory = log.inventory(base).table.select(["key", "shard"]).to_pylist()
    held = [row for row in inventory if row["key"] in changed]
    table = pa.table({name: pa.array([row[name] for row in held], type=pa.string()) for name in ("key", "shard")})
    return Committer(log, run_id, base, table, every, 1e9)


def result(number: int, shard: ShardInfo | None, taken: str = "") -> CompressResult:
    return CompressResult(number, shard, tuple(taken), Tally(), ())


def pictures(log: ArchiveLog) -> dict[str, str]:
    """key → payload; every key of the archive once."""
    rows = rows_of(log)
    assert len({row.key for row in rows}) == len(rows) == len(open_archive(log.store.url))
    return {row.key: row.payload.decode() for row in rows}


def test_a_changed_image_leaves_its_old_shard_in_the_commit_that_brings_the_new_one(log: ArchiveLog) -> None:
    base = with_images(log, "abc", "de")
    c = committer(log, base, "b")
    c.add(result(0, shard_of(log, "b", "x", text="new "), "b"))
    assert log.snapshot().version == base.version  # nothing yet
    c.flush()
    assert log.snapshot().version == base.version + 1
    assert pictures(log) == {"a": "a", "b": "new b", "c": "c", "d": "d", "e": "e", "x": "new x"}
    assert (c.commits, c.superseded) == (1, [])


def test_a_changed_image_that_could_not_be_read_keeps_its_old_row(log: ArchiveLog) -> None:
    base = with_images(log, "abc")
    c = committer(log, base, "bc")
    c.add(result(0, shard_of(log, "c", text="new "), "c"))  # b failed: not among the rows, so not taken
    c.add(result(1, None))  # nothing of this shard could be read
    c.flush()
    assert pictures(log) == {"a": "a", "b": "b", "c": "new c"}


def test_several_commits_over_one_old_shard_add_up(log: ArchiveLog) -> None:
    base = with_images(log, "abcd")
    c = committer(log, base, "abcd", every=1)
    for number, letter in enumerate("adb"):
        c.add(result(number, shard_of(log, letter, text="new "), letter))
    assert pictures(log) == {"a": "new a", "b": "new b", "c": "c", "d": "new d"}
    assert (c.commits, c.superseded) == (3, [])
    c.add(result(3, shard_of(log, "c", text="new "), "c"))  # the last row: the old shard leaves without a successor
    assert pictures(log) == {letter: f"new {letter}" for letter in "abcd"}


def test_results_are_committed_together_once_enough_have_come(log: ArchiveLog) -> None:
    c = committer(log, with_images(log), "", every=2)
    for number, letter in enumerate("pqrst"):
        c.add(result(number, shard_of(log, letter)))
    assert (c.commits, sorted(pictures(log))) == (2, list("pqrs"))
    c.flush()
    c.flush()  # nothing is waiting: no empty commit
    assert (c.commits, sorted(pictures(log))) == (3, list("pqrst"))


def test_a_result_that_waits_too_long_is_committed_with_the_next(log: ArchiveLog) -> None:
    c = committer(log, with_images(log), "")
    c.every_seconds = -1
    c.add(result(0, shard_of(log, "a")))
    assert sorted(pictures(log)) == ["a"]


def test_another_writer_in_between_is_superseded_by_nobody_and_counted_once(log: ArchiveLog) -> None:
    base = with_images(log, "ab")
    mine, his = committer(log, base, "a"), committer(log, base, "a", run_id="other")
    his.add(result(0, shard_of(log, "a", "n", text="his "), "a"))
    his.flush()
    mine.add(result(0, shard_of(log, "a", "m", "n", text="mine "), "a"))
    mine.flush()
    assert pictures(log) == {"a": "his a", "b": "b", "n": "his n", "m": "mine m"}
    assert sorted(mine.superseded) == ["a", "n"]
    assert his.superseded == []


def test_after_losing_to_another_writer_later_commits_still_keep_every_key_once(log: ArchiveLog) -> None:
    base = with_images(log, "abc")
    mine, his = committer(log, base, "ab", every=1), committer(log, base, "c", run_id="other")
    his.add(result(0, shard_of(log, "c", text="his "), "c"))
    his.flush()
    mine.add(result(0, shard_of(log, "a", text="mine "), "a"))
    mine.add(result(1, shard_of(log, "b", text="mine "), "b"))
    assert pictures(log) == {"a": "a", "b": "b", "c": "his c"}  # his rewrite of the shard was first
    assert mine.superseded == ["a", "b"]


def test_vanished_images_are_removed_also_from_shards_this_run_has_rewritten(log: ArchiveLog) -> None:
    base = with_images(log, "abc", "de")
    shard_of_key = {row["key"]: row["shard"] for row in log.inventory(base).table.to_pylist()}
    c = committer(log, base, "a", every=1)
    c.add(result(0, shard_of(log, "a", text="new "), "a"))
    c.remove("bde", [shard_of_key[key] for key in "bde"])
    assert pictures(log) == {"a": "new a", "c": "c"}
    assert c.superseded == []
    c.remove([], [])
    assert c.commits == 2


def test_an_archive_can_lose_its_last_image(log: ArchiveLog) -> None:
    base = with_images(log, "ab")
    c = committer(log, base, "")
    c.remove("ab", [base.shards[0].path] * 2)
    assert pictures(log) == {}
    assert log.snapshot().shards == ()
