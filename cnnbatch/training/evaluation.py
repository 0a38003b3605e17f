"""Rate and distortion of a model on pictures, with symbols as the encoder chooses them and estimated bits.

Quick enough for every few minutes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.training.data import Pixels

QUALITIES = (4.0, 20.0, 36.0, 52.0)


@dataclass(frozen=True, slots=True)
class RatePoint:
    """Means over pictures at one quality; ``loss`` = λ·MSE + bpp."""

    quality: float
    bpp: float
    psnr_db: float
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
        bpp, psnr, loss = figures.mean(0)
        points.append(RatePoint(quality, float(bpp), float(psnr), float(loss)))
    return points


def _measure(model: Hyperprior, picture: Pixels, quality: torch.Tensor) -> tuple[float, float, float]:
    h, w = (n // 64 * 64 for n in picture.shape[:2])
    x = torch.from_numpy(picture[:h, :w].copy())[None].float()
    x_hat, bits = model(x, quality, noise=False)
    mse = float((x_hat.clamp(0, 255).round() - x).square().mean())
    bpp = float(bits) / (h * w)
    return bpp, 10 * float(np.log10(255**2 / max(mse, 1e-9))), float(model.settings.lmbda(quality)) * mse + bpp
