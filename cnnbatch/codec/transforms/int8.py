"""int8 inference of the synthesis: products of integers, four times as fast as float32 on a CPU with VNNI.

What a 1×1 layer reads is rounded to 256 levels. Their distance, the *activation scale* s, depends on the quality; weights are
integers |w| ≤ 127 times a scale for each output (affine quantisation: Jacob et al., CVPR 2018, arXiv 1712.05877):

    t = clamp(round(x ÷ s + zero point), 0, 255)
    y = Σ (t − zero point) · w · (s · weight scale) + bias

The zero point is 128, or 64 behind a hard swish, which is never below −⅜. Sums of products are whole numbers below 2²⁴, which
float32 holds, too: other devices compute the same with products of floats. Where a value lies between two levels, rounding
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
        native = weight.device.type == "cpu" and cpu_has_int8()
        self.packed = packed(self.weight, self.weight_scales, self.bias) if native else None

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        """Float32 [N, H, W, inputs] → [N, H, W, outputs]."""
        if x.device.type != "cpu":
            return self.of_levels(torch.round(x / scale[:, None, None, None]).clamp_(-self.zero, LEVEL_MAX - self.zero), scale)
        values = x.flatten(1, 2).numpy()
        levels = self.buffer(values.shape)
        _round(values, (1 / scale).numpy(), np.float32(self.zero), self.offset, levels)
        return self.of_levels(torch.from_numpy(levels).reshape(x.shape), scale)

    @property
    def offset(self) -> np.float32:
        """Taken off levels on a CPU before they are kept; 0 in uint8."""
        return np.float32(0 if self.packed is not None else self.zero)

    def buffer(self, shape: Sequence[int]) -> npt.NDArray[Any]:
        """Where a CPU writes levels less `offset`: uint8 if it multiplies integers, else float32."""
        return np.empty(shape, np.uint8 if self.packed is not None else np.float32)

    def of_levels(self, levels: Tensor, scale: Tensor) -> Tensor:
        """``levels`` as `buffer` holds them; on other devices float32 less ``zero``."""
        if self.packed is None:
            return F.linear(levels, self.weight).mul_(self.weight_scales).mul_(scale[:, None, None, None]).add_(self.bias)
        return _joined([self._native(part, s, Output()) for part, s in _by_scale(levels, scale)])

    def to_hidden_levels(self, levels: Tensor, scale: Tensor, hidden_scale: Tensor) -> Tensor:
        """`of_levels`, then a hard swish, rounded to levels of ``hidden_scale`` with `HIDDEN_ZERO_POINT`."""
        if self.packed is not None:
            parts = _by_scale(levels, torch.stack([scale, hidden_scale], 1))
            swish = [(part, s[0], Output(float(s[1]), HIDDEN_ZERO_POINT, torch.uint8, "hardswish")) for part, s in parts]
            return _joined([self._native(*one) for one in swish])
        hidden = F.linear(levels, self.weight)
        if hidden.device.type == "cpu":
            arrays = (a.numpy() for a in (hidden.flatten(1, 2), scale, 1 / hidden_scale, self.weight_scales, self.bias))
            _swish_and_round(*arrays)
            return hidden
        hidden = F.hardswish(hidden.mul_(self.weight_scales).mul_(scale[:, None, None, None]).add_(self.bias))
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
        hidden = self.expand.to_hidden_levels(self._levels(x, scale), scale, hidden_scale)
        return x.add_(self.project.of_levels(hidden, hidden_scale))

    def _levels(self, x: Tensor, scale: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return torch.round(self.block.filtered(x) / scale[:, None, None, None]).clamp_(-ZERO_POINT, LEVEL_MAX - ZERO_POINT)
        levels = self.expand.buffer(x.shape)
        values, filters = x.contiguous().numpy(), (self.taps.numpy(), self.bias.numpy())
        _filter_and_round(values, *filters, (1 / scale).numpy(), self.expand.offset, levels)
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
def _round(x, per_scale, zero, offset, levels):  # type: ignore[no-untyped-def]
    images, positions, channels = x.shape
    for n in range(images):
        scale = per_scale[n]
        for i in range(positions):
            for c in range(channels):
                levels[n, i, c] = _level(x[n, i, c] * scale, zero) - offset


@numba.njit(nogil=True, cache=True)
def _into_middle(line, row):  # type: ignore[no-untyped-def]
    """Slices would take seconds more to compile, for the message of an error."""
    for j in range(line.shape[0]):
        for c in range(line.shape[1]):
            row[1 + j, c] = line[j, c]


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def _filter_and_round(x, taps, bias, per_scale, offset, levels):  # type: ignore[no-untyped-def]
    """Depthwise 3×3 with zero padding; three rows at a time lie in a buffer with a border of zeros."""
    images, height, width, channels = x.shape
    rows = np.zeros((3, width + 2, channels), np.float32)
    for n in range(images):
        scale = per_scale[n]
        rows[0] = 0
        _into_middle(x[n, 0], rows[1])
        for i in range(height):
            above, here, below = rows[i % 3], rows[(i + 1) % 3], rows[(i + 2) % 3]
            if i + 1 < height:
                _into_middle(x[n, i + 1], below)
            else:
                below[:] = 0
            for j in range(width):
                for c in range(channels):
                    total = bias[c]
                    for b in range(3):
                        total += above[j + b, c] * taps[b, c]
                        total += here[j + b, c] * taps[3 + b, c]
                        total += below[j + b, c] * taps[6 + b, c]
                    levels[n, i, j, c] = _level(total * scale, np.float32(ZERO_POINT)) - offset


@numba.njit(nogil=True, cache=True)
def _swish_and_round(sums, scale, per_hidden_scale, weight_scales, bias):  # type: ignore[no-untyped-def]
    """In place: sums of products to levels less `HIDDEN_ZERO_POINT`, in the order in which oneDNN rounds."""
    images, positions, channels = sums.shape
    sixth, half, zero = np.float32(1 / 6), np.float32(0.5), np.float32(HIDDEN_ZERO_POINT)
    for n in range(images):
        for i in range(positions):
            for c in range(channels):
                v = sums[n, i, c] * weight_scales[c] * scale[n] + bias[c]
                v *= min(max(v * sixth + half, np.float32(0)), np.float32(1))
                sums[n, i, c] = _level(v * per_hidden_scale[n], zero) - zero
