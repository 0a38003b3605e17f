"""The container of one image: pack, unpack, and every kind of damage."""

import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.codec.container.bitstream import (
    CODEC_PREFIX_BYTES,
    MAX_FILTER_BYTES,
    MAX_PIXELS,
    MAX_QUALITY_STEPS,
    MAX_SIDE,
    TILE_SIDE,
    Bitstream,
    Header,
    pack,
    unpack,
)
from cnnbatch.errors import BitstreamError
from tests.codec.reference import parse_container

PROPERTY = settings(deadline=None)
HEADER = Header(width=1500, height=1030, gray=False, quality_steps=128, codec_prefix=b"abcd")
TILES = [b"first", b"", b"third tile", bytes(300)]
PACKED = pack(HEADER, TILES)
WITH_FILTER = pack(replace(HEADER, own_filter=b"filter"), TILES)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    width = draw(st.integers(1, MAX_SIDE))
    height = draw(st.integers(1, min(MAX_SIDE, MAX_PIXELS // width)))
    prefix = draw(st.binary(min_size=CODEC_PREFIX_BYTES, max_size=CODEC_PREFIX_BYTES))
    own_filter = draw(st.binary(max_size=200))
    gray, neutral = draw(st.sampled_from([(False, False), (True, False), (False, True)]))
    return Header(width, height, gray, draw(st.integers(0, MAX_QUALITY_STEPS)), prefix, own_filter, neutral)


def tiles_of(header: Header, seed: bytes) -> list[bytes]:
    rows, columns = header.grid()
    return [(seed * (n % 5))[: n % 200] for n in range(rows * columns)]


def check(data: bytes) -> Bitstream:
    parsed = unpack(data)
    for index in range(len(parsed.tiles)):
        parsed.check_tile(index)
    return parsed


@PROPERTY
@given(headers(), st.binary(max_size=40))
def test_any_header_and_tiles_come_back(header: Header, seed: bytes) -> None:
    tiles = tiles_of(header, seed)
    parsed = check(pack(header, tiles))
    assert parsed.header == header
    assert [bytes(u) for u in parsed.tiles] == tiles


@PROPERTY
@given(headers(), st.binary(max_size=40))
def test_the_specification_reads_it_the_same(header: Header, seed: bytes) -> None:
    tiles = tiles_of(header, seed)
    found = parse_container(pack(header, tiles))
    assert (found.width, found.height) == (header.width, header.height)
    assert (found.gray, found.neutral) == (header.gray, header.neutral)
    assert (found.quality_steps, found.prefix, found.tiles) == (header.quality_steps, header.codec_prefix, tiles)
    assert found.own_filter == header.own_filter


@pytest.mark.parametrize("data", [PACKED, WITH_FILTER])
def test_every_changed_byte_is_found(data: bytes) -> None:
    for place in range(len(data)):
        for flip in (1, 0x10, 0x7F, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[place] ^= flip
            with pytest.raises(BitstreamError):
                check(bytes(damaged))


@pytest.mark.parametrize("data", [PACKED, WITH_FILTER])
def test_every_truncation_is_found(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            unpack(data[:length])


@pytest.mark.parametrize("size", [0, MAX_FILTER_BYTES + 1])
def test_a_filter_has_a_byte_and_not_too_many(size: int) -> None:
    start = PACKED[:1] + bytes([PACKED[1] | 2]) + PACKED[2:11]
    with pytest.raises(BitstreamError, match="filter"):
        unpack(start + leb128(size) + bytes(size) + PACKED[11:])


def test_bytes_behind_the_end_are_found() -> None:
    with pytest.raises(BitstreamError, match="its table says"):
        unpack(PACKED + b"\0")


def test_a_damaged_tile_leaves_the_others_readable() -> None:
    parsed = unpack(PACKED[:-1] + b"\1")
    assert [bytes(parsed.check_tile(n)) for n in range(3)] == TILES[:3]
    with pytest.raises(BitstreamError, match="tile 3 of 4"):
        parsed.check_tile(3)


def test_swapped_tiles_of_one_length_are_found() -> None:
    header = Header(2048, 1024, False, 0, b"abcd")
    data = pack(header, [b"abc", b"xyz"])
    with pytest.raises(BitstreamError, match="CRC"):
        check(data.replace(b"abcxyz", b"xyzabc"))


@PROPERTY
@given(st.binary(max_size=60))
def test_random_bytes_never_do_more_than_raise(data: bytes) -> None:
    for start in (b"", PACKED[:3], PACKED[:7], PACKED[:11]):
        with pytest.raises(BitstreamError):
            check(start + data)


def leb128(value: int) -> bytes:
    return bytes([value >> s & 0x7F | 0x80 for s in (0, 7, 14, 21)] + [value >> 28])


@pytest.mark.parametrize(
    ("width", "height"), [(0, 1), (1, 0), (MAX_SIDE + 1, 1), (1, MAX_SIDE + 1), (MAX_SIDE, MAX_SIDE), (2**35 - 1,) * 2]
)
def test_absurd_sizes_are_refused(width: int, height: int) -> None:
    with pytest.raises(BitstreamError, match="outside the limits"):
        unpack(PACKED[:7] + leb128(width) + leb128(height) + bytes(100))


def test_absurd_lengths_are_refused_without_allocation() -> None:
    largest = PACKED[:7] + leb128(MAX_SIDE) + leb128(MAX_PIXELS // MAX_SIDE)
    attacks = [
        largest + b"\xff" * 2000,
        largest + bytes(100),
        PACKED[:11] + leb128(2**35 - 1) * 4 + bytes(100),
        PACKED[:7] + b"\xff" * 100,
    ]
    tracemalloc.start()
    for data in attacks:
        with pytest.raises(BitstreamError):
            unpack(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 18


@pytest.mark.parametrize("changed", [{"version": 2}, {"version": 0}, {"flags": 5}, {"flags": 128}, {"quality": 253}])
def test_an_unknown_version_flag_or_quality_is_refused(changed: dict[str, int]) -> None:
    fields = {"version": PACKED[0], "flags": PACKED[1], "quality": PACKED[2]} | changed
    with pytest.raises(BitstreamError, match=r"version|flags"):
        unpack(bytes(fields.values()) + PACKED[3:])


def test_golden_bytes() -> None:
    data = pack(Header(300, 200, True, 130, bytes.fromhex("01020304")), [b"unit"])
    assert data.hex() == "01018201020304ac02c80104" + "48335a11" + b"unit".hex()


@pytest.mark.parametrize(("side", "tiles"), [(1, 1), (TILE_SIDE, 1), (TILE_SIDE + 1, 2), (3 * TILE_SIDE, 3)])
def test_the_grid_has_a_tile_for_every_started_kilopixel(side: int, tiles: int) -> None:
    assert Header(side, 1, False, 0, b"abcd").grid() == (1, tiles)
    assert Header(1, side, False, 0, b"abcd").grid() == (tiles, 1)
