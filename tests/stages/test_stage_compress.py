"""One shard compressed: every input ends as one row or one failure, with the right words."""

import hashlib
import pickle
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from skimage.data import coffee

from cnnbatch.archive import ArchiveRow, read_footer, read_shard
from cnnbatch.codec import DEFAULT_QUALITY, Codec
from cnnbatch.images import DecodedImage, decode, probe, restore_jpeg
from cnnbatch.images.lossless import restore
from cnnbatch.metrics import psnr_db
from cnnbatch.ssimulacra2 import ssimulacra2
from cnnbatch.stages import inputs
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.isolation import Keyed
from cnnbatch.stages.records import CompressResult, CompressTask
from cnnbatch.stages.settings import DEFAULT_FLOOR, CompressionSettings
from cnnbatch.storage import open_store
from tests.stages.pictures import (
    EXIF_ROTATED,
    as_file,
    cmyk_jpeg,
    deep_png,
    pixels_of,
    touch_later,
    waves,
    with_alpha,
    write_files,
)


class Bench:
    """A source folder, an archive folder, and a compressor between them."""

    def __init__(self, folder: Path, codec: Codec, files: Mapping[str, bytes], **settings: object) -> None:
        self.folder = write_files(folder / "source", files)
        self.folder.mkdir(exist_ok=True)
        self.source, self.archive = open_store(str(self.folder)), open_store(str(folder / "archive"))
        self.infos = tuple(sorted(self.source.list(), key=lambda info: info.key))
        wanted = CompressionSettings(**settings)  # type: ignore[arg-type]
        self.compressor = ShardCompressor(self.source, self.archive, codec, wanted, run_id="run-1")

    def run(self) -> CompressResult:
        return self.compressor(CompressTask(3, self.infos))

    def rows(self) -> dict[str, ArchiveRow]:
        result = self.run()
        assert result.shard is not None
        rows = list(read_shard(self.archive, result.shard.path))
        assert all(isinstance(row, ArchiveRow) for row in rows)
        return {row.key: row for row in rows if isinstance(row, ArchiveRow)}


