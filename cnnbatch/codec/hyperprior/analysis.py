"""g_a, the analysis transform: pixels → latents.

A linear bypass, a lapped 16×16 block transform, beside which learned layers work at 1/8 and at 1/16 of the resolution. Shapes:
N images, H × W pixels (multiples of 16), h × w latent positions of M channels; tensors are [N, H, W, C] float32.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbatch.codec.geometry import BLOCK, PIXEL_UNIT
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.transforms.lapped import LappingFilter
from cnnbatch.codec.transforms.layers import space_to_depth
from cnnbatch.codec.transforms.quality import QualityCurve


class Analysis(nn.Module):
    """g_a: pixels → latents in units of Δ(q)."""

    def __init__(self, s: HyperpriorSettings) -> None:
        super().__init__()
        self.settings = s
        self.prefilter = LappingFilter(inverse=False)
        self.bypass = nn.Linear(3 * BLOCK**2, s.latent_channels, bias=False)
        self.enter = nn.Linear(3 * 8**2, s.width_8)
        self.gain = QualityCurve(s.width_8)
        self.down = nn.Linear(4 * s.width_8, s.width_16)
        self.leave = nn.Linear(s.width_16, s.latent_channels)
        self.latent_gain = QualityCurve(s.latent_channels)

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """``x`` [N, H, W, 3], pixels less `GREY`; ``quality`` [N] → y [N, H/16, W/16, M]."""
        step = self.settings.step(quality)[:, None, None, None]
        x = self.prefilter(x.float()).to(_working_dtype(x))
        patches = space_to_depth(x, 8)
        features = F.linear(patches, self.enter.weight / PIXEL_UNIT, self.enter.bias)
        features = features * torch.exp(self.gain(quality)).to(features.dtype)
        learned = self.leave(self.down(space_to_depth(features, 2)))
        y = torch.add(self.bypass(space_to_depth(x, BLOCK)).float(), learned, alpha=PIXEL_UNIT)
        return y * (torch.exp(self.latent_gain(quality)) / step)

    def as_matrix(self, quality: Tensor) -> tuple[Tensor, Tensor]:
        """All of g_a behind the pre-filter, which is linear: matrices [N, M, 768] and biases [N, M]."""
        s = self.settings
        with torch.autocast(quality.device.type, enabled=False):
            behind = self.leave.weight @ self.down.weight
            gain = torch.exp(self.gain(quality)).reshape(-1, 1, 1, s.width_8)
            patches = behind.reshape(-1, 4, s.width_8) * gain  # [N, M, 2·2 patches of 8 × 8, channels]
            learned = (patches @ self.enter.weight).reshape(len(quality), -1, 2, 2, 8, 8 * 3)
            bias = patches.sum(2) @ self.enter.bias + self.leave(self.down.bias)
            unit = torch.exp(self.latent_gain(quality)).flatten(1) / s.step(quality)[:, None]
            return (self.bypass.weight + learned.transpose(3, 4).flatten(2)) * unit[..., None], PIXEL_UNIT * bias * unit


def _working_dtype(x: Tensor) -> torch.dtype:
    """The type that autocast, where it is on, gives to the inputs of matrix products."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
