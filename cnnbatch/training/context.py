"""Gives a trained hyperprior the context that predicts its low-frequency means: least squares, no gradient steps.

At each anchor of quality the latents of training pictures are regressed on their neighbours, flat places counting more than
others; then the scale offsets of the predicted channels are lowered to what is left.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cnnbatch.codec.hyperprior import NUM_NEIGHBOURS, Hyperprior, known_neighbours
from cnnbatch.codec.hyperprior_settings import GREY, HyperpriorSettings
from cnnbatch.codec.integer_net import Z_MAX, round_half_up
from cnnbatch.codec.layers import NUM_ANCHORS
from cnnbatch.codec.likelihood import gaussian_bits
from cnnbatch.training.data import Pixels

PICTURES = 64
"""Regressed on: some 50,000 latent positions for 256 unknowns."""

RIDGE = 1e-3
OFFSETS = range(-16, 5)
"""Changes of a scale offset that are tried, in scale indexes."""

LARGEST_WEIGHT = 5.0
"""Of an equation, so that flat places do not outvote all others."""


@torch.no_grad()
def with_context(model: Hyperprior, pictures: Sequence[Pixels], channels: int) -> Hyperprior:
    """A copy of ``model``, which has none, with a context over its first ``channels`` channels."""
    values = model.settings.model_dump() | {"context_channels": channels}
    grown = Hyperprior(HyperpriorSettings.model_validate(values))
    grown.load_state_dict(model.state_dict(), strict=False)
    chosen = pictures[:: max(1, len(pictures) // PICTURES)][:PICTURES]
    for anchor, quality in enumerate(torch.linspace(0, 63, NUM_ANCHORS)):
        deviations, positions = _latents(model, chosen, quality[None], channels)
        weights = _regressed(deviations, _scales(model, positions))
        grown.context.anchors[anchor] = weights.flatten()
        grown.scale_offset.anchors[anchor, :channels] += _offsets(model, deviations, positions, weights)
    return grown


def analysed(model: Hyperprior, picture: Pixels, quality: Tensor) -> tuple[Tensor, Tensor]:
    """(y [1, h, w, M], ẑ [1, h/4, w/4, Cz]) of a picture, cut to multiples of 64; ``quality`` [1]."""
    height, width = (n // 64 * 64 for n in picture.shape[:2])
    return analysed_pixels(model, torch.from_numpy(picture[None, :height, :width].copy()).float(), quality)


def analysed_pixels(model: Hyperprior, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    """(y, ẑ) of pixels ``x`` [N, H, W, 3], H and W multiples of 64."""
    y = model.g_a(x - GREY, quality)
    return y, round_half_up(model.h_a(y, quality).clamp(-Z_MAX, Z_MAX))


def _latents(
    model: Hyperprior, pictures: Sequence[Pixels], quality: Tensor, channels: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Of each picture y less its means, and the scale positions, of the first channels: [1, h, w, K]."""
    deviations, positions = [], []
    for picture in pictures:
        y, z_hat = analysed(model, picture, quality)
        hyper = model.hyper_synthesis(z_hat, quality)
        deviations.append((y - hyper.means)[..., :channels])
        positions.append(hyper.scale_positions[..., :channels])
    return deviations, positions


def _scales(model: Hyperprior, positions: Sequence[Tensor], offset: float = 0.0) -> list[Tensor]:
    s = model.settings
    indexes = (round_half_up(p + offset).clamp(0, s.num_scales - 1) for p in positions)
    return [s.scale_at(i) for i in indexes]


def _regressed(deviations: Sequence[Tensor], scales: Sequence[Tensor]) -> Tensor:
    """[K, 4·K]."""
    channels = deviations[0].shape[-1]
    unknowns = NUM_NEIGHBOURS * channels
    normal, right = torch.zeros(unknowns, unknowns), torch.zeros(unknowns, channels)
    count = 0
    typical = torch.cat([s.flatten(0, 2) for s in scales]).mean(0)
    for deviation, scale in zip(deviations, scales, strict=True):
        weight = (typical / scale).clamp(max=LARGEST_WEIGHT).mean(-1, keepdim=True)
        known = (known_neighbours(round_half_up(deviation)) * weight).flatten(0, 2)
        normal += known.T @ known
        right += known.T @ (deviation * weight).flatten(0, 2)
        count += len(known)
    ridge = RIDGE * count * torch.eye(unknowns)
    solution: Tensor = torch.linalg.solve(normal + ridge, right)
    return solution.T


def _offsets(model: Hyperprior, deviations: Sequence[Tensor], positions: Sequence[Tensor], weights: Tensor) -> Tensor:
    """[K]: the change of each channel's scale offset that makes its bits fewest."""
    left = [round_half_up(d - known_neighbours(round_half_up(d)) @ weights.T) for d in deviations]
    bits = torch.stack([_bits_by_channel(left, _scales(model, positions, offset)) for offset in OFFSETS])
    return torch.tensor(OFFSETS)[bits.argmin(0)].float()


def _bits_by_channel(residuals: Sequence[Tensor], scales: Sequence[Tensor]) -> Tensor:
    """[K]."""
    columns = zip(*(torch.cat([t.flatten(0, 2) for t in parts]).T for parts in (residuals, scales)), strict=True)
    return torch.cat([gaussian_bits(residual[None], scale[None]) for residual, scale in columns])
