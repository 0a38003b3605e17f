"""A lossy picture is given back coded as its original was, and in no more bytes."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cnnbatch.images import decode, encode
from cnnbatch.images.jpeg_coding import JpegCoding, of_quality, parse_word, tables_of
from cnnbatch.metrics import psnr_db
from tests.stages.pictures import waves

LIMIT = 1 << 24
ODD = [[min(255, 3 + row + 2 * column) for row in range(8) for column in range(8)], [17] * 64]
"""Tables that are no quality's, not symmetric."""


def photo(**options: object) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 6, (144, 208, 3))
    pixels = (waves(144, 208) + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels[..., 0] if options.pop("gray", False) else pixels).save(buffer, **options)
    return buffer.getvalue()


JPEGS = {
    "usual": {"quality": 75},
    "fine": {"quality": 95, "subsampling": "4:4:4"},
    "halved": {"quality": 88, "subsampling": "4:2:2", "optimize": True},
    "progressive": {"quality": 60, "progressive": True},
    "own tables": {"qtables": ODD, "subsampling": "4:4:4"},
    "gray": {"quality": 80, "gray": True},
    "gray, own table": {"qtables": ODD[:1], "gray": True},
}


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_comes_back_with_its_tables_subsampling_and_scans(name: str) -> None:
    data = photo(format="JPEG", **JPEGS[name])
    image = decode(data, max_pixels=LIMIT)
    assert len(encode(image, format="original", max_bytes=len(data))) <= len(data)
    back = encode(image, format="original")
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(back)) as after:
        assert after.quantization == before.quantization  # type: ignore[attr-defined]
        assert after.info.get("progressive") == before.info.get("progressive")
        assert [layer[1:3] for layer in after.layer] == [layer[1:3] for layer in before.layer]  # type: ignore[attr-defined]
    again = decode(back, max_pixels=LIMIT)
    assert again.mode == image.mode
    assert psnr_db(again.pixels, image.pixels) > 40


def test_a_format_that_is_asked_for_is_as_fine_as_ever() -> None:
    image = decode(photo(format="JPEG", quality=30), max_pixels=LIMIT)
    data = encode(image, format="jpeg", max_bytes=10)
    assert parse_word(decode(data, max_pixels=LIMIT).mode.split("jpeg=")[1]) == of_quality(95)


@pytest.mark.parametrize("options", [{"format": "WEBP", "quality": 70}, {"format": "AVIF", "quality": 50, "speed": 9}])
def test_a_lossy_file_is_not_given_back_larger(options: dict[str, object]) -> None:
    data = photo(**options)
    image = decode(data, max_pixels=LIMIT)
    back = encode(image, format="original", max_bytes=len(data))
    assert len(back) <= len(data) < len(encode(image, format=image.format))
    assert psnr_db(decode(back, max_pixels=LIMIT).pixels, image.pixels) > 33


def test_a_lossless_webp_stays_one() -> None:
    data = photo(format="WEBP", lossless=True)
    image = decode(data, max_pixels=LIMIT)
    assert "lossy" not in image.mode
    back = decode(encode(image, format="original", max_bytes=2 * len(data)), max_pixels=LIMIT)
    assert np.array_equal(back.pixels, image.pixels)


@pytest.mark.parametrize("limit", [0, 1_500, 4_000, 6_500])
def test_a_picture_that_nothing_is_known_of_fits_too(limit: int) -> None:
    """Rows of before carry no word; a limit that nothing meets gives the smallest file."""
    data = photo(format="JPEG", quality=75)
    image = replace(decode(data, max_pixels=LIMIT), mode="RGB")
    assert len(encode(image, format="original")) > 6_500
    back = encode(image, format="original", max_bytes=limit)
    assert (len(back) <= limit) == (limit > 0)
    assert decode(back, max_pixels=LIMIT).pixels.shape == image.pixels.shape


@pytest.mark.parametrize("word", ["", "q0,444", "q101,444", "q75", "q75,42", "tAAAA,444", "t" + "A" * 100 + ",444", "x"])
def test_a_word_that_says_nothing_is_nothing(word: str) -> None:
    assert parse_word(word) is None


def test_words_are_read_as_they_are_written() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2):
        for quality in (1, 50, 75, 100):
            tables = of_quality(quality).tables[:count]
            coding = JpegCoding(tables, "gray" if count == 1 else "420", is_progressive=count == 2)
            assert coding.word().startswith(f"q{quality},")
            assert parse_word(coding.word()) == coding
        own = JpegCoding(tuple(bytes(rng.integers(1, 256, 64, dtype=np.uint8)) for _ in range(count)))
        assert parse_word(own.word()) == own


def test_tables_of_sixteen_bits_and_cut_off_ones() -> None:
    wide = b"\x11" + b"".join(step.to_bytes(2, "big") for step in range(300, 364))
    narrow = b"\x00" + bytes(range(1, 65))
    assert tables_of(wide + narrow) == {1: b"\xff" * 64, 0: bytes(range(1, 65))}
    assert tables_of(narrow + narrow[:30]) == {0: bytes(range(1, 65))}
    assert tables_of(b"") == {}
