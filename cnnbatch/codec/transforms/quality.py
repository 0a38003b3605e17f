"""Curves of learned gains over quality, and scales, as tensors."""

import math
from typing import cast

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


class FixedCurve(nn.Module):
    """A `QualityCurve` that is not trained any more: on a CPU, each quality is computed once. Nobody writes to the result."""

    def __init__(self, curve: QualityCurve) -> None:
        super().__init__()
        self._curve, self._known = curve, dict[float, Tensor]()

    def forward(self, quality: Tensor) -> Tensor:
        """As `QualityCurve`."""
        if quality.device.type != "cpu":  # to ask a GPU for its numbers is to wait for it
            return cast(Tensor, self._curve(quality))
        rows = [self._at(one) for one in quality.tolist()]
        return rows[0] if len(rows) == 1 else torch.cat(rows) if rows else cast(Tensor, self._curve(quality))

    def _at(self, quality: float) -> Tensor:
        if quality not in self._known:
            with torch.inference_mode(False), torch.no_grad():  # the next caller may compute gradients
                self._known[quality] = self._curve(torch.tensor([quality]))
        return self._known[quality]


def interpolation_weights(quality: Tensor) -> Tensor:
    """[N] in [0, 63] → [N, NUM_ANCHORS]: weights of the two nearest anchors, zero elsewhere."""
    position = quality * ((NUM_ANCHORS - 1) / 63.0)
    anchors = torch.arange(NUM_ANCHORS, device=quality.device, dtype=quality.dtype)
    return (1 - (position[:, None] - anchors).abs()).clamp(min=0)


def log_spaced(limits: tuple[float, float], count: int) -> Tensor:
    """[count] float64, both limits included."""
    low, high = (math.log(v) for v in limits)
    return torch.exp(torch.linspace(low, high, count, dtype=torch.float64))
