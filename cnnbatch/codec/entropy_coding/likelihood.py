"""Bits of noisy or rounded values under a Gaussian, as training counts them."""

from typing import Final

import torch
from torch import Tensor

LEAST_MASS: Final = 1e-9
"""Least probability of a symbol, so that its bits are finite."""


def gaussian_bits(values: Tensor, scales: Tensor) -> Tensor:
    """−log₂ of a zero-mean Gaussian integrated over ±½ around each value, summed per image → [N]."""
    magnitude = values.abs()
    upper = torch.special.ndtr((0.5 - magnitude) / scales)
    lower = torch.special.ndtr((-0.5 - magnitude) / scales)
    return -torch.log2((upper - lower).clamp(min=LEAST_MASS)).flatten(1).sum(1)


def noisy(values: Tensor) -> Tensor:
    """With uniform noise of one step, which stands for rounding where a gradient is wanted."""
    return values + torch.rand_like(values) - 0.5
