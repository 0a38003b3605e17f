"""h_a and the mean net of h_s: latents → hyper-latents → means and local quantisation steps of the latents.

Shapes: N images, h × w latent positions, M latent and Cz hyper-latent channels; tensors are [N, H, W, C] float32.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbatch.codec.hyperprior.settings import MEAN_BLOCKS, STEP_FACTORS, STEP_LIMIT, HyperpriorSettings
from cnnbatch.codec.transforms.asinh import asinh_and_magnitude
from cnnbatch.codec.transforms.integer_layers import IntegerDepthwise, IntegerLinear, IntegerNet, activation_linear
from cnnbatch.codec.transforms.layers import Block, FullPrecisionLinear, hardswish, space_to_depth
from cnnbatch.codec.transforms.quality import QualityCurve


class HyperAnalysis(nn.Module):
    """h_a: latents → hyper-latents z at 1/64, before rounding."""

    def __init__(self, s: HyperpriorSettings) -> None:
        super().__init__()
        width = s.hyper_width
        self.enter = nn.Linear(2 * s.latent_channels, width)
        self.gain = QualityCurve(width)
        self.block_16 = Block(width)
        self.down_32 = nn.Linear(4 * width, width)
        self.block_32 = Block(width)
        self.down_64 = FullPrecisionLinear(4 * width, s.hyper_channels)

    def forward(self, y: Tensor, quality: Tensor) -> Tensor:
        """``y`` [N, h, w, M] with h, w multiples of 4 → z [N, h/4, w/4, Cz]."""
        x = self.enter(asinh_and_magnitude(y)) * torch.exp(self.gain(quality))
        x = self.down_32(space_to_depth(hardswish(self.block_16(x)), 2))
        return cast(Tensor, self.down_64(space_to_depth(self.block_32(x), 2)))


class MeanNet(IntegerNet):
    """ẑ → means and local steps of the latents, of integers but for what the last layers are multiplied by."""

    def __init__(self, s: HyperpriorSettings) -> None:
        super().__init__(
            hyper_channels=s.hyper_channels, width=s.hyper_width, latent_channels=s.latent_channels, blocks=MEAN_BLOCKS
        )
        self.gain = QualityCurve(s.latent_channels)
        self.step_factors = activation_linear(s.hyper_width, STEP_FACTORS)
        self.step_mixing = nn.Parameter(torch.zeros(s.latent_channels - s.predicted_channels, STEP_FACTORS))
        if not self.gain.anchors.is_meta:  # where normal numbers import torch's compiler: two seconds of a process's start
            self._initialise()

    def forward(self, z_hat: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """``z_hat`` [N, h, w, Cz] → means in units of the local step and local steps in units of Δ(q), both [N, 4h, 4w, M]."""
        features = self.features(z_hat)
        with torch.autocast(z_hat.device.type, enabled=False):
            means = self.leave(features) * torch.exp(self.gain(quality))
            return means, local_steps(self.step_factors(features), self.step_mixing, means.shape[-1])

    @torch.no_grad()
    def _initialise(self) -> None:
        """Activations between their limits, depthwise layers near the identity, small means."""
        for layer in self.modules():
            if isinstance(layer, IntegerDepthwise):
                nn.init.normal_(layer.weight, 0, 0.15)
                layer.weight[:, 4] += 0.6
            elif isinstance(layer, IntegerLinear):
                last = layer in (self.leave, self.step_factors)
                nn.init.normal_(layer.weight, 0, (0.3 if last else 1.0) / layer.weight.shape[1] ** 0.5)
                nn.init.constant_(layer.bias, 0.0 if last else 1.0)


def local_steps(factors: Tensor, mixing: Tensor, channels: int) -> Tensor:
    """[N, h, w, M] of ``factors`` [N, h, w, STEP_FACTORS] and ``mixing`` [M − K, STEP_FACTORS]: 1 for the first K channels."""
    logarithms = F.linear(factors, mixing).clamp(-STEP_LIMIT, STEP_LIMIT)
    return F.pad(torch.exp(logarithms), (channels - mixing.shape[0], 0), value=1.0)
