"""Layers of the synthesis in eight bits: products of integers, four times as fast as float32 on a CPU with VNNI.

What a 1×1 layer reads is rounded to 256 levels. Their distance, its *step*, depends on the quality; weights are integers
|w| ≤ 127 times a scale for each output (the usual scheme, cf. Jacob et al., CVPR 2018, arXiv 1712.05877):

    t = clamp(round(x ÷ step + zero), 0, 255)
    y = Σ (t − zero) · w · (step · scale) + bias

``zero`` is 128, or 64 behind a hard swish, which is never below −⅜. Sums of products are whole numbers below 2²⁴, which
float32 holds, too: other devices compute the same with products of floats. Where a value lies between two levels, rounding
of what comes before may choose the other one elsewhere, which moves one pixel in a thousand by a grey level.

Shapes: N images, H × W positions, C channels; every tensor is [N, H, W, C], steps are [N].
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, cast

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbatch.codec.runtime.onednn import LEVEL_MAX, WEIGHT_MAX, ZERO, cpu_has_int8, product_of_integers
from cnnbatch.codec.transforms.layers import Block
from cnnbatch.codec.transforms.quality import QualityCurve

HIDDEN_ZERO: Final = 64


class EightBitLinear:
    """A 1×1 layer without gradients; an output without weights has scale 1."""

    def __init__(self, layer: nn.Linear, *, zero: int = ZERO) -> None:
        weight = layer.weight.detach().float()
        largest = weight.abs().amax(1)
        self.zero, self.bias = zero, layer.bias.detach().float()
        self.scales = torch.where(largest > 0, largest / WEIGHT_MAX, 1.0)
        self.weight = torch.round(weight / self.scales[:, None]).clamp(-WEIGHT_MAX, WEIGHT_MAX)
        native = weight.device.type == "cpu" and cpu_has_int8()
        self.packed = torch.ops.onednn.qlinear_prepack(self.weight.to(torch.int8), None) if native else None

    def __call__(self, x: Tensor, step: Tensor) -> Tensor:
        """Float32 [N, H, W, inputs] → [N, H, W, outputs]."""
        if x.device.type != "cpu":
            return self.of_levels(torch.round(x / step[:, None, None, None]).clamp_(-self.zero, LEVEL_MAX - self.zero), step)
        values = x.flatten(1, 2).numpy()
        levels = self.buffer(values.shape)
        _round(values, (1 / step).numpy(), np.float32(self.zero), self.offset, levels)
        return self.of_levels(torch.from_numpy(levels).reshape(x.shape), step)

    @property
    def offset(self) -> np.float32:
        """What is taken off levels on a CPU before they are kept: nothing in uint8."""
        return np.float32(0 if self.packed is not None else self.zero)

    def buffer(self, shape: Sequence[int]) -> npt.NDArray[Any]:
        """Where a CPU writes levels less `offset`: uint8 if it multiplies integers, else float32."""
        return np.empty(shape, np.uint8 if self.packed is not None else np.float32)

    def of_levels(self, levels: Tensor, step: Tensor) -> Tensor:
        """``levels`` as `buffer` holds them; on other devices float32 less ``zero``."""
        if self.packed is None:
            return F.linear(levels, self.weight).mul_(self.scales).mul_(step[:, None, None, None]).add_(self.bias)
        return _joined([self._native(part, s, torch.float32, 1.0, "none") for part, s in _by_step(levels, step)])

    def to_hidden_levels(self, levels: Tensor, step: Tensor, hidden_step: Tensor) -> Tensor:
        """`of_levels`, then a hard swish, rounded to levels of ``hidden_step`` with `HIDDEN_ZERO`."""
        if self.packed is not None:
            parts = _by_step(levels, torch.stack([step, hidden_step], 1))
            return _joined([self._native(part, s[0], torch.uint8, float(s[1]), "hardswish") for part, s in parts])
        hidden = F.linear(levels, self.weight)
        if hidden.device.type == "cpu":
            arrays = (a.numpy() for a in (hidden.flatten(1, 2), step, 1 / hidden_step, self.scales, self.bias))
            _swish_and_round(*arrays)
            return hidden
        hidden = F.hardswish(hidden.mul_(self.scales).mul_(step[:, None, None, None]).add_(self.bias))
        return torch.round(hidden / hidden_step[:, None, None, None]).clamp_(-HIDDEN_ZERO, LEVEL_MAX - HIDDEN_ZERO)

    def _native(self, levels: Tensor, step: Tensor, kind: torch.dtype, out_step: float, then: str) -> Tensor:
        """`product_of_integers` of images of one step."""
        zero = HIDDEN_ZERO if kind == torch.uint8 else 0
        weights = (cast(Tensor, self.packed), self.scales, self.bias)
        out = product_of_integers(levels.flatten(0, -2), float(step), self.zero, *weights, out_step, zero, kind, then)
        return out.reshape(*levels.shape[:-1], -1)


class EightBitBlock:
    """What a `Block` with a hard swish computes, without gradients."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.expand, self.project = EightBitLinear(block.expand), EightBitLinear(block.project, zero=HIDDEN_ZERO)
        self.taps = block.depthwise.weight.detach().flatten(1).T.contiguous()
        self.bias = cast(Tensor, block.depthwise.bias).detach()

    def __call__(self, x: Tensor, step: Tensor, hidden_step: Tensor) -> Tensor:
        """``x`` float32, which is overwritten → the same shape; steps of `expand` and of `project`."""
        hidden = self.expand.to_hidden_levels(self._levels(x, step), step, hidden_step)
        return x.add_(self.project.of_levels(hidden, hidden_step))

    def _levels(self, x: Tensor, step: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return torch.round(self.block.filtered(x) / step[:, None, None, None]).clamp_(-ZERO, LEVEL_MAX - ZERO)
        levels = self.expand.buffer(x.shape)
        values, filters = x.contiguous().numpy(), (self.taps.numpy(), self.bias.numpy())
        _filter_and_round(values, *filters, (1 / step).numpy(), self.expand.offset, levels)
        return torch.from_numpy(levels)


class EightBitLayers:
    """Layers and blocks of one network, with the logarithms of their steps: one for each layer, two for each block."""

    def __init__(self, layers: Sequence[nn.Linear | Block], steps: QualityCurve) -> None:
        self.steps = steps
        self.rounded: dict[nn.Module, EightBitLinear | EightBitBlock] = {}
        self.first_step: dict[nn.Module, int] = {}
        count = 0
        for layer in layers:
            self.rounded[layer] = EightBitBlock(layer) if isinstance(layer, Block) else EightBitLinear(layer)
            self.first_step[layer] = count
            count += 2 if isinstance(layer, Block) else 1

    def at(self, quality: Tensor) -> "EightBitsAt":
        """``quality`` [N]."""
        return EightBitsAt(self, torch.exp(self.steps(quality)).flatten(1).unbind(1))


class EightBitsAt(NamedTuple):
    """The same at the qualities of N images."""

    network: EightBitLayers
    steps: Sequence[Tensor]

    def linear(self, layer: nn.Linear, x: Tensor) -> Tensor:
        """[N, H, W, inputs] → [N, H, W, outputs]."""
        return cast(EightBitLinear, self.network.rounded[layer])(x, self.steps[self.network.first_step[layer]])

    def blocks(self, sequence: nn.Sequential, x: Tensor) -> Tensor:
        """Blocks one after the other; overwrites ``x``."""
        for block in sequence:
            first = self.network.first_step[block]
            x = cast(EightBitBlock, self.network.rounded[block])(x, *self.steps[first : first + 2])
        return x


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _by_step(levels: Tensor, steps: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and their steps, all at once where they are the same."""
    if bool((steps == steps[0]).all()):
        yield levels, steps[0]
    else:
        yield from zip(torch.split(levels, 1), steps, strict=True)


@numba.njit(nogil=True, cache=True)
def _level(value, zero):  # type: ignore[no-untyped-def]
    return min(max(np.rint(value + zero), np.float32(0)), np.float32(LEVEL_MAX))


@numba.njit(nogil=True, cache=True)
def _round(x, per_step, zero, offset, levels):  # type: ignore[no-untyped-def]
    images, positions, channels = x.shape
    for n in range(images):
        scale = per_step[n]
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
def _filter_and_round(x, taps, bias, per_step, offset, levels):  # type: ignore[no-untyped-def]
    """Depthwise 3×3 with zero padding; three rows at a time lie in a buffer with a border of zeros."""
    images, height, width, channels = x.shape
    rows = np.zeros((3, width + 2, channels), np.float32)
    for n in range(images):
        scale = per_step[n]
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
                    levels[n, i, j, c] = _level(total * scale, np.float32(ZERO)) - offset


@numba.njit(nogil=True, cache=True)
def _swish_and_round(sums, step, per_hidden_step, scales, bias):  # type: ignore[no-untyped-def]
    """In place: sums of products to levels less `HIDDEN_ZERO`, in the order in which oneDNN rounds."""
    images, positions, channels = sums.shape
    sixth, half, zero = np.float32(1 / 6), np.float32(0.5), np.float32(HIDDEN_ZERO)
    for n in range(images):
        for i in range(positions):
            for c in range(channels):
                v = sums[n, i, c] * scales[c] * step[n] + bias[c]
                v *= min(max(v * sixth + half, np.float32(0)), np.float32(1))
                sums[n, i, c] = _level(v * per_hidden_step[n], zero) - zero
