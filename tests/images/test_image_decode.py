"""`probe` and `decode` on files made here: every mode and format, damage, and bombs."""

import contextlib
import io
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cnnbatch.errors import Undecodable
from cnnbatch.images import decode, probe
from cnnbatch.images.alpha import decode_alpha
from cnnbatch.images.png import read_tiny

LIMIT = 1 << 24
RNG = np.random.default_rng(7)
SMOOTH = np.add.outer(np.arange(23) * 5, np.arange(31) * 4).astype(np.uint8)
RGB = np.dstack((SMOOTH, SMOOTH[::-1], np.roll(SMOOTH, 5, axis=1)))
ALPHA = RNG.integers(0, 256, SMOOTH.shape, dtype=np.uint8)
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM")


def save(pixels: np.ndarray | Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int, height: int, colour: int, bits: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    coded = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(coded)


def reason(data: bytes, max_pixels: int = LIMIT) -> str:
    with pytest.raises(Undecodable) as caught:
        decode(data, max_pixels=max_pixels)
    return caught.value.reason


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("pixels", [SMOOTH, RGB], ids=["gray", "colour"])
def test_a_lossless_file_decodes_to_its_pixels(format: str, pixels: np.ndarray) -> None:
    image = decode(save(pixels, format, lossless=True), max_pixels=LIMIT)
    expected = RGB if pixels is RGB else SMOOTH
    found = image.pixels[..., 0] if format == "WEBP" and pixels is SMOOTH else image.pixels
    np.testing.assert_array_equal(found, expected)
    assert (image.format, image.alpha, image.pixels.flags.writeable) == (format.lower(), None, True)


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF", "GIF"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:2:2"}], ids=str)
def test_a_lossy_file_decodes_to_what_pillow_shows(format: str, options: dict[str, Any]) -> None:
    data = save(RGB, format, **(options if format == "JPEG" else {}))
    with Image.open(io.BytesIO(data)) as shown:
        np.testing.assert_array_equal(decode(data, max_pixels=LIMIT).pixels, np.asarray(shown.convert("RGB")))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_alpha_and_hidden_colour_survive(format: str) -> None:
    alpha = np.where(ALPHA < 100, 0, ALPHA).astype(np.uint8)
    image = decode(save(np.dstack((RGB, alpha)), format, lossless=True, exact=True), max_pixels=LIMIT)
    assert image.alpha is not None
    np.testing.assert_array_equal(image.pixels, RGB)
    np.testing.assert_array_equal(decode_alpha(image.alpha, alpha.shape), alpha)


def test_gray_with_alpha_stays_gray() -> None:
    image = decode(save(np.dstack((SMOOTH, ALPHA)), "PNG"), max_pixels=LIMIT)
    assert (image.pixels.ndim, image.mode) == (2, "LA")


