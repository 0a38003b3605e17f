"""The worth of an error in bits, in a picture and in a latent: the distortion that a codec is trained for and chooses by.

A codec for ``psnr`` counts squared errors. One for ``ssimulacra2`` counts what the eye sees of them, and a share of squared
errors, so that nothing goes astray that the measure does not look at.

Shapes: N pictures, H × W pixels; pictures are [N, H, W, 3] float32 in grey levels; M latent channels.
"""

import torch
from torch import Tensor

from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.hyperprior.synthesis import Synthesis
from cnnbatch.ssimulacra2 import weighted_sum

SEEN_SHARE = 0.88
"""Share of SSIMULACRA2 in the distortion of a codec for the eye; the rest is squared error."""

LEAST_WEIGHT = 0.01
"""Norms of SSIMULACRA2 with smaller weights are left out: half of the work, and less than 0.1 points."""

UNIFORM_WEIGHT = 6.5
"""Bits that the quantiser counts for a squared unit of error in a codec for the eye, where each channel's step already says
what an error in it is worth. Of least loss by trial: within 0.5 % from 5 to 8 at every quality."""


def distortion(picture: Tensor, original: Tensor, quality: Tensor, settings: HyperpriorSettings) -> Tensor:
    """[N]: bits per pixel that the errors of ``picture`` are worth, at ``quality`` [N]; with gradients."""
    lmbda = settings.lmbda(quality)
    squared = lmbda * (picture - original).square().flatten(1).mean(1)
    if settings.objective == "psnr":
        return squared
    planes = (p.permute(0, 3, 1, 2) for p in (original, picture))
    seen = bits_of_ssimulacra2(lmbda) * weighted_sum(*planes, least_weight=LEAST_WEIGHT)
    return torch.lerp(squared, seen, SEEN_SHARE)


def bits_of_ssimulacra2(lmbda: Tensor) -> Tensor:
    """[N]: bits per pixel that a unit of the sum behind SSIMULACRA2 is worth: as much as λ·MSE on average, for a codec that is
    trained for squared errors."""
    t = place_of(lmbda)
    return torch.exp(-5.84 + 6.7 * t + 0.5 * t.square())


def place_of(lmbda: Tensor) -> Tensor:
    """[N]: 0 at the λ of quality 0, 1 at that of quality 63 of `psnr`, evenly in ln λ."""
    return torch.log(lmbda / 0.0009) / 6.502


@torch.no_grad()
def bits_per_square(g_s: Synthesis, quality: Tensor) -> Tensor:
    """[N, M]: bits that a squared unit of error in one latent of each channel is worth, by the linear bypass of ``g_s`` alone.

    λ·MSE counts the 256·3 samples of a block as λ·Σe² ÷ (3·256) per pixel, hence λ·Σe² ÷ 3 for the block.
    """
    gain = torch.exp(g_s.latent_gain(quality)).flatten(1) * g_s.settings.step(quality)[:, None]
    norm = g_s.bypass.weight.square().sum(0)
    return g_s.settings.lmbda(quality)[:, None] / 3 * gain.square() * norm


@torch.no_grad()
def quantiser_weights(g_s: Synthesis, quality: Tensor) -> Tensor:
    """[N, M]: bits that the quantiser counts for a squared unit of error, in units of the local step."""
    if g_s.settings.objective == "ssimulacra2":
        return UNIFORM_WEIGHT * _weights_by_channel(g_s.settings.latent_channels, quality.device).expand(len(quality), -1)
    return distortion_weights(quality, g_s.settings.latent_channels) * bits_per_square(g_s, quality)


def distortion_weights(quality: Tensor, channels: int) -> Tensor:
    """[N, M]: weight of an error as the quantiser counts it, relative to what it does through the linear bypass.

    Of least loss by trial: 1.0 at q = 4, 0.8 from 20 on. And of an error in a channel of high frequency (the last ones) the
    learned path takes away three parts in four, in one of low frequency one; weighing them apart gains some 0.1 %.
    """
    by_quality = 0.77 + 0.3 * torch.exp(-quality / 10)
    return by_quality[:, None] * _weights_by_channel(channels, quality.device)


def _weights_by_channel(channels: int, device: torch.device) -> Tensor:
    """[M], near 1, falling with frequency."""
    return 1.12 - 0.04 * torch.log2(1 + torch.arange(channels, device=device))
