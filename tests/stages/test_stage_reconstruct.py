"""One shard given back: stored rows byte for byte, pictures with what belonged to them, nothing outside DESTINATION."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cnnbatch.archive import Archive, ArchiveLog, ArchiveRow, open_archive, read_shard, write_shard
from cnnbatch.codec import Codec
from cnnbatch.stages.codecs import CodecShelf
from cnnbatch.stages.compress import CompressionSettings, ShardCompressor
from cnnbatch.stages.reconstruct import (
    FORMATS,
    MARKS,
    ReconstructionSettings,
    ShardReconstructor,
    clear_marks,
    plan_tasks,
    remaining,
)
from cnnbatch.stages.records import Failure
from cnnbatch.storage import ObjectInfo, open_store
from tests.archive.rows import stored
from tests.stages.pictures import EXIF_ROTATED, as_file, cmyk_jpeg, pixels_of, waves, with_alpha

STORED = {"cmyk.jpg": cmyk_jpeg(), "notes.txt": b"no picture", "empty": b""}
PICTURES = {
    "alpha.png": as_file(with_alpha(waves(48, 64))),
    "gray.png": as_file(waves(64, 64, gray=True)),
    "deep/er/rotated.jpg": as_file(waves(128, 96), "jpeg", quality=95, exif=EXIF_ROTATED, icc_profile=b"a profile"),
    "w.webp": as_file(waves(64, 80), "webp", lossless=True),
}


class Bench:
    """An archive whose shards the tests choose, and a destination."""

    def __init__(self, folder: Path, codec: Codec) -> None:
        self.folder, self.destination_folder = folder, folder / "destination"
        self.log = ArchiveLog.create_or_open(str(folder / "archive"), codec_files=[codec.data])
        self.compressor = ShardCompressor(self.log.store, self.log.store, codec, CompressionSettings(), run_id="r")
        self.destination = open_store(str(self.destination_folder))
        self.commits = 0

    def row(self, key: str, data: bytes) -> ArchiveRow:
        return self.compressor.row(ObjectInfo(key, len(data)), data)

    def add(self, rows: Iterable[ArchiveRow]) -> None:
        self.commits += 1
        self.log.commit("r", self.commits, [write_shard(self.log.store, list(rows), footer={})])

    @property
    def archive(self) -> Archive:
        return open_archive(self.log.store.url)

    def run(self, format: str = "original", keys: str = "*") -> list[Failure]:
        settings = ReconstructionSettings(format=format)
        worker = ShardReconstructor(self.log.store, self.destination, CodecShelf(self.log.store), settings)
        failures: list[Failure] = []
        for task in remaining(plan_tasks(self.archive, keys), self.destination, settings):
            result = worker(task)
            assert result.tally.images.get("failed", 0) == len(result.failures)
            failures += result.failures
        return failures

    def written(self) -> dict[str, bytes]:
        files = [path for path in self.destination_folder.rglob("*") if path.is_file()]
        found = {path.relative_to(self.destination_folder).as_posix(): path.read_bytes() for path in files}
        return {key: data for key, data in found.items() if not key.startswith(MARKS)}


@pytest.fixture
def bench(tmp_path: Path, codec: Codec) -> Bench:
    return Bench(tmp_path, codec)


@pytest.mark.parametrize("format", FORMATS)
def test_stored_rows_come_back_byte_for_byte_whatever_the_format(bench: Bench, format: str) -> None:
    bench.add(bench.row(key, data) for key, data in STORED.items())
    assert bench.run(format) == []
    assert bench.written() == STORED


def test_pictures_come_back_in_their_format_with_what_belonged_to_them(bench: Bench) -> None:
    bench.add(bench.row(key, data) for key, data in PICTURES.items())
    assert bench.run() == []
    back = bench.written()
    assert back.keys() == PICTURES.keys()
    for key, data in back.items():
        original = pixels_of(PICTURES[key]).astype(int)
        assert abs(pixels_of(data).astype(int) - original).mean() < 6
        assert pixels_of(data).shape == original.shape
    assert (pixels_of(back["alpha.png"])[..., 3] == pixels_of(PICTURES["alpha.png"])[..., 3]).all()
    with Image.open(bench.destination_folder / "deep/er/rotated.jpg") as rotated:
        assert (rotated.format, rotated.getexif()[0x0112], rotated.info["icc_profile"]) == ("JPEG", 6, b"a profile")
    with Image.open(bench.destination_folder / "w.webp") as webp:
        assert webp.format == "WEBP"


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_another_format_writes_the_key_with_that_ending(bench: Bench, format: str) -> None:
    bench.add([bench.row("a/b.png", PICTURES["gray.png"])])
    assert bench.run(format) == []
    [(key, data)] = bench.written().items()
    assert key == f"a/b.png.{format}"
    with Image.open(bench.destination_folder / key) as image:
        assert image.format == format.upper()
    assert pixels_of(data).shape[:2] == (64, 64)


def test_a_selection_is_all_that_is_written(bench: Bench) -> None:
    bench.add([stored("a/1"), stored("a/2"), stored("b/1")])
    bench.add([stored("c/1")])
    assert [task.num_images for task in plan_tasks(bench.archive, "*/1")] == [2, 1]
    assert bench.run(keys="*/1") == []
    assert sorted(bench.written()) == ["a/1", "b/1", "c/1"]


def test_a_damaged_payload_is_named_and_the_others_are_written(bench: Bench) -> None:
    bench.add([stored("a", b"first payload" * 9), stored("b", b"second payload" * 9), stored("c", b"third payload" * 9)])
    shard = Path(bench.log.store.url, bench.archive.shards()[0].path)
    data = bytearray(shard.read_bytes())
    data[data.index(b"second payload") + 3] ^= 1
    shard.write_bytes(data)
    [failure] = bench.run()
    assert "'b'" in failure.message
    assert sorted(bench.written()) == ["a", "c"]


def test_rows_that_lie_are_failures_and_the_others_are_written(bench: Bench) -> None:
    good = bench.row("good.png", PICTURES["gray.png"])
    jpeg = bench.compressor.row(ObjectInfo("s.jpg", 1), as_file(waves(64, 64), "jpeg", quality=90))
    assert jpeg.outcome == "cnn"
    noise = b"\xff" * 64
    sha = hashlib.sha256(noise).digest()
    lies = {
        "bits": replace(good, payload=noise, payload_sha256=sha),
        "size": replace(good, width=65),
        "alpha": replace(good, alpha=noise),
        "format": replace(good, source_format="exe"),
        "jxl": replace(stored("x", noise), payload_coding="jpegxl-transcode"),
    }
    bench.add([good, *(replace(row, key=name) for name, row in lies.items())])
    failures = bench.run()
    assert sorted(failure.key for failure in failures) == sorted(lies)
    assert all(failure.message for failure in failures)
    assert list(bench.written()) == ["good.png"]


@pytest.mark.parametrize(
    "key",
    [
        "../x",
        "a/../../x",
        "/absolute",
        "a//b",
        "./a",
        "a\nb",
        "a\x00b",
        "a\x7fb",
        "C:\\x",
        "a\\b",
        ".cnnbatch-tmp-1",
        "n" * 300,
    ],
)
def test_an_unsafe_key_is_a_failure_and_writes_nothing_anywhere(bench: Bench, key: str) -> None:
    bench.add([stored(key, b"evil"), stored("good", b"good")])
    before = {path for path in bench.folder.rglob("*") if not path.is_relative_to(bench.destination_folder)}
    [failure] = bench.run()
    assert (failure.key, failure.stage) == (key, "write")
    assert bench.written() == {"good": b"good"}
    assert {path for path in bench.folder.rglob("*") if not path.is_relative_to(bench.destination_folder)} == before
    assert not Path("/absolute").exists()


def test_a_link_in_the_destination_does_not_lead_a_key_out_of_it(bench: Bench) -> None:
    outside = bench.folder / "outside"
    outside.mkdir()
    bench.destination_folder.mkdir()
    (bench.destination_folder / "a").symlink_to(outside)
    bench.add([stored("a/x"), stored("b")])
    assert [failure.key for failure in bench.run()] == ["a/x"]
    assert list(outside.iterdir()) == []


def tasks_left(bench: Bench, format: str = "original", keys: str = "*") -> int:
    tasks = plan_tasks(bench.archive, keys)
    return len(list(remaining(tasks, bench.destination, ReconstructionSettings(format=format))))


def test_a_rerun_skips_finished_shards_and_redoes_those_whose_files_are_gone(bench: Bench) -> None:
    bench.add([stored("a"), stored("b")])
    bench.add([stored("c"), stored("d")])
    assert tasks_left(bench) == 2
    assert bench.run() == []
    assert tasks_left(bench) == 0
    assert (tasks_left(bench, format="png"), tasks_left(bench, keys="a")) == (2, 1)  # another job
    (bench.destination_folder / "a").unlink()
    assert tasks_left(bench) == 1
    (bench.destination_folder / "d").write_bytes(b"of another size")
    assert tasks_left(bench) == 2
    assert bench.run() == []
    assert bench.written() == {key: key.encode() for key in "abcd"}


def test_a_shard_with_a_failure_is_not_marked_as_done(bench: Bench) -> None:
    bench.add([stored("../a"), stored("b")])
    assert len(bench.run()) == 1
    assert tasks_left(bench) == 1


@pytest.mark.parametrize("mark", [b"", b"[]", b"no json", b"\xff", b'{"a": "long"}'])
def test_a_damaged_mark_means_that_the_shard_is_done_again(bench: Bench, mark: bytes) -> None:
    bench.add([stored("a")])
    bench.run()
    [info] = bench.destination.list(MARKS)
    assert json.loads(bench.destination.read(info.key)) == {"a": 1}
    bench.destination.put(info.key, mark)
    assert tasks_left(bench) == 1


def test_a_finished_job_leaves_nothing_but_images(bench: Bench) -> None:
    bench.add([stored("a")])
    bench.run()
    clear_marks(bench.destination)
    assert [path.name for path in bench.destination_folder.iterdir()] == ["a"]
    clear_marks(bench.destination)  # also where there never were any
    clear_marks(open_store(str(bench.folder / "nowhere")))


def test_rows_of_several_codecs_each_find_theirs(bench: Bench, codec: Codec) -> None:
    from tests.codec.models import tiny_codec

    other = tiny_codec()
    ArchiveLog.create_or_open(bench.log.store.url, codec_files=[other.data])
    theirs = ShardCompressor(bench.log.store, bench.log.store, other, CompressionSettings(quality=40), run_id="r")
    raw = as_file(waves(64, 64), "bmp")
    bench.add([bench.row("ours.bmp", raw), theirs.row(ObjectInfo("theirs.bmp", len(raw)), raw)])
    rows = [row for row in read_shard(bench.log.store, bench.archive.shards()[0].path) if isinstance(row, ArchiveRow)]
    assert [row.codec_id for row in rows] == [codec.id, other.id]
    assert bench.run() == []
    assert len(bench.written()) == 2
