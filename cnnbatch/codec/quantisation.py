"""Which integer a latent on its own becomes: rate–distortion-optimised quantisation, the encoder's choice alone.

The nearest integer costs the least distortion, the one below it fewer bits (Sullivan and Wiegand, IEEE Signal Processing
Magazine 15(6), 1998, on rate–distortion optimisation). For magnitude a between k and k + 1 the upper one is taken where

    bits(k + 1) + w·(k + 1 − a)²  <  bits(k) + w·(a − k)²     ⇔     a − k  >  ½ + (bits(k + 1) − bits(k)) / 2w

with the bits of the entropy coder's own tables and w, in bits for a squared unit, of `Hyperprior.quantiser_weights`.
A decoder never sees the difference. (In `cnnbatch.codec.trellis` the decoder takes part.)
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from cnnbatch.rans import PRECISION, SYMBOL_LIMIT, Indexes, Symbols, Tables

LEVELS = 64
"""Magnitudes with a threshold of their own; beyond, that of the last."""

ESCAPE_BITS = 16

Values = npt.NDArray[np.float32]


class Choice(NamedTuple):
    """One quantised unit, or several as arrays with an axis more."""

    symbols: Symbols
    """[a, b, M]."""
    found: Values
    """[a, b, K]: what a decoder will find for the values of the first K channels, prediction included."""
    tables: Indexes
    """[a, b, M]: of each symbol that is in the stream, elsewhere without a meaning."""


def restore(values: Values | Symbols, context: Values) -> Values:
    """Dequantised symbols [a, b, M] → the values of the first K channels [a, b, K] float32, each with its prediction added."""
    found = np.zeros((*values.shape[:2], len(context)), np.float32)
    _restore(values, found, context)
    return found


def dearer(prices: npt.NDArray[np.floating]) -> Values:
    """[…, LEVELS]: how many bits magnitude k + 1 costs more than k, of ``prices`` […, LEVELS + 1]."""
    return np.diff(prices).astype(np.float32)


def magnitude_bits(tables: Tables, levels: int) -> npt.NDArray[np.float64]:
    """[T, levels + 1]: bits of the symbol of each magnitude."""
    bits = np.empty((len(tables.radius), levels + 1))
    for table, (start, radius) in enumerate(zip(tables.start, tables.radius, strict=True)):
        upwards = tables.frequencies[start + radius : start + 2 * radius + 2]  # 0, 1, … radius, escape
        cost = PRECISION - np.log2(upwards.astype(np.float64))
        cost[-1] += ESCAPE_BITS
        bits[table] = cost[np.minimum(np.arange(levels + 1), radius + 1)]
    return bits


@numba.njit(nogil=True, cache=True)
def choose(value, dearer, half_inverse):  # type: ignore[no-untyped-def]
    """The symbol of one value, without a branch that no processor would predict; ``dearer``: the row of its scale index."""
    magnitude = min(abs(value), np.float32(SYMBOL_LIMIT))
    low = int(magnitude)
    threshold = np.float32(0.5) + dearer[min(low, LEVELS - 1)] * half_inverse
    low += (magnitude - np.float32(low) > threshold) & (low < SYMBOL_LIMIT)
    return low * (1 - 2 * (value < 0))


@numba.njit(nogil=True, cache=True)
def _restore(values, found, context):  # type: ignore[no-untyped-def]
    turned, expected = np.ascontiguousarray(context.T), np.empty(len(context), np.float32)
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            predict(found, i, j, turned, expected)
            for channel in range(len(context)):
                found[i, j, channel] = expected[channel] + np.float32(values[i, j, channel])


@numba.njit(nogil=True, cache=True)
def predict(found, i, j, turned, expected):  # type: ignore[no-untyped-def]
    """Fills ``expected`` [K]: linear in the K channels of what lies left, above, above left and above right, by the columns of
    ``turned`` [4·K, K]. Nothing beyond the unit."""
    channels = len(expected)
    expected[:] = 0
    for part in range(4):
        row, column = i - (part > 0), j - (part % 2 == 0) + (part == 3)
        if row >= 0 and 0 <= column < found.shape[1]:
            for k in range(channels):
                value = found[row, column, k]
                for channel in range(channels):
                    expected[channel] += value * turned[part * channels + k, channel]
