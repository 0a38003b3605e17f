"""The filter of a draft: what the pixels around a pixel tell of what a draft lacks, with other weights at each class of place.

Features are the `AROUND` ones of `cnnbatch.codec.adaptive_filter.kernels`. Weights are those of the quality and of the class of
the 8×8 pixels: how busy they are, in steps Δ(q), and in which direction they vary most. They are fitted to what the full
decoder gives, so a draft is after whatever the codec was trained for. Without them in a codec file drafts are not filtered.

(Classes by direction and activity: the adaptive loop filter of VVC, Karczewicz et al., IEEE Trans. Circuits and Systems for
Video Technology 31(10), 2021.)

Shapes: pictures of H × W pixels, multiples of `SQUARE`; planes are [3, H + 2·REACH, W + 2·REACH] float32 in grey levels.
"""

from collections.abc import Mapping
from typing import Final

import numba
import numpy as np
import numpy.typing as npt

from cnnbatch.codec.adaptive_filter.kernels import AROUND, COLOURS, LIMITS, REACH, add_pairs, sum_around
from cnnbatch.codec.geometry import Array, Pixels
from cnnbatch.codec.transforms.quality_laws import NUM_ANCHORS, curve_at

Floats = npt.NDArray[np.float32]

SQUARE: Final = 8
"""Pixels of one class in each direction."""

ACTIVITIES: Final = (0.01, 0.06, 0.2, 0.7)
"""Mean second differences across and down, in steps Δ(q), above which the next class begins: a fifth of places in each."""

DIRECTIONS: Final = 5
"""None, across, down, and both diagonals."""

DIRECTED: Final = 1.5
"""Times that second differences in one direction are those at right angles to it where there is a direction."""

CLASSES: Final = DIRECTIONS * (len(ACTIVITIES) + 1)
DRAFT_FEATURES: Final = AROUND
DRAFT_WEIGHTS: Final = "draft_filter.weights"
"""Name of the array in a codec file, [NUM_ANCHORS, CLASSES, COLOURS, AROUND]."""


