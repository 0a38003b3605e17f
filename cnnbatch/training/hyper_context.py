"""Gives a trained hyperprior the context of its hyper-latents: least squares and counting, no gradient steps.

The hyper-latents of training pictures at each anchor of quality are regressed on their neighbours; then the scale index of
each channel and the shift of each class of activity are chosen in turn, where what was found costs fewest bits.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnbatch.codec.hyper_context import EDGES, WEIGHT_UNIT, HyperContext, activity_class, hyper_neighbours
from cnnbatch.codec.hyperprior import Hyperprior
from cnnbatch.codec.hyperprior_settings import HyperpriorSettings
from cnnbatch.codec.integer_net import round_half_up
from cnnbatch.codec.layers import NUM_ANCHORS
from cnnbatch.codec.likelihood import gaussian_bits
from cnnbatch.training.context import analysed
from cnnbatch.training.data import Pixels

PICTURES = 96
"""Looked at, at every anchor of quality."""

RIDGE = 1e-2
ROUNDS = 3
LARGEST = 255
"""Magnitude that is told apart when bits are counted."""

SHIFTS = range(-14, 15)
"""Changes of a scale index that are tried."""

Costs = npt.NDArray[np.float64]


@torch.no_grad()
def with_hyper_context(model: Hyperprior, pictures: Sequence[Pixels]) -> Hyperprior:
    """A copy of ``model``, which has none, with a context of its hyper-latents."""
    values = model.settings.model_dump() | {"hyper_context": True}
    grown = Hyperprior(HyperpriorSettings.model_validate(values))
    grown.load_state_dict(model.state_dict(), strict=False)
    chosen = pictures[:: max(1, len(pictures) // PICTURES)][:PICTURES]
    z = [[analysed(model, picture, q[None])[1] for picture in chosen] for q in torch.linspace(0, 63, NUM_ANCHORS)]
    context = grown.hyper_context
    context.weight.copy_(_regressed([part for parts in z for part in parts]))
    symbols = [[part - round_half_up((hyper_neighbours(part) * context.weight).sum(-1)) for part in parts] for parts in z]
    indexes, shifts = _fitted(symbols, context, _costs(model.settings))
    context.shift.copy_(torch.from_numpy(shifts))
    grown.z_scale.anchors.copy_(torch.from_numpy(indexes))
    return grown


def _regressed(z: Sequence[Tensor]) -> Tensor:
    """[C, 4], in units that a codec file can hold."""
    known = torch.cat([hyper_neighbours(part).flatten(0, 2) for part in z]).transpose(0, 1)
    normal, right = known.mT @ known, known.mT @ torch.cat([part.flatten(0, 2) for part in z]).T[..., None]
    solution: Tensor = torch.linalg.solve(normal + RIDGE * known.shape[1] * torch.eye(4), right)[..., 0]
    return round_half_up(solution * WEIGHT_UNIT) / WEIGHT_UNIT


def _costs(settings: HyperpriorSettings) -> Costs:
    """[num_scales, 2·LARGEST + 1]: bits of each value under each scale index."""
    values = torch.arange(-LARGEST, LARGEST + 1.0)
    return np.stack(
        [gaussian_bits(values[:, None], scale.float().expand(len(values), 1)).numpy() for scale in settings.scales()]
    )


def _fitted(symbols: Sequence[Sequence[Tensor]], context: HyperContext, costs: Costs) -> tuple[Costs, Costs]:
    """Scale indexes [anchors, C] and shifts [classes]."""
    counts = np.stack([_histogram(parts, [torch.zeros_like(p).long() for p in parts], 1) for parts in symbols])
    indexes = (counts @ costs.T)[:, :, 0].argmin(-1)
    classes = len(EDGES) + 1
    shifts = np.zeros(classes, np.int64)
    for _ in range(ROUNDS):
        counts = np.stack(
            [_in_classes(parts, context.inverse[one], classes) for parts, one in zip(symbols, indexes, strict=True)]
        )
        bits = counts @ costs.T  # [anchors, C, classes, num_scales]
        shifts = np.array([_best_shift(bits[:, :, k], indexes) for k in range(classes)])
        places = np.clip(np.arange(len(costs))[:, None] + shifts, 0, len(costs) - 1)  # [num_scales, classes]
        shifted = np.take_along_axis(bits, places.T[None, None], -1).sum(2)
        indexes = shifted.argmin(-1)
    return indexes.astype(np.float64), shifts.astype(np.float64)


def _best_shift(bits: Costs, indexes: npt.NDArray[np.int64]) -> int:
    """``bits`` [anchors, C, num_scales]."""

    def total(shift: int) -> float:
        place = np.clip(indexes + shift, 0, bits.shape[-1] - 1)[..., None]
        return float(np.take_along_axis(bits, place, -1).sum())

    return min(SHIFTS, key=total)


def _in_classes(symbols: Sequence[Tensor], inverse: Tensor, classes: int) -> Costs:
    return _histogram(symbols, [activity_class(part, inverse) for part in symbols], classes)


def _histogram(symbols: Sequence[Tensor], classes: Sequence[Tensor], num_classes: int) -> Costs:
    """[C, num_classes, 2·LARGEST + 1]."""
    channels = symbols[0].shape[-1]
    values = torch.cat([part.flatten(0, 2) for part in symbols]).clamp(-LARGEST, LARGEST).long() + LARGEST
    number = torch.arange(channels) * num_classes + torch.cat([part.flatten(0, 2) for part in classes])
    width = 2 * LARGEST + 1
    flat = (number * width + values).flatten()
    return torch.bincount(flat, minlength=channels * num_classes * width).view(channels, num_classes, width).double().numpy()
