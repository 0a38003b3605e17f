"""Steps of the exact nets of integers, compiled, without torch."""

from typing import Final

import numba
import numpy as np

ACTIVATION_UNIT: Final = 1 / 16
ACTIVATION_MAX: Final = 255 * ACTIVATION_UNIT
EXACT_LIMIT: Final = 2**24
MIN_SHIFT: Final = 1
MAX_SHIFT: Final = 10

Z_MAX: Final = 127
"""Largest magnitude of a hyper-latent."""


@numba.njit(nogil=True, cache=True)
def requantised(x, out):  # type: ignore[no-untyped-def]
    """``x`` [n] to the grid of activations."""
    unit, half, per_unit = np.float32(ACTIVATION_UNIT), np.float32(0.5), np.float32(1 / ACTIVATION_UNIT)
    largest = np.float32(ACTIVATION_MAX / ACTIVATION_UNIT)
    for i in range(len(x)):
        out[i] = min(max(np.floor(x[i] * per_unit + half), np.float32(0)), largest) * unit


@numba.njit(nogil=True, cache=True)
def depthwise_requantised(padded, weight, bias, out):  # type: ignore[no-untyped-def]
    """Sums in whatever order: all of them are exact."""
    unit, half = np.float32(ACTIVATION_UNIT), np.float32(0.5)
    per_unit, largest = np.float32(1 / ACTIVATION_UNIT), np.float32(ACTIVATION_MAX / ACTIVATION_UNIT)
    images, height, width, channels = out.shape
    for n in range(images):
        for i in range(height):
            for j in range(width):
                for c in range(channels):
                    total = bias[c]
                    for a in range(3):
                        for b in range(3):
                            total += padded[n, i + a, j + b, c] * weight[3 * a + b, c]
                    rounded = np.floor(total * per_unit + half)
                    out[n, i, j, c] = min(max(rounded, np.float32(0)), largest) * unit


@numba.njit(nogil=True, cache=True)
def fill_indexes(positions, offsets, last, indexes):  # type: ignore[no-untyped-def]
    """Rounds the scale net's result [N, a, b, M], with ``offsets`` [N, M], to scale ``indexes`` up to ``last``."""
    images, height, width, channels = positions.shape
    half, zero = np.float32(0.5), np.float32(0)
    for n in range(images):
        for i in range(height):
            for j in range(width):
                for c in range(channels):
                    indexes[n, i, j, c] = min(max(np.floor(positions[n, i, j, c] + half) + offsets[n, c], zero), last)
