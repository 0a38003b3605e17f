"""Where the pictures in a file are: PNG, TIFF with all its pages, BMP, PPM, and JPEGs inside of anything."""

import re
import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final

from cnnbatch.errors import Undecodable
from cnnbatch.images import ifd, jpeg, png, tiff
from cnnbatch.images.ifd import Ifd
from cnnbatch.images.lossless.packing import AS_IS, DEFLATE, LZW, Extent, Jpeg, Part, Picture
from cnnbatch.images.lossless.samples import DIFFERENCES, FILTERED, PLAIN, Layout
from cnnbatch.images.model import bad_image
from cnnbatch.images.rasters import PPM

MAX_PAGES: Final = 4096
MAX_JPEGS: Final = 1024
MIN_JPEG_BYTES: Final = 4096
"""Smaller ones (thumbnails) gain less than they cost."""

JPEG_START: Final = re.compile(rb"\xff\xd8\xff[\xc0-\xfe]")
PNG_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
TIFF_PACKINGS: Final = {1: AS_IS, 5: LZW, 8: DEFLATE, 32946: DEFLATE}
TIFF_ROWS: Final = {1: PLAIN, 2: DIFFERENCES}
YCBCR: Final = 6
PREDICTOR, FILL_ORDER, ROWS_PER_STRIP = 317, 266, 278
STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES = 273, 279, 324, 325
FLOAT: Final = 3
WHOLE: Final = 0xFFFFFFFF


def find(data: bytes) -> list[Part]:
    """The parts that can be looked for, none over another; a file that is damaged has fewer."""
    found: list[Part] = []
    for finder in (_in_png, _in_tiff, _in_rasters, _jpegs):
        try:
            with bad_image("part"):
                found += finder(data)
        except Undecodable:
            continue
    return _apart(found)


def _apart(parts: Iterable[Part]) -> list[Part]:
    """Without those that overlap one before them."""
    taken: list[Extent] = []
    found = []
    for part in parts:
        extents = [part.extent] if isinstance(part, Jpeg) else [extent for block in part.blocks for extent in block]
        both = sorted([*taken, *extents])
        if all(one[1] <= other[0] for one, other in pairwise(both)):
            taken = both
            found.append(part)
    return found


def _in_png(data: bytes) -> list[Part]:
    if not data.startswith(png.SIGNATURE):
        return []
    extents, position = [], len(png.SIGNATURE)
    for kind, raw in png.chunks(data):
        if kind == b"IDAT":
            extents.append((position + 8, position + len(raw) - 4))
        position += len(raw)
    width, height, bits, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    channels = PNG_CHANNELS.get(colour, 0)
    if interlace:
        return []
    layout = Layout(width, height, channels, bits, FILTERED, width, height, is_big_endian=1)
    return [Picture(layout, DEFLATE, (tuple(extents),))] if layout.is_sound() else []


def _in_tiff(data: bytes) -> Iterator[Part]:
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return
    for directory in ifd.read_all(data, MAX_PAGES):
        page = _page(directory, is_big_endian=data[:2] == b"MM")
        if page is not None and all(end <= len(data) for block in page.blocks for _, end in block):
            yield page


def _page(directory: Ifd, *, is_big_endian: bool) -> Picture | None:
    def value(tag: int, default: int) -> int:
        return directory.ints(tag, (default,))[0]

    width, height, channels = value(tiff.WIDTH, 0), value(tiff.HEIGHT, 0), value(tiff.SAMPLES, 1)
    bits = set(directory.ints(tiff.BITS, (1,)))
    packing, rows = TIFF_PACKINGS.get(value(tiff.COMPRESSION, 1)), TIFF_ROWS.get(value(PREDICTOR, 1))
    of_another_kind = FLOAT in directory.ints(tiff.SAMPLE_FORMAT, (1,)) and bits != {16}
    if packing is None or rows is None or len(bits) != 1 or value(FILL_ORDER, 1) != 1 or of_another_kind:
        return None
    if value(tiff.PHOTOMETRIC, 1) == YCBCR or not 0 < height <= 1 << 20:
        return None
    is_tiled = TILE_OFFSETS in directory.entries
    if is_tiled:
        block_width, block_height = value(tiff.TILE_WIDTH, 0), value(tiff.TILE_HEIGHT, 0)
        if not block_width or not block_height:
            return None
        width, height = -(-width // block_width) * block_width, -(-height // block_height) * block_height
    else:
        block_width, block_height = width, min(height, value(ROWS_PER_STRIP, WHOLE))
    layout = Layout(
        width,
        height,
        channels,
        bits.pop(),
        rows,
        block_width,
        block_height,
        is_big_endian=int(is_big_endian),
        is_planar=int(value(tiff.PLANAR, 1) == tiff.SEPARATE and channels > 1),
        is_tiled=int(is_tiled),
    )
    tags = (TILE_OFFSETS, TILE_BYTES) if is_tiled else (STRIP_OFFSETS, STRIP_BYTES)
    if not layout.is_sound() or any(tag not in directory.entries for tag in tags):
        return None
    starts, sizes = (directory.entries[tag].array().tolist() for tag in tags)
    if not len(starts) == len(sizes) == layout.num_blocks:
        return None
    return Picture(layout, packing, tuple(((start, start + size),) for start, size in zip(starts, sizes, strict=True)))


def _in_rasters(data: bytes) -> list[Part]:
    if data[:2] in (b"P5", b"P6") and (match := PPM.match(data, 0, 1024)) is not None:
        width, height, maximum = map(int, match.groups())
        channels, bits = 3 if data[1:2] == b"6" else 1, 8 if maximum < 256 else 16
        layout = Layout(width, height, channels, bits, PLAIN, width, height, is_big_endian=1)
        start = match.end()
    elif data[:2] == b"BM" and len(data) > 54:
        start, size, width, height, _, depth, packed = struct.unpack_from("<IIiiHHI", data, 10)
        channels, bits = (depth // 8, 8) if depth in (24, 32) else (1, depth)
        if size < 40 or packed not in (0, 3):
            return []
        row = (width * depth + 31) // 32 * 4
        layout = Layout(width, abs(height), channels, bits, PLAIN, width, abs(height), row_bytes=row)
    else:
        return []
    if not layout.is_sound() or start + layout.num_bytes > len(data):
        return []
    return [Picture(layout, AS_IS, (((start, start + layout.num_bytes),),))]


def _jpegs(data: bytes) -> Iterator[Part]:
    """JPEG files inside: previews of raw files, scans in a PDF, further pictures behind a first."""
    position = 0
    for _ in range(MAX_JPEGS):
        match = JPEG_START.search(data, position)
        if match is None:
            return
        position = match.start() + 2
        try:
            end = jpeg.end_of(data, match.start())
        except Undecodable:
            continue
        if end - match.start() >= MIN_JPEG_BYTES and end - match.start() < len(data):
            yield Jpeg((match.start(), end))
            position = end
