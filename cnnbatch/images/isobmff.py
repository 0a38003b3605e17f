"""AVIF: size, depth and frames from the boxes of the file (ISO/IEC 14496-12, 23008-12, AV1-ISOBMFF), without a decoder.

The way back writes one picture with EXIF, ICC and XMP. A file that has more (further pictures, boxes and properties that
nobody here knows, such as those of C2PA) is kept as it is. `cnnbatch.images.heic` reads the same boxes.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from cnnbatch.errors import Undecodable
from cnnbatch.images.av1 import largest_frame
from cnnbatch.images.hevc import largest_picture
from cnnbatch.images.model import MAX_TRAILING_BYTES, ImageHeader, Scan

FILE_BOXES: Final = frozenset((b"ftyp", b"meta", b"mdat", b"free", b"skip"))
SPARE_BOXES: Final = (b"free", b"skip")
META_BOXES: Final = frozenset((b"hdlr", b"pitm", b"iloc", b"iinf", b"iref", b"iprp", b"idat", b"dinf", b"free"))
PROPERTIES: Final = frozenset((b"ispe", b"pixi", b"av1C", b"colr", b"auxC", b"irot", b"imir", b"pasp", b"free"))
SQUARE_PIXELS: Final = (1, 1)
XMP_TYPE: Final = b"application/rdf+xml"
AV1, HEVC, GRID = b"av01", b"hvc1", b"grid"
PICTURES: Final = (AV1, HEVC, GRID)
MAX_BOXES: Final = 10_000
MAX_TILE_SLACK: Final = 1 << 20
"""Pixels by which a tile at the edge may reach over the picture, beside as many as that has."""


@dataclass(slots=True)
class Items:
    """The ``meta`` box by item."""

    primary: int = 0
    types: dict[int, bytes] = field(default_factory=dict)
    data: dict[int, bytes] = field(default_factory=dict)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    properties_of: dict[int, list[int]] = field(default_factory=dict)
    references: list[tuple[bytes, int, tuple[int, ...]]] = field(default_factory=list)
    is_odd: bool = False
    """There are boxes or items that an AVIF of one picture need not have."""
    others: set[bytes] = field(default_factory=set)
    """Kinds of items that are neither pictures, EXIF nor XMP."""
    unreferenced: int = 0
    """Bytes of data that belong to no item."""


def scan(data: bytes) -> Scan:
    """Header of an AVIF file: its primary picture, the deepest of its planes. Metadata stays with the decoder."""
    brands = _brands(data)
    if not brands & {b"avif", b"avis"}:
        raise Undecodable("unknown-format", f"ISO media file of the brands {sorted(brands)}")
    items = read_items(data)
    width, height = size_of(items, items.primary)
    bits = max((_bits_of(kind, body) for kind, body in items.properties), default=8)
    is_several = bool(brands & {b"avis", b"tmap"}) or has_other_pictures(items)  # a sequence, a gain map
    mode = "RGBA" if any(kind == b"auxC" and is_alpha(body) for kind, body in items.properties) else "RGB"
    header = ImageHeader("avif", width, height, mode, bits_per_sample=max(8, bits), num_frames=2 if is_several else 1)
    is_odd = items.is_odd or items.unreferenced > MAX_TRAILING_BYTES or _has_odd_properties(items)
    dropped = ("unreferenced",) if items.unreferenced > 0 else ()
    refusal = "corrupt" if has_larger_frames(items, width * height) else "metadata" if is_odd else None
    return Scan(header, refusal=refusal, dropped=dropped)


def _brands(data: bytes) -> set[bytes]:
    end = min(int.from_bytes(data[:4], "big"), len(data), 1024)
    return {data[8:12]} | {data[start : start + 4] for start in range(16, end - 3, 4)}


def iter_boxes(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and contents of each box; raises Undecodable where one does not fit."""
    position = 0
    for _ in range(MAX_BOXES):
        if position + 8 > len(view):
            break
        size, kind = struct.unpack_from(">I4s", view, position)
        start = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", view, position + 8)
            start = 16
        size = size or len(view) - position  # zero: up to the end
        if size < start or position + size > len(view):
            raise Undecodable("truncated", f"box {kind!r} of {size} bytes does not fit")
        yield kind, view[position + start : position + size]
        position += size
    if position < len(view):
        raise Undecodable("corrupt", f"{len(view) - position} bytes are in no box")


