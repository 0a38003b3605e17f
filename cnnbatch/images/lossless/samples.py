"""Rows of bytes, as files hold them, ↔ arrays of samples.

A picture is in blocks (strips, tiles, or all of it), each of which is a run of rows: as they are, with a PNG filter in front
of each, or as differences to the sample on the left (TIFF's predictor 2).
"""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

from cnnbatch.images.lossless.numbers import Reader
from cnnbatch.images.png import predicted, unfilter
from cnnbatch.leb128 import leb128

PLAIN, FILTERED, DIFFERENCES = 0, 1, 2
MAX_SIDE: Final = 1 << 20
MAX_CHANNELS: Final = 16
MAX_BLOCKS: Final = 1 << 20
Pixels = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the samples of a picture are in its blocks. ``row_bytes``: of a row, padding included; 0: as many as it takes."""

    width: int
    height: int
    channels: int
    bits: int
    rows: int
    block_width: int
    block_height: int
    row_bytes: int = 0
    is_big_endian: int = 0
    is_planar: int = 0
    """Each channel has blocks of its own."""
    is_tiled: int = 0
    """The last blocks are whole; ``width`` and ``height`` are then those of all tiles together."""

    def dump(self) -> bytes:
        """As bytes."""
        return b"".join(map(leb128, astuple(self)))

    @classmethod
    def parse(cls, reader: Reader, *, max_bytes: int) -> "Layout":
        """The layout that is next in ``reader``; raises ValueError for one that cannot be, or of over ``max_bytes``."""
        layout = cls(*(reader.number(4 * MAX_CHANNELS * MAX_SIDE) for _ in fields(cls)))
        if not layout.is_sound() or layout.num_bytes > max_bytes:
            raise ValueError(f"no layout of samples: {layout}")
        return layout

    def is_sound(self) -> bool:
        """Whether there can be such a picture."""
        sides = 1 <= self.width <= MAX_SIDE and 1 <= self.height <= MAX_SIDE
        blocks = 1 <= self.block_width <= self.width and 1 <= self.block_height <= self.height
        if not (sides and blocks and 1 <= self.channels <= MAX_CHANNELS and self.bits in (1, 2, 4, 8, 16)):
            return False
        if self.is_tiled and (self.width % self.block_width or self.height % self.block_height):
            return False
        if not self.is_tiled and self.block_width != self.width:
            return False
        if self.num_blocks > MAX_BLOCKS:
            return False
        whole = self.rows == PLAIN or (self.rows == FILTERED and not self.row_bytes) or self.bits >= 8
        return self.rows in (PLAIN, FILTERED, DIFFERENCES) and whole and self.row_bytes in (0, *self._possible_rows())

    def _possible_rows(self) -> range:
        least = self._natural_row
        return range(least, least + 64)

    @property
    def _channels_in_block(self) -> int:
        return 1 if self.is_planar else self.channels

    @property
    def _natural_row(self) -> int:
        return (self.block_width * self._channels_in_block * self.bits + 7) // 8

    @property
    def stored_row(self) -> int:
        """Bytes of a row in the file."""
        return (self.row_bytes or self._natural_row) + (1 if self.rows == FILTERED else 0)

    @property
    def num_blocks(self) -> int:
        """How many `blocks` are."""
        planes = self.channels if self.is_planar else 1
        return planes * -(-self.height // self.block_height) * -(-self.width // self.block_width)

    @property
    def num_bytes(self) -> int:
        """Bytes of all blocks."""
        return sum(size for _, size in self.blocks())

    @property
    def dtype(self) -> str:
        """dtype of the array, as NumPy names it."""
        return "u2" if self.bits == 16 else "u1"

    def blocks(self) -> Iterator[tuple[tuple[slice, slice, slice], int]]:
        """Where in the array [H, W, C] each block is, and its bytes, in the order of the file."""
        planes = range(self.channels) if self.is_planar else (None,)
        for plane in planes:
            channels = slice(None) if plane is None else slice(plane, plane + 1)
            for top in range(0, self.height, self.block_height):
                bottom = min(top + self.block_height, self.height)
                for left in range(0, self.width, self.block_width):
                    where = slice(top, bottom), slice(left, left + self.block_width), channels
                    yield where, (bottom - top) * self.stored_row


def to_pixels(blocks: Sequence[bytes], layout: Layout) -> tuple[Pixels, bytes]:
    """The array [H, W, C] of the blocks, and the kinds of the filters; bits of padding are lost. Raises ValueError."""
    pixels = np.zeros((layout.height, layout.width, layout.channels), layout.dtype)
    kinds = []
    for block, (where, size) in zip(blocks, layout.blocks(), strict=True):
        if len(block) != size:
            raise ValueError(f"a block of {len(block)} bytes, expected {size}")
        rows = np.frombuffer(block, np.uint8).reshape(-1, layout.stored_row)
        if layout.rows == FILTERED:
            kinds.append(rows[:, 0].tobytes())
            rows = _unfiltered(rows, layout)
        part = pixels[where]
        part[...] = _unpacked(rows, layout).reshape(part.shape)
    return pixels, b"".join(kinds)


def to_blocks(pixels: Pixels, kinds: bytes, layout: Layout) -> list[bytes]:
    """The blocks of which `to_pixels` made the array."""
    blocks = []
    for where, _ in layout.blocks():
        rows = _packed(np.ascontiguousarray(pixels[where]), layout)
        if layout.rows == FILTERED:
            rows, kinds = _filtered(rows, kinds[: len(rows)], layout), kinds[len(rows) :]
        blocks.append(rows.tobytes())
    return blocks


def _unpacked(rows: NDArray[np.uint8], layout: Layout) -> Pixels:
    """[rows, samples]"""
    rows = rows[:, : layout._natural_row]
    count = layout.block_width * layout._channels_in_block
    if layout.bits < 8:
        bits = np.unpackbits(rows, axis=1)[:, : count * layout.bits].reshape(len(rows), count, layout.bits)
        weights = 1 << np.arange(layout.bits - 1, -1, -1, dtype=np.uint8)
        gathered: Pixels = (bits * weights).sum(axis=2, dtype=np.uint8)
        return gathered
    samples: Pixels = np.ascontiguousarray(rows)
    if layout.bits == 16:
        samples = samples.view(">u2" if layout.is_big_endian else "<u2").astype(np.uint16)
    if layout.rows == DIFFERENCES:
        by_pixel = samples.reshape(len(rows), layout.block_width, layout._channels_in_block)
        samples = np.cumsum(by_pixel, axis=1, dtype=samples.dtype)
    return samples


def _packed(pixels: Pixels, layout: Layout) -> NDArray[np.uint8]:
    """[rows, bytes]"""
    height = len(pixels)
    if layout.rows == DIFFERENCES:
        differences = pixels.copy()
        differences[:, 1:] -= pixels[:, :-1]
        pixels = differences
    samples = pixels.reshape(height, -1)
    if layout.bits < 8:
        shifts = np.arange(layout.bits - 1, -1, -1, dtype=np.uint8)
        rows = np.packbits((samples[:, :, None] >> shifts & 1).reshape(height, -1), axis=1)
    elif layout.bits == 16:
        rows = samples.astype(">u2" if layout.is_big_endian else "<u2").view(np.uint8)
    else:
        rows = samples
    if layout.row_bytes > rows.shape[1]:
        rows = np.pad(rows, ((0, 0), (0, layout.row_bytes - rows.shape[1])))
    return np.ascontiguousarray(rows)


def _pixel_bytes(layout: Layout) -> int:
    return max(1, layout._channels_in_block * layout.bits // 8)


def _unfiltered(rows: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    plain = np.empty((len(rows), rows.shape[1] - 1), np.uint8)
    if not unfilter(rows, _pixel_bytes(layout), plain):
        raise ValueError("an unknown PNG filter")
    return plain


def _filtered(plain: NDArray[np.uint8], kinds: bytes, layout: Layout) -> NDArray[np.uint8]:
    if len(kinds) != len(plain):
        raise ValueError(f"{len(kinds)} filters for {len(plain)} rows")
    rows = np.empty((len(plain), plain.shape[1] + 1), np.uint8)
    rows[:, 0] = np.frombuffer(kinds, np.uint8)
    _filter(plain, _pixel_bytes(layout), rows)
    return rows


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _filter(plain, step, rows):  # type: ignore[no-untyped-def]
    """Filters each row by the kind that is in front of it (PNG specification, section 9)."""
    for y in range(len(plain)):
        kind = rows[y, 0]
        for x in range(plain.shape[1]):
            left = np.int32(plain[y, x - step]) if x >= step else np.int32(0)
            above = np.int32(plain[y - 1, x]) if y else np.int32(0)
            corner = np.int32(plain[y - 1, x - step]) if y and x >= step else np.int32(0)
            rows[y, x + 1] = np.uint8((np.int32(plain[y, x]) - predicted(kind, left, above, corner)) & 0xFF)
