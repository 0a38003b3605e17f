"""Decoupled hyperprior: transforms at 1/8 and 1/16, scales and means from exact nets of integers.

    x ─ g_a ─ y ──────────── r = round(y − μ) ──── ŷ = r + μ ─ g_s ─ x̂
              │                ▲ entropy coder: zero-mean Gaussian of scale index i
              h_a ─ ẑ ─┬─ scale net (integers) ─ i
                       └─ mean net (integers) ── μ      ẑ itself is coded in an exact context, `HyperContext`

(Ballé et al. 2018, arXiv 1802.01436; mean and scale: Minnen et al. 2018, arXiv 1809.02736; decoupled like JPEG AI.)
The few channels that carry the picture's low frequencies go on from block to block, more than ẑ tells: their μ gains a linear
prediction from decoded neighbours (differential coding; the symbols are decoded without it, so it stays in float, too).
A wrong μ moves a pixel by less than one level; a wrong i would destroy everything behind it, which is why only i has to
be exact. Both transforms have a linear bypass (a 16×16 block KLT, cf. AuxT, arXiv 2501.13751), so the untrained model is
already a working transform coder.

Quality q in [0, 63] sets λ(q), hence the quantisation step Δ(q); y, ŷ, μ and the scales are all in units of Δ, the
learned paths see inputs in units that keep their size at every q, and per-channel gains (`QualityCurve`) do the rest.

Shapes: N images, H × W pixels (multiples of 64 here), M latent channels; tensors are [N, H, W, C] float32.
"""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from cnnbatch.codec.entropy_coding.likelihood import gaussian_bits, noisy
from cnnbatch.codec.geometry import GREY
from cnnbatch.codec.hyperprior.analysis import Analysis
from cnnbatch.codec.hyperprior.hyper_latents import HyperContext
from cnnbatch.codec.hyperprior.rate import on_the_trellis
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.hyperprior.synthesis import Synthesis
from cnnbatch.codec.transforms.asinh import asinh_and_magnitude
from cnnbatch.codec.transforms.integer_layers import (
    Z_MAX,
    IntegerDepthwise,
    IntegerLinear,
    IntegerNet,
    round_half_up,
    soft_clamp,
)
from cnnbatch.codec.transforms.layers import Block, FullPrecisionLinear, hardswish, keep_variance, neighbours, space_to_depth
from cnnbatch.codec.transforms.quality import QualityCurve

MEAN_BLOCKS = 2
"""Of a mean net, at 1/16 of the resolution."""


NUM_NEIGHBOURS = 4
"""Decoded latent positions that a mean is predicted from."""


COARSER = (1.65, 1.05)
"""Quantisation step that training starts with at quality 0 and 63, in units of the high-rate optimum Δ(q): where most
latents are zero a coarser step is better."""


class HyperLatents(NamedTuple):
    """What the entropy coder needs of one image: scale positions (before rounding) and means, [N, H/16, W/16, M]."""

    scale_positions: Tensor
    means: Tensor


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


