"""What a run has to do: the rules of the difference, and the cut into shards."""

import fnmatch
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.archive import LiveShard
from cnnbatch.codec.codec import Objective
from cnnbatch.spill import Scratch
from cnnbatch.stages.difference import ROW_SCHEMA, Difference, coded_otherwise, compare, removals
from cnnbatch.stages.listing import Listing, Scan, list_source
from cnnbatch.stages.mirror import why_kept
from cnnbatch.stages.plan import Plan, ShardLimits, plan_shards, shard_limits
from cnnbatch.stages.records import Failure
from cnnbatch.stages.settings import CompressionSettings
from cnnbatch.storage import ObjectInfo

T0 = datetime(2026, 1, 1, tzinfo=UTC)
NO_LIMIT = ShardLimits(1 << 60, 1 << 60)


class FakeStore:
    def __init__(self, infos: Iterable[ObjectInfo]) -> None:
        self.infos = list(infos)

    def list(self, prefix: str = "", *, markers: bool = False) -> Iterator[ObjectInfo]:
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


def archived(rows: Iterable[Held], again: Iterable[bool] = ()) -> tuple[pa.Table, list[LiveShard]]:
    """Rows as a difference reads them, and the snapshot's shards."""
    held = list(rows)
    paths = sorted({row.shard for row in held})
    shards = [LiveShard(path, 0, sum(row.shard == path for row in held), "", "") for path in paths]
    columns = [
        [row.key for row in held],
        [row.size for row in held],
        [row.etag for row in held],
        [row.mtime for row in held],
        [paths.index(row.shard) for row in held],
        list(again) or [False] * len(held),
    ]
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, ROW_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=ROW_SCHEMA), shards


@dataclass(frozen=True)
class Found:
    """A difference, with its rows read."""

    difference: Difference
    scratch: Scratch
    shards: list[LiveShard]

    @property
    def unchanged(self) -> int:
        return self.difference.unchanged

    @property
    def todo(self) -> list[dict[str, Any]]:
        rows = [row for table in self.difference.todo for row in table.to_pylist()]
        assert [row["key"] for row in rows] == sorted(row["key"] for row in rows)
        assert len(rows) == self.difference.images
        assert sum(row["size"] or 0 for row in rows) == self.difference.source_bytes
        return rows

    @property
    def new(self) -> list[str]:
        return [row["key"] for row in self.todo if row["held"] is None]

    @property
    def changed(self) -> list[str]:
        return [row["key"] for row in self.todo if row["held"] is not None]

    @property
    def held(self) -> dict[str, str]:
        return {row["key"]: self.shards[row["held"]].path for row in self.todo if row["held"] is not None}

    @property
    def gone(self) -> dict[str, str]:
        return {key: path for part in removals(self.difference.gone, self.shards) for key, path in part.items()}

    def plan(self, limits: ShardLimits, *, keep_together: bool = False) -> Plan:
        return plan_shards(self.scratch, self.difference, limits, shards=self.shards, keep_together=keep_together)


def difference(
    infos: Iterable[ObjectInfo], rows: Iterable[Held], *, again: Iterable[bool] = (), exclude: Iterable[str] = (),
    memory_bytes: int = 1 << 30,
) -> Found:  # fmt: skip
    scratch = Scratch(None, memory_bytes=memory_bytes)
    table, shards = archived(rows, again)
    scan = Scan(FakeStore(infos), exclude=list(exclude))  # type: ignore[arg-type]
    found = compare(scratch, scan, [table], num_shards=len(shards), hides=scan.hides)
    assert (found.new, found.changed) == (found.images - int(found.held.sum()), int(found.held.sum()))
    return Found(found, scratch, shards)


def keys(table: pa.Table) -> list[str]:
    return sorted(table.column("key").to_pylist())


