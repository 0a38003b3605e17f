"""Exact nets of integers: ẑ → scale indexes, and ẑ → means before their gain, the same on every machine.

The entropy decoder needs the very scale indexes that the encoder used, or everything after the first difference is
garbage (Ballé et al., "Integer networks for data compression with latent-variable models", ICLR 2019). So the scale net
computes with integers only, held in float32 tensors. A mean net may do so, too, because products of integers are fast:

- weights are integers |w| ≤ 127 times 2^-k, with one k per output channel;
- activations are integers 0…255 in units of 1/16, requantised with floor(v + ½) and a clamp;
- for every output channel Σ|w|·a_max + |b| < 2²⁴, checked when a codec file is written and when it is loaded.

Every partial sum is then an integer below 2²⁴ (times a power of two), which float32 holds exactly, so the order of
the additions, the number of threads, the BLAS and the device cannot change it. Depthwise layers are shifted adds and 1×1
layers one matrix product: never a library convolution, which may take the Winograd path.

Training uses the same forward pass with straight-through gradients: what is trained is what is shipped.
"""

from itertools import product
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbatch.codec.runtime.levels import WEIGHT_MAX
from cnnbatch.codec.transforms.integer_kernels import (
    ACTIVATION_MAX,
    ACTIVATION_UNIT,
    EXACT_LIMIT,
    MAX_SHIFT,
    MIN_SHIFT,
    Z_MAX,
    requantised,
)
from cnnbatch.codec.transforms.layers import depth_to_space
from cnnbatch.errors import CodecFileError

INACTIVE_GRADIENT = 0.1
"""Share of the gradient that reaches an activation below zero, so that it can come back."""

_POWERS = torch.tensor([2.0**-k for k in range(MAX_SHIFT + 1)])
"""2^-k by table: a library's exp2 need not be exact."""


def round_half_up(x: Tensor) -> Tensor:
    """floor(x + ½), with the gradient of the identity."""
    if not x.requires_grad:
        return torch.floor(x + 0.5)
    return x + (torch.floor(x.detach() + 0.5) - x.detach())


class Integers(NamedTuple):
    """One layer as a codec file holds it, whole numbers in float tensors."""

    weight: Tensor
    """[outputs, inputs], in units of 2^-k."""
    shift: Tensor
    """[outputs]: k."""
    bias: Tensor
    """[outputs], in units of 2^-k · input_unit."""


class SoftClamp(torch.autograd.Function):
    """Clamps; of the gradient of what lies outside, ``share`` passes where it leads back inside.

    Without this an activation or a scale index that starts below its range never learns.
    """

    @staticmethod
    def forward(context: Any, x: Tensor, low: float, high: float, share: float) -> Tensor:
        """``x`` clamped to [low, high]."""
        context.save_for_backward(x)
        context.low, context.high, context.share = low, high, share
        return x.clamp(low, high)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """Gradient of ``x``; descending it moves ``x`` against its sign."""
        (x,) = context.saved_tensors
        below, above = x < context.low, x > context.high
        leads_back = (below & (gradient < 0)) | (above & (gradient > 0))
        inside = ~(below | above)
        return gradient * (inside + context.share * leads_back), None, None, None


def soft_clamp(x: Tensor, low: float, high: float, *, share: float) -> Tensor:
    """``x`` clamped to [low, high], with the gradient of `SoftClamp`."""
    return cast(Tensor, SoftClamp.apply(x, low, high, share))  # type: ignore[no-untyped-call]


def requantise(x: Tensor) -> Tensor:
    """To the grid of activations: multiples of 1/16 in [0, 255/16]."""
    if compiles(x):  # the same numbers in one pass over memory
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        requantised(x.reshape(-1).numpy(), out.view(-1).numpy())
        return out
    return soft_clamp(round_half_up(x / ACTIVATION_UNIT) * ACTIVATION_UNIT, 0, ACTIVATION_MAX, share=INACTIVE_GRADIENT)


def unit_of(shift: Tensor) -> Tensor:
    """2^-k."""
    return _POWERS.to(shift.device)[shift.long()]


