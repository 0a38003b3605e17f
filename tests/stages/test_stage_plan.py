"""What a run has to do: the rules of the difference, and the cut into shards."""

import fnmatch
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.archive.snapshot import Inventory
from cnnbatch.stages.plan import (
    Difference,
    Listing,
    ShardLimits,
    coded_otherwise,
    compare,
    list_source,
    plan_shards,
    shard_limits,
)
from cnnbatch.storage import ObjectInfo

T0 = datetime(2026, 1, 1, tzinfo=UTC)
NO_LIMIT = ShardLimits(1 << 60, 1 << 60)


class FakeStore:
    def __init__(self, infos: Iterable[ObjectInfo]) -> None:
        self.infos = list(infos)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return iter(self.infos)


@dataclass(frozen=True)
class Held:
    """A row of the archive, as far as a difference looks at it."""

    key: str
    size: int = 10
    etag: str | None = None
    mtime: datetime | None = T0
    outcome: str = "cnn"
    codec_id: str | None = "a"
    quality: float | None = 32.0
    shard: str = "data/1.parquet"


def listed(*infos: ObjectInfo, exclude: Iterable[str] = ()) -> Listing:
    return list_source(FakeStore(infos), exclude=list(exclude))  # type: ignore[arg-type]


def inventory(*rows: Held) -> Inventory:
    columns = {
        "key": [row.key for row in rows],
        "source_size": [row.size for row in rows],
        "source_etag": [row.etag for row in rows],
        "source_mtime": [row.mtime for row in rows],
        "outcome": [row.outcome for row in rows],
        "codec_id": [row.codec_id for row in rows],
        "quality": [row.quality for row in rows],
        "shard": [row.shard for row in rows],
    }
    schema = Inventory.empty().table.schema
    return Inventory(pa.table({f.name: pa.array(columns[f.name], type=f.type) for f in schema}, schema=schema))


def keys(table: pa.Table) -> list[str]:
    return sorted(table.column("key").to_pylist())


def difference(infos: Iterable[ObjectInfo], rows: Iterable[Held]) -> Difference:
    return compare(listed(*infos).table, inventory(*rows))


@pytest.mark.parametrize(
    ("now", "same"),
    [
        (ObjectInfo("a", 10, None, T0), True),
        (ObjectInfo("a", 11, None, T0), False),
        (ObjectInfo("a", 10, None, T0 + timedelta(microseconds=1)), False),
        (ObjectInfo("a", 10, "e", T0), True),  # the row has no ETag: the time decides
        (ObjectInfo("a", 10, "e", T0 + timedelta(1)), False),
        (ObjectInfo("a", 10, None, None), False),  # nothing to go by
    ],
)
def test_without_an_etag_on_both_sides_size_and_time_decide(now: ObjectInfo, same: bool) -> None:
    found = difference([now], [Held("a")])
    assert (found.unchanged, keys(found.changed)) == ((1, []) if same else (0, ["a"]))


@pytest.mark.parametrize(
    ("now", "same"),
    [
        (ObjectInfo("a", 10, "e", T0 + timedelta(1)), True),  # copied anew, the same content
        (ObjectInfo("a", 10, "f", T0), False),
        (ObjectInfo("a", 9, "e", T0), False),
    ],
)
def test_with_an_etag_on_both_sides_the_time_does_not_count(now: ObjectInfo, same: bool) -> None:
    found = difference([now], [Held("a", etag="e")])
    assert (found.unchanged, keys(found.changed)) == ((1, []) if same else (0, ["a"]))


def test_new_changed_and_vanished_are_told_apart_and_changed_keys_know_their_shard() -> None:
    rows = [Held("gone", shard="1"), Held("kept", shard="1"), Held("moved", shard="2")]
    found = difference([ObjectInfo("kept", 10, None, T0), ObjectInfo("moved", 12, None, T0), ObjectInfo("new", 1)], rows)
    assert (keys(found.new), keys(found.changed), found.unchanged) == (["new"], ["moved"], 1)
    assert found.vanished.to_pylist() == [{"key": "gone", "shard": "1"}]
    assert found.held.to_pylist() == [{"key": "moved", "shard": "2"}]
    assert sorted(keys(found.todo)) == ["moved", "new"]


