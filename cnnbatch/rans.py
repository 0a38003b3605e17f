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

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from cnnbatch.errors import BitstreamError, CodecFileError

PRECISION = 16
"""Bits of a frequency: each table sums to 2¹⁶."""

SYMBOL_LIMIT = 32767
"""Largest magnitude of a symbol; what a table does not hold is escaped as 16 raw bits."""

TAIL_SIGMAS = 5.0
BUCKET_BITS = 8

_LOWER = np.uint64(1 << 31)
_MASK16 = np.uint64(0xFFFF)
_MASK32 = np.uint64(0xFFFFFFFF)
_S16 = np.uint64(16)
_S32 = np.uint64(32)
_S47 = np.uint64(47)

Symbols = npt.NDArray[np.int16]
Indexes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Tables:
    """T static tables over symbols −radius…radius and one escape.

    ``frequencies`` uint32: the tables one after another, each of 2·radius + 2 entries (escape last) summing to 2¹⁶;
    ``radius`` int32 [T].
    """

    frequencies: npt.NDArray[np.uint32]
    radius: npt.NDArray[np.int32]
    start: npt.NDArray[np.int32]
    cumulative: npt.NDArray[np.uint32]
    buckets: npt.NDArray[np.uint16]

    @classmethod
    def from_frequencies(cls, frequencies: npt.NDArray[np.uint32], radius: npt.NDArray[np.int32]) -> "Tables":
        """Raises BitstreamError if the frequencies are not T proper tables."""
        sizes = 2 * radius.astype(np.int64) + 2
        if radius.ndim != 1 or (radius < 0).any() or (radius > SYMBOL_LIMIT).any() or sizes.sum() != len(frequencies):
            raise BitstreamError(f"entropy tables: {len(frequencies)} frequencies do not fit radii of {len(radius)} tables")
        start = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
        cumulative = np.empty(len(frequencies), np.uint32)
        buckets = np.empty((len(radius), 1 << BUCKET_BITS), np.uint16)
        for table, (begin, size) in enumerate(zip(start, sizes, strict=True)):
            part = frequencies[begin : begin + size].astype(np.int64)
            if (part < 1).any() or part.sum() != 1 << PRECISION:
                raise BitstreamError(f"entropy tables: table {table} sums to {part.sum()}, expected {1 << PRECISION}")
            edges = np.concatenate([[0], np.cumsum(part)])
            cumulative[begin : begin + size] = edges[:-1]
            slots = np.arange(1 << BUCKET_BITS) << (PRECISION - BUCKET_BITS)
            buckets[table] = np.searchsorted(edges, slots, side="right") - 1
        return cls(np.ascontiguousarray(frequencies, np.uint32), radius.astype(np.int32), start, cumulative, buckets)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "Tables":
        """Of ``tables.frequencies`` and ``tables.radius`` of a codec file; raises CodecFileError if they are no tables."""
        try:
            return cls.from_frequencies(
                arrays["tables.frequencies"].astype(np.uint32), arrays["tables.radius"].astype(np.int32)
            )
        except BitstreamError as error:
            raise CodecFileError(str(error)) from error


@dataclass(frozen=True, slots=True)
class StateMachine:
    """Sets of tables in turn: in state s index i means the table i + ``offsets[s]``, and a symbol of parity p leads to the
    state ``moves[s, p]``. Indexes below ``first`` are tables themselves and move nothing. Each `Decoder.decode` begins in
    state 0."""

    offsets: npt.NDArray[np.int64]
    moves: npt.NDArray[np.int64]
    first: int


def gaussian_tables(scales: npt.NDArray[np.float64]) -> Tables:
    """Tables of zero-mean Gaussians of the given standard deviations, integrated over each integer ± ½."""
    radii = np.maximum(1, np.ceil(TAIL_SIGMAS * scales)).astype(np.int32)
    parts = [integer_frequencies(_gaussian_mass(s, int(r))) for s, r in zip(scales, radii, strict=True)]
    return Tables.from_frequencies(np.concatenate(parts), radii)


def joined(*parts: Tables) -> Tables:
    """The tables of all parts, one after the other."""
    return Tables.from_frequencies(
        np.concatenate([part.frequencies for part in parts]), np.concatenate([part.radius for part in parts])
    )


def _gaussian_mass(scale: float, radius: int) -> npt.NDArray[np.float64]:
    edges = [0.5 * math.erfc(-(k - 0.5) / (scale * math.sqrt(2))) for k in range(-radius, radius + 2)]
    mass = np.diff(edges)
    return np.append(mass, max(0.0, 1 - mass.sum()))


def integer_frequencies(mass: npt.NDArray[np.float64]) -> npt.NDArray[np.uint32]:
    """Frequencies ≥ 1 summing to 2¹⁶; what rounding leaves over goes to the likeliest symbol."""
    total = 1 << PRECISION
    frequencies = np.maximum(1, np.floor(mass * (total - len(mass)) + 0.5)).astype(np.int64)
    frequencies[np.argmax(frequencies)] += total - frequencies.sum()
    return frequencies.astype(np.uint32)


