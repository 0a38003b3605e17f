"""Small pictures of one size as one short vector: the article's networks, mended, around an exact context model.

    x ─┬─ conv 3×3, pool, conv 3×3, pool, dense ─┐
       ├─ dense, dense ──────────────────────────┼─ y ── r = round(y − μ) ── ŷ = r + μ ── the mirror image ── x̂
       └─ linear (PCA) ──────────────────────────┘        ▲ entropy coder: zero-mean Gaussian of scale index i
                                                 ŷ of the latents before ── context model (integers) ── μ, i

The convolutions, the pools and the dense layers are the article's (`DenseLayers` holds their sizes). Its decoder expects
14 × 14 × 64 numbers where its encoder gives 10; here it begins with a dense layer from the latents. Its convolutions lose
a border that nothing gives back; here they are padded. Its upsampling repeats pixels; here a convolution makes four
channels for one and `depth_to_space` lays them out (Shi et al. 2016, arXiv 1609.05158). Beside them a linear bypass starts
as the PCA of the training pictures, and all else starts at zero: the untrained model is the PCA coder.

Quality q in [0, 63] sets λ(q), hence the quantisation step Δ(q), as in `cnnbatch.codec.hyperprior.model`; y, ŷ and μ are in
units of Δ. Latents are coded in order of their variance, each from the ones before (`cnnbatch.codec.dense.context_model`).

Shapes: N pictures, H × W pixels, C channels (1 gray, 3 RGB), L latents; pictures are [N, H, W, C] float32.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbatch.codec.dense.context_model import Context
from cnnbatch.codec.dense.settings import POOLED, DenseSettings
from cnnbatch.codec.entropy_coding.likelihood import gaussian_bits, noisy
from cnnbatch.codec.geometry import PIXEL_UNIT
from cnnbatch.codec.transforms.integer_layers import round_half_up
from cnnbatch.codec.transforms.layers import FullPrecisionLinear, depth_to_space
from cnnbatch.codec.transforms.quality import QualityCurve

HEAD_DROPOUT = 0.3
"""Share of the head's hidden units that each training step leaves out."""


class Analysis(nn.Module):
    """g_a: pixels → latents in units of Δ(q)."""

    def __init__(self, s: DenseSettings) -> None:
        super().__init__()
        self.settings = s
        first, second = s.analysis_channels
        rows, columns = s.pooled
        self.mean = nn.Parameter(torch.zeros(s.pixels), requires_grad=False)
        """The mean picture, which the learned paths do not see: a fixed part of every input would slow them down."""
        self.bypass = FullPrecisionLinear(s.pixels, s.latents)
        self.conv_1 = nn.Conv2d(s.channels, first, 3, padding=1)
        self.conv_2 = nn.Conv2d(first, second, 3, padding=1)
        self.conv_gain = QualityCurve(second)
        self.leave = nn.Linear(rows * columns * second, s.latents)
        self.hidden = nn.Linear(s.pixels, s.hidden)
        self.hidden_gain = QualityCurve(s.hidden)
        self.project = nn.Linear(s.hidden, s.latents)
        self.latent_gain = QualityCurve(s.latents)

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """``x`` [N, H, W, C] in 0…255, ``quality`` [N] → y [N, L]."""
        flat = x.flatten(1)
        centred = (flat - self.mean) / PIXEL_UNIT
        learned = self.leave(self._convolved(centred.view_as(x), quality))
        hidden = F.relu(self.hidden(centred) * torch.exp(_curve(self.hidden_gain, quality)))
        y = self.bypass(flat) + (learned + self.project(hidden)) * PIXEL_UNIT
        step = self.settings.step(quality)[:, None]
        return cast(Tensor, y * (torch.exp(_curve(self.latent_gain, quality)) / step))

    def _convolved(self, x: Tensor, quality: Tensor) -> Tensor:
        """[N, rows · columns · channels] after both pools; pooled before the ReLU, which gives the same with less work."""
        bottom, right = (-side % POOLED for side in (self.settings.height, self.settings.width))
        planes = (
            F.pad(x.permute(0, 3, 1, 2), (0, right, 0, bottom), mode="replicate") if bottom or right else x.permute(0, 3, 1, 2)
        )
        features = F.relu(_pooled(self.conv_1(planes)))
        features = _pooled(self.conv_2(features)).permute(0, 2, 3, 1)
        return F.relu(features * torch.exp(self.conv_gain(quality))).flatten(1)


