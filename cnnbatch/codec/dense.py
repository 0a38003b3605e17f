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

Quality q in [0, 63] sets λ(q), hence the quantisation step Δ(q), as in `cnnbatch.codec.hyperprior`; y, ŷ and μ are in
units of Δ. Latents are coded in order of their variance, each from the ones before (`cnnbatch.codec.dense_context`).

Shapes: N pictures, H × W pixels, C channels (1 gray, 3 RGB), L latents; pictures are [N, H, W, C] float32.
"""

from typing import Annotated, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbatch.codec.dense_context import Context
from cnnbatch.codec.hyperprior_settings import PIXEL_UNIT
from cnnbatch.codec.integer_net import round_half_up
from cnnbatch.codec.layers import (
    FullPrecisionLinear,
    Positive,
    QualityCurve,
    ScaleRange,
    depth_to_space,
    high_rate_step,
    lmbda_at,
    log_spaced,
)
from cnnbatch.codec.likelihood import gaussian_bits, noisy

POOLED = 4
"""Pixels that a position after both pools covers in each direction."""

MAX_SIDE = 512
MAX_CLASSES = 4096

HEAD_DROPOUT = 0.3
"""Share of the head's hidden units that each training step leaves out."""

Channels = Annotated[int, Field(ge=1, le=1024)]
ClassName = Annotated[str, Field(min_length=1, max_length=200)]


class DenseLayers(BaseModel):
    """Sizes of the layers, whatever the pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    analysis_channels: tuple[Channels, Channels] = (32, 64)
    """Of the convolutions before the first and before the second pool."""
    synthesis_channels: tuple[Channels, Channels] = (32, 16)
    """At a quarter and at half of the resolution."""
    hidden: int = Field(512, ge=1, le=16384)
    """Width of the dense layer beside the convolutions, in both directions."""
    latents: int = Field(176, ge=2, le=2048)
    context_width: int = Field(256, ge=2, le=4096)
    lmbda_range: tuple[Positive, Positive] = (0.0001, 0.1)
    num_scales: int = Field(64, ge=2, le=64)
    scale_range: ScaleRange = (0.11, 128.0)
    head_width: int = Field(128, ge=1, le=4096)
    """Hidden units of the head that recognises classes."""


class DenseSettings(DenseLayers):
    """One model: its layers, the pictures it takes and the classes it knows. They live in its codec file."""

    height: int = Field(28, ge=4, le=MAX_SIDE)
    width: int = Field(28, ge=4, le=MAX_SIDE)
    channels: Literal[1, 3] = 1
    classes: tuple[ClassName, ...] = Field((), max_length=MAX_CLASSES)
    """Names in the order of the head's outputs; empty: no head."""

    @property
    def pixels(self) -> int:
        """Numbers in one picture."""
        return self.height * self.width * self.channels

    @property
    def pooled(self) -> tuple[int, int]:
        """(rows, columns) after both pools."""
        return -(-self.height // POOLED), -(-self.width // POOLED)

    def lmbda(self, quality: Tensor) -> Tensor:
        """λ(q), see `lmbda_at`."""
        return lmbda_at(quality, self.lmbda_range)

    def step(self, quality: Tensor) -> Tensor:
        """Δ(q) in grey levels of an orthonormal transform."""
        return high_rate_step(self.lmbda(quality))

    def scales(self) -> Tensor:
        """[num_scales] float64, log-spaced, in quantisation steps."""
        return log_spaced(self.scale_range, self.num_scales)


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
