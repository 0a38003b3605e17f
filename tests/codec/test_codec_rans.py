"""The entropy coder: round trips, size against the entropy, and damage."""

import contextlib
from itertools import pairwise
from math import erf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.codec.entropy_coding.rans import Decoder, encode
from cnnbatch.codec.entropy_coding.tables import PRECISION, SYMBOL_LIMIT, Tables, gaussian_tables
from cnnbatch.errors import BitstreamError
from tests.codec.reference import RansReader

SCALES = np.exp(np.linspace(np.log(0.11), np.log(128), 64))
TABLES = gaussian_tables(SCALES)
PROPERTY = settings(deadline=None)  # the first call compiles

symbols_and_indexes = st.lists(
    st.tuples(
        st.one_of(st.integers(-3, 3), st.integers(-700, 700), st.sampled_from([SYMBOL_LIMIT, -SYMBOL_LIMIT])),
        st.integers(0, len(SCALES) - 1),
    ),
    max_size=200,
).map(lambda pairs: (np.array([p[0] for p in pairs], np.int16), np.array([p[1] for p in pairs], np.uint8)))


@st.composite
def any_tables(draw: st.DrawFn) -> Tables:
    """Tables of any radius and any frequencies ≥ 1, the extreme ones too."""
    radii = draw(st.lists(st.integers(0, 40), min_size=1, max_size=4))
    parts = []
    for radius in radii:
        size = 2 * radius + 2
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        weights = (1 - rng.random(size)) ** draw(st.sampled_from([0, 1, 20, 400])) + 1e-300
        part = 1 + np.floor(weights / weights.sum() * ((1 << PRECISION) - size)).astype(np.int64)
        part[rng.integers(size)] += (1 << PRECISION) - part.sum()
        parts.append(part)
    return Tables.from_frequencies(np.concatenate(parts).astype(np.uint32), np.array(radii, np.int32))


