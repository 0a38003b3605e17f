"""The distortion that a training step counts: that of the codec's objective, and for the eye a share of Butteraugli.

SSIMULACRA2 alone leaves Butteraugli where it was: what it forgives (a flat area a little off, single large errors) grows. The
shares are of what an error is worth at the optimum, not of the values: at the rate of a trained codec d(bits) / d(measure) of
each measure, times its share, add up to one. Squared error keeps a fifth, so that nothing goes astray that neither sees.

Shapes: N crops of H × W pixels; pictures are [N, H, W, 3] float32 in grey levels.
"""

import torch
from torch import Tensor

from cnnbatch.butteraugli import three_norm
from cnnbatch.codec.hyperprior.distortion import LEAST_WEIGHT, bits_of_ssimulacra2, distortion, place_of
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.ssimulacra2 import weighted_sum

SQUARED_SHARE = 0.10
SSIMULACRA2_SHARE = 0.80
BUTTERAUGLI_SHARE = 0.14
"""Factors of λ·MSE, of `bits_of_ssimulacra2` and of `bits_of_butteraugli`."""

BUTTERAUGLI_EVERY = 4
"""One crop in so many is seen by Butteraugli."""


def training_distortion(
    picture: Tensor, original: Tensor, quality: Tensor, settings: HyperpriorSettings, *, step: int
) -> Tensor:
    """[N]: bits per pixel that the errors of ``picture`` are worth at ``quality`` [N], with gradients.

    Butteraugli, which takes longer than the network, sees one crop in four, others in every step.
    """
    if settings.objective == "psnr":
        return distortion(picture, original, quality, settings)
    lmbda = settings.lmbda(quality)
    x, y = (p.float().permute(0, 3, 1, 2) for p in (original, picture))
    squared = SQUARED_SHARE * lmbda * (y - x).square().flatten(1).mean(1)
    seen = SSIMULACRA2_SHARE * bits_of_ssimulacra2(lmbda) * weighted_sum(x, y, least_weight=LEAST_WEIGHT)
    some = torch.arange(len(x), device=x.device)[step % BUTTERAUGLI_EVERY :: BUTTERAUGLI_EVERY]
    if not len(some):
        return squared + seen
    share = BUTTERAUGLI_EVERY * BUTTERAUGLI_SHARE
    other = share * bits_of_butteraugli(lmbda[some]) * three_norm(x[some], y[some])
    return (squared + seen).index_add(0, some, other)


def bits_of_butteraugli(lmbda: Tensor) -> Tensor:
    """[N]: bits per pixel that a unit of Butteraugli's 3-norm is worth: −d(bits) / d(norm) of a codec that is trained for
    SSIMULACRA2, measured on crops of twelve photographs."""
    t = place_of(lmbda)
    return torch.exp(-3.8 + 6.0 * t - 0.62 * t.square())
