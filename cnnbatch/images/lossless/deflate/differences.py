"""Tokens of a deflate stream as they differ from those that are expected there, entropy-coded.

Numbers for other compiled functions are np.int64 and no literals, of which numba would compile a version for each.
"""

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from cnnbatch.images.lossless import arithmetic
from cnnbatch.images.lossless.arithmetic import (
    decode_bit,
    decode_even,
    decode_tree,
    encode_bit,
    encode_even,
    encode_tree,
    finish,
    start_decoder,
)
from cnnbatch.images.lossless.deflate import matches
from cnnbatch.images.lossless.deflate.huffman import DISTANCE_BASE, DISTANCE_BITS, distance_code
from cnnbatch.images.lossless.deflate.matches import advance, predict
from cnnbatch.images.lossless.deflate.reading import TOKENS_AT_ONCE, Tokens

NUM_CONTEXTS: Final = 32 + 4 + 2 * 256 + 32
"""Hit or miss after a kind of prediction and the last three; literal; same distance; two trees of lengths, one of distances."""


class DifferenceEncoder:
    """Codes the tokens of a stream from its beginning. Raises IndexError where they take more than ``max_bytes``."""

    def __init__(self, raw: NDArray[np.uint8], settings: NDArray[np.int64], max_bytes: int) -> None:
        self._raw, self._settings, self._found = raw, settings, matches.start(settings)
        self._coder, self._contexts = arithmetic.new_encoder(), arithmetic.probabilities(NUM_CONTEXTS)
        self._out = np.zeros(max_bytes, np.uint8)
        self._expected = np.zeros(TOKENS_AT_ONCE, np.int32), np.zeros(TOKENS_AT_ONCE, np.int32)
        self._at = self._history = 0

    def skip(self, count: int) -> None:
        """Bytes of the content that no tokens stand for."""
        self._at += count
        matches.forget(self._found)

    def add(self, tokens: Tokens) -> None:
        """Code tokens, `TOKENS_AT_ONCE` at most."""
        self._at = _expect(self._raw, self._at, tokens, self._settings, self._found, self._expected)
        self._history = _encode(*tokens, *self._expected, self._coder, self._contexts, self._history, self._out)

    def finish(self) -> bytes:
        """All that was coded."""
        return self._out[: finish(self._coder, self._out)].tobytes()


class DifferenceDecoder:
    """The reverse of `DifferenceEncoder`. Raises ValueError or IndexError where the tokens are not of the content."""

    def __init__(self, raw: NDArray[np.uint8], settings: NDArray[np.int64], data: bytes) -> None:
        self._raw, self._settings, self._found = raw, settings, matches.start(settings)
        self._coder, self._contexts = np.zeros(5, np.int64), arithmetic.probabilities(NUM_CONTEXTS)
        self._data = np.frombuffer(data, np.uint8)
        self._history = 0
        self.at = 0
        start_decoder(self._coder, self._data)

    def skip(self, count: int) -> None:
        """Bytes of the content that no tokens stand for."""
        self.at += count
        matches.forget(self._found)

    def take(self, count: int) -> Tokens:
        """The next tokens."""
        lengths, distances = np.zeros(count, np.int32), np.zeros(count, np.int32)
        coder = self._coder, self._contexts, self._data
        self.at, self._history = _decode(
            self._raw, self.at, coder, self._settings, self._found, self._history, (lengths, distances)
        )
        if self.at < 0:
            raise ValueError("more tokens than content")
        return lengths, distances


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _expect(raw, at, tokens, settings, found, expected):  # type: ignore[no-untyped-def]
    """Lengths and distances that are expected where tokens are, from ``at`` on; returns the position behind them."""
    lengths, _ = tokens
    head, chain, place = found
    near, far = expected
    for index in range(len(lengths)):
        near[index], far[index] = predict(raw, at, settings, head, chain, place)
        length = np.int64(lengths[index])
        advance(at, length, settings, place)
        at += max(length, 1)
    return at


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _encode(lengths, distances, expected, far, coder, contexts, history, out):  # type: ignore[no-untyped-def]
    """Codes tokens where those of ``expected`` and ``far`` are expected; returns the new history of hits."""
    for index in range(len(lengths)):
        token = lengths[index], distances[index]
        history = _encode_token(coder, out, contexts, history, expected[index], far[index], token)
    return history


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _decode(raw, at, decoder, settings, found, history, tokens):  # type: ignore[no-untyped-def]
    """Fills ``tokens``; returns the position behind them, −1: beyond the content, and the new history.

    ``decoder``: the arithmetic decoder, its contexts and what it reads; ``found``: as `matches.start` has it.
    """
    coder, contexts, data = decoder
    head, chain, place = found
    lengths, distances = tokens
    for index in range(len(lengths)):
        if at >= len(raw):
            return -1, history
        expected, far = predict(raw, at, settings, head, chain, place)
        length, distance, history = _decode_token(coder, data, contexts, history, expected, far)
        advance(at, length, settings, place)
        lengths[index], distances[index] = length, distance
        at += max(length, 1)
    return at, history


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _kind(length):  # type: ignore[no-untyped-def]
    return 0 if length == 0 else 1 if length < 6 else 2 if length < 16 else 3


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _encode_token(coder, out, contexts, history, expected, far, token):  # type: ignore[no-untyped-def]
    """Codes a token (literal: length 0), where (``expected``, ``far``) was expected; returns the new history of hits."""
    length, distance = token
    is_hit = length == expected and (length == 0 or distance == far)
    encode_bit(coder, out, contexts, 8 * _kind(expected) + history, 0 if is_hit else 1)
    if not is_hit:
        if expected:
            encode_bit(coder, out, contexts, 32 + (history & 1), 1 if length else 0)
        if length:
            if expected:
                encode_bit(coder, out, contexts, 34 + (history & 1), 0 if distance == far else 1)
            encode_tree(coder, out, contexts, 36 + (256 if expected else 0), length - 3, np.int64(8))
            if not expected or distance != far:
                code = distance_code(distance)
                encode_tree(coder, out, contexts, np.int64(36 + 512), code, np.int64(5))
                encode_even(coder, out, distance - DISTANCE_BASE[code], DISTANCE_BITS[code])
    return (history << 1 | (0 if is_hit else 1)) & 7


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _decode_token(coder, data, contexts, history, expected, far):  # type: ignore[no-untyped-def]
    """The reverse of `_encode_token`: length, distance, history."""
    length, distance = expected, far
    is_miss = decode_bit(coder, data, contexts, 8 * _kind(expected) + history)
    if is_miss:
        is_match = 1
        if expected:
            is_match = decode_bit(coder, data, contexts, 32 + (history & 1))
        length = 0
        if is_match:
            is_other = 1
            if expected:
                is_other = decode_bit(coder, data, contexts, 34 + (history & 1))
            length = decode_tree(coder, data, contexts, 36 + (256 if expected else 0), np.int64(8)) + 3
            if is_other:
                code = min(29, decode_tree(coder, data, contexts, np.int64(36 + 512), np.int64(5)))
                distance = DISTANCE_BASE[code] + decode_even(coder, data, DISTANCE_BITS[code])
    return length, distance, (history << 1 | is_miss) & 7