class DraftFilter:
    """The filter of one codec file."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        none = np.zeros((NUM_ANCHORS, CLASSES, COLOURS, AROUND), np.float32)
        self._weights: Floats = arrays.get(DRAFT_WEIGHTS, none).astype(np.float32)

    def __call__(self, planes: Floats, quality: float, step: float) -> Pixels:
        """``planes`` with their surroundings, ``step``: Δ(q) → filtered, rounded half up and clamped, [H, W, 3]."""
        pixels = np.empty((planes.shape[1] - 2 * REACH, planes.shape[2] - 2 * REACH, COLOURS), np.uint8)
        limits = np.float32(step) * np.array(LIMITS, np.float32)
        _filter(planes, classes(planes, step), curve_at(self._weights, quality), limits, pixels)
        return pixels


def classes(planes: Floats, step: float) -> npt.NDArray[np.uint8]:
    """[H / SQUARE, W / SQUARE]: activity + 5 · direction of each square, by second differences of r + 2g + b."""
    height, width = planes.shape[1] - 2 * REACH, planes.shape[2] - 2 * REACH
    found = np.empty((height // SQUARE, width // SQUARE), np.uint8)
    _classify(planes, np.float32(4 * SQUARE**2 * step) * np.array(ACTIVITIES, np.float32), found)
    return found


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nnan", "nsz"})
def _classify(planes, activities, found):  # type: ignore[no-untyped-def]
    rows, columns = found.shape
    width = columns * SQUARE
    luma = np.empty((SQUARE + 2, width + 2), np.float32)
    sums = np.empty((4, width), np.float32)
    for row in range(rows):
        for i in range(SQUARE + 2):
            place = REACH - 1 + row * SQUARE + i
            line = luma[i]
            r, g = planes[0, place, REACH - 1 : REACH + width + 1], planes[1, place, REACH - 1 : REACH + width + 1]
            b = planes[2, place, REACH - 1 : REACH + width + 1]
            for j in range(width + 2):
                line[j] = r[j] + np.float32(2) * g[j] + b[j]
        _second_differences(luma, sums)
        for column in range(columns):
            part = sums[:, column * SQUARE : (column + 1) * SQUARE]
            across, down, falling, rising = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            for j in range(SQUARE):
                across += part[0, j]
                down += part[1, j]
                falling += part[2, j]
                rising += part[3, j]
            number = 0
            for limit in activities:
                number += across + down > limit
            found[row, column] = number + (len(activities) + 1) * _direction(across, down, falling, rising)


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nnan", "nsz"})
def _second_differences(luma, sums):  # type: ignore[no-untyped-def]
    """Magnitudes across, down and along both diagonals, summed over the rows."""
    sums[:] = 0
    width = sums.shape[1]
    across, down, falling, rising = sums[0], sums[1], sums[2], sums[3]
    for i in range(1, SQUARE + 1):
        above, here, below = luma[i - 1], luma[i], luma[i + 1]
        left, middle, right = here[:width], here[1 : width + 1], here[2:]
        above_left, over, above_right = above[:width], above[1 : width + 1], above[2:]
        below_left, under, below_right = below[:width], below[1 : width + 1], below[2:]
        for j in range(width):
            twice = middle[j] + middle[j]
            across[j] += abs(twice - left[j] - right[j])
            down[j] += abs(twice - over[j] - under[j])
            falling[j] += abs(twice - above_left[j] - below_right[j])
            rising[j] += abs(twice - above_right[j] - below_left[j])


@numba.njit(nogil=True, cache=True)
def _direction(across, down, falling, rising):  # type: ignore[no-untyped-def]
    """The direction in which second differences are largest against those at right angles to it; 0: none stands out."""
    straight, least = max(across, down), min(across, down)
    slanted, slightest = max(falling, rising), min(falling, rising)
    if straight * slightest >= slanted * least:
        largest, smallest, direction = straight, least, 1 if across > down else 2
    else:
        largest, smallest, direction = slanted, slightest, 3 if falling > rising else 4
    return direction if largest > np.float32(DIRECTED) * smallest else 0


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nnan", "nsz"})
def _filter(planes, kinds, weights, limits, pixels):  # type: ignore[no-untyped-def]
    """Row by row, with the weights of each column beside each other."""
    height, width, _ = pixels.shape
    totals, around = np.empty(width, np.float32), np.empty((COLOURS, SQUARE, width), np.float32)
    own = np.empty((AROUND, width), np.float32)
    low, high, half = np.float32(0), np.float32(255), np.float32(0.5)
    for top in range(0, height, SQUARE):
        for c in range(COLOURS):
            for i in range(SQUARE):
                sum_around(planes[c], REACH + top + i, around[c, i])
        for c in range(COLOURS):
            _expand(weights[:, c], kinds[top // SQUARE], own)
            for i in range(SQUARE):
                here = planes[c, REACH + top + i, REACH : REACH + width]
                red, green, blue = around[0, i], around[1, i], around[2, i]
                of_red, of_green, of_blue = own[AROUND - 3], own[AROUND - 2], own[AROUND - 1]
                for j in range(width):
                    totals[j] = here[j] + of_red[j] * red[j] + of_green[j] * green[j] + of_blue[j] * blue[j]
                add_pairs(planes[c], REACH + top + i, own, limits, totals)
                for j in range(width):
                    pixels[top + i, j, c] = np.uint8(min(max(totals[j] + half, low), high))


@numba.njit(nogil=True, cache=True)
def _expand(weights, kinds, own):  # type: ignore[no-untyped-def]
    """``weights`` [CLASSES, AROUND] of the squares of one row → ``own`` [AROUND, W]."""
    for column in range(len(kinds)):
        of_class = weights[kinds[column]]
        for feature in range(len(of_class)):
            for j in range(column * SQUARE, (column + 1) * SQUARE):
                own[feature, j] = of_class[feature]
