"""The difference of two pictures, as a map and as a number.

Shapes: N pictures, H × W pixels; pictures are [N, 3, H, W], of any floating type, in grey levels 0…255, planes [C, N, H, W].
"""

import itertools
import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnbatch.butteraugli.bands import Bands, bands, blurred
from cnnbatch.butteraugli.lines import COARSE, FINE, squared_sums
from cnnbatch.planes import halved, linear

Pixels = npt.NDArray[np.uint8]

LEAST_SIDE: Final = 8
"""Pixels a side of the smallest scale that is looked at."""

TILE: Final = 352
HALO: Final = 80
"""Pixels a side, both even, that a picture is measured in at a time, and those around them that their differences depend on."""

_ASYMMETRY: Final = 0.8
"""By how much, in high bands, differences count less, and those outside a range around the original more: as in the program."""

_LINE: Final = 2 * 3.75 + 1


class _Contrast(NamedTuple):
    """How differences of a band are weighed before they are added up along lines."""

    factor: float
    weights: tuple[float, float]
    steady: tuple[float, float]
    """Values of X and of Y at which differences count half."""
    asymmetry: float


_HIGHEST: Final = _Contrast(0.39905817637, (173.5, 1.10039032555), (5.0, 71.7800275169), _ASYMMETRY)
_HIGH: Final = _Contrast(0.611612573796, (6923.99476109, 18.7237414387), (8051.15833247, 4498534.45232), math.sqrt(_ASYMMETRY))
_MIDDLE: Final = _Contrast(0.611612573796, (8246.75321353, 37.0819870399), (1009002.70582, 130262059.556), 1.0)

_GLOBAL: Final = 1 / (17.8 * 0.79079917404)

_ABOVE_ZERO: Final = 2.0**-40
"""Added to what a root is taken of, which has no gradient at zero; an even power of two, so that its root is exact."""


def butteraugli(original: Pixels, picture: Pixels) -> tuple[float, float]:
    """The largest difference and the 3-norm of differences of ``picture``, uint8 [H, W, 3] or [H, W] in sRGB."""
    if original.shape != picture.shape:
        raise ValueError(f"images of shapes {original.shape} and {picture.shape}")
    differences = torch.empty(1, *original.shape[:2])
    with torch.inference_mode():
        for top, left in itertools.product(*(range(0, side, TILE) for side in original.shape[:2])):
            tile = differences[:, top : top + TILE, left : left + TILE]
            tile.copy_(_tile(original, picture, top, left)[:, : tile.shape[1], : tile.shape[2]])
        return float(differences.max()), float(norm(differences)[0])


def _tile(original: Pixels, picture: Pixels, top: int, left: int) -> Tensor:
    """The differences from there on, right for `TILE` pixels a side."""
    above, before = max(0, top - HALO), max(0, left - HALO)
    window = slice(above, top + TILE + HALO), slice(before, left + TILE + HALO)
    return difference_map(_tensor(original[window]), _tensor(picture[window]))[:, top - above :, left - before :]


def three_norm(original: Tensor, picture: Tensor) -> Tensor:
    """[N]: the 3-norm of `difference_map`, with gradients."""
    return norm(difference_map(original, picture))


def norm(difference: Tensor, p: float = 3) -> Tensor:
    """[N]: the mean of the p-norm, the 2p-norm and the 4p-norm, each of a mean of powers, of maps [N, H, W]."""
    largest = difference.detach().amax((-2, -1), keepdim=True)
    powers = (difference / largest.clamp(min=1e-30)) ** p
    total = difference.new_zeros(len(difference))
    for doubled in (1, 2, 4):
        total = total + (powers.mean((-2, -1)) + 1e-30) ** (1 / (p * doubled))
        powers = powers * powers
    return largest[:, 0, 0] * total / 3


