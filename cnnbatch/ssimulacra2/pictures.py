"""The measure of pictures on a CPU, in one pass from pixels to sums of errors.

A picture is looked at in bands, so that memory grows with its width only. In full resolution nothing but Y counts, the mean of
long and middle cones, in halved ones what has a weight of more than `NO_WEIGHT`; of a gray picture X and B are constant, and
there is only Y. Errors are never written down: a row of them comes from eleven rows that are blurred across, and is added up.

Shapes: H × W pixels, C colours (1 or 3); linear light is float32 [C, H, W], XYB float32 [3, H, W].
"""

from collections.abc import Callable
from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt
import torch

from cnnbatch.ssimulacra2.definition import (
    ABSORBANCE,
    B_OFFSET,
    BIAS,
    C2,
    LEAST_SIDE,
    RADIUS,
    SCALES,
    WEIGHTS,
    X_GAIN,
    X_OFFSET,
    Y_OFFSET,
    taps,
)
from cnnbatch.ssimulacra2.differentiable import score

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Sums = npt.NDArray[np.float64]

NO_WEIGHT: Final = 0.003
"""A channel whose norms have no larger weight at a scale is left out there: together less than 0.01 of a score."""

BAND: Final = 2048
"""Rows that are measured at a time, a multiple of the pixels a side of the last scale's."""

TILE: Final = 128
"""Columns at a time, whose blurred rows stay in the cache."""

_X, _Y, _B = range(3)
_NORMS: Final = 6
_COUNTED: Final = tuple(
    channels for scale in range(SCALES) if (channels := tuple(c for c in (_X, _Y, _B) if max(WEIGHTS[c][scale]) > NO_WEIGHT))
)
"""Channels by scale."""

_HALO: Final = RADIUS << (len(_COUNTED) - 1)
"""Rows around a band that the blurs of its last scale reach."""

_BLURRED: Final = 4
"""Planes to blur: x, x − y, x² + y², (x − y)²."""

_CONES: Final = np.array(ABSORBANCE, np.float32)
_LEVELS: Final = np.arange(256) / 255
_LINEAR: Final = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(np.float32)
"""Linear light of each grey level of sRGB."""

_ROOT_OF_BIAS: Final = BIAS ** (1 / 3)


def ssimulacra2(original: Pixels, picture: Pixels) -> float:
    """The score of ``picture``, uint8 [H, W, 3] or [H, W] in sRGB; 100 where both are equal, below 0 where little is left.

    A picture of fewer than 8 pixels a side, for which the definition has no score, is continued by its last ones.
    """
    if original.shape != picture.shape:
        raise ValueError(f"images of shapes {original.shape} and {picture.shape}")
    one, other = (continued(image) for image in (original, picture))
    height, width = one.shape[:2]
    sums = np.zeros((len(_COUNTED), len(ABSORBANCE), _NORMS))
    for top in range(0, height, BAND):
        _add_band(one, other, top, min(height, top + BAND), sums)
    return float(score(torch.tensor(_weighted(sums, height, width), dtype=torch.float64)))


def continued(image: Pixels) -> Pixels:
    """[H, W, C], H and W no less than `LEAST_SIDE`, by repeating the last pixels."""
    colours = image[..., None] if image.ndim == 2 else image
    after = [(0, max(0, LEAST_SIDE - pixels)) for pixels in colours.shape[:2]]
    return np.pad(colours, [*after, (0, 0)], "edge") if max(after) > (0, 0) else colours


def _add_band(original: Pixels, picture: Pixels, top: int, bottom: int, sums: Sums) -> None:
    """Adds the errors of the rows ``top`` … ``bottom`` to those of each scale, channel and norm."""
    begin, end = max(0, top - _HALO), min(len(original), bottom + _HALO)
    (x, x_light), (y, y_light) = (_from_pixels(image[begin:end], _LINEAR, _CONES) for image in (original, picture))
    kernel = np.array(taps()[RADIUS:], np.float32)
    for scale in range(_scales(*original.shape[:2])):
        counted = (_Y,) if len(x_light) == 1 else _COUNTED[scale]
        if scale > 1:
            x_light, y_light = _halved(x_light), _halved(y_light)
        if scale:
            x, y = (_xyb(light, _CONES, _X in counted, _B in counted) for light in (x_light, y_light))
        rows = (top - begin) >> scale, -((begin - bottom) >> scale)
        for channel in counted:
            _add_errors(x[channel], y[channel], rows, kernel, sums[scale, channel])


def _scales(height: int, width: int) -> int:
    """How many scales a picture has: sides are halved while they have `LEAST_SIDE` pixels."""
    side = min(height, width)
    return next((scale for scale in range(1, len(_COUNTED)) if -(-side >> scale - 1) < LEAST_SIDE), len(_COUNTED))


def _weighted(sums: Sums, height: int, width: int) -> float:
    """The weighted sum of the norms."""
    total = 0.0
    for scale, of_channels in enumerate(sums):
        norms = of_channels / (-(-height >> scale) * -(-width >> scale))
        norms[:, 3:] **= 0.25
        total += float((norms * np.array(WEIGHTS)[:, scale]).sum())
    return total


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """As numba's vector instructions want it: sums in any order, and no look at divisors, none of which is zero."""
    fast = {"contract", "nnan", "ninf", "nsz", "reassoc"}
    return numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=fast)(function)  # type: ignore[no-any-return]


