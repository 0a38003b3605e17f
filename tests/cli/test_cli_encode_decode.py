"""``cnnbatch encode``, ``decode`` and ``info`` on ``.cnb`` files."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from cnnbatch import metrics
from cnnbatch.archive.single import parse_cnb
from cnnbatch.codec import Codec
from cnnbatch.codec.codec import Pixels
from cnnbatch.codec.codec_file import dump_codec
from tests.cli.conftest import CORRUPT, Run, photograph, pictures, to_file


@pytest.fixture
def photo(run: Run) -> bytes:
    """The bytes of ``photo.png``, which is in the current folder."""
    data = to_file(photograph(), "png")
    Path("photo.png").write_bytes(data)
    return data


@pytest.mark.parametrize("name", ["a/photo.png", "a/exif.jpg", "a/deep/gray.png", "alpha.png", "corrupt.png", "notes.txt"])
def test_a_file_goes_to_cnb_and_back(run: Run, name: str) -> None:
    data = pictures()[name]
    source = Path(name).name
    Path(source).write_bytes(data)
    encoded = json.loads(run("encode", source, "x.cnb", "--json").out)
    assert (encoded["key"], encoded["path"], encoded["num_bytes"]) == (source, "x.cnb", Path("x.cnb").stat().st_size)
    assert run("decode", "x.cnb", "back").code == 0
    back = Path("back").read_bytes()
    if encoded["outcome"] == "store":
        assert back == data
        return
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(back)) as after:
        assert (before.format, before.mode, before.size) == (after.format, after.mode, after.size)
        assert dict(before.getexif()) == dict(after.getexif())
        assert metrics.psnr_db(np.asarray(before.convert("RGB")), np.asarray(after.convert("RGB"))) > 25
    assert encoded["num_bytes"] < len(data)


@pytest.mark.parametrize("photograph", [skimage.data.coffee, skimage.data.chelsea])
def test_whole_photographs_become_smaller_and_look_the_same(run: Run, photograph: Callable[[], Pixels]) -> None:
    Path("a.png").write_bytes(to_file(photograph(), "png"))
    row = json.loads(run("encode", "a.png", "a.cnb", "--json").out)
    assert row["outcome"] == "cnn"
    assert row["num_bytes"] < row["source_size"] / 4
    assert run("decode", "a.cnb", "b.png").code == 0
    with Image.open("b.png") as image:
        assert abs(metrics.psnr_db(np.asarray(image), photograph()) - row["psnr_db"]) < 0.01


def test_a_target_is_met(run: Run, photo: bytes) -> None:
    bpp = json.loads(run("encode", "photo.png", "b.cnb", "--target-bpp", 1, "--json").out)
    assert abs(8 * bpp["payload_bytes"] / (160 * 120) - 1) < 0.05
    psnr = json.loads(run("encode", "photo.png", "p.cnb", "--target-psnr", 32, "--json").out)
    assert abs(psnr["psnr_db"] - 32) < 0.3


def test_more_quality_takes_more_bytes_and_the_floor_is_kept(run: Run, photo: bytes) -> None:
    low = json.loads(run("encode", "photo.png", "l.cnb", "--quality", 4, "--json").out)
    high = json.loads(run("encode", "photo.png", "h.cnb", "--quality", 40, "--json").out)
    floor = json.loads(run("encode", "photo.png", "f.cnb", "--quality", 4, "--min-psnr", high["psnr_db"], "--json").out)
    assert low["payload_bytes"] < high["payload_bytes"]
    assert (low["quality"], high["quality"]) == (4, 40)
    assert floor["psnr_db"] >= high["psnr_db"]
    unreachable = json.loads(run("encode", "photo.png", "u.cnb", "--quality", 63, "--min-psnr", 99, "--json").out)
    assert (unreachable["outcome"], unreachable["reason"]) == ("store", "below-min-psnr")


def test_lossless_gives_a_jpeg_back_byte_for_byte_from_fewer_bytes(run: Run) -> None:
    data = to_file(skimage.data.coffee(), "jpeg", quality=90)
    Path("a.jpg").write_bytes(data)
    row = json.loads(run("encode", "a.jpg", "a.cnb", "--lossless", "--json").out)
    assert row["payload_coding"] == "jpegxl-transcode"
    assert row["num_bytes"] < len(data)
    assert run("decode", "a.cnb", "b.jpg").code == 0
    assert Path("b.jpg").read_bytes() == data
    result = run("decode", "a.cnb", "c.jpg", "--format", "png")
    assert "comes back so" in result.err
    assert Path("c.jpg").read_bytes() == data
    assert run("decode", "a.cnb", "d.png").code == 0
    assert Path("d.png").read_bytes().startswith(b"\x89PNG")


def test_info_tells_what_is_in_the_file(run: Run, photo: bytes, codec: Codec) -> None:
    encoded = run("encode", "photo.png", "a.cnb").out
    assert run("info", "a.cnb").out == encoded
    for part in ("photo.png: png, 160 × 120", "cnn, quality 40", codec.id[:12]):
        assert part in encoded
    found = json.loads(run("info", "a.cnb", "--json").out)
    assert (found["codec_id"], found["mode"], found["source_size"]) == (codec.id, "RGB", len(photo))


def test_the_file_has_the_name_and_time_of_the_image(run: Run, photo: bytes) -> None:
    run("encode", "photo.png", "a.cnb")
    row = parse_cnb(Path("a.cnb").read_bytes())
    assert row.key == "photo.png"
    assert row.source_mtime is not None
    assert abs(row.source_mtime.timestamp() - Path("photo.png").stat().st_mtime) < 1e-5


def test_another_codec_file_is_found_by_its_id(run: Run, photo: bytes, codec: Codec) -> None:
    other = Codec(dump_codec(codec.file.model(), training={"note": "another"}), device="cpu")
    Path("other.safetensors").write_bytes(other.data)
    assert json.loads(run("encode", "photo.png", "a.cnb", "--codec", "other.safetensors", "--json").out)["codec_id"] == other.id
    result = run("decode", "a.cnb", "a.png")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert other.id in result.err
    assert "--codec" in result.err
    Path("wrong.safetensors").write_bytes(b"no codec")
    assert run("decode", "a.cnb", "a.png", "--codec", "wrong.safetensors").code == 1
    assert not Path("a.png").exists()
    assert run("decode", "a.cnb", "a.png", "--codec", "other.safetensors").code == 0


def test_a_shipped_codec_file_goes_by_its_name(run: Run, photo: bytes) -> None:
    """Nothing has to be named to decode."""
    encoded = json.loads(run("encode", "photo.png", "a.cnb", "--codec", "psnr", "--json").out)
    assert encoded["codec_id"] == Codec.load("psnr", device="cpu").id
    assert run("decode", "a.cnb", "a.png").code == 0
    with Image.open("a.png") as image:
        assert image.size == (160, 120)


def test_both_work_in_a_pipe(run: Run) -> None:
    Path("x.png").write_bytes(CORRUPT)
    command = "{0} encode x.png - | {0} decode /dev/stdin -".format(f"{sys.executable} -m cnnbatch.cli")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(command, shell=True, capture_output=True, env=environment, check=True)
    assert (result.stdout, result.stderr) == (CORRUPT, b"")


def test_a_damaged_file_is_refused_in_one_sentence(run: Run, photo: bytes) -> None:
    run("encode", "photo.png", "a.cnb")
    data = bytearray(Path("a.cnb").read_bytes())
    data[200] ^= 1
    Path("a.cnb").write_bytes(data)
    for command in (["info", "a.cnb"], ["decode", "a.cnb", "b.png"]):
        result = run(*command)
        assert (result.code, result.out) == (1, "")
        assert result.err == "error: 'a.cnb': a damaged or incomplete .cnb file: its checksum is wrong\n"
    assert not Path("b.png").exists()


def test_nothing_is_replaced_unless_forced(run: Run, photo: bytes) -> None:
    Path("a.cnb").write_text("mine")
    assert run("encode", "photo.png", "a.cnb").code == 2
    assert Path("a.cnb").read_text() == "mine"
    assert run("encode", "photo.png", "a.cnb", "--force").code == 0
    assert run("decode", "a.cnb", "photo.png").code == 2
    assert Path("photo.png").read_bytes() == photo
    Path("link").symlink_to("photo.png")
    cnb = Path("a.cnb").read_bytes()
    for words in (("encode", "photo.png", "photo.png"), ("encode", "link", "./photo.png"), ("decode", "a.cnb", "a.cnb")):
        refused = run(*words, "--force")
        assert (refused.code, "is also the input" in refused.err) == (2, True)
    assert (Path("photo.png").read_bytes(), Path("a.cnb").read_bytes()) == (photo, cnb)
    assert run("decode", "a.cnb", "photo.png", "--force").code == 0