def difference_map(original: Tensor, picture: Tensor, intensity_target: float = 80) -> Tensor:
    """[N, H, W]: how visible the difference is at each pixel, on a screen whose white has ``intensity_target`` nits.

    A picture of fewer than 8 pixels a side is continued by its outermost ones.
    """
    h, w = original.shape[-2:]
    top, left = (max(0, LEAST_SIDE - side) // 2 for side in (h, w))
    x, y = (intensity_target * linear(_at_least(image, LEAST_SIDE)) for image in (original, picture))
    x, y = (light.transpose(0, 1).contiguous() for light in (x, y))
    differences = _of_scale(x, y)
    if min(x.shape[-2:]) > 2 * (LEAST_SIDE - 1):
        halves = _of_scale(halved(x), halved(y)).repeat_interleave(2, -2).repeat_interleave(2, -1)
        differences = (1 - 0.3 * 0.5) * differences + 0.5 * halves[:, : x.shape[-2], : x.shape[-1]]
    return differences[:, top : top + h, left : left + w]


def _tensor(image: Pixels) -> Tensor:
    colours = image[..., None].repeat(3, 2) if image.ndim == 2 else image
    return torch.tensor(np.moveaxis(colours, -1, 0)[None], dtype=torch.float32)


def _at_least(image: Tensor, least: int) -> Tensor:
    """Continued evenly on both sides to ``least`` pixels a side."""
    lack = [max(0, least - side) for side in image.shape[-2:]]
    if not any(lack):
        return image
    top, left = (pixels // 2 for pixels in lack)
    return F.pad(image, (left, lack[1] - left, top, lack[0] - top), mode="replicate")


def _of_scale(x: Tensor, y: Tensor) -> Tensor:
    """[N, H, W]: differences of light [3, N, H, W], unaware of other scales."""
    one, other = bands(x), bands(y)
    activity, changed = _activity(one), _activity(other)
    mask = _eroded(activity)
    seen_low = _GLOBAL * (1 + 0.505054525019 / (3.87449418804 * mask + 0.20025578522))
    seen = _GLOBAL * (1 + 2.5485944793 / (0.451936922203 * mask + 0.829591754942))
    distant = _low(one.low - other.low) * seen_low.square()
    near = (_along_lines(one, other) + _here(one, other) + 10 * (activity - changed).square()) * seen.square()
    return (distant + near + _ABOVE_ZERO).sqrt() - math.sqrt(_ABOVE_ZERO)


def _low(difference: Tensor) -> Tensor:
    """Squares of differences of the low band; of B less some of Y."""
    x, y, b = difference.unbind(0)
    weights = 29.2353797994 * 32.2217497012**2, 0.844626970982 * 13.7697791434**2, 0.703646627719 * 47.504615728**2
    return weights[0] * x.square() + weights[1] * y.square() + weights[2] * (b - 0.362267051518 * y).square()


def _here(one: Bands, other: Bands) -> Tensor:
    """Squares of differences of the high and the middle band at the pixel itself."""
    weights = 400.0 * 0.8, 1.50815703118 * 0.8
    high = _squares(one.high - other.high, *(w * _ASYMMETRY for w in weights))
    outside = _squares(_outside(one.high, other.high, 0.4, 1.0), *(w / _ASYMMETRY for w in weights))
    return high + outside + _squares(one.middle - other.middle, 2150.0, 10.6195433239, 16.2176043152)


def _squares(planes: Tensor, *weights: float) -> Tensor:
    squares: Tensor = torch.tensordot(planes.new_tensor(weights), planes.square(), 1)
    return squares


def _along_lines(one: Bands, other: Bands) -> Tensor:
    """Squares of differences along lines of what X and Y are above the low band."""
    fine = _contrast(one.highest, other.highest, _HIGHEST)
    coarse = [_contrast(one.high, other.high, _HIGH), _contrast(one.middle[:2], other.middle[:2], _MIDDLE)]
    return squared_sums(fine, FINE) + squared_sums(torch.cat(coarse), COARSE)


def _contrast(one: Tensor, other: Tensor, band: _Contrast) -> Tensor:
    """Weighted differences of X and Y."""
    weights, steady = (one.new_tensor(values)[:, None, None, None] for values in (band.weights, band.steady))
    factors = weights.sqrt() * (band.factor / _LINE)
    every, outside = math.sqrt(0.5 * band.asymmetry), math.sqrt(0.33 / band.asymmetry)
    differences = every * (one - other) + outside * _outside(one, other, 0.55, 1.05)
    return factors * differences / (1 + (one.abs() + other.abs()) / (2 * steady))


def _outside(original: Tensor, picture: Tensor, least: float, most: float) -> Tensor:
    """How far the picture is from ``least`` … ``most`` times the original."""
    ends = least * original, most * original
    return picture.clamp(torch.minimum(*ends), torch.maximum(*ends)) - picture


def _activity(picture: Bands) -> Tensor:
    """[N, H, W]: how much of the high bands is nearby."""
    x, y = (picture.highest + picture.high).unbind(0)
    busy = (2.5**2 * x.square() + 0.4**2 * y.square() + _ABOVE_ZERO).sqrt()
    slope, bias = 6.19424080439, 12.61050594197
    return blurred((slope * busy + slope * bias).sqrt() - math.sqrt(slope * bias), 2.7)


def _eroded(activity: Tensor) -> Tensor:
    """A mean of the three smallest of a pixel, its eight neighbours three pixels away, and twice itself."""
    h, w = activity.shape[-2:]
    padded = F.pad(activity, (3, 3, 3, 3), value=math.inf)
    first, second, third = activity, 2 * activity, 2 * activity
    for row, column in ((r, c) for r in (0, 3, 6) for c in (0, 3, 6) if (r, c) != (3, 3)):
        value = padded[..., row : row + h, column : column + w]
        first, value = torch.minimum(first, value), torch.maximum(first, value)
        second, value = torch.minimum(second, value), torch.maximum(second, value)
        third = torch.minimum(third, value)
    return 0.45 * first + 0.3 * second + 0.25 * third
