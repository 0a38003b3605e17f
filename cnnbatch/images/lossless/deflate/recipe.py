"""Recipes: what makes a deflate stream of its content again.

A recipe has two parts: what the blocks say of themselves (their heads with the code lengths as they are), and how the tokens
differ from those that `cnnbatch.images.lossless.deflate.matches` expects, entropy-coded. A zlib stream (RFC 1950) is its two
bytes of header, the deflate stream and an Adler-32.
"""

import itertools
import zlib
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cnnbatch.images.lossless.deflate import matches
from cnnbatch.images.lossless.deflate.differences import DifferenceDecoder, DifferenceEncoder
from cnnbatch.images.lossless.deflate.reading import DYNAMIC, STORED, TOKENS_AT_ONCE, StreamReader, Tokens
from cnnbatch.images.lossless.deflate.writing import StreamWriter
from cnnbatch.images.lossless.numbers import Reader
from cnnbatch.leb128 import leb128

TRIAL_TOKENS: Final = 20_000
"""Tokens of a stream by which the settings are chosen that predict it best."""

ADLER_BYTES: Final = 4
MAX_CODE_BITS: Final = 8 * 1024
"""Bits that describe the codes of a block."""

SPARE_BYTES: Final = 16
"""Behind a stream, for who reads or writes several bytes at once."""


def inflate(stream: bytes, num_bytes: int) -> bytes | None:
    """The content of a zlib stream; None where that is damaged or has not ``num_bytes``."""
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(stream, num_bytes + 1)
    except zlib.error:
        return None
    return raw if len(raw) == num_bytes else None


def analyse(stream: bytes, raw: bytes) -> bytes | None:
    """The recipe that makes the zlib ``stream`` of ``raw`` again; None where there is none. It is not checked."""
    window_bits = (stream[0] >> 4) + 8
    if stream[0] & 15 != 8 or stream[1] & 0x20 or not 9 <= window_bits <= 15:
        return None
    body, plain = np.frombuffer(stream[2:] + bytes(8), np.uint8), np.frombuffer(raw, np.uint8)
    try:
        settings = _best_settings(body, plain, window_bits)
        blocks, differences, end = _describe(body, plain, settings)
    except (ValueError, IndexError):
        return None
    rest = stream[2 + end :]
    checksum = zlib.adler32(raw).to_bytes(ADLER_BYTES, "big")
    has_checksum = rest.startswith(checksum)
    tail = rest[ADLER_BYTES:] if has_checksum else rest
    head = stream[:2] + bytes([has_checksum]) + b"".join(leb128(int(value)) for value in settings)
    return head + b"".join(leb128(len(part)) + part for part in (tail, blocks, differences))


def rebuild(raw: bytes, recipe: bytes, *, max_bytes: int) -> bytes:
    """The stream; raises ValueError or IndexError for a recipe that is none, or a stream of more than ``max_bytes``."""
    reader = Reader(recipe)
    head, has_checksum = reader.take(2), reader.take(1) == b"\1"
    settings = np.array([reader.number() for _ in range(matches.NUM_SETTINGS)], np.int64)
    if not (9 <= settings[matches.WINDOW_BITS] <= 15 and 8 <= settings[matches.HASH_BITS] <= 16):
        raise ValueError(f"no settings of deflate: {settings.tolist()}")
    tail, blocks, differences = (reader.take(reader.number()) for _ in range(3))
    plain, writer = np.frombuffer(raw, np.uint8), StreamWriter(np.zeros(max_bytes + SPARE_BYTES, np.uint8))
    _write_blocks(writer, plain, Reader(blocks), DifferenceDecoder(plain, settings, differences))
    checksum = zlib.adler32(raw).to_bytes(ADLER_BYTES, "big") if has_checksum else b""
    return head + writer.written().tobytes() + checksum + tail


def _best_settings(body: NDArray[np.uint8], raw: NDArray[np.uint8], window_bits: int) -> NDArray[np.int64]:
    """Those with the smallest differences; raises ValueError where all have too large ones."""
    sample = list(_read_blocks(StreamReader(body, raw), bytearray(), TRIAL_TOKENS))
    best, fewest = None, 1 << 62
    for settings in _candidates(window_bits):
        try:
            size = len(_encode(sample, raw, settings, len(body)))
        except IndexError:
            continue
        if size < fewest:
            best, fewest = settings, size
            if fewest < TRIAL_TOKENS >> 9:
                break
    if best is None:
        raise ValueError("differences larger than the stream")
    return best


