"""DPCM prediction: the low-frequency channels of a latent position from what is decoded left of it and above."""

import numba
import numpy as np

from cnnbatch.codec.entropy_coding.tables import Symbols
from cnnbatch.codec.quantisation.dependent import Values


def restore(values: Values | Symbols, prediction: Values) -> Values:
    """Dequantised symbols [a, b, M] → the values of the first K channels [a, b, K] float32, each with its prediction added."""
    restored = np.zeros((*values.shape[:2], len(prediction)), np.float32)
    _restore(values, restored, prediction)
    return restored


@numba.njit(nogil=True, cache=True)
def _restore(values, restored, prediction):  # type: ignore[no-untyped-def]
    turned, expected = np.ascontiguousarray(prediction.T), np.empty(len(prediction), np.float32)
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            predict(restored, i, j, turned, expected)
            for channel in range(len(prediction)):
                restored[i, j, channel] = expected[channel] + np.float32(values[i, j, channel])


@numba.njit(nogil=True, cache=True)
def predict(restored, i, j, turned, expected):  # type: ignore[no-untyped-def]
    """Fills ``expected`` [K]: linear in the K channels of what lies left, above, above left and above right, by the columns of
    ``turned`` [4·K, K]. Nothing beyond the tile."""
    channels = len(expected)
    expected[:] = 0
    for part in range(4):
        row, column = i - (part > 0), j - (part % 2 == 0) + (part == 3)
        if row >= 0 and 0 <= column < restored.shape[1]:
            for k in range(channels):
                value = restored[row, column, k]
                for channel in range(channels):
                    expected[channel] += value * turned[part * channels + k, channel]