@_compiled
def _from_pixels(pixels, table, cones):  # type: ignore[no-untyped-def]
    """uint8 [H, W, C] → XYB of which there is only Y, and linear light of half the sides."""
    height, width, colours = pixels.shape
    xyb = np.empty((3, height, width), np.float32)
    half = np.empty((colours, (height + 1) // 2, (width + 1) // 2), np.float32)
    light = np.empty((colours, 2, width), np.float32)
    middle = np.empty(width, np.float32)
    for row in range(height):
        for c in range(colours):
            line = light[c, row % 2]
            for column in range(width):
                line[column] = table[pixels[row, column, c]]
        _bright(light, row % 2, cones, xyb[_Y, row], middle)
        if row % 2 or row == height - 1:
            for c in range(colours):
                _halve(light[c, 0], light[c, row % 2], half[c, row // 2])
    return xyb, half


@_compiled
def _halved(light):  # type: ignore[no-untyped-def]
    colours, height, width = light.shape
    half = np.empty((colours, (height + 1) // 2, (width + 1) // 2), np.float32)
    for c in range(colours):
        for row in range(0, height, 2):
            _halve(light[c, row], light[c, min(row + 1, height - 1)], half[c, row // 2])
    return half


@_compiled
def _halve(upper, lower, half):  # type: ignore[no-untyped-def]
    """Means of 2 × 2; the last column is repeated where their number is odd."""
    width = len(upper)
    for column in range(width // 2):
        left, right = upper[2 * column] + lower[2 * column], upper[2 * column + 1] + lower[2 * column + 1]
        half[column] = np.float32(0.25) * (left + right)
    if width % 2:
        half[width // 2] = np.float32(0.5) * (upper[width - 1] + lower[width - 1])


@_compiled
def _xyb(light, cones, with_x, with_b):  # type: ignore[no-untyped-def]
    """XYB of linear light; X and B, which is less Y, where they are wanted."""
    _, height, width = light.shape
    xyb = np.empty((3, height, width), np.float32)
    middle = np.empty(width, np.float32)
    for row in range(height):
        x, y, b = xyb[_X, row], xyb[_Y, row], xyb[_B, row]
        _bright(light, row, cones, y, middle)
        if with_x:
            for column in range(width):
                x[column] = np.float32(X_GAIN) * (y[column] - middle[column]) + np.float32(X_OFFSET - X_GAIN * Y_OFFSET)
        if with_b:
            _respond(light, row, cones[2], b)
            for column in range(width):
                b[column] += np.float32(Y_OFFSET + B_OFFSET) - y[column]
    return xyb


@_compiled
def _bright(light, row, cones, y, middle):  # type: ignore[no-untyped-def]
    """Y of a row, and the response of the middle cones."""
    _respond(light, row, cones[0], y)
    _respond(light, row, cones[1], middle)
    for column in range(len(y)):
        y[column] = np.float32(0.5) * (y[column] + middle[column]) + np.float32(Y_OFFSET)


@_compiled
def _respond(light, row, cone, response):  # type: ignore[no-untyped-def]
    """Responses of one kind of cones to a row; of a gray one all three colours are the same."""
    red, green, blue = light[0, row], light[len(light) // 2, row], light[len(light) - 1, row]
    for column in range(len(response)):
        absorbed = cone[0] * red[column] + cone[1] * green[column] + cone[2] * blue[column]
        response[column] = _cube_root(absorbed + np.float32(BIAS)) - np.float32(_ROOT_OF_BIAS)


@_compiled
def _cube_root(v):  # type: ignore[no-untyped-def]
    """Cube root of a positive normal number: a third of its exponent, right within 4 %, and Halley's method twice: 10⁻¹¹."""
    root = np.int32(np.float32(v).view(np.int32) // np.int32(3) + np.int32(0x2A5119F2)).view(np.float32)
    for _ in range(2):
        cube = root * root * root
        root *= (cube + v + v) / (cube + cube + v)
    return root


@_compiled
def _add_errors(x, y, rows, kernel, sums):  # type: ignore[no-untyped-def]
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


@_compiled
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


@_compiled
def _blur_across(raw, kernel, line):  # type: ignore[no-untyped-def]
    for q in range(_BLURRED):
        r = raw[q]
        near = r[4:-6], r[6:-4], r[3:-7], r[7:-3]
        far = r[2:-8], r[8:-2], r[1:-9], r[9:-1], r[:-10], r[10:]
        _mix(kernel, r[5:-5], near, far, line[q])


@_compiled
def _blur_down(lines, middle, kernel, blurred):  # type: ignore[no-untyped-def]
    n = len(lines)
    for q in range(_BLURRED):
        near = lines[(middle - 1) % n, q], lines[(middle + 1) % n, q], lines[(middle - 2) % n, q], lines[(middle + 2) % n, q]
        mid = lines[(middle - 3) % n, q], lines[(middle + 3) % n, q], lines[(middle - 4) % n, q], lines[(middle + 4) % n, q]
        far = *mid, lines[(middle - 5) % n, q], lines[(middle + 5) % n, q]
        _mix(kernel, lines[middle % n, q], near, far, blurred[q])


@_compiled
def _mix(kernel, middle, near, far, mixed):  # type: ignore[no-untyped-def]
    """Eleven lines, of which pairs weigh the same."""
    a, b, c, d, e, f = kernel[0], kernel[1], kernel[2], kernel[3], kernel[4], kernel[5]
    b0, b1, c0, c1 = near
    d0, d1, e0, e1, f0, f1 = far
    for i in range(len(mixed)):
        inner = a * middle[i] + b * (b0[i] + b1[i]) + c * (c0[i] + c1[i])
        outer = d * (d0[i] + d1[i]) + e * (e0[i] + e1[i]) + f * (f0[i] + f1[i])
        mixed[i] = inner + outer


@_compiled
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
