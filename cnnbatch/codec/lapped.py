"""The border filter of the analysis and its blocks in one pass over the pixels, on a CPU.

What `cnnbatch.codec.layers.BorderFilter` and `space_to_depth` do on any device, here in squares of 16 × 16 pixels around the
corners of blocks: they stay in the first cache, where separate passes go through memory six times.
"""

from typing import Final

import numba
import numpy as np
import torch
from torch import Tensor

from cnnbatch.codec.layers import BorderFilter

HALF: Final = BorderFilter.REACH
BLOCK: Final = 2 * HALF
COLOURS: Final = 3


def lapped_blocks(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` int8 [N, 16h, 16w, 3], filtered by ``weight`` [16, 16] → blocks [N, h, w, 768], float32 or bfloat16."""
    n, height, width, _ = x.shape
    shape = (n, height // BLOCK, width // BLOCK, BLOCK * BLOCK * COLOURS)
    rounded = dtype == torch.bfloat16
    exact = np.empty((0, 0, 0, 0) if rounded else shape, np.float32)
    bits = np.empty(shape if rounded else (0, 0, 0, 0), np.uint16)
    _filter(x.contiguous().numpy(), weight.detach().numpy(), exact, bits)
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16) if rounded else torch.from_numpy(exact)


@numba.njit(nogil=True, cache=True)
def _filter(pixels, weight, exact, bits):  # type: ignore[no-untyped-def]
    """Fills ``exact`` or, if that is empty, ``bits`` of bfloat16; square by square, half of whose rows and columns lie beyond
    the picture at its edges, where nothing is filtered."""
    n, height, width, _ = pixels.shape
    square = np.zeros((COLOURS, BLOCK, BLOCK), np.float32)
    between, done = np.empty_like(square), np.empty_like(square)
    packed = np.empty(square.shape, np.uint16)
    turned, identity = np.ascontiguousarray(weight.T), np.eye(BLOCK, dtype=np.float32)
    for image in range(n):
        for top in range(-HALF, height, BLOCK):
            down = weight if top > 0 and top + BLOCK <= height else identity
            rows = max(0, -top), min(BLOCK, height - top)
            for left in range(-HALF, width, BLOCK):
                right = turned if left > 0 and left + BLOCK <= width else identity
                columns = max(0, -left), min(BLOCK, width - left)
                _load(pixels[image], top, left, rows, columns, square)
                _multiply(down, right, square, between, done)
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


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def _multiply(down, right, square, between, done):  # type: ignore[no-untyped-def]
    """``done`` = ``down`` @ ``square`` @ ``right`` of each colour, in loops that the compiler vectorises."""
    for c in range(COLOURS):
        for i in range(BLOCK):
            for j in range(BLOCK):
                total = np.float32(0)
                for k in range(BLOCK):
                    total += down[i, k] * square[c, k, j]
                between[c, i, j] = total
        for i in range(BLOCK):
            for j in range(BLOCK):
                total = np.float32(0)
                for k in range(BLOCK):
                    total += between[c, i, k] * right[k, j]
                done[c, i, j] = total


@numba.njit(nogil=True, cache=True)
def _round(words, packed):  # type: ignore[no-untyped-def]
    """Words of float32 to the nearest bfloat16, of two equally near ones to the even one."""
    for c in range(COLOURS):
        for i in range(BLOCK):
            for j in range(BLOCK):
                word = words[c, i, j]
                packed[c, i, j] = (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


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
