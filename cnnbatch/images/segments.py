"""Parts of a file beside its picture, EXIF, ICC and XMP: comments, thermal readings, IPTC, chunks that nobody here knows.

It is carried as it is, in order, and put back into a file of the same format. As bytes (the column ``segments``), each
is its place (one byte), its length (uint32) and itself, in the syntax of its format; behind all of them is their CRC-32.
"""

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cnnbatch.errors import ImageError

BEFORE: Final = 0
"""Before the pixels."""

BEHIND: Final = 1
"""Behind the pixels, inside the picture's file format."""

AFTER: Final = 2
"""After the end of the picture, where no reader of the format looks."""

_HEAD: Final = struct.Struct("<BI")
_CRC: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Segment:
    """A marker segment, chunk, extension block, comment … with its own head, or bytes after the end of the picture."""

    place: int
    data: bytes


def pack(segments: Iterable[Segment]) -> bytes | None:
    """Segments as bytes; None where there are none."""
    body = b"".join(_HEAD.pack(segment.place, len(segment.data)) + segment.data for segment in segments)
    return body + _CRC.pack(zlib.crc32(body)) if body else None


def unpack(data: bytes | None) -> list[Segment]:
    """The segments that `pack` made bytes of; raises ImageError ``metadata`` where they are damaged."""
    if data is None:
        return []
    body, end = memoryview(data)[: -_CRC.size], len(data) - _CRC.size
    if end < 0 or _CRC.pack(zlib.crc32(body)) != data[end:]:
        raise ImageError("metadata", f"{len(data)} bytes of segments with a wrong checksum")
    found, position = [], 0
    while position < end:
        if end - position < _HEAD.size:
            raise ImageError("metadata", "a segment without a whole head")
        place, length = _HEAD.unpack_from(body, position)
        position += _HEAD.size
        if place > AFTER or length > end - position:
            raise ImageError("metadata", f"a segment of {length} bytes at place {place}")
        found.append(Segment(place, bytes(body[position : position + length])))
        position += length
    return found


def joined(segments: Iterable[Segment], place: int) -> bytes:
    """Those of one place, one behind the other."""
    return b"".join(segment.data for segment in segments if segment.place == place)
