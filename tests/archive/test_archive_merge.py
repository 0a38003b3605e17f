"""Commits from an old snapshot: no key twice, no row lost, whoever was first."""

import pytest

from cnnbatch.archive import ArchiveLog, rewrite_without, write_shard
from tests.archive.rows import LINEAGE, keys_of, rows_of, shard_of, stored


def test_two_writers_from_stale_snapshots_never_duplicate_a_key(log: ArchiveLog) -> None:
    other = ArchiveLog.open(log.store.url)
    base, others_base = log.snapshot(), other.snapshot()
    log.commit("one", 0, [shard_of(log, "a", "b", "c", text="one ")], base=base)
    result = other.commit("two", 0, [shard_of(other, "b", "c", "d", text="two ")], base=others_base)
    assert result.dropped == ("b", "c")
    assert [(row.key, row.payload) for row in rows_of(log)] == [
        ("a", b"one a"),
        ("b", b"one b"),
        ("c", b"one c"),
        ("d", b"two d"),
    ]


def test_a_shard_that_loses_every_key_commits_nothing(log: ArchiveLog) -> None:
    base = log.snapshot()
    log.commit("one", 0, [shard_of(log, "a")], base=base)
    result = log.commit("two", 0, [shard_of(log, "a")], base=base)
    assert (result.version, result.added, result.dropped) == (1, (), ("a",))


def test_a_key_twice_among_the_added_shards_is_added_once(log: ArchiveLog) -> None:
    result = log.commit("run", 0, [shard_of(log, "a", "b"), shard_of(log, "b", "c")])
    assert result.dropped == ("b",)
    assert keys_of(rows_of(log)) == ["a", "b", "c"]


def test_without_a_base_every_live_shard_is_compared(log: ArchiveLog) -> None:
    log.commit("run", 0, [shard_of(log, "a")])
    assert log.commit("run", 1, [shard_of(log, "a", "b")]).dropped == ("a",)


def test_a_changed_image_replaces_the_old_one(log: ArchiveLog) -> None:
    old = shard_of(log, "a", "b", "c")
    log.commit("night-1", 0, [old])
    base = log.snapshot()
    rest = rewrite_without(log.store, old.path, {"b"})
    assert rest is not None
    result = log.commit("night-2", 0, [rest, shard_of(log, "b", text="new ")], base=base)
    assert result.removed == (old.path,)
    assert [row.payload for row in rows_of(log)] == [b"a", b"new b", b"c"]


def test_a_replacement_of_a_shard_that_is_gone_is_left_out_whole(log: ArchiveLog) -> None:
    old = shard_of(log, "a", "b", "c", "d")
    log.commit("night-1", 0, [old])
    base = log.snapshot()
    mine, theirs = (rewrite_without(log.store, old.path, {key}) for key in ("b", "c"))
    assert mine is not None
    assert theirs is not None
    log.commit("theirs", 0, [theirs, shard_of(log, "c", text="theirs ")], base=base)
    result = log.commit("mine", 0, [mine, shard_of(log, "b", text="mine ")], removes=[old.path], base=base)
    assert (result.stale, result.dropped, result.added) == ((old.path,), ("b",), ())
    assert [row.payload for row in rows_of(log)] == [b"a", b"b", b"theirs c", b"d"]


def test_two_replacements_with_the_same_row_are_refused(log: ArchiveLog) -> None:
    old = shard_of(log, "a", "b", "c")
    log.commit("run", 0, [old])
    twins = [write_shard(log.store, [stored("a"), stored(key)], footer=LINEAGE, replaces=[old.path]) for key in "bc"]
    with pytest.raises(ValueError, match="both carry on 'a'"):
        log.commit("run", 1, twins)


def test_a_merge_is_left_out_with_everything_that_depends_on_it(log: ArchiveLog) -> None:
    one, two, three = (shard_of(log, key) for key in "abc")
    log.commit("run", 0, [one, two, three])
    log.commit("erase", 0, [], removes=[three.path])
    rows = [stored("a"), stored("b")]
    first = write_shard(log.store, rows[:1], footer=LINEAGE, replaces=[one.path, two.path])
    second = write_shard(log.store, rows[1:], footer=LINEAGE, replaces=[two.path, three.path])
    result = log.commit("compact", 0, [first, second])
    assert result.stale == tuple(sorted([one.path, two.path, three.path]))
    assert keys_of(rows_of(log)) == ["a", "b"]


def test_a_new_version_is_left_out_when_the_old_one_stays(log: ArchiveLog) -> None:
    one, two = shard_of(log, "a", "b"), shard_of(log, "c")
    log.commit("run", 0, [one, two])
    base = log.snapshot()
    log.commit("erase", 0, [], removes=[two.path])
    merged = write_shard(log.store, [stored("a"), stored("c")], footer=LINEAGE, replaces=[one.path, two.path])
    result = log.commit("run", 1, [merged, shard_of(log, "b", text="new ")], base=base)
    assert result.dropped == ("b",)
    assert [row.payload for row in rows_of(log)] == [b"a", b"b"]


def test_removing_a_shard_needs_no_replacement(log: ArchiveLog) -> None:
    one, two = shard_of(log, "a"), shard_of(log, "b")
    log.commit("run", 0, [one, two])
    assert log.commit("run", 1, [], removes=[one.path]).removed == (one.path,)
    assert keys_of(rows_of(log)) == ["b"]
