"""The entropy decoder alone: compiled, without checks of its own on array bounds, and fed with bytes whose CRC is right.

Input: number of symbols (2 bytes) and lanes (1), then 32 bytes that name the tables in turn, then the stream.
"""

import random
from functools import cache

import numpy as np

from cnnbatch.errors import BitstreamError
from cnnbatch.rans import SYMBOL_LIMIT, Decoder, Indexes, Tables, encode, gaussian_tables
from tests.fuzz.target import Target

HEAD = 35
MAX_SYMBOLS = 1 << 12


@cache
def tables() -> Tables:
    return gaussian_tables(np.geomspace(0.11, 60, 24))


def indexes_of(data: bytes) -> Indexes:
    count = int.from_bytes(data[:2], "little") % MAX_SYMBOLS
    names = np.frombuffer(data[3:HEAD].ljust(1, b"\0"), np.uint8) % len(tables().radius)
    return np.resize(names, count).astype(np.uint8)


def lanes_of(data: bytes) -> int:
    return 4 if data[2:3] > b"\x7f" else 1


def streams() -> list[bytes]:
    """Small, large and escaped symbols."""
    rng, found = np.random.default_rng(0), []
    for lanes, spread in ((0, 1), (255, 3), (0, 300), (255, SYMBOL_LIMIT)):
        head = (400).to_bytes(2, "little") + bytes([lanes]) + rng.bytes(HEAD - 3)
        symbols = rng.integers(-spread, spread + 1, 400).astype(np.int16)
        found.append(head + encode(symbols, indexes_of(head), tables(), lanes=lanes_of(head)))
    return found


def decode(data: bytes) -> None:
    indexes = indexes_of(data)
    try:
        decoder = Decoder(data[HEAD:], tables(), lanes=lanes_of(data))
        for part in (indexes[:100], indexes[100:]):
            assert np.abs(decoder.decode(part).astype(np.int32)).max(initial=0) <= SYMBOL_LIMIT + 1
        decoder.finish()
    except BitstreamError:
        return


def whole_words(data: bytes, rng: random.Random) -> bytes:
    """A stream of whole words, at least as many as the states take."""
    stream = data[HEAD:].ljust(8 * lanes_of(data), b"\xff")
    return data[:HEAD].ljust(HEAD, b"\0") + stream[: len(stream) // 4 * 4]


ENTROPY = Target("entropy", streams, decode, whole_words, 1 << 12)