def gaussian_symbols(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    indexes = rng.integers(0, len(SCALES), count).astype(np.uint8)
    return np.round(rng.normal(0, SCALES[indexes])).astype(np.int16), indexes


def ideal_bits(symbols: np.ndarray, indexes: np.ndarray, tables: Tables) -> float:
    """−log₂ of what the tables say, 16 bits more for an escape."""
    radius = tables.radius[indexes]
    escaped = np.abs(symbols.astype(np.int32)) > radius
    entry = tables.start[indexes] + np.where(escaped, 2 * radius + 1, symbols + radius)
    return float((PRECISION - np.log2(tables.frequencies[entry])).sum() + 16 * escaped.sum())


def round_trip(symbols: np.ndarray, indexes: np.ndarray, tables: Tables) -> tuple[bytes, np.ndarray]:
    data = encode(symbols, indexes, tables)
    decoder = Decoder(data, tables)
    found = decoder.decode(indexes)
    decoder.finish()
    return data, found


@PROPERTY
@given(symbols_and_indexes)
def test_any_symbols_come_back(coded: tuple[np.ndarray, np.ndarray]) -> None:
    symbols, indexes = coded
    assert round_trip(symbols, indexes, TABLES)[1].tolist() == symbols.tolist()


@PROPERTY
@given(tables=any_tables(), seed=st.integers(0, 2**32), count=st.integers(0, 300))
def test_any_tables_give_the_symbols_back_at_their_entropy(tables: Tables, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    indexes = rng.integers(0, len(tables.radius), count).astype(np.uint8)
    symbols = rng.integers(-45, 46, count).astype(np.int16)
    data, found = round_trip(symbols, indexes, tables)
    assert found.tolist() == symbols.tolist()
    assert len(data) <= 1.001 * ideal_bits(symbols, indexes, tables) / 8 + 40


def test_size_is_within_a_thousandth_of_the_entropy() -> None:
    symbols, indexes = gaussian_symbols(200_000)
    data, found = round_trip(symbols, indexes, TABLES)
    assert (found == symbols).all()
    ideal = ideal_bits(symbols, indexes, TABLES) / 8
    assert 0.9999 * ideal <= len(data) <= 1.001 * ideal + 40


@PROPERTY
@given(symbols_and_indexes, st.lists(st.integers(0, 60), max_size=8))
def test_decoding_in_pieces_gives_the_same(coded: tuple[np.ndarray, np.ndarray], pieces: list[int]) -> None:
    symbols, indexes = coded
    decoder = Decoder(encode(symbols, indexes, TABLES), TABLES)
    ends = [*np.cumsum([0, *pieces]).clip(max=len(symbols)).tolist(), len(symbols)]
    found = [decoder.decode(indexes[a:b]) for a, b in pairwise(ends)]
    decoder.finish()
    assert np.concatenate(found).tolist() == symbols.tolist()


@PROPERTY
@given(symbols_and_indexes)
def test_the_procedure_of_the_specification_decodes_it(coded: tuple[np.ndarray, np.ndarray]) -> None:
    symbols, indexes = coded
    reader = RansReader(encode(symbols, indexes, TABLES))
    tables = [
        TABLES.frequencies[start : start + 2 * radius + 2].tolist()
        for start, radius in zip(TABLES.start, TABLES.radius, strict=True)
    ]
    assert [reader.read(tables[i]) for i in indexes] == symbols.tolist()
    assert reader.at_end()


@PROPERTY
@given(symbols_and_indexes, st.integers(1, 2000), st.binary(min_size=0, max_size=7))
def test_a_truncated_or_lengthened_stream_is_found(coded: tuple[np.ndarray, np.ndarray], cut: int, tail: bytes) -> None:
    symbols, indexes = coded
    data = encode(symbols, indexes, TABLES)
    for damaged in (data[: -min(cut, len(data))], data + b"x" + tail):
        with pytest.raises(BitstreamError):
            read_all(damaged, indexes)


@PROPERTY
@given(symbols_and_indexes, st.integers(0, 10**6), st.integers(1, 2**32 - 1))
def test_a_changed_word_never_does_more_than_raise(coded: tuple[np.ndarray, np.ndarray], place: int, flip: int) -> None:
    symbols, indexes = coded
    with contextlib.suppress(BitstreamError):
        read_all(flipped(encode(symbols, indexes, TABLES), place, flip), indexes)


def test_nearly_every_flipped_bit_is_found_at_the_end() -> None:
    """The raw bits of an escape, or a jump to a symbol of equal frequency, leave the state as it was: the CRC finds those."""
    symbols, indexes = gaussian_symbols(2000)
    data = encode(symbols, indexes, TABLES)
    found = 0
    for bit in range(0, 8 * len(data), 7):
        try:
            read_all(flipped(data, bit // 32, 1 << bit % 32), indexes)
        except BitstreamError:
            found += 1
    assert found >= 0.99 * len(range(0, 8 * len(data), 7))


def flipped(data: bytes, place: int, flip: int) -> bytes:
    words = np.frombuffer(data, "<u4").copy()
    words[place % len(words)] ^= flip
    return words.tobytes()


@PROPERTY
@given(st.binary(max_size=400), st.integers(0, 500))
def test_random_bytes_never_do_more_than_raise(data: bytes, count: int) -> None:
    indexes = (np.arange(count) % len(SCALES)).astype(np.uint8)
    with contextlib.suppress(BitstreamError):
        read_all(data, indexes)


def read_all(data: bytes, indexes: np.ndarray) -> None:
    decoder = Decoder(data, TABLES)
    decoder.decode(indexes)
    decoder.finish()


def test_a_stream_anywhere_in_memory_decodes() -> None:
    symbols, indexes = gaussian_symbols(1000)
    data = b"x" + encode(symbols, indexes, TABLES)
    assert (Decoder(memoryview(data)[1:], TABLES).decode(indexes) == symbols).all()


def test_gaussian_tables_lose_less_than_a_thousandth_on_gaussians() -> None:
    """Against the exact distribution, at scales where most bits of a picture are."""
    for scale in (0.3, 1.0, 4.0, 20.0):
        table = gaussian_tables(np.array([scale]))
        frequencies = table.frequencies / (1 << PRECISION)
        radius = int(table.radius[0])
        mass = np.array([gaussian_mass(k, scale) for k in range(-radius, radius + 1)])
        entropy = -(mass * np.log2(mass)).sum()
        assert -(mass * np.log2(frequencies[:-1])).sum() < 1.001 * entropy


def gaussian_mass(k: int, scale: float) -> float:
    return 0.5 * (erf((k + 0.5) / scale / sqrt(2)) - erf((k - 0.5) / scale / sqrt(2)))


def test_every_table_sums_to_one() -> None:
    for start, radius in zip(TABLES.start, TABLES.radius, strict=True):
        part = TABLES.frequencies[start : start + 2 * radius + 2]
        assert part.sum() == 1 << PRECISION
        assert part.min() >= 1


@pytest.mark.parametrize(
    ("frequencies", "radius"),
    [
        ([65535], [0]),
        ([65536, 0], [0]),
        ([65535, 2], [0]),
        ([65535, 1, 1], [0]),
        ([65535, 1], [-1]),
        ([65535, 1], [SYMBOL_LIMIT + 1]),
        ([65535, 1], [[0]]),
    ],
)
def test_improper_tables_are_refused(frequencies: list[int], radius: list[int]) -> None:
    with pytest.raises(BitstreamError, match="entropy tables"):
        Tables.from_frequencies(np.array(frequencies, np.uint32), np.array(radius, np.int32))


def test_golden_words() -> None:
    """The coder's output for ever: these bytes are in archives."""
    symbols = np.array([0, -3, 900, 1, -32767, 32767, 2, 0, 0], np.int16)
    indexes = np.array([0, 1, 1, 0, 0, 1, 1, 1, 0], np.uint8)
    tables = gaussian_tables(np.array([0.5, 2.0]))
    assert encode(symbols, indexes, tables).hex() == GOLDEN


GOLDEN = "a9649d88001100008483a1fa0100ffffffff2cc7"
