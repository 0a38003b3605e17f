"""The container of one image's coded bytes: a small header and independently decodable tiles.

The image is cut into a grid of tiles of 1024 × 1024 pixels (less at the right and lower edge). Each tile is one
entropy-coded stream with its own CRC, found through the table in the header, so that crops, threads and tiles can read just
what they need. `docs/format.md` is the specification.

>>> header = Header(width=1500, height=40, gray=False, quality_steps=128, codec_prefix=b"abcd")
>>> data = pack(header, [b"first", b"second"])
>>> parsed = unpack(data)
>>> parsed.header == header, [bytes(tile) for tile in parsed.tiles]
(True, [b'first', b'second'])
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cnnbatch.errors import BitstreamError
from cnnbatch.leb128 import leb128, read_leb128

VERSION = 1

TILE_SIDE = 1024
"""Pixels; a multiple of every power of two the transforms downscale by."""

MAX_SIDE = 1 << 20
MAX_PIXELS = 1 << 30

QUALITY_STEPS = 4
"""Steps a quality unit is divided into: quality is stored as a whole number of quarters, 0…252."""

MAX_QUALITY_STEPS = 63 * QUALITY_STEPS
CODEC_PREFIX_BYTES = 4
_FIXED = struct.Struct("<BBB4s")
_GRAY, _FILTER, _NEUTRAL = 1, 2, 4

MAX_FILTER_BYTES = 1 << 10
"""Size of a picture's own filter, at most."""

_CRC_BYTES = 4
_NUMBER_BYTES = 5


@dataclass(frozen=True, slots=True)
class Header:
    """All that a decoder must know before the first tile."""

    width: int
    height: int
    gray: bool
    quality_steps: int
    codec_prefix: bytes
    own_filter: bytes = b""
    """The picture's addition to the codec's adaptive filter, see `own_weights`; empty: nothing."""
    neutral: bool = False
    """RGB whose three channels are equal; never beside ``gray``."""

    @property
    def quality(self) -> float:
        """Quality 0…63 in quarter steps."""
        return self.quality_steps / QUALITY_STEPS

    def grid(self) -> tuple[int, int]:
        """(rows, columns) of tiles."""
        return -(-self.height // TILE_SIDE), -(-self.width // TILE_SIDE)


class Bitstream(NamedTuple):
    """A parsed bitstream: tiles in raster order, their CRCs not yet checked (`check_tile`)."""

    header: Header
    tiles: list[memoryview]
    crcs: list[int]
    header_bytes: bytes

    def check_tile(self, index: int) -> memoryview:
        """The bytes of one tile; raises BitstreamError if its CRC is wrong."""
        tile = self.tiles[index]
        if _crc(self.header_bytes, tile) != self.crcs[index]:
            raise BitstreamError(f"tile {index} of {len(self.tiles)}: wrong CRC, the bitstream is damaged")
        return tile


def pack(header: Header, tiles: Sequence[bytes]) -> bytes:
    """Header, table of lengths and CRCs, tiles."""
    fixed = _fixed_header(header)
    table = b"".join(leb128(len(u)) for u in tiles) + b"".join(_crc(fixed, u).to_bytes(_CRC_BYTES, "little") for u in tiles)
    return fixed + table + b"".join(tiles)


def unpack(data: bytes | memoryview) -> Bitstream:
    """Raises BitstreamError unless lengths and limits are consistent with the size of ``data``."""
    view = memoryview(data)
    if len(view) < _FIXED.size:
        raise BitstreamError(f"bitstream of {len(view)} bytes is shorter than its header")
    version, flags, quality_steps, prefix = _FIXED.unpack_from(view)
    if version != VERSION:
        raise BitstreamError(f"bitstream version {version}, expected {VERSION}")
    if flags & ~(_GRAY | _FILTER | _NEUTRAL) or (flags & _GRAY and flags & _NEUTRAL) or quality_steps > MAX_QUALITY_STEPS:
        raise BitstreamError(f"bitstream header: flags {flags}, quality {quality_steps} quarter steps")
    width, position = _read_number(view, _FIXED.size)
    height, position = _read_number(view, position)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise BitstreamError(f"bitstream header: {width} × {height} pixels is outside the limits")
    own_filter = b""
    if flags & _FILTER:
        length, position = _read_number(view, position)
        own_filter = bytes(view[position : position + length])
        if not 0 < length == len(own_filter) <= MAX_FILTER_BYTES:
            raise BitstreamError(f"bitstream header: a filter of {length} bytes")
        position += length
    header = Header(width, height, bool(flags & _GRAY), quality_steps, prefix, own_filter, bool(flags & _NEUTRAL))
    return _read_tiles(header, view, position)


def _read_tiles(header: Header, view: memoryview, position: int) -> Bitstream:
    fixed = bytes(view[:position])
    rows, columns = header.grid()
    count = rows * columns
    if count > len(view):
        raise BitstreamError(f"bitstream of {len(view)} bytes cannot hold {count} tiles")
    lengths = []
    for _ in range(count):
        length, position = _read_number(view, position)
        lengths.append(length)
    first = position + _CRC_BYTES * count
    if first + sum(lengths) != len(view):
        raise BitstreamError(f"bitstream of {len(view)} bytes, its table says {first + sum(lengths)}")
    crcs = [int.from_bytes(view[p : p + _CRC_BYTES], "little") for p in range(position, first, _CRC_BYTES)]
    tiles = []
    for length in lengths:
        tiles.append(view[first : first + length])
        first += length
    return Bitstream(header, tiles, crcs, fixed)


def _fixed_header(header: Header) -> bytes:
    flags = header.gray * _GRAY | bool(header.own_filter) * _FILTER | header.neutral * _NEUTRAL
    fixed = _FIXED.pack(VERSION, flags, header.quality_steps, header.codec_prefix)
    fixed += leb128(header.width) + leb128(header.height)
    return fixed + leb128(len(header.own_filter)) + header.own_filter if header.own_filter else fixed


def _crc(header_bytes: bytes, tile: bytes | memoryview) -> int:
    """Covers the header too, so that a flipped size or quality is found with the first tile."""
    return zlib.crc32(tile, zlib.crc32(header_bytes))


def _read_number(view: memoryview, position: int) -> tuple[int, int]:
    try:
        return read_leb128(view, position, max_bytes=_NUMBER_BYTES)
    except ValueError as error:
        raise BitstreamError(f"bitstream header: {error}") from error