def encode(symbols: Symbols, indexes: Indexes, tables: Tables) -> bytes:
    """Symbols [n] with their table indexes [n] → bytes; |symbol| ≤ `SYMBOL_LIMIT`."""
    words = np.empty(2 * len(symbols) + 2, np.uint32)
    first = _encode(symbols, indexes, tables.frequencies, tables.cumulative, tables.start, tables.radius, words)
    return words[first:].astype("<u4", copy=False).tobytes()


class Decoder:
    """Reads one stream front to back; `decode` may be called several times."""

    def __init__(self, data: bytes | memoryview, tables: Tables) -> None:
        if len(data) % 4 or len(data) < 8:
            raise BitstreamError(f"entropy-coded stream of {len(data)} bytes, expected a multiple of 4, at least 8")
        self._words = np.frombuffer(data, "<u4").astype(np.uint32)  # a copy: aligned, so numba compiles one version
        self._tables = tables
        self._state = self._words[:2].astype("<u4").view("<u8").astype(np.uint64)  # an array: compiled loops change it
        self._position = 2

    def decode(self, indexes: Indexes, machine: StateMachine | None = None) -> Symbols:
        """The next ``len(indexes)`` symbols; raises BitstreamError at the end of the data."""
        t, symbols = self._tables, np.empty(len(indexes), np.int16)
        offsets, moves, first = (None, None, 0) if machine is None else (machine.offsets, machine.moves, machine.first)
        self._position = _decode(
            symbols, indexes, t.frequencies, t.cumulative, t.start, t.radius, t.buckets, self._words, self._state,
            self._position, offsets, moves, first,
        )  # fmt: skip
        if self._position < 0:
            raise BitstreamError("entropy-coded stream ends too early")
        return symbols

    def decode_by(self, loop: Callable[..., int], values: Symbols, *args: Any) -> None:
        """Fills ``values`` by a compiled loop that finds each index from the symbols before it, with `next_symbol`.

        ``loop(values, *args, stream, position)`` decodes as many symbols as there are values and returns the position
        after them, −1 at the end of the data, or −2 where a value cannot be; then BitstreamError is raised.
        """
        t = self._tables
        stream = (t.frequencies, t.cumulative, t.start, t.radius, t.buckets, self._words, self._state)
        self._position = loop(values, *args, stream, self._position)
        if self._position < 0:
            fault = "ends too early" if self._position == -1 else "holds a value that cannot be"
            raise BitstreamError(f"entropy-coded stream {fault}")

    def finish(self) -> None:
        """Raises BitstreamError unless the stream ended exactly here."""
        if self._position != len(self._words) or self._state[0] != _LOWER:
            raise BitstreamError("entropy-coded stream does not end where its symbols end")


@numba.njit(nogil=True, cache=True)
def _encode(symbols, indexes, frequencies, cumulative, start, radius, words):  # type: ignore[no-untyped-def]
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
def _decode(  # type: ignore[no-untyped-def]
    symbols, indexes, frequencies, cumulative, start, radius, buckets, words, rans_state, position, offsets, moves, first
):
    num_words, x, state = len(words), rans_state[0], 0
    for i in range(len(symbols)):
        table = np.int64(indexes[i])
        if moves is not None and table >= first:
            table += offsets[state]
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
        if moves is not None and indexes[i] >= first:
            state = moves[state, symbol & 1]
    rans_state[0] = x
    return position


@numba.njit(nogil=True, cache=True)
def next_symbol(index, stream, position):  # type: ignore[no-untyped-def]
    """The next symbol of a `Decoder.decode_by` stream, and the position after it; −1: the data ended."""
    frequencies, cumulative, start, radius, buckets, words, rans_state = stream
    symbol, table = np.zeros(1, np.int16), np.full(1, index, np.uint8)
    position = _decode(
        symbol, table, frequencies, cumulative, start, radius, buckets, words, rans_state, position, None, None, 0
    )
    return np.int64(symbol[0]), position


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
def _push_symbol(x, symbol, table, start, radius, frequencies, cumulative, out, position):  # type: ignore[no-untyped-def]
    """`push` of a symbol of ``table``, with 16 raw bits where the table does not hold it; `pop` is the inverse."""
    r = np.int64(radius[table])
    entry = start[table] + symbol + r
    if symbol > r or symbol < -r:
        entry = start[table] + 2 * r + 1
        x, position = push(x, 1, symbol + 32768, out, position)
    return push(x, np.int64(frequencies[entry]), np.int64(cumulative[entry]), out, position)


@numba.njit(nogil=True, cache=True)
def push_stream(x, symbols, indexes, start, radius, frequencies, cumulative, out):  # type: ignore[no-untyped-def]
    """A whole small stream from state ``x``, last symbol first, and the final state, to the end of ``out``; where it begins."""
    position = len(out)
    for i in range(len(symbols) - 1, -1, -1):
        x, position = _push_symbol(x, symbols[i], indexes[i], start, radius, frequencies, cumulative, out, position)
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
def pop(x, table, start, radius, frequencies, cumulative, buckets, data, position, end):  # type: ignore[no-untyped-def]
    """The next symbol of ``table``. Returns (symbol, state, position); a position of −1: the data ended."""
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
