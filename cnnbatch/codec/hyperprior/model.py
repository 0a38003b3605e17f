"""Decoupled hyperprior: transforms at 1/8 and 1/16, scales and means from exact nets of integers.

    x ─ g_a ─ y ────────── r = round(y/s − μ) ── ŷ = (r + μ)·s ─ g_s ─ x̂
              │                ▲ entropy coder: zero-mean Gaussian of scale index i
              h_a ─ ẑ ─┬─ scale net (integers) ─ i
                       └─ mean net (integers) ── μ, s   ẑ itself is coded in an exact context, `HyperContext`

(Ballé et al. 2018, arXiv 1802.01436; mean and scale: Minnen et al. 2018, arXiv 1809.02736; decoupled like JPEG AI.)
The few channels that carry the picture's low frequencies go on from block to block, more than ẑ tells: their μ gains a linear
prediction from decoded neighbours (differential coding; the symbols are decoded without it, so it stays in float, too).
The quantisation step adapts to the place without side information: s, near 1, follows from ẑ, which knows how busy it is
there; texture hides larger errors than smooth areas do. The channels that are predicted from neighbours keep s = 1.
A wrong μ or s moves a pixel by less than one level; a wrong i would destroy everything behind it, which is why only i has to
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
from cnnbatch.codec.hyperprior.distortion import quantiser_weights
from cnnbatch.codec.hyperprior.hyper_context import HyperContext
from cnnbatch.codec.hyperprior.hyper_transforms import HyperAnalysis, MeanNet
from cnnbatch.codec.hyperprior.rate import on_the_trellis
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.hyperprior.synthesis import Synthesis
from cnnbatch.codec.transforms.integer_kernels import Z_MAX
from cnnbatch.codec.transforms.integer_layers import IntegerNet, round_half_up, soft_clamp
from cnnbatch.codec.transforms.layers import keep_variance, neighbours
from cnnbatch.codec.transforms.quality import QualityCurve

NUM_NEIGHBOURS = 4
"""Decoded latent positions that a mean is predicted from."""

COARSER = (1.65, 1.05)
"""Quantisation step that training starts with at quality 0 and 63, in units of the high-rate optimum Δ(q): where most
latents are zero a coarser step is better."""


class HyperLatents(NamedTuple):
    """The side information that ẑ gives for the latents of one image, [N, H/16, W/16, M]."""

    scale_positions: Tensor
    """Before rounding."""
    means: Tensor
    """In units of the local step."""
    steps: Tensor
    """Local quantisation steps in units of Δ(q)."""


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
        self.prediction = QualityCurve(settings.predicted_channels * NUM_NEIGHBOURS * settings.predicted_channels)
        self.z_scale = QualityCurve(settings.hyper_channels)
        self.hyper_context = HyperContext(settings.hyper_channels, settings.scale_range, settings.num_scales)

    def integer_nets(self) -> list[IntegerNet]:
        """The nets whose layers are of integers."""
        return [self.scale_net, self.mean_net]

    def hyper_synthesis(self, z_hat: Tensor, quality: Tensor) -> HyperLatents:
        """``z_hat`` integers → scale positions (real, to be rounded half up and clamped), means and steps."""
        positions = self.scale_net(z_hat) + round_half_up(self.scale_offset(quality))
        return HyperLatents(positions, *self.mean_net(z_hat, quality))

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
        y = y / hyper.steps
        means = self.with_prediction(hyper.means, y, quality, noise=noise)
        residual = y - means
        positions = soft_clamp(round_half_up(hyper.scale_positions), 0, s.num_scales - 1, share=1)
        scales = s.scale_at(positions)
        r_hat, bits = on_the_trellis(residual, positions, scales, quantiser_weights(self.g_s, quality), s, noise=noise)
        bits = bits + self._hyper_bits(z, z_hat, quality, noise=noise)
        return self.g_s((r_hat + means) * hyper.steps, quality), bits

    def _hyper_bits(self, z: Tensor, z_hat: Tensor, quality: Tensor, *, noise: bool) -> Tensor:
        """Bits of the hyper-latents, noisy or rounded, [N]."""
        s = self.settings
        values = noisy(z) if noise else z_hat
        positions = round_half_up(self.z_scale(quality)).clamp(0, s.num_scales - 1)
        predicted, positions = self.hyper_context(z_hat, positions)
        scales = s.scale_at(positions.clamp(0, s.num_scales - 1))
        return gaussian_bits(values - predicted, scales)

    def prediction_weights(self, quality: Tensor) -> Tensor:
        """[N, K, 4·K]: what each of the K predicted channels takes of its `known_neighbours`."""
        k = self.settings.predicted_channels
        return cast(Tensor, self.prediction(quality)).reshape(-1, k, NUM_NEIGHBOURS * k)

    def with_prediction(self, means: Tensor, y: Tensor, quality: Tensor, *, noise: bool) -> Tensor:
        """The means with the prediction added: in parallel, from neighbours that are rounded apart from each other."""
        k = self.settings.predicted_channels
        deviation = (y - means)[..., :k]
        known = known_neighbours(noisy(deviation) if noise else round_half_up(deviation))
        with torch.autocast(y.device.type, enabled=False):
            predicted = torch.einsum("nhwj,nkj->nhwk", known.float(), self.prediction_weights(quality))
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


def known_neighbours(values: Tensor) -> Tensor:
    """[N, h, w, K] → [N, h, w, 4·K]: all `neighbours` of a position, one after the other."""
    return torch.cat(neighbours(values), -1)
