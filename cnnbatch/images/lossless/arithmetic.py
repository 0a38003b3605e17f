"""An adaptive binary range coder (Martin 1979; the carry handling is that of LZMA), compiled by numba.

State is in arrays, so that compiled functions of other modules can code bit by bit. Every index is checked: damaged input
raises IndexError, never more.
"""

import numba
import numpy as np
from numpy.typing import NDArray

PROBABILITY_BITS = 15
HALF = 1 << PROBABILITY_BITS - 1
RATE = 5

LOW, RANGE, CACHE, PENDING, POSITION = range(5)
CODE = LOW
"""The decoder has its code word where the encoder has the lower end."""


def probabilities(number: int) -> NDArray[np.int64]:
    """Probabilities of a zero, for each context."""
    return np.full(number, HALF, np.int64)


def new_encoder() -> NDArray[np.int64]:
    """The state of an encoder that has written nothing."""
    return np.array([0, 0xFFFFFFFF, 0, 1, 0], np.int64)


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _shift_low(state, out):  # type: ignore[no-untyped-def]
    if state[0] < 0xFF000000 or state[0] > 0xFFFFFFFF:
        carry = state[0] >> 32
        value = state[2]
        while state[3] > 0:
            out[state[4]] = (value + carry) & 0xFF
            state[4] += 1
            value = 0xFF
            state[3] -= 1
        state[2] = state[0] >> 24 & 0xFF
    state[3] += 1
    state[0] = (state[0] & 0x00FFFFFF) << 8


@numba.njit(nogil=True, cache=True, boundscheck=True)
def encode_bit(state, out, contexts, index, bit):  # type: ignore[no-untyped-def]
    """Codes ``bit`` with the context ``index``, which learns from it."""
    zero = contexts[index]
    bound = (state[1] >> 15) * zero
    if bit:
        state[0] += bound
        state[1] -= bound
        contexts[index] = zero - (zero >> 5)
    else:
        state[1] = bound
        contexts[index] = zero + (32768 - zero >> 5)
    while state[1] < 1 << 24:
        state[1] <<= 8
        _shift_low(state, out)


@numba.njit(nogil=True, cache=True, boundscheck=True)
def encode_even(state, out, value, count):  # type: ignore[no-untyped-def]
    """Codes the low ``count`` bits of ``value``, each as likely as not."""
    for shift in range(count - 1, -1, -1):
        state[1] >>= 1
        if value >> shift & 1:
            state[0] += state[1]
        while state[1] < 1 << 24:
            state[1] <<= 8
            _shift_low(state, out)


@numba.njit(nogil=True, cache=True, boundscheck=True)
def encode_tree(state, out, contexts, start, value, count):  # type: ignore[no-untyped-def]
    """Codes a number of ``count`` bits, from the highest, with the 2^count contexts from ``start`` on."""
    node = 1
    for shift in range(count - 1, -1, -1):
        bit = value >> shift & 1
        encode_bit(state, out, contexts, start + node, bit)
        node = 2 * node + bit


@numba.njit(nogil=True, cache=True, boundscheck=True)
def finish(state, out):  # type: ignore[no-untyped-def]
    """Writes what is pending; returns the number of bytes, the first of which is always zero."""
    for _ in range(5):
        _shift_low(state, out)
    return state[4]


@numba.njit(nogil=True, cache=True, boundscheck=True)
def start_decoder(state, data):  # type: ignore[no-untyped-def]
    """Makes ``state`` that of a decoder at the beginning of ``data``."""
    state[0] = 0
    state[1] = 0xFFFFFFFF
    for index in range(1, 5):
        state[0] = state[0] << 8 | data[index]
    state[4] = 5


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _refill(state, data):  # type: ignore[no-untyped-def]
    while state[1] < 1 << 24:
        state[1] <<= 8
        state[0] = state[0] << 8 | data[state[4]]
        state[4] += 1


@numba.njit(nogil=True, cache=True, boundscheck=True)
def decode_bit(state, data, contexts, index):  # type: ignore[no-untyped-def]
    """The reverse of `encode_bit`."""
    zero = contexts[index]
    bound = (state[1] >> 15) * zero
    bit = 0
    if state[0] < bound:
        state[1] = bound
        contexts[index] = zero + (32768 - zero >> 5)
    else:
        state[0] -= bound
        state[1] -= bound
        contexts[index] = zero - (zero >> 5)
        bit = 1
    _refill(state, data)
    return bit


@numba.njit(nogil=True, cache=True, boundscheck=True)
def decode_even(state, data, count):  # type: ignore[no-untyped-def]
    """The reverse of `encode_even`."""
    value = 0
    for _ in range(count):
        state[1] >>= 1
        bit = 0
        if state[0] >= state[1]:
            state[0] -= state[1]
            bit = 1
        value = value << 1 | bit
        _refill(state, data)
    return value


@numba.njit(nogil=True, cache=True, boundscheck=True)
def decode_tree(state, data, contexts, start, count):  # type: ignore[no-untyped-def]
    """The reverse of `encode_tree`."""
    node = 1
    for _ in range(count):
        node = 2 * node + decode_bit(state, data, contexts, start + node)
    return node - (1 << count)
