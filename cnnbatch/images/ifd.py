"""TIFF directories (IFDs), which also are what EXIF is made of: read from untrusted bytes, written little-endian.

Pillow warns instead of raising when a directory is damaged and cannot write EXIF into a compressed TIFF, hence this.
Layout after TIFF 6.0, section 2; classic TIFF only.
"""

import struct
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cnnbatch.errors import Undecodable

TYPE_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
SWAP_UNITS: Final = {3: 2, 4: 4, 5: 4, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4}  # rationals are two longs
INTEGERS: Final = {1: "<u1", 3: "<u2", 4: "<u4", 13: "<u4"}
EXIF_IFD, GPS_IFD, INTEROP_IFD, SUB_IFDS = 34665, 34853, 40965, 330
SHORT, LONG = 3, 4
ORIENTATION: Final = 274
MAX_DEPTH: Final = 3
MAX_ENTRIES: Final = 4096
"""Tags of a directory; there are some hundred in use."""
MAX_INTS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Entry:
    """One tag's value: TIFF type, number of values, and their bytes in little-endian order."""

    type: int
    count: int
    value: bytes

    def array(self) -> NDArray[Any]:
        """The values of a BYTE, SHORT or LONG entry; raises Undecodable for another type."""
        if self.type not in INTEGERS:
            raise Undecodable("corrupt", f"TIFF number of type {self.type}")
        return np.frombuffer(self.value, INTEGERS[self.type])

    def ints(self) -> tuple[int, ...]:
        """The same, where a few are expected."""
        if self.count > MAX_INTS:
            raise Undecodable("corrupt", f"{self.count} TIFF numbers where a few are expected")
        return tuple(self.array().tolist())


@dataclass(slots=True)
class Ifd:
    """A directory: its entries by tag, the directories below it by the tag that points to them.

    ``is_odd``: it or one below has a tag twice, a value of an unknown type, or further directories behind it.
    ``extents`` are the (start, end) of all that was read.
    """

    entries: dict[int, Entry] = field(default_factory=dict)
    children: dict[int, "Ifd"] = field(default_factory=dict)
    following: int = 0
    """Where the next directory is; 0: there is none."""
    is_odd: bool = False
    extents: list[tuple[int, int]] = field(default_factory=list)

    @property
    def has_next(self) -> bool:
        """Whether there is another directory behind it."""
        return self.following != 0

    def ints(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """The numbers of ``tag``; ``default`` where it is absent or empty."""
        return (self.entries[tag].ints() if tag in self.entries else ()) or default


def upright(exif: bytes) -> bytes:
    """EXIF of a picture that has been turned as it says: the orientation is 1, everything else is where it was."""
    order = "<" if exif[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    turned = bytearray(exif)
    for position in range(start + 2, start + 2 + 12 * min(count, MAX_ENTRIES), 12):
        if struct.unpack_from(f"{order}H", exif, position) == (ORIENTATION,):
            struct.pack_into(f"{order}HIHH", turned, position + 2, SHORT, 1, 1, 0)
    return bytes(turned)


def read(data: bytes) -> Ifd:
    """The first directory of a TIFF file or EXIF block, EXIF, GPS and interoperability directories below it.

    Raises Undecodable: ``corrupt``, ``truncated``, ``unsupported`` (BigTIFF).
    """
    reader, offset = _open(data)
    return reader.read(offset, MAX_DEPTH)


def read_all(data: bytes, most: int) -> list[Ifd]:
    """All directories of a TIFF file up to ``most``: pages, and what their SubIFDs tags point to. Raises as `read`."""
    reader, offset = _open(data)
    found: list[Ifd] = []
    waiting = [offset]
    while waiting and len(found) < most:
        directory = reader.read(waiting.pop(0), 0)
        found.append(directory)
        waiting += [*directory.ints(SUB_IFDS), *([directory.following] if directory.following else [])]
    return found


def _open(data: bytes) -> tuple["_Reader", int]:
    """A reader, and where the first directory is."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        raise Undecodable("corrupt", "no TIFF byte order mark")
    magic, offset = struct.unpack(order + "HI", data[2:8])
    if magic != 42:
        raise Undecodable("unsupported" if magic == 43 else "corrupt", f"TIFF magic number {magic}")
    return _Reader(data, order), offset


class _Reader:
    """Reads no more bytes than the file has: directories and values that overlap would make a small file a long one."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.order = data, order
        self.extents = [(0, 8)]
        self.left = len(data)

    def read(self, offset: int, depth: int) -> Ifd:
        (count,) = struct.unpack(self.order + "H", self.slice(offset, 2))
        if count > MAX_ENTRIES:
            raise Undecodable("corrupt", f"TIFF directory of {count} entries")
        table = self.slice(offset + 2, 12 * count)
        end = offset + 2 + 12 * count
        self.extents.append((end, end + 4))  # many files end here, without the link to the next directory
        following = self.data[end : end + 4].ljust(4, b"\0")
        ifd = Ifd(following=struct.unpack(self.order + "I", following)[0], extents=self.extents)
        for tag, kind, length, inline in struct.iter_unpack(self.order + "HHI4s", table):
            size = TYPE_SIZES.get(kind, 0) * length
            if tag in ifd.entries or kind not in TYPE_SIZES:
                ifd.is_odd = True
            elif size:
                raw = inline[:size] if size <= 4 else self.slice(struct.unpack(self.order + "I", inline)[0], size)
                ifd.entries[tag] = Entry(kind, length, self.little(raw, kind))
        for tag in (EXIF_IFD, GPS_IFD, INTEROP_IFD):
            if tag in ifd.entries and depth:
                (child,) = ifd.entries.pop(tag).ints()[:1]
                ifd.children[tag] = below = self.read(child, depth - 1)
                ifd.is_odd |= below.is_odd or below.has_next
        return ifd

    def slice(self, start: int, length: int) -> bytes:
        if start + length > len(self.data):
            raise Undecodable("truncated", f"TIFF of {len(self.data)} bytes refers to byte {start + length}")
        self.left -= length
        if self.left < 0:
            raise Undecodable("corrupt", "TIFF values larger than the file")
        self.extents.append((start, start + length))
        return self.data[start : start + length]

    def little(self, raw: bytes, kind: int) -> bytes:
        unit = SWAP_UNITS.get(kind, 1)
        if self.order == "<" or unit == 1:
            return raw
        return np.frombuffer(raw, f">u{unit}").astype(f"<u{unit}").tobytes()


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
