"""`encode` after `decode`: what comes back, for every format, with metadata and alpha."""

import dataclasses
import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from cnnbatch.errors import ImageError
from cnnbatch.images import FORMATS, DecodedImage, decode, encode
from cnnbatch.images.alpha import decode_alpha, encode_alpha

LIMIT = 1 << 24
SMOOTH = np.add.outer(np.arange(40) * 3, np.arange(56) * 2).astype(np.uint8)
RGB = np.dstack((SMOOTH, SMOOTH[::-1], 255 - SMOOTH))
ALPHA = np.random.default_rng(3).integers(0, 256, SMOOTH.shape, dtype=np.uint8)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">picture</x:xmpmeta>'


def exif() -> bytes:
    block = Image.Exif()
    block[0x0112] = 6
    block[0x010F] = "Maker"
    block.get_ifd(0x8769)[0x9003] = "2020:02:02 02:02:02"
    block.get_ifd(0x8825)[1] = "N"
    return block.tobytes().removeprefix(b"Exif\0\0")


def picture(**changes: Any) -> DecodedImage:
    image = DecodedImage(pixels=RGB, format="png", mode="RGB", exif=exif(), icc=ICC, xmp=XMP)
    return dataclasses.replace(image, **changes)


def back(image: DecodedImage, format: str) -> DecodedImage:
    return decode(encode(image, format=format), max_pixels=LIMIT)


@pytest.mark.parametrize("format", ["png", "webp", "bmp", "tiff", "ppm"])
@pytest.mark.parametrize("pixels", [RGB, SMOOTH], ids=["colour", "gray"])
def test_a_lossless_format_gives_the_pixels_back(format: str, pixels: np.ndarray) -> None:
    found = back(picture(pixels=pixels, format=format), "original")
    expected = np.dstack([SMOOTH] * 3) if format == "webp" and pixels is SMOOTH else pixels
    np.testing.assert_array_equal(found.pixels, expected)
    assert found.format == format


@pytest.mark.parametrize(("format", "tolerance"), [("jpeg", 2.0), ("avif", 2.0), ("gif", 8.0)])
@pytest.mark.parametrize("pixels", [RGB, SMOOTH], ids=["colour", "gray"])
def test_a_lossy_format_gives_near_pixels_back(format: str, tolerance: float, pixels: np.ndarray) -> None:
    found = back(picture(pixels=pixels), format).pixels
    assert np.abs(found.astype(int) - (pixels if found.ndim == pixels.ndim else pixels[..., None])).mean() < tolerance
    assert format == "gif" or found.ndim == pixels.ndim


def test_a_jpeg_is_written_at_444_quality_95() -> None:
    with Image.open(io.BytesIO(encode(picture(), format="jpeg"))) as image, io.BytesIO() as buffer:
        Image.fromarray(RGB).save(buffer, "JPEG", quality=95, subsampling="4:4:4")
        with Image.open(buffer) as wanted:
            assert image.quantization == wanted.quantization
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "tiff", "avif"])
def test_metadata_is_back_in_place(format: str) -> None:
    found = back(picture(), format)
    assert (found.icc, found.xmp) == (ICC, XMP)
    block = Image.Exif()
    block.load(found.exif or b"")
    assert (block[0x0112], block[0x010F]) == (6, "Maker")
    assert block.get_ifd(0x8769)[0x9003] == "2020:02:02 02:02:02"
    assert block.get_ifd(0x8825)[1] == "N"


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "tiff"])
def test_metadata_is_the_same_after_a_second_round(format: str) -> None:
    first = back(picture(), format)
    second = back(first, "original")
    assert (second.exif, second.icc, second.xmp) == (first.exif, first.icc, first.xmp)
    if format in ("jpeg", "png", "webp"):
        assert first.exif == exif()


def test_pillow_shows_a_tiff_upright_by_the_tag_that_came_back() -> None:
    with Image.open(io.BytesIO(encode(picture(), format="tiff"))) as image:
        image.load()
        assert image.size == (RGB.shape[0], RGB.shape[1])
        np.testing.assert_array_equal(np.asarray(image), np.rot90(RGB, -1))


