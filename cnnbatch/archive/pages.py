"""The pages of a Parquet column as they lie in a file: their sizes, encodings and checksums, before Arrow decodes anything.

Arrow believes what a page claims of its size, and reads as many values as it is told: a file of a few kB may claim gigabytes.
So the headers are read here first (Thrift's compact protocol, of which a header is one struct), and the page checksums are
compared on the way.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

DATA_PAGE: Final = 0
DICTIONARY_PAGE: Final = 2
DATA_PAGE_V2: Final = 3

BOUNDED_ENCODINGS: Final = frozenset({0, 6})
"""PLAIN and DELTA_LENGTH_BYTE_ARRAY: all bytes of all values are in the page. With the others a value may be there once for many."""

_MAX_DEPTH: Final = 8
_MAX_VARINT_BYTES: Final = 10


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its bytes when decompressed, by its own words, and the encoding of a data page's values."""

    num_bytes: int
    encoding: int | None


def read_pages(column: memoryview, *, check: bool) -> Iterator[Page]:
    """Yield the pages of a column of one row group, whose bytes ``column`` is; ``check`` compares the checksums.

    Raises:
        ValueError: the bytes are not pages, one after the other, or a checksum is wrong.
    """
    position = 0
    while position < len(column):
        header, start = _read_struct(column, position, 0)
        size, stored, checksum = (header.get(number) for number in (2, 3, 4))
        if not (isinstance(size, int) and isinstance(stored, int) and size >= 0 and 0 <= stored <= len(column) - start):
            raise ValueError(f"a page claims {stored} bytes, {len(column) - start} are left")
        position = start + stored
        if check and checksum is not None and zlib.crc32(column[start:position]) != checksum & 0xFFFFFFFF:
            raise ValueError("a page has another checksum")
        yield Page(size, _encoding(header))


def _encoding(header: dict[int, Any]) -> int | None:
    """Of the values of a data page; None: it is another page."""
    kinds = {DATA_PAGE: (5, 2), DATA_PAGE_V2: (8, 4)}
    if header.get(1) not in kinds:
        return None
    inner, number = kinds[header[1]]
    found = header.get(inner)
    if not isinstance(found, dict) or not isinstance(found.get(number), int):
        raise ValueError("a data page does not tell its encoding")
    encoding: int = found[number]
    return encoding


def _read_struct(data: memoryview, position: int, depth: int) -> tuple[dict[int, Any], int]:
    """A struct as its fields by number, and where it ends."""
    if depth > _MAX_DEPTH:
        raise ValueError("a header is nested too deeply")
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head, position = _byte(data, position)
        if head == 0:
            return fields, position
        if head >> 4:
            number += head >> 4
        else:
            number, position = _zigzag(data, position)
        fields[number], position = _read_value(data, position, head & 0x0F, depth)


def _read_value(data: memoryview, position: int, kind: int, depth: int) -> tuple[Any, int]:
    match kind:
        case 1 | 2:  # a field's own type says whether it is true
            return kind == 1, position
        case 3:
            return _byte(data, position)
        case 4 | 5 | 6:
            return _zigzag(data, position)
        case 7:
            return struct.unpack("<d", _take(data, position, 8))[0], position + 8
        case 8:
            length, position = _varint(data, position)
            return bytes(_take(data, position, length)), position + length
        case 12:
            return _read_struct(data, position, depth + 1)
    raise ValueError(f"a header has a field of type {kind}")  # lists and maps: no page header has any


def _take(data: memoryview, position: int, length: int) -> memoryview:
    if length > len(data) - position:
        raise ValueError("a header ends too early")
    return data[position : position + length]


def _byte(data: memoryview, position: int) -> tuple[int, int]:
    if position >= len(data):
        raise ValueError("a header ends too early")
    return data[position], position + 1


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
        byte, position = _byte(data, position)
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a header has a number that does not end")


def _zigzag(data: memoryview, position: int) -> tuple[int, int]:
    value, position = _varint(data, position)
    return (value >> 1) ^ -(value & 1), position
