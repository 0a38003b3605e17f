"""The context model of the hyper-latents, in integers only: each is predicted, and its scale follows how busy it is around.

ẑ takes an eighth of all bits at low quality. A symbol is ẑ less a prediction from the places left, above, above left and above
right in its own channel; and where magnitudes are above what their scales expect, beside it and in the channels before it at
the same place, its scale index rises. A wrong index would destroy everything behind it, so nothing here is float: what a
decoder needs are the integer tables of the codec file (`HyperTables`), and any machine finds the same.

`cnnbatch.codec.hyperprior.hyper_context` is the same arithmetic over tensors for training.

Shapes: a × b hyper-latent positions of one tile, C channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from cnnbatch.codec.entropy_coding.rans import Decoder, take_symbol
from cnnbatch.codec.entropy_coding.tables import Indexes, Symbols
from cnnbatch.codec.transforms.integer_kernels import Z_MAX

WEIGHT_UNIT = 64
"""A weight of 1 as an integer."""

WEIGHT_MAX = 127

UNIT = 256
"""Activity of a symbol that is as large as its scale index expects."""

MOST = 8 * UNIT
"""Activity of one symbol at most."""

PRIOR = 4
"""Symbols of usual size that an activity is averaged with."""

NEIGHBOUR = 16
"""Symbols that the mean activity of the place to the left counts for, and that of the place above."""

OWN = 4
"""Symbols that the same channel counts for, to the left and above."""

EDGES = (23, 27, 32, 38, 45, 54, 64, 76, 91, 108, 128, 152, 181, 215, 256, 304, 362, 431, 512, 609, 724)
"""Activities, as a mean over symbols in units of 1/`UNIT`, above which the next class begins: 2^(k/4), k from −14 to 6."""

SMALLEST = 0.05
"""Added to an expected magnitude, so that none is zero."""

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class HyperTables:
    """The integers of one codec file."""

    weights: Integers
    """[C, 4], of left, above, above left, above right, in units of 1/`WEIGHT_UNIT`."""
    shifts: Integers
    """[len(EDGES) + 1]: what each class of activity adds to the scale index."""
    inverse: Integers
    """[num_scales]: `UNIT` over the magnitude that a scale index expects."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "HyperTables":
        """Reads the arrays of a codec file."""
        weights, shifts, inverse = (arrays[f"hyper_context.{n}_table"].astype(np.int64) for n in ("weight", "shift", "inverse"))
        return cls(weights, shifts, inverse)

    def encode(self, z: Symbols, static: Indexes) -> tuple[Symbols, Indexes]:
        """ẑ int16 [a, b, C] and the ``static`` scale index of each channel [C] → symbols and scale indexes [a·b·C]."""
        symbols, indexes = np.empty(z.shape, np.int16), np.empty(z.shape, np.uint8)
        _encode(z, symbols, indexes, static.astype(np.int64), self.weights, self.shifts, self.inverse)
        return symbols.ravel(), indexes.ravel()

    def decode(self, decoder: Decoder, shape: tuple[int, int], static: Indexes) -> Symbols:
        """The next ẑ int16 [a, b, C] of a stream; ``shape``: (a, b). Raises BitstreamError."""
        z = np.empty((*shape, len(static)), np.int16)
        tables = (static.astype(np.int64), self.weights, self.shifts, self.inverse)
        decoder.decode_by(_decode, z, *tables)
        return z


@numba.njit(nogil=True, cache=True)
def _predicted(z, i, j, c, weights):  # type: ignore[no-untyped-def]
    """Rounded half up; nothing beyond the tile."""
    total = WEIGHT_UNIT // 2
    if j > 0:
        total += weights[c, 0] * z[i, j - 1, c]
    if i > 0:
        total += weights[c, 1] * z[i - 1, j, c]
    if i > 0 and j > 0:
        total += weights[c, 2] * z[i - 1, j - 1, c]
    if i > 0 and j + 1 < z.shape[1]:
        total += weights[c, 3] * z[i - 1, j + 1, c]
    return total // WEIGHT_UNIT


@numba.njit(nogil=True, cache=True)
def _around(activity, i, j, channels):  # type: ignore[no-untyped-def]
    """(sum of activities, number of symbols that it stands for) before the first channel of a place.

    ``activity`` [a, b, C + 1]: of each symbol, and at the end their sum.
    """
    total, count = PRIOR * UNIT, PRIOR
    if j > 0:
        total += NEIGHBOUR * activity[i, j - 1, channels] // channels
        count += NEIGHBOUR
    if i > 0:
        total += NEIGHBOUR * activity[i - 1, j, channels] // channels
        count += NEIGHBOUR
    return total, count


@numba.njit(nogil=True, cache=True)
def _index(activity, place, around, static, shifts, num_scales):  # type: ignore[no-untyped-def]
    """The scale index of the symbol at ``place``; ``around``: see `_around`."""
    (i, j, c), (total, count) = place, around
    total += activity[i, j, -1]
    count += c
    if j > 0:
        total += OWN * activity[i, j - 1, c]
        count += OWN
    if i > 0:
        total += OWN * activity[i - 1, j, c]
        count += OWN
    number = 0
    while number < len(EDGES) and total > count * EDGES[number]:
        number += 1
    return min(max(static + shifts[number], 0), num_scales - 1)


@numba.njit(nogil=True, cache=True)
def _note(activity, i, j, c, symbol, inverse):  # type: ignore[no-untyped-def]
    activity[i, j, c] = min(abs(symbol) * inverse, MOST)
    activity[i, j, -1] += activity[i, j, c]


@numba.njit(nogil=True, cache=True)
def _encode(z, symbols, indexes, static, weights, shifts, inverse):  # type: ignore[no-untyped-def]
    rows, columns, channels = z.shape
    activity = np.zeros((rows, columns, channels + 1), np.int64)
    for i in range(rows):
        for j in range(columns):
            around = _around(activity, i, j, channels)
            for c in range(channels):
                indexes[i, j, c] = _index(activity, (i, j, c), around, static[c], shifts, len(inverse))
                symbols[i, j, c] = z[i, j, c] - _predicted(z, i, j, c, weights)
                _note(activity, i, j, c, np.int64(symbols[i, j, c]), inverse[static[c]])


@numba.njit(nogil=True, cache=True)
def _decode(z, static, weights, shifts, inverse, stream, position):  # type: ignore[no-untyped-def]
    """A `Decoder.decode_by` loop."""
    rows, columns, channels = z.shape
    activity, x = np.zeros((rows, columns, channels + 1), np.int64), stream[2][0]
    for i in range(rows):
        for j in range(columns):
            around = _around(activity, i, j, channels)
            for c in range(channels):
                index = _index(activity, (i, j, c), around, static[c], shifts, len(inverse))
                symbol, x, position = take_symbol(index, stream, x, position)
                if position < 0:
                    return position
                value = symbol + _predicted(z, i, j, c, weights)
                if abs(value) > Z_MAX:
                    return -2
                z[i, j, c] = value
                _note(activity, i, j, c, symbol, inverse[static[c]])
    stream[2][0] = x
    return position
