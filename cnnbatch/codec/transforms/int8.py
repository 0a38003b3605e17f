"""int8 inference of the synthesis: products of integers, four times as fast as float32 on a CPU with VNNI, twice without.

What a 1×1 layer reads is rounded to 256 levels. Their distance, the *activation scale* s, depends on the quality; weights are
integers |w| ≤ 127 times a scale for each output (affine quantisation: Jacob et al., CVPR 2018, arXiv 1712.05877):

    t = clamp(round(x ÷ s + zero point), 0, 255)
    y = Σ (t − zero point) · w · (s · weight scale) + bias

The zero point is 128, or 64 behind a hard swish, which is never below −⅜. Sums of products are whole numbers below 2²⁴, which
float32 holds, too: other devices compute the same with products of floats, and CPUs without VNNI with pairs of 16 bits, a block
at a time (`cnnbatch.codec.transforms.products`). Where a value lies between two levels, rounding
of what comes before may choose the other one elsewhere, which moves one pixel in a thousand by a grey level.

Shapes: N images, H × W positions, C channels; every tensor is [N, H, W, C], activation scales are [N].
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, cast

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbatch.codec.runtime.levels import LEVEL_MAX, WEIGHT_MAX, ZERO_POINT
from cnnbatch.codec.runtime.onednn import Output, PackedLayer, cpu_has_int8, packed, product_of_integers
from cnnbatch.codec.transforms.layers import Block
from cnnbatch.codec.transforms.products import AT_ONCE, multiply, panels
from cnnbatch.codec.transforms.quality import FixedCurve, QualityCurve

HIDDEN_ZERO_POINT: Final = 64


class Int8Linear:
    """A 1×1 layer without gradients; an output without weights has the weight scale 1."""

    def __init__(self, layer: nn.Linear, *, zero: int = ZERO_POINT) -> None:
        weight = layer.weight.detach().float()
        largest = weight.abs().amax(1)
        self.zero, self.bias = zero, layer.bias.detach().float()
        self.weight_scales = torch.where(largest > 0, largest / WEIGHT_MAX, 1.0)
        self.weight = torch.round(weight / self.weight_scales[:, None]).clamp(-WEIGHT_MAX, WEIGHT_MAX)
        on_cpu = weight.device.type == "cpu"
        native = on_cpu and cpu_has_int8()
        self.packed = packed(self.weight, self.weight_scales, self.bias) if native else None
        self.panels = panels(self.weight.T.numpy().astype(np.int16)) if on_cpu and not native else None

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        """Float32 [N, H, W, inputs] → [N, H, W, outputs]."""
        if x.device.type != "cpu":
            return self.of_levels(torch.round(x / scale[:, None, None, None]).clamp_(-self.zero, LEVEL_MAX - self.zero), scale)
        values = x.flatten(1, 2).numpy()
        if self.packed is None:
            out = torch.empty(*x.shape[:-1], len(self.bias))
            _layer(values, (1 / scale).numpy(), np.float32(self.zero), *self.arrays(scale), out.flatten(1, 2).numpy())
            return out
        levels = np.empty(values.shape, np.uint8)
        _round(values, (1 / scale).numpy(), np.float32(self.zero), levels)
        return self.of_levels(torch.from_numpy(levels).reshape(x.shape), scale)

    def arrays(self, scale: Tensor) -> tuple[npt.NDArray[Any], ...]:
        """Arrays that compiled loops need where the CPU has no product of eight-bit integers."""
        return cast(npt.NDArray[Any], self.panels), self.weight_scales.numpy(), scale.numpy(), self.bias.numpy()

    def of_levels(self, levels: Tensor, scale: Tensor) -> Tensor:
        """``levels`` uint8; on other devices float32 less ``zero``."""
        if self.packed is None:
            return F.linear(levels, self.weight).mul_(self.weight_scales).mul_(scale[:, None, None, None]).add_(self.bias)
        return _joined([self._native(part, s, Output()) for part, s in _by_scale(levels, scale)])

    def to_hidden_levels(self, levels: Tensor, scale: Tensor, hidden_scale: Tensor) -> Tensor:
        """`of_levels`, then a hard swish, rounded to levels of ``hidden_scale`` with `HIDDEN_ZERO_POINT`."""
        if self.packed is not None:
            parts = _by_scale(levels, torch.stack([scale, hidden_scale], 1))
            swish = [(part, s[0], Output(float(s[1]), HIDDEN_ZERO_POINT, torch.uint8, "hardswish")) for part, s in parts]
            return _joined([self._native(*one) for one in swish])
        hidden = F.linear(levels, self.weight).mul_(self.weight_scales).mul_(scale[:, None, None, None]).add_(self.bias)
        hidden = F.hardswish(hidden)
        return torch.round(hidden / hidden_scale[:, None, None, None]).clamp_(-HIDDEN_ZERO_POINT, LEVEL_MAX - HIDDEN_ZERO_POINT)

    def _native(self, levels: Tensor, scale: Tensor, output: Output) -> Tensor:
        """`product_of_integers` of images of one activation scale."""
        layer = cast(PackedLayer, self.packed)
        result = product_of_integers(levels.flatten(0, -2), float(scale), self.zero, layer, output)
        return result.reshape(*levels.shape[:-1], -1)


class Int8Block:
    """Computes a `Block` with a hard swish, without gradients."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.expand, self.project = Int8Linear(block.expand), Int8Linear(block.project, zero=HIDDEN_ZERO_POINT)
        self.taps = block.depthwise.weight.detach().flatten(1).T.contiguous()
        self.bias = cast(Tensor, block.depthwise.bias).detach()

    def __call__(self, x: Tensor, scale: Tensor, hidden_scale: Tensor) -> Tensor:
        """``x`` float32, which is overwritten → the same shape; scales of `expand` and of `project`."""
        if self.expand.panels is not None:
            values, filters = x.contiguous(), (self.taps.numpy(), self.bias.numpy(), (1 / scale).numpy())
            _block(
                values.numpy(),
                *filters,
                self.expand.arrays(scale),
                (1 / hidden_scale).numpy(),
                self.project.arrays(hidden_scale),
            )
            return values
        hidden = self.expand.to_hidden_levels(self._levels(x, scale), scale, hidden_scale)
        return x.add_(self.project.of_levels(hidden, hidden_scale))

    def _levels(self, x: Tensor, scale: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return torch.round(self.block.filtered(x) / scale[:, None, None, None]).clamp_(-ZERO_POINT, LEVEL_MAX - ZERO_POINT)
        levels = np.empty(x.shape, np.uint8)
        _filter_and_round(x.contiguous().numpy(), self.taps.numpy(), self.bias.numpy(), (1 / scale).numpy(), levels)
        return torch.from_numpy(levels)


class Int8Layers:
    """Layers and blocks of one network, with the logarithms of their activation scales: one of a layer, two of a block."""

    def __init__(self, layers: Sequence[nn.Linear | Block], scales: QualityCurve | FixedCurve) -> None:
        self.scales = scales
        self.rounded: dict[nn.Module, Int8Linear | Int8Block] = {}
        self.first_scale: dict[nn.Module, int] = {}
        count = 0
        for layer in layers:
            self.rounded[layer] = Int8Block(layer) if isinstance(layer, Block) else Int8Linear(layer)
            self.first_scale[layer] = count
            count += 2 if isinstance(layer, Block) else 1

    def at(self, quality: Tensor) -> "Int8LayersAt":
        """``quality`` [N]."""
        return Int8LayersAt(self, torch.exp(self.scales(quality)).flatten(1).unbind(1))


class Int8LayersAt(NamedTuple):
    """The same at the qualities of N images."""

    network: Int8Layers
    scales: Sequence[Tensor]

    def linear(self, layer: nn.Linear, x: Tensor) -> Tensor:
        """[N, H, W, inputs] → [N, H, W, outputs]."""
        return cast(Int8Linear, self.network.rounded[layer])(x, self.scales[self.network.first_scale[layer]])

    def blocks(self, sequence: nn.Sequential, x: Tensor) -> Tensor:
        """Blocks one after the other; overwrites ``x``."""
        for block in sequence:
            first = self.network.first_scale[block]
            x = cast(Int8Block, self.network.rounded[block])(x, *self.scales[first : first + 2])
        return x


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _by_scale(levels: Tensor, scales: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and their scales, all at once where they are the same."""
    if bool((scales == scales[0]).all()):
        yield levels, scales[0]
    else:
        yield from zip(torch.split(levels, 1), scales, strict=True)


@numba.njit(nogil=True, cache=True)
def _level(value, zero):  # type: ignore[no-untyped-def]
    return min(max(np.rint(value + zero), np.float32(0)), np.float32(LEVEL_MAX))


@numba.njit(nogil=True, cache=True)
def _round(x, per_scale, zero, levels):  # type: ignore[no-untyped-def]
    images, positions, channels = x.shape
    for n in range(images):
        scale = per_scale[n]
        for i in range(positions):
            for c in range(channels):
                levels[n, i, c] = _level(x[n, i, c] * scale, zero)


@numba.njit(nogil=True, cache=True)
def _layer(x, per_scale, zero, right, weight_scales, scale, bias, out):  # type: ignore[no-untyped-def]
    """Some rows of [N, positions, inputs] at a time: their levels less ``zero``, sums of products, and what those stand for."""
    images, positions, channels = x.shape
    levels = np.zeros((AT_ONCE, 2 * right.shape[1]), np.int16)
    sums = np.empty((AT_ONCE, right.shape[0] * right.shape[2]), np.int32)
    for n in range(images):
        for first in range(0, positions, AT_ONCE):
            rows = min(AT_ONCE, positions - first)
            for i in range(rows):
                for c in range(channels):
                    levels[i, c] = _level(x[n, first + i, c] * per_scale[n], zero) - zero
            multiply(levels, right, sums)
            for i in range(rows):
                for c in range(len(bias)):
                    out[n, first + i, c] = np.float32(sums[i, c]) * weight_scales[c] * scale[n] + bias[c]


@numba.njit(nogil=True, cache=True)
def _into_middle(line, row):  # type: ignore[no-untyped-def]
    """Slices would take seconds more to compile, for the message of an error."""
    for j in range(line.shape[0]):
        for c in range(line.shape[1]):
            row[1 + j, c] = line[j, c]


@numba.njit(nogil=True, cache=True)
def _shift(lines, i, rows):  # type: ignore[no-untyped-def]
    """The rows above, at and below row ``i`` of a picture, zero beyond it, in a buffer of three that has the first two."""
    above, here, below = rows[i % 3], rows[(i + 1) % 3], rows[(i + 2) % 3]
    if i == 0:
        above[:] = 0
        _into_middle(lines[0], here)
    if i + 1 < len(lines):
        _into_middle(lines[i + 1], below)
    else:
        below[:] = 0
    return above, here, below


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def _filter_row(around, taps, bias, scale, offset, levels):  # type: ignore[no-untyped-def]
    """Depthwise 3×3 of one row [W, C], with a border of zeros ``around`` it, to levels less ``offset``."""
    above, here, below = around
    for j in range(above.shape[0] - 2):
        for c in range(above.shape[1]):
            total = bias[c]
            for b in range(3):
                total += above[j + b, c] * taps[b, c]
                total += here[j + b, c] * taps[3 + b, c]
                total += below[j + b, c] * taps[6 + b, c]
            levels[j, c] = _level(total * scale, np.float32(ZERO_POINT)) - offset


@numba.njit(nogil=True, cache=True)
def _filter_and_round(x, taps, bias, per_scale, levels):  # type: ignore[no-untyped-def]
    images, height, width, channels = x.shape
    rows = np.zeros((3, width + 2, channels), np.float32)
    for n in range(images):
        for i in range(height):
            _filter_row(_shift(x[n], i, rows), taps, bias, per_scale[n], np.float32(0), levels[n, i])


@numba.njit(nogil=True, cache=True)
def _block(x, taps, bias, per_scale, expand, per_hidden_scale, project):  # type: ignore[no-untyped-def]
    """A block, in ``x`` itself, row by row and some positions of it at a time, in the order in which oneDNN rounds."""
    images, height, width, channels = x.shape
    (right, _, _, _), (back, weight_scales, scale, project_bias) = expand, project
    rows = np.zeros((3, width + 2, channels), np.float32)
    levels = np.zeros((-(-width // AT_ONCE) * AT_ONCE, 2 * right.shape[1]), np.int16)
    sums = np.empty((AT_ONCE, right.shape[0] * right.shape[2]), np.int32)
    hidden = np.zeros((AT_ONCE, 2 * back.shape[1]), np.int16)
    added = np.empty((AT_ONCE, back.shape[0] * back.shape[2]), np.int32)
    for n in range(images):
        for i in range(height):
            _filter_row(_shift(x[n], i, rows), taps, bias, per_scale[n], np.float32(ZERO_POINT), levels)
            for first in range(0, width, AT_ONCE):
                multiply(levels[first : first + AT_ONCE], right, sums)
                _swish_and_round(sums, expand, n, per_hidden_scale[n], hidden)
                multiply(hidden, back, added)
                for j in range(min(AT_ONCE, width - first)):
                    for c in range(channels):
                        value = np.float32(added[j, c]) * weight_scales[c] * scale[n] + project_bias[c]
                        x[n, i, first + j, c] += value


@numba.njit(nogil=True, cache=True)
def _swish_and_round(sums, layer, n, per_hidden_scale, hidden):  # type: ignore[no-untyped-def]
    """Sums of products of image ``n`` to levels less `HIDDEN_ZERO_POINT`."""
    _, weight_scales, scale, bias = layer
    sixth, half, zero = np.float32(1 / 6), np.float32(0.5), np.float32(HIDDEN_ZERO_POINT)
    for i in range(len(sums)):
        for c in range(len(bias)):
            v = np.float32(sums[i, c]) * weight_scales[c] * scale[n] + bias[c]
            v *= min(max(v * sixth + half, np.float32(0)), np.float32(1))
            hidden[i, c] = _level(v * per_hidden_scale, zero) - zero
