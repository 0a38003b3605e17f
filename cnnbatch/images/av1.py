"""The size of AV1 frames, from the sequence header and the beginning of each frame (AV1 specification, 5.5 and 5.9)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cnnbatch.errors import Undecodable
from cnnbatch.leb128 import read_leb128

SEQUENCE_HEADER, FRAME_HEADER, FRAME, REPEATED_HEADER = 1, 3, 6, 7
SELECT: Final = 2
SWITCH_FRAME, KEY_FRAME = 3, 0
HEADER_BYTES: Final = 512
"""Bytes of a unit that are looked at: a sequence header has up to 32 operating points of at most 90 bits."""

LENGTH_BYTES: Final = 8
"""Bytes of a unit's length, at most (4.10.5)."""


def largest_frame(data: bytes) -> tuple[int, int]:
    """Width and height of the largest frame of a still picture; raises Undecodable where a frame has a size of its own."""
    sizes: list[tuple[int, int]] = []
    sequence: _Sequence | None = None
    for kind, body in _units(data):
        if kind == SEQUENCE_HEADER:
            sequence = _Sequence.read(_Bits(body))
            sizes.append((sequence.width, sequence.height))
        elif kind in (FRAME_HEADER, FRAME, REPEATED_HEADER) and (sequence is None or sequence.overridden_by(_Bits(body))):
            raise Undecodable("unsupported", "an AV1 frame of another size than its sequence")
    return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and first bytes of each open bitstream unit."""
    position = 0
    while position < len(data):
        head = data[position]
        position += 2 if head & 4 else 1
        length = len(data) - position
        if head & 2:
            length, position = read_leb128(data, position, max_bytes=LENGTH_BYTES)
        yield head >> 3 & 15, data[position : position + min(length, HEADER_BYTES)]
        position += length


class _Bits:
    def __init__(self, data: bytes) -> None:
        self.value, self.left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self.left -= count
        if self.left < 0:
            raise Undecodable("truncated", "an AV1 header ends early")
        return self.value >> self.left & (1 << count) - 1

    def take_uvlc(self) -> None:
        zeros = 0
        while not self.take(1):
            zeros += 1
        self.take(zeros)


@dataclass(frozen=True, slots=True)
class _Sequence:
    """The fields of a sequence header that it takes to find whether a frame has a size of its own."""

    width: int
    height: int
    is_reduced: bool
    time_bits: int
    frame_id_bits: int
    screen_content_tools: int
    integer_mv: int

    @classmethod
    def read(cls, bits: _Bits) -> "_Sequence":
        bits.take(4)  # profile, still picture
        is_reduced = bool(bits.take(1))
        time_bits = 0
        if is_reduced:
            bits.take(5)
        else:
            time_bits = _read_operating_points(bits)
        width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
        width, height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
        if is_reduced:
            return cls(width, height, True, 0, 0, SELECT, SELECT)
        frame_id_bits = 0
        if bits.take(1):
            delta = bits.take(4) + 2
            frame_id_bits = delta + bits.take(3) + 1
        bits.take(3 + 4)
        has_order_hint = bits.take(1)
        bits.take(2 * has_order_hint)
        screen = SELECT if bits.take(1) else bits.take(1)
        integer = SELECT if not screen or bits.take(1) else bits.take(1)
        return cls(width, height, False, time_bits, frame_id_bits, screen, integer)

    def overridden_by(self, bits: _Bits) -> bool:
        """Whether the frame whose header begins here has a size of its own, or is no picture of this sequence."""
        if self.is_reduced:
            return False
        if bits.take(1):  # shows a frame that was decoded before
            return True
        kind, is_shown = bits.take(2), bits.take(1)
        bits.take(self.time_bits if is_shown else 1)
        if not (kind == SWITCH_FRAME or (kind == KEY_FRAME and is_shown)):
            bits.take(1)
        bits.take(1)
        tools = bits.take(1) if self.screen_content_tools == SELECT else self.screen_content_tools
        if tools and self.integer_mv == SELECT:
            bits.take(1)
        bits.take(self.frame_id_bits)
        return kind == SWITCH_FRAME or bool(bits.take(1))


def _read_operating_points(bits: _Bits) -> int:
    """Reads over timing, decoder model and operating points; returns the bits of a frame's presentation time."""
    equal_interval = delay_bits = time_bits = 0
    has_model = False
    if bits.take(1):
        bits.take(64)
        equal_interval = bits.take(1)
        if equal_interval:
            bits.take_uvlc()
        if has_model := bool(bits.take(1)):
            delay_bits = bits.take(5) + 1
            bits.take(32 + 5)
            time_bits = bits.take(5) + 1
    has_display_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if has_model and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if has_display_delay and bits.take(1):
            bits.take(4)
    return 0 if equal_interval else time_bits
