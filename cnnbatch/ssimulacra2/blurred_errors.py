"""Errors between two channels and their blurs, added up; on a CPU.

They are never written down: a row of them comes from eleven rows that are blurred across.
"""

from collections.abc import Callable
from typing import Any, Final

import numba
import numpy as np

from cnnbatch.ssimulacra2.definition import C2

TILE: Final = 128
"""Columns at a time, whose blurred rows stay in the cache."""

_BLURRED: Final = 4
"""Planes to blur: x, x − y, x² + y², (x − y)²."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """As numba's vector instructions want it: sums in any order, and no look at divisors, none of which is zero."""
    fast = {"contract", "nnan", "ninf", "nsz", "reassoc"}
    return numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=fast)(function)  # type: ignore[no-any-return]


@compiled
def add_errors(x, y, rows, kernel, sums):  # type: ignore[no-untyped-def]
    """Adds to ``sums`` [6] the errors of the rows from ``rows[0]`` up to ``rows[1]``, and their fourth powers."""
    height, width = x.shape
    reach = len(kernel) - 1
    lines = np.empty((2 * reach + 1, _BLURRED, TILE), np.float32)
    raw = np.empty((_BLURRED, TILE + 2 * reach), np.float32)
    blurred = np.empty((_BLURRED, TILE), np.float32)
    for left in range(0, width, TILE):
        columns = slice(left, min(left + TILE, width))
        for row in range(rows[0] - reach, rows[1] + reach):
            line = lines[row % len(lines)]
            if 0 <= row < height:
                _spread(x[row], y[row], left, raw)
                _blur_across(raw, kernel, line)
            else:
                line[:] = 0
            middle = row - reach
            if middle >= rows[0]:
                _blur_down(lines, middle, kernel, blurred)
                _add_row(x[middle, columns], y[middle, columns], blurred, sums)


@compiled
def _spread(x, y, left, raw):  # type: ignore[no-untyped-def]
    """Quantities of a row to blur, from some pixels before ``left`` on: x, x − y, x² + y², (x − y)²; 0 outside the picture."""
    reach = (raw.shape[1] - TILE) // 2
    begin, end = max(0, left - reach), min(len(x), left + TILE + reach)
    raw[:] = 0
    here = slice(begin - left + reach, end - left + reach)
    x, y = x[begin:end], y[begin:end]
    one, difference, squares, squared = raw[0, here], raw[1, here], raw[2, here], raw[3, here]
    for i in range(len(x)):
        d = x[i] - y[i]
        one[i], difference[i] = x[i], d
        squares[i], squared[i] = x[i] * x[i] + y[i] * y[i], d * d


@compiled
def _blur_across(raw, kernel, line):  # type: ignore[no-untyped-def]
    for q in range(_BLURRED):
        r = raw[q]
        near = r[4:-6], r[6:-4], r[3:-7], r[7:-3]
        far = r[2:-8], r[8:-2], r[1:-9], r[9:-1], r[:-10], r[10:]
        _mix(kernel, r[5:-5], near, far, line[q])


@compiled
def _blur_down(lines, middle, kernel, blurred):  # type: ignore[no-untyped-def]
    n = len(lines)
    for q in range(_BLURRED):
        near = lines[(middle - 1) % n, q], lines[(middle + 1) % n, q], lines[(middle - 2) % n, q], lines[(middle + 2) % n, q]
        mid = lines[(middle - 3) % n, q], lines[(middle + 3) % n, q], lines[(middle - 4) % n, q], lines[(middle + 4) % n, q]
        far = *mid, lines[(middle - 5) % n, q], lines[(middle + 5) % n, q]
        _mix(kernel, lines[middle % n, q], near, far, blurred[q])


@compiled
def _mix(kernel, middle, near, far, mixed):  # type: ignore[no-untyped-def]
    """Eleven lines, of which pairs weigh the same."""
    a, b, c, d, e, f = kernel[0], kernel[1], kernel[2], kernel[3], kernel[4], kernel[5]
    b0, b1, c0, c1 = near
    d0, d1, e0, e1, f0, f1 = far
    for i in range(len(mixed)):
        inner = a * middle[i] + b * (b0[i] + b1[i]) + c * (c0[i] + c1[i])
        outer = d * (d0[i] + d1[i]) + e * (e0[i] + e1[i]) + f * (f0[i] + f1[i])
        mixed[i] = inner + outer


@compiled
def _add_row(x, y, blurred, sums):  # type: ignore[no-untyped-def]
    means_x, means_d, squares, squared = blurred[0], blurred[1], blurred[2], blurred[3]
    zero, one = np.float32(0), np.float32(1)
    s0 = s1 = s2 = s3 = s4 = s5 = zero
    for i in range(len(x)):
        mean_x, mean_d = means_x[i], means_d[i]
        mean_y, bias = mean_x - mean_d, mean_d * mean_d
        unlike = (squared[i] - bias) / (squares[i] - mean_x * mean_x - mean_y * mean_y + np.float32(C2))
        ssim = max(bias + (one - bias) * unlike, zero)
        edge = (one + abs(y[i] - mean_y)) / (one + abs(x[i] - mean_x)) - one
        ringing, lost = max(edge, zero), max(-edge, zero)
        s0 += ssim
        s1 += ringing
        s2 += lost
        s3 += ssim * ssim * (ssim * ssim)
        s4 += ringing * ringing * (ringing * ringing)
        s5 += lost * lost * (lost * lost)
    sums[0] += s0
    sums[1] += s1
    sums[2] += s2
    sums[3] += s3
    sums[4] += s4
    sums[5] += s5
