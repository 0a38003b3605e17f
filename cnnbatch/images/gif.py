"""GIF: size, frames and extension blocks (GIF89a, sections 18 to 26), without a decoder."""

import struct
from typing import Final

from cnnbatch.errors import Undecodable
from cnnbatch.images.model import MAX_TRAILING_BYTES, ImageHeader, Scan
from cnnbatch.images.segments import AFTER, BEFORE, BEHIND, Segment, joined

IMAGE, EXTENSION, TRAILER, GRAPHIC_CONTROL = 0x2C, 0x21, 0x3B, 0xF9
SQUARE_PIXELS: Final = (0, 49)


def scan(data: bytes) -> Scan:
    """Header, comments and other extensions of a GIF; frames are counted up to two."""
    width, height, flags, _, aspect = struct.unpack_from("<HHBBB", data, 6)
    position = 13 + _palette_bytes(flags)
    frames = 0
    segments: list[Segment] = []
    while position < len(data) and data[position] != TRAILER and frames < 2:
        start = position
        if data[position] == IMAGE:
            frames += 1
            left, top, w, h, flags = struct.unpack_from("<HHHHB", data, position + 1)
            # A frame beyond the logical screen enlarges the picture, as in browsers and Pillow.
            width, height = max(width, left + w), max(height, top + h)
            position = _skip_blocks(data, position + 11 + _palette_bytes(flags))
        elif data[position] == EXTENSION:
            position = _skip_blocks(data, position + 2)
            if data[start + 1] != GRAPHIC_CONTROL:  # that one says how the pixels are shown
                segments.append(Segment(BEHIND if frames else BEFORE, data[start:position]))
        else:
            raise Undecodable("corrupt", f"GIF block {data[position]:#x}")
    if not frames:
        raise Undecodable("truncated", "GIF without a picture")
    trailing = data[position + 1 :]
    segments += [Segment(AFTER, trailing)] if trailing else []
    refusal = "metadata" if aspect not in SQUARE_PIXELS else None
    return Scan(
        ImageHeader("gif", width, height, "P", num_frames=frames),
        refusal="trailing-data" if len(trailing) > MAX_TRAILING_BYTES and frames < 2 else refusal,
        segments=tuple(segments),
    )


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _skip_blocks(data: bytes, position: int) -> int:
    while position < len(data) and data[position]:
        position += data[position] + 1
    if position >= len(data):
        raise Undecodable("truncated", "GIF ends inside a block")
    return position + 1


def with_segments(data: bytes, segments: list[Segment]) -> bytes:
    """The GIF ``data``, which ends with its trailer, with further blocks before and behind its picture."""
    start = 13 + _palette_bytes(data[10])
    before, behind, after = (joined(segments, place) for place in (BEFORE, BEHIND, AFTER))
    return b"".join((b"GIF89a", data[6:start], before, data[start:-1], behind, data[-1:], after))
