"""LZW streams as in TIFF (TIFF 6.0, section 13) ↔ what they hold and how many codes there are between their Clear codes.

An encoder takes the longest string that is in its table; when it begins a new table is its own choice. So that is all there
is to keep, and a stream of an encoder that does otherwise is not taken.
"""

from typing import Final

import imagecodecs
import numba
import numpy as np

from cnnbatch.images.lossless.numbers import Reader
from cnnbatch.leb128 import leb128

CLEAR, END, FIRST, LAST = 256, 257, 258, 4095
MAX_TABLES: Final = 1 << 20


def inflate(stream: bytes, num_bytes: int) -> bytes | None:
    """The content of a stream; None where that is damaged or has not ``num_bytes``."""
    try:
        raw = bytes(imagecodecs.lzw_decode(stream, out=num_bytes + 1))
    except (imagecodecs.LzwError, ValueError, RuntimeError):
        return None
    return raw if len(raw) == num_bytes else None


def analyse(stream: bytes, raw: bytes) -> bytes | None:
    """The recipe that makes ``stream`` again of its content; None where there is none. It is not checked."""
    data = np.frombuffer(stream + bytes(8), np.uint8)
    counts = np.zeros(len(stream) + 2, np.int64)
    found, end, bit = _count(data, 8 * len(stream), counts)
    if found < 0:
        return None
    tail = stream[(bit + 7) // 8 :]
    head = leb128(found) + b"".join(leb128(int(count)) for count in counts[:found])
    return head + bytes([end]) + leb128(len(tail)) + tail


def rebuild(raw: bytes, recipe: bytes, *, max_bytes: int) -> bytes:
    """The stream; raises ValueError or IndexError for a recipe that is none, or a stream of more than ``max_bytes``."""
    reader = Reader(recipe)
    counts = np.array([reader.number() for _ in range(reader.number(MAX_TABLES))], np.int64)
    has_end = reader.take(1) == b"\1"
    tail = reader.take(reader.number())
    out = np.zeros(max_bytes + 16, np.uint8)
    length = _rebuild(np.frombuffer(raw, np.uint8), counts, has_end, np.zeros(256 * (LAST + 1), np.int32), out)
    if length < 0:
        raise ValueError("a recipe of an LZW stream that does not fit its content")
    return out[:length].tobytes() + tail


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _width(size):  # type: ignore[no-untyped-def]
    """Bits of the next code where the table has ``size`` entries; one entry early, as TIFF has it."""
    return 9 if size < 511 else 10 if size < 1023 else 11 if size < 2047 else 12


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _count(data, num_bits, counts):  # type: ignore[no-untyped-def]
    """Number of tables, whether there is an End code, and the position behind it; −1 for what does not begin with Clear."""
    found, size, bit = -1, 258, 0
    while bit + _width(size) <= num_bits:
        width = _width(size)
        at = bit >> 3
        value = np.int64(data[at]) << 16 | np.int64(data[at + 1]) << 8 | np.int64(data[at + 2])
        code = value >> (24 - width - (bit & 7)) & (1 << width) - 1
        bit += width
        if code == 257:
            return found + 1, 1, bit
        if code == 256:
            found += 1
            size = 258
            continue
        if found < 0:
            return -1, 0, bit
        if counts[found] and size < 4096:  # the first code after Clear makes no entry
            size += 1
        counts[found] += 1
    return found + 1, 0, bit


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _put(out, bit, value, width):  # type: ignore[no-untyped-def]
    at = bit >> 3
    value <<= 24 - width - (bit & 7)
    out[at] |= value >> 16
    out[at + 1] |= value >> 8 & 255
    out[at + 2] |= value & 255
    return bit + width


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _rebuild(raw, counts, has_end, following, out):  # type: ignore[no-untyped-def]
    """Writes the stream into ``out``, which is zero; returns its bytes, −1 where counts and content do not fit.

    ``following``: of a string and a byte (256 × string + byte), the table's number << 12 | the longer string.
    """
    bit = at = 0
    size = 258
    for table in range(len(counts)):
        stamp = (table & 0x3FFFF) + 1
        if stamp == 1 and table:
            following[:] = 0
        bit = _put(out, bit, 256, _width(size))
        size = 258
        for index in range(counts[table]):
            if at >= len(raw):
                return -1
            code = np.int64(raw[at])
            at += 1
            while at < len(raw) and following[256 * code + raw[at]] >> 12 == stamp:
                code = following[256 * code + raw[at]] & 4095
                at += 1
            bit = _put(out, bit, code, _width(size))
            if 258 + index < 4096 and at < len(raw):
                following[256 * code + raw[at]] = stamp << 12 | 258 + index
            if index and size < 4096:
                size += 1
    if has_end:
        bit = _put(out, bit, 257, _width(size))
    return (bit + 7) >> 3 if at == len(raw) else -1