def test_an_empty_source_and_an_empty_archive_have_no_difference() -> None:
    found = compare(listed().table, Inventory.empty())
    assert (found.todo.num_rows, found.unchanged, found.vanished.num_rows) == (0, 0, 0)
    assert list(plan_shards(found, NO_LIMIT)) == []
    everything = compare(listed(ObjectInfo("a", 1)).table, Inventory.empty())
    assert keys(everything.new) == ["a"]


names = st.text("abc/é*𝄞", min_size=1, max_size=4)
sizes, etags = st.integers(0, 2), st.sampled_from([None, "e", "f"])
times = st.sampled_from([None, T0, T0 + timedelta(seconds=1)])
states = st.dictionaries(names, st.tuples(sizes, etags, times), max_size=12)


@given(now=states, before=states)
def test_the_difference_is_the_one_of_two_dicts(now: dict[str, tuple], before: dict[str, tuple]) -> None:  # type: ignore[type-arg]
    def same(key: str) -> bool:
        (size, etag, mtime), (old_size, old_etag, old_mtime) = now[key], before[key]
        if size != old_size:
            return False
        return etag == old_etag if etag and old_etag else mtime is not None and mtime == old_mtime

    found = difference(
        [ObjectInfo(key, *state) for key, state in now.items()],
        [Held(key, *state, shard=f"data/{len(key)}.parquet") for key, state in before.items()],
    )
    both = now.keys() & before.keys()
    assert set(keys(found.new)) == now.keys() - before.keys()
    assert set(keys(found.changed)) == {key for key in both if not same(key)}
    assert found.unchanged == sum(map(same, both))
    assert set(keys(found.vanished)) == before.keys() - now.keys()
    assert {row["key"]: row["shard"] for row in found.held.to_pylist()} == {
        key: f"data/{len(key)}.parquet" for key in both if not same(key)
    }


@settings(max_examples=60)
@given(
    states=states,
    changed=st.sets(names),
    source_bytes=st.integers(1, 6),
    images=st.integers(1, 4),
)
def test_shards_are_ordered_disjoint_within_limits_and_hold_every_key_once(
    states: dict[str, tuple],
    changed: set[str],
    source_bytes: int,
    images: int,  # type: ignore[type-arg]
) -> None:
    infos = [ObjectInfo(key, *state) for key, state in states.items()]
    rows = [Held(key, size=99) for key in states.keys() & changed]
    tasks = list(plan_shards(difference(infos, rows), ShardLimits(source_bytes, images)))
    planned = list(chain.from_iterable(task.inputs for task in tasks))
    assert [task.number for task in tasks] == list(range(len(tasks)))
    assert planned == sorted(infos, key=lambda info: info.key)  # strictly ordered, so shards are disjoint ranges
    for task in tasks:
        assert len(task.inputs) <= images
        assert len(task.inputs) == 1 or sum(info.size for info in task.inputs) <= source_bytes
        assert task.changed == {info.key for info in task.inputs} & changed
    for one, following in pairwise(tasks):  # no shard is cut short
        size = sum(info.size for info in one.inputs) + following.inputs[0].size
        assert size > source_bytes or len(one.inputs) == images