def read_items(data: bytes) -> Items:
    """The items of a file; raises Undecodable."""
    items = Items()
    metas = []
    for kind, body in iter_boxes(memoryview(data)):
        items.is_odd |= kind not in FILE_BOXES
        metas += [body] if kind == b"meta" else []
        items.unreferenced += len(body if kind == b"mdat" else bytes(body).strip(b"\0") if kind in SPARE_BOXES else b"")
    if len(metas) != 1:
        raise Undecodable("corrupt", f"{len(metas)} meta boxes")
    boxes: dict[bytes, memoryview] = {}
    for kind, body in iter_boxes(metas[0][4:]):
        items.is_odd |= kind not in META_BOXES
        boxes.setdefault(kind, body)
    items.primary = int.from_bytes(boxes[b"pitm"][4:], "big")
    _read_types(boxes[b"iinf"], items)
    for number, (method, extents) in _locations(boxes[b"iloc"]).items():
        items.unreferenced -= sum(length for _, length in extents) if method == 0 else 0
        if items.types.get(number) in PICTURES:
            whole = {0: data, 1: bytes(boxes.get(b"idat", b""))}[method]
            items.data[number] = b"".join(whole[start : start + length if length else None] for start, length in extents)
    _read_properties(boxes[b"iprp"], items)
    if b"iref" in boxes:
        _read_references(boxes[b"iref"], items)
    return items


def _read_types(body: memoryview, items: Items) -> None:
    for _, entry in iter_boxes(body[6 if body[0] == 0 else 8 :]):
        wide = 4 if entry[0] == 3 else 2
        number = int.from_bytes(entry[4 : 4 + wide], "big")
        kind = bytes(entry[6 + wide : 10 + wide])
        items.types[number] = kind
        mime = bytes(entry[10 + wide :]).split(b"\0")[1:2] == [XMP_TYPE]
        if kind not in (*PICTURES, b"Exif") and not (kind == b"mime" and mime):
            items.others.add(kind)
    items.is_odd |= bool(items.others) or HEVC in items.types.values()


def _locations(body: memoryview) -> dict[int, tuple[int, list[tuple[int, int]]]]:
    """Item → how it is held (0: in the file, 1: in ``idat``) and its (start, length), 0 for all."""
    version, position = body[0], 6
    sizes = body[4] >> 4, body[4] & 15, body[5] >> 4, body[5] & 15 if version else 0

    def take(size: int) -> int:
        nonlocal position
        position += size
        if position > len(body):
            raise Undecodable("truncated", "a short iloc box")
        return int.from_bytes(body[position - size : position], "big")

    wide = 4 if version == 2 else 2
    found: dict[int, tuple[int, list[tuple[int, int]]]] = {}
    for _ in range(min(take(wide), MAX_BOXES)):
        number = take(wide)
        method = take(2) & 15 if version else 0
        take(2)
        base = take(sizes[2])
        extents = []
        for _ in range(take(2)):
            take(sizes[3])
            start = base + take(sizes[0])
            extents.append((start, take(sizes[1])))
        found[number] = method, extents
    return found


