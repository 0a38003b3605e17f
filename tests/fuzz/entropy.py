"""The entropy decoder alone: compiled, without checks of its own on array bounds, and fed with bytes whose CRC is right.

Input: number of symbols (2 bytes), then 32 bytes that name the tables in turn, then the stream.
"""

import random
from functools import cache

import numpy as np

from cnnbatch.codec.entropy_coding.rans import Decoder, encode
from cnnbatch.codec.entropy_coding.tables import SYMBOL_LIMIT, Indexes, Tables, gaussian_tables
from cnnbatch.errors import BitstreamError
from tests.fuzz.target import Target

HEAD = 34
MAX_SYMBOLS = 1 << 12


@cache
def tables() -> Tables:
    return gaussian_tables(np.geomspace(0.11, 60, 24))


def indexes_of(data: bytes) -> Indexes:
    count = int.from_bytes(data[:2], "little") % MAX_SYMBOLS
    names = np.frombuffer(data[2:HEAD].ljust(1, b"\0"), np.uint8) % len(tables().radius)
    return np.resize(names, count).astype(np.uint8)


def streams() -> list[bytes]:
    """Small, large and escaped symbols."""
    rng, found = np.random.default_rng(0), []
    for spread in (1, 3, 300, SYMBOL_LIMIT):
        head = (400).to_bytes(2, "little") + rng.bytes(HEAD - 2)
        symbols = rng.integers(-spread, spread + 1, 400).astype(np.int16)
        found.append(head + encode(symbols, indexes_of(head), tables()))
    return found


def decode(data: bytes) -> None:
    indexes = indexes_of(data)
    try:
        decoder = Decoder(data[HEAD:], tables())
        for part in (indexes[:100], indexes[100:]):
            assert np.abs(decoder.decode(part).astype(np.int32)).max(initial=0) <= SYMBOL_LIMIT + 1
        decoder.finish()
    except BitstreamError:
        return


def whole_words(data: bytes, rng: random.Random) -> bytes:
    """A stream of whole words, at least as many as the state takes."""
    stream = data[HEAD:].ljust(8, b"\xff")
    return data[:HEAD].ljust(HEAD, b"\0") + stream[: len(stream) // 4 * 4]


ENTROPY = Target("entropy", streams, decode, whole_words, 1 << 12)