def test_an_opaque_alpha_is_remembered_in_one_byte() -> None:
    image = decode(save(np.dstack((RGB, np.full_like(ALPHA, 255))), "PNG"), max_pixels=LIMIT)
    assert image.alpha == b"\xff"


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_index_gives_colours_and_alpha(format: str) -> None:
    key = int(SMOOTH[0, 0])
    visible = key != SMOOTH
    picture = Image.fromarray(SMOOTH).convert("P")
    picture.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    image = decode(save(picture, format, transparency=key, optimize=False), max_pixels=LIMIT)
    assert image.alpha is not None
    np.testing.assert_array_equal(decode_alpha(image.alpha, SMOOTH.shape) > 0, visible)
    np.testing.assert_array_equal(image.pixels[..., 1][visible], 255 - SMOOTH[visible])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_gray_key_of_few_bits_is_compared_at_that_depth(bits: int) -> None:
    data = png(8 // bits, 1, 0, bits, b"\0\x1b", (b"tRNS", struct.pack(">H", 1)))
    image = decode(data, max_pixels=LIMIT)
    levels = np.array([[0x1B >> shift & (1 << bits) - 1 for shift in range(8 - bits, -1, -bits)]])
    np.testing.assert_array_equal(image.pixels, levels * (255 // ((1 << bits) - 1)))
    if image.alpha != b"\xff":
        assert image.alpha is not None
        np.testing.assert_array_equal(decode_alpha(image.alpha, image.pixels.shape) == 0, levels == 1)


def test_a_colour_key_becomes_alpha() -> None:
    data = png(2, 1, 2, 8, b"\0\1\2\3\4\5\6", (b"tRNS", struct.pack(">HHH", 4, 5, 6)))
    image = decode(data, max_pixels=LIMIT)
    assert image.alpha is not None
    np.testing.assert_array_equal(decode_alpha(image.alpha, (1, 2)), [[255, 0]])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_kept_and_not_applied(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(save(RGB, format, exif=exif, lossless=True), max_pixels=LIMIT)
    assert image.pixels.shape == RGB.shape
    assert np.abs(image.pixels.astype(int) - RGB).mean() < 8
    found = Image.Exif()
    found.load(image.exif or b"")
    assert found[0x0112] == orientation


def test_sixteen_bits_are_refused() -> None:
    assert reason(png(1, 1, 0, 16, b"\0\1\2")) == "16-bit"
    assert reason(save(SMOOTH.astype(np.uint16) * 257, "TIFF")) == "16-bit"
    assert reason(b"P5 1 1 65535\n\1\2") == "16-bit"


def test_cmyk_and_lab_are_refused() -> None:
    assert reason(save(Image.new("CMYK", (9, 9)), "JPEG")) == "cmyk"
    assert reason(save(Image.new("CMYK", (9, 9)), "TIFF")) == "cmyk"
    assert reason(save(Image.new("LAB", (9, 9)), "TIFF")) == "lab"


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_more_than_one_picture_is_refused(format: str) -> None:
    frames = [Image.fromarray(np.roll(RGB, shift, axis=0)) for shift in (0, 3, 6)]
    data = save(frames[0], format, save_all=True, append_images=frames[1:])
    assert probe(data).num_frames > 1
    assert reason(data) == "multi-frame"


def test_a_sequence_of_avif_is_refused_by_its_name() -> None:
    frames = [Image.fromarray(np.roll(RGB, shift, axis=0)) for shift in (0, 3, 6)]
    assert reason(save(frames[0], "AVIF", save_all=True, append_images=frames[1:])) == "avif-sequence"


def test_a_film_behind_a_jpeg_is_not_lost() -> None:
    assert reason(save(RGB, "JPEG") + b"ftypmp42" * 1000) == "trailing-data"


def test_a_geotiff_is_refused() -> None:
    assert reason(save(RGB, "TIFF", tiffinfo={33550: (1.0, 1.0, 0.0)})) == "metadata"


def test_long_png_text_is_refused_and_a_text_bomb_costs_no_memory() -> None:
    zeros = zlib.compress(bytes(1 << 26), 9)
    text = png(1, 1, 0, 8, b"\0\1", (b"zTXt", b"Comment\0\0" + zeros))
    longer = png(1, 1, 0, 8, b"\0\1", (b"zTXt", b"Comment\0\0" + bytes(1 << 16)))
    profile = png(1, 1, 0, 8, b"\0\1", (b"iCCP", b"icc\0\0" + zeros))
    tracemalloc.start()
    assert len(decode(text, max_pixels=LIMIT).segments or b"") > len(zeros)
    assert [reason(longer), reason(profile)] == ["metadata", "metadata"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20


@pytest.mark.parametrize("data", [b"", b"x", b"PK\3\4 no picture", b"\x89PNG", b"RIFF\0\0\0\0WAVE", b"BM", b"P7\n"])
def test_what_is_no_image_is_unknown(data: bytes) -> None:
    assert reason(data) == "unknown-format"


def huge(width: int, height: int) -> dict[str, bytes]:
    """Files of a few bytes that claim the given size."""
    sof = b"\xff\xc0\0\x11\x08" + struct.pack(">HH", height, width) + b"\3\1\x11\0\2\x11\0\3\x11\0"
    sos = b"\xff\xda\0\x0c\3\1\0\2\0\3\0\0\x3f\0\0\xff\xd9"
    tags = ((256, width), (257, height), (258, 8), (262, 1), (273, 8), (277, 1), (278, height), (279, 1))
    ifd = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return {
        "png": png(width, height, 2, 8, b"\0"),
        "jpeg": b"\xff\xd8" + sof + sos,
        "gif": b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b",\0\0\0\0\1\0\1\0\0\2\1\0\0;",
        "bmp": b"BM" + bytes(12) + struct.pack("<IiiHH", 40, width, height, 1, 24) + bytes(24),
        "tiff": b"II*\0\x08\0\0\0" + ifd + b"\0\0\0\0",
        "ppm": b"P6 %d %d 255\n" % (width, height),
    }


@pytest.mark.parametrize("format", ["png", "jpeg", "gif", "bmp", "tiff", "ppm"])
def test_a_huge_header_is_refused_at_once_and_allocates_nothing(format: str) -> None:
    data = huge(50_000, 50_000)[format]
    tracemalloc.start()
    start = time.process_time()
    assert reason(data, max_pixels=1 << 28) == "too-many-pixels"
    seconds = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 0.05
    assert peak < 1 << 20
    assert (probe(data).width, probe(data).height) == (50_000, 50_000)


def test_a_hundred_scans_are_too_many() -> None:
    data = save(RGB, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert reason(data[:-2] + data[last:-2] * 100 + b"\xff\xd9") == "corrupt"


def _whole(format: str) -> bytes:
    return save(RGB, format, **({"compression": "tiff_lzw"} if format == "TIFF" else {}))


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=40, deadline=None)
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused_or_loses_nothing(format: str, fraction: float) -> None:
    data = _whole(format)
    try:
        image = decode(data[: int(len(data) * fraction)], max_pixels=LIMIT)
    except Undecodable:
        return
    np.testing.assert_array_equal(image.pixels, decode(data, max_pixels=LIMIT).pixels)


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=60, deadline=None)
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_file_raises_nothing_else(format: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(_whole(format))
    for fraction, value in changes:
        # Half of the damage goes into the first 200 bytes, where the structure is.
        span = len(data) if value % 2 else min(len(data), 200)
        data[int(span * fraction)] = value
    with contextlib.suppress(Undecodable):
        assert decode(bytes(data), max_pixels=LIMIT).pixels.size


@settings(max_examples=200, deadline=None)
@given(
    data=st.binary(max_size=200),
    magic=st.sampled_from(
        [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\x40\0\0\0WEBPVP8X", b"II*\0", b"BM", b"P5 "]
    ),
)
def test_noise_behind_a_magic_number_raises_nothing_else(data: bytes, magic: bytes) -> None:
    with contextlib.suppress(Undecodable):
        decode(magic + data, max_pixels=LIMIT)


def test_many_threads_decode_at_once() -> None:
    files = [_whole(format) for format in FORMATS] * 8
    expected = [decode(data, max_pixels=LIMIT).pixels for data in files[: len(FORMATS)]] * 8
    run: Callable[[bytes], np.ndarray] = lambda data: decode(data, max_pixels=LIMIT).pixels  # noqa: E731
    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(run, files), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


@st.composite
def tiny_pngs(draw: st.DrawFn) -> bytes:
    """PNGs of few pixels with every filter; of some the rows or the packed bytes are damaged behind right checksums."""
    height, width, samples = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.sampled_from([1, 3]))
    row = st.binary(min_size=width * samples, max_size=width * samples)
    rows = b"".join(bytes([draw(st.integers(0, 5))]) + draw(row) for _ in range(height))
    rows = draw(st.sampled_from([rows, rows, rows[:-1], rows + b"0"]))
    packed = bytearray(zlib.compress(rows))
    if draw(st.booleans()):
        packed[draw(st.integers(0, len(packed) - 1))] ^= 1 << draw(st.integers(0, 7))
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if samples == 1 else 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", bytes(packed[:5])), (b"IDAT", bytes(packed[5:])), (b"IEND", b"")]
    coded = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(coded)


@settings(deadline=None)  # the first call compiles
@given(tiny_pngs())
def test_a_tiny_png_is_read_as_pillow_reads_it_or_left_to_pillow(data: bytes) -> None:
    found = read_tiny(data, probe(data))
    if found is not None:
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(found, np.asarray(image))


@pytest.mark.parametrize("filters", range(5))
def test_a_sound_tiny_png_needs_no_pillow(filters: int) -> None:
    rows = b"".join(bytes([filters]) + RNG.integers(0, 256, 21, dtype=np.uint8).tobytes() for _ in range(5))
    plain, keyed = png(7, 5, 2, 8, rows), png(7, 5, 2, 8, rows, (b"tRNS", bytes(6)))
    assert read_tiny(plain, probe(plain)) is not None
    assert read_tiny(keyed, probe(keyed)) is None