def bomb_png(width: int, height: int) -> bytes:
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(b""), b"IEND": b""}
    packed = [struct.pack(">I", len(b)) + kind + b + struct.pack(">I", zlib.crc32(kind + b)) for kind, b in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_every_input_has_one_outcome_and_stored_ones_a_reason(tmp_path: Path, codec: Codec) -> None:
    picture = as_file(waves(96, 128))
    files = {
        "good.png": picture,
        "noise.png": as_file(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)),
        "one-pixel.png": as_file(waves(1, 1)),
        "empty.jpg": b"",
        "notes.txt": b"no picture at all",
        "cut.png": picture[: len(picture) // 2],
        "cmyk.jpg": cmyk_jpeg(),
        "deep.png": deep_png(),
        "moving.gif": as_file(waves(32, 32), "gif", save_all=True, append_images=[]),
        "narrow.png": as_file(np.zeros((1, (1 << 20) + 1), np.uint8)),
        "bomb.png": bomb_png(1 << 17, 1 << 17),
        "bomb-beyond-int32.png": bomb_png(0xFFFFFFFF, 0xFFFFFFFF),
    }
    bench = Bench(tmp_path, codec, files, quality=40)
    rows = bench.rows()
    assert {key: row.reason for key, row in rows.items()} == {
        "good.png": None,
        "noise.png": None,
        "one-pixel.png": None if rows["one-pixel.png"].outcome == "cnn" else "not-smaller",
        "empty.jpg": "unknown-format",
        "notes.txt": "not an image",
        "cut.png": "truncated",
        "cmyk.jpg": "cmyk",
        "deep.png": "16-bit",
        "moving.gif": None,
        "narrow.png": "too-large",
        "bomb.png": "too-many-pixels",
        "bomb-beyond-int32.png": "too-many-pixels",
    }
    assert (rows["bomb.png"].width, rows["bomb-beyond-int32.png"].width) == (1 << 17, None)
    for key, row in rows.items():
        assert (row.outcome == "cnn") == (row.reason is None)
        if row.outcome == "store":
            back = restore(row.payload, row.payload_coding, num_bytes=row.source_size)
            assert back == files[key]
            assert (row.codec_id, row.quality, row.psnr_db) == (None, None, None)


def test_nothing_is_read_of_a_file_but_under_the_watch(tmp_path: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = threading.local()
    calls: list[str] = []

    @contextmanager
    def watch(one: Keyed) -> Iterator[None]:
        watched.now = True
        yield
        watched.now = False

    def under_the_watch(name: str, real: Any) -> Any:
        def reads(*args: Any, **options: Any) -> Any:
            assert getattr(watched, "now", False), f"{name} outside the watch"
            calls.append(name)
            return real(*args, **options)

        return reads

    for name in ("probe", "decode", "keep"):
        monkeypatch.setattr(inputs, name, under_the_watch(name, getattr(inputs, name)))
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    files = {
        "good.jpg": as_file(waves(96, 128), "jpeg"),
        "cmyk.jpg": cmyk_jpeg(),
        "worse.jpg": as_file(noise, "jpeg", quality=1),
    }
    bench = Bench(tmp_path, codec, files, quality=40)
    bench.compressor.watch = watch
    rows = bench.rows()
    assert [rows[key].reason for key in files] == [None, "cmyk", "not-smaller"]
    assert set(calls) == {"probe", "decode", "keep"}


def test_a_row_says_what_its_source_was_and_how_it_was_coded(tmp_path: Path, codec: Codec) -> None:
    pixels = waves(50, 70)
    bench = Bench(tmp_path, codec, {"a/b.png": as_file(pixels)}, quality=20)
    row = bench.rows()["a/b.png"]
    data = as_file(pixels)
    assert (row.source_size, row.source_sha256) == (len(data), hashlib.sha256(data).digest())
    assert (row.source_etag, row.source_mtime) == (bench.infos[0].etag, bench.infos[0].mtime)
    assert (row.source_format, row.width, row.height, row.run_id) == ("png", 70, 50, "run-1")
    assert (row.payload_coding, row.codec_id, row.quality) == ("cnn", codec.id, 20.0)
    [back] = codec.reconstruct([row.payload])
    assert row.psnr_db == pytest.approx(psnr_db(pixels, back), abs=1 / 200)


def test_alpha_gray_exif_icc_and_the_modes_are_columns(tmp_path: Path, codec: Codec) -> None:
    files = {
        "alpha.png": as_file(with_alpha(waves(64, 64))),
        "gray.png": as_file(waves(64, 64, gray=True)),
        "rotated.jpg": as_file(waves(128, 96), "jpeg", quality=95, exif=EXIF_ROTATED, icc_profile=b"a profile"),
        "plain.bmp": as_file(waves(64, 64), "bmp"),
    }
    rows = Bench(tmp_path, codec, files).rows()
    assert {key: row.outcome for key, row in rows.items()} == dict.fromkeys(files, "cnn")
    assert {key: (row.mode or "").split()[0] for key, row in rows.items()} == {
        "alpha.png": "RGBA",
        "gray.png": "L",
        "rotated.jpg": "RGB",
        "plain.bmp": "RGB",
    }
    assert [key for key, row in rows.items() if row.alpha] == ["alpha.png"]
    assert codec.reconstruct([rows["gray.png"].payload])[0].ndim == 2
    rotated = rows["rotated.jpg"]
    assert (rotated.width, rotated.height) == (96, 128)  # as stored: the orientation travels beside the pixels
    assert rotated.exif == EXIF_ROTATED.removeprefix(b"Exif\0\0")
    assert rotated.icc == b"a profile"


def test_lossless_stores_every_input_and_jpegs_smaller(tmp_path: Path, codec: Codec) -> None:
    files = {"a.jpg": as_file(waves(128, 128), "jpeg", quality=90), "b.png": as_file(waves(128, 128)), "c.txt": b"text"}
    rows = Bench(tmp_path, codec, files, lossless=True).rows()
    assert {row.reason for row in rows.values()} == {"lossless", "not an image"}
    assert {key: row.payload_coding for key, row in rows.items()} == {
        "a.jpg": "jpegxl-transcode",
        "b.png": "parts",
        "c.txt": "verbatim",
    }
    assert len(rows["a.jpg"].payload) < len(files["a.jpg"])
    assert restore_jpeg(rows["a.jpg"].payload) == files["a.jpg"]
    assert {key: row.source_format for key, row in rows.items()} == {"a.jpg": "jpeg", "b.png": "png", "c.txt": "unknown"}


def test_the_score_is_a_column_where_it_was_asked_for(tmp_path: Path, codec: Codec) -> None:
    pixels = coffee()[100:196, 200:296]
    files = {"a.png": as_file(pixels)}
    assert Bench(tmp_path / "1", codec, files, quality=20).rows()["a.png"].ssimulacra2 is None
    row = Bench(tmp_path / "2", codec, files, quality=20, measure="ssimulacra2").rows()["a.png"]
    [back] = codec.reconstruct([row.payload])
    assert row.ssimulacra2 == pytest.approx(ssimulacra2(pixels, back), abs=1 / 64)
    found = Bench(tmp_path / "3", codec, files, target_ssimulacra2=60).rows()["a.png"]
    assert found.ssimulacra2 == pytest.approx(60, abs=0.5 + 1 / 64)
    floor = Bench(tmp_path / "4", codec, files, quality=4, min_ssimulacra2=40).rows()["a.png"]
    assert (floor.ssimulacra2 or 0) >= 40 - 1 / 64


def test_the_default_of_the_codec_for_the_eye_is_a_promise_to_the_eye(tmp_path: Path) -> None:
    """A picture that the default quality does not serve well gets more, or is kept; the others are at the default quality."""
    codec, rng = Codec.load("eye"), np.random.default_rng(0)
    dark = (coffee()[100:228, 200:328] // 12).astype(np.uint8)
    noise = rng.integers(0, 256, (64, 64, 3), np.uint8)
    files = {"usual.png": as_file(coffee()[:192, 100:292]), "dark.png": as_file(dark), "noise.png": as_file(noise)}
    rows = Bench(tmp_path / "default", codec, files).rows()
    asked = Bench(tmp_path / "asked", codec, files, quality=DEFAULT_QUALITY).rows()
    assert rows["usual.png"].quality == DEFAULT_QUALITY
    for row in rows.values():
        if row.outcome == "cnn":
            assert (row.ssimulacra2 or 0) >= DEFAULT_FLOOR - 1 / 64
        else:
            assert row.reason in ("below-min-ssimulacra2", "not-smaller", "lossless-smaller")
    assert {row.quality for row in asked.values() if row.outcome == "cnn"} == {DEFAULT_QUALITY}
    assert any(row.quality != DEFAULT_QUALITY for row in rows.values())


@pytest.mark.parametrize(
    ("wanted", "reason"), [({"target_ssimulacra2": 99}, "below-target"), ({"min_ssimulacra2": 99}, "below-min-ssimulacra2")]
)
def test_an_image_that_no_quality_brings_there_is_stored(
    tmp_path: Path, codec: Codec, wanted: dict[str, float], reason: str
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (48, 48, 3), np.uint8)
    row = Bench(tmp_path, codec, {"noise.png": as_file(noise)}, **wanted).rows()["noise.png"]
    assert (row.outcome, row.reason) == ("store", reason)


def test_a_jpeg_that_is_smaller_without_loss_is_kept_so(tmp_path: Path, codec: Codec) -> None:
    noise = np.random.default_rng(0).normal(0, 10, (160, 160, 3))
    data = as_file(np.clip(waves(160, 160) + noise, 0, 255).astype(np.uint8), "jpeg", quality=70)
    most = 8 * len(data) / 160**2
    coded, stored = (
        Bench(tmp_path / str(share), codec, {"a.jpg": data}, target_bpp=share * most).rows()["a.jpg"] for share in (0.5, 0.95)
    )
    assert coded.outcome == "cnn"
    assert (stored.outcome, stored.reason, stored.payload_coding) == ("store", "lossless-smaller", "jpegxl-transcode")
    assert len(stored.payload) < 0.95 * len(data)


def test_a_drawing_in_a_format_that_packs_nothing_is_kept_without_loss(tmp_path: Path, codec: Codec) -> None:
    drawing = np.zeros((200, 200, 3), np.uint8)
    drawing[40:90, ::3] = 255
    row = Bench(tmp_path, codec, {"a.bmp": as_file(drawing, "bmp")}, quality=50).rows()["a.bmp"]
    assert (row.outcome, row.reason) == ("store", "lossless-smaller")
    assert len(row.payload) < 0.02 * row.source_size


def test_an_image_below_the_floor_at_every_quality_is_stored(tmp_path: Path, codec: Codec) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (48, 48, 3), np.uint8)
    rows = Bench(
        tmp_path, codec, {"noise.png": as_file(noise), "flat.png": as_file(waves(96, 96))}, quality=60, min_psnr=90
    ).rows()
    assert {row.reason for row in rows.values()} == {"below-min-psnr"}
    lifted = Bench(tmp_path / "2", codec, {"a.png": as_file(waves(96, 96))}, quality=4, min_psnr=36).rows()["a.png"]
    assert lifted.outcome == "cnn"
    assert lifted.quality is not None
    assert lifted.quality > 4
    assert (lifted.psnr_db or 0) >= 36


def test_metadata_counts_when_a_bitstream_is_called_smaller(tmp_path: Path, codec: Codec) -> None:
    profile = np.random.default_rng(0).bytes(50_000)
    small = as_file(waves(16, 16), "png", icc_profile=profile)
    row = Bench(tmp_path, codec, {"a.png": small}).rows()["a.png"]
    size = len(row.payload) + sum(len(blob) for blob in (row.exif, row.icc, row.xmp, row.segments, row.alpha) if blob)
    assert size < len(small) if row.outcome == "cnn" else (row.reason, row.payload) == ("not-smaller", small)


def test_too_large_inputs_fail_unread_and_too_many_pixels_are_stored(tmp_path: Path, codec: Codec) -> None:
    files = {"big.png": as_file(waves(64, 64)), "small.png": as_file(waves(8, 8)), "wide.png": as_file(waves(4, 40))}
    limit = len(files["big.png"]) - 1
    bench = Bench(tmp_path, codec, files, max_source_bytes=limit, max_pixels=100, fetch_bytes=1)
    bench.infos = (replace(bench.infos[0], key="not-even-there.png"), *bench.infos[1:])
    result = bench.run()
    assert [(f.key, f.stage, f.error) for f in result.failures] == [("not-even-there.png", "read", "too-large")]
    assert str(limit) in result.failures[0].message
    assert result.tally.images["failed"] == 1
    assert bench.rows()["wide.png"].reason == "too-many-pixels"


def test_a_source_object_that_vanishes_or_changes_fails_alone(tmp_path: Path, codec: Codec) -> None:
    names = ["changed.png", "good.png", "grown.png", "vanished.png", "link.png"]
    bench = Bench(tmp_path, codec, {name: as_file(waves(32, 32)) for name in names})
    touch_later(bench.folder / "changed.png")
    (bench.folder / "grown.png").write_bytes(as_file(waves(32, 32)) + b"x")
    (bench.folder / "vanished.png").unlink()
    (bench.folder / "link.png").unlink()
    (bench.folder / "link.png").symlink_to("/etc/hostname")
    result = bench.run()
    assert {f.key: f.error for f in result.failures} == {
        "changed.png": "changed",
        "grown.png": "changed",
        "vanished.png": "vanished",
        "link.png": "link",
    }
    assert result.tally.images == {"cnn": 1, "failed": 4}
    assert result.tally.reasons == {"changed": 2, "vanished": 1, "link": 1}


def test_a_shard_of_nothing_readable_is_no_shard(tmp_path: Path, codec: Codec) -> None:
    bench = Bench(tmp_path, codec, {"a.png": as_file(waves(8, 8))})
    (bench.folder / "a.png").unlink()
    result = bench.run()
    assert result.shard is None
    assert result.tally.total == 1
    assert list(bench.archive.list()) == []


def test_rows_are_in_key_order_and_batches_do_not_mix_them_up(tmp_path: Path, codec: Codec) -> None:
    files = {f"{i * 7 % 20:02}.png": as_file(waves(8 + i, 40 - i, seed=i)) for i in range(20)}
    files["05.png"] = b"no picture"
    bench = Bench(tmp_path, codec, files, batch_pixels=1500, decode_threads=3)
    rows = bench.rows()
    assert list(rows) == sorted(files)
    for key, row in rows.items():
        if row.outcome == "cnn":
            assert psnr_db(pixels_of(files[key]), codec.reconstruct([row.payload])[0]) == pytest.approx(row.psnr_db, abs=0.02)


@pytest.mark.parametrize("pixels", [0, 2000, 1 << 30])
def test_files_of_few_bytes_are_decoded_together_until_they_have_many_pixels(
    tmp_path: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch, pixels: int
) -> None:
    monkeypatch.setattr(inputs, "TINY_PIXELS", pixels)
    monkeypatch.setattr(inputs, "TINY_TOGETHER", 7)
    files = {f"{i:02}.png": as_file(waves(16, 16 + i, seed=i)) if i % 5 else b"no picture" for i in range(20)}
    files["large.png"] = as_file(waves(200, 200))
    rows = Bench(tmp_path, codec, files, batch_pixels=1500, decode_threads=2).rows()
    assert list(rows) == sorted(files)
    assert [key for key, row in rows.items() if row.outcome == "store"] == ["00.png", "05.png", "10.png", "15.png"]
    assert {row.height for row in rows.values() if row.outcome == "cnn"} == {16, 200}


@pytest.mark.parametrize(("sides", "most"), [([50] * 12, 7_500), ([50, 50, 150, 50, 150, 150, 50], 22_500)])
def test_pictures_decoded_at_once_stay_within_their_pixels_and_a_larger_one_is_alone(
    tmp_path: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch, sides: list[int], most: int
) -> None:
    files = {f"{i}.png": as_file(waves(side, side, seed=i)) for i, side in enumerate(sides)}
    bench = Bench(tmp_path, codec, files, decode_pixels=8_000, decode_threads=4)
    lock, decoding, peak = threading.Lock(), [0], [0]

    def slow_decode(data: bytes, *, max_pixels: int, convert: bool) -> DecodedImage:
        header = probe(data)
        with lock:
            decoding[0] += header.width * header.height
            peak[0] = max(peak[0], decoding[0])
        time.sleep(0.05)
        with lock:
            decoding[0] -= header.width * header.height
        return decode(data, max_pixels=max_pixels, convert=convert)

    monkeypatch.setattr(inputs, "decode", slow_decode)
    monkeypatch.setattr(inputs, "TINY_BYTES", 0)
    assert sorted(bench.rows()) == sorted(files)
    assert peak[0] == most


def test_a_result_is_small_and_the_shard_says_where_it_comes_from(tmp_path: Path, codec: Codec) -> None:
    bench = Bench(tmp_path, codec, {f"{i:03}.txt": b"x" * 1000 for i in range(300)})
    result = bench.run()
    assert len(pickle.dumps(result)) < 50_000
    assert result.shard is not None
    footer = read_footer(bench.archive, result.shard.path)
    assert (footer["cnnbatch.codec_id"], footer["cnnbatch.run_id"]) == (codec.id, "run-1")
    assert CompressionSettings.model_validate_json(footer["cnnbatch.settings"]) == bench.compressor.settings


def test_the_quality_of_a_row_is_the_one_the_bitstream_has(tmp_path: Path, codec: Codec) -> None:
    assert CompressionSettings(quality=32.1).quality == 32.0
    assert CompressionSettings(quality=32.13).quality == 32.25
    assert Bench(tmp_path, codec, {"a.png": as_file(waves(64, 64))}, quality=20.1).rows()["a.png"].quality == 20.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"quality": 64},
        {"quality": -1},
        {"quality": float("nan")},
        {"target_psnr": 30, "target_bpp": 1},
        {"lossless": True, "target_bpp": 1},
        {"target_bpp": 0},
        {"max_source_bytes": 1 << 31},
        {"unknown": 1},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CompressionSettings(**wrong)  # type: ignore[arg-type]
