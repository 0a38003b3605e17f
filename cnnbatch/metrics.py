"""Distortion measures."""

import math

import numpy as np
import numpy.typing as npt

LOSSLESS_DB = 100.0
"""`psnr_db` of equal images, so that the figure stays finite in reports."""

_ROWS = 64
"""Rows compared at a time: their differences stay in the cache, and huge images need no second copy."""

_TINY_SAMPLES = 1 << 15
"""Their squared differences add up to less than 2³¹, in one product."""


def psnr_db(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio over all samples of two uint8 images of one shape, in dB, at most `LOSSLESS_DB`."""
    if a.shape != b.shape:
        raise ValueError(f"images of shapes {a.shape} and {b.shape}")
    total = 0
    if a.size <= _TINY_SAMPLES:
        difference = np.subtract(a, b, dtype=np.int32).ravel()
        total = int(difference @ difference)
        return LOSSLESS_DB if total == 0 else min(LOSSLESS_DB, 10 * math.log10(255**2 * a.size / total))
    for top in range(0, a.shape[0], _ROWS):
        difference = np.subtract(a[top : top + _ROWS], b[top : top + _ROWS], dtype=np.int32)
        total += int(np.sum(np.square(difference), dtype=np.int64))
    if total == 0:
        return LOSSLESS_DB
    return min(LOSSLESS_DB, 10 * math.log10(255**2 * a.size / total))
