"""Adaptive filter: what the pixels around a pixel tell of the error that the synthesis leaves in it.

Every sample x gains a weighted sum of `FEATURES` numbers, with weights of its colour:

- for each limit t of `LIMITS` and each pair (a, b) of opposite neighbours within 5×5: clip(a − x, ±t) + clip(b − x, ±t);
- for each colour: the sum of its 3×3 samples, less nine times the middle one;
- red less green, blue less green, and `CONSTANT`.

So edges are left alone, what lies between them is smoothed or sharpened, and colours learn from each other. The weights are
those of the quality, in the codec file, and where an encoder looked for them (`--effort`), a picture has differences of its
own in its header: whole numbers times `UNITS`, by least squares.

(Wiener filters fitted to each picture: Tsai et al., "Adaptive loop filtering for video coding", IEEE J. Selected Topics in
Signal Processing 7(6), 2013; with clipped differences: Taquet et al., "Non-linear adaptive loop filter", PCS 2019, in VVC.)

Shapes: N pictures of H × W pixels; pictures are [N, H, W, 3] float32 in grey levels, weights [N, 3, FEATURES].
"""

from collections.abc import Sequence
from typing import Final

import numba
import numpy as np
import numpy.typing as npt
from numba.extending import overload

from cnnbatch.codec.entropy_coding.exp_golomb import unpacked

PAIRS: Final = np.array([(0, 1), (0, 2), *((1, c) for c in range(-2, 3)), *((2, c) for c in range(-2, 3))])
"""Rows and columns to the second neighbour of each pair; the first is opposite."""

REACH: Final = 2

LIMITS: Final = (0.1, 0.8)
"""In steps Δ(q)."""

CONSTANT: Final = 16.0
COLOURS: Final = 3

AROUND: Final = len(LIMITS) * len(PAIRS) + COLOURS
"""Features that vanish where a picture is flat, the first ones; only they have weights in a codec file."""

FEATURES: Final = AROUND + 3

UNITS: Final = np.array([1 / 16] * len(PAIRS) + [1 / 32] * len(PAIRS) + [1 / 256] * COLOURS + [1 / 128, 1 / 128, 1 / 32])
"""Units of a picture's own numbers, feature by feature."""

Weights = npt.NDArray[np.float32]


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nnan", "nsz"})
def filter_planes(planes, weights, limits, pixels):  # type: ignore[no-untyped-def]
    """`filtered` of one picture, rounded half up and clamped, on a CPU.

    ``planes`` float32 [3, H + 2·REACH, W + 2·REACH] with its surroundings, ``limits`` in grey levels [2] → ``pixels`` uint8
    [H, W, 3].
    """
    height, width, _ = pixels.shape
    totals, around = np.empty(width, np.float32), np.empty((COLOURS, width), np.float32)
    first, low, high = AROUND, np.float32(0), np.float32(255)
    for i in range(REACH, height + REACH):
        for c in range(COLOURS):
            sum_around(planes[c], i, around[c])
        for c in range(COLOURS):
            own = weights[c]
            here, r = planes[c, i, REACH : REACH + width], planes[0, i, REACH : REACH + width]
            g, b = planes[1, i, REACH : REACH + width], planes[2, i, REACH : REACH + width]
            for j in range(width):
                mixed = own[first] * (r[j] - g[j]) + own[first + 1] * (b[j] - g[j]) + own[first + 2] * np.float32(CONSTANT)
                crossed = own[first - 3] * around[0, j] + own[first - 2] * around[1, j] + own[first - 1] * around[2, j]
                totals[j] = here[j] + mixed + crossed
            add_pairs(planes[c], i, own, limits, totals)
            for j in range(width):
                pixels[i - REACH, j, c] = np.uint8(min(max(totals[j] + np.float32(0.5), low), high))


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nnan", "nsz"})
def clipped(p, q, limit):  # type: ignore[no-untyped-def]
    """Two differences, clipped to ±limit, together."""
    return min(max(p, -limit), limit) + min(max(q, -limit), limit)


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nnan", "nsz"})
def add_pairs(plane, i, weights, limits, totals):  # type: ignore[no-untyped-def]
    """To the totals of row ``i``, what the clipped differences of its pairs of neighbours give.

    ``weights`` [2 · pairs] for the whole row, or [2 · pairs, W] for each of its columns.
    """
    width, half = len(totals), len(PAIRS)
    here, near, far = plane[i, REACH : REACH + width], limits[0], limits[1]
    for pair in range(half):
        down, right = PAIRS[pair]
        before = plane[i - down, REACH - right : REACH - right + width]
        behind = plane[i + down, REACH + right : REACH + right + width]
        strong, weak = weights[pair], weights[half + pair]
        for j in range(width):
            p, q = before[j] - here[j], behind[j] - here[j]
            beside = _weight(strong, j) * clipped(p, q, near) + _weight(weak, j) * clipped(p, q, far)  # type: ignore[no-untyped-call]
            totals[j] += beside


def _weight(weights, column):  # type: ignore[no-untyped-def]
    """The weight of a column: its own, or that of the whole row; `_compiled_weight` is what runs."""
    return weights if np.isscalar(weights) else weights[column]


@overload(_weight)
def _compiled_weight(weights, column):  # type: ignore[no-untyped-def]
    if isinstance(weights, numba.types.Array):
        return lambda weights, column: weights[column]
    return lambda weights, column: weights


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nnan", "nsz"})
def sum_around(plane, i, sums):  # type: ignore[no-untyped-def]
    """The 3×3 samples around each of row ``i``, less nine times the middle one."""
    for j in range(len(sums)):
        total = np.float32(-9) * plane[i, REACH + j]
        for down in range(-1, 2):
            for right in range(-1, 2):
                total += plane[i + down, REACH + j + right]
        sums[j] = total


@numba.njit(nogil=True, cache=True)
def repeat_edges(planes):  # type: ignore[no-untyped-def]
    """Fills the margin around the picture in ``planes`` [3, H + 2·REACH, W + 2·REACH]with its last pixels."""
    for plane in planes:
        height, width = plane.shape
        bottom, right = height - REACH - 1, width - REACH - 1
        for i in range(REACH, bottom + 1):
            for j in range(REACH):
                plane[i, j], plane[i, right + 1 + j] = plane[i, REACH], plane[i, right]
        for i in range(REACH):
            for j in range(width):
                plane[i, j], plane[bottom + 1 + i, j] = plane[REACH, j], plane[bottom, j]


def own_weights(filters: Sequence[bytes]) -> Weights | None:
    """Additions of N pictures to the weights, [N, 3, FEATURES], by the `packed` numbers, or nothing, in their headers.

    None: no picture adds anything. Raises BitstreamError.
    """
    if not any(filters):
        return None
    numbers = [unpacked(data, COLOURS * FEATURES) if data else np.zeros(COLOURS * FEATURES, np.int64) for data in filters]
    weights: Weights = (np.stack(numbers).reshape(-1, COLOURS, FEATURES) * UNITS).astype(np.float32)
    return weights