class Hyperprior(nn.Module):
    """The whole model. `forward` is the training pass; the codec calls the parts."""

    def __init__(self, settings: HyperpriorSettings) -> None:
        super().__init__()
        self.settings = settings
        self.g_a = Analysis(settings)
        self.g_s = Synthesis(settings)
        self.h_a = HyperAnalysis(settings)
        self.mean_net = MeanNet(settings)
        self.scale_net = IntegerNet(
            hyper_channels=settings.hyper_channels,
            width=settings.hyper_width,
            latent_channels=settings.latent_channels,
        )
        self.scale_offset = QualityCurve(settings.latent_channels)
        self.context = QualityCurve(settings.context_channels * NUM_NEIGHBOURS * settings.context_channels)
        self.z_scale = QualityCurve(settings.hyper_channels)
        self.hyper_context = HyperContext(settings.hyper_channels, settings.scale_range, settings.num_scales)

    def integer_nets(self) -> list[IntegerNet]:
        """The nets whose layers are of integers."""
        return [self.scale_net, self.mean_net]

    def bits_per_square(self, quality: Tensor) -> Tensor:
        """[N, M]: bits that a squared unit of error in one latent of each channel is worth, by the synthesis' bypass alone.

        λ·MSE counts the 256·3 samples of a block as λ·Σe² ÷ (3·256) per pixel, hence λ·Σe² ÷ 3 for the block.
        """
        with torch.no_grad():
            gain = torch.exp(self.g_s.latent_gain(quality)).flatten(1) * self.settings.step(quality)[:, None]
            norm = self.g_s.bypass.weight.square().sum(0)
            return self.settings.lmbda(quality)[:, None] / 3 * gain.square() * norm

    def quantiser_weights(self, quality: Tensor) -> Tensor:
        """[N, M]: bits that the quantiser counts for a squared unit of error."""
        return distortion_weights(quality, self.settings.latent_channels) * self.bits_per_square(quality)

    def hyper_synthesis(self, z_hat: Tensor, quality: Tensor) -> HyperLatents:
        """``z_hat`` integers → scale positions (real, to be rounded half up and clamped) and means."""
        positions = self.scale_net(z_hat) + round_half_up(self.scale_offset(quality))
        return HyperLatents(positions, self.mean_net(z_hat, quality))

    def forward(self, x: Tensor, quality: Tensor, *, noise: bool) -> tuple[Tensor, Tensor]:
        """``x`` [N, H, W, 3] → (x̂, bits [N]); ``noise``: additive uniform noise in the gradients of the rate.

        The reconstruction sees the symbols that an encoder chooses, with straight-through gradients, and scales are fitted to
        their rate.
        """
        s = self.settings
        y = self.g_a(x - GREY, quality)
        z = self.h_a(y, quality)
        z_hat = round_half_up(z.clamp(-Z_MAX, Z_MAX))
        hyper = self.hyper_synthesis(z_hat, quality)
        means = self.with_context(hyper.means, y, quality, noise=noise)
        residual = y - means
        positions = soft_clamp(round_half_up(hyper.scale_positions), 0, s.num_scales - 1, share=1)
        scales = s.scale_at(positions)
        r_hat, bits = on_the_trellis(residual, positions, scales, self.quantiser_weights(quality), s, noise=noise)
        bits = bits + self._hyper_bits(z, z_hat, quality, noise=noise)
        return self.g_s(r_hat + means, quality), bits

    def _hyper_bits(self, z: Tensor, z_hat: Tensor, quality: Tensor, *, noise: bool) -> Tensor:
        """Of the hyper-latents, noisy or rounded."""
        s = self.settings
        values = noisy(z) if noise else z_hat
        positions = round_half_up(self.z_scale(quality)).clamp(0, s.num_scales - 1)
        predicted, positions = self.hyper_context(z_hat, positions)
        scales = s.scale_at(positions.clamp(0, s.num_scales - 1))
        return gaussian_bits(values - predicted, scales)

    def context_weights(self, quality: Tensor) -> Tensor:
        """[N, K, 4·K]: what each of the K predicted channels takes of its `known_neighbours`."""
        k = self.settings.context_channels
        return cast(Tensor, self.context(quality)).reshape(-1, k, NUM_NEIGHBOURS * k)

    def with_context(self, means: Tensor, y: Tensor, quality: Tensor, *, noise: bool) -> Tensor:
        """The means with the prediction added: in parallel, from neighbours that are rounded apart from each other."""
        k = self.settings.context_channels
        deviation = (y - means)[..., :k]
        known = known_neighbours(noisy(deviation) if noise else round_half_up(deviation))
        with torch.autocast(y.device.type, enabled=False):
            predicted = torch.einsum("nhwj,nkj->nhwk", known.float(), self.context_weights(quality))
        return torch.cat([means[..., :k] + predicted, means[..., k:]], -1)

    @torch.no_grad()
    def initialise_from_klt(self, basis: Tensor, deviations: Tensor) -> None:
        """``basis`` [M, 768] orthonormal rows, ``deviations`` [M] in grey levels: KLT of 16×16×3 training blocks."""
        keep_variance(self.g_a)
        keep_variance(self.g_s)
        keep_variance(self.g_s.enter, gain=2.0)  # most of what it reads is zero
        self.g_a.bypass.weight.copy_(basis)
        self.g_s.bypass.weight.copy_(basis.T)
        nn.init.zeros_(self.g_a.leave.weight)
        nn.init.zeros_(self.g_a.leave.bias)
        anchors = torch.linspace(0, 63, self.scale_offset.anchors.shape[0])
        coarser = torch.lerp(torch.tensor(COARSER[0]), torch.tensor(COARSER[1]), anchors / 63)[:, None]
        self.g_a.latent_gain.anchors.copy_(-torch.log(coarser).expand_as(self.g_a.latent_gain.anchors))
        self.g_s.latent_gain.anchors.copy_(torch.log(coarser).expand_as(self.g_s.latent_gain.anchors))
        in_steps = 0.6 * deviations / (coarser * self.settings.step(anchors)[:, None])
        index = torch.log(in_steps / self.settings.scale_range[0]) * self.settings.indexes_per_nat
        self.scale_offset.anchors.copy_(index.clamp(0, self.settings.num_scales - 1))
        self.z_scale.anchors.fill_(self.settings.indexes_per_nat * math.log(1.0 / self.settings.scale_range[0]))


def distortion_weights(quality: Tensor, channels: int) -> Tensor:
    """[N, M]: weight of an error as the quantiser counts it, relative to what it does through the linear bypass.

    Of least loss by trial: 1.0 at q = 4, 0.8 from 20 on. And of an error in a channel of high frequency (the last ones) the
    learned path takes away three parts in four, in one of low frequency one; weighing them apart gains some 0.1 %.
    """
    by_quality = 0.77 + 0.3 * torch.exp(-quality / 10)
    by_channel = 1.12 - 0.04 * torch.log2(1 + torch.arange(channels, device=quality.device))
    return by_quality[:, None] * by_channel


def known_neighbours(values: Tensor) -> Tensor:
    """[N, h, w, K] → [N, h, w, 4·K]: all `neighbours` of a position, one after the other."""
    return torch.cat(neighbours(values), -1)
