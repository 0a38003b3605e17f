"""rANS of one short stream with a 24-bit state, read and written in bytes: compiled functions for coders of small pictures."""

import numba
import numpy as np

from cnnbatch.codec.entropy_coding.tables import BUCKET_BITS, PRECISION

SMALL_LOWER = 1 << PRECISION
"""Lowest state of a small stream: one lane whose state stays in [2¹⁶, 2²⁴), read and written in bytes.

Where a picture has some fifty bytes, the eight of a 64-bit state would be a seventh of it. Three are what a state here
takes, and two of them are not lost: the encoder begins with 2¹⁶ plus a check of 16 bits, the decoder must end there. So
coarse a state costs about a bit a stream."""

SMALL_STATE_BYTES = 3


@numba.njit(nogil=True, cache=True)
def push(x, frequency, cumulative, out, position):  # type: ignore[no-untyped-def]
    """One symbol onto state ``x``; bytes go to ``out`` before ``position``. Returns both."""
    while x >= frequency << 8:
        position -= 1
        out[position] = x & 0xFF
        x >>= 8
    return (x // frequency << 16) + x % frequency + cumulative, position


@numba.njit(nogil=True, cache=True)
def _push_symbol(x, symbol, table, tables, out, position):  # type: ignore[no-untyped-def]
    """`push` of a symbol of ``table``, with 16 raw bits where the table does not hold it; `pop` is the inverse."""
    frequencies, cumulative, start, radius, _ = tables
    r = np.int64(radius[table])
    entry = start[table] + symbol + r
    if symbol > r or symbol < -r:
        entry = start[table] + 2 * r + 1
        x, position = push(x, 1, symbol + 32768, out, position)
    return push(x, np.int64(frequencies[entry]), np.int64(cumulative[entry]), out, position)


@numba.njit(nogil=True, cache=True)
def push_stream(x, symbols, indexes, tables, out):  # type: ignore[no-untyped-def]
    """A whole small stream from state ``x``, last symbol first, and the final state, to the end of ``out``; where it begins."""
    position = len(out)
    for i in range(len(symbols) - 1, -1, -1):
        x, position = _push_symbol(x, symbols[i], indexes[i], tables, out, position)
    for shift in (16, 8, 0):
        position -= 1
        out[position] = x >> shift & 0xFF
    return position


@numba.njit(nogil=True, cache=True)
def refill(x, data, position, end):  # type: ignore[no-untyped-def]
    """State ``x`` back in its range with bytes from ``data``; a position of −1 says that there are none left."""
    while x < SMALL_LOWER:
        if position >= end:
            return x, -1
        x = x << 8 | np.int64(data[position])
        position += 1
    return x, position


@numba.njit(nogil=True, cache=True)
def pop(x, table, tables, data, position, end):  # type: ignore[no-untyped-def]
    """The next symbol of ``table``. Returns (symbol, state, position); a position of −1: the data ended."""
    frequencies, cumulative, start, radius, buckets = tables
    slot = x & 0xFFFF
    begin = start[table]
    last = begin + 2 * radius[table] + 1
    entry = begin + np.int64(buckets[table, slot >> BUCKET_BITS])
    while entry < last and cumulative[entry + 1] <= slot:
        entry += 1
    x, position = refill(np.int64(frequencies[entry]) * (x >> 16) + slot - np.int64(cumulative[entry]), data, position, end)
    symbol = entry - begin - radius[table]
    if entry == last and position >= 0:
        symbol = (x & 0xFFFF) - 32768
        x, position = refill(x >> 16, data, position, end)
    return symbol, x, position
