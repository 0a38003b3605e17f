"""Layers of the float transforms, on channels-last data.

Shapes: N images, H × W positions, C channels; every tensor is [N, H, W, C] float32. A 1×1 convolution is then one matrix
product over the last axis, which on a CPU is far faster than `torch.nn.Conv2d` with a 1×1 kernel.
"""

import math
from typing import Annotated, cast

import numba
import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn import functional as F

NUM_ANCHORS = 8
"""Anchors of a `QualityCurve` over quality 0…63, nine steps apart."""


def space_to_depth(x: Tensor, factor: int) -> Tensor:
    """[N, H, W, C] → [N, H/f, W/f, f·f·C]; H and W are multiples of ``factor``."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // factor, factor, w // factor, factor, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(n, h // factor, w // factor, factor * factor * c)


def depth_to_space(x: Tensor, factor: int) -> Tensor:
    """[N, H, W, f·f·C] → [N, H·f, W·f, C]; the inverse of `space_to_depth`."""
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, factor, factor, c // factor**2)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(n, h * factor, w * factor, c // factor**2)


def neighbours(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[N, H, W, C] → four of that shape: what lies left, above, above left and above right; zero beyond the border."""
    around = F.pad(x, (0, 0, 1, 1, 1, 0))
    return around[:, 1:, :-2], around[:, :-1, 1:-1], around[:, :-1, :-2], around[:, :-1, 2:]


def asinh(x: Tensor) -> Tensor:
    """asinh(x) within 10⁻⁷ of it or of 1, whichever is more, from what compilers vectorise: five times faster on a CPU than
    torch's own, and without gradients twenty times."""
    if x.device.type == "cpu" and not torch.is_grad_enabled():
        return _compiled_asinh(x, parts=1)
    magnitude = x.abs()
    square = magnitude * magnitude
    return torch.copysign(torch.log1p(magnitude + square / (1 + torch.sqrt(1 + square))), x)


