"""The hyper-latent context model for training: the integers of `cnnbatch.codec.hyperprior.hyper_latents` over tensors, exact as
well, because all of its sums stay below 2²⁴.

Shapes: N pictures, a × b hyper-latent positions, C channels.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbatch.codec.hyperprior.hyper_latents import (
    EDGES,
    MOST,
    NEIGHBOUR,
    OWN,
    PRIOR,
    SMALLEST,
    UNIT,
    WEIGHT_MAX,
    WEIGHT_UNIT,
    HyperTables,
    Integers,
)
from cnnbatch.codec.transforms.integer_layers import round_half_up
from cnnbatch.codec.transforms.layers import neighbours


def inverse_magnitudes(scale_range: tuple[float, float], num_scales: int) -> Integers:
    """[num_scales]: see `HyperTables.inverse`; of zero-mean Gaussians with log-spaced scales."""
    expected = np.geomspace(*scale_range, num_scales) * np.sqrt(2 / np.pi)
    inverse: Integers = np.floor(UNIT / (expected + SMALLEST) + 0.5).astype(np.int64)
    return inverse


def usual_shifts(scale_range: tuple[float, float], num_scales: int) -> npt.NDArray[np.float64]:
    """[len(EDGES) + 1]: what a new model begins with: scales follow two thirds of the way, on a logarithmic scale."""
    middle = np.array([EDGES[0] / 2**0.25, *EDGES]) * 2**0.125
    indexes_per_octave = (num_scales - 1) / np.log2(scale_range[1] / scale_range[0])
    shifts: npt.NDArray[np.float64] = np.round(2 / 3 * indexes_per_octave * np.log2(middle / UNIT))
    return shifts


class HyperContext(nn.Module):
    """The same for training, with gradients to ẑ and to the weights of the prediction; the shifts are counted, not learned."""

    def __init__(self, channels: int, scale_range: tuple[float, float], num_scales: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 4))
        self.shift = nn.Parameter(torch.from_numpy(usual_shifts(scale_range, num_scales)).float(), requires_grad=False)
        self.inverse = torch.from_numpy(inverse_magnitudes(scale_range, num_scales)).float()

    def forward(self, z_hat: Tensor, static: Tensor) -> tuple[Tensor, Tensor]:
        """ẑ [N, a, b, C] and the scale indexes of the channels [N, 1, 1, C] → (predictions, scale indexes) [N, a, b, C].

        Indexes are not clamped.
        """
        weight = round_half_up((self.weight * WEIGHT_UNIT).clamp(-WEIGHT_MAX, WEIGHT_MAX)) / WEIGHT_UNIT
        predicted = round_half_up((hyper_neighbours(z_hat) * weight).sum(-1))
        with torch.no_grad():
            symbols = z_hat - predicted
            inverse = self.inverse.to(static.device)[static.long()]
            shift = round_half_up(self.shift)[activity_class(symbols, inverse)]
        return predicted, static + shift

    def tables(self) -> HyperTables:
        """The integers that a codec file holds."""
        in_units = (self.weight.detach() * WEIGHT_UNIT).clamp(-WEIGHT_MAX, WEIGHT_MAX)
        weights, shifts = (torch.floor(t + 0.5).long().cpu().numpy() for t in (in_units, self.shift.detach()))
        return HyperTables(weights, shifts, self.inverse.long().numpy())


def hyper_neighbours(z: Tensor) -> Tensor:
    """[N, a, b, C] → [N, a, b, C, 4]: the `neighbours` in each channel."""
    return torch.stack(neighbours(z), -1)


def activity_class(symbols: Tensor, inverse: Tensor) -> Tensor:
    """[N, a, b, C] int64, each in 0…len(EDGES); ``inverse`` [N, 1, 1, C], see `HyperTables`."""
    activity = (symbols.abs() * inverse).clamp(max=MOST)
    channels = symbols.shape[-1]
    total = PRIOR * UNIT + activity.cumsum(-1) - activity
    count = PRIOR + torch.arange(channels, device=symbols.device)
    everywhere = torch.ones_like(activity[..., :1])
    for beside in (_left, _above):
        mean = torch.floor(NEIGHBOUR * beside(activity.sum(-1, keepdim=True)) / channels)
        total = total + mean + OWN * beside(activity)
        count = count + (NEIGHBOUR + OWN) * beside(everywhere)
    return torch.bucketize(total / count, torch.tensor(EDGES, device=symbols.device))


def _left(values: Tensor) -> Tensor:
    return F.pad(values, (0, 0, 1, 0))[:, :, :-1]


def _above(values: Tensor) -> Tensor:
    return F.pad(values, (0, 0, 0, 0, 1, 0))[:, :-1]
