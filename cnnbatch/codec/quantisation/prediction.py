"""DPCM prediction: the low-frequency channels of a latent position from what is decoded left of it and above."""

import numba
import numpy as np

from cnnbatch.codec.entropy_coding.tables import Symbols
from cnnbatch.codec.quantisation.dependent import Values


def restore(values: Values | Symbols, context: Values) -> Values:
    """Dequantised symbols [a, b, M] → the values of the first K channels [a, b, K] float32, each with its prediction added."""
    found = np.zeros((*values.shape[:2], len(context)), np.float32)
    _restore(values, found, context)
    return found


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
    ``turned`` [4·K, K]. Nothing beyond the tile."""
    channels = len(expected)
    expected[:] = 0
    for part in range(4):
        row, column = i - (part > 0), j - (part % 2 == 0) + (part == 3)
        if row >= 0 and 0 <= column < found.shape[1]:
            for k in range(channels):
                value = found[row, column, k]
                for channel in range(channels):
                    expected[channel] += value * turned[part * channels + k, channel]
