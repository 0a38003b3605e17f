"""AVIF: size, depth and frames from the boxes of the file (ISO/IEC 14496-12, AV1-ISOBMFF), without a decoder."""

import struct
from collections.abc import Iterator
from typing import Final

from cnnbatch.errors import Undecodable
from cnnbatch.images.model import ImageHeader, Scan

CONTAINERS: Final = {b"meta": 4, b"iprp": 0, b"ipco": 0}  # boxes looked into, and the bytes before their first child
MAX_BOXES: Final = 10_000


def scan(data: bytes) -> Scan:
    """Header of an AVIF file: the largest picture in it, the deepest of its planes. Metadata stays with the decoder."""
    brands = _brands(data)
    if not brands & {b"avif", b"avis"}:
        raise Undecodable("unknown-format", f"ISO media file of the brands {sorted(brands)}")
    sizes, bits, has_alpha = [], 8, False
    refusal = None
    for kind, body in _walk(memoryview(data), 0):
        if kind == b"ispe":
            sizes.append(struct.unpack_from(">II", body, 4))
        elif kind == b"av1C":
            bits = max(bits, _bits(body[2]))
        elif kind == b"pixi" and body[4]:
            bits = max(bits, *body[5 : 5 + body[4]])
        elif kind == b"auxC":
            has_alpha |= b"auxid:1" in bytes(body) or b"alpha" in bytes(body)
        elif kind == b"colr" and bytes(body[:4]) == b"nclx" and not _is_srgb(body):
            refusal = "metadata"
    if not sizes:
        raise Undecodable("corrupt", "AVIF without a picture size")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    frames = 2 if brands & {b"avis", b"tmap"} else 1  # a sequence, or a gain map
    mode = "RGBA" if has_alpha else "RGB"
    return Scan(ImageHeader("avif", width, height, mode, bits_per_sample=bits, num_frames=frames), refusal=refusal)


def _brands(data: bytes) -> set[bytes]:
    end = min(int.from_bytes(data[:4], "big"), len(data), 1024)
    return {data[8:12]} | {data[start : start + 4] for start in range(16, end - 3, 4)}


def _is_srgb(colr: memoryview) -> bool:
    """Whether primaries and transfer are unspecified or those of sRGB and BT.709, which is how the pixels are taken."""
    primaries, transfer = struct.unpack_from(">HH", colr, 4)
    return primaries in (1, 2) and transfer in (1, 2, 6, 13)


def _bits(flags: int) -> int:
    high_bitdepth, twelve = flags & 0x40, flags & 0x20
    return 8 if not high_bitdepth else 12 if twelve else 10


def _walk(view: memoryview, depth: int) -> Iterator[tuple[bytes, memoryview]]:
    position = 0
    for _ in range(MAX_BOXES):
        if position + 8 > len(view):
            return
        size, kind = struct.unpack_from(">I4s", view, position)
        start = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", view, position + 8)
            start = 16
        size = size or len(view) - position  # zero: up to the end
        if size < start or position + size > len(view):
            raise Undecodable("truncated", f"AVIF box {kind!r} of {size} bytes does not fit")
        body = view[position + start : position + size]
        if kind in CONTAINERS and depth < 4:
            yield from _walk(body[CONTAINERS[kind] :], depth + 1)
        else:
            yield kind, body
        position += size
