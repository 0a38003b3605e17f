"""The basis functions of the linear bypass and the lapped transform together, made smaller by a box filter.

What a latent position adds to a picture lies in its block and half a block around it. So a reduced picture is one product of
matrices and four sums of what overlaps; at the edge of a picture, where nothing is lapped, the functions are others.

Shapes: h × w latent positions, C channels; n = 16 ÷ reduction, the pixels of a block in each direction.
"""

import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final

import numpy as np

from cnnbatch.codec.adaptive_filter.kernels import COLOURS
from cnnbatch.codec.geometry import BLOCK, Array
from cnnbatch.codec.transforms.integer_arrays import Floats
from cnnbatch.codec.transforms.products import panels, product

LARGEST: Final = 8
"""A sixteenth is an eighth with four pixels made one: half a block is not a whole number of its pixels."""

WANTED: Final = {2: 0.8, 4: 0.4, 8: 0.15}
"""Share of the channels, the first, that a reduced picture is made of: the others have higher frequencies than it can show."""


class ReducedBasis:
    """Those of one codec file at one reduction."""

    def __init__(self, arrays: Mapping[str, Array], by: int, known: int) -> None:
        """``known``: channels that come first in a stream; a sixteenth is made of them alone."""
        self.by, self._direct = by, min(by, LARGEST)
        self._lapping = arrays["g_s.postfilter.weight"].astype(np.float64)
        self._bypass = arrays["g_s.bypass.weight"].astype(np.float64).reshape(BLOCK, BLOCK, COLOURS, -1)
        self.channels = known if by > LARGEST else math.ceil(WANTED[by] * self._bypass.shape[-1])
        self._matrix = cache(self._matrix_of)

    def __call__(self, y_hat: Floats, gain: Floats, edges: tuple[tuple[bool, bool], tuple[bool, bool]]) -> Floats:
        """``y_hat`` [h, w, C], times ``gain`` [C] in grey levels → [n·h, n·w, 3], less the mean grey; ``edges``: whether its
        first and last rows, and columns, are those of the picture."""
        n, (h, w, _) = BLOCK // self._direct, y_hat.shape
        out = np.zeros((h + 1, n, w + 1, n, COLOURS), np.float32)
        for down, rows in _spans(h, edges[0]):
            for right, columns in _spans(w, edges[1]):
                part = y_hat[rows, columns]
                found = product(part, gain, self._matrix(down, right)).reshape(*part.shape[:2], 2, n, 2, n, COLOURS)
                for i in range(2):
                    for j in range(2):
                        place = out[rows.start + i : rows.stop + i, :, columns.start + j : columns.stop + j]
                        place += found[:, :, i, :, j].transpose(0, 2, 1, 3, 4)
        half = n // 2
        whole: Floats = out.reshape((h + 1) * n, (w + 1) * n, COLOURS)[half : half + h * n, half : half + w * n]
        return whole if self.by == self._direct else whole.reshape(h, 2, w, 2, COLOURS).mean((1, 3))

    def _matrix_of(self, down: tuple[bool, bool], right: tuple[bool, bool]) -> Floats:
        """Panels of [C, 2n·2n·3]."""
        basis = self._reduced(self._direct, down, right)
        return panels(basis.reshape(-1, basis.shape[-1]).T.astype(np.float32))

    def _reduced(self, by: int, down: tuple[bool, bool], right: tuple[bool, bool]) -> Array:
        """[2n, 2n, 3, C] float64."""
        rows, columns = (_spread_of(self._lapping, *edge).reshape(-1, by, BLOCK).mean(1) for edge in (down, right))
        bypass = self._bypass[..., : self.channels]
        basis: Array = np.einsum("ij,jlcm,kl->ikcm", rows, bypass, columns, optimize=True)
        return basis


def _spread_of(lapping: Array, first: bool, last: bool) -> Array:
    """[32, 16]: what a column of a block becomes, from half a block above it to half a block below; ``first``, ``last``: the
    block is the first or the last of the picture."""
    half = BLOCK // 2
    spread = np.zeros((2 * BLOCK, BLOCK))
    if first:
        spread[half:BLOCK, :half] = np.eye(half)
    else:
        spread[:BLOCK, :half] = lapping[:, half:]
    if last:
        spread[BLOCK : BLOCK + half, half:] = np.eye(half)
    else:
        spread[BLOCK:, half:] = lapping[:, :half]
    return spread


def _spans(length: int, edges: tuple[bool, bool]) -> Iterator[tuple[tuple[bool, bool], slice]]:
    """Runs of positions with the same ``(first, last)``."""
    first, last = edges
    if length == 1:
        yield edges, slice(0, 1)
        return
    if first:
        yield (True, False), slice(0, 1)
    if length > first + last:
        yield (False, False), slice(int(first), length - last)
    if last:
        yield (False, True), slice(length - 1, length)
