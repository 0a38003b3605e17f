"""The adaptive filter of `cnnbatch.codec.adaptive_filter.kernels` in torch, on any device.

Shapes: N pictures of H × W pixels; pictures are [N, H, W, 3] float32 in grey levels, weights [N, 3, FEATURES].
"""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnbatch.codec.adaptive_filter.kernels import CONSTANT, LIMITS, PAIRS, REACH

ROWS_AT_ONCE: Final = 16


def filtered(picture: Tensor, weights: Tensor, step: Tensor) -> Tensor:
    """``step`` [N]: Δ(q) → filtered pictures, neither rounded nor clamped."""
    padded = surrounded(picture)
    parts = []
    for top in range(0, picture.shape[1], ROWS_AT_ONCE):
        rows = padded[:, :, top : top + ROWS_AT_ONCE + 2 * REACH]
        change = torch.einsum("nckhw,nck->nchw", features(rows, step), weights)
        parts.append(middle(rows, 0, 0) + change)
    return torch.cat(parts, 2).permute(0, 2, 3, 1)


def surrounded(picture: Tensor) -> Tensor:
    """[N, H, W, 3] → planes [N, 3, H + 2·REACH, W + 2·REACH]: the last pixels are repeated beyond the edge."""
    return F.pad(picture.permute(0, 3, 1, 2), (REACH,) * 4, mode="replicate")


def features(rows: Tensor, step: Tensor) -> Tensor:
    """[N, 3, h + 2·REACH, w + 2·REACH] → [N, 3, FEATURES, h, w]."""
    x = middle(rows, 0, 0)
    differences = [[middle(rows, s * int(r), s * int(c)) - x for s in (-1, 1)] for r, c in PAIRS]
    found = []
    for limit in LIMITS:
        most = (limit * step)[:, None, None, None]
        found += [a.clamp(-most, most) + b.clamp(-most, most) for a, b in differences]
    inner = F.avg_pool2d(rows, 3, 1)[:, :, 1:-1, 1:-1]
    shared = [*(9 * (inner - x)).unbind(1), x[:, 0] - x[:, 1], x[:, 2] - x[:, 1], torch.full_like(x[:, 0], CONSTANT)]
    found += [part[:, None].expand_as(x) for part in shared]
    return torch.stack(found, 2)


def middle(rows: Tensor, down: int, right: int) -> Tensor:
    """[…, h + 2·REACH, w + 2·REACH] → […, h, w], moved by so many rows and columns."""
    h, w = rows.shape[-2] - 2 * REACH, rows.shape[-1] - 2 * REACH
    return rows[..., REACH + down : REACH + down + h, REACH + right : REACH + right + w]
