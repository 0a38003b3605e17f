"""``cnnbatch info``, ``ls`` and ``get`` on an archive."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnbatch import metrics
from cnnbatch.archive import ArchiveRow, open_archive
from cnnbatch.archive.layout import codec_path
from cnnbatch.codec import Codec
from tests.archive.rows import sha256, stored
from tests.cli.conftest import CORRUPT, Run, photograph, pictures, write_archive
from tests.conftest import Bucket

KEYS = sorted(pictures())


def test_info_shows_the_figures(run: Run, archive: str, codec: Codec) -> None:
    result = run("info", archive)
    assert result.code == 0
    figures = (
        "6 (4 cnn, 2 store)",
        "2 shards",
        codec.id,
        "format 1",
        "times smaller",
        "in codec files",
        "store (not an image)",
    )
    for figure in (archive, *figures):
        assert figure in result.out


def test_info_as_json_is_the_same(run: Run, archive: str, codec: Codec) -> None:
    found = json.loads(run("info", archive, "--json").out)
    assert found["num_images"] == 6
    assert found["outcomes"] == {"cnn": 4, "store": 2}
    assert found["codecs"] == {codec.id: 4}
    assert found["source_bytes"] == sum(map(len, pictures().values()))
    assert found["codec_bytes"] > 1_000_000
    assert found["ratio"] == found["source_bytes"] / (found["archive_bytes"] + found["codec_bytes"])
    kinds = {(kind["format"], kind["outcome"], kind["reason"]): kind for kind in found["kinds"]}
    assert kinds["png", "cnn", None]["images"] == 3
    assert kinds["unknown", "store", "not an image"]["source_bytes"] == len(pictures()["notes.txt"])
    assert sum(kind["source_bytes"] for kind in kinds.values()) == found["source_bytes"]
    assert sum(kind["payload_bytes"] for kind in kinds.values()) == found["payload_bytes"]
    assert (found["format_version"], found["num_shards"]) == (1, 2)


def test_info_says_how_other_tools_read_it(run: Run, archive: str) -> None:
    result = run("info", archive, "--sql")
    assert (result.code, f"pl.scan_delta('{archive}')" in result.out, "read_parquet([" in result.out) == (0, True, True)
    assert "CREATE OR REPLACE TEMP VIEW" in json.loads(run("info", archive, "--sql", "--json").out)["sql"][-3]


def test_ls_prints_the_keys(run: Run, archive: str) -> None:
    assert run("ls", archive).out.split() == KEYS
    assert run("ls", archive, "a/*").out.split() == ["a/deep/gray.png", "a/exif.jpg", "a/photo.png"]
    assert run("ls", archive, "nothing*").out == ""


def test_ls_long_tells_what_became_of_each(run: Run, archive: str) -> None:
    lines = {line.split()[-1]: line for line in run("ls", "-l", archive).out.splitlines()}
    assert list(lines) == KEYS
    assert lines["a/exif.jpg"].split()[:3] == ["cnn", "jpeg", "171x133"]
    assert "q40 " in lines["a/photo.png"]
    size = len(open_archive(archive)["a/photo.png"].payload)
    assert lines["a/photo.png"].split()[4:7] == [str(size), f"{8 * size / (160 * 120):.3f}", "bpp"]
    assert lines["corrupt.png"].startswith("store")
    assert "not an image" in lines["notes.txt"]


def test_ls_as_json_is_one_document_a_line(run: Run, archive: str) -> None:
    assert [json.loads(line) for line in run("ls", archive, "--json").out.splitlines()] == [{"key": key} for key in KEYS]
    long = [json.loads(line) for line in run("ls", "-l", archive, "*.jpg", "--json").out.splitlines()]
    assert [(row["key"], row["width"], row["outcome"]) for row in long] == [("a/exif.jpg", 171, "cnn")]


def test_a_key_cannot_steer_the_terminal(run: Run, codec: Codec, tmp_path: Path) -> None:
    url = write_archive(str(tmp_path / "hostile"), [stored("x\x1b[2J\ny\u202e"), *(stored(k) for k in "abc")], codec)
    assert "x\\x1b[2J\\ny\\u202e" in run("ls", url).out.splitlines()
    assert "\x1b" not in run("ls", "-l", url).out + run("get", url, "\x1b[2J").err
    assert json.loads(run("ls", url, "x*", "--json").out)["key"] == "x\x1b[2J\ny\u202e"


def test_ls_into_a_closed_pipe_is_quiet(codec: Codec, tmp_path: Path) -> None:
    url = write_archive(str(tmp_path / "long"), [stored(f"{i:05d}" + 200 * "x") for i in range(2000)], codec)
    command = f"{sys.executable} -m cnnbatch.cli ls {url} | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (result.stdout.count("\n"), result.stderr) == (1, "")


def test_get_writes_the_image_under_its_name(run: Run, archive: str) -> None:
    result = run("get", archive, "a/photo.png")
    assert result.code == 0
    with Image.open("photo.png") as image:
        assert image.format == "PNG"
        assert metrics.psnr_db(np.asarray(image), photograph()) > 25


def test_get_gives_orientation_alpha_and_gray_back(run: Run, archive: str) -> None:
    for key in ("a/exif.jpg", "alpha.png", "a/deep/gray.png"):
        assert run("get", archive, key).code == 0
    with Image.open("exif.jpg") as image:
        assert (image.format, image.size, image.getexif()[0x0112], image.getexif()[0x010F]) == (
            "JPEG",
            (171, 133),
            6,
            "a camera",
        )
    with Image.open("alpha.png") as image, Image.open(io.BytesIO(pictures()["alpha.png"])) as original:
        assert image.mode == "RGBA"
        assert np.array_equal(np.asarray(image)[..., 3], np.asarray(original)[..., 3])
    with Image.open("gray.png") as image:
        assert image.mode == "L"


@pytest.mark.parametrize("key", ["corrupt.png", "notes.txt"])
def test_get_gives_what_was_stored_back_byte_for_byte(run: Run, archive: str, key: str) -> None:
    assert run("get", archive, key).code == 0
    assert Path(key).read_bytes() == pictures()[key]
    result = run("get", archive, key, "--format", "webp", "-o", "other")
    assert "comes back so" in result.err
    assert Path("other").read_bytes() == pictures()[key]


@pytest.mark.parametrize(
    ("options", "name", "format"),
    [
        (["--format", "webp"], "photo.png.webp", "WEBP"),
        (["--format", "jpeg", "-o", "b/c.bin"], "b/c.bin", "JPEG"),
        (["-o", "d.JPG"], "d.JPG", "JPEG"),
        (["-o", "d.JPG", "--format", "original"], "d.JPG", "PNG"),
        (["-o", "noending"], "noending", "PNG"),
    ],
)
def test_the_format_is_the_one_asked_for_or_that_of_the_ending(
    run: Run, archive: str, options: list[str], name: str, format: str
) -> None:
    assert run("get", archive, "a/photo.png", *options).code == 0
    with Image.open(name) as image:
        assert image.format == format


@pytest.mark.parametrize(
    ("name", "format"), [("x.avif", "AVIF"), ("x.tif", "TIFF"), ("x.bmp", "BMP"), ("x.gif", "GIF"), ("x.ppm", "PPM")]
)
def test_an_ending_is_written_right(run: Run, archive: str, name: str, format: str) -> None:
    assert run("get", archive, "a/photo.png", "-o", name).code == 0
    with Image.open(name) as image:
        assert (image.format, image.size) == (format, (160, 120))


def test_an_ending_that_nothing_writes_is_refused(run: Run, archive: str) -> None:
    result = run("get", archive, "a/exif.jpg", "-o", "x.jxl")
    assert (result.code, Path("x.jxl").exists()) == (2, False)
    assert "no file ending in .jxl can be written" in result.err
    assert run("get", archive, "a/exif.jpg", "-o", "x.jxl", "--format", "original").code == 0
    assert run("get", archive, "notes.txt", "-o", "other.txt").code == 0


def test_a_stored_picture_is_written_as_its_name_says_or_not_at_all(run: Run, codec: Codec, tmp_path: Path) -> None:
    rows = [stored("a.png", pictures()["a/photo.png"]), stored("broken.png", CORRUPT), *map(stored, "xy")]
    url = write_archive(str(tmp_path / "stored"), rows, codec)
    assert run("get", url, "a.png", "-o", "a.webp").code == 0
    with Image.open("a.webp") as image:
        assert (image.format, np.array_equal(np.asarray(image), photograph())) == ("WEBP", True)
    result = run("get", url, "broken.png", "-o", "b.avif")
    assert (result.code, Path("b.avif").exists(), "cannot be written as avif" in result.err) == (2, False, True)


def test_get_takes_globs_and_a_folder(run: Run, archive: str) -> None:
    result = run("get", archive, "a/*", "notes.txt", "a/photo.png", "-o", "back/")
    assert (result.code, result.err) == (0, "")
    files = sorted(str(path.relative_to("back")) for path in Path("back").rglob("*") if path.is_file())
    assert files == ["a/deep/gray.png", "a/exif.jpg", "a/photo.png", "notes.txt"]
    assert Path("back/notes.txt").read_bytes() == pictures()["notes.txt"]
    again = run("get", archive, "a/photo.png", "-o", "back")  # a folder that is there needs no /
    assert (again.code, "exists" in again.err) == (2, True)
    assert run("get", archive, "*.png", "--format", "webp", "-o", "webp/").code == 0
    assert Path("webp/a/deep/gray.png.webp").exists()
    into_a_file = run("get", archive, "a/*", "-o", "one.png")
    assert (into_a_file.code, "name a folder" in into_a_file.err) == (2, True)
    nothing = run("get", archive, "a/*", "z*", "-o", "more/")
    assert (nothing.code, "no image 'z*'" in nothing.err, Path("more").exists()) == (2, True, False)


def test_keys_that_lead_out_of_the_folder_are_not_written(run: Run, codec: Codec, tmp_path: Path) -> None:
    url = write_archive(str(tmp_path / "hostile"), [stored("../x"), stored("a/ok"), *map(stored, "uv")], codec)
    Path("back").mkdir()
    result = run("get", url, "*", "-o", "back/")
    assert (result.code, Path("x").exists(), "safe" in result.err) == (2, False, True)


def test_get_as_json_tells_what_was_written(run: Run, archive: str) -> None:
    found = json.loads(run("get", archive, "a/photo.png", "--json").out)
    assert (found["path"], found["key"], found["outcome"]) == ("photo.png", "a/photo.png", "cnn")
    assert found["num_bytes"] == Path("photo.png").stat().st_size


def test_get_to_stdout_is_the_file_and_nothing_else(archive: str) -> None:
    command = [sys.executable, "-m", "cnnbatch.cli", "get", archive, "corrupt.png", "-o", "-"]
    result = subprocess.run(command, capture_output=True, check=True)
    assert (result.stdout, result.stderr) == (CORRUPT, b"")


def test_get_replaces_nothing_unless_forced(run: Run, archive: str, tmp_path: Path) -> None:
    Path("corrupt.png").write_text("mine")
    Path("link").symlink_to(tmp_path / "target")
    for options in ([], ["-o", "corrupt.png"], ["-o", "link"], ["-o", "."], ["-o", "/dev/null", "--force"]):
        result = run("get", archive, "corrupt.png", *options)
        assert (result.code, result.err.count("\n")) == (2, 1), options
    assert Path("corrupt.png").read_text() == "mine"
    assert not (tmp_path / "target").exists()
    within = f"{archive}/_cnnbatch/format.json"
    inside = run("get", archive, "corrupt.png", "-o", within, "--format", "original", "--force")
    assert (inside.code, "is inside the archive" in inside.err) == (2, True)
    assert run("get", archive, "corrupt.png", "--force").code == 0
    assert Path("corrupt.png").read_bytes() == CORRUPT


@pytest.mark.parametrize("key", ["a/..", "..", "a/", "/", "a\\b", "C:x", "x\ny", "a/\x1b"])
def test_a_key_that_ends_in_no_name_is_written_only_where_told(run: Run, codec: Codec, tmp_path: Path, key: str) -> None:
    url = write_archive(str(tmp_path / "hostile"), [stored(key), *(stored(k) for k in "uvw")], codec)
    result = run("get", url, key)
    assert (result.code, list(Path().iterdir())) == (2, [])
    assert "-o" in result.err
    assert run("get", url, key, "-o", "x").code == 0


def test_a_key_with_dots_on_the_way_is_written_here(run: Run, codec: Codec, tmp_path: Path) -> None:
    url = write_archive(str(tmp_path / "hostile"), [stored("../../x"), *(stored(k) for k in "uvw")], codec)
    assert run("get", url, "../../x").code == 0
    assert [path.name for path in Path().iterdir()] == ["x"]


def test_damage_is_one_sentence_that_names_the_key(run: Run, rows: list[ArchiveRow], codec: Codec, tmp_path: Path) -> None:
    flipped = bytearray(rows[0].payload)
    flipped[-1] ^= 1
    hostile = replace(rows[0], payload=bytes(flipped), payload_sha256=sha256(bytes(flipped)))
    url = write_archive(str(tmp_path / "damaged"), [hostile, *rows[1:]], codec)
    result = run("get", url, hostile.key)
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert hostile.key in result.err
    (tmp_path / "damaged" / codec_path(codec.id)).write_bytes(b"another")
    assert "damaged" in run("get", url, rows[1].key).err
    assert run("get", url, "corrupt.png").code == 0


def test_the_same_commands_work_on_s3(
    run: Run, rows: list[ArchiveRow], codec: Codec, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = write_archive(f"{bucket.url}/my/archive", rows, codec, bucket.config)
    for name, value in bucket.server.environment().items():
        monkeypatch.setenv(name, value)
    assert json.loads(run("info", url, "--json").out)["num_images"] == len(open_archive(url)) == 6
    assert run("ls", url).out.split() == KEYS
    assert run("get", url, "a/photo.png").code == 0
    result = run("info", bucket.url)
    assert (result.code, result.err) == (1, f"error: there is no cnnbatch archive at {bucket.url}\n")
    result = run("info", "s3://no-such-bucket/x")
    place = f"s3://no-such-bucket/x/_cnnbatch/format.json at {bucket.config.endpoint}"
    assert (result.code, result.err) == (1, f"error: cannot read {place}: the bucket does not exist\n")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    result = run("ls", url)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "credentials" in result.err
