"""A deflate stream, written block by block from its content, code lengths and tokens."""

from dataclasses import dataclass, field
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from cnnbatch.images.lossless.deflate import huffman
from cnnbatch.images.lossless.deflate.bits import put
from cnnbatch.images.lossless.deflate.huffman import (
    DISTANCE_BASE,
    DISTANCE_BITS,
    LENGTH_BASE,
    LENGTH_BITS,
    LENGTH_CODE,
    distance_code,
)
from cnnbatch.images.lossless.deflate.reading import DYNAMIC, FIXED, Tokens

SPARE_BYTES: Final = 16
"""Read behind a block's code lengths."""


@dataclass(slots=True)
class StreamWriter:
    """A stream in ``out``, which is zero. Its methods raise ValueError or IndexError where it has no room, or no code."""

    out: NDArray[np.uint8]
    bit: int = 0
    _lengths: NDArray[np.int64] = field(default_factory=huffman.new_lengths)
    _literals: NDArray[np.int64] = field(default_factory=lambda: np.zeros(huffman.DISTANCES, np.int64))
    _distances: NDArray[np.int64] = field(default_factory=lambda: np.zeros(huffman.NUM_DISTANCES, np.int64))

    def write_head(self, bits: int) -> None:
        """The 3 bits before a block."""
        self.bit = put(self.out, self.bit, bits, 3)

    def write_stored(self, content: NDArray[np.uint8], count: int) -> None:
        """The rest of a stored block of ``count`` bytes."""
        if count > 0xFFFF or len(content) != count:
            raise ValueError(f"a stored block of {count} bytes")
        start = (self.bit + 7) >> 3
        put(self.out, 8 * start, count | (count ^ 0xFFFF) << 16, 32)
        self.out[start + 4 : start + 4 + count] = content
        self.bit = 8 * (start + 4 + count)

    def write_codes(self, kind: int, num_bits: int, bits: bytes) -> None:
        """The codes of the tokens that follow; ``bits``: the code lengths as a block gives them."""
        self._lengths = huffman.fixed_lengths()
        if kind == DYNAMIC:
            padded = np.frombuffer(bits + bytes(SPARE_BYTES), np.uint8)
            if huffman.read_lengths(padded, 0, self._lengths, huffman.new_table()) != num_bits:
                raise ValueError(f"no code lengths in {num_bits} bits")
            for index, byte in enumerate(bits):
                put(self.out, self.bit + 8 * index, byte, 8)
            self.bit += num_bits
        are_codes = huffman.fill_codes(self._lengths, 0, huffman.DISTANCES, self._literals) and huffman.fill_codes(
            self._lengths, huffman.DISTANCES, huffman.NUM_DISTANCES, self._distances
        )
        if kind not in {FIXED, DYNAMIC} or not are_codes:
            raise ValueError(f"no codes of a block of kind {kind}")

    def write_tokens(self, content: NDArray[np.uint8], tokens: Tokens) -> None:
        """Tokens of ``content``."""
        codes = self._lengths, self._literals, self._distances
        self.bit = _write_tokens(self.out, self.bit, content, *tokens, *codes)

    def written(self) -> NDArray[np.uint8]:
        """All bytes that there are."""
        return self.out[: (self.bit + 7) >> 3]

    def end_block(self) -> None:
        """The symbol behind the tokens of a block."""
        self.bit = put(self.out, self.bit, int(self._literals[huffman.END]), int(self._lengths[huffman.END]))


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _write_tokens(out, bit, content, lengths, distances, code_lengths, literal_codes, distance_codes):  # type: ignore[no-untyped-def]
    """Returns the position behind them."""
    at = 0
    for index in range(len(lengths)):
        length = lengths[index]
        if length == 0:
            symbol = content[at]
            bit = put(out, bit, literal_codes[symbol], code_lengths[symbol])
            at += 1
            continue
        code = LENGTH_CODE[length]
        bit = put(out, bit, literal_codes[257 + code], code_lengths[257 + code])
        bit = put(out, bit, np.int64(length - LENGTH_BASE[code]), np.int64(LENGTH_BITS[code]))
        distance = distances[index]
        code = distance_code(distance)
        bit = put(out, bit, distance_codes[code], code_lengths[288 + code])
        bit = put(out, bit, np.int64(distance - DISTANCE_BASE[code]), np.int64(DISTANCE_BITS[code]))
        at += length
    return bit
