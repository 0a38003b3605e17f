"""Steps on planes of pixels that measures of pictures share, in torch, on any device and with gradients."""

import torch
from torch import Tensor
from torch.nn import functional as F


def linear(picture: Tensor) -> Tensor:
    """sRGB 0…255 → linear light 0…1; what lies outside is clamped."""
    v = picture.clamp(0, 255) / 255
    return torch.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def halved(x: Tensor) -> Tensor:
    """Means of 2 × 2; the last row and column are repeated where their number is odd."""
    h, w = x.shape[-2:]
    if h % 2 or w % 2:
        x = F.pad(x, (0, w % 2, 0, h % 2), mode="replicate")
    return F.avg_pool2d(x, 2)


def blurred(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Planes [..., H, W] times banded matrices [H, H] and [W, W]: in training several times faster than convolutions.

    ``across`` has a row per blurred pixel, as ``down`` has.
    """
    h, w = x.shape[-2:]
    rows = (x.reshape(-1, w) @ across.T).view(-1, h, w)
    return torch.bmm(down.expand(len(rows), h, h), rows).view(x.shape)
