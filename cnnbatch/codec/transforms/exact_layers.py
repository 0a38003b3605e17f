"""Exact nets of integers that are not trained any more: what is coded with, built from `integer_layers` and immutable."""

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnbatch.codec.geometry import Array
from cnnbatch.codec.runtime.levels import ZERO_POINT
from cnnbatch.codec.runtime.onednn import Output, PackedLayer, cpu_has_int8, packed, product_of_integers
from cnnbatch.codec.transforms.integer_arrays import IntegerArrays, IntegerMatrix
from cnnbatch.codec.transforms.integer_kernels import ACTIVATION_UNIT, depthwise_requantised, fill_indexes
from cnnbatch.codec.transforms.integer_layers import (
    IntegerBlock,
    IntegerLinear,
    IntegerNet,
    compiles,
    requantise,
    shifted_adds,
    unit_of,
)
from cnnbatch.codec.transforms.layers import depth_to_space


class ExactLinear:
    """An `IntegerLinear` that is not trained any more: products of integers on a CPU, of eight bits if it has them, else of 16;
    elsewhere of float32."""

    def __init__(self, layer: IntegerLinear) -> None:
        self.weight, self.bias = (part.detach() for part in layer.quantised())
        self.input_unit = layer.input_unit
        self._packed: PackedLayer | None = None
        self._matrix: IntegerMatrix | None = None
        if _in_16_bits(layer):
            arrays = _arrays({"layer": layer})
            self._matrix = IntegerMatrix(arrays, "layer", input_unit=layer.input_unit, input_max=layer.input_max)
        elif _on_cpu(layer):
            integers = layer.integers()
            self._packed = packed(integers.weight, unit_of(integers.shift), self.bias)

    def __call__(self, x: Tensor) -> Tensor:
        """[N, H, W, inputs], or int16 of them in input units → [N, H, W, outputs]."""
        if x.dtype == torch.int16:
            rows = cast(IntegerMatrix, self._matrix).floats(x.flatten(0, -2).numpy())
            return torch.from_numpy(rows).reshape(*x.shape[:-1], -1)
        if self._packed is None:
            return F.linear(x, self.weight, self.bias)
        zero = 0 if self.input_unit == ACTIVATION_UNIT else ZERO_POINT  # only ẑ can be below zero
        levels = torch.add(x.flatten(0, -2) / self.input_unit, zero).to(torch.uint8)
        return product_of_integers(levels, self.input_unit, zero, self._packed, Output()).reshape(*x.shape[:-1], -1)


class ExactBlock:
    """An `IntegerBlock` that is not trained any more."""

    def __init__(self, block: IntegerBlock) -> None:
        self._weight, self._bias = (part.detach() for part in block.depthwise.quantised())
        self._taps = self._weight.T.contiguous()
        self._pointwise = ExactLinear(block.pointwise)

    def __call__(self, x: Tensor) -> Tensor:
        """[N, H, W, C] → the same shape."""
        return requantise(x + self._pointwise(self._filtered(x)))

    def _filtered(self, x: Tensor) -> Tensor:
        """The depthwise layer, requantised: on a CPU in one pass over memory instead of twenty."""
        if not compiles(x):
            return requantise(shifted_adds(x, self._weight, self._bias))
        out = torch.empty_like(x)
        depthwise_requantised(F.pad(x, (0, 0, 1, 1, 1, 1)).numpy(), self._taps.numpy(), self._bias.numpy(), out.numpy())
        return out


class ExactNet:
    """An `IntegerNet` that is not trained any more, on the device where its weights are."""

    def __init__(self, net: IntegerNet) -> None:
        blocks_16 = [block for block in net.block_16.modules() if isinstance(block, IntegerBlock)]
        self._enter, self._grow, self.leave = (ExactLinear(layer) for layer in (net.enter, net.grow, net.leave))
        self._block_32, self._blocks_16 = ExactBlock(net.block_32), [ExactBlock(block) for block in blocks_16]
        named = {f"net.{name}": layer for name, layer in net.named_modules() if isinstance(layer, IntegerLinear)}
        self._compiled = IntegerArrays(_arrays(named), "net") if _in_16_bits(net.enter) else None

    @torch.inference_mode()
    def __call__(self, z_hat: Tensor) -> Tensor:
        """The result of the `IntegerNet`."""
        with torch.autocast(z_hat.device.type, enabled=False):
            return self.leave(self.features(z_hat))

    @torch.inference_mode()
    def features(self, z_hat: Tensor) -> Tensor:
        """Inputs of the last layer, ``leave``; int16 in units of activations where that is what it takes."""
        if self._compiled is not None:
            n, h, w, _ = z_hat.shape
            rows = [self._compiled.features(one)[: 16 * h * w, : self._compiled.channels] for one in z_hat.short().numpy()]
            return torch.from_numpy(np.stack(rows)).reshape(n, 4 * h, 4 * w, -1)
        with torch.autocast(z_hat.device.type, enabled=False):
            x = depth_to_space(requantise(self._enter(z_hat)), 2)
            x = depth_to_space(requantise(self._grow(self._block_32(x))), 2)
            for block in self._blocks_16:
                x = block(x)
            return x


def _on_cpu(layer: IntegerLinear) -> bool:
    return layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32


def _in_16_bits(layer: IntegerLinear) -> bool:
    return _on_cpu(layer) and not cpu_has_int8()


def _arrays(layers: Mapping[str, IntegerLinear]) -> dict[str, Array]:
    """The layers as a codec file has them."""
    parts = ((name, layer.integers()._asdict()) for name, layer in layers.items())
    return {f"{name}.{part}": values.cpu().numpy() for name, of_layer in parts for part, values in of_layer.items()}


def indexes_of(positions: Tensor, offsets: Tensor, num_scales: int) -> Tensor:
    """Rounds the scale net's result [N, a, b, M], with ``offsets`` [N, M] of the quality, to scale indexes, uint8."""
    if not compiles(positions):
        rounded = torch.floor(positions + 0.5) + offsets[:, None, None, :]
        return rounded.clamp_(0, num_scales - 1).to(torch.uint8)
    indexes = torch.empty(positions.shape, dtype=torch.uint8)
    fill_indexes(positions.numpy(), offsets.numpy(), np.float32(num_scales - 1), indexes.numpy())
    return indexes
