"""What training takes symbols for: Gaussians integrated over a quantisation step, and the choice between two integers."""

import torch
from torch import Tensor

LEAST_MASS = 1e-9


def gaussian_bits(values: Tensor, scales: Tensor) -> Tensor:
    """−log₂ of a zero-mean Gaussian integrated over ±½ around each value, summed per image → [N]."""
    magnitude = values.abs()
    upper = torch.special.ndtr((0.5 - magnitude) / scales)
    lower = torch.special.ndtr((-0.5 - magnitude) / scales)
    return -torch.log2((upper - lower).clamp(min=LEAST_MASS)).flatten(1).sum(1)


@torch.no_grad()
def cheaper_integers(values: Tensor, scales: Tensor, weights: Tensor) -> Tensor:
    """Of the two nearest integers of each value the cheaper one by rate and distortion.

    As `cnnbatch.codec.quantisation` chooses, with bits of the Gaussian itself; ``weights``: of a squared error, in bits.
    """
    magnitude = values.abs()
    low = magnitude.floor()
    inner, middle, outer = (torch.special.ndtr((k - low) / scales) for k in (0.5, -0.5, -1.5))
    dearer = torch.log2((inner - middle).clamp(min=LEAST_MASS) / (middle - outer).clamp(min=LEAST_MASS))
    return torch.where(magnitude - low > 0.5 + dearer / (2 * weights), low + 1, low).copysign(values)


def noisy(values: Tensor) -> Tensor:
    """With uniform noise of one step, which stands for rounding where a gradient is wanted."""
    return values + torch.rand_like(values) - 0.5
