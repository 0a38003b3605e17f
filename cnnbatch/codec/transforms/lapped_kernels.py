"""The border filters in one pass over the picture, on a CPU: from pixels to blocks, and from blocks to pixels.

What `cnnbatch.codec.transforms.lapped.LappingFilter`, `space_to_depth`, its inverse and rounding do on any device, here in
squares of 16 × 16 pixels around the
corners of blocks: they stay in the first cache, where separate passes go through memory six times.
"""

from typing import Final

import numba
import numpy as np
import numpy.typing as npt

from cnnbatch.codec.adaptive_filter.kernels import COLOURS, REACH, repeat_edges
from cnnbatch.codec.geometry import BLOCK, Array
from cnnbatch.codec.transforms.bf16 import bf16_bits
from cnnbatch.codec.transforms.products import ROWS, multiply, padded

HALF: Final = BLOCK // 2

FILTER_ROWS: Final = padded(BLOCK, ROWS)
"""Rows of the filter, and zeros."""

ALL_ROWS: Final = padded((COLOURS - 1) * BLOCK + FILTER_ROWS, ROWS)
"""Rows of all colours, and a few more."""

Floats = npt.NDArray[np.float32]


def lapped_blocks(x: npt.NDArray[np.int8], weight: Floats, *, bf16: bool) -> Array:
    """``x`` [N, 16h, 16w, 3], filtered by ``weight`` [16, 16] → blocks [N, h, w, 768], float32, or the bits of bfloat16."""
    n, height, width, _ = x.shape
    shape = (n, height // BLOCK, width // BLOCK, BLOCK * BLOCK * COLOURS)
    exact = np.empty((0, 0, 0, 0) if bf16 else shape, np.float32)
    bits = np.empty(shape if bf16 else (0, 0, 0, 0), np.uint16)
    _filter(x, weight, exact, bits)
    return bits if bf16 else exact


def lapped_planes(linear: Floats, learned: Floats, weight: Floats, steps: Floats, grey: int) -> Floats:
    """Patches of 8×8 pixels ``linear`` [N, h, w, 4·192] and ``learned`` [N, 2h, 2w, 192] → what the adaptive filter reads.

    Their sum is filtered by ``weight`` [16, 16], times ``steps`` [N], plus ``grey``: float32 [N, 3, 16h + 2·REACH,
    16w + 2·REACH], the last pixels repeated beyond the edge. ``learned`` may be empty: nothing is added.
    """
    n, h, w, _ = linear.shape
    planes = np.empty((n, COLOURS, h * BLOCK + 2 * REACH, w * BLOCK + 2 * REACH), np.float32)
    _paint(linear, learned, weight, steps, np.float32(grey), planes)
    for picture in planes:
        repeat_edges(picture)
    return planes


@numba.njit(nogil=True, cache=True)
def _side(start, size, matrices):  # type: ignore[no-untyped-def]
    """The filter of a square that begins at ``start`` of ``size`` pixels, and its rows or columns that are in the picture."""
    inside = start > 0 and start + BLOCK <= size
    return matrices[0 if inside else 1], (max(0, -start), min(BLOCK, size - start))


@numba.njit(nogil=True, cache=True)
def _paint(linear, learned, weight, steps, grey, planes):  # type: ignore[no-untyped-def]
    """Squares as in `_filter`, to the middle of ``planes`` [N, 3, H + 2·REACH, W + 2·REACH]."""
    n, height, width = planes.shape[0], planes.shape[2] - 2 * REACH, planes.shape[3] - 2 * REACH
    square, between, products, done = _buffers()
    from_left, from_right = _matrices(weight)
    for image in range(n):
        for top in range(-HALF, height, BLOCK):
            down, rows = _side(top, height, from_left)
            for left in range(-HALF, width, BLOCK):
                right, columns = _side(left, width, from_right)
                _gather(linear[image], top, left, rows, columns, square)
                if learned.size:
                    _add(learned[image], top, left, rows, columns, square)
                _multiply(down, right, square, between, products)
                _lay(done, steps[image], grey, (top, left), (rows, columns), planes[image])


@numba.njit(nogil=True, cache=True)
def _gather(linear, top, left, rows, columns, square):  # type: ignore[no-untyped-def]
    for i in range(*rows):
        row = top + i
        for start in range(columns[0], columns[1], HALF):
            down, right = row // HALF, (left + start) // HALF
            block = linear[down // 2, right // 2]
            here = ((row % HALF) + (2 * (down % 2) + right % 2) * HALF) * HALF * COLOURS
            for j in range(HALF):
                for c in range(COLOURS):
                    square[c, i, start + j] = block[here + j * COLOURS + c]


@numba.njit(nogil=True, cache=True)
def _add(learned, top, left, rows, columns, square):  # type: ignore[no-untyped-def]
    for i in range(*rows):
        row = top + i
        for start in range(columns[0], columns[1], HALF):
            patch = learned[row // HALF, (left + start) // HALF]
            here = (row % HALF) * HALF * COLOURS
            for j in range(HALF):
                for c in range(COLOURS):
                    square[c, i, start + j] += patch[here + j * COLOURS + c]


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def _lay(done, step, grey, corner, inside, planes):  # type: ignore[no-untyped-def]
    (top, left), (rows, columns) = corner, inside
    for c in range(COLOURS):
        for i in range(*rows):
            line = planes[c, REACH + top + i]
            for j in range(*columns):
                line[REACH + left + j] = done[c, i, j] * step + grey


@numba.njit(nogil=True, cache=True)
def _filter(pixels, weight, exact, bits):  # type: ignore[no-untyped-def]
    """Fills ``exact`` or, if that is empty, ``bits`` of bfloat16; square by square, half of whose rows and columns lie beyond
    the picture at its edges, where nothing is filtered."""
    n, height, width, _ = pixels.shape
    square, between, products, done = _buffers()
    packed = np.empty(square.shape, np.uint16)
    from_left, from_right = _matrices(weight)
    for image in range(n):
        for top in range(-HALF, height, BLOCK):
            down, rows = _side(top, height, from_left)
            for left in range(-HALF, width, BLOCK):
                right, columns = _side(left, width, from_right)
                _load(pixels[image], top, left, rows, columns, square)
                _multiply(down, right, square, between, products)
                if exact.size:
                    _store(done, top, left, rows, columns, exact[image])
                else:
                    _round(done.view(np.uint32), packed)
                    _store(packed, top, left, rows, columns, bits[image])


@numba.njit(nogil=True, cache=True)
def _load(pixels, top, left, rows, columns, square):  # type: ignore[no-untyped-def]
    for i in range(*rows):
        for start in range(columns[0], columns[1], HALF):
            for j in range(HALF):
                for c in range(COLOURS):
                    square[c, i, start + j] = np.float32(pixels[top + i, left + start + j, c])


@numba.njit(nogil=True, cache=True)
def _multiply(down, right, square, between, products):  # type: ignore[no-untyped-def]
    """``products`` = ``down`` @ ``square`` @ ``right`` of each colour; a colour of a square is a panel of a right matrix."""
    for c in range(COLOURS):
        multiply(
            down, square[c : c + 1], between[c * BLOCK : c * BLOCK + len(down)]
        )  # what is too much, the next colour covers
    multiply(between, right, products)


@numba.njit(nogil=True, cache=True)
def _buffers():  # type: ignore[no-untyped-def]
    """A square [3, 16, 16], the rows that `_multiply` makes of it first and then, and of the latter those of the colours."""
    square, between = np.zeros((COLOURS, BLOCK, BLOCK), np.float32), np.zeros((ALL_ROWS, BLOCK), np.float32)
    flat = np.empty(ALL_ROWS * BLOCK, np.float32)
    return square, between, flat.reshape(ALL_ROWS, BLOCK), flat[: square.size].reshape(square.shape)


@numba.njit(nogil=True, cache=True)
def _matrices(weight):  # type: ignore[no-untyped-def]
    """The filter and the identity to multiply by from the left, and the same from the right."""
    left = np.zeros((2, FILTER_ROWS, BLOCK), np.float32)
    left[0, :BLOCK], left[1, :BLOCK] = weight, np.eye(BLOCK, dtype=np.float32)
    right = np.empty((2, 1, BLOCK, BLOCK), np.float32)
    right[0, 0], right[1, 0] = weight.T, left[1, :BLOCK]
    return left, right


@numba.njit(nogil=True, cache=True)
def _round(words, packed):  # type: ignore[no-untyped-def]
    """Words of float32 to those of bfloat16."""
    for c in range(COLOURS):
        for i in range(BLOCK):
            for j in range(BLOCK):
                packed[c, i, j] = bf16_bits(words[c, i, j])


@numba.njit(nogil=True, cache=True)
def _store(done, top, left, rows, columns, blocks):  # type: ignore[no-untyped-def]
    for i in range(*rows):
        row = top + i
        for start in range(columns[0], columns[1], HALF):
            column = left + start
            block = blocks[row // BLOCK, column // BLOCK]
            place = (row % BLOCK * BLOCK + column % BLOCK) * COLOURS
            for j in range(HALF):
                for c in range(COLOURS):
                    block[place + j * COLOURS + c] = done[c, i, start + j]
