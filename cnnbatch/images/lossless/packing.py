"""A file as its pictures and the rest of it: the payload coding ``parts``.

A part is what some runs of bytes of the file (its extents) hold: the samples of a picture, as lossless JPEG XL with what it
takes to make the very bytes again, or a whole JPEG, as a transcode. The rest are all bytes that are in no extent, together.
``docs/format.md`` is the specification.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import imagecodecs

from cnnbatch.errors import ImageError
from cnnbatch.images.lossless import deflate, jxl, lzw
from cnnbatch.images.lossless.numbers import Reader
from cnnbatch.images.lossless.samples import Layout, to_blocks, to_pixels
from cnnbatch.images.transcode import restore_jpeg, transcode_jpeg
from cnnbatch.leb128 import leb128

JPEG, SAMPLES = 0, 1
AS_IS, DEFLATE, LZW = 0, 1, 2
"""How the blocks of a picture are packed in the file."""

MAX_PARTS: Final = 1 << 16
MAX_EXTENTS: Final = 1 << 20
MAX_SAMPLE_BYTES: Final = 1 << 30
"""Bytes of the pictures of a file, together: the rest of them stays as it is. What is packed counts `PACKED_COST` times."""

PACKED_COST: Final = 4

ZSTD_LEVELS: Final = ((1 << 20, 19), (1 << 24, 12))
"""Bytes up to which Zstandard takes its time."""

USUAL_ZSTD_LEVEL: Final = 6

Extent = tuple[int, int]
"""Start and end in the file."""


@dataclass(frozen=True, slots=True)
class Jpeg:
    """A JPEG file inside a file."""

    extent: Extent


@dataclass(frozen=True, slots=True)
class Picture:
    """Samples inside a file. ``blocks``: of each block its extents; those of a PNG are one behind the other in several."""

    layout: Layout
    packing: int
    blocks: tuple[tuple[Extent, ...], ...]


Part = Jpeg | Picture


def compress(data: bytes) -> bytes:
    """With Zstandard."""
    level = next((level for most, level in ZSTD_LEVELS if len(data) <= most), USUAL_ZSTD_LEVEL)
    return bytes(imagecodecs.zstd_encode(data, level))


def decompress(data: bytes, num_bytes: int) -> bytes:
    """The ``num_bytes`` that `compress` took; raises ValueError for others."""
    try:
        found = bytes(imagecodecs.zstd_decode(data, out=num_bytes)) if data else b""
    except (imagecodecs.ZstdError, RuntimeError, MemoryError) as error:
        raise ValueError(f"not Zstandard of {num_bytes} bytes: {error}") from error
    if len(found) != num_bytes:
        raise ValueError(f"{len(found)} bytes, expected {num_bytes}")
    return found


def pack(data: bytes, parts: Iterable[Part]) -> bytes | None:
    """``data`` with those of ``parts`` that can be made again; None where none can. It is not compared."""
    packed: list[tuple[list[Extent], bytes]] = []
    cost = 0
    for part in parts:
        if isinstance(part, Picture):
            size = part.layout.num_bytes * (1 if part.packing == AS_IS else PACKED_COST)
            if cost + size > MAX_SAMPLE_BYTES:
                continue
            cost += size
        found = _pack_jpeg(data, part) if isinstance(part, Jpeg) else _pack_picture(data, part)
        if found is not None:
            packed.append(found)
    if not packed:
        return None
    rest = _without(data, [extent for extents, _ in packed for extent in extents])
    coded = compress(rest)
    head = leb128(len(data)) + leb128(len(packed)) + b"".join(body for _, body in packed)
    return head + leb128(len(rest)) + leb128(len(coded)) + coded


def unpack(payload: bytes, num_bytes: int) -> bytes:
    """The file; raises ImageError ``parts`` where the payload is none of ``num_bytes``."""
    try:
        return _unpack(Reader(payload), num_bytes)
    except (ValueError, IndexError, ImageError) as error:
        raise ImageError("parts", f"not a file in parts: {error}") from error


def _unpack(reader: Reader, num_bytes: int) -> bytes:
    if (size := reader.number()) != num_bytes:
        raise ValueError(f"a file of {size} bytes, expected {num_bytes}")
    out = bytearray(num_bytes)
    covered: list[Extent] = []
    for _ in range(reader.number(MAX_PARTS)):
        unpack_part = _unpack_jpeg if reader.number(1) == JPEG else _unpack_picture
        for (start, end), body in unpack_part(reader, num_bytes):
            if not 0 <= start <= end <= num_bytes or end - start != len(body):
                raise ValueError(f"{len(body)} bytes for {start} … {end} of a file of {num_bytes}")
            out[start:end] = body
            covered.append((start, end))
    rest_bytes = reader.number()
    gaps = _gaps(covered, num_bytes)
    if rest_bytes != sum(end - start for start, end in gaps):
        raise ValueError(f"{rest_bytes} bytes for the gaps of a file")
    rest = memoryview(decompress(reader.take(reader.number()), rest_bytes))
    for start, end in gaps:
        out[start:end], rest = rest[: end - start], rest[end - start :]
    return bytes(out)


def _gaps(extents: Sequence[Extent], num_bytes: int) -> list[Extent]:
    """The gaps between them; raises ValueError where they overlap."""
    gaps, position = [], 0
    for start, end in sorted(extents):
        if start < position:
            raise ValueError("extents that overlap")
        gaps.append((position, start))
        position = end
    return [(start, end) for start, end in (*gaps, (position, num_bytes)) if start < end]


def _without(data: bytes, extents: Sequence[Extent]) -> bytes:
    view = memoryview(data)
    return b"".join(view[start:end] for start, end in _gaps(extents, len(data)))


def _dump_extents(extents: Sequence[Extent]) -> bytes:
    return leb128(len(extents)) + b"".join(leb128(start) + leb128(end - start) for start, end in extents)


def _parse_extents(reader: Reader) -> list[Extent]:
    found = []
    for _ in range(reader.number(MAX_EXTENTS)):
        start = reader.number()
        found.append((start, start + reader.number()))
    return found


def _pack_jpeg(data: bytes, part: Jpeg) -> tuple[list[Extent], bytes] | None:
    start, end = part.extent
    coded = transcode_jpeg(data[start:end])
    if coded is None:
        return None
    return [part.extent], leb128(JPEG) + _dump_extents([part.extent]) + leb128(len(coded)) + coded


def _unpack_jpeg(reader: Reader, num_bytes: int) -> list[tuple[Extent, bytes]]:
    [extent] = _parse_extents(reader)
    return [(extent, restore_jpeg(reader.take(reader.number())))]


def _pack_picture(data: bytes, part: Picture) -> tuple[list[Extent], bytes] | None:
    blocks, recipes = [], []
    sizes = [size for _, size in part.layout.blocks()]
    for those, size in zip(part.blocks, sizes, strict=True):
        stream = b"".join(data[start:end] for start, end in those)
        found = _open_stream(stream, part.packing, size)
        if found is None:
            return None
        blocks.append(found[0])
        recipes.append(found[1])
    try:
        pixels, kinds = to_pixels(blocks, part.layout)
    except ValueError:
        return None
    if to_blocks(pixels, kinds, part.layout) != blocks:  # something in the padding of rows
        return None
    codestreams = jxl.encode(pixels)
    side = compress(b"".join(leb128(len(one)) + one for one in (kinds, *recipes)))
    extents = [extent for extents in part.blocks for extent in extents]
    body = leb128(SAMPLES) + part.layout.dump() + leb128(part.packing) + b"".join(map(_dump_extents, part.blocks))
    body += leb128(len(codestreams)) + b"".join(leb128(len(one)) + one for one in codestreams)
    return extents, body + leb128(sum(len(leb128(len(one))) + len(one) for one in (kinds, *recipes))) + leb128(len(side)) + side


def _open_stream(stream: bytes, packing: int, size: int) -> tuple[bytes, bytes] | None:
    """The contents of a stream, ``size`` bytes, and the recipe to make it again, which was tried."""
    if packing == AS_IS:
        return (stream, b"") if len(stream) == size else None
    codec, unpacked = (deflate, deflate.inflate) if packing == DEFLATE else (lzw, lzw.inflate)
    raw = unpacked(stream, size)
    recipe = codec.analyse(stream, raw) if raw is not None else None
    if raw is None or recipe is None:
        return None
    try:
        again = codec.rebuild(raw, recipe, max_bytes=len(stream))
    except (ValueError, IndexError):
        return None
    return (raw, recipe) if again == stream else None


def _unpack_picture(reader: Reader, num_bytes: int) -> list[tuple[Extent, bytes]]:
    layout = Layout.parse(reader, max_bytes=MAX_SAMPLE_BYTES)
    packing = reader.number(LZW)
    extents = [_parse_extents(reader) for _ in layout.blocks()]
    codestreams = [reader.take(reader.number()) for _ in range(reader.number(MAX_EXTENTS))]
    side_bytes = reader.number(MAX_SAMPLE_BYTES)
    side = Reader(decompress(reader.take(reader.number()), side_bytes))
    kinds = side.take(side.number())
    pixels = jxl.decode(codestreams, (layout.height, layout.width, layout.channels), layout.dtype)
    found: list[tuple[Extent, bytes]] = []
    for block, those in zip(to_blocks(pixels, kinds, layout), extents, strict=True):
        recipe = side.take(side.number())
        stream = block
        if packing != AS_IS:
            codec = deflate if packing == DEFLATE else lzw
            stream = codec.rebuild(block, recipe, max_bytes=min(num_bytes, sum(end - start for start, end in those)))
        for start, end in those:
            found.append(((start, end), stream[: end - start]))
            stream = stream[end - start :]
        if stream:
            raise ValueError(f"{len(stream)} bytes of a block are left")
    return found
