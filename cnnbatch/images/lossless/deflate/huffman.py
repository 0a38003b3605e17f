"""Huffman codes of deflate (RFC 1951, 3.2): code lengths as blocks give them, codes, tables to decode with, both alphabets.

A block's code lengths are in one array: those of literals, lengths of matches and the end of the block, then, from
`DISTANCES` on, those of distances.
"""

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from cnnbatch.images.lossless.deflate.bits import peek

END: Final = 256
"""Symbol of a block's end; those of matches follow."""

DISTANCES: Final = 288
NUM_DISTANCES: Final = 30
LONGEST_CODE: Final = 15

LENGTH_BASE: Final = np.array(
    [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258],
    np.int32,
)
LENGTH_BITS: Final = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0], np.int32)
LENGTH_CODE: Final = np.array(
    [0, 0, 0, *(int(np.searchsorted(LENGTH_BASE, length, "right")) - 1 for length in range(3, 259))], np.int32
)
DISTANCE_BASE: Final = np.array([1, 2, *((2 + code % 2 << code // 2 - 1) + 1 for code in range(2, 30))], np.int32)
DISTANCE_BITS: Final = np.array([0, 0, *(bits // 2 for bits in range(28))], np.int32)
ORDER: Final = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15], np.int32)
"""In which a block gives the lengths of the code that its code lengths are in."""


def new_lengths() -> NDArray[np.int64]:
    """Code lengths of a block without a symbol."""
    return np.zeros(DISTANCES + 32, np.int64)


def new_table() -> NDArray[np.int64]:
    """A table without an entry: see `fill_table`."""
    return np.zeros(1 << LONGEST_CODE, np.int64)


def fixed_lengths() -> NDArray[np.int64]:
    """The code lengths of blocks that give none."""
    lengths = new_lengths()
    lengths[:DISTANCES] = np.repeat([8, 9, 7, 8], [144, 112, 24, 8])
    lengths[DISTANCES : DISTANCES + NUM_DISTANCES] = 5
    return lengths


@numba.njit(nogil=True, cache=True, boundscheck=True)
def distance_code(distance):  # type: ignore[no-untyped-def]
    """The symbol of a distance."""
    code = 0
    while code < 29 and DISTANCE_BASE[code + 1] <= distance:
        code += 1
    return code


@numba.njit(nogil=True, cache=True, boundscheck=True)
def fill_codes(lengths, first, number, codes):  # type: ignore[no-untyped-def]
    """The canonical codes of ``number`` lengths, bits reversed as the stream has them; returns whether they are a code."""
    count = np.zeros(16, np.int64)
    for symbol in range(number):
        count[lengths[first + symbol]] += 1
    count[0] = 0
    following = np.zeros(17, np.int64)
    room = 1
    for bits in range(1, 16):
        room = 2 * room - count[bits]
        if room < 0:
            return False
        following[bits + 1] = (following[bits] + count[bits]) << 1
    for symbol in range(number):
        bits = lengths[first + symbol]
        if bits:
            code = following[bits]
            following[bits] += 1
            reversed_ = 0
            for _ in range(bits):
                reversed_ = reversed_ << 1 | code & 1
                code >>= 1
            codes[symbol] = reversed_
    return True


@numba.njit(nogil=True, cache=True, boundscheck=True)
def fill_table(lengths, first, number, table):  # type: ignore[no-untyped-def]
    """For the next 15 bits: symbol << 4 | its bits, 0 where there is none; returns whether the lengths are a code."""
    codes = np.zeros(number, np.int64)
    if not fill_codes(lengths, first, number, codes):
        return False
    table[:] = 0
    for symbol in range(number):
        bits = lengths[first + symbol]
        if bits:
            for entry in range(codes[symbol], 1 << 15, 1 << bits):
                table[entry] = symbol << 4 | bits
    return True


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _small_lengths(data, bit, used):  # type: ignore[no-untyped-def]
    """Lengths of the code that code lengths are in."""
    small = np.zeros(19, np.int64)
    for index in range(used):
        small[ORDER[index]] = peek(data, bit + 3 * index) & 7
    return small


@numba.njit(nogil=True, cache=True, boundscheck=True)
def read_lengths(data, bit, lengths, table):  # type: ignore[no-untyped-def]
    """The code lengths of a block, ``table`` to work in; returns the position behind them, −1: damaged."""
    value = peek(data, bit)
    literals, distances, used = (value & 31) + 257, (value >> 5 & 31) + 1, (value >> 10 & 15) + 4
    if not fill_table(_small_lengths(data, bit + 14, used), np.int64(0), np.int64(19), table):
        return -1
    bit += 14 + 3 * used
    lengths[:] = 0
    at = before = 0
    while at < literals + distances:
        entry = table[peek(data, bit) & 0x7FFF]
        if entry == 0:
            return -1
        bit += entry & 15
        symbol = entry >> 4
        repeat = 1
        if symbol < 16:
            before = symbol
        else:
            extra = 2 if symbol == 16 else 3 if symbol == 17 else 7
            repeat = (peek(data, bit) & (1 << extra) - 1) + (11 if symbol == 18 else 3)
            bit += extra
            if symbol > 16:
                before = 0
            elif at == 0:
                return -1
        if at + repeat > literals + distances:
            return -1
        for _ in range(repeat):
            lengths[at if at < literals else at - literals + 288] = before
            at += 1
    return bit
