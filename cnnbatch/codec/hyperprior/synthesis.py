"""g_s, the synthesis transform: latents → pixels.

A linear bypass, a lapped 16×16 block transform, beside which learned layers work at 1/8 and at 1/16 of the resolution. Shapes:
N images, H × W pixels (multiples of 16), h × w latent positions of M channels; tensors are [N, H, W, C] float32.
"""

from collections.abc import Iterable
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbatch.codec.adaptive_filter.filtering import COLOURS, FEATURES, filtered, surrounded
from cnnbatch.codec.geometry import BLOCK, GREY
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.transforms.asinh import asinh
from cnnbatch.codec.transforms.int8 import EightBitLayers
from cnnbatch.codec.transforms.lapped import BorderFilter
from cnnbatch.codec.transforms.lapped_kernels import filtered_pixels, lapped_planes
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
        self.border = BorderFilter(inverse=True)
        self.post_filter = QualityCurve(COLOURS * FEATURES)
        self.steps = QualityCurve(sum(2 if isinstance(layer, Block) else 1 for layer in self.rounded_layers()))
        self._eight_bits: EightBitLayers | None = None
        self._kept: _KeptMatrices | None = None
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """``y_hat`` [N, h, w, M], ``quality`` [N] → [N, 16h, 16w, 3], around 0…255, not clamped and before the post-filter."""
        linear, learned = self.parts(y_hat, quality)
        picture = depth_to_space(depth_to_space(linear, 2) + learned, 8)
        return cast(Tensor, self.border(picture)) * self.settings.step(quality)[:, None, None, None] + GREY

    def parts(self, y_hat: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Before the border filter, in units of Δ(q): patches of 8×8 pixels, of the bypass [N, h, w, 4·192], four for each
        block, and learned ones [N, 2h, 2w, 192]."""
        run = self._layers(quality)
        features = run.linear(self.enter, asinh(y_hat)) * torch.exp(self.gain(quality))
        features = run.linear(self.up, run.blocks(self.blocks_16, features))
        scaled = y_hat * torch.exp(self.latent_gain(quality))
        if self._kept is None or scaled.device.type != "cpu" or torch.is_grad_enabled():
            linear = _patches(self.bypass(scaled))
            seen = self.see(_without_local_mean(linear)) * torch.exp(self.see_gain(quality))[:, :, :, None]
            features = features + seen.flatten(3)
            linear = linear.flatten(3)
        else:
            linear = F.linear(scaled, self._kept.bypass)
            self._kept.add_seen(features, linear, scaled, torch.exp(self.see_gain(quality)).flatten(1))
        return linear, self.leave(run.blocks(self.blocks_8, depth_to_space(features, 2)))

    @torch.inference_mode()
    def pixels(self, y_hat: Tensor, quality: Tensor, own: Tensor | None = None) -> Tensor:
        """`forward`, filtered, rounded half up and clamped: uint8 [N, 16h, 16w, 3].

        ``own`` [N, 3, FEATURES]: what the pictures add to the weights of the post-filter.
        """
        step = self.settings.step(quality)
        weights = self.filter_weights(quality)
        weights = weights if own is None else weights + own
        if y_hat.device.type == "cpu":
            return filtered_pixels(*self.parts(y_hat, quality), self.border.weight, step, GREY, weights)
        return _rounded(filtered(self(y_hat, quality), weights, step))

    def planes(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """What the post-filter reads: float32 [N, 3, 16h + 2·REACH, 16w + 2·REACH], last pixels repeated beyond the edge."""
        if y_hat.device.type == "cpu":
            return lapped_planes(*self.parts(y_hat, quality), self.border.weight, self.settings.step(quality), GREY)
        return surrounded(self(y_hat, quality))

    def filter_weights(self, quality: Tensor) -> Tensor:
        """Of the post-filter, [N, 3, FEATURES]."""
        return cast(Tensor, self.post_filter(quality)).reshape(-1, COLOURS, FEATURES)

    def keep_matrices(self) -> None:
        """From now on, a CPU computes what it can of `parts` with fewer passes over memory; the weights must not change any
        more."""
        self._kept = _KeptMatrices(self)

    def use_eight_bits(self) -> None:
        """From now on, without gradients, computes as a decoder does; the weights must not change any more."""
        self._eight_bits = EightBitLayers(self.rounded_layers(), self.steps)

    def rounded_layers(self) -> list[nn.Linear | Block]:
        """What a decoder computes in eight bits, in order; a layer has one step, a block two.

        Not what reads or writes pixels: `see` and `leave` would cost as much as all others together.
        """
        return [self.enter, *cast(Iterable[Block], self.blocks_16), self.up, *cast(Iterable[Block], self.blocks_8)]

    def _layers(self, quality: Tensor) -> "Layers":
        if self._eight_bits is None or torch.is_grad_enabled():
            return _AsTheyAre()
        return self._eight_bits.at(quality)


class Layers(Protocol):
    """How the learned layers of the synthesis are computed."""

    def linear(self, layer: nn.Linear, x: Tensor) -> Tensor:
        """[N, H, W, inputs] → [N, H, W, outputs]."""
        ...

    def blocks(self, sequence: nn.Sequential, x: Tensor) -> Tensor:
        """Blocks one after the other; may overwrite ``x``."""
        ...


class _AsTheyAre:
    def linear(self, layer: nn.Linear, x: Tensor) -> Tensor:
        return cast(Tensor, layer(x))

    def blocks(self, sequence: nn.Sequential, x: Tensor) -> Tensor:
        return cast(Tensor, sequence(x))


def _rounded(picture: Tensor) -> Tensor:
    """Half up and clamped, in place."""
    return picture.add_(0.5).clamp_(0, 255).to(torch.uint8)


def _patches(blocks: Tensor) -> Tensor:
    """[N, h, w, 16·16·3] → [N, h, w, 4, 8·8, 3]: the four patches of 8×8 pixels of each block."""
    n, h, w, _ = blocks.shape
    split = blocks.reshape(n, h, w, 2, 8, 2, 8, 3).permute(0, 1, 2, 3, 5, 4, 6, 7)
    return split.reshape(n, h, w, 4, 8 * 8, 3)


def _without_local_mean(patches: Tensor) -> Tensor:
    """[N, h, w, 4, 64, 3] → [N, h, w, 4, 192], each patch less the mean colour of the 3×3 patches around it.

    What is left is small where the picture is smooth, so that bf16 still holds the edges between blocks.
    """
    return (patches - _local_means(patches.mean(4))[:, :, :, :, None]).flatten(4)


def _local_means(colours: Tensor) -> Tensor:
    """[N, h, w, 4, 3] of each patch → of the up to 3×3 patches around it."""
    spread = depth_to_space(colours.flatten(3), 2).permute(0, 3, 1, 2)
    local = F.avg_pool2d(spread, 3, 1, 1, count_include_pad=False).permute(0, 2, 3, 1)
    return space_to_depth(local, 2).reshape(colours.shape)


class _KeptMatrices:
    """Matrices of a synthesis whose products are the patches of the bypass and what the learned layers see of them."""

    def __init__(self, synthesis: Synthesis) -> None:
        weight = synthesis.bypass.weight.detach()
        patches = _patches(weight.T[None, None])[0, 0]  # [M, 4, 64, 3]
        self.bypass = patches.flatten(1).T.contiguous()
        self.colours = patches.mean(2).flatten(1).T.contiguous()
        self.see = synthesis.see.weight.detach()
        of_a_colour = self.see.reshape(-1, 8 * 8, 3).sum(1)
        self.see_local = torch.cat([-of_a_colour, synthesis.see.bias.detach()[:, None]], 1)

    def add_seen(self, features: Tensor, linear: Tensor, scaled: Tensor, gain: Tensor) -> None:
        """Adds to ``features`` [N, h, w, 4·C] what `Synthesis.see` makes of the patches ``linear`` less their local means,
        times ``gain`` [N, C]; ``scaled``: what the bypass made them of."""
        n, h, w, _ = linear.shape
        local = _local_means(F.linear(scaled, self.colours).reshape(n, h, w, 4, 3))
        local = F.pad(local, (0, 1), value=1.0)  # for the bias
        parts = [features, linear, local, gain[:, None]]
        if bool((gain == gain[0]).all()):
            parts = [part[None] for part in (features, linear, local, gain[0])]
        for into, patches, near, own in zip(*parts, strict=True):
            total = into.view(-1, self.see.shape[0])
            total.addmm_(patches.view(-1, self.see.shape[1]), (self.see * own.view(-1, 1)).T)
            total.addmm_(near.view(-1, 4), (self.see_local * own.view(-1, 1)).T)