class Synthesis(nn.Module):
    """g_s: latents in units of Δ(q) → pixels."""

    def __init__(self, s: DenseSettings) -> None:
        super().__init__()
        self.settings = s
        first, second = s.synthesis_channels
        rows, columns = s.pooled
        self.latent_gain = QualityCurve(s.latents)
        self.bypass = FullPrecisionLinear(s.latents, s.pixels)
        self.enter = nn.Linear(s.latents, rows * columns * first)
        self.conv_gain = QualityCurve(first)
        self.conv_1 = nn.Conv2d(first, 4 * second, 3, padding=1)
        self.conv_2 = nn.Conv2d(second, 4 * s.channels, 3, padding=1)
        self.hidden = nn.Linear(s.latents, s.hidden)
        self.hidden_gain = QualityCurve(s.hidden)
        self.project = nn.Linear(s.hidden, s.pixels)

    def dequantised(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """ŷ [N, L] in units of Δ(q) → the same in units of `PIXEL_UNIT` grey levels, whatever the quality."""
        gain = torch.exp(_curve(self.latent_gain, quality))
        return y_hat * (gain * (self.settings.step(quality) / PIXEL_UNIT)[:, None])

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """``y_hat`` [N, L], ``quality`` [N] → [N, H, W, C], around 0…255, not clamped."""
        s = self.settings
        values = self.dequantised(y_hat, quality)
        features = self.enter(values).view(-1, *s.pooled, s.synthesis_channels[0])
        features = F.relu(features * torch.exp(self.conv_gain(quality)))
        features = F.relu(depth_to_space(_convolve(self.conv_1, features), 2))
        learned = depth_to_space(_convolve(self.conv_2, features), 2)[:, : s.height, : s.width].flatten(1)
        hidden = F.relu(self.hidden(values) * torch.exp(_curve(self.hidden_gain, quality)))
        x_hat = (self.bypass(values) + learned + self.project(hidden)) * PIXEL_UNIT + 128
        return cast(Tensor, x_hat.view(-1, s.height, s.width, s.channels))


class Head(nn.Module):
    """Dequantised latents → logits of the classes."""

    def __init__(self, s: DenseSettings) -> None:
        super().__init__()
        self.enter = nn.Linear(s.latents, s.head_width)
        self.drop = nn.Dropout(HEAD_DROPOUT)
        self.leave = nn.Linear(s.head_width, len(s.classes))

    def forward(self, features: Tensor) -> Tensor:
        """[N, L] as `Synthesis.dequantised` gives them → [N, classes]."""
        return cast(Tensor, self.leave(self.drop(F.relu(self.enter(features)))))


class Dense(nn.Module):
    """The whole model. `forward` is the training pass; the codec calls the parts."""

    def __init__(self, settings: DenseSettings) -> None:
        super().__init__()
        self.settings = settings
        self.g_a = Analysis(settings)
        self.g_s = Synthesis(settings)
        self.context = Context(
            latents=settings.latents,
            width=settings.context_width,
            num_scales=settings.num_scales,
            scale_range=settings.scale_range,
        )
        self.head = Head(settings) if settings.classes else None
        for layer in (self.g_a.leave, self.g_a.project, self.g_s.conv_2, self.g_s.project):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(cast(Tensor, layer.bias))

    def forward(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``x`` [N, H, W, C] → (x̂, bits [N], dequantised latents [N, L]).

        Uniform noise stands for rounding where ŷ is the context of others and in the rate; the reconstruction sees
        rounded latents with straight-through gradients.
        """
        y = self.g_a(x, quality)
        means, scales = self.context(noisy(y), self.settings.step(quality), quality)
        residual = y - means
        y_hat = round_half_up(residual) + means
        bits = gaussian_bits(noisy(residual), scales)
        return self.g_s(y_hat, quality), bits, self.g_s.dequantised(y_hat, quality)

    @torch.no_grad()
    def initialise_from_pca(self, mean: Tensor, basis: Tensor, deviations: Tensor) -> None:
        """``mean`` [pixels], ``basis`` [L, pixels] orthonormal rows, ``deviations`` [L] in grey levels."""
        self.g_a.mean.copy_(mean)
        self.g_a.bypass.weight.copy_(basis)
        self.g_a.bypass.bias.copy_(-basis @ mean)
        self.g_s.bypass.weight.copy_(basis.T)
        self.g_s.bypass.bias.copy_((mean - 128) / PIXEL_UNIT)
        anchors = torch.linspace(0, 63, self.context.scale_anchors.shape[0])
        self.context.initialise(deviations, self.settings.step(anchors))


def _pooled(x: Tensor) -> Tensor:
    """[N, C, H, W] → [N, C, H/2, W/2]: the largest of each 2×2, in a third of the time of torch's, which also says where."""
    rows = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


def _curve(curve: QualityCurve, quality: Tensor) -> Tensor:
    """[N] → [N, C]."""
    return cast(Tensor, curve(quality)).flatten(1)


def _convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """[N, H, W, C] → [N, H, W, C']."""
    return cast(Tensor, layer(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
