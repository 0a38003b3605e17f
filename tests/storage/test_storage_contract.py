"""What every store promises: the same tests for a folder, for S3 (SeaweedFS) and for an fsspec file system."""

import pickle
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cnnbatch.errors import StorageError, Unreadable, UsageError
from cnnbatch.storage import ObjectInfo, Store, open_store

KEYS = ["a.jpg", "_hidden/.dot", "sub/deep/é ü.png", "per%20cent", "plus+", "hash#q?=&", "*star", " lead", "x" * 200]


@pytest.fixture(params=["local", "s3", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "local":
        yield open_store(str(tmp_path / "root"))
    elif request.param == "memory":
        yield open_store(f"memory://{uuid.uuid4().hex}")
    else:
        bucket = request.getfixturevalue("bucket")
        yield open_store(f"{bucket.url}/a/prefix", bucket.config)


def one(store: Store, key: str) -> ObjectInfo:
    return next(info for info in store.list() if info.key == key)


def test_what_was_put_is_listed_described_and_read(store: Store) -> None:
    for key in KEYS:
        store.put(key, key.encode())
    infos = {info.key: info for info in store.list()}
    assert sorted(infos) == sorted(KEYS)
    for key, info in infos.items():
        assert (info.size, info.fault) == (len(key.encode()), None)
        assert info.mtime is not None
        assert info.mtime.utcoffset() is not None
        assert store.get(info) == store.read(key) == key.encode()
        assert store.head(key) is not None


def test_head_and_list_agree_about_size_etag_and_time(store: Store) -> None:
    store.put("a", b"abc")
    listed, head = one(store, "a"), store.head("a")
    assert head is not None
    assert (head.key, head.size, head.etag) == (listed.key, listed.size, listed.etag)
    assert head.mtime is not None
    assert listed.mtime is not None
    assert abs((head.mtime - listed.mtime).total_seconds()) < 1  # HEAD has whole seconds, a listing may have more


def test_a_prefix_is_a_folder_not_the_start_of_a_name(store: Store) -> None:
    for key in ("data/1", "data/sub/2", "database/3", "other"):
        store.put(key, b"x")
    assert sorted(info.key for info in store.list("data")) == ["data/1", "data/sub/2"]
    assert sorted(info.key for info in store.list("data/")) == ["data/1", "data/sub/2"]
    assert list(store.list("absent")) == []


def test_what_is_not_there_is_told_apart_from_trouble(store: Store) -> None:
    assert list(store.list()) == []
    assert store.head("absent") is None
    for read in (store.read, store.read_versioned, lambda key: store.read_range(key, 0, 1)):
        with pytest.raises(FileNotFoundError):
            read("absent")
    store.delete("absent")


def test_a_put_replaces_the_whole_object(store: Store) -> None:
    store.put("a", b"long body")
    store.put("a", b"new")
    assert store.read("a") == b"new"
    store.put("empty", b"")
    assert store.get(one(store, "empty")) == b""


def test_many_are_put_and_what_is_refused_keeps_no_other_from_it(store: Store) -> None:
    items = [
        ("a", b"1"),
        ("../outside", b"2"),
        ("deep/er/b", b""),
        ("a", b"3"),
        *((f"many/{n}", bytes([n])) for n in range(150)),
    ]
    outcomes = store.put_many(items)
    assert [type(outcome) for outcome in outcomes[:4]] == [type(None), UsageError, type(None), type(None)]
    assert {store.read(f"many/{n}") for n in range(150)} == {bytes([n]) for n in range(150)}
    assert (store.read("a"), store.read("deep/er/b")) == (b"3", b"")
    assert len(list(store.list())) == 152


def test_many_are_created_and_none_replaces_what_is_there(store: Store) -> None:
    store.put("there", b"old")
    items = [
        ("there", b"new"),
        ("../outside", b"2"),
        ("deep/er/b", b""),
        ("a", b"3"),
        ("a", b"other"),
        *((f"many/{n}", bytes([n])) for n in range(150)),
    ]
    outcomes = store.create_many(items)
    assert isinstance(outcomes[1], UsageError)
    assert [outcomes[0], *outcomes[2:5]] == [False, True, True, False]
    assert list(outcomes[5:]) == [True] * 150
    assert (store.read("there"), store.read("a"), store.read("deep/er/b")) == (b"old", b"3", b"")
    assert len(list(store.list())) == 153


def test_a_file_is_put_as_it_is(store: Store, tmp_path: Path) -> None:
    body = bytes(range(256)) * 40_000  # 10 MB: more than one part of a multipart upload
    (tmp_path / "file").write_bytes(body)
    store.put_file("sub/file", tmp_path / "file")
    info = one(store, "sub/file")
    assert info.size == len(body)
    assert store.get(info) == body


def test_a_range_is_exact_or_an_error(store: Store) -> None:
    store.put("a", b"0123456789")
    assert store.read_range("a", 3, 4) == b"3456"
    assert store.read_range("a", 3, 0) == b""
    for start, length in ((8, 4), (20, 1)):
        with pytest.raises(StorageError):
            store.read_range("a", start, length)


def test_put_if_absent_creates_once(store: Store) -> None:
    assert store.put_if_absent("sub/lock", b"first")
    assert not store.put_if_absent("sub/lock", b"second")
    assert store.read("sub/lock") == b"first"


def test_of_many_writers_one_creates(store: Store) -> None:
    if store.url.startswith("memory"):
        pytest.skip("fsspec file systems promise no atomic create")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: store.put_if_absent("lock", b"%d" % number), range(8)))
    assert won.count(True) == 1
    assert store.read("lock") == b"%d" % won.index(True)


