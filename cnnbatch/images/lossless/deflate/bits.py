"""Bits of a deflate stream, the lowest of a byte first. Every index is checked: IndexError at the end of the data."""

import numba
import numpy as np


@numba.njit(nogil=True, cache=True, boundscheck=True)
def peek(data, bit):  # type: ignore[no-untyped-def]
    """At least 24 bits from the position ``bit`` on."""
    at = bit >> 3
    value = np.int64(data[at]) | np.int64(data[at + 1]) << 8 | np.int64(data[at + 2]) << 16 | np.int64(data[at + 3]) << 24
    return value >> (bit & 7)


@numba.njit(nogil=True, cache=True, boundscheck=True)
def put(out, bit, value, count):  # type: ignore[no-untyped-def]
    """Writes ``value`` into ``out``, which is zero there; returns the position behind its ``count`` bits."""
    at = bit >> 3
    value <<= bit & 7
    while value:
        out[at] |= value & 255
        value >>= 8
        at += 1
    return bit + count
