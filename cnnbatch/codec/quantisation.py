"""Which integer a latent becomes: rate–distortion-optimised quantisation, the encoder's choice alone.

The nearest integer costs the least distortion, the one below it fewer bits (Sullivan and Wiegand, IEEE Signal Processing
Magazine 15(6), 1998, on rate–distortion optimisation). For magnitude a between k and k + 1 the upper one is taken where

    bits(k + 1) + w·(k + 1 − a)²  <  bits(k) + w·(a − k)²     ⇔     a − k  >  ½ + (bits(k + 1) − bits(k)) / 2w

with the bits of the entropy coder's own tables and w, in bits for a squared unit, of `Hyperprior.bits_per_square`.
A decoder never sees the difference.
"""

import numba
import numpy as np
import numpy.typing as npt

from cnnbatch.rans import PRECISION, SYMBOL_LIMIT, Indexes, Symbols, Tables

LEVELS = 64
"""Magnitudes with a threshold of their own; beyond, that of the last."""

ESCAPE_BITS = 16

Values = npt.NDArray[np.float32]


class Quantiser:
    """Quantises with the tables of one codec file."""

    def __init__(self, tables: Tables) -> None:
        self._dearer = _dearer(tables)

    def __call__(self, values: Values, indexes: Indexes, weights: Values) -> Symbols:
        """``values`` [..., M] in quantisation steps and their scale ``indexes``, ``weights`` [M] → int16 [..., M]."""
        symbols = np.empty(values.shape, np.int16)
        channels = values.shape[-1]
        flat = (part.reshape(-1, channels) for part in (values, indexes, symbols))
        _quantise(*flat, np.float32(0.5) / weights, self._dearer)
        return symbols


def _dearer(tables: Tables) -> Values:
    """[T, LEVELS]: how many bits magnitude k + 1 costs more than k."""
    bits = np.empty((len(tables.radius), LEVELS + 1))
    for table, (start, radius) in enumerate(zip(tables.start, tables.radius, strict=True)):
        upwards = tables.frequencies[start + radius : start + 2 * radius + 2]  # 0, 1, … radius, escape
        cost = PRECISION - np.log2(upwards.astype(np.float64))
        cost[-1] += ESCAPE_BITS
        bits[table] = cost[np.minimum(np.arange(LEVELS + 1), radius + 1)]
    return np.diff(bits).astype(np.float32)


@numba.njit("void(f4[:, ::1], u1[:, ::1], i2[:, ::1], f4[::1], f4[:, ::1])", nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _quantise(values: Values, indexes: Indexes, symbols: Symbols, half_inverse: Values, dearer: Values) -> None:
    for row in range(values.shape[0]):
        for channel in range(values.shape[1]):
            value = values[row, channel]
            magnitude = min(abs(value), np.float32(SYMBOL_LIMIT))
            low = int(magnitude)
            extra = dearer[indexes[row, channel], min(low, LEVELS - 1)] * half_inverse[channel]
            if low < SYMBOL_LIMIT and magnitude - np.float32(low) > np.float32(0.5) + extra:
                low += 1
            symbols[row, channel] = low if value >= 0 else -low
