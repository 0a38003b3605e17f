"""Everything that depends on quality alone: λ(q), the quantisation step Δ(q), scales, and curves of learned gains."""

import math
from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

NUM_ANCHORS = 8
"""Anchors of a `QualityCurve` over quality 0…63, nine steps apart."""


class QualityCurve(nn.Module):
    """One learned number per channel and quality: linear between `NUM_ANCHORS` anchors over quality 0…63."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.anchors = nn.Parameter(torch.zeros(NUM_ANCHORS, channels))

    def forward(self, quality: Tensor) -> Tensor:
        """``quality`` [N] in [0, 63] → [N, 1, 1, C]."""
        with torch.autocast(quality.device.type, enabled=False):
            return (interpolation_weights(quality) @ self.anchors)[:, None, None, :]


def interpolation_weights(quality: Tensor) -> Tensor:
    """[N] in [0, 63] → [N, NUM_ANCHORS]: weights of the two nearest anchors, zero elsewhere."""
    position = quality * ((NUM_ANCHORS - 1) / 63.0)
    anchors = torch.arange(NUM_ANCHORS, device=quality.device, dtype=quality.dtype)
    return (1 - (position[:, None] - anchors).abs()).clamp(min=0)


def lmbda_at(quality: Tensor, limits: tuple[float, float]) -> Tensor:
    """λ(q) of loss = λ·MSE + bits per pixel, MSE over grey levels 0…255: log-linear in q between its ``limits`` at 0 and 63."""
    low, high = (math.log(v) for v in limits)
    return torch.exp(low + (high - low) / 63.0 * quality)


def high_rate_step(lmbda: Tensor) -> Tensor:
    """Δ in grey levels of an orthonormal transform: the high-rate optimum √(18/(λ ln 2))."""
    return torch.sqrt(18 / (math.log(2) * lmbda))


def _spread(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    if high < 2 * low:
        raise ValueError(f"scales from {low} to {high}: the largest must be at least twice the smallest")
    return limits


Positive = Annotated[float, Field(gt=0, le=1e6)]

ScaleRange = Annotated[tuple[Positive, Positive], AfterValidator(_spread)]
"""The smallest and the largest scale, in quantisation steps, that a scale index can say."""


def log_spaced(limits: tuple[float, float], count: int) -> Tensor:
    """[count] float64, both limits included."""
    low, high = (math.log(v) for v in limits)
    return torch.exp(torch.linspace(low, high, count, dtype=torch.float64))
