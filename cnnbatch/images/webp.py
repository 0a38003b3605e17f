"""WebP: header, metadata and all other chunks of the RIFF container (RFC 9649), without a decoder."""

import struct
from collections.abc import Iterator
from typing import Final

from cnnbatch.errors import Undecodable
from cnnbatch.images.model import MAX_TRAILING_BYTES, ImageHeader, Scan
from cnnbatch.images.segments import AFTER, BEFORE, BEHIND, Segment, joined

PICTURES: Final = (b"VP8 ", b"VP8L")
KNOWN: Final = frozenset((*PICTURES, b"VP8X", b"ALPH", b"ICCP", b"EXIF", b"XMP "))
C2PA: Final = b"C2PA"
"""A signature of these very bytes."""

HAS_ALPHA, ANIMATED = 0x10, 2


def scan(data: bytes) -> Scan:
    """Header, metadata and all other chunks of a WebP."""
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise Undecodable("truncated", f"WebP of {size + 8} bytes has {len(data)}")
    found: dict[bytes, bytes] = {}
    others: list[Segment] = []
    for kind, raw in _chunks(data, size + 8):
        if kind in KNOWN and kind not in found:
            (length,) = struct.unpack_from("<I", raw, 4)
            found[kind] = raw[8 : 8 + length]
        else:
            others.append(Segment(BEHIND if found.keys() & set(PICTURES) else BEFORE, raw))
    width, height, has_alpha, animated = _size(found)
    trailing = data[size + 8 :]
    refusal = "metadata" if any(segment.data.startswith(C2PA) for segment in others) else None
    first = next((kind for kind in found if kind in PICTURES), None)
    return Scan(
        ImageHeader("webp", width, height, "RGBA" if has_alpha else "RGB", num_frames=2 if animated else 1),
        exif=found.get(b"EXIF", b"").removeprefix(b"Exif\0\0") or None,
        icc=found.get(b"ICCP") or None,
        xmp=found.get(b"XMP ") or None,
        words=("lossy=1",) if first == b"VP8 " else (),
        refusal="trailing-data" if len(trailing) > MAX_TRAILING_BYTES else refusal,
        segments=tuple(others + ([Segment(AFTER, trailing)] if trailing else [])),
    )


def _chunks(data: bytes, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Type and bytes (head and padding included) of each chunk."""
    position = 12
    while position + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, position)
        if position + 8 + length > end:
            raise Undecodable("truncated", "WebP ends inside a chunk")
        yield kind, data[position : position + 8 + length].ljust(8 + length + length % 2, b"\0")
        position += 8 + length + length % 2


def _size(found: dict[bytes, bytes]) -> tuple[int, int, bool, bool]:
    """Width, height, alpha, animation (RFC 9649, sections 2.5 to 2.7); of two pictures decoders take the first."""
    extended = found.get(b"VP8X")
    if extended is not None:
        canvas = int.from_bytes(extended[4:7], "little") + 1, int.from_bytes(extended[7:10], "little") + 1
        if extended[0] & ANIMATED:
            return *canvas, bool(extended[0] & HAS_ALPHA), True
    kind = next((kind for kind in found if kind in PICTURES), b"VP8 ")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", found[kind], 1)
        size, has_alpha = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), bool(bits >> 28 & 1)
    else:
        width, height = struct.unpack_from("<HH", found[kind], 6)
        size, has_alpha = (width & 0x3FFF, height & 0x3FFF), b"ALPH" in found
    if extended is not None and size != canvas:
        raise Undecodable("corrupt", f"WebP picture of {size} on a canvas of {canvas}")
    return *size, has_alpha, False


def with_segments(data: bytes, segments: list[Segment]) -> bytes:
    """The WebP ``data`` with further chunks before and behind its picture, and bytes after its end."""
    found = scan(data).header
    own = [raw for _, raw in _chunks(data, len(data))]
    if not own[0].startswith(b"VP8X"):
        flags = HAS_ALPHA if found.mode == "RGBA" else 0
        sides = (side.to_bytes(3, "little") for side in (found.width - 1, found.height - 1))
        own.insert(0, b"VP8X" + struct.pack("<IB3x", 10, flags) + b"".join(sides))
    first = next(index for index, raw in enumerate(own) if raw[:4] in (b"ALPH", *PICTURES))
    body = b"".join((*own[:first], joined(segments, BEFORE), *own[first:], joined(segments, BEHIND)))
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body + joined(segments, AFTER)
