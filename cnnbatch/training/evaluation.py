"""Rate and distortion of a model on pictures, with symbols as the encoder chooses them and estimated bits.

Quick enough for every few minutes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cnnbatch.codec.hyperprior.distortion import distortion
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.metrics import psnr_db
from cnnbatch.ssimulacra2 import ssimulacra2
from cnnbatch.training.data import Pixels

QUALITIES = (4.0, 20.0, 36.0, 52.0)


@dataclass(frozen=True, slots=True)
class RatePoint:
    """Means over pictures at one quality; ``loss`` = distortion of the codec's objective + bpp."""

    quality: float
    bpp: float
    psnr_db: float
    ssimulacra2: float
    loss: float


@torch.no_grad()
def rate_distortion(
    model: Hyperprior, pictures: Sequence[Pixels], qualities: Sequence[float] = QUALITIES, *, limit: int = 24
) -> list[RatePoint]:
    """Means over at most ``limit`` pictures (every n-th), each cut to a multiple of 64."""
    chosen = pictures[:: max(1, len(pictures) // limit)][:limit]
    points = []
    for quality in qualities:
        q = torch.tensor([quality])
        figures = np.array([_measure(model, picture, q) for picture in chosen])
        points.append(RatePoint(quality, *map(float, figures.mean(0))))
    return points


def _measure(model: Hyperprior, picture: Pixels, quality: torch.Tensor) -> tuple[float, float, float, float]:
    """bpp, PSNR, SSIMULACRA2 and loss of one picture."""
    h, w = (n // 64 * 64 for n in picture.shape[:2])
    x = torch.from_numpy(picture[:h, :w].copy())[None].float()
    x_hat, bits = model(x, quality, noise=False)
    decoded = x_hat.clamp(0, 255).round()
    bpp = float(bits) / (h * w)
    pair = picture[:h, :w], decoded[0].byte().numpy()
    return bpp, psnr_db(*pair), ssimulacra2(*pair), float(distortion(decoded, x, quality, model.settings)) + bpp
