"""Distortion of one decoded picture by the measures that are asked for; MS-SSIM where the picture is large enough for it."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from cnnbatch.butteraugli import butteraugli
from cnnbatch.evaluation.codecs import Pixels, as_rgb
from cnnbatch.evaluation.scales import USUAL, measures_of
from cnnbatch.evaluation.summary import Measure
from cnnbatch.metrics import psnr_db
from cnnbatch.ssimulacra2 import ssimulacra2

MS_SSIM_SMALLEST_SIDE: Final = 161
"""Five scales, each half the one before, of a window of 11: 10 · 2⁴ + 1 (Wang, Simoncelli and Bovik, 2003)."""

MS_SSIM_MAX_PIXELS: Final = 1 << 25
"""Its float planes take about 40 bytes a pixel; larger pictures go without."""


@dataclass(frozen=True, slots=True)
class Distortion:
    """``psnr_db`` over RGB, at most 100 for an exact picture; ``ms_ssim`` in 0…1, or None and ``no_ms_ssim`` says why.

    ``ssimulacra2`` is 100 for an exact picture, ``butteraugli``, the 3-norm, and its maximum 0; None: not asked for.
    """

    psnr_db: float
    ms_ssim: float | None
    no_ms_ssim: str | None
    ssimulacra2: float | None = None
    butteraugli: float | None = None
    butteraugli_max: float | None = None


def distortion(original: Pixels, decoded: Pixels, measures: Collection[Measure] = measures_of(USUAL)) -> Distortion:
    """Compares two pictures of one size; a gray one counts as its three equal channels. PSNR is always among the ``measures``.

    Raises ValueError where the sizes differ.
    """
    if original.ndim != decoded.ndim:
        original, decoded = as_rgb(original), as_rgb(decoded)
    psnr = psnr_db(original, decoded)
    reason = _no_ms_ssim(original) if "ms_ssim" in measures else "not asked for"
    largest, three_norm = butteraugli(original, decoded) if "butteraugli" in measures else (None, None)
    return Distortion(
        psnr,
        None if reason else ms_ssim_of(original, decoded),
        reason,
        ssimulacra2(original, decoded) if "ssimulacra2" in measures else None,
        three_norm,
        largest,
    )


def _no_ms_ssim(image: Pixels) -> str | None:
    height, width = image.shape[:2]
    if min(height, width) < MS_SSIM_SMALLEST_SIDE:
        return f"{width}x{height} pixels are smaller than the window of MS-SSIM, {MS_SSIM_SMALLEST_SIDE} a side"
    if height * width > MS_SSIM_MAX_PIXELS:
        return f"{width}x{height} pixels are more than the {MS_SSIM_MAX_PIXELS} that MS-SSIM is computed for"
    return None


def ms_ssim_of(original: Pixels, decoded: Pixels) -> float:
    """MS-SSIM with the weights and the window of the paper, mean over the channels, one of them in memory at a time."""
    from pytorch_msssim import ms_ssim

    with torch.inference_mode():
        channels = [
            float(ms_ssim(_plane(a), _plane(b), data_range=255, size_average=True))
            for a, b in zip(_channels(original), _channels(decoded), strict=True)
        ]
    return min(1.0, float(np.mean(channels)))


def _channels(image: Pixels) -> list[Pixels]:
    return [image] if image.ndim == 2 else [image[..., channel] for channel in range(3)]


def _plane(channel: Pixels) -> torch.Tensor:
    return torch.from_numpy(channel.astype(np.float32))[None, None]
