"""g_s, the synthesis transform: latents → pixels.

A linear bypass, a lapped 16×16 block transform, beside which learned layers work at 1/8 and at 1/16 of the resolution. Shapes:
N images, H × W pixels (multiples of 16), h × w latent positions of M channels; tensors are [N, H, W, C] float32.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbatch.codec.adaptive_filter.kernels import COLOURS, FEATURES
from cnnbatch.codec.geometry import BLOCK, GREY
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.transforms.asinh import asinh
from cnnbatch.codec.transforms.lapped import LappingFilter
from cnnbatch.codec.transforms.layers import Block, FullPrecisionLinear, blocks, depth_to_space, space_to_depth
from cnnbatch.codec.transforms.quality import QualityCurve


class Synthesis(nn.Module):
    """g_s: latents in units of Δ(q) → pixels."""

    def __init__(self, s: HyperpriorSettings) -> None:
        super().__init__()
        self.settings = s
        self.latent_gain = QualityCurve(s.latent_channels)
        self.bypass = FullPrecisionLinear(s.latent_channels, 3 * BLOCK**2, bias=False)
        self.enter = nn.Linear(s.latent_channels, s.width_16)
        self.gain = QualityCurve(s.width_16)
        self.blocks_16 = blocks(s.width_16, s.synthesis_blocks[1])
        self.up = nn.Linear(s.width_16, 4 * s.width_8)
        self.blocks_8 = blocks(s.width_8, s.synthesis_blocks[0])
        self.see = nn.Linear(3 * 8**2, s.width_8)
        self.see_gain = QualityCurve(s.width_8)
        self.leave = nn.Linear(s.width_8, 3 * 8**2)
        self.postfilter = LappingFilter(inverse=True)
        self.adaptive_filter = QualityCurve(COLOURS * FEATURES).requires_grad_(False)  # fitted to the trained network, as is
        num_scales = sum(2 if isinstance(layer, Block) else 1 for layer in self.rounded_layers())
        self.activation_scales = QualityCurve(num_scales).requires_grad_(False)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """``y_hat`` [N, h, w, M], ``quality`` [N] → [N, 16h, 16w, 3], around 0…255, before clamping and filtering."""
        linear, learned = self.parts(y_hat, quality)
        picture = depth_to_space(depth_to_space(linear, 2) + learned, 8)
        return cast(Tensor, self.postfilter(picture)) * self.settings.step(quality)[:, None, None, None] + GREY

    def parts(self, y_hat: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Patches of 8×8 pixels before the post-filter, in units of Δ(q): of the bypass [N, h, w, 4·192], four for each
        block, and learned ones [N, 2h, 2w, 192]."""
        linear = patches(self.bypass(y_hat * torch.exp(self.latent_gain(quality))))
        features = self.enter(asinh(y_hat)) * torch.exp(self.gain(quality))
        features = self.up(self.blocks_16(features)) + self.seen(linear, quality)
        return linear.flatten(3), self.leave(self.blocks_8(depth_to_space(features, 2)))

    def seen(self, linear: Tensor, quality: Tensor) -> Tensor:
        """The learned path's view of the bypass' picture [N, h, w, 4, 64, 3] → [N, h, w, 4·C]."""
        seen = self.see(without_local_mean(linear)) * torch.exp(self.see_gain(quality))[:, :, :, None]
        return cast(Tensor, seen.flatten(3))

    def filter_weights(self, quality: Tensor) -> Tensor:
        """Weights of the adaptive filter, [N, 3, FEATURES]."""
        return cast(Tensor, self.adaptive_filter(quality)).reshape(-1, COLOURS, FEATURES)

    def rounded_layers(self) -> list[nn.Linear | Block]:
        """The layers that a decoder computes in int8, in order; a layer has one activation scale, a block two.

        Not what reads or writes pixels: `see` and `leave` would cost as much as all others together.
        """
        return [self.enter, *cast(Iterable[Block], self.blocks_16), self.up, *cast(Iterable[Block], self.blocks_8)]


def patches(blocks: Tensor) -> Tensor:
    """[N, h, w, 16·16·3] → [N, h, w, 4, 8·8, 3]: the four patches of 8×8 pixels of each block."""
    n, h, w, _ = blocks.shape
    split = blocks.reshape(n, h, w, 2, 8, 2, 8, 3).permute(0, 1, 2, 3, 5, 4, 6, 7)
    return split.reshape(n, h, w, 4, 8 * 8, 3)


def without_local_mean(linear: Tensor) -> Tensor:
    """[N, h, w, 4, 64, 3] → [N, h, w, 4, 192], each patch less the mean colour of the 3×3 patches around it.

    What is left is small where the picture is smooth, so that bf16 still holds the edges between blocks.
    """
    return (linear - local_means(linear.mean(4))[:, :, :, :, None]).flatten(4)


def local_means(colours: Tensor) -> Tensor:
    """[N, h, w, 4, 3] of each patch → of the up to 3×3 patches around it."""
    spread = depth_to_space(colours.flatten(3), 2).permute(0, 3, 1, 2)
    local = F.avg_pool2d(spread, 3, 1, 1, count_include_pad=False).permute(0, 2, 3, 1)
    return space_to_depth(local, 2).reshape(colours.shape)