def asinh_and_magnitude(x: Tensor) -> Tensor:
    """[…, C] → […, 2·C]: asinh(x), then its magnitude; in bf16 where autocast will want that."""
    if x.device.type == "cpu" and not torch.is_grad_enabled():
        return _compiled_asinh(x, parts=2, dtype=torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
    level = asinh(x)
    return torch.cat([level, level.abs()], -1)


def _compiled_asinh(x: Tensor, *, parts: int, dtype: torch.dtype | None = None) -> Tensor:
    values, dtype = x.float().contiguous(), x.dtype if dtype is None else dtype
    size = (*x.shape[:-1], parts * x.shape[-1])
    found = torch.empty(size, dtype=torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    rows = values.view(-1, x.shape[-1]).numpy()
    none = np.empty((0, 0), np.uint16), np.empty((0, 0), np.float32)
    if found.dtype == torch.bfloat16:
        _asinh(rows, none[1], found.view(torch.int16).numpy().view(np.uint16).reshape(len(rows), -1))
    else:
        _asinh(rows, found.view(len(rows), -1).numpy(), none[0])
    return found.to(dtype)


@numba.njit(nogil=True, cache=True)
def bf16_bits(word):  # type: ignore[no-untyped-def]
    """The word of a float32 to that of the nearest bfloat16, of two equally near ones to the even one."""
    return (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def _asinh(values, exact, bits):  # type: ignore[no-untyped-def]
    """log(|x| + √(x² + 1)) by exponent and polynomial (logf of Cephes, Moshier 1992), row by row, into ``exact`` or, if that is
    empty, into ``bits`` of bfloat16; once more without its sign where rows there are twice as long."""
    rows, columns = values.shape
    line = np.empty(2 * columns, np.float32)
    bits_of, one, half = line.view(np.int32), np.float32(1), np.float32(0.5)
    for row in range(rows):
        for i in range(columns):
            x = values[row, i]
            line[i] = abs(x) + np.sqrt(x * x + one)
        for i in range(columns):
            word = bits_of[i] - 0x3F3504F3  # √½: mantissas from √½ to √2
            exponent = np.float32(word >> 23)
            bits_of[i] = (word & 0x7FFFFF) + 0x3F3504F3
            f = line[i] - one
            z = f * f
            p = np.float32(7.0376836292e-2) * f - np.float32(1.1514610310e-1)
            p = p * f + np.float32(1.1676998740e-1)
            p = p * f - np.float32(1.2420140846e-1)
            p = p * f + np.float32(1.4249322787e-1)
            p = p * f - np.float32(1.6668057665e-1)
            p = p * f + np.float32(2.0000714765e-1)
            p = p * f - np.float32(2.4999993993e-1)
            p = p * f + np.float32(3.3333331174e-1)
            log = f + (f * z * p - half * z + exponent * np.float32(0.69314718056))
            line[i] = np.copysign(log, values[row, i])
        for i in range(columns):
            line[columns + i] = abs(line[i])
        if exact.size:
            for i in range(exact.shape[1]):
                exact[row, i] = line[i]
        else:
            for i in range(bits.shape[1]):
                bits[row, i] = bf16_bits(np.uint32(bits_of[i]))


class QualityCurve(nn.Module):
    """One learned number per channel and quality: linear between `NUM_ANCHORS` anchors over quality 0…63."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.anchors = nn.Parameter(torch.zeros(NUM_ANCHORS, channels))

    def forward(self, quality: Tensor) -> Tensor:
        """``quality`` [N] in [0, 63] → [N, 1, 1, C]."""
        with torch.autocast(quality.device.type, enabled=False):
            return (interpolation_weights(quality) @ self.anchors)[:, None, None, :]


def interpolation_weights(quality: Tensor) -> Tensor:
    """[N] in [0, 63] → [N, NUM_ANCHORS]: weights of the two nearest anchors, zero elsewhere."""
    position = quality * ((NUM_ANCHORS - 1) / 63.0)
    anchors = torch.arange(NUM_ANCHORS, device=quality.device, dtype=quality.dtype)
    return (1 - (position[:, None] - anchors).abs()).clamp(min=0)


def lmbda_at(quality: Tensor, limits: tuple[float, float]) -> Tensor:
    """λ(q) of loss = λ·MSE + bits per pixel, MSE over grey levels 0…255: log-linear in q between its ``limits`` at 0 and 63."""
    low, high = (math.log(v) for v in limits)
    return torch.exp(low + (high - low) / 63.0 * quality)


def high_rate_step(lmbda: Tensor) -> Tensor:
    """Δ in grey levels of an orthonormal transform: the high-rate optimum √(18/(λ ln 2))."""
    return torch.sqrt(18 / (math.log(2) * lmbda))


def _spread(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    if high < 2 * low:
        raise ValueError(f"scales from {low} to {high}: the largest must be at least twice the smallest")
    return limits


Positive = Annotated[float, Field(gt=0, le=1e6)]
ScaleRange = Annotated[tuple[Positive, Positive], AfterValidator(_spread)]
"""The smallest and the largest scale, in quantisation steps, that a scale index can say."""


def log_spaced(limits: tuple[float, float], count: int) -> Tensor:
    """[count] float64, both limits included."""
    low, high = (math.log(v) for v in limits)
    return torch.exp(torch.linspace(low, high, count, dtype=torch.float64))


class FullPrecisionLinear(nn.Linear):
    """1×1 layer that stays in float32 under autocast: the bypass carries values of hundreds of quantisation steps."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] → [..., outputs]."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight, self.bias)


class Block(nn.Module):
    """Residual block: depthwise 3×3 → 1×1 C→2C → hard swish → 1×1 2C→C.

    The last layer starts at zero, so that a new block is the identity (cf. the depth-convolution blocks of DCVC-RT,
    arXiv 2502.20762).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.expand = nn.Linear(channels, 2 * channels)
        self.project = nn.Linear(2 * channels, channels)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] → the same shape."""
        hidden = self.expand(self.filtered(x))
        return x + cast(Tensor, self.project(hardswish(hidden)))

    def filtered(self, x: Tensor) -> Tensor:
        """What the depthwise layer makes of ``x``."""
        return cast(Tensor, self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def blocks(channels: int, count: int) -> nn.Sequential:
    """``count`` blocks of ``channels`` in a row."""
    return nn.Sequential(*(Block(channels) for _ in range(count)))


def hardswish(x: Tensor) -> Tensor:
    """x · min(max(x + 3, 0), 6) / 6, in ``x`` itself where no gradient needs it: nearly a GELU, several times cheaper."""
    return F.hardswish(x, inplace=not x.requires_grad)


class BorderFilter(nn.Module):
    """What makes a block transform a lapped one: a 16-tap matrix across every border between blocks, in both directions.

    Before the blocks of the analysis it takes away what two neighbours share, after those of the synthesis its inverse
    smooths their border (time-domain lapped transform: Tran, Liang, Tu, IEEE Trans. Signal Processing 51(6), 2003, section
    IV). Both start from the published filters and learn apart. The edge of the picture is left as it is.
    """

    def __init__(self, *, inverse: bool) -> None:
        super().__init__()
        matrix = lapping_matrix(2 * self.REACH)
        self.weight = nn.Parameter((torch.linalg.inv(matrix) if inverse else matrix).float().contiguous())

    REACH = 8
    """Pixels on either side of a border: filters of neighbouring borders meet and do not overlap."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, 3] float32, H and W multiples of 16 → the same shape."""
        with torch.autocast(x.device.type, enabled=False):
            return self._across_columns(self._across_rows(x))

    def _across_rows(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        first, inner, last = torch.split(x, [self.REACH, h - 2 * self.REACH, self.REACH], 1)  # one gradient for all three
        inner = (self.weight @ inner.reshape(n, -1, 2 * self.REACH, w * c)).reshape(n, -1, w, c)
        return torch.cat([first, inner, last], 1)

    def _across_columns(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        kernel = torch.kron(self.weight, torch.eye(c, device=x.device))  # the colours of a row lie side by side
        edge = c * self.REACH
        first, inner, last = torch.split(x.reshape(n, h, w * c), [edge, w * c - 2 * edge, edge], 2)
        inner = F.linear(inner.reshape(n, h, -1, 2 * edge), kernel).reshape(n, h, -1)
        return torch.cat([first, inner, last], 2).reshape(n, h, w, c)


LAPPING_SCALE = 1.4
"""Of the first odd component: the best coding gain for 16 taps and a correlation of 0.95 between neighbours (9.93 dB where
plain blocks have 9.46), by numerical search."""


def lapping_matrix(taps: int) -> Tensor:
    """[taps, taps] float64, the pre-filter of type III in Tran, Liang, Tu (2003): rows are outputs.

    On the CPU even under the device ``meta``, where `torch.eye` imports torch's compiler: two seconds of a process's start.
    """
    half = taps // 2
    one = np.eye(half)
    flip, k = one[::-1], np.arange(half)[:, None]
    dct_2 = (2 / half) ** 0.5 * np.cos(math.pi * k * (2 * k.T + 1) / (2 * half))
    dct_2[0] /= 2**0.5
    dct_4 = (2 / half) ** 0.5 * np.cos(math.pi * (2 * k + 1) * (2 * k.T + 1) / (4 * half))
    scale = np.ones(half)
    scale[0] = LAPPING_SCALE
    odd = flip @ dct_2.T @ np.diag(scale) @ dct_4 @ flip
    butterfly = np.block([[one, flip], [flip, -one]]) / 2**0.5
    zero = np.zeros_like(one)
    return torch.from_numpy(butterfly @ np.block([[one, zero], [zero, odd]]) @ butterfly)


@torch.no_grad()
def keep_variance(module: nn.Module, gain: float = 1.0) -> None:
    """Starts every 1×1 layer below ``module`` with outputs as large as its inputs, depthwise layers near the identity.

    With torch's own initialisation each layer shrinks its input to a third or a half: the activations then work where they
    are straight lines, and the network learns nothing that a linear one would not. Layers that start at zero stay so.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and bool(layer.weight.any()):
            nn.init.normal_(layer.weight, std=gain / layer.in_features**0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.2)
            layer.weight[:, :, 1, 1] += 0.8
            nn.init.zeros_(cast(Tensor, layer.bias))
