"""``import cnnbatch`` and what it gives."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cnnbatch
from cnnbatch import errors, metrics
from cnnbatch.archive import ArchiveRow
from cnnbatch.codec import Codec
from cnnbatch.errors import CodecFileError, DamagedRow, Undecodable
from cnnbatch.reading import CodecFiles, Picture
from tests.archive.rows import stored
from tests.cli.conftest import CORRUPT, photograph, pictures, write_archive


def test_the_public_names_are_these() -> None:
    assert cnnbatch.__all__ == [
        "ArchiveError",
        "BitstreamError",
        "CnnbatchError",
        "Codec",
        "CodecFileError",
        "DamagedRow",
        "ImageError",
        "StorageError",
        "UsageError",
        "__version__",
        "open",
    ]
    assert all(hasattr(cnnbatch, name) for name in cnnbatch.__all__)
    assert set(cnnbatch.__all__) <= set(dir(cnnbatch))
    assert cnnbatch.Codec is Codec
    assert cnnbatch.CnnbatchError is errors.CnnbatchError
    with pytest.raises(AttributeError, match="nothing"):
        cnnbatch.nothing  # noqa: B018


def test_importing_it_is_quick_and_imports_no_ray_and_no_torch() -> None:
    code = "import sys, cnnbatch; print({'ray', 'torch', 'numba', 'numpy', 'pyarrow'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert result.stdout == "set()\n"


def test_an_archive_is_a_mapping_from_keys_to_pictures(archive: str) -> None:
    opened = cnnbatch.open(archive)
    assert (len(opened), list(opened), opened.url) == (6, sorted(pictures()), archive)
    assert list(opened.keys("a/*")) == ["a/deep/gray.png", "a/exif.jpg", "a/photo.png"]
    assert "a/photo.png" in opened
    assert "b" not in opened
    with pytest.raises(KeyError, match="b"):
        opened["b"]
    assert "6 images" in repr(opened)
    assert opened.info().num_images == 6


def test_a_picture_is_an_array_and_a_file(archive: str) -> None:
    picture = cnnbatch.open(archive, device="cpu")["a/photo.png"]
    image = picture.image()
    assert (image.dtype, image.shape, picture.key) == (np.uint8, (120, 160, 3), "a/photo.png")
    assert metrics.psnr_db(image, photograph()) > 25
    assert abs(metrics.psnr_db(image, photograph()) - (picture.row.psnr_db or 0)) < 0.01
    assert picture.file().startswith(b"\x89PNG")
    assert picture.file("webp")[8:12] == b"WEBP"


def test_gray_is_two_dimensional_and_orientation_is_not_applied(archive: str) -> None:
    opened = cnnbatch.open(archive)
    assert opened["a/deep/gray.png"].image().shape == (120, 160)
    assert opened["a/exif.jpg"].image().shape == (133, 171, 3)


def test_a_stored_picture_is_decoded_from_its_file(codec: Codec, tmp_path: Path) -> None:
    data = pictures()["a/photo.png"]
    url = write_archive(str(tmp_path / "stored"), [stored(key, data) for key in "abcd"], codec)
    picture = cnnbatch.open(url)["a"]
    assert np.array_equal(picture.image(), photograph())
    assert picture.file() == data
    with pytest.raises(Undecodable, match="limit"):
        picture.image(max_pixels=100)


def test_what_cannot_be_decoded_still_has_its_file(archive: str) -> None:
    picture = cnnbatch.open(archive)["corrupt.png"]
    with pytest.raises(cnnbatch.ImageError):
        picture.image()
    assert picture.file() == CORRUPT


def test_pictures_come_in_order_of_their_keys(archive: str) -> None:
    found = list(cnnbatch.open(archive).pictures("a/*"))
    assert [p.key for p in found if isinstance(p, Picture)] == ["a/deep/gray.png", "a/exif.jpg", "a/photo.png"]


def test_a_damaged_picture_does_not_hide_the_others(rows: list[ArchiveRow], codec: Codec, tmp_path: Path) -> None:
    url = write_archive(str(tmp_path / "damaged"), rows, codec)
    for path in (tmp_path / "damaged" / "data").iterdir():
        path.write_bytes(path.read_bytes().replace(CORRUPT, CORRUPT[::-1]))
    opened = cnnbatch.open(url)
    found = list(opened.pictures())
    assert [isinstance(picture, DamagedRow) for picture in found].count(True) == 1
    assert len(found) == 6
    with pytest.raises(DamagedRow, match=r"corrupt\.png"):
        opened["corrupt.png"]


def test_a_picture_outside_of_an_archive_needs_its_codec_file(rows: list[ArchiveRow], codec: Codec) -> None:
    row = rows[0]
    assert Picture(row, CodecFiles()).image().shape == (120, 160, 3)
    with pytest.raises(CodecFileError, match="name its file"):
        CodecFiles()["0" * 64]
