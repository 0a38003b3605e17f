"""HEIC, JPEG 2000, JPEG XL and 16-bit samples that are 8-bit ones: decoded where that is asked for, and never a bit off."""

import io
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from cnnbatch.errors import Undecodable
from cnnbatch.images import DecodedImage, decode, encode, ifd, probe
from cnnbatch.images.alpha import decode_alpha
from tests.stages.pictures import Pixels, as_file, waves

PIXELS = waves(46, 62)
GRAY = waves(46, 62, gray=True)
WITH_ALPHA = np.dstack((PIXELS, GRAY))
TURNED = b"MM\0*\0\0\0\x08\0\x02\x01\x0f\0\x02\0\0\0\x04Cam\0\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
PROFILE = b"a profile of 40 bytes, which nobody read"


def wide(pixels: Pixels) -> np.ndarray:
    return pixels.astype(np.uint16) * 257


def heic(pixels: Pixels = PIXELS, **options: object) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(buffer, **{"quality": -1, "chroma": 444, **options})
    return buffer.getvalue()


def jp2(pixels: np.ndarray = PIXELS, **options: object) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, **{"codecformat": "jp2", **options}))


def jxl(pixels: np.ndarray = PIXELS, **options: object) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(pixels, **{"lossless": True, **options}))


def tiff(pixels: np.ndarray, photometric: int, *, order: str = "<", extra: tuple[tuple[int, int], ...] = ()) -> bytes:
    """A 16-bit TIFF of one strip."""
    height, width, *channels = pixels.shape
    count = channels[0] if channels else 1
    strip = pixels.astype(f"{order}u2").tobytes()
    tags = {256: width, 257: height, 259: 1, 262: photometric, 273: 8, 277: count, 278: height, 279: len(strip)} | dict(extra)
    end = 8 + len(strip)
    behind = end + 2 + 12 * (len(tags) + 1) + 4
    bits = struct.pack(f"{order}{count}H", *[16] * count)
    entries = [(tag, 4, 1, struct.pack(f"{order}I", value)) for tag, value in tags.items()]
    entries.append((258, 3, count, bits.ljust(4, b"\0") if count < 3 else struct.pack(f"{order}I", behind)))
    directory = b"".join(struct.pack(f"{order}HHI", tag, kind, n) + value for tag, kind, n, value in sorted(entries))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", end)
    return head + strip + struct.pack(f"{order}H", len(entries)) + directory + bytes(4) + (bits if count > 2 else b"")


def converted(data: bytes, max_pixels: int = 1 << 22) -> DecodedImage:
    return decode(data, max_pixels=max_pixels, convert=True)


@contextmanager
def refused(reason: str) -> Iterator[None]:
    with pytest.raises(Undecodable) as raised:
        yield
    assert raised.value.reason == reason, raised.value


SOUND = {
    "jp2": (jp2(), PIXELS, "jp2", "RGB"),
    "j2k": (jp2(codecformat="j2k"), PIXELS, "j2k", "RGB"),
    "jp2, gray": (jp2(GRAY), GRAY, "jp2", "L"),
    "jp2, 16 bits": (jp2(wide(PIXELS)), PIXELS, "jp2", "RGB dropped=16-bit"),
    "jp2, alpha": (as_file(WITH_ALPHA, "JPEG2000"), PIXELS, "jp2", "RGBA"),
    "jxl": (jxl(), PIXELS, "jxl", "RGB"),
    "jxl, boxes": (jxl(usecontainer=True), PIXELS, "jxl", "RGB"),
    "jxl, gray": (jxl(GRAY), GRAY, "jxl", "L"),
    "jxl, alpha": (jxl(WITH_ALPHA), PIXELS, "jxl", "RGBA"),
    "png, 16 bits": (bytes(imagecodecs.png_encode(wide(PIXELS))), PIXELS, "png", "RGB dropped=16-bit"),
    "png, gray, 16 bits": (bytes(imagecodecs.png_encode(wide(GRAY))), GRAY, "png", "L dropped=16-bit"),
    "png, alpha, 16 bits": (bytes(imagecodecs.png_encode(wide(WITH_ALPHA))), PIXELS, "png", "RGBA dropped=16-bit"),
    "tiff, 16 bits": (tiff(wide(PIXELS), 2), PIXELS, "tiff", "RGB dropped=16-bit"),
    "tiff, big-endian": (tiff(wide(PIXELS), 2, order=">"), PIXELS, "tiff", "RGB dropped=16-bit"),
    "tiff, white is zero": (tiff(wide(255 - GRAY), 0), GRAY, "tiff", "L dropped=16-bit"),
    "tiff, alpha": (tiff(wide(WITH_ALPHA), 2, extra=((338, 2),)), PIXELS, "tiff", "RGBA dropped=16-bit"),
}


@pytest.mark.parametrize("name", SOUND)
def test_samples_are_those_of_the_file(name: str) -> None:
    data, pixels, format, mode = SOUND[name]
    found = converted(data)
    assert (found.format, found.mode) == (format, mode)
    np.testing.assert_array_equal(found.pixels, pixels)
    if "alpha" in name:
        assert found.alpha is not None
        np.testing.assert_array_equal(decode_alpha(found.alpha, GRAY.shape), GRAY)
    assert probe(data, convert=True).width == 62
    with refused(format if format in ("jp2", "j2k", "jxl") else "16-bit"):
        decode(data, max_pixels=1 << 20)  # nothing of it unless it is asked for


