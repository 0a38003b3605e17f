"""A deflate stream, read beside its content: blocks, their code lengths, their tokens."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from cnnbatch.images.lossless.deflate import huffman
from cnnbatch.images.lossless.deflate.bits import peek
from cnnbatch.images.lossless.deflate.huffman import DISTANCE_BASE, DISTANCE_BITS, LENGTH_BASE, LENGTH_BITS

STORED, FIXED, DYNAMIC = range(3)
"""Kinds of blocks."""

TOKENS_AT_ONCE: Final = 1 << 14

Tokens = tuple[NDArray[np.int32], NDArray[np.int32]]
"""Lengths (0: a literal) and distances."""


@dataclass(slots=True)
class StreamReader:
    """The rest of a stream, zeros behind it. Its methods raise ValueError or IndexError where it is damaged, or not of
    the content ``raw``."""

    data: NDArray[np.uint8]
    raw: NDArray[np.uint8]
    bit: int = 0
    at: int = 0
    _literals: NDArray[np.int64] = field(default_factory=huffman.new_table)
    _distances: NDArray[np.int64] = field(default_factory=huffman.new_table)

    def read_head(self) -> int:
        """The 3 bits before a block: whether it is the last, and its kind."""
        self.bit += 3
        return int(peek(self.data, self.bit - 3)) & 7

    def read_stored(self) -> int:
        """The size of a stored block."""
        self.check_padding()
        start = (self.bit + 7) >> 3
        size, inverse = (int.from_bytes(self.data[at : at + 2].tobytes(), "little") for at in (start, start + 2))
        here, there = self.data[start + 4 : start + 4 + size], self.raw[self.at : self.at + size]
        if size ^ inverse != 0xFFFF or not len(here) == len(there) == size or (here != there).any():
            raise ValueError("a stored block that is damaged, or not of this content")
        self.bit, self.at = 8 * (start + 4 + size), self.at + size
        return size

    def read_codes(self, kind: int) -> tuple[int, int]:
        """Codes of a block's tokens; returns how many bits they take, and those."""
        start, lengths = self.bit, huffman.fixed_lengths()
        if kind == DYNAMIC:
            self.bit = huffman.read_lengths(self.data, start, lengths, self._literals)
        are_codes = self.bit >= start and all(
            huffman.fill_table(lengths, first, number, table)
            for first, number, table in (
                (0, huffman.DISTANCES, self._literals),
                (huffman.DISTANCES, huffman.NUM_DISTANCES, self._distances),
            )
        )
        if kind not in {FIXED, DYNAMIC} or not are_codes:
            raise ValueError(f"no codes of a block of kind {kind}")
        count = self.bit - start
        behind = int.from_bytes(self.data[start >> 3 : (self.bit + 7) >> 3].tobytes(), "little")
        return count, behind >> (start & 7) & (1 << count) - 1

    def read_tokens(self, most: int) -> Iterator[Tokens]:
        """The tokens of a block, up to ``most``, some thousands at once."""
        is_end = False
        while not is_end and most > 0:
            lengths, distances = np.zeros((2, min(most, TOKENS_AT_ONCE)), np.int32)
            tables = self._literals, self._distances
            count, self.bit, self.at = _read_tokens(self.data, self.raw, self.bit, self.at, *tables, lengths, distances)
            if count < 0:
                raise ValueError("tokens that are damaged, or not of this content")
            if count:
                yield lengths[:count].copy(), distances[:count].copy()
            is_end = count < len(lengths)
            most -= count

    def check_padding(self) -> None:
        """Raises ValueError where bits up to the next byte are not zero."""
        if peek(self.data, self.bit) & (1 << (-self.bit & 7)) - 1:
            raise ValueError("bits beside blocks")


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _read_tokens(data, raw, bit, at, literal_table, distance_table, lengths, distances):  # type: ignore[no-untyped-def]
    """Fills ``lengths`` and ``distances`` until they are full or the block ends; returns the number of tokens, −1: damaged,
    and both positions after them."""
    for count in range(len(lengths)):
        entry = literal_table[peek(data, bit) & 0x7FFF]
        bit += entry & 15
        symbol = entry >> 4
        if symbol == 256:
            return count, bit, at
        if entry == 0 or symbol > 285:
            return -1, bit, at
        if symbol < 256:
            if at >= len(raw) or raw[at] != symbol:
                return -1, bit, at
            at += 1
            continue
        extra = LENGTH_BITS[symbol - 257]
        length = LENGTH_BASE[symbol - 257] + (peek(data, bit) & (1 << extra) - 1)
        bit += extra
        entry = distance_table[peek(data, bit) & 0x7FFF]
        bit += entry & 15
        extra = DISTANCE_BITS[entry >> 4]
        distance = DISTANCE_BASE[entry >> 4] + (peek(data, bit) & (1 << extra) - 1)
        bit += extra
        is_the_longer_way = symbol == 284 and length == 258
        if entry == 0 or is_the_longer_way or distance > at or at + length > len(raw):
            return -1, bit, at
        lengths[count], distances[count] = length, distance
        at += length
    return len(lengths), bit, at
