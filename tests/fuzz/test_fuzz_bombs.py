"""Bombs are recognised by their header and stored, never decoded; and the metadata beside the pixels is bounded."""

import io
import resource
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnbatch.codec import Codec
from cnnbatch.errors import Undecodable
from cnnbatch.images import decode, png
from cnnbatch.images.lossless import restore
from cnnbatch.images.model import MAX_METADATA_BYTES
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.settings import CompressionSettings
from cnnbatch.storage import ObjectInfo, open_store
from tests.codec.models import tiny_codec
from tests.stages.pictures import as_file, waves

SIDE = 100_000
PICTURE = waves(24, 32)


def png_bomb() -> bytes:
    """Pixels that inflate to 30 GB would follow; a few rows are enough to be a sound file."""
    data = as_file(PICTURE)
    at = data.index(b"IHDR")
    header = b"IHDR" + struct.pack(">II", SIDE, SIDE) + data[at + 12 : at + 17]
    return data[:at] + header + struct.pack(">I", zlib.crc32(header)) + data[at + 21 :]


def jpeg_bomb() -> bytes:
    data = bytearray(as_file(PICTURE, "jpeg"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def webp_bomb() -> bytes:
    """16383 a side is the most that the format can claim."""
    data = bytearray(as_file(PICTURE, "webp", lossless=True))
    at = data.index(b"VP8L") + 9
    data[at : at + 4] = struct.pack("<I", 16_382 | 16_382 << 14)
    return bytes(data)


def avif_bomb() -> bytes:
    data = bytearray(as_file(PICTURE, "avif"))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", SIDE, SIDE)
    return bytes(data)


def tiff_bomb() -> bytes:
    data = bytearray(as_file(PICTURE, "tiff"))
    start = int.from_bytes(data[4:8], "little") + 2
    for at in range(start, start + 24, 12):
        assert int.from_bytes(data[at : at + 2], "little") in (256, 257)
        data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, SIDE)
    return bytes(data)


def gif_bomb() -> bytes:
    data = bytearray(as_file(PICTURE, "gif"))
    data[6:10] = struct.pack("<HH", 65_535, 65_535)
    return bytes(data)


def bmp_bomb() -> bytes:
    data = bytearray(as_file(PICTURE, "bmp"))
    data[18:26] = struct.pack("<ii", SIDE, SIDE)
    return bytes(data)


def ppm_bomb() -> bytes:
    return b"P6\n%d %d\n255\n" % (SIDE, SIDE) + bytes(100)


def jxl_bomb() -> bytes:
    """A naked codestream whose header claims 2³⁰ × 2³⁰; JPEG XL is no format that is decoded at all."""
    return (
        b"\xff\x0a" + (0 | 3 << 1 | (2**30 - 1) << 3 | 0 << 33 | 3 << 36 | (2**30 - 1) << 38).to_bytes(12, "little") + bytes(64)
    )


BOMBS = {
    "png": png_bomb(),
    "jpeg": jpeg_bomb(),
    "webp": webp_bomb(),
    "avif": avif_bomb(),
    "tiff": tiff_bomb(),
    "gif": gif_bomb(),
    "bmp": bmp_bomb(),
    "ppm": ppm_bomb(),
    "jxl": jxl_bomb(),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_stored_without_being_decoded(name: str, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    codec: Codec = tiny_codec()
    compressor = ShardCompressor(store, store, codec, CompressionSettings(), run_id="r")
    data = BOMBS[name]
    tracemalloc.start()
    row = compressor.row(ObjectInfo(name, len(data)), data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert row.outcome == "store"
    assert restore(row.payload, row.payload_coding, num_bytes=len(data)) == data
    assert row.reason == ("jxl" if name == "jxl" else "too-many-pixels")
    assert peak < 8 << 20


def hidden_avif_frame() -> bytes:
    """16 × 16 by its boxes, 36 megapixels by its frame."""
    buffer = io.BytesIO()
    Image.new("RGB", (6000, 6000), (10, 20, 30)).save(buffer, "AVIF", speed=10, quality=10)
    data = bytearray(buffer.getvalue())
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", 16, 16)
    return bytes(data)


def hidden_webp_picture() -> bytes:
    """A lossless picture behind a larger one, which is what decoders take."""
    large, small = as_file(np.zeros((2000, 2000, 3), np.uint8), "webp"), as_file(PICTURE, "webp", lossless=True)
    body = b"WEBP" + large[12:] + small[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("data", "reason"),
    [(hidden_avif_frame(), "corrupt"), (hidden_webp_picture(), "too-many-pixels")],
    ids=["avif", "webp"],
)
def test_limits_look_at_what_would_be_decoded(data: bytes, reason: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Undecodable) as caught:
        decode(data, max_pixels=1000)
    assert caught.value.reason == reason
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10


def slow_tiff(size: int) -> bytes:
    """40 directories over the same bytes, each with a hundred values of nearly the whole file."""
    short = size * 96 // 100 // 100 // 2
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (700, 3, short, 16)]
    entries += [(700, 3, short, 16)] * 99 + [(tag, 4, 1, 8) for tag in (34665, 34853, 40965)]
    table = b"".join(struct.pack(">HHII", *entry) for entry in entries)
    return (b"MM\0*" + struct.pack(">IH", 8, len(entries)) + table + bytes(4)).ljust(size, b"\0")


def test_a_header_is_read_in_time_that_the_file_size_bounds() -> None:
    started = time.process_time()
    with pytest.raises(Undecodable):
        decode(slow_tiff(4 << 20), max_pixels=1000)
    assert time.process_time() - started < 1


def test_a_tiff_that_claims_millions_of_strips_makes_no_numbers_of_them() -> None:
    data = bytearray(as_file(PICTURE, "tiff"))
    start = int.from_bytes(data[4:8], "little") + 2
    tags = {int.from_bytes(data[at : at + 2], "little"): at for at in range(start, start + 12 * data[start - 2], 12)}
    count = 4 << 20
    for tag in (273, 279):
        data[tags[tag] + 2 : tags[tag] + 12] = struct.pack("<HII", 4, count, len(data))
        data += bytes(4 * count)
    tracemalloc.start()
    with pytest.raises(Undecodable) as caught:
        decode(bytes(data), max_pixels=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.reason == "corrupt"
    assert peak < 8 * len(data)


@pytest.mark.parametrize("kind", ["iCCP", "iTXt"])
def test_metadata_that_inflates_without_end_is_stored(kind: str) -> None:
    packed = zlib.compress(bytes(MAX_METADATA_BYTES + 1), 9)
    body = b"icc\0\0" + packed if kind == "iCCP" else png.XMP_KEYWORD + b"\1\0\0\0" + packed
    chunk = kind.encode() + body
    data = as_file(PICTURE)
    data = data[:33] + struct.pack(">I", len(body)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    tracemalloc.start()
    with pytest.raises(Undecodable) as caught:
        decode(data, max_pixels=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.reason == "metadata"
    assert peak < 4 * MAX_METADATA_BYTES


@pytest.mark.parametrize("name", ["png", "tiff", "webp", "avif"])
def test_metadata_over_the_limit_is_stored(name: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, name, icc_profile=bytes(MAX_METADATA_BYTES + 1))
    with pytest.raises(Undecodable) as caught:
        decode(buffer.getvalue(), max_pixels=1 << 20)
    assert caught.value.reason == "metadata"


def test_a_jpeg_of_endless_scans_is_neither_decoded_nor_transcoded(tmp_path: Path) -> None:
    """Each scan is a pass over the whole picture: a small file could keep a processor for hours."""
    data = as_file(waves(64, 64), "jpeg", progressive=True)
    start = data.rindex(b"\xff\xda")
    bomb = data[:start] + data[start:-2] * 3000 + data[-2:]
    store = open_store(str(tmp_path))
    row = ShardCompressor(store, store, tiny_codec(), CompressionSettings(), run_id="r").row(ObjectInfo("a", len(bomb)), bomb)
    assert (row.outcome, row.reason) == ("store", "corrupt")
    assert row.payload_coding != "jpegxl-transcode"