def _read_properties(body: memoryview, items: Items) -> None:
    boxes: dict[bytes, memoryview] = {}
    for kind, box in iter_boxes(body):
        boxes.setdefault(kind, box)
    items.properties = [(kind, bytes(box)) for kind, box in iter_boxes(boxes[b"ipco"])]
    ipma, position = boxes[b"ipma"], 8
    wide, long = 4 if ipma[0] else 2, 2 if ipma[3] & 1 else 1
    for _ in range(min(int.from_bytes(ipma[4:8], "big"), MAX_BOXES)):
        number = int.from_bytes(ipma[position : position + wide], "big")
        count = ipma[position + wide]
        position += wide + 1
        indexes = (int.from_bytes(ipma[at : at + long], "big") for at in range(position, position + count * long, long))
        items.properties_of[number] = [index & (0x7FFF if long == 2 else 0x7F) for index in indexes]
        position += count * long


def _read_references(body: memoryview, items: Items) -> None:
    wide = 4 if body[0] else 2
    for kind, box in iter_boxes(body[4:]):
        numbers = [int.from_bytes(box[at : at + wide], "big") for at in (0, *range(wide + 2, len(box), wide))]
        items.references.append((kind, numbers[0], tuple(numbers[1:])))


def properties_of(items: Items, number: int) -> Iterator[tuple[bytes, bytes]]:
    """Kind and contents of each property of an item."""
    for index in items.properties_of.get(number, ()):
        if 0 < index <= len(items.properties):
            yield items.properties[index - 1]


def property_of(items: Items, number: int, wanted: bytes) -> bytes:
    """The first property of that kind; raises Undecodable where there is none."""
    for kind, body in properties_of(items, number):
        if kind == wanted:
            return body
    raise Undecodable("corrupt", f"an item without its property {wanted!r}")


def size_of(items: Items, number: int) -> tuple[int, int]:
    """Width and height of an item, before it is turned."""
    width, height = struct.unpack_from(">II", property_of(items, number, b"ispe"), 4)
    return width, height


def has_larger_frames(items: Items, pixels: int) -> bool:
    """Whether a decoder would allocate more than the boxes say."""
    for number, data in items.data.items():
        kind = items.types[number]
        if kind == AV1:
            width, height = largest_frame(data)
        elif kind == HEVC:
            width, height, _ = largest_picture(property_of(items, number, b"hvcC"), data)
        else:
            width, height = struct.unpack_from(">II" if data[1] & 1 else ">HH", data, 4)
        if width * height > 2 * pixels + MAX_TILE_SLACK:
            return True
    return False


def has_other_pictures(items: Items, aside: tuple[bytes, ...] = (b"auxl",)) -> bool:
    """Beside the primary one, its tiles, and what refers to it in the ways ``aside``: depth maps, other versions."""
    needed = {items.primary}
    for kind, start, ends in items.references:
        needed |= {start} if kind in aside else set(ends) if kind == b"dimg" else set()
    return any(kind in PICTURES and number not in needed for number, kind in items.types.items())


def _has_odd_properties(items: Items) -> bool:
    for kind, body in items.properties:
        if kind not in PROPERTIES or (kind == b"auxC" and not is_alpha(body)):
            return True
        if kind == b"pasp" and struct.unpack_from(">II", body) != SQUARE_PIXELS:
            return True
        if kind == b"colr" and body[:4] == b"nclx" and not is_srgb(body):
            return True
    return False


def is_alpha(body: bytes) -> bool:
    """Whether a property ``auxC`` says that its item is an alpha channel."""
    return b"auxid:1" in body or b"alpha" in body


def is_srgb(colr: bytes) -> bool:
    """Whether primaries and transfer are unspecified or those of sRGB and BT.709, which is how the pixels are taken."""
    primaries, transfer = struct.unpack_from(">HH", colr, 4)
    return primaries in (1, 2) and transfer in (1, 2, 6, 13)


def _bits_of(kind: bytes, body: bytes) -> int:
    if kind == b"pixi" and body[4]:
        return max(body[5 : 5 + body[4]])
    if kind == b"av1C":
        high_bitdepth, twelve = body[2] & 0x40, body[2] & 0x20
        return 8 if not high_bitdepth else 12 if twelve else 10
    return 8