@pytest.mark.parametrize(
    ("now", "same"),
    [
        (ObjectInfo("a", 10, None, T0), True),
        (ObjectInfo("a", 11, None, T0), False),
        (ObjectInfo("a", 10, None, T0 + timedelta(microseconds=1)), False),
        (ObjectInfo("a", 10, "e", T0), True),  # the row has no ETag: the time decides
        (ObjectInfo("a", 10, "e", T0 + timedelta(1)), False),
        (ObjectInfo("a", 10, None, None), False),  # nothing to go by
        (ObjectInfo("a", None, None, T0), True),  # a size that is unknown is not another one
        (ObjectInfo("a", None, None, T0 + timedelta(1)), False),
        (ObjectInfo("a", None), False),
    ],
)
def test_without_an_etag_on_both_sides_size_and_time_decide(now: ObjectInfo, same: bool) -> None:
    found = difference([now], [Held("a")])
    assert (found.unchanged, found.changed) == ((1, []) if same else (0, ["a"]))


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
    assert (found.unchanged, found.changed) == ((1, []) if same else (0, ["a"]))


def test_new_changed_and_vanished_are_told_apart_and_changed_keys_know_their_shard() -> None:
    rows = [Held("gone", shard="1"), Held("kept", shard="1"), Held("moved", shard="2")]
    found = difference([ObjectInfo("kept", 10, None, T0), ObjectInfo("moved", 12, None, T0), ObjectInfo("new", 1)], rows)
    assert (found.new, found.changed, found.unchanged) == (["new"], ["moved"], 1)
    assert (found.gone, found.held) == ({"gone": "1"}, {"moved": "2"})


def test_a_key_that_is_listed_more_than_once_is_one_input_with_its_latest_time() -> None:
    later, twice = T0 + timedelta(seconds=1), ObjectInfo("same", 10, None, T0)
    of_b = [ObjectInfo("b", 10, None, T0), ObjectInfo("b", 12, None, later), ObjectInfo("b", 11)]
    infos = [*of_b, twice, ObjectInfo("a", 1), twice]
    for memory_bytes in (1 << 30, 1):
        found = difference(infos, [Held("same")], memory_bytes=memory_bytes)
        assert [(row["key"], row["size"]) for row in found.todo] == [("a", 1), ("b", 12)]
        assert (found.unchanged, found.difference.repeated, found.gone) == (1, 3, {})


def test_images_of_unknown_size_are_planned_as_if_they_were_large() -> None:
    found = difference([ObjectInfo(f"{n}", None) for n in range(10)], [])
    tasks = found.plan(ShardLimits(64 << 20, 100)).tasks()
    assert [len(task.inputs) for task in tasks] == [4, 4, 2]
    assert all(info.size is None for task in tasks for info in task.inputs)


def test_an_empty_source_and_an_empty_archive_have_no_difference() -> None:
    found = difference([], [])
    assert (found.todo, found.unchanged, found.gone, found.plan(NO_LIMIT).num_shards) == ([], 0, {}, 0)
    assert difference([ObjectInfo("a", 1)], []).new == ["a"]


names = st.text("abc/é*𝄞", min_size=1, max_size=4).filter(
    lambda name: not name.endswith("/")
)  # an empty object of such a name is a folder
sizes, etags = st.integers(0, 2), st.sampled_from([None, "e", "f"])
times = st.sampled_from([None, T0, T0 + timedelta(seconds=1)])
states = st.dictionaries(names, st.tuples(sizes, etags, times), max_size=12)


@settings(max_examples=60, deadline=None)  # each makes files
@given(now=states, before=states, memory_bytes=st.sampled_from([1, 400, 1 << 30]))
def test_the_difference_is_the_one_of_two_dicts_in_memory_and_on_disk(
    now: dict[str, tuple],  # type: ignore[type-arg]
    before: dict[str, tuple],  # type: ignore[type-arg]
    memory_bytes: int,
) -> None:
    def same(key: str) -> bool:
        (size, etag, mtime), (old_size, old_etag, old_mtime) = now[key], before[key]
        if size != old_size:
            return False
        return etag == old_etag if etag and old_etag else mtime is not None and mtime == old_mtime

    found = difference(
        [ObjectInfo(key, *state) for key, state in now.items()],
        [Held(key, *state, shard=f"data/{len(key)}.parquet") for key, state in before.items()],
        memory_bytes=memory_bytes,
    )
    both = now.keys() & before.keys()
    assert set(found.new) == now.keys() - before.keys()
    assert set(found.changed) == {key for key in both if not same(key)}
    assert found.unchanged == sum(map(same, both))
    assert found.gone == {key: f"data/{len(key)}.parquet" for key in before.keys() - now.keys()}
    assert found.held == {key: f"data/{len(key)}.parquet" for key in both if not same(key)}


