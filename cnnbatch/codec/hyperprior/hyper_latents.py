"""What the hyper-latents tell of each other, in integers only: each is predicted, and its scale follows how busy it is around.

ẑ takes an eighth of all bits at low quality. A symbol is ẑ less a prediction from the places left, above, above left and above
right in its own channel; and where magnitudes are above what their scales expect, beside it and in the channels before it at
the same place, its scale index rises. A wrong index would destroy everything behind it, so nothing here is float: what a
decoder needs are the integer tables of the codec file (`HyperTables`), and any machine finds the same.

`HyperContext` is the same arithmetic over tensors for training, exact as well, because all of its sums stay below 2²⁴.

Shapes: a × b hyper-latent positions of one tile, C channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbatch.codec.entropy_coding.rans import Decoder, next_symbol
from cnnbatch.codec.entropy_coding.tables import Indexes, Symbols
from cnnbatch.codec.transforms.integer_layers import Z_MAX, round_half_up
from cnnbatch.codec.transforms.layers import neighbours

WEIGHT_UNIT = 64
"""A weight of 1 as an integer."""

WEIGHT_MAX = 127

UNIT = 256
"""Activity of a symbol that is as large as its scale index expects."""

MOST = 8 * UNIT
"""Activity of one symbol at most."""

PRIOR = 4
"""Symbols of usual size that an activity is averaged with."""

NEIGHBOUR = 16
"""Symbols that the mean activity of the place to the left counts for, and that of the place above."""

OWN = 4
"""Symbols that the same channel counts for, to the left and above."""

EDGES = (23, 27, 32, 38, 45, 54, 64, 76, 91, 108, 128, 152, 181, 215, 256, 304, 362, 431, 512, 609, 724)
"""Activities, as a mean over symbols in units of 1/`UNIT`, above which the next class begins: 2^(k/4), k from −14 to 6."""

SMALLEST = 0.05
"""Added to an expected magnitude, so that none is zero."""

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class HyperTables:
    """The integers of one codec file."""

    weights: Integers
    """[C, 4], of left, above, above left, above right, in units of 1/`WEIGHT_UNIT`."""
    shifts: Integers
    """[len(EDGES) + 1]: what each class of activity adds to the scale index."""
    inverse: Integers
    """[num_scales]: `UNIT` over the magnitude that a scale index expects."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "HyperTables":
        """Of the arrays of a codec file."""
        weights, shifts, inverse = (arrays[f"hyper_context.{n}_table"].astype(np.int64) for n in ("weight", "shift", "inverse"))
        return cls(weights, shifts, inverse)

    def encode(self, z: Symbols, static: Indexes) -> tuple[Symbols, Indexes]:
        """ẑ int16 [a, b, C] and the ``static`` scale index of each channel [C] → symbols and scale indexes [a·b·C]."""
        symbols, indexes = np.empty(z.shape, np.int16), np.empty(z.shape, np.uint8)
        _encode(z, symbols, indexes, static.astype(np.int64), self.weights, self.shifts, self.inverse)
        return symbols.ravel(), indexes.ravel()

    def decode(self, decoder: Decoder, shape: tuple[int, int], static: Indexes) -> Symbols:
        """The next ẑ int16 [a, b, C] of a stream; ``shape``: (a, b). Raises BitstreamError."""
        z = np.empty((*shape, len(static)), np.int16)
        tables = (static.astype(np.int64), self.weights, self.shifts, self.inverse)
        decoder.decode_by(_decode, z, *tables)
        return z


def inverse_magnitudes(scale_range: tuple[float, float], num_scales: int) -> Integers:
    """[num_scales]: see `HyperTables.inverse`; of zero-mean Gaussians with log-spaced scales."""
    expected = np.geomspace(*scale_range, num_scales) * np.sqrt(2 / np.pi)
    inverse: Integers = np.floor(UNIT / (expected + SMALLEST) + 0.5).astype(np.int64)
    return inverse


@numba.njit(nogil=True, cache=True)
def _predicted(z, i, j, c, weights):  # type: ignore[no-untyped-def]
    """Rounded half up; nothing beyond the tile."""
    total = WEIGHT_UNIT // 2
    if j > 0:
        total += weights[c, 0] * z[i, j - 1, c]
    if i > 0:
        total += weights[c, 1] * z[i - 1, j, c]
    if i > 0 and j > 0:
        total += weights[c, 2] * z[i - 1, j - 1, c]
    if i > 0 and j + 1 < z.shape[1]:
        total += weights[c, 3] * z[i - 1, j + 1, c]
    return total // WEIGHT_UNIT


@numba.njit(nogil=True, cache=True)
def _around(activity, i, j, channels):  # type: ignore[no-untyped-def]
    """(sum of activities, number of symbols that it stands for) before the first channel of a place.

    ``activity`` [a, b, C + 1]: of each symbol, and at the end their sum.
    """
    total, count = PRIOR * UNIT, PRIOR
    if j > 0:
        total += NEIGHBOUR * activity[i, j - 1, channels] // channels
        count += NEIGHBOUR
    if i > 0:
        total += NEIGHBOUR * activity[i - 1, j, channels] // channels
        count += NEIGHBOUR
    return total, count


@numba.njit(nogil=True, cache=True)
def _index(activity, place, around, static, shifts, num_scales):  # type: ignore[no-untyped-def]
    """The scale index of the symbol at ``place``; ``around``: see `_around`."""
    (i, j, c), (total, count) = place, around
    total += activity[i, j, -1]
    count += c
    if j > 0:
        total += OWN * activity[i, j - 1, c]
        count += OWN
    if i > 0:
        total += OWN * activity[i - 1, j, c]
        count += OWN
    number = 0
    while number < len(EDGES) and total > count * EDGES[number]:
        number += 1
    return min(max(static + shifts[number], 0), num_scales - 1)


@numba.njit(nogil=True, cache=True)
def _note(activity, i, j, c, symbol, inverse):  # type: ignore[no-untyped-def]
    activity[i, j, c] = min(abs(symbol) * inverse, MOST)
    activity[i, j, -1] += activity[i, j, c]


@numba.njit(nogil=True, cache=True)
def _encode(z, symbols, indexes, static, weights, shifts, inverse):  # type: ignore[no-untyped-def]
    rows, columns, channels = z.shape
    activity = np.zeros((rows, columns, channels + 1), np.int64)
    for i in range(rows):
        for j in range(columns):
            around = _around(activity, i, j, channels)
            for c in range(channels):
                indexes[i, j, c] = _index(activity, (i, j, c), around, static[c], shifts, len(inverse))
                symbols[i, j, c] = z[i, j, c] - _predicted(z, i, j, c, weights)
                _note(activity, i, j, c, np.int64(symbols[i, j, c]), inverse[static[c]])


@numba.njit(nogil=True, cache=True)
def _decode(z, static, weights, shifts, inverse, stream, position):  # type: ignore[no-untyped-def]
    """A `Decoder.decode_by` loop."""
    rows, columns, channels = z.shape
    activity = np.zeros((rows, columns, channels + 1), np.int64)
    for i in range(rows):
        for j in range(columns):
            around = _around(activity, i, j, channels)
            for c in range(channels):
                index = _index(activity, (i, j, c), around, static[c], shifts, len(inverse))
                symbol, position = next_symbol(index, stream, position)
                if position < 0:
                    return position
                value = symbol + _predicted(z, i, j, c, weights)
                if abs(value) > Z_MAX:
                    return -2
                z[i, j, c] = value
                _note(activity, i, j, c, symbol, inverse[static[c]])
    return position


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
