"""Commits while running: a reader sees the old picture or the new one, never both or none."""

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cnnbatch.archive import ArchiveLog, ArchiveRow, ShardInfo, Snapshot, open_archive
from cnnbatch.archive.schema import SMALL_COLUMNS
from cnnbatch.archive.snapshot import read_rows
from cnnbatch.errors import DamagedRow
from cnnbatch.stages import commit
from cnnbatch.stages.commit import Committer
from cnnbatch.stages.records import CompressResult, Failure, Tally
from tests.archive.rows import CODEC_FILE, rows_of, shard_of


@pytest.fixture(autouse=True)
def any_commit_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a commit may take over a second, and the next one would wait for more shards."""
    monkeypatch.setattr(commit, "SLOW_COMMIT", math.inf)


@pytest.fixture
def log(tmp_path: Path) -> ArchiveLog:
    return ArchiveLog.create_or_open(str(tmp_path / "archive"), codec_files=[CODEC_FILE])


def with_images(log: ArchiveLog, *shards: str) -> Snapshot:
    """Commit one shard for each string, an image for each of its letters."""
    log.commit("before", 0, [shard_of(log, *letters) for letters in shards])
    return log.snapshot()


def committer(log: ArchiveLog, base: Snapshot, *, every: int = 100, run_id: str = "run") -> Committer:
    return Committer(log, run_id, base, every, 1e9)


def held(log: ArchiveLog, base: Snapshot, letters: str) -> dict[str, str]:
    """These images, each with its shard in ``base``."""
    keys = {shard.path: read_rows(log.store, shard, ["key"]).column("key").to_pylist() for shard in base.shards}
    return {key: path for path, found in keys.items() for key in found if key in letters}


def result(number: int, shard: ShardInfo | None, failed: str = "") -> CompressResult:
    return CompressResult(number, shard, Tally(), tuple(Failure(key, "read", "gone", "") for key in failed))


def pictures(log: ArchiveLog) -> dict[str, str]:
    """key → payload; every key of the archive once."""
    rows = rows_of(log)
    assert len({row.key for row in rows}) == len(rows) == len(open_archive(log.store.url))
    return {row.key: row.payload.decode() for row in rows}


def test_a_changed_image_leaves_its_old_shard_in_the_commit_that_brings_the_new_one(log: ArchiveLog) -> None:
    base = with_images(log, "abc", "de")
    c = committer(log, base)
    c.add(result(0, shard_of(log, "b", "x", text="new ")), held(log, base, "b"))
    assert log.snapshot().version == base.version  # nothing yet
    c.flush()
    assert log.snapshot().version == base.version + 1
    assert pictures(log) == {"a": "a", "b": "new b", "c": "c", "d": "d", "e": "e", "x": "new x"}
    assert (c.commits, c.superseded) == (1, [])


def test_a_changed_image_that_could_not_be_read_keeps_its_old_row(log: ArchiveLog) -> None:
    base = with_images(log, "abc")
    c = committer(log, base)
    c.add(result(0, shard_of(log, "c", text="new "), failed="b"), held(log, base, "bc"))
    c.add(result(1, None, failed="a"), held(log, base, "a"))  # nothing of this shard could be read
    c.flush()
    assert pictures(log) == {"a": "a", "b": "b", "c": "new c"}


def test_several_commits_over_one_old_shard_add_up(log: ArchiveLog) -> None:
    base = with_images(log, "abcd")
    c = committer(log, base, every=1)
    for number, letter in enumerate("adb"):
        c.add(result(number, shard_of(log, letter, text="new ")), held(log, base, letter))
    assert pictures(log) == {"a": "new a", "b": "new b", "c": "c", "d": "new d"}
    assert (c.commits, c.superseded) == (3, [])
    c.add(
        result(3, shard_of(log, "c", text="new ")), held(log, base, "c")
    )  # the last row: the old shard leaves without a successor
    assert pictures(log) == {letter: f"new {letter}" for letter in "abcd"}


def test_results_are_committed_together_once_enough_have_come(log: ArchiveLog) -> None:
    c = committer(log, with_images(log), every=2)
    for number, letter in enumerate("pqrst"):
        c.add(result(number, shard_of(log, letter)), {})
    assert (c.commits, sorted(pictures(log))) == (2, list("pqrs"))
    c.flush()
    c.flush()  # nothing is waiting: no empty commit
    assert (c.commits, sorted(pictures(log))) == (3, list("pqrst"))


def test_a_result_that_waits_too_long_is_committed_with_the_next(log: ArchiveLog) -> None:
    c = committer(log, with_images(log))
    c.every_seconds = -1
    c.add(result(0, shard_of(log, "a")), {})
    assert sorted(pictures(log)) == ["a"]


def test_another_writer_in_between_is_superseded_by_nobody_and_counted_once(log: ArchiveLog) -> None:
    base = with_images(log, "ab")
    mine, his = committer(log, base), committer(log, base, run_id="other")
    his.add(result(0, shard_of(log, "a", "n", text="his ")), held(log, base, "a"))
    his.flush()
    mine.add(result(0, shard_of(log, "a", "m", "n", text="mine ")), held(log, base, "a"))
    mine.flush()
    assert pictures(log) == {"a": "his a", "b": "b", "n": "his n", "m": "mine m"}
    assert sorted(mine.superseded) == ["a", "n"]
    assert his.superseded == []


def test_after_losing_to_another_writer_later_commits_still_keep_every_key_once(log: ArchiveLog) -> None:
    base = with_images(log, "abc")
    mine, his = committer(log, base, every=1), committer(log, base, run_id="other")
    his.add(result(0, shard_of(log, "c", text="his ")), held(log, base, "c"))
    his.flush()
    mine.add(result(0, shard_of(log, "a", text="mine ")), held(log, base, "a"))
    mine.add(result(1, shard_of(log, "b", text="mine ")), held(log, base, "b"))
    assert pictures(log) == {"a": "a", "b": "b", "c": "his c"}  # his rewrite of the shard was first
    assert mine.superseded == ["a", "b"]


def test_vanished_images_are_removed_also_from_shards_this_run_has_rewritten(log: ArchiveLog) -> None:
    base = with_images(log, "abc", "de")
    c = committer(log, base, every=1)
    c.add(result(0, shard_of(log, "a", text="new ")), held(log, base, "a"))
    c.remove(held(log, base, "bde"))
    assert pictures(log) == {"a": "new a", "c": "c"}
    assert c.superseded == []
    c.remove({})
    assert c.commits == 2


def test_an_archive_can_lose_its_last_image(log: ArchiveLog) -> None:
    base = with_images(log, "ab")
    c = committer(log, base)
    c.remove(held(log, base, "ab"))
    assert pictures(log) == {}
    assert log.snapshot().shards == ()


def test_a_shard_that_leaves_whole_is_not_read_again(log: ArchiveLog, monkeypatch: pytest.MonkeyPatch) -> None:
    base = with_images(log, "ab", "cd")
    rewritten = []
    plain = commit.rewrite_without
    monkeypatch.setattr(commit, "rewrite_without", lambda store, path, keys: rewritten.append(path) or plain(store, path, keys))
    c = committer(log, base)
    c.add(result(0, shard_of(log, "a", "b", "c", text="new ")), held(log, base, "abc"))
    c.flush()
    assert rewritten == [shard.path for shard in base.shards if shard.min_key == "c"]
    assert pictures(log) == {"a": "new a", "b": "new b", "c": "new c", "d": "d"}


def test_while_commits_are_slow_more_shards_share_one(log: ArchiveLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "SLOW_COMMIT", 100.0)
    c = committer(log, with_images(log), every=1)
    c._took = 2 * commit.SLOW_COMMIT
    for number, letter in enumerate("pqr"):
        c.add(result(number, shard_of(log, letter)), {})
    assert c.commits == 0
    c._since -= commit.COMMIT_SHARE * c._took  # they have waited long enough
    c.add(result(3, shard_of(log, "s")), {})
    assert (c.commits, sorted(pictures(log))) == (1, list("pqrs"))


def flip(log: ArchiveLog, path: str, at: int) -> None:
    data = bytearray(log.store.read(path))
    data[at] ^= 1
    log.store.put(path, bytes(data))


def test_a_changed_image_is_committed_although_a_neighbour_in_its_old_shard_is_damaged(log: ArchiveLog) -> None:
    log.commit("before", 0, [shard_of(log, "a", "b", "c", text="payload of ")])
    base = log.snapshot()
    path = base.shards[0].path
    flip(log, path, log.store.read(path).index(b"payload of c"))
    c = committer(log, base)
    c.add(result(0, shard_of(log, "b", text="new ")), held(log, base, "b"))
    c.flush()
    assert pictures_but_damaged(log) == ({"a": "payload of a", "b": "new b"}, ["c"])
    assert (c.superseded, c.blocked) == ([], [])


def test_a_shard_with_rows_that_cannot_be_read_stays_and_only_its_own_images_wait(log: ArchiveLog) -> None:
    base = with_images(log, "abc", "xy")
    path = base.shards[0].path
    file = pq.ParquetFile(Path(log.store.url, path))
    flip(
        log, path, file.metadata.row_group(0).column(len(SMALL_COLUMNS)).data_page_offset + 1
    )  # the header of a page of payloads
    c = committer(log, base)
    c.add(result(0, shard_of(log, "b", "n", "x", text="new ")), held(log, base, "bx"))
    c.flush()
    assert pictures_but_damaged(log) == ({"n": "new n", "x": "new x", "y": "y"}, ["a", "b", "c"])
    assert path in {shard.path for shard in log.snapshot().shards}
    assert (c.superseded, c.blocked) == ([], ["b"])


def pictures_but_damaged(log: ArchiveLog) -> tuple[dict[str, str], list[str | None]]:
    found = sorted(open_archive(log.store.url).rows(), key=lambda row: str(row.key))
    damaged = [row.key for row in found if isinstance(row, DamagedRow)]
    return {row.key: row.payload.decode() for row in found if isinstance(row, ArchiveRow)}, damaged
