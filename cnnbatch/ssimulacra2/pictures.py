"""The measure of pictures on a CPU, in one pass from pixels to sums of errors.

A picture is looked at in bands, so that memory grows with its width only. In full resolution nothing but Y counts, the mean of
long and middle cones, in halved ones what has a weight of more than `NO_WEIGHT`; of a gray picture X and B are constant, and
there is only Y.

Shapes: H × W pixels, C colours (1 or 3); linear light is float32 [C, H, W], XYB float32 [3, H, W].
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from cnnbatch.ssimulacra2.blurred_errors import add_errors, compiled
from cnnbatch.ssimulacra2.definition import (
    ABSORBANCE,
    B_OFFSET,
    BIAS,
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

_X, _Y, _B = range(3)
_NORMS: Final = 6
_COUNTED: Final = tuple(
    channels for scale in range(SCALES) if (channels := tuple(c for c in (_X, _Y, _B) if max(WEIGHTS[c][scale]) > NO_WEIGHT))
)
"""Channels by scale."""

_HALO: Final = RADIUS << (len(_COUNTED) - 1)
"""Rows around a band that the blurs of its last scale reach."""

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
            add_errors(x[channel], y[channel], rows, kernel, sums[scale, channel])


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


@compiled
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


@compiled
def _halved(light):  # type: ignore[no-untyped-def]
    colours, height, width = light.shape
    half = np.empty((colours, (height + 1) // 2, (width + 1) // 2), np.float32)
    for c in range(colours):
        for row in range(0, height, 2):
            _halve(light[c, row], light[c, min(row + 1, height - 1)], half[c, row // 2])
    return half


@compiled
def _halve(upper, lower, half):  # type: ignore[no-untyped-def]
    """Means of 2 × 2; the last column is repeated where their number is odd."""
    width = len(upper)
    for column in range(width // 2):
        left, right = upper[2 * column] + lower[2 * column], upper[2 * column + 1] + lower[2 * column + 1]
        half[column] = np.float32(0.25) * (left + right)
    if width % 2:
        half[width // 2] = np.float32(0.5) * (upper[width - 1] + lower[width - 1])


@compiled
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


@compiled
def _bright(light, row, cones, y, middle):  # type: ignore[no-untyped-def]
    """Y of a row, and the response of the middle cones."""
    _respond(light, row, cones[0], y)
    _respond(light, row, cones[1], middle)
    for column in range(len(y)):
        y[column] = np.float32(0.5) * (y[column] + middle[column]) + np.float32(Y_OFFSET)


@compiled
def _respond(light, row, cone, response):  # type: ignore[no-untyped-def]
    """Responses of one kind of cones to a row; of a gray one all three colours are the same."""
    red, green, blue = light[0, row], light[len(light) // 2, row], light[len(light) - 1, row]
    for column in range(len(response)):
        absorbed = cone[0] * red[column] + cone[1] * green[column] + cone[2] * blue[column]
        response[column] = _cube_root(absorbed + np.float32(BIAS)) - np.float32(_ROOT_OF_BIAS)


@compiled
def _cube_root(v):  # type: ignore[no-untyped-def]
    """Cube root of a positive normal number: a third of its exponent, right within 4 %, and Halley's method twice: 10⁻¹¹."""
    root = np.int32(np.float32(v).view(np.int32) // np.int32(3) + np.int32(0x2A5119F2)).view(np.float32)
    for _ in range(2):
        cube = root * root * root
        root *= (cube + v + v) / (cube + cube + v)
    return root
