"""The measure in torch, on any device and with gradients.

Shapes: N pictures, H × W pixels of at least 8 × 8; tensors are [N, 3, H, W], of any floating type.
"""

from functools import lru_cache
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnbatch.planes import blurred, halved, linear
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

_SAME_PICTURE: Final = 1e-28
"""Added to the mean of fourth powers, whose root has no gradient at zero."""

BANDED: Final = 512
"""Pixels a side up to which a blur is two matrix products."""


def score(total: Tensor) -> Tensor:
    """The score of each `weighted_sum`."""
    s = total * 0.9562382616834844
    s = 2.326765642916932 * s - 0.020884521182843837 * s.square() + 6.248496625763138e-05 * s**3
    return 100 - 10 * s.clamp(min=0) ** 0.6276336467831387


def weighted_sum(original: Tensor, picture: Tensor, *, least_weight: float = 0.0) -> Tensor:
    """[N]: the sum that `score` bends to 0…100; 0 for equal pictures, the larger the worse, with gradients.

    Both pictures [N, 3, H, W] in grey levels 0…255; what lies outside is clamped. Channels are left out at scales where none of
    their norms weighs more than ``least_weight``, which for 0.01 is half of the work and changes the score by less than 0.1.
    """
    if min(original.shape[-2:]) < LEAST_SIDE:
        raise ValueError(f"a picture of {tuple(original.shape[-2:])} pixels: at least {LEAST_SIDE} a side")
    x, y = linear(original), linear(picture)
    total = x.new_zeros(len(x))
    for scale in range(SCALES):
        if min(x.shape[-2:]) < LEAST_SIDE:
            break
        if scale:
            x, y = halved(x), halved(y)
        wanted = [c for c in range(3) if max(WEIGHTS[c][scale]) > least_weight]
        if wanted:
            weights = x.new_tensor([WEIGHTS[c][scale] for c in wanted])
            norms = _norms(_xyb(x)[:, wanted], _xyb(y)[:, wanted])
            total = total + (norms * weights).flatten(1).sum(1)
    return total


def _xyb(rgb: Tensor) -> Tensor:
    """Linear RGB → XYB in about 0…1, B less Y."""
    cones = torch.einsum("ij,njhw->nihw", rgb.new_tensor(ABSORBANCE), rgb) + BIAS
    long, middle, short = (cones.clamp(min=0) ** (1 / 3) - BIAS ** (1 / 3)).unbind(1)
    x, y = (long - middle) / 2, (long + middle) / 2
    return torch.stack([X_GAIN * x + X_OFFSET, y + Y_OFFSET, short - y + B_OFFSET], 1)


def _norms(x: Tensor, y: Tensor) -> Tensor:
    """[N, C, 6] of channels [N, C, H, W]: means of SSIM errors, ringing, lost detail, then their 4-norms.

    One less structure is the variance of the difference over the sum of the variances: exact also where little differs.
    """
    d = x - y
    mean_x, mean_d, squares, dd = _blurred(torch.cat([x, d, x * x + y * y, d * d], 1)).chunk(4, 1)
    mean_y, bias = mean_x - mean_d, mean_d.square()
    unlike = (dd - bias) / (squares - mean_x.square() - mean_y.square() + C2)
    ssim = (bias + (1 - bias) * unlike).clamp(min=0)
    edges = (1 + (y - mean_y).abs()) / (1 + (x - mean_x).abs()) - 1
    maps = torch.stack([ssim, edges.clamp(min=0), (-edges).clamp(min=0)], 2)
    means = maps.mean((-2, -1))
    fourth = (maps.square().square().mean((-2, -1)) + _SAME_PICTURE) ** 0.25 - _SAME_PICTURE**0.25
    return torch.cat([means, fourth], -1)


def _blurred(x: Tensor) -> Tensor:
    """Each plane blurred, zero beyond its border."""
    h, w = x.shape[-2:]
    if max(h, w) <= BANDED:
        return blurred(x, *(_band(side, x.dtype, x.device) for side in (h, w)))
    kernel = x.new_tensor(taps())
    planes = x.reshape(-1, 1, h, w)
    planes = F.conv2d(planes, kernel[None, None, None, :], padding=(0, RADIUS))
    return F.conv2d(planes, kernel[None, None, :, None], padding=(RADIUS, 0)).reshape(x.shape)


@lru_cache(maxsize=16)
def _band(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[side, side]: blurs a line of as many pixels."""
    with torch.inference_mode(mode=False):  # kept for calls that need gradients, too
        distance = (torch.arange(side, device=device)[:, None] - torch.arange(side, device=device)).abs()
        line = torch.tensor([*taps()[RADIUS:], *[0.0] * side], dtype=dtype, device=device)
        return line[distance]