@pytest.mark.parametrize("format", ["png", "webp", "tiff"])
@pytest.mark.parametrize("pixels", [RGB, SMOOTH], ids=["colour", "gray"])
def test_alpha_comes_back_exactly(format: str, pixels: np.ndarray) -> None:
    found = back(picture(pixels=pixels, alpha=encode_alpha(ALPHA)), format)
    assert found.alpha is not None
    np.testing.assert_array_equal(decode_alpha(found.alpha, ALPHA.shape), ALPHA)


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("format", ["png", "webp", "tiff"])
def test_an_even_alpha_comes_back_as_a_channel(format: str, value: int) -> None:
    alpha = bytes([value])
    data = encode(picture(alpha=alpha), format=format)
    assert decode(data, max_pixels=LIMIT).alpha in (alpha, None if format == "webp" and value == 255 else alpha)


def test_jpeg_keeps_the_colours_under_transparent_pixels() -> None:
    found = back(picture(alpha=b"\0"), "jpeg")
    assert found.alpha is None
    assert np.abs(found.pixels.astype(int) - RGB).mean() < 2


def test_gif_keeps_alpha_as_on_or_off() -> None:
    found = back(picture(alpha=encode_alpha(ALPHA), exif=None), "gif")
    assert found.alpha is not None
    np.testing.assert_array_equal(decode_alpha(found.alpha, ALPHA.shape), np.where(ALPHA < 128, 0, 255))


@pytest.mark.parametrize("format", ["png", "tiff", "bmp", "ppm"])
def test_a_bilevel_picture_returns_to_one_bit(format: str) -> None:
    levels = np.where(SMOOTH > 90, 255, 0).astype(np.uint8)
    noisy = np.clip(levels + np.random.default_rng(1).integers(-60, 60, levels.shape), 0, 255).astype(np.uint8)
    found = back(picture(pixels=noisy, mode="1", icc=None), format)
    assert found.mode.split()[0] == "1"
    np.testing.assert_array_equal(found.pixels, levels)


def test_two_bit_gray_returns_to_its_levels() -> None:
    levels = (SMOOTH // 64 * 85).astype(np.uint8)
    found = back(picture(pixels=levels + (levels < 255) * np.uint8(9), mode="L bits=2", icc=None), "png")
    np.testing.assert_array_equal(found.pixels, levels)


def test_resolution_and_png_colour_chunks_come_back() -> None:
    mode = "RGB gAMA=000186a0 sRGB=00 dpi=300x150"
    assert set(back(picture(mode=mode, icc=None), "png").mode.split()) == {*mode.split()[:3], "dpi=299.999x150.012"}
    assert back(picture(mode=mode), "jpeg").mode == "RGB dpi=300x150 jpeg=q95,444"


@pytest.mark.parametrize("mode", ["", "RGB dpi=x", "RGB dpi=1e999x1", "RGB gAMA=zz cHRM=00 = a=b=c", "?", "L bits=7"])
def test_odd_words_of_a_foreign_archive_do_no_harm(mode: str) -> None:
    for format in FORMATS:
        assert encode(picture(mode=mode), format=format)


def test_metadata_too_long_for_jpeg_is_left_out() -> None:
    found = back(picture(exif=exif() + bytes(1 << 16), xmp=XMP + b" " * (1 << 16)), "jpeg")
    assert (found.exif, found.xmp, found.icc) == (None, None, ICC)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_one_pixel_fits_every_format(format: str, mode: str) -> None:
    alpha = b"\x80" if mode.endswith("A") else None
    pixels = np.full((1, 1, 3) if mode.startswith("RGB") else (1, 1), 90, np.uint8)
    assert back(DecodedImage(pixels=pixels, format=format, mode=mode, alpha=alpha), "original").pixels.shape[:2] == (1, 1)


def test_a_damaged_alpha_or_exif_is_the_images_fault() -> None:
    for alpha in (b"", b"ab", encode_alpha(ALPHA)[:-40], encode_alpha(np.tile(ALPHA, (2, 1)))):
        with pytest.raises(ImageError) as caught:
            encode(picture(alpha=alpha), format="png")
        assert caught.value.reason == "alpha"
    with pytest.raises(ImageError, match="EXIF"):
        encode(picture(exif=b"II*\0" + struct.pack("<I", 1000)), format="tiff")


def test_a_picture_too_large_for_a_format_is_said() -> None:
    with pytest.raises(ImageError, match="16383") as caught:
        encode(picture(pixels=np.zeros((1, 16384), np.uint8)), format="webp")
    assert caught.value.reason == "size"


def test_an_unknown_format_is_the_callers_fault() -> None:
    with pytest.raises(ValueError, match="is not one of original"):
        encode(picture(), format="heic")