def test_a_hundred_thousand_keys_are_compared_and_planned_in_seconds() -> None:
    count = 100_000
    infos = [ObjectInfo(f"folder/{i % 100:02}/image-{i:07}.jpg", 1000 + i % 7, None, T0) for i in range(count)]
    rows = [Held(info.key, info.size if i % 2 else 1) for i, info in enumerate(infos) if i % 4]
    held = inventory(*rows)
    started = time.process_time()
    found = compare(listed(*infos).table, held)
    tasks = list(plan_shards(found, ShardLimits(1 << 20, 2000)))
    assert time.process_time() - started < 5
    assert (found.new.num_rows, found.changed.num_rows, found.unchanged) == (count // 4, count // 4, count // 2)
    assert sum(len(task.inputs) for task in tasks) == count // 2


@pytest.mark.parametrize("glob", ["*.txt", "private/*", "a*c.png", "[ab].png", "*"])
def test_excluded_keys_are_no_inputs_and_a_star_crosses_slashes(glob: str) -> None:
    every = ["a.png", "b.png", "notes.txt", "deep/er/notes.txt", "private/x/y.png", "a/b/c.png", "line\nbreak.txt"]
    found = listed(*(ObjectInfo(key, 1) for key in every), exclude=[glob, "never"])
    assert keys(found.table) == sorted(key for key in every if not fnmatch.fnmatchcase(key, glob))


def test_what_was_listed_but_cannot_be_read_is_a_failure_of_the_listing() -> None:
    found = listed(
        ObjectInfo("a", 1), ObjectInfo("b\\xff", 0, fault="name"), ObjectInfo("l", 0, fault="link"), ObjectInfo("", 3)
    )
    assert keys(found.table) == ["a"]
    assert [(f.key, f.stage, f.error) for f in found.unreadable] == [
        ("b\\xff", "list", "name"),
        ("l", "list", "link"),
        ("", "list", "name"),
    ]


def test_images_that_are_excluded_or_hidden_behind_a_fault_have_not_vanished() -> None:
    listing = listed(ObjectInfo("locked", 0, fault="forbidden"), ObjectInfo("link.png", 0, fault="link"), exclude=["*.gif"])
    kept = ["locked/a.png", "locked/deep/b.png", "link.png", "old.gif"]
    found = compare(listing.table, inventory(*map(Held, [*kept, "gone.png", "locked-too/c.png"])), hides=listing.hides)
    assert keys(found.vanished) == ["gone.png", "locked-too/c.png"]


def again(rows: list[Held], **changes: object) -> list[str]:
    wanted = {"codec_id": "a", "quality": 32.0, "lossless": False} | changes
    taken = coded_otherwise(inventory(*rows), **wanted)  # type: ignore[arg-type]
    found = compare(listed(*(ObjectInfo(row.key, 10, None, T0) for row in rows)).table, inventory(*rows), again=taken)
    assert found.unchanged == len(rows) - found.changed.num_rows
    return keys(found.changed)


def test_recompress_takes_what_is_coded_otherwise_and_leaves_the_rest() -> None:
    stored = Held("stored", outcome="store", codec_id=None, quality=None)
    rows = [Held("same"), Held("codec", codec_id="b"), Held("quality", quality=31.75), stored]
    assert again(rows) == ["codec", "quality", "stored"]
    assert again(rows, quality=None) == ["codec", "quality", "same", "stored"]  # searched: nobody knows before
    assert again(rows, lossless=True) == ["codec", "quality", "same"]
    assert again([replace(rows[0], quality=33.25)], quality=33.25) == []


def test_little_work_is_shared_by_all_workers_and_much_work_is_not_cut_finer() -> None:
    few = listed(*(ObjectInfo(f"{i:04}", 2 << 20) for i in range(400))).table
    assert shard_limits(few, workers=2, source_bytes=512 << 20, images=2000) == ShardLimits(100 << 20, 64)
    many = listed(*(ObjectInfo(f"{i:06}", 1 << 20) for i in range(20_000))).table
    assert shard_limits(many, workers=2, source_bytes=512 << 20, images=2000) == ShardLimits(512 << 20, 2000)
    one = listed(ObjectInfo("a", 1)).table
    assert shard_limits(one, workers=8, source_bytes=512 << 20, images=2000) == ShardLimits(1 << 20, 64)