def test_put_if_match_replaces_only_the_version_it_names(store: Store) -> None:
    assert store.put_if_match("lease", b"1", None)
    assert not store.put_if_match("lease", b"other", None)
    data, version = store.read_versioned("lease")
    assert data == b"1"
    assert store.put_if_match("lease", b"2", version)
    assert not store.put_if_match("lease", b"3", version)
    assert store.read("lease") == b"2"
    assert not store.put_if_match("absent", b"3", version)
    assert store.head("absent") is None


def test_of_many_swaps_one_wins(store: Store) -> None:
    if store.url.startswith("memory"):
        pytest.skip("fsspec file systems promise no atomic swap")
    store.put("lease", b"old")
    version = store.read_versioned("lease")[1]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: store.put_if_match("lease", b"%d" % number, version), range(8)))
    assert won.count(True) == 1
    assert store.read("lease") == b"%d" % won.index(True)


def test_a_deleted_object_is_gone_and_unreadable(store: Store) -> None:
    store.put("a", b"x")
    info = one(store, "a")
    store.delete("a")
    assert store.head("a") is None
    with pytest.raises(Unreadable) as caught:
        store.get(info)
    assert caught.value.reason == "vanished"


def test_an_object_that_changed_since_the_listing_is_noticed(store: Store) -> None:
    store.put("a", b"before")
    info = one(store, "a")
    store.put("a", b"afterwards")
    with pytest.raises(Unreadable) as caught:
        store.get(info)
    assert caught.value.reason == "changed"


def test_get_many_returns_every_object_and_every_fault(store: Store) -> None:
    for number in range(20):
        store.put(f"{number:02}", b"x" * (100 + number))
    infos = list(store.list())
    store.delete("07")
    odd = replace(infos[0], key="odd", fault="name")
    outcomes = {info.key: body for info, body in store.get_many([*infos, odd], max_bytes=118, concurrency=4)}
    reasons = {key: body.reason for key, body in outcomes.items() if isinstance(body, Unreadable)}
    assert reasons == {"07": "vanished", "19": "too-large", "odd": "name"}
    assert sorted(outcomes) == sorted([*(f"{number:02}" for number in range(20)), "odd"])
    assert outcomes["03"] == b"x" * 103


def test_an_unsafe_key_is_not_written(store: Store) -> None:
    for key in ["../out", "/etc/passwd", "a//b", "a/./b", "", "a\nb", "a\0b", "C:x", "a\\b", "y" * 300]:
        for write in (store.put, store.put_if_absent, lambda key, data: store.put_if_match(key, data, None)):
            with pytest.raises(UsageError):
                write(key, b"x")
    assert list(store.list()) == []


def test_a_store_travels_to_another_process(store: Store) -> None:
    store.put("a", b"x")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.url == store.url
    assert copy.read("a") == b"x"


def test_a_store_that_is_there_passes_its_check(store: Store) -> None:
    store.check_writable()
    store.put("a", b"x")
    store.check()
