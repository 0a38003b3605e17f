"""One shard given back: stored rows byte for byte, pictures with what belonged to them, nothing outside DESTINATION."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cnnbatch.archive import Archive, ArchiveLog, ArchiveRow, open_archive, read_shard, write_shard
from cnnbatch.choices import FORMATS
from cnnbatch.codec import Codec
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.marks import clear_marks, remaining
from cnnbatch.stages.names import ESCAPE, MARKS
from cnnbatch.stages.reconstruct import ShardReconstructor, plan_tasks
from cnnbatch.stages.records import Failure, ShardTask
from cnnbatch.stages.settings import CompressionSettings, ReconstructionSettings
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

    def tasks(self, format: str = "original", keys: str = "*") -> list[ShardTask]:
        return list(remaining(plan_tasks(self.archive, keys, format=format), self.destination, format))

    def worker(self, format: str = "original", *, force: bool = False) -> ShardReconstructor:
        settings = ReconstructionSettings(format=format, force=force)
        return ShardReconstructor(self.log.store, self.destination, CodecShelf(self.log.store), settings)

    def run(self, format: str = "original", keys: str = "*", *, force: bool = False) -> list[Failure]:
        worker = self.worker(format, force=force)
        failures: list[Failure] = []
        for task in self.tasks(format, keys):
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


def test_drafts_come_back_where_they_are_asked_for(bench: Bench) -> None:
    row = bench.row("gray.png", PICTURES["gray.png"])
    bench.add([row])
    settings = ReconstructionSettings(decoder="draft")
    worker = ShardReconstructor(bench.log.store, bench.destination, CodecShelf(bench.log.store, lazy=True), settings)
    [task] = bench.tasks()
    assert worker(task).failures == ()
    [data] = bench.written().values()
    codec = worker.codecs[row.codec_id or ""]
    draft, full = (codec.reconstruct([row.payload], decoder=decoder)[0] for decoder in ("draft", "full"))
    assert (pixels_of(data) == draft).all()
    assert (draft != full).any()
    assert worker.file_of(row) == data


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
    return len(bench.tasks(format, keys))


def test_a_rerun_skips_finished_shards_and_redoes_those_whose_files_are_gone(bench: Bench) -> None:
    bench.add([stored("a"), stored("b")])
    bench.add([stored("c"), stored("d")])
    assert tasks_left(bench) == 2
    assert bench.run() == []
    assert tasks_left(bench) == 0
    assert (tasks_left(bench, format="png"), tasks_left(bench, keys="a")) == (2, 1)  # another job
    (bench.destination_folder / "a").unlink()
    assert tasks_left(bench) == 1
    assert bench.run() == []
    (bench.destination_folder / "d").write_bytes(b"of another size")
    assert tasks_left(bench) == 1
    assert [(failure.key, failure.error) for failure in bench.run()] == [("d", "exists")]
    assert bench.written() == {key: key.encode() for key in "abc"} | {"d": b"of another size"}
    assert bench.run(force=True) == []
    assert bench.written() == {key: key.encode() for key in "abcd"}


def test_a_shard_with_a_failure_is_not_marked_as_done(bench: Bench) -> None:
    bench.add([stored("../a"), stored("b")])
    assert len(bench.run()) == 1
    assert tasks_left(bench) == 1


@pytest.mark.parametrize("mark", [b"", b"[]", b"no json", b"\xff", b'{"a": "long"}'])
def test_a_damaged_mark_means_that_the_shard_is_done_again(bench: Bench, mark: bytes) -> None:
    bench.add([stored("a")])
    bench.run()
    [info] = (info for info in bench.destination.list(MARKS) if info.key.endswith(".json"))
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


OTHERS = b"somebody else's"


def outcomes(bench: Bench, format: str = "original", *, force: bool = False) -> dict[str, int]:
    """What became of the images of one shard, in one more attempt at it."""
    [task] = plan_tasks(bench.archive, "*", format=format)
    return dict(bench.worker(format, force=force)(task).tally.images)


def test_a_file_of_somebody_else_stays_until_force_replaces_it(bench: Bench) -> None:
    for key in ("gray.png", "notes"):
        bench.destination.put(key, OTHERS)
    bench.add([bench.row("gray.png", PICTURES["gray.png"]), stored("notes"), stored("new")])
    for _ in range(2):  # the second attempt finds the mark of the first, and files that are older than it
        assert {(failure.key, failure.error) for failure in bench.run()} == {("gray.png", "exists"), ("notes", "exists")}
        assert bench.written() == {"gray.png": OTHERS, "notes": OTHERS, "new": b"new"}
    assert bench.run(force=True) == []
    assert bench.written()["notes"] == b"notes"
    assert pixels_of(bench.written()["gray.png"]).shape == (64, 64)


def test_a_folder_or_a_link_where_a_file_should_be_is_a_failure(bench: Bench) -> None:
    (bench.folder / "outside").write_bytes(OTHERS)
    (bench.destination_folder / "folder").mkdir(parents=True)
    (bench.destination_folder / "link").symlink_to(bench.folder / "outside")
    (bench.destination_folder / "broken").symlink_to("nowhere")
    bench.add([stored("folder"), stored("link"), stored("broken"), stored("good")])
    assert sorted((failure.key, failure.stage) for failure in bench.run()) == [
        (key, "write") for key in ("broken", "folder", "link")
    ]
    assert (bench.folder / "outside").read_bytes() == OTHERS
    assert not (bench.destination_folder / "nowhere").exists()


def test_the_same_bytes_count_as_written(bench: Bench) -> None:
    bench.add([bench.row("gray.png", PICTURES["gray.png"]), stored("notes")])
    assert outcomes(bench) == {"written": 2}
    clear_marks(bench.destination)
    assert outcomes(bench) == {"skipped": 2}


def test_what_an_earlier_attempt_at_a_shard_rounded_otherwise_is_there_already(bench: Bench) -> None:
    bench.add([bench.row("gray.png", PICTURES["gray.png"]), stored("notes")])
    assert outcomes(bench) == {"written": 2}
    rounded = as_file(pixels_of(bench.written()["gray.png"]) ^ 1)
    bench.destination.put("gray.png", rounded)
    bench.destination.put("notes", OTHERS)  # stored images have no other bytes
    assert outcomes(bench) == {"skipped": 1, "failed": 1}
    assert bench.written() == {"gray.png": rounded, "notes": OTHERS}
    clear_marks(bench.destination)
    assert outcomes(bench) == {"failed": 2}


def test_each_image_has_a_file_of_its_own_in_every_format(bench: Bench) -> None:
    coded = {key: bench.row(key, PICTURES["gray.png"]) for key in ("a", "b/c", "c.png.png.png")}
    assert {row.outcome for row in coded.values()} == {"cnn"}
    bench.add([*coded.values(), stored("a.png"), stored("z")])
    bench.add([stored("a.png.png"), stored("b/c.png"), stored("a.webp"), stored("x.png")])
    assert bench.run("png") == []
    back = bench.written()
    assert {key for key, data in back.items() if data.startswith(b"\x89PNG")} == {
        "a.png.png.png", "b/c.png.png", "c.png.png.png.png",
    }  # fmt: skip
    for key in ("a.png", "z", "a.png.png", "b/c.png", "a.webp", "x.png"):
        assert back[key] == key.encode()
    assert len(back) == 9
    assert bench.run("webp") == []
    assert len(bench.written()) == 9 + 3
    assert {"a.webp.webp", "b/c.webp", "c.png.png.png.webp"} <= bench.written().keys()


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (MARKS, f"{ESCAPE}{MARKS}"),
        (f"{MARKS}/{'0' * 32}.json", f"{ESCAPE}{MARKS}/{'0' * 32}.json"),
        (f"{MARKS.upper()}/{'a' * 32}.begun", f"{ESCAPE}{MARKS.upper()}/{'a' * 32}.begun"),
        (f"{MARKS}/{'0' * 32}.begun/a", f"{ESCAPE}{MARKS}/{'0' * 32}.begun/a"),
        (f"{MARKS}/attempts", f"{ESCAPE}{MARKS}/attempts"),
        (f"{MARKS}/attempts/run/1/{'0' * 32}", f"{ESCAPE}{MARKS}/attempts/run/1/{'0' * 32}"),
        (f"{MARKS}/000.png", f"{MARKS}/000.png"),
        (f"a/{MARKS}/b", f"a/{MARKS}/b"),
        (f"{ESCAPE}{MARKS}/a", f"{ESCAPE}{ESCAPE}{MARKS}/a"),
        (f"a/.cnnbatch-tmp-{'0' * 32}/b", f"a/{ESCAPE}.cnnbatch-tmp-{'0' * 32}/b"),
        (".cnnbatch-tmp-holiday.png", ".cnnbatch-tmp-holiday.png"),
    ],
)
def test_names_that_are_ours_are_escaped(bench: Bench, key: str, name: str) -> None:
    bench.add([stored(key)])
    assert bench.run() == []
    clear_marks(bench.destination)
    files = [path for path in bench.destination_folder.rglob("*") if path.is_file()]
    assert {path.relative_to(bench.destination_folder).as_posix(): path.read_bytes() for path in files} == {name: key.encode()}


def test_clearing_the_marks_leaves_what_somebody_else_put_beside_them(bench: Bench) -> None:
    bench.add([stored("a")])
    for name in ("holiday.png", "attempts/notes.txt", "x.json"):
        bench.destination.put(f"{MARKS}/{name}", OTHERS)
    assert bench.run() == []
    clear_marks(bench.destination)
    left = sorted(info.key for info in bench.destination.list(MARKS))
    assert left == [f"{MARKS}/attempts/notes.txt", f"{MARKS}/holiday.png", f"{MARKS}/x.json"]
