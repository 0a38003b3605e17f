"""TIFF directories (IFDs), which also are what EXIF is made of: read from untrusted bytes, written little-endian.

Pillow warns instead of raising when a directory is damaged and cannot write EXIF into a compressed TIFF, hence this.
Layout after TIFF 6.0, section 2; classic TIFF only.
"""

import struct
from dataclasses import dataclass, field
from typing import Final

from cnnbatch.errors import Undecodable

TYPE_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
SWAP_UNITS: Final = {3: 2, 4: 4, 5: 4, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4}  # rationals are two longs
EXIF_IFD, GPS_IFD, INTEROP_IFD = 34665, 34853, 40965
LONG: Final = 4
MAX_DEPTH: Final = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """One tag's value: TIFF type, number of values, and their bytes in little-endian order."""

    type: int
    count: int
    value: bytes

    def ints(self) -> tuple[int, ...]:
        """The values of a BYTE, SHORT or LONG entry; raises Undecodable for another type."""
        code = {1: "B", 3: "H", 4: "I", 13: "I"}.get(self.type)
        if code is None:
            raise Undecodable("corrupt", f"TIFF number of type {self.type}")
        return struct.unpack(f"<{self.count}{code}", self.value)


@dataclass(slots=True)
class Ifd:
    """A directory: its entries by tag, the directories below it by the tag that points to them."""

    entries: dict[int, Entry] = field(default_factory=dict)
    children: dict[int, "Ifd"] = field(default_factory=dict)
    has_next: bool = False

    def ints(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """The numbers of ``tag``; ``default`` where it is absent or empty."""
        return (self.entries[tag].ints() if tag in self.entries else ()) or default


def read(data: bytes) -> Ifd:
    """The first directory of a TIFF file or EXIF block, EXIF, GPS and interoperability directories below it.

    Raises Undecodable: ``corrupt``, ``truncated``, ``unsupported`` (BigTIFF).
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        raise Undecodable("corrupt", "no TIFF byte order mark")
    magic, offset = struct.unpack(order + "HI", data[2:8])
    if magic != 42:
        raise Undecodable("unsupported" if magic == 43 else "corrupt", f"TIFF magic number {magic}")
    return _read_at(data, offset, order, MAX_DEPTH)


def _read_at(data: bytes, offset: int, order: str, depth: int) -> Ifd:
    (count,) = struct.unpack(order + "H", _slice(data, offset, 2))
    table = _slice(data, offset + 2, 12 * count)
    # Many files end right behind the table, without the link to the next directory.
    ifd = Ifd(has_next=any(data[offset + 2 + 12 * count :][:4]))
    total = 0
    for tag, kind, length, inline in struct.iter_unpack(order + "HHI4s", table):
        size = TYPE_SIZES.get(kind, 0) * length
        total += size
        if total > len(data):  # overlapping values: a small file that grows
            raise Undecodable("corrupt", "TIFF values larger than the file")
        raw = inline[:size] if size <= 4 else _slice(data, struct.unpack(order + "I", inline)[0], size)
        if size:
            ifd.entries.setdefault(tag, Entry(kind, length, _little(raw, kind, order)))
    for tag in (EXIF_IFD, GPS_IFD, INTEROP_IFD):
        if tag in ifd.entries and depth:
            (child,) = ifd.entries.pop(tag).ints()[:1]
            ifd.children[tag] = _read_at(data, child, order, depth - 1)
    return ifd


def _slice(data: bytes, start: int, length: int) -> bytes:
    if start + length > len(data):
        raise Undecodable("truncated", f"TIFF of {len(data)} bytes refers to byte {start + length}")
    return data[start : start + length]


def _little(raw: bytes, kind: int, order: str) -> bytes:
    unit = SWAP_UNITS.get(kind, 1)
    if order == "<" or unit == 1:
        return raw
    return b"".join(raw[start : start + unit][::-1] for start in range(0, len(raw), unit))


def write(ifd: Ifd) -> bytes:
    """An EXIF block (header and directory) with the entries of ``ifd`` and its children."""
    return b"II*\0" + struct.pack("<I", 8) + block(ifd, 8)


def block(ifd: Ifd, offset: int) -> bytes:
    """The bytes of ``ifd``, its values and children, for the even position ``offset`` of a little-endian file."""
    tags = sorted(ifd.entries.keys() | ifd.children.keys())
    table, values = [struct.pack("<H", len(tags))], bytearray()
    start = offset + 2 + 12 * len(tags) + 4
    for tag in tags:
        position = start + len(values)
        if tag in ifd.children:
            entry, inline = Entry(LONG, 1, b""), struct.pack("<I", position)
            values += block(ifd.children[tag], position)
        else:
            entry = ifd.entries[tag]
            inline = entry.value.ljust(4, b"\0") if len(entry.value) <= 4 else struct.pack("<I", position)
            values += entry.value if len(entry.value) > 4 else b""
        values += b"\0" * (len(values) % 2)  # values begin on a word boundary
        table.append(struct.pack("<HHI", tag, entry.type, entry.count) + inline)
    return b"".join(table) + b"\0\0\0\0" + bytes(values)
