"""rANS entropy coder over static integer tables, compiled by numba.

Asymmetric numeral systems (Duda 2013, arXiv 1311.2540) in the range variant with a 64-bit state and 32-bit words. The encoder
runs backwards, so the decoder reads forwards and may stop in the middle to compute the indexes of the symbols that follow.

Invariants: the state x stays in [2³¹, 2⁶³); a decoder that has read everything ends with the state 2³¹ and no word left, which
`Decoder.finish` checks. Every read is bounds-checked: damaged input raises BitstreamError, never more.

>>> tables = gaussian_tables(np.array([0.5, 2.0]))
>>> indexes = np.array([0, 1, 1, 0], np.uint8)
>>> data = encode(np.array([0, -3, 900, 1], np.int16), indexes, tables)
>>> decoder = Decoder(data, tables)
>>> decoder.decode(indexes[:2]).tolist(), decoder.decode(indexes[2:]).tolist()
([0, -3], [900, 1])
>>> decoder.finish()
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from cnnbatch.codec.entropy_coding.tables import Indexes, Symbols, Tables
from cnnbatch.errors import BitstreamError

_LOWER = np.uint64(1 << 31)
_MASK16 = np.uint64(0xFFFF)
_MASK32 = np.uint64(0xFFFFFFFF)
_S16 = np.uint64(16)
_S32 = np.uint64(32)
_S47 = np.uint64(47)


@dataclass(frozen=True, slots=True)
class StateMachine:
    """Sets of tables in turn: in state s index i means the table i + ``offsets[s]``, and a symbol of parity p leads to the
    state ``moves[s, p]``. Indexes below ``first`` are tables themselves and move nothing. Each `Decoder.decode` begins in
    state 0."""

    offsets: npt.NDArray[np.int64]
    moves: npt.NDArray[np.int64]
    first: int


def encode(symbols: Symbols, indexes: Indexes, tables: Tables) -> bytes:
    """Symbols [n] with their table indexes [n] → bytes; |symbol| ≤ `SYMBOL_LIMIT`."""
    words = np.empty(2 * len(symbols) + 2, np.uint32)
    first = _encode(symbols, indexes, tables.compiled, words)
    return words[first:].astype("<u4", copy=False).tobytes()


class Decoder:
    """Reads one stream front to back; `decode` may be called several times."""

    def __init__(self, data: bytes | memoryview, tables: Tables) -> None:
        if len(data) % 4 or len(data) < 8:
            raise BitstreamError(f"entropy-coded stream of {len(data)} bytes, expected a multiple of 4, at least 8")
        self._words = np.frombuffer(data, "<u4").astype(np.uint32)  # a copy: aligned, so numba compiles one version
        self._state = self._words[:2].astype("<u4").view("<u8").astype(np.uint64)  # an array: compiled loops change it
        self._stream = tables.compiled, self._words, self._state
        self._position = 2

    def decode(self, indexes: Indexes, machine: StateMachine | None = None) -> Symbols:
        """The next ``len(indexes)`` symbols; raises BitstreamError at the end of the data."""
        symbols = np.empty(len(indexes), np.int16)
        states = None if machine is None else (machine.offsets, machine.moves, machine.first)
        self._position = _decode(symbols, indexes, self._stream, self._position, states)
        if self._position < 0:
            raise BitstreamError("entropy-coded stream ends too early")
        return symbols

    def decode_by(self, loop: Callable[..., int], values: Symbols, *args: Any) -> None:
        """Fills ``values`` by a compiled loop that finds each index from the symbols before it, with `take_symbol`.

        ``loop(values, *args, stream, position)`` decodes as many symbols as there are values and returns the position
        after them, −1 at the end of the data, or −2 where a value cannot be; then BitstreamError is raised.
        """
        self._position = loop(values, *args, self._stream, self._position)
        if self._position < 0:
            fault = "ends too early" if self._position == -1 else "holds a value that cannot be"
            raise BitstreamError(f"entropy-coded stream {fault}")

    def finish(self) -> None:
        """Raises BitstreamError unless the stream ended exactly here."""
        if self._position != len(self._words) or self._state[0] != _LOWER:
            raise BitstreamError("entropy-coded stream does not end where its symbols end")


@numba.njit(nogil=True, cache=True)
def _encode(symbols, indexes, tables, words):  # type: ignore[no-untyped-def]
    """Fills ``words`` from their end; returns where the stream begins."""
    frequencies, cumulative, start, radius, _ = tables
    x = _LOWER
    position = len(words)
    for i in range(len(symbols) - 1, -1, -1):
        table = indexes[i]
        symbol = np.int32(symbols[i])
        r = radius[table]
        entry = start[table] + symbol + r
        if symbol > r or symbol < -r:
            entry = start[table] + 2 * r + 1
            if x >= np.uint64(1) << _S47:
                position -= 1
                words[position] = np.uint32(x & _MASK32)
                x >>= _S32
            x = (x << _S16) | np.uint64(symbol + 32768)
        frequency = np.uint64(frequencies[entry])
        if x >= frequency << _S47:
            position -= 1
            words[position] = np.uint32(x & _MASK32)
            x >>= _S32
        quotient = x // frequency
        x = (quotient << _S16) + (x - quotient * frequency) + np.uint64(cumulative[entry])
    position -= 2
    words[position] = np.uint32(x & _MASK32)
    words[position + 1] = np.uint32(x >> _S32)
    return position


@numba.njit(nogil=True, cache=True)
def _decode(symbols, indexes, stream, position, machine):  # type: ignore[no-untyped-def]
    """Fills ``symbols``; returns the position after them, −1 at the end of the data. ``machine``: a `StateMachine`'s fields."""
    (frequencies, cumulative, start, radius, buckets), words, rans_state = stream
    num_words, x, state = len(words), rans_state[0], 0
    for i in range(len(symbols)):
        table = np.int64(indexes[i])
        if machine is not None and table >= machine[2]:
            table += machine[0][state]
        slot = np.uint32(x & _MASK16)
        begin = start[table]
        last = begin + 2 * radius[table] + 1
        entry = begin + np.int32(buckets[table, slot >> np.uint32(8)])
        while entry < last and cumulative[entry + 1] <= slot:
            entry += 1
        x = np.uint64(frequencies[entry]) * (x >> _S16) + np.uint64(slot - cumulative[entry])
        if x < _LOWER:
            if position >= num_words:
                return -1
            x = (x << _S32) | np.uint64(words[position])
            position += 1
        symbol = entry - begin - radius[table]
        if entry == last:
            symbol = np.int32(x & _MASK16) - 32768
            x >>= _S16
            if x < _LOWER:
                if position >= num_words:
                    return -1
                x = (x << _S32) | np.uint64(words[position])
                position += 1
        symbols[i] = symbol
        if machine is not None and indexes[i] >= machine[2]:
            state = machine[1][state, symbol & 1]
    rans_state[0] = x
    return position


