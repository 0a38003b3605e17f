"""h_a and the mean net of h_s: latents → hyper-latents → means of the latents.

Shapes: N images, h × w latent positions, M latent and Cz hyper-latent channels; tensors are [N, H, W, C] float32.
"""

from typing import cast

import torch
from torch import Tensor, nn

from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.transforms.asinh import asinh_and_magnitude
from cnnbatch.codec.transforms.integer_layers import IntegerDepthwise, IntegerLinear, IntegerNet
from cnnbatch.codec.transforms.layers import Block, FullPrecisionLinear, hardswish, space_to_depth
from cnnbatch.codec.transforms.quality import QualityCurve

MEAN_BLOCKS = 2
"""Of the mean net, at 1/16 of the resolution."""


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
    """ẑ → means of the latents, of integers but for their gain."""

    def __init__(self, s: HyperpriorSettings) -> None:
        super().__init__(
            hyper_channels=s.hyper_channels, width=s.hyper_width, latent_channels=s.latent_channels, blocks=MEAN_BLOCKS
        )
        self.gain = QualityCurve(s.latent_channels)
        if not self.gain.anchors.is_meta:  # where normal numbers import torch's compiler: two seconds of a process's start
            self._initialise()

    def forward(self, z_hat: Tensor, quality: Tensor) -> Tensor:  # type: ignore[override]
        """``z_hat`` [N, h, w, Cz] → [N, 4h, 4w, M]."""
        means, gain = super().forward(z_hat), torch.exp(self.gain(quality))
        return means * gain if means.requires_grad else means.mul_(gain)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Activations between their limits, depthwise layers near the identity, small means."""
        for layer in self.modules():
            if isinstance(layer, IntegerDepthwise):
                nn.init.normal_(layer.weight, 0, 0.15)
                layer.weight[:, 4] += 0.6
            elif isinstance(layer, IntegerLinear):
                last = layer is self.leave
                nn.init.normal_(layer.weight, 0, (0.3 if last else 1.0) / layer.weight.shape[1] ** 0.5)
                nn.init.constant_(layer.bias, 0.0 if last else 1.0)
