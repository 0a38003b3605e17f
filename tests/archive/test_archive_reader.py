"""Reading: by key, by pattern and in order, at the cost of what is asked for."""

from fnmatch import fnmatchcase
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.archive import Archive, ArchiveLog, ArchiveRow, open_archive, write_shard
from cnnbatch.archive.layout import codec_path
from cnnbatch.errors import ArchiveError, CodecFileError, DamagedRow
from tests.archive.counting import CountingRelay
from tests.archive.rows import CODEC_FILE, CODEC_ID, LINEAGE, coded, keys, keys_of, stored

MAX_REQUESTS = 12
MAX_BYTES = 1 << 20


def make_archive(url: str, *shards: list[ArchiveRow]) -> Archive:
    log = ArchiveLog.create_or_open(url, codec_files=[CODEC_FILE])
    for sequence, rows in enumerate(shards):
        log.commit("run", sequence, [write_shard(log.store, rows, footer=LINEAGE)])
    return open_archive(url)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return make_archive(
        str(tmp_path / "archive"),
        [stored("m/2.jpg"), coded("m/1.png"), coded('m/it\'s \\ "quoted" %_.png')],
        [stored("a/deep/down.jpg"), stored("a/x.jpg")],
    )


def test_length_and_keys_come_in_shard_order(archive: Archive) -> None:
    assert len(archive) == 5
    assert list(archive) == ["a/deep/down.jpg", "a/x.jpg", "m/1.png", "m/2.jpg", 'm/it\'s \\ "quoted" %_.png']


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a/*", ["a/deep/down.jpg", "a/x.jpg"]),
        ("*.png", ["m/1.png", 'm/it\'s \\ "quoted" %_.png']),
        ("m/?.*", ["m/1.png", "m/2.jpg"]),
        ("m/[2-9]*", ["m/2.jpg"]),
        ("m/2.jpg", ["m/2.jpg"]),
        ("A/*", []),
        ("zzz*", []),
        ("", []),
    ],
)
def test_a_star_crosses_slashes(archive: Archive, pattern: str, expected: list[str]) -> None:
    assert list(archive.keys(pattern)) == expected
    assert keys_of(archive.rows(pattern)) == expected


def test_one_image_is_read_by_its_key(archive: Archive) -> None:
    assert archive["m/2.jpg"] == stored("m/2.jpg")
    assert archive["m/1.png"] == coded("m/1.png")
    assert "m/2.jpg" in archive
    assert "m/3.jpg" not in archive
    for missing in ("m/3.jpg", "", "zzz", "m/\udcff", "' OR key = 'm/2.jpg"):
        with pytest.raises(KeyError):
            archive[missing]


@settings(max_examples=20, deadline=None)
@given(names=st.lists(keys, min_size=1, max_size=6, unique=True), pattern=st.text("*?ab/", max_size=4))
def test_any_key_is_found_and_any_pattern_matches_as_fnmatch(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], pattern: str
) -> None:
    archive = make_archive(str(tmp_path_factory.mktemp("archive")), [stored(name) for name in names])
    assert [archive[name].key for name in names] == names
    assert list(archive.keys(pattern)) == sorted(name for name in names if fnmatchcase(name, pattern))


def test_an_opened_archive_stays_as_it_was(archive: Archive) -> None:
    log = ArchiveLog.open(archive.store.url)
    log.commit("later", 0, [write_shard(log.store, [stored("new")], footer=LINEAGE)])
    assert len(archive) == 5
    assert "new" not in archive
    assert len(open_archive(archive.store.url)) == 6


def test_a_flipped_payload_byte_is_reported_for_its_key_only(tmp_path: Path) -> None:
    archive = make_archive(str(tmp_path / "archive"), [stored("a.jpg", b"first picture"), stored("b.jpg")])
    (shard,) = archive.shards()
    data = archive.store.read(shard.path)
    archive.store.put(shard.path, data.replace(b"first picture", b"First picture"))
    assert archive["b.jpg"] == stored("b.jpg")
    with pytest.raises(DamagedRow, match=r"'a\.jpg': payload sha256"):
        archive["a.jpg"]


def test_the_codec_file_comes_out_of_the_archive_checked(archive: Archive, tmp_path: Path) -> None:
    assert archive.codec_bytes(CODEC_ID) == CODEC_FILE
    path = archive.codec_path(CODEC_ID, tmp_path / "cache")
    assert path.read_bytes() == CODEC_FILE
    path.write_bytes(b"torn")
    assert archive.codec_path(CODEC_ID, tmp_path / "cache").read_bytes() == CODEC_FILE
    archive.store.put(codec_path(CODEC_ID), b"damaged")
    with pytest.raises(CodecFileError, match="damaged"):
        archive.codec_bytes(CODEC_ID)
    with pytest.raises(CodecFileError, match="missing"):
        archive.codec_bytes("0" * 64)
    with pytest.raises(ArchiveError, match="not a codec id"):
        archive.codec_bytes("../../secret")


def test_info_adds_up_without_reading_rows(archive: Archive) -> None:
    info = archive.info()
    assert (info.num_images, info.num_shards, info.log_version) == (5, 2, 2)
    assert info.outcomes == {"store": 3, "cnn": 2}
    assert info.codecs == {CODEC_ID: 2}
    assert info.source_bytes == sum(row.source_size for row in archive.rows() if isinstance(row, ArchiveRow))
    assert info.archive_bytes == sum(shard.num_bytes for shard in archive.shards())
    assert info.codec_bytes > 0
    assert info.ratio == info.source_bytes / (info.archive_bytes + info.codec_bytes)


def test_an_empty_archive_reads_as_empty(tmp_path: Path) -> None:
    archive = make_archive(str(tmp_path / "archive"))
    assert (len(archive), list(archive), list(archive.rows()), archive.info().ratio) == (0, [], [], 0.0)
    with pytest.raises(KeyError):
        archive["a"]


def test_a_missing_shard_is_named(archive: Archive) -> None:
    archive.store.delete(archive.shards()[0].path)
    with pytest.raises(ArchiveError, match=r"data/.*\.parquet is missing"):
        list(archive.rows())


def test_one_image_of_a_2000_image_shard_costs_few_requests_on_s3(bucket: Any) -> None:
    url = f"{bucket.url}/archive"
    rng = Random(0)
    rows = [coded(f"photos/{number:05}.png", rng.randbytes(30_000)) for number in range(2000)]
    log = ArchiveLog.create_or_open(url, bucket.config, codec_files=[CODEC_FILE])
    log.commit("run", 0, [write_shard(log.store, rows, footer=LINEAGE)])
    with CountingRelay(bucket.server.endpoint) as relay:
        config = bucket.config.model_copy(update={"endpoint": relay.endpoint})
        archive = open_archive(url, config)
        opening = len(relay.requests)
        relay.reset()
        assert archive["photos/01234.png"] == rows[1234]
        print(f"open {opening} requests; one image {len(relay.requests)} requests, {relay.bytes_down} bytes")
        assert len(relay.requests) <= MAX_REQUESTS
        assert relay.bytes_down <= MAX_BYTES
        assert opening + len(relay.requests) <= 2 * MAX_REQUESTS