@numba.njit(nogil=True, cache=True)
def take_symbol(table, stream, x, position):  # type: ignore[no-untyped-def]
    """The next symbol of a stream in state ``x`` by a table, the state and the position after it, −1 if the data ended.

    A step of `_decode`, which has it in its loop: a call takes half as long again, and arrays of one symbol take three times.
    """
    (frequencies, cumulative, start, radius, buckets), words, _ = stream
    slot = np.uint32(x & _MASK16)
    begin = start[table]
    last = begin + 2 * radius[table] + 1
    entry = begin + np.int32(buckets[table, slot >> np.uint32(8)])
    while entry < last and cumulative[entry + 1] <= slot:
        entry += 1
    x = np.uint64(frequencies[entry]) * (x >> _S16) + np.uint64(slot - cumulative[entry])
    if x < _LOWER:
        if position >= len(words):
            return np.int64(0), x, -1
        x = (x << _S32) | np.uint64(words[position])
        position += 1
    symbol = np.int64(entry - begin - radius[table])
    if entry == last:
        symbol = np.int64(x & _MASK16) - 32768
        x >>= _S16
        if x < _LOWER:
            if position >= len(words):
                return np.int64(0), x, -1
            x = (x << _S32) | np.uint64(words[position])
            position += 1
    return symbol, x, position
