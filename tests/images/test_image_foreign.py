"""Formats that nothing here decodes have their name, and their size where the head tells."""

import io
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from cnnbatch.codec import Codec
from cnnbatch.errors import Undecodable
from cnnbatch.images import decode
from cnnbatch.images.foreign import Foreign, recognise
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.settings import CompressionSettings
from cnnbatch.storage import ObjectInfo, open_store
from tests.stages.pictures import as_file, waves

CODEC = Path(__file__).parents[1] / "golden" / "codec.safetensors"
PIXELS = waves(46, 61)


def pillow(format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format, **options)
    return buffer.getvalue()


def iso(major: bytes, *others: bytes, rest: bytes = b"") -> bytes:
    brands = major + bytes(4) + b"".join(others)
    return struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + rest


def raw(make: bytes, *tags: int) -> bytes:
    """A TIFF of one directory with a maker and further tags."""
    entries = [(271, 2, len(make), 8 + 2 + 12 * (1 + len(tags)) + 4), *((tag, 4, 1, 0) for tag in tags)]
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4) + make


ISPE = b"ispe" + bytes(4) + struct.pack(">II", 512, 512) + b"ispe" + bytes(4) + struct.pack(">II", 4032, 3024)
FILES = {
    "jp2": (pillow("JPEG2000"), 61, 46),
    "j2k": (pillow("JPEG2000", no_jp2=True), 61, 46),
    "jxl": (imagecodecs.jpegxl_encode(PIXELS, usecontainer=False), 61, 46),
    "jxl in boxes": (imagecodecs.jpegxl_encode(PIXELS, usecontainer=True), 61, 46),
    "jxl of eights": (imagecodecs.jpegxl_encode(waves(48, 64), usecontainer=False), 64, 48),
    "jxl, square": (imagecodecs.jpegxl_encode(waves(300, 300), usecontainer=False), 300, 300),
    "psd": (b"8BPS\0\1" + bytes(6) + b"\0\3" + struct.pack(">II", 46, 61), 61, 46),
    "heic": (iso(b"heic", b"mif1", b"heic", rest=ISPE), 4032, 3024),
    "heic by another brand": (iso(b"miaf", b"mif1"), None, None),
    "avif-sequence": (iso(b"avis", b"msf1", rest=b"moov" + ISPE), 4032, 3024),
    "mp4": (iso(b"isom", b"iso2"), None, None),
    "mov": (iso(b"qt  "), None, None),
    "cr3": (iso(b"crx ", b"isom"), None, None),
    "cr2": (b"II*\0\x10\0\0\0CR\2\0", None, None),
    "nef": (raw(b"NIKON CORPORATION\0", 330), None, None),
    "arw": (raw(b"SONY\0", 330), None, None),
    "dng": (raw(b"Leica\0", 50706), None, None),
    "pdf": (b"%PDF-1.7\n", None, None),
    "svg": (b'<?xml version="1.0"?>\n<!-- a drawing -->\n<svg width="10">', None, None),
    "svg alone": (b"<svg>", None, None),
    "ico": (pillow("ICO"), None, None),
}


@pytest.mark.parametrize("name", FILES)
def test_a_format_is_recognised(name: str) -> None:
    data, width, height = FILES[name]
    known = name.partition(" ")[0].rstrip(",")
    assert recognise(data) == Foreign(known, width, height)
    with pytest.raises(Undecodable) as raised:
        decode(data, max_pixels=1 << 20)
    assert raised.value.reason == known


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_off_is_no_trouble(name: str) -> None:
    data = FILES[name][0]
    for end in range(min(len(data), 64)):
        recognise(data[:end])


@pytest.mark.parametrize("format", ["jpeg", "png", "gif", "webp", "bmp", "tiff", "avif", "ppm"])
def test_what_is_decoded_here_is_not_foreign(format: str) -> None:
    assert recognise(as_file(PIXELS, format)) is None
    assert recognise(b"<html><svg>") is None
    assert recognise(raw(b"NIKON CORPORATION\0")) is None


def test_the_name_is_format_and_reason_of_the_row(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    compressor = ShardCompressor(store, store, Codec(CODEC.read_bytes()), CompressionSettings(), run_id="r")
    rows = {name: compressor.row(ObjectInfo(name, len(data)), data) for name, (data, _, _) in FILES.items()}
    assert (rows["jp2"].source_format, rows["jp2"].reason, rows["jp2"].width, rows["jp2"].height) == ("jp2", "jp2", 61, 46)
    assert (rows["pdf"].source_format, rows["pdf"].reason, rows["pdf"].width) == ("pdf", "pdf", None)
    assert compressor.row(ObjectInfo("notes.txt", 5), b"notes").reason == "not an image"
    sixteen = imagecodecs.png_encode(np.zeros((9, 9), np.uint16))
    assert compressor.row(ObjectInfo("x", len(sixteen)), sixteen).reason == "16-bit"
