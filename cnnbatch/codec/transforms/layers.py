"""Layers of the float transforms, on channels-last data.

Shapes: N images, H × W positions, C channels; every tensor is [N, H, W, C] float32. A 1×1 convolution is then one matrix
product over the last axis, which on a CPU is far faster than `torch.nn.Conv2d` with a 1×1 kernel.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
        """Applies the depthwise layer to ``x``."""
        return cast(Tensor, self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def blocks(channels: int, count: int) -> nn.Sequential:
    """``count`` blocks of ``channels`` in a row."""
    return nn.Sequential(*(Block(channels) for _ in range(count)))


def hardswish(x: Tensor) -> Tensor:
    """x · min(max(x + 3, 0), 6) / 6, in ``x`` itself where no gradient needs it: nearly a GELU, several times cheaper."""
    return F.hardswish(x, inplace=not x.requires_grad)


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
