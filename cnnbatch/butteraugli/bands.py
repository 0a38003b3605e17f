"""Light → what the eye makes of it, by band of frequency.

Shapes: tensors are [C, N, H, W], C channels of N pictures, so that a channel is one piece of memory.
"""

from functools import lru_cache
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnbatch import planes

_ABSORBANCE: Final = (
    (0.29956550340058319, 0.63373087833825936, 0.077705617820981968),
    (0.22158691104574774, 0.69391388044116142, 0.0987313588422),
    (0.02, 0.02, 0.20480129041026129),
)
"""Linear RGB → light that the long, the middle and the short cones absorb."""

_DARK: Final = (1.7557483643287353, 1.7557483643287353, 12.226454707163354)
"""Absorbed in the dark; also the least response."""

_ADAPTATION: Final = 1.2
"""σ of the light that a cone is adapted to; a blur of five taps, the only one that mirrors the picture at its border."""

_LOW: Final = 7.15593339443
_HIGH: Final = 3.22489901262
_HIGHEST: Final = 1.56416327805

_SUPPRESSION: Final = 46.0
_NOT_SUPPRESSED: Final = 0.653020556257


class Bands(NamedTuple):
    """A picture by frequency: X, Y, and in the lower bands B."""

    highest: Tensor
    high: Tensor
    middle: Tensor
    low: Tensor


def bands(light: Tensor) -> Bands:
    """The bands of linear RGB [3, N, H, W] in nits."""
    colours = _opponent(_responses(light))
    low = blurred(colours, _LOW)
    rest = colours - low
    middle = blurred(rest, _HIGH)
    middle_x, middle_y, middle_b = middle.unbind(0)
    rest_x, rest_y = (rest[:2] - middle[:2]).unbind(0)
    rest_x = rest_x * (_NOT_SUPPRESSED + (1 - _NOT_SUPPRESSED) * _SUPPRESSION / (rest_y.square() + _SUPPRESSION))
    high_x, high_y = blurred(torch.stack([rest_x, rest_y]), _HIGHEST).unbind(0)
    high_y = _flattened(high_y, 28.4691806922)
    highest_y = _flattened(rest_y - high_y, 5.19175294647)
    return Bands(
        torch.stack([F.softshrink(rest_x - high_x, 0.04), 2.69313763794 * highest_y]),
        torch.stack([F.softshrink(high_x, 1.5), _amplified(2.155 * high_y, 0.132)]),
        torch.stack([F.softshrink(middle_x, 0.29), _amplified(middle_y, 0.1), middle_b]),
        low,
    )


def _responses(light: Tensor) -> Tensor:
    """Responses of long, middle and short cones, less the least one: bands are differences, in which it would cancel."""
    dark = light.new_tensor(_DARK)[:, None]
    absorbed = torch.addmm(dark, light.new_tensor(_ABSORBANCE), light.reshape(3, -1))
    around = blurred(absorbed.view(light.shape), _ADAPTATION).view(3, -1)
    sensitivity = (19.245013259874995 * (around + 9.9710635769299145).log() - 23.16046239805755) / around
    return (absorbed * sensitivity - dark).relu().view(light.shape)


def _opponent(responses: Tensor) -> Tensor:
    """X, Y and B of responses of long, middle and short cones."""
    long, middle, short = responses.unbind(0)
    return torch.stack([long - middle, long + middle, short])


def _amplified(x: Tensor, limit: float) -> Tensor:
    """Doubled up to ``limit``, and as much farther from zero beyond."""
    return x + x.clamp(-limit, limit)


def _flattened(x: Tensor, limit: float) -> Tensor:
    """Less steep from ``limit`` on."""
    steep = 0.724216145665
    return steep * x + (1 - steep) * x.clamp(-limit, limit)


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Planes blurred by a Gaussian that ends 2.25 σ from its middle."""
    down, across = (_band(side, sigma, x.dtype, x.device) for side in x.shape[-2:])
    return planes.blurred(x, down, across)


@lru_cache(maxsize=64)
def _band(side: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[side, side]: blurs a line of as many pixels, with weights that add up to one also at its ends."""
    radius = max(1, int(2.25 * sigma))
    with torch.inference_mode(mode=False):  # kept for calls that need gradients, too
        rows = torch.arange(side)[:, None]
        taps = torch.arange(-radius, radius + 1)
        columns = rows + taps
        weights = (-taps.double().square() / (2 * sigma**2)).exp().expand(side, -1)
        if sigma == _ADAPTATION:
            columns = torch.where(columns < 0, -1 - columns, columns)
            columns = torch.where(columns >= side, 2 * side - 1 - columns, columns)
        inside = (columns >= 0) & (columns < side)
        matrix = torch.zeros(side, side, dtype=torch.float64)
        matrix.index_put_((rows.expand_as(columns)[inside], columns[inside]), weights[inside], accumulate=True)
        return (matrix / matrix.sum(1, keepdim=True)).to(device, dtype)
