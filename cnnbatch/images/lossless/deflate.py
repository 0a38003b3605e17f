"""Deflate streams (RFC 1951) ↔ what they hold and a recipe that makes the same stream of it again.

A recipe has two parts: what the blocks say of themselves (their heads with the code lengths as they are), and how the tokens
differ from those that `cnnbatch.images.lossless.matches` expects, entropy-coded. A zlib stream (RFC 1950) is its two bytes of
header, the deflate stream and an Adler-32.
"""

import itertools
import zlib
from collections.abc import Iterator
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from cnnbatch.images.lossless import arithmetic, matches
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
from cnnbatch.images.lossless.matches import advance, predict
from cnnbatch.images.lossless.numbers import Reader, number

TRIAL_TOKENS: Final = 20_000
"""Tokens of a stream by which the settings are chosen that predict it best."""

ADLER_BYTES: Final = 4
NUM_CONTEXTS: Final = 32 + 4 + 2 * 256 + 32
"""Hit or miss after a kind of prediction and the last three; literal; same distance; two trees of lengths, one of distances."""

LENGTH_BASE: Final = np.array(
    [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258],
    np.int32,
)
LENGTH_BITS: Final = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0], np.int32)
DISTANCE_BASE: Final = np.array([1, 2, *((2 + code % 2 << code // 2 - 1) + 1 for code in range(2, 30))], np.int32)
DISTANCE_BITS: Final = np.array([0, 0, *(bits // 2 for bits in range(28))], np.int32)
LENGTH_CODE: Final = np.array(
    [0, 0, 0, *(int(np.searchsorted(LENGTH_BASE, length, "right")) - 1 for length in range(3, 259))], np.int32
)
ORDER: Final = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15], np.int32)
BAD: Final = -1


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
    settings = _best_settings(body, plain, window_bits)
    if settings is None or (found := _analyse(body, plain, settings, 1 << 62)) is None:
        return None
    blocks, differences, end = found
    rest = stream[2 + end :]
    checksum = zlib.adler32(raw).to_bytes(ADLER_BYTES, "big")
    has_checksum = rest.startswith(checksum)
    tail = rest[ADLER_BYTES:] if has_checksum else rest
    head = stream[:2] + bytes([has_checksum]) + b"".join(number(int(value)) for value in settings)
    return head + b"".join(number(len(part)) + part for part in (tail, blocks, differences))


def rebuild(raw: bytes, recipe: bytes, *, max_bytes: int) -> bytes:
    """The stream; raises ValueError or IndexError for a recipe that is none, or a stream of more than ``max_bytes``."""
    reader = Reader(recipe)
    head, has_checksum = reader.take(2), reader.take(1) == b"\1"
    settings = np.array([reader.number() for _ in range(matches.NUM_SETTINGS)], np.int64)
    if not (9 <= settings[matches.WINDOW_BITS] <= 15 and 8 <= settings[matches.HASH_BITS] <= 16):
        raise ValueError(f"no settings of deflate: {settings.tolist()}")
    tail, blocks, differences = (reader.take(reader.number()) for _ in range(3))
    plain, out = np.frombuffer(raw, np.uint8), np.zeros(max_bytes + 16, np.uint8)
    length = _rebuild(
        plain,
        np.frombuffer(blocks, np.uint8),
        np.frombuffer(differences, np.uint8),
        settings,
        *matches.start(settings),
        arithmetic.probabilities(NUM_CONTEXTS),
        np.zeros(5, np.int64),
        out,
    )
    if length == BAD:
        raise ValueError("a recipe of a deflate stream that does not fit its content")
    checksum = zlib.adler32(raw).to_bytes(ADLER_BYTES, "big") if has_checksum else b""
    return head + out[:length].tobytes() + checksum + tail


def _best_settings(body: NDArray[np.uint8], raw: NDArray[np.uint8], window_bits: int) -> NDArray[np.int64] | None:
    best, fewest = None, 1 << 62
    for settings in _candidates(window_bits):
        found = _analyse(body, raw, settings, TRIAL_TOKENS)
        if found is not None and len(found[1]) < fewest:
            best, fewest = settings, len(found[1])
            if fewest < TRIAL_TOKENS >> 9:
                break
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


def _analyse(
    body: NDArray[np.uint8], raw: NDArray[np.uint8], settings: NDArray[np.int64], max_tokens: int
) -> tuple[bytes, bytes, int] | None:
    """Blocks, differences and the length of the deflate stream; None where it is damaged or not of ``raw``."""
    blocks, differences = np.zeros(len(body) + 64, np.uint8), np.zeros(len(body) + 4096, np.uint8)
    sizes = np.zeros(3, np.int64)
    try:
        sound = _walk(
            body,
            raw,
            settings,
            *matches.start(settings),
            arithmetic.probabilities(NUM_CONTEXTS),
            arithmetic.new_encoder(),
            max_tokens,
            blocks,
            differences,
            sizes,
        )
    except IndexError:
        return None
    if not sound:
        return None
    return blocks[: sizes[0]].tobytes(), differences[: sizes[1]].tobytes(), int(sizes[2])


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _peek(data, bit):  # type: ignore[no-untyped-def]
    """At least 24 bits from the position ``bit`` on."""
    at = bit >> 3
    value = np.int64(data[at]) | np.int64(data[at + 1]) << 8 | np.int64(data[at + 2]) << 16 | np.int64(data[at + 3]) << 24
    return value >> (bit & 7)


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _put_number(out, at, value):  # type: ignore[no-untyped-def]
    while value >= 128:
        out[at] = value & 127 | 128
        value >>= 7
        at += 1
    out[at] = value
    return at + 1


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _get_number(data, at):  # type: ignore[no-untyped-def]
    value = np.int64(0)
    for shift in range(0, 63, 7):
        byte = np.int64(data[at])
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            break
    return value, at


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _codes(lengths, first, number, codes):  # type: ignore[no-untyped-def]
    """The canonical codes of ``lengths``, bits reversed as the stream has them; returns whether they are a code."""
    count = np.zeros(16, np.int64)
    for symbol in range(number):
        count[lengths[first + symbol]] += 1
    count[0] = 0
    following = np.zeros(17, np.int64)
    room = 1
    for bits in range(1, 16):
        room = 2 * room - count[bits]
        if room < 0:
            return False
        following[bits + 1] = (following[bits] + count[bits]) << 1
    for symbol in range(number):
        bits = lengths[first + symbol]
        if bits:
            code = following[bits]
            following[bits] += 1
            reversed_ = 0
            for _ in range(bits):
                reversed_ = reversed_ << 1 | code & 1
                code >>= 1
            codes[symbol] = reversed_
    return True


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _table(lengths, first, number, table):  # type: ignore[no-untyped-def]
    """For the next 15 bits: symbol << 4 | its bits, 0 where there is none; returns whether the lengths are a code."""
    codes = np.zeros(number, np.int64)
    if not _codes(lengths, first, number, codes):
        return False
    table[:] = 0
    for symbol in range(number):
        bits = lengths[first + symbol]
        if bits:
            for entry in range(codes[symbol], 1 << 15, 1 << bits):
                table[entry] = symbol << 4 | bits
    return True


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _fixed(lengths):  # type: ignore[no-untyped-def]
    for symbol in range(288):
        lengths[symbol] = 8 if symbol < 144 else 9 if symbol < 256 else 7 if symbol < 280 else 8
    for symbol in range(288, 318):
        lengths[symbol] = 5


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _read_lengths(data, bit, lengths, table):  # type: ignore[no-untyped-def]
    """The code lengths of a dynamic block, those of distances from 288 on; returns the position behind them, −1: damaged."""
    value = _peek(data, bit)
    literals, distances, used = (value & 31) + 257, (value >> 5 & 31) + 1, (value >> 10 & 15) + 4
    bit += 14
    small = np.zeros(19, np.int64)
    for index in range(used):
        small[ORDER[index]] = _peek(data, bit) & 7
        bit += 3
    if not _table(small, 0, 19, table):
        return -1
    lengths[:] = 0
    at = 0
    while at < literals + distances:
        entry = table[_peek(data, bit) & 0x7FFF]
        if entry == 0:
            return -1
        bit += entry & 15
        symbol = entry >> 4
        repeat, value = 1, symbol
        if symbol >= 16:
            extra = 2 if symbol == 16 else 3 if symbol == 17 else 7
            repeat = (_peek(data, bit) & (1 << extra) - 1) + (11 if symbol == 18 else 3)
            bit += extra
            value = 0
            if symbol == 16:
                if at == 0:
                    return -1
                value = lengths[at - 1 if at - 1 < literals else at - 1 - literals + 288]
        if at + repeat > literals + distances:
            return -1
        for _ in range(repeat):
            lengths[at if at < literals else at - literals + 288] = value
            at += 1
    return bit


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _kind(length):  # type: ignore[no-untyped-def]
    return 0 if length == 0 else 1 if length < 6 else 2 if length < 16 else 3


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _distance_code(distance):  # type: ignore[no-untyped-def]
    code = 0
    while code < 29 and DISTANCE_BASE[code + 1] <= distance:
        code += 1
    return code


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _encode_token(coder, out, contexts, history, expected, far, length, distance):  # type: ignore[no-untyped-def]
    """Codes a token (literal: length 0), where (``expected``, ``far``) was expected; returns the new history of hits."""
    kind = _kind(expected)
    is_hit = length == expected and (length == 0 or distance == far)
    encode_bit(coder, out, contexts, 8 * kind + history, 0 if is_hit else 1)
    if not is_hit:
        if expected:
            encode_bit(coder, out, contexts, 32 + (history & 1), 1 if length else 0)
        if length:
            if expected:
                encode_bit(coder, out, contexts, 34 + (history & 1), 0 if distance == far else 1)
            encode_tree(coder, out, contexts, 36 + (256 if expected else 0), length - 3, 8)
            if not expected or distance != far:
                code = _distance_code(distance)
                encode_tree(coder, out, contexts, 36 + 512, code, 5)
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
            length = decode_tree(coder, data, contexts, 36 + (256 if expected else 0), 8) + 3
            if is_other:
                code = min(29, decode_tree(coder, data, contexts, 36 + 512, 5))
                distance = DISTANCE_BASE[code] + decode_even(coder, data, DISTANCE_BITS[code])
    return length, distance, (history << 1 | is_miss) & 7


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _walk(data, raw, settings, head, chain, place, contexts, coder, max_tokens, blocks, out, sizes):  # type: ignore[no-untyped-def]
    """Reads a deflate stream whose content is ``raw`` and writes blocks and differences; returns whether it is sound."""
    literal_table, distance_table = np.zeros(1 << 15, np.int64), np.zeros(1 << 15, np.int64)
    lengths = np.zeros(288 + 32, np.int64)
    bit = at = written = history = tokens = np.int64(0)
    is_last = False
    while not is_last and tokens < max_tokens:
        value = _peek(data, bit)
        is_last = bool(value & 1)
        kind = value >> 1 & 3
        blocks[written] = value & 7
        written += 1
        bit += 3
        if kind == 0:
            if _peek(data, bit) & (1 << (-bit & 7)) - 1:
                return False
            start = (bit + 7) >> 3
            size = np.int64(data[start]) | np.int64(data[start + 1]) << 8
            if size ^ (np.int64(data[start + 2]) | np.int64(data[start + 3]) << 8) != 0xFFFF or at + size > len(raw):
                return False
            for index in range(size):
                if data[start + 4 + index] != raw[at + index]:
                    return False
            written = _put_number(blocks, written, size)
            bit = 8 * (start + 4 + size)
            at += size
            place[3] = 0
            continue
        if kind == 3:
            return False
        start = bit
        if kind == 1:
            _fixed(lengths)
        else:
            bit = _read_lengths(data, bit, lengths, literal_table)
            if bit < 0:
                return False
        header_bits = bit - start
        if not _table(lengths, 0, 288, literal_table) or not _table(lengths, 288, 30, distance_table):
            return False
        in_block = 0
        while True:
            entry = literal_table[_peek(data, bit) & 0x7FFF]
            if entry == 0:
                return False
            bit += entry & 15
            symbol = entry >> 4
            if symbol == 256:
                break
            length = distance = 0
            if symbol < 256:
                if at >= len(raw) or raw[at] != symbol:
                    return False
            else:
                if symbol > 285:
                    return False
                extra = LENGTH_BITS[symbol - 257]
                length = LENGTH_BASE[symbol - 257] + (_peek(data, bit) & (1 << extra) - 1)
                if symbol == 284 and length == 258:  # the longer way to say it
                    return False
                bit += extra
                entry = distance_table[_peek(data, bit) & 0x7FFF]
                if entry == 0:
                    return False
                bit += entry & 15
                extra = DISTANCE_BITS[entry >> 4]
                distance = DISTANCE_BASE[entry >> 4] + (_peek(data, bit) & (1 << extra) - 1)
                bit += extra
                if distance > at or at + length > len(raw):
                    return False
            expected, far = predict(raw, at, settings, head, chain, place)
            history = _encode_token(coder, out, contexts, history, expected, far, length, distance)
            advance(at, length, settings, place)
            at += max(length, 1)
            in_block += 1
            tokens += 1
            if tokens >= max_tokens:
                break
        written = _put_number(blocks, written, in_block)
        if kind == 2:
            written = _put_number(blocks, written, header_bits)
            for index in range(0, header_bits, 8):
                mask = 255 if header_bits - index >= 8 else (1 << header_bits - index) - 1
                blocks[written] = _peek(data, start + index) & mask
                written += 1
    sizes[0], sizes[1], sizes[2] = written, finish(coder, out), (bit + 7) >> 3
    pad = _peek(data, bit) & (1 << (-bit & 7)) - 1
    return tokens >= max_tokens or (is_last and at == len(raw) and pad == 0)


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _put(out, bit, value, count):  # type: ignore[no-untyped-def]
    """Writes bits, lowest first; returns the position behind them."""
    at = bit >> 3
    value <<= bit & 7
    while value:
        out[at] |= value & 255
        value >>= 8
        at += 1
    return bit + count


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _rebuild(raw, blocks, differences, settings, head, chain, place, contexts, coder, out):  # type: ignore[no-untyped-def]
    """Writes the stream into ``out``, which is zero; returns its bytes, −1 where blocks and content do not fit."""
    lengths, table = np.zeros(288 + 32, np.int64), np.zeros(1 << 15, np.int64)
    literal_codes, distance_codes = np.zeros(288, np.int64), np.zeros(30, np.int64)
    start_decoder(coder, differences)
    bit = at = read = history = np.int64(0)
    is_last = False
    while not is_last:
        head_bits = np.int64(blocks[read]) & 7
        is_last, kind = bool(head_bits & 1), head_bits >> 1
        bit = _put(out, bit, head_bits, 3)
        count, read = _get_number(blocks, read + 1)
        if kind == 0:
            start = (bit + 7) >> 3
            if count > 0xFFFF or at + count > len(raw):
                return -1
            bit = _put(out, 8 * start, count | (count ^ 0xFFFF) << 16, 32)
            for index in range(count):
                out[start + 4 + index] = raw[at + index]
            bit += 8 * count
            at += count
            place[3] = 0
            continue
        if kind == 1:
            _fixed(lengths)
        elif kind == 2:
            header_bits, read = _get_number(blocks, read)
            if header_bits > 8 * 1024:
                return -1
            padded = np.zeros(1024 + 16, np.uint8)
            for index in range((header_bits + 7) >> 3):
                padded[index] = blocks[read + index]
                _put(out, bit + 8 * index, np.int64(blocks[read + index]), 8)
            read += (header_bits + 7) >> 3
            if _read_lengths(padded, 0, lengths, table) != header_bits:
                return -1
            bit += header_bits
        else:
            return -1
        if not _codes(lengths, 0, 288, literal_codes) or not _codes(lengths, 288, 30, distance_codes):
            return -1
        for _ in range(count):
            if at >= len(raw):
                return -1
            expected, far = predict(raw, at, settings, head, chain, place)
            length, distance, history = _decode_token(coder, differences, contexts, history, expected, far)
            advance(at, length, settings, place)
            if length == 0:
                bit = _put(out, bit, literal_codes[raw[at]], lengths[raw[at]])
                at += 1
                continue
            code = LENGTH_CODE[length]
            bit = _put(out, bit, literal_codes[257 + code], lengths[257 + code])
            bit = _put(out, bit, np.int64(length - LENGTH_BASE[code]), np.int64(LENGTH_BITS[code]))
            code = _distance_code(distance)
            bit = _put(out, bit, distance_codes[code], lengths[288 + code])
            bit = _put(out, bit, np.int64(distance - DISTANCE_BASE[code]), np.int64(DISTANCE_BITS[code]))
            at += length
        bit = _put(out, bit, literal_codes[256], lengths[256])
    return (bit + 7) >> 3 if at == len(raw) else -1