class IntegerLinear(nn.Module):
    """1×1 layer with int8 weights and a power-of-two scale per output channel, rounded anew at every call.

    ``input_unit`` is the size of one integer step of the input (1 for ẑ, 1/16 for activations).
    """

    def __init__(self, inputs: int, outputs: int, *, input_unit: float, input_max: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.input_unit, self.input_max = input_unit, input_max
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def shift(self) -> Tensor:
        """[outputs, 1]: the k of 2^-k, the largest for which every |w|·2^k ≤ 127."""
        largest = self.weight.detach().flatten(1).abs().amax(1).clamp(min=2.0**-20)
        k = torch.floor(torch.log2(WEIGHT_MAX / largest)).clamp(MIN_SHIFT, MAX_SHIFT)
        return k[:, None]

    def quantised(self) -> tuple[Tensor, Tensor]:
        """Weight and bias as the integer net uses them (multiples of 2^-k and of 2^-k · input_unit)."""
        unit = unit_of(self.shift())
        weight = round_half_up(self.weight / unit).clamp(-WEIGHT_MAX, WEIGHT_MAX) * unit
        bias_unit = unit.flatten() * self.input_unit
        return weight, round_half_up(self.bias / bias_unit) * bias_unit

    @torch.no_grad()
    def integers(self) -> Integers:
        """The layer in whole numbers."""
        weight, bias = self.quantised()
        shift = self.shift()
        unit = unit_of(shift)
        return Integers(weight / unit, shift[:, 0], bias / (unit[:, 0] * self.input_unit))

    @torch.no_grad()
    def take(self, integers: Integers) -> None:
        """Sets the weights to what ``integers`` stand for. Raises ValueError for what no layer can have."""
        weight, shift, bias = integers
        if weight.shape != self.weight.shape or shift.shape != bias.shape or bias.shape != self.bias.shape:
            raise ValueError(f"integers of shapes {tuple(weight.shape)}, {tuple(shift.shape)}, {tuple(bias.shape)}")
        if not bool(((shift >= MIN_SHIFT) & (shift <= MAX_SHIFT)).all()):
            raise ValueError(f"shifts outside {MIN_SHIFT}…{MAX_SHIFT}")
        self.check_exact(integers)
        unit = unit_of(shift)
        self.weight.copy_(weight * unit[:, None])
        self.bias.copy_(bias * unit * self.input_unit)

    def check_exact(self, integers: Integers) -> None:
        """Raises CodecFileError if a partial sum could leave the integers that float32 holds exactly."""
        largest = integers.weight.abs().double().sum(1) * (self.input_max / self.input_unit) + integers.bias.abs().double()
        if not bool((largest < EXACT_LIMIT / 2).all()):
            most = f"a sum may reach {largest.max():.0f}, limit {EXACT_LIMIT // 2}"
            raise CodecFileError(f"a layer of integers is not exact: {most}")

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, inputs] → [N, H, W, outputs], exact."""
        return F.linear(x, *self.quantised())


class IntegerDepthwise(IntegerLinear):
    """Depthwise 3×3 layer as nine shifted adds; weights [C, 9]."""

    def __init__(self, channels: int) -> None:
        super().__init__(9, channels, input_unit=ACTIVATION_UNIT, input_max=ACTIVATION_MAX)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] → the same shape, zero padding, exact."""
        return shifted_adds(x, *self.quantised())


def shifted_adds(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The depthwise layer."""
    height, width = x.shape[1:3]
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    total = bias.expand_as(x)
    for tap, (i, j) in enumerate(product(range(3), repeat=2)):
        total = torch.addcmul(total, padded[:, i : i + height, j : j + width], weight[:, tap])
    return total


def compiles(x: Tensor) -> bool:
    """Whether kernels compiled for the CPU take ``x``."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()


class IntegerBlock(nn.Module):
    """Residual block of integers: x + requantise(1×1(requantise(depthwise(x)))), clamped."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = IntegerDepthwise(channels)
        self.pointwise = activation_linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] → the same shape."""
        return requantise(x + self.pointwise(requantise(self.depthwise(x))))


def activation_linear(inputs: int, outputs: int) -> IntegerLinear:
    return IntegerLinear(inputs, outputs, input_unit=ACTIVATION_UNIT, input_max=ACTIVATION_MAX)


class IntegerNet(nn.Module):
    """ẑ [N, H/64, W/64, Cz] → exact multiples of 2^-k/16, [N, H/16, W/16, M]: scale indexes without their offset, or means.

    Trained in floats that are rounded at every step; what is coded with is an `ExactNet` of it, whose numbers are the same.
    """

    def __init__(self, *, hyper_channels: int, width: int, latent_channels: int, blocks: int = 1) -> None:
        """``blocks``: at 1/16 of the resolution."""
        super().__init__()
        self.enter = IntegerLinear(hyper_channels, 4 * width, input_unit=1.0, input_max=Z_MAX)
        self.block_32 = IntegerBlock(width)
        self.grow = activation_linear(width, 4 * width)
        several = (IntegerBlock(width) for _ in range(blocks))
        self.block_16 = nn.Sequential(*several) if blocks > 1 else IntegerBlock(width)
        self.leave = activation_linear(width, latent_channels)

    def forward(self, z_hat: Tensor) -> Tensor:
        """``z_hat`` holds integers in ±127; zero padding at the borders of the tile."""
        with torch.autocast(z_hat.device.type, enabled=False):
            out: Tensor = self.leave(self.features(z_hat))
        return out

    def features(self, z_hat: Tensor) -> Tensor:
        """Inputs of the last layer, [N, H/16, W/16, width]."""
        with torch.autocast(z_hat.device.type, enabled=False):
            x = depth_to_space(requantise(self.enter(z_hat)), 2)
            x = depth_to_space(requantise(self.grow(self.block_32(x))), 2)
            return cast(Tensor, self.block_16(x))

    def check_exact(self) -> None:
        """Raises CodecFileError unless every layer keeps the exactness bound."""
        for layer in self.modules():
            if isinstance(layer, IntegerLinear):
                layer.check_exact(layer.integers())
