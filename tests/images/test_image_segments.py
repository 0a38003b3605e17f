"""What a file holds beside picture, EXIF, ICC and XMP comes back in it, or the file is kept as it is."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from cnnbatch.errors import ImageError, Undecodable
from cnnbatch.images import decode, encode, ifd, tiff
from cnnbatch.images.headers import scan
from cnnbatch.images.segments import AFTER, BEFORE, BEHIND, Segment, pack, unpack

LIMIT = 1 << 24
SMOOTH = np.add.outer(np.arange(40) * 3, np.arange(56) * 2).astype(np.uint8)
RGB = np.dstack((SMOOTH, SMOOTH[::-1], 255 - SMOOTH))
NOISE = np.random.default_rng(2).integers(0, 256, 150_000, dtype=np.uint8).tobytes()


def save(format: str, pixels: np.ndarray = RGB, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def marker(number: int, body: bytes) -> bytes:
    return bytes((0xFF, number)) + struct.pack(">H", len(body) + 2) + body


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def riff(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def extension(label: int, body: bytes) -> bytes:
    blocks = (body[start : start + 255] for start in range(0, len(body), 255))
    return bytes((0x21, label)) + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def with_markers(*markers: bytes, data: bytes = b"") -> bytes:
    data = data or save("JPEG")
    return data[:2] + b"".join(markers) + data[2:]


def with_chunks(before: bytes, behind: bytes = b"", data: bytes = b"") -> bytes:
    data = data or save("PNG")
    first = data.index(b"IDAT") - 4
    return data[:first] + before + data[first:-12] + behind + data[-12:]


def with_riff(before: bytes, behind: bytes) -> bytes:
    data = save("WEBP", lossless=True)
    canvas = b"VP8X" + struct.pack("<IB3x", 10, 0) + (55).to_bytes(3, "little") + (39).to_bytes(3, "little")
    body = b"WEBP" + canvas + before + data[12:] + behind
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_of(tags: dict[int, Any]) -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
    return save("TIFF", tiffinfo=info)


def tiff_with_a_gap(content: bytes) -> bytes:
    """A TIFF in which nothing refers to ``content``."""
    plain = save("TIFF")
    directory = ifd.read(plain)
    (start,) = directory.ints(273)
    directory.entries[273] = ifd.Entry(ifd.LONG, 1, struct.pack("<I", start + len(content)))
    pixels = plain[start : start + RGB.size]
    return tiff._with_directory(bytes(start) + content + pixels, directory)


def calibrated_bmp() -> bytes:
    """With primaries and gamma of its own, in a header of 108 bytes."""
    plain = save("BMP")
    header = struct.pack("<I", 108) + plain[18:54] + bytes(16) + bytes(4) + b"\1" * 48
    return plain[:10] + struct.pack("<I", 14 + 108) + header + plain[54:]


FLIR, PHOTOSHOP, COMMENT = b"FLIR\0\1\0\0readings", b"Photoshop 3.0\x008BIM\4\4IPTC", b"shot by the river"
EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 32 + bytes(8) + b"<depth/>"
GIF = save("GIF")
CARRIED: dict[str, tuple[bytes, list[tuple[int, bytes]]]] = {
    "jpeg APPn and comment": (
        with_markers(
            marker(0xE1, FLIR), marker(0xE3, b"a"), marker(0xFE, COMMENT), marker(0xED, PHOTOSHOP), marker(0xE3, b"b")
        ),
        [
            (BEFORE, marker(0xE1, FLIR)),
            (BEFORE, marker(0xE3, b"a")),
            (BEFORE, marker(0xFE, COMMENT)),
            (BEFORE, marker(0xED, PHOTOSHOP)),
            (BEFORE, marker(0xE3, b"b")),
        ],
    ),
    "jpeg extended XMP": (with_markers(marker(0xE1, EXTENDED_XMP)), [(BEFORE, marker(0xE1, EXTENDED_XMP))]),
    "jpeg trailer": (save("JPEG") + b"SEFT trailer", [(AFTER, b"SEFT trailer")]),
    "jpeg odd aspect": (
        save("JPEG")[:2] + marker(0xE0, b"JFIF\0\1\1\0\0\2\0\1\0\0") + save("JPEG")[20:],
        [(BEFORE, marker(0xE0, b"JFIF\0\1\1\0\0\2\0\1\0\0"))],
    ),
    "png texts and chunks": (
        with_chunks(chunk(b"tEXt", b"Title\0x") + chunk(b"sBIT", b"\5\6\5") + chunk(b"prVt", b"?"), chunk(b"tIME", bytes(7))),
        [
            (BEFORE, chunk(b"tEXt", b"Title\0x")),
            (BEFORE, chunk(b"sBIT", b"\5\6\5")),
            (BEFORE, chunk(b"prVt", b"?")),
            (BEHIND, chunk(b"tIME", bytes(7))),
        ],
    ),
    "png trailer": (save("PNG") + b"more", [(AFTER, b"more")]),
    "webp chunks": (
        with_riff(riff(b"cams", b"odd"), riff(b"note", b"even")),
        [(BEFORE, riff(b"cams", b"odd")), (BEHIND, riff(b"note", b"even"))],
    ),
    "webp trailer": (save("WEBP", lossless=True) + b"more", [(AFTER, b"more")]),
    "gif comment and XMP": (
        GIF[:781] + extension(0xFE, COMMENT) + GIF[781:-1] + extension(0xFF, b"XMP DataXMP") + b";tail",
        [(BEFORE, extension(0xFE, COMMENT)), (BEHIND, extension(0xFF, b"XMP DataXMP")), (AFTER, b"tail")],
    ),
    "bmp trailer": (save("BMP") + b"more", [(AFTER, b"more")]),
    "ppm comment": (b"P6\n# by hand\n" + save("PPM")[3:] + b"\n", [(BEFORE, b"# by hand\n"), (AFTER, b"\n")]),
}


@pytest.mark.parametrize("name", CARRIED)
def test_it_comes_back_in_order_and_after_a_second_round(name: str) -> None:
    data, expected = CARRIED[name]
    image = decode(data, max_pixels=LIMIT)
    assert [(segment.place, segment.data) for segment in unpack(image.segments)] == expected
    back = encode(image, format="original")
    with Image.open(io.BytesIO(back)) as shown:  # other readers bear it
        shown.load()
    assert list(scan(back).segments) == unpack(image.segments)
    assert "dropped" not in image.mode
    again = decode(back, max_pixels=LIMIT)
    assert (again.segments, again.exif, again.icc, again.xmp) == (image.segments, image.exif, image.icc, image.xmp)


@pytest.mark.parametrize("name", [name for name in CARRIED if not name.startswith("jpeg odd")])
def test_two_files_that_differ_only_in_it_come_back_so(name: str) -> None:
    image = decode(CARRIED[name][0], max_pixels=LIMIT)
    plain = decode(save(image.format, lossless=True), max_pixels=LIMIT)
    assert plain.segments is None
    with_, without = encode(image, format="original"), encode(plain, format="original")
    assert len(with_) - len(without) >= sum(len(data) for _, data in CARRIED[name][1])


def test_it_stays_out_of_a_file_of_another_format() -> None:
    image = decode(CARRIED["jpeg APPn and comment"][0], max_pixels=LIMIT)
    assert decode(encode(image, format="png"), max_pixels=LIMIT).segments is None


def test_page_names_and_iptc_of_a_tiff_come_back_with_what_is_after_its_end() -> None:
    data = tiff_of({269: "ledger", 33723: b"IPTC block", 34377: b"8BIM", 270: "a page"})
    data += b"tail"
    image = decode(data, max_pixels=LIMIT)
    back = encode(image, format="original")
    found = ifd.read(back).entries
    assert [bytes(found[tag].value) for tag in (269, 33723, 34377, 270)] == [b"ledger\0", b"IPTC block", b"8BIM", b"a page\0"]
    assert back.endswith(b"tail")
    assert decode(back, max_pixels=LIMIT).segments == image.segments


def kept(data: bytes) -> str:
    with pytest.raises(Undecodable) as caught:
        decode(data, max_pixels=LIMIT)
    return caught.value.reason


def segmented(number: int, start: bytes) -> bytes:
    return with_markers(*(marker(number, start + NOISE[i : i + 65000]) for i in range(0, len(NOISE), 65000)))


@pytest.mark.parametrize(
    ("data", "reason"),
    {
        "readings": (segmented(0xE1, b"FLIR\0\1\0\0"), "metadata"),
        "readings in APP3": (segmented(0xE3, b""), "metadata"),
        "signed jpeg": (with_markers(marker(0xEB, b"JP\0\1\0\0\0\1jumb")), "metadata"),
        "positions of other pictures": (with_markers(marker(0xE2, b"MPF\0II*\0")), "metadata"),
        "signed webp": (with_riff(b"", riff(b"C2PA", b"jumb")), "metadata"),
        "signed png": (with_chunks(chunk(b"caBX", b"jumb")), "metadata"),
        "critical png chunk": (with_chunks(chunk(b"NEWc", b"")), "metadata"),
        "unsafe png chunk": (with_chunks(chunk(b"prVT", b"")), "metadata"),
        "long png text": (with_chunks(chunk(b"tEXt", b"Workflow\0" + NOISE[:70000])), "metadata"),
        "second picture of one frame": (
            with_chunks(chunk(b"acTL", b"\0\0\0\1" + bytes(4)), chunk(b"fdAT", b"")),
            "multi-frame",
        ),
        "film behind gif": (GIF + NOISE[:5000], "trailing-data"),
        "film behind webp": (save("WEBP") + NOISE[:5000], "trailing-data"),
        "film behind png": (save("PNG") + NOISE[:5000], "trailing-data"),
        "film behind bmp": (save("BMP") + NOISE[:5000], "trailing-data"),
        "film behind tiff": (save("TIFF") + NOISE[:5000], "trailing-data"),
        "film in tiff": (tiff_with_a_gap(NOISE[:5000]), "trailing-data"),
        "comment among ppm samples": (b"P2 1 1 255 # one\n7", "metadata"),
        "second ppm": (b"P3 1 1 255 1 2 3 4", "trailing-data"),
        "anamorphic gif": (GIF[:12] + b"\x40" + GIF[13:], "metadata"),
        "calibrated bmp": (calibrated_bmp(), "metadata"),
        "avif with a box of its own": (save("AVIF") + struct.pack(">I4s", 12, b"uuid") + b"c2pa", "metadata"),
        "avif with unknown bytes": (save("AVIF") + b"more", "corrupt"),
    }.values(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_whose_content_cannot_be_carried_is_kept(data: bytes, reason: str) -> None:
    assert kept(data) == reason


def test_what_describes_how_the_file_held_its_pixels_is_named_and_left() -> None:
    palette = Image.fromarray(SMOOTH).convert("P")
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    data = with_chunks(chunk(b"iDOT", bytes(28)) + chunk(b"bKGD", b"\1"), data=buffer.getvalue())
    image = decode(data, max_pixels=LIMIT)
    assert image.mode == "P dropped=bKGD+iDOT"
    assert image.segments is None
    padded = decode(save("JPEG") + bytes(5000), max_pixels=LIMIT)
    assert (padded.mode, padded.segments) == ("RGB jpeg=q75,420 dropped=padding", None)


def test_a_second_exif_block_comes_back_behind_the_first() -> None:
    first, second = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"
    image = decode(with_markers(marker(0xE1, first), marker(0xE1, second)), max_pixels=LIMIT)
    assert image.exif == first[6:]
    back = encode(image, format="original")
    assert back.index(first) < back.index(second)


@given(st.lists(st.builds(Segment, st.integers(0, 2), st.binary(max_size=40)), max_size=6))
def test_segments_survive_as_bytes(segments: list[Segment]) -> None:
    assert unpack(pack(segments)) == segments


@settings(max_examples=60)
@given(st.integers(0, 200), st.integers(1, 255), st.booleans())
def test_damaged_segments_are_the_images_fault(position: int, change: int, cut: bool) -> None:
    data = pack([Segment(BEFORE, b"one"), Segment(AFTER, b"another")]) or b""
    position %= len(data)
    flipped = data[:position] + bytes([data[position] ^ change]) + data[position + 1 :]
    with pytest.raises(ImageError) as caught:
        unpack(data[:position] if cut else flipped)
    assert caught.value.reason == "metadata"