def test_a_heic_is_decoded_as_it_is_shown_and_comes_back_as_avif() -> None:
    found = converted(heic())
    assert (found.format, found.mode, found.pixels.shape) == ("heic", "RGB", PIXELS.shape)
    assert np.abs(found.pixels.astype(int) - PIXELS).mean() < 1.5  # YCbCr and back
    turned = converted(heic(exif=TURNED, icc_profile=PROFILE))
    assert turned.pixels.shape == (62, 46, 3)
    assert turned.exif is not None
    assert {tag: entry.ints() for tag, entry in ifd.read(turned.exif).entries.items() if tag == 274} == {274: (1,)}
    data = encode(turned, format="original")
    again = decode(data, max_pixels=1 << 20)
    assert (again.format, again.pixels.shape, again.icc) == ("avif", (62, 46, 3), turned.icc)
    assert decode_alpha(converted(heic(WITH_ALPHA)).alpha or b"", GRAY.shape).shape == GRAY.shape


def test_a_heic_in_tiles_is_one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow_heif.options, "GRID_TILE_SIZE", 128)
    pixels = waves(200, 300)
    found = converted(heic(pixels))
    assert found.pixels.shape == pixels.shape
    assert np.abs(found.pixels.astype(int) - pixels).mean() < 1.5


def test_what_goes_with_a_heic_is_left_out_and_named() -> None:
    assert converted(heic(waves(200, 300), thumbnails=[64])).mode == "RGB dropped=thumbnail"


def test_what_would_be_lost_is_refused() -> None:
    with refused("16-bit"):
        converted(bytes(imagecodecs.png_encode(wide(PIXELS) + 1)))
    with refused("16-bit"):
        converted(jp2(wide(PIXELS) ^ 1))
    with refused("32-bit"):
        converted(jxl(PIXELS.astype(np.float32) / 255))
    with refused("metadata"):
        converted(jxl(wide(PIXELS)))  # its curve is linear
    with refused("mode"):
        converted(jp2(WITH_ALPHA))  # nothing says that the fourth component is an alpha channel
    with refused("mode"):
        converted(tiff(wide(WITH_ALPHA), 2, extra=((338, 1),)))  # colours multiplied by alpha
    buffer = io.BytesIO()
    several = pillow_heif.from_pillow(Image.fromarray(PIXELS))
    several.add_from_pillow(Image.fromarray(PIXELS))
    several.save(buffer)
    with refused("multi-frame"):
        converted(buffer.getvalue())
    deep = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", (62, 46), wide(PIXELS).tobytes()).save(deep, quality=90)
    with refused("10-bit"):
        converted(deep.getvalue())


def test_a_channel_beside_colours_that_is_no_alpha_is_refused() -> None:
    """A further channel of JPEG XL may be depth or heat: planes that imagecodecs writes so."""
    planes = np.stack((GRAY, GRAY, GRAY))
    data = imagecodecs.jpegxl_encode(planes, lossless=True, planar=True, photometric="gray")
    with refused("mode"):
        converted(bytes(data))


@pytest.mark.parametrize("name", ["jp2", "j2k", "jxl", "jxl, boxes", "png, 16 bits", "tiff, 16 bits", "heic"])
def test_a_file_that_is_cut_off_is_refused_and_not_half_a_picture(name: str) -> None:
    data = heic() if name == "heic" else SOUND[name][0]
    for end in (len(data) * 3 // 4, len(data) - 40, 60):
        with pytest.raises(Undecodable):
            converted(data[:end])


def test_sizes_are_compared_before_anything_is_decoded() -> None:
    for data in (heic(), *(SOUND[name][0] for name in ("jp2", "j2k", "jxl", "png, 16 bits", "tiff, 16 bits"))):
        with refused("too-many-pixels"):
            converted(data, max_pixels=46 * 62 - 1)


def test_a_decoder_never_sees_a_larger_picture_than_the_header_says() -> None:
    big = heic(np.zeros((1500, 2000, 3), np.uint8))
    sizes = struct.pack(">II", 2000, 1504), struct.pack(">II", 2000, 1500)
    lying = big
    for size in sizes:
        lying = lying.replace(b"ispe" + bytes(4) + size, b"ispe" + bytes(4) + struct.pack(">II", 64, 64))
    assert lying != big
    with refused("corrupt"):
        converted(lying)
    huge = bytearray(SOUND["jp2"][0])
    at = huge.index(b"\xff\x4f\xff\x51")
    struct.pack_into(
        ">6I", huge, at + 8, 60_000, 60_000, 0, 0, 60_000, 60_000
    )  # what the decoder goes by; the box before it says 62 × 46
    with refused("too-many-pixels"):
        converted(bytes(huge))


def test_without_pillow_heif_a_heic_has_its_name_for_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with refused("heic"):
        converted(data)