def _candidates(window_bits: int) -> Iterator[NDArray[np.int64]]:
    """The likely ones first: libpng's, and those of zlib's level 6."""
    for hash_bits, filtered in itertools.product((15, 16), (1, 0)):
        for level in (6, 9, 8, 7, 5, 4):
            yield np.array([*matches.LEVELS[level - 1], filtered, hash_bits, window_bits], np.int64)
    for level in (1, 3, 2):
        yield np.array([*matches.LEVELS[level - 1], 0, 15, window_bits], np.int64)
    yield np.array([matches.RUNS, 0, 0, 0, 0, 0, 15, window_bits], np.int64)
    yield np.array([matches.FAST, 0, 0, 0, 0, 0, 15, window_bits], np.int64)


def _describe(body: NDArray[np.uint8], raw: NDArray[np.uint8], settings: NDArray[np.int64]) -> tuple[bytes, bytes, int]:
    """Blocks, differences and the length of the deflate stream; raises ValueError or IndexError where it is damaged or not of
    ``raw``."""
    reader, blocks = StreamReader(body, raw), bytearray()
    differences = _encode(_read_blocks(reader, blocks, 1 << 62), raw, settings, len(body))
    reader.check_padding()
    if reader.at != len(raw):
        raise ValueError(f"a stream of {reader.at} bytes, expected {len(raw)}")
    return bytes(blocks), differences, (reader.bit + 7) >> 3


def _encode(
    parts: Iterator[int | Tokens] | Sequence[int | Tokens], raw: NDArray[np.uint8], settings: NDArray[np.int64], size: int
) -> bytes:
    encoder = DifferenceEncoder(raw, settings, max_bytes=size + 4096)
    for part in parts:
        if isinstance(part, int):
            encoder.skip(part)
        else:
            encoder.add(part)
    return encoder.finish()


def _read_blocks(reader: StreamReader, blocks: bytearray, max_tokens: int) -> Iterator[int | Tokens]:
    """Sizes of stored blocks and tokens, up to ``max_tokens``; what blocks say of themselves is added to ``blocks``."""
    is_last = False
    while not is_last and max_tokens > 0:
        head = reader.read_head()
        is_last, kind = bool(head & 1), head >> 1
        if kind == STORED:
            yield (count := reader.read_stored())
            blocks += bytes([head]) + leb128(count)
        else:
            num_bits, bits = reader.read_codes(kind)
            count = 0
            for lengths, distances in reader.read_tokens(max_tokens):
                yield lengths, distances
                count += len(lengths)
            max_tokens -= count
            codes = leb128(num_bits) + bits.to_bytes((num_bits + 7) >> 3, "little") if kind == DYNAMIC else b""
            blocks += bytes([head]) + leb128(count) + codes
        if len(blocks) > len(reader.data) + 64:
            raise ValueError("blocks of hardly anything: what they say takes more than the stream")


def _write_blocks(writer: StreamWriter, raw: NDArray[np.uint8], blocks: Reader, tokens: DifferenceDecoder) -> None:
    is_last = False
    while not is_last:
        head = blocks.take(1)[0] & 7
        is_last, kind = bool(head & 1), head >> 1
        count = blocks.number()
        writer.write_head(head)
        if kind == STORED:
            writer.write_stored(raw[tokens.at : tokens.at + count], count)
            tokens.skip(count)
            continue
        num_bits = blocks.number(MAX_CODE_BITS) if kind == DYNAMIC else 0
        writer.write_codes(kind, num_bits, blocks.take((num_bits + 7) >> 3))
        for first in range(0, count, TOKENS_AT_ONCE):
            start = tokens.at
            part = tokens.take(min(TOKENS_AT_ONCE, count - first))
            writer.write_tokens(raw[start : tokens.at], part)
        writer.end_block()
    if tokens.at != len(raw):
        raise ValueError(f"blocks of {tokens.at} bytes, expected {len(raw)}")
