"""The pages of a Parquet column as they lie in a file: their sizes, encodings and checksums, before Arrow decodes anything.

Arrow believes what a page claims of its size, and reads as many values as it is told: a file of a few kB may claim gigabytes.
So the headers are read here first (structs of Thrift's compact protocol), and the page checksums are compared on the way. The
page index tells which page has one value; Arrow would read the whole row group for it.
"""

import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cnnbatch.leb128 import read_leb128

DATA_PAGE: Final = 0
DATA_PAGE_V2: Final = 3
PLAIN: Final = 0
UNCOMPRESSED: Final = 0

BOUNDED_ENCODINGS: Final = frozenset({0, 6})
"""PLAIN and DELTA_LENGTH_BYTE_ARRAY: all bytes of all values are in the page. Of the others one may stand for many values."""

_MAX_DEPTH: Final = 8
_LONG_LIST: Final = 15


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
        if not isinstance(checksum, int | None):
            raise ValueError("a page's checksum is not a 32-bit number")
        position = start + stored
        if check and checksum is not None and zlib.crc32(column[start:position]) != checksum & 0xFFFFFFFF:
            raise ValueError("the checksum of a page does not match")
        yield Page(size, _encoding(header))


def _encoding(header: dict[int, Any]) -> int | None:
    """Encoding of the values of a data page; None: it is another page."""
    kinds = {DATA_PAGE: (5, 2), DATA_PAGE_V2: (8, 4)}
    kind = header.get(1)
    if not isinstance(kind, int):
        raise ValueError("a page does not state its kind")
    if kind not in kinds:
        return None
    inner, number = kinds[kind]
    found = header.get(inner)
    if not isinstance(found, dict) or not isinstance(found.get(number), int):
        raise ValueError("a data page does not state its encoding")
    encoding: int = found[number]
    return encoding


@dataclass(frozen=True, slots=True)
class PagePlace:
    """Where a page begins and ends in the file, and its first row in the row group."""

    start: int
    end: int
    first_row: int


def read_footer_struct(footer: memoryview) -> dict[int, Any]:
    """The fields of a footer. Raises ValueError where it is damaged."""
    return _read_struct(footer, 0, 0)[0]


def column_pages(fields: Mapping[int, Any], read: Callable[[int, int], memoryview], group: int, column: str) -> list[PagePlace]:
    """The pages of an uncompressed column of a row group, by the page index; ``fields``: of the footer.

    ``read`` gives the bytes of the file from one position to another.

    Raises:
        LookupError: there is no page index, or not such a column.
        ValueError, TypeError: footer or page index are damaged.
    """
    [chunk] = [chunk for chunk in fields[4][group][1] if chunk[3][3] == [column.encode()]]
    if chunk[3][4] != UNCOMPRESSED:
        raise LookupError(f"{column} is compressed")
    entries = _read_struct(read(chunk[4], chunk[4] + chunk[5]), 0, 0)[0][1]
    return [PagePlace(entry[1], entry[1] + entry[2], entry[3]) for entry in entries]


def page_of_row(pages: Sequence[PagePlace], row: int) -> int:
    """Which page has a row."""
    return bisect_right(pages, row, key=lambda page: page.first_row) - 1


def plain_value(page: memoryview, index: int) -> memoryview:
    """One value of a data page of a text column that is never null, and plainly encoded.

    Raises:
        LookupError: it is another page.
        ValueError: it is damaged.
    """
    start, length = plain_span(page, index)
    return _take(page, start, length)


def plain_span(page: memoryview, index: int) -> tuple[int, int]:
    """Where in such a page a value begins, and how many bytes it has; raises as `plain_value`."""
    header, position = _read_struct(page, 0, 0)
    if _encoding(header) != PLAIN:
        raise LookupError("the page has another encoding")
    for _ in range(index):
        position += 4 + int.from_bytes(_take(page, position, 4), "little")
    return position + 4, int.from_bytes(_take(page, position, 4), "little")


def _read_struct(data: memoryview, position: int, depth: int) -> tuple[dict[int, Any], int]:
    """A struct as its fields by number, and where it ends."""
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
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
            length, position = read_leb128(data, position)
            return bytes(_take(data, position, length)), position + length
        case 9 | 10:
            return _read_list(data, position, depth + 1)
        case 12:
            return _read_struct(data, position, depth + 1)
    raise ValueError(f"there is a field of type {kind}")  # maps: Parquet has none


def _read_list(data: memoryview, position: int, depth: int) -> tuple[list[Any], int]:
    head, position = _byte(data, position)
    count, kind = head >> 4, head & 0x0F
    if count == _LONG_LIST:
        count, position = read_leb128(data, position)
    values = []
    for _ in range(count):
        value, position = _byte(data, position) if kind in (1, 2) else _read_value(data, position, kind, depth)
        values.append(value)
    return values, position


def _take(data: memoryview, position: int, length: int) -> memoryview:
    if length > len(data) - position:
        raise ValueError("it ends too early")
    return data[position : position + length]


def _byte(data: memoryview, position: int) -> tuple[int, int]:
    if position >= len(data):
        raise ValueError("it ends too early")
    return data[position], position + 1


def _zigzag(data: memoryview, position: int) -> tuple[int, int]:
    value, position = read_leb128(data, position)
    return (value >> 1) ^ -(value & 1), position
