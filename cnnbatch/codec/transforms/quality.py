"""Curves of learned gains over quality, and scales, as tensors."""

import math

import torch
from torch import Tensor, nn

from cnnbatch.codec.transforms.quality_laws import NUM_ANCHORS


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


def log_spaced(limits: tuple[float, float], count: int) -> Tensor:
    """[count] float64, both limits included."""
    low, high = (math.log(v) for v in limits)
    return torch.exp(torch.linspace(low, high, count, dtype=torch.float64))
