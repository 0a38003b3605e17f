"""The size of HEVC pictures, from their sequence parameter sets (ITU-T H.265, 7.3.2.2)."""

import struct
from collections.abc import Iterator
from typing import Final

from cnnbatch.errors import Undecodable

SEQUENCE_PARAMETERS: Final = 33
HEADER_BYTES: Final = 1024
"""Bytes of a parameter set that are looked at; what is read is at its beginning."""

PROFILE_BITS, LEVEL_BITS = 88, 8
SEPARATE_PLANES: Final = 3


def largest_picture(config: bytes, data: bytes) -> tuple[int, int, int]:
    """Width, height and bits of the largest picture that parameter sets allow: of a box ``hvcC``, and among an item's data.

    Raises Undecodable where there are none.
    """
    found = [_size(unit) for unit in (*_configured(config), *_units(data, 1 + (config[21] & 3))) if _is_sequence(unit)]
    if not found:
        raise Undecodable("corrupt", "HEVC picture without its parameters")
    width, height, bits = (max(values) for values in zip(*found, strict=True))
    return width, height, bits


def _configured(config: bytes) -> Iterator[bytes]:
    """The units of a decoder configuration record (ISO/IEC 14496-15, 8.3.3.1)."""
    position = 23
    for _ in range(config[22]):
        (count,) = struct.unpack_from(">H", config, position + 1)
        position += 3
        for _ in range(count):
            (length,) = struct.unpack_from(">H", config, position)
            yield config[position + 2 : position + 2 + min(length, HEADER_BYTES)]
            position += 2 + length


def _units(data: bytes, size_bytes: int) -> Iterator[bytes]:
    position = 0
    while position + size_bytes <= len(data):
        length = int.from_bytes(data[position : position + size_bytes], "big")
        position += size_bytes
        yield data[position : position + min(length, HEADER_BYTES)]
        position += length


def _is_sequence(unit: bytes) -> bool:
    return len(unit) > 2 and unit[0] >> 1 & 63 == SEQUENCE_PARAMETERS


class _Bits:
    def __init__(self, data: bytes) -> None:
        plain = data.replace(b"\0\0\3", b"\0\0")  # emulation prevention
        self._value, self._left = int.from_bytes(plain, "big"), 8 * len(plain)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise Undecodable("truncated", "HEVC parameters that end early")
        return self._value >> self._left & (1 << count) - 1

    def ue(self) -> int:
        """An exponential Golomb code (9.2)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)


def _size(unit: bytes) -> tuple[int, int, int]:
    if (unit[0] & 1) or unit[1] >> 3:
        raise Undecodable("unsupported", "HEVC in layers")
    bits = _Bits(unit[2:])
    bits.take(4)
    layers = bits.take(3)
    bits.take(1 + PROFILE_BITS + LEVEL_BITS)
    present = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    bits.take(2 * (8 - layers) if layers else 0)
    for has_profile, has_level in present:
        bits.take(PROFILE_BITS * has_profile + LEVEL_BITS * has_level)
    bits.ue()
    if bits.ue() == SEPARATE_PLANES:
        bits.take(1)
    width, height = bits.ue(), bits.ue()
    if bits.take(1):
        for _ in range(4):
            bits.ue()
    return width, height, 8 + max(bits.ue(), bits.ue())