@settings(max_examples=60, deadline=None)
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
    found = difference(infos, rows)
    plan = found.plan(ShardLimits(source_bytes, images))
    tasks = plan.tasks()
    planned = list(chain.from_iterable(task.inputs for task in tasks))
    assert [task.number for task in tasks] == list(range(len(tasks)))
    assert planned == sorted(infos, key=lambda info: info.key)  # strictly ordered, so shards are disjoint ranges
    for task in tasks:
        assert len(task.inputs) <= images
        assert len(task.inputs) == 1 or sum(info.size for info in task.inputs) <= source_bytes
        assert plan.held(task.number).keys() == {info.key for info in task.inputs} & changed
    for one, following in pairwise(tasks):  # no shard is cut short
        size = sum(info.size for info in one.inputs) + following.inputs[0].size
        assert size > source_bytes or len(one.inputs) == images


def test_a_hundred_thousand_keys_are_compared_and_planned_in_seconds() -> None:
    count = 100_000
    infos = [ObjectInfo(f"folder/{i % 100:02}/image-{i:07}.jpg", 1000 + i % 7, None, T0) for i in range(count)]
    rows = [Held(info.key, info.size if i % 2 else 1) for i, info in enumerate(infos) if i % 4]
    started = time.process_time()
    found = difference(infos, rows)
    tasks = found.plan(ShardLimits(1 << 20, 2000)).tasks()
    assert time.process_time() - started < 5
    counts = found.difference.new, found.difference.changed, found.unchanged
    assert counts == (count // 4, count // 4, count // 2)
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


@pytest.mark.parametrize("key", ["", "a\ud800.png", "é" * 2049])
def test_a_key_that_no_row_can_have_is_a_failure_of_the_listing(key: str) -> None:
    found = listed(ObjectInfo("a", 1), ObjectInfo(key, 3))
    assert keys(found.table) == ["a"]
    [failure] = found.unreadable
    assert (failure.stage, failure.error, len(failure.key.encode()) <= 4100) == ("list", "name", True)


def test_what_may_be_removed_is_proved_by_a_faultless_listing_and_bounded() -> None:
    def kept(vanished: int, rows: int, *, inputs: int = 5, faults: tuple[Failure, ...] = (), limit: float = 0.1) -> str:
        return why_kept(vanished=vanished, rows=rows, inputs=inputs, faults=faults, limit=limit) or ""

    assert [kept(1, 5), kept(10, 100), kept(99, 100, limit=1)] == [""] * 3
    assert "11.0% of 100 images" in kept(11, 100)
    assert "--delete-limit is 0.1" in kept(2, 19)
    assert "'b': forbidden" in kept(1, 100, faults=(Failure("b", "list", "forbidden", "it may not be read"),), limit=1)
    assert "empty" in kept(1, 100, inputs=0, limit=1)


def test_images_that_are_excluded_or_hidden_behind_a_fault_have_not_vanished() -> None:
    faulty = [ObjectInfo("locked", 0, fault="forbidden"), ObjectInfo("link.png", 0, fault="link")]
    kept = ["locked/a.png", "locked/deep/b.png", "link.png", "old.gif"]
    found = difference(faulty, map(Held, [*kept, "gone.png", "locked-too/c.png"]), exclude=["*.gif"])
    assert found.gone.keys() == {"gone.png", "locked-too/c.png"}


def again(rows: list[Held], objective: Objective = "psnr", **changes: object) -> list[str]:
    columns = {name: [getattr(row, name) for row in rows] for name in ("outcome", "codec_id", "quality")}
    settings = CompressionSettings.model_validate({"quality": 32.0} | changes)
    taken = coded_otherwise(pa.table(columns), "a", settings, objective).to_pylist()
    found = difference([ObjectInfo(row.key, 10, None, T0) for row in rows], rows, again=taken)
    assert found.unchanged == len(rows) - len(found.changed)
    return found.changed


def test_recompress_takes_what_is_coded_otherwise_and_leaves_the_rest() -> None:
    stored = Held("stored", outcome="store", codec_id=None, quality=None)
    rows = [Held("same"), Held("codec", codec_id="b"), Held("quality", quality=31.75), stored]
    assert again(rows) == ["codec", "quality", "stored"]
    assert again(rows, target_psnr=40) == ["codec", "quality", "same", "stored"]  # searched: the row alone does not tell
    assert again(rows, lossless=True) == ["codec", "quality", "same"]
    assert again([replace(rows[0], quality=33.25)], quality=33.25) == []
    usual = replace(rows[0], quality=40.0)
    assert again([usual], quality=None) == []
    assert again([usual], "ssimulacra2", quality=None) == ["same"]  # the default floor may have raised it


def test_images_whose_originals_are_gone_are_counted_where_they_are_coded_otherwise() -> None:
    rows = [Held("old", codec_id="b"), Held("gone-old", codec_id="b"), Held("gone-same")]
    found = difference([ObjectInfo("old", 10, None, T0)], rows, again=[True, True, False])
    assert (found.changed, found.gone.keys(), found.difference.outdated) == (["old"], {"gone-old", "gone-same"}, 1)


def recompressed(shards: dict[str, str], limits: ShardLimits, *, absent: str = "") -> list[tuple[str, set[str]]]:
    """For each planned shard its keys and the shards they leave, when all is coded again but for ``absent`` letters."""
    rows = [Held(letter, shard=path) for path, letters in shards.items() for letter in letters]
    infos = [ObjectInfo(row.key, 10, None, T0) for row in rows if row.key not in absent] + [ObjectInfo("z", 10)]
    found = difference(infos, rows, again=[True] * len(rows))
    plan = found.plan(limits, keep_together=True)
    assert [task.number for task in plan.tasks()] == list(range(plan.num_shards))
    return [("".join(info.key for info in task.inputs), set(plan.held(task.number).values())) for task in plan.tasks()]


def test_a_shard_that_is_coded_again_whole_becomes_one_shard_or_part_of_one() -> None:
    shards = {"1": "adg", "2": "bc", "3": "ef", "4": "hijklmn"}
    assert recompressed(shards, ShardLimits(1 << 60, 4)) == [
        ("z", set()),
        ("adg", {"1"}),
        ("bcef", {"2", "3"}),
        ("hijklmn", {"4"}),  # over the limit, but less than twice
    ]
    assert recompressed(shards, ShardLimits(30, 100), absent="b") == [
        ("cz", {"2"}),  # not whole: goes by its key
        ("adg", {"1"}),
        ("ef", {"3"}),
        ("hij", {"4"}),
        ("klm", {"4"}),
        ("n", {"4"}),
    ]


def test_little_work_is_shared_by_all_workers_and_much_work_is_not_cut_finer() -> None:
    few = difference([ObjectInfo(f"{i:04}", 2 << 20) for i in range(400)], []).difference
    assert shard_limits(few, workers=2, source_bytes=512 << 20, images=2000) == ShardLimits(100 << 20, 64)
    many = difference([ObjectInfo(f"{i:06}", 1 << 20) for i in range(20_000)], []).difference
    assert shard_limits(many, workers=2, source_bytes=512 << 20, images=2000) == ShardLimits(512 << 20, 2000)
    one = difference([ObjectInfo("a", 1)], []).difference
    assert shard_limits(one, workers=8, source_bytes=512 << 20, images=2000) == ShardLimits(1 << 20, 64)


def test_what_file_managers_leave_and_markers_of_folders_are_left_out_and_counted() -> None:
    keys = ["a.jpg", "b/.DS_Store", "Thumbs.db", "b/thumbs.DB", "b/._a.jpg", "empty.jpg", "c_$folder$", "d.DS_Store"]
    infos = [ObjectInfo(key, 0 if key.startswith(("e", "c_")) else 10) for key in keys]
    infos += [ObjectInfo("folder/", 0), ObjectInfo("", 0), ObjectInfo("full_$folder$", 10)]
    scan = Scan(FakeStore(infos))  # type: ignore[arg-type]
    listed = [key for table in scan for key in table.column("key").to_pylist()]
    assert listed == ["a.jpg", "empty.jpg", "d.DS_Store", "full_$folder$"]
    assert scan.left_out == 7
    assert not scan.unreadable
    assert [scan.hides()(key) for key in ("b/.DS_Store", "b/a.jpg")] == [True, False]
