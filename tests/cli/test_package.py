"""``import cnnbatch`` and what it gives."""

import io
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cnnbatch
from cnnbatch import errors, metrics
from cnnbatch.archive import ArchiveRow
from cnnbatch.codec import Codec
from cnnbatch.errors import CodecFileError, DamagedRow, Undecodable
from cnnbatch.picture import CodecFiles, Picture
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
        "create",
    ]
    assert all(hasattr(cnnbatch, name) for name in cnnbatch.__all__)
    assert {*cnnbatch.__all__, "open"} <= set(dir(cnnbatch))
    names: dict[str, object] = {}
    exec("from cnnbatch import *; kept = open is __builtins__['open']", names)
    assert names["kept"]
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
    assert isinstance(opened, Mapping)
    assert opened.keys() & {"a/photo.png", "b"} == {"a/photo.png"}
    assert (len(opened.keys("a/*")), "b" in opened, "notes.txt" in opened.keys("a/*")) == (3, False, False)
    assert [picture.key for picture in opened.values()] == [key for key, _ in opened.items()] == list(opened)
    assert opened.get("b") is None
    assert opened == opened != cnnbatch.open(Path(archive))
    assert len({opened}) == 1


def test_a_picture_is_taken_by_others(archive: str) -> None:
    picture = cnnbatch.open(archive, device="cpu")["a/photo.png"]
    pixels = picture.image()
    assert repr(picture) == "<cnnbatch picture 'a/photo.png': 160 × 120 png, cnn, quality 40>"
    assert np.array_equal(np.asarray(picture), pixels)
    assert np.asarray(picture, dtype=np.float32).dtype == np.float32
    assert np.array_equal(np.asarray(picture.pil()), pixels)
    shown = picture._repr_png_()
    assert shown is not None
    with Image.open(io.BytesIO(shown)) as image:
        assert np.array_equal(np.asarray(image), pixels)
    assert cnnbatch.open(archive)["notes.txt"]._repr_png_() is None
    assert repr(cnnbatch.open(archive)["notes.txt"]) == "<cnnbatch picture 'notes.txt': unknown, store, not an image>"


def test_one_picture_in_place_of_several_is_refused_with_what_to_write() -> None:
    codec = Codec.load(device="cpu")
    assert repr(codec) == f"<cnnbatch codec eye {codec.id[:12]}, hyperprior>"
    sentence = re.escape("write codec.compress([image])[0]")
    for one in (photograph(), photograph()[..., 0], Image.fromarray(photograph())):
        with pytest.raises(ValueError, match=sentence):
            codec.compress(one)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"image 1 .* mode P: write image.convert\('RGB'\)"):
        codec.compress([photograph(), Image.new("P", (9, 9))])  # type: ignore[list-item]
    [a], [b] = codec.compress([photograph()]), codec.compress([Image.fromarray(photograph())])  # type: ignore[list-item]
    assert a == b
    assert len(codec.compress(np.stack([photograph(40, 30)] * 2))) == 2


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
